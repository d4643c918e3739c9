//! Attaching containers, as they and their neighbours see it.

use std::process::Command;
use std::time::Instant;

use mesh_hostnet::{HostError, Netns, attach, attachments, detach, interfaces_of, set_mtu};

use crate::support::{
    Snapshot, addresses, bridge, error_of, eventually, has_link, ifname, ip, ip_json, link, new_container,
    new_netns, on_a_host, ping, set_sysctl, spec, sysctl,
};

#[test]
fn containers_of_one_bridge_reach_each_other_by_ipv4_and_ipv6() {
    on_a_host(|| {
        let bridge = bridge();
        let (a, b) = (new_container(), new_container());
        attach(&bridge, &a, &spec(&["10.32.0.1/12", "fd00::1/64"])).unwrap();
        attach(&bridge, &b, &spec(&["10.32.0.2/12", "fd00::2/64"])).unwrap();
        for to in ["10.32.0.2", "fd00::2"] {
            ping(&a, to);
        }
        for to in ["10.32.0.1", "fd00::1"] {
            ping(&b, to);
        }
    });
}

#[test]
fn tells_and_sets_what_was_asked_for() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let attachment = attach(&bridge, &container, &spec(&["10.32.0.1/12", "10.32.0.9/12"])).unwrap();
        assert_eq!(attachment.interface, ifname());
        assert_eq!(attachment.addresses, spec(&["10.32.0.1/12", "10.32.0.9/12"]).addresses);
        assert_eq!(attachments(&bridge).unwrap(), [attachment.host_interface.as_str()]);

        let host_end = link(attachment.host_interface.as_str());
        assert_eq!(host_end["master"], "mesh0");
        assert_eq!(host_end["ifalias"], "mesh container");
        assert_eq!(host_end["mtu"], 1370);
        assert_eq!(sysctl(&format!("ipv6/conf/{}/disable_ipv6", attachment.host_interface)), "1");

        container
            .run(|| {
                let inner = link("ethmesh");
                assert_eq!(inner["mtu"], 1370);
                assert_eq!(inner["address"], attachment.mac.to_string());
                assert_eq!(addresses("ethmesh"), ["10.32.0.1/12", "10.32.0.9/12"]);
                assert_eq!(sysctl("ipv4/conf/ethmesh/arp_notify"), "1");
                assert_eq!(ip_json("route show 224.0.0.0/4")[0]["dev"], "ethmesh");
                assert!(ip("address show dev ethmesh").contains("brd 10.47.255.255"));
            })
            .unwrap();
    });
}

#[test]
fn attaching_again_changes_nothing() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let spec = spec(&["10.32.0.1/12", "fd00::1/64"]);
        let first = attach(&bridge, &container, &spec).unwrap();
        eventually("the container's link-local address is ready", || {
            container.run(|| !ip("address show dev ethmesh").contains("tentative")).unwrap()
        });
        let (outside, inside) = (Snapshot::take(), container.run(Snapshot::take).unwrap());
        assert_eq!(attach(&bridge, &container, &spec).unwrap(), first);
        outside.assert_restored();
        container.run(|| inside.assert_restored()).unwrap();
    });
}

#[test]
fn attaching_again_adds_the_addresses_that_are_missing() {
    on_a_host(|| {
        let bridge = bridge();
        let (container, other) = (new_container(), new_container());
        let first = attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        let second =
            attach(&bridge, &container, &spec(&["10.32.0.1/12", "10.48.0.1/16", "fd00::1/64"])).unwrap();
        assert_eq!((first.mac, first.host_interface), (second.mac, second.host_interface));
        assert_eq!(second.addresses, spec(&["10.32.0.1/12", "10.48.0.1/16", "fd00::1/64"]).addresses);
        attach(&bridge, &other, &spec(&["10.48.0.2/16"])).unwrap();
        ping(&other, "10.48.0.1");
    });
}

#[test]
fn attaching_again_repairs_what_was_taken_away() {
    on_a_host(|| {
        let first = bridge();
        let (a, b) = (new_container(), new_container());
        let host_end = attach(&first, &a, &spec(&["10.32.0.1/12"])).unwrap().host_interface;
        ip("link delete mesh0");
        let second = bridge();
        a.run(|| ip("link set ethmesh down")).unwrap();
        attach(&second, &a, &spec(&["10.32.0.1/12"])).unwrap();
        attach(&second, &b, &spec(&["10.32.0.2/12"])).unwrap();
        assert_eq!(link(host_end.as_str())["master"], "mesh0");
        ping(&b, "10.32.0.1");
        assert_eq!(a.run(|| ip_json("route show 224.0.0.0/4")[0]["dev"].clone()).unwrap(), "ethmesh");
    });
}

#[test]
fn a_neighbour_learns_at_once_that_an_address_has_moved() {
    on_a_host(|| {
        let bridge = bridge();
        let (neighbour, old, new) = (new_container(), new_container(), new_container());
        attach(&bridge, &neighbour, &spec(&["10.32.0.1/12", "fd00::1/64"])).unwrap();
        let moving = spec(&["10.32.0.2/12", "fd00::2/64"]);
        attach(&bridge, &old, &moving).unwrap();
        ping(&neighbour, "10.32.0.2");
        ping(&neighbour, "fd00::2");
        detach(&bridge, &old, &ifname(), &[]).unwrap();
        let mac = attach(&bridge, &new, &moving).unwrap().mac.to_string();
        for (family, address) in [(4, "10.32.0.2"), (6, "fd00::2")] {
            let knows = || {
                neighbour.run(|| ip(&format!("-{family} neighbour show {address}")).contains(&mac)).unwrap()
            };
            eventually("the neighbour knows the new MAC without asking", knows);
        }
    });
}

#[test]
fn leaves_a_multicast_route_that_the_container_has() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        container.run(|| ip("route add 224.0.0.0/4 dev lo")).unwrap();
        attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        let routes = container.run(|| ip_json("route show 224.0.0.0/4")).unwrap();
        assert_eq!(routes.as_array().unwrap().len(), 1);
        assert_eq!(routes[0]["dev"], "lo");
    });
}

#[test]
fn adds_no_multicast_route_when_none_is_wanted() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let mut spec = spec(&["10.32.0.1/12"]);
        spec.multicast_route = false;
        attach(&bridge, &container, &spec).unwrap();
        assert_eq!(container.run(|| ip("route show 224.0.0.0/4")).unwrap().trim(), "");
    });
}

#[test]
fn brings_up_lo_of_a_bare_namespace() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_netns();
        attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        ping(&container, "127.0.0.1");
    });
}

#[test]
fn attaches_without_ipv6_in_the_container() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        container.run(|| set_sysctl("ipv6/conf/all/disable_ipv6", "1")).unwrap();
        attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        let inside = container.run(Snapshot::take).unwrap();
        let error = error_of(attach(&bridge, &container, &spec(&["10.32.0.1/12", "fd00::1/64"])));
        assert!(matches!(error, HostError::Ipv6Off { .. }), "{error}");
        container.run(|| inside.assert_restored()).unwrap();
    });
}

#[test]
fn attaches_with_an_mtu_below_the_least_of_ipv6() {
    on_a_host(|| {
        let bridge = set_mtu(&bridge(), 1200).unwrap();
        let container = new_container();
        let mut spec = spec(&["10.32.0.1/12"]);
        spec.mtu = 1200;
        attach(&bridge, &container, &spec).unwrap();
        assert_eq!(container.run(|| link("ethmesh")["mtu"].clone()).unwrap(), 1200);
    });
}

#[test]
fn two_interfaces_of_one_container_are_two_attachments() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let mut other = spec(&["10.48.0.1/16"]);
        other.ifname = "ethmesh1".parse().unwrap();
        let first = attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        let second = attach(&bridge, &container, &other).unwrap();
        assert_ne!(first.host_interface, second.host_interface);
        container.run(|| ip("link add eth9 type veth peer name eth10")).unwrap();
        assert_eq!(interfaces_of(&bridge, &container).unwrap(), [ifname(), other.ifname.clone()]);
        detach(&bridge, &container, &ifname(), &[]).unwrap();
        assert_eq!(attachments(&bridge).unwrap(), [second.host_interface.as_str()]);
        assert_eq!(interfaces_of(&bridge, &container).unwrap(), [other.ifname]);
    });
}

#[test]
fn takes_over_a_pair_that_was_never_finished() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let host_end = attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap().host_interface;
        // As a router leaves it that is killed right after making the pair.
        ip(&format!("link set {host_end} nomaster down"));
        container.run(|| ip("link set ethmesh down")).unwrap();
        let unmark = ["link", "set", host_end.as_str(), "alias", ""];
        assert!(Command::new("ip").args(unmark).status().unwrap().success());
        assert_eq!(attachments(&bridge).unwrap(), [""; 0]);
        attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        assert_eq!(attachments(&bridge).unwrap(), [host_end.as_str()]);
    });
}

#[test]
fn the_port_goes_with_the_containers_namespace() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let host_end = attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap().host_interface;
        drop(container);
        eventually("the host end is gone", || !has_link(host_end.as_str()));
        assert_eq!(attachments(&bridge).unwrap(), [""; 0]);
    });
}

#[test]
fn refuses_the_routers_own_namespace() {
    on_a_host(|| {
        let bridge = bridge();
        let before = Snapshot::take();
        let error = error_of(attach(&bridge, &Netns::current().unwrap(), &spec(&["10.32.0.1/12"])));
        assert!(matches!(error, HostError::OwnNamespace), "{error}");
        before.assert_restored();
    });
}

#[test]
fn prints_how_long_an_attachment_takes() {
    const ROUNDS: u32 = 20;
    on_a_host(|| {
        let bridge = bridge();
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let container = new_container();
            let spec = spec(&[&format!("10.32.0.{}/12", round + 1), &format!("fd00::{}/64", round + 1)]);
            let start = Instant::now();
            attach(&bridge, &container, &spec).unwrap();
            times.push(start.elapsed());
        }
        times.sort_unstable();
        println!(
            "attach: median {:?}, worst {:?} of {ROUNDS}",
            times[times.len() / 2],
            times[times.len() - 1]
        );
    });
}
