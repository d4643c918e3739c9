//! The firewall against the real nftables: what it lets through, and that it comes back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use mesh_hostnet::{
    Exposure, Firewall, FirewallState, Netns, PortGuard, SealedTunnel, Tunnel, Wall, remove_all,
};

use crate::support::*;

fn firewall() -> (mesh_hostnet::Bridge, Firewall) {
    let bridge = bridge();
    let firewall = Firewall::start(&bridge, BTreeSet::from([6783])).unwrap();
    assert_eq!(firewall.state(), FirewallState::Up);
    (bridge, firewall)
}

/// What nftables has, without what changes by itself.
fn ruleset() -> String {
    let output = run("nft -s list ruleset");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    // How fast each port may send is measured by elements that frames make, and that time takes away.
    let lasts = |line: &&str| !(line.contains("\"mv") && line.contains("limit rate over"));
    let text = without_friends(&text);
    text.lines().filter(lasts).map(|line| format!("{}\n", line.replace("elements = {  }", ""))).collect()
}

/// Which MACs belong to a set of subnets is learnt from frames, too.
fn without_friends(text: &str) -> String {
    let mut kept = String::new();
    let mut is_learnt = false;
    for line in text.lines() {
        is_learnt |= line.contains("set friends_");
        if !is_learnt || !line.contains(':') {
            kept.push_str(line);
            kept.push('\n');
        }
        is_learnt &= !line.ends_with("\t}");
    }
    kept
}

fn is_reached(from: &Netns, to: &str) -> bool {
    from.run(|| run(&format!("ping -n -c 1 -W 1 {to}"))).unwrap().status.success()
}

#[test]
fn containers_of_one_subnet_reach_each_other_and_those_of_another_do_not() {
    let (a, b, c) = (new_container(), new_container(), new_container());
    on_a_host(|| {
        let (bridge, firewall) = firewall();
        firewall.attach(&bridge, &a, &spec(&["10.32.1.1/24", "fd00:1::1/64"])).unwrap();
        firewall.attach(&bridge, &b, &spec(&["10.32.1.2/24", "fd00:1::2/64"])).unwrap();
        firewall.attach(&bridge, &c, &spec(&["10.32.2.1/24", "fd00:2::1/64"])).unwrap();
        ping(&a, "10.32.1.2");
        ping(&a, "fd00:1::2");
        // Routes of its own bring it no further.
        a.run(|| ip("route add 10.32.2.0/24 dev ethmesh")).unwrap();
        c.run(|| ip("route add 10.32.1.0/24 dev ethmesh")).unwrap();
        assert!(!is_reached(&a, "10.32.2.1"));
        a.run(|| ip("route add fd00:2::/64 dev ethmesh")).unwrap();
        c.run(|| ip("route add fd00:1::/64 dev ethmesh")).unwrap();
        assert!(!is_reached(&a, "fd00:2::1"));
        assert!(firewall.drops()[&Wall::OtherSubnet] > 0);
        assert_eq!(firewall.drops()[&Wall::SourceAddress], 0);
    });
}

#[test]
fn a_container_sends_from_nothing_but_what_it_was_given() {
    let (a, b) = (new_container(), new_container());
    on_a_host(|| {
        let (bridge, firewall) = firewall();
        firewall.attach(&bridge, &a, &spec(&["10.32.1.1/24"])).unwrap();
        firewall.attach(&bridge, &b, &spec(&["10.32.1.2/24"])).unwrap();
        ping(&a, "10.32.1.2");
        a.run(|| ip("address add 10.32.1.3/24 dev ethmesh")).unwrap();
        assert!(!is_reached(&a, "-I 10.32.1.3 10.32.1.2"));
        assert!(firewall.drops()[&Wall::SourceAddress] + firewall.drops()[&Wall::ArpSender] > 0);
        // What it gave itself is not what it was given, also when it is attached again.
        firewall.attach(&bridge, &a, &spec(&["10.32.1.1/24"])).unwrap();
        assert!(!is_reached(&a, "-I 10.32.1.3 10.32.1.2"));
        firewall.attach(&bridge, &a, &spec(&["10.32.1.3/24"])).unwrap();
        ping(&a, "-I 10.32.1.3 10.32.1.2");
        firewall.detach(&bridge, &a, &ifname(), &["10.32.1.3/24".parse().unwrap()]).unwrap();
        a.run(|| ip("address add 10.32.1.3/24 dev ethmesh")).unwrap();
        assert!(!is_reached(&a, "-I 10.32.1.3 10.32.1.2"));
        a.run(|| ip("link set ethmesh address 02:00:00:00:00:77")).unwrap();
        assert!(!is_reached(&a, "10.32.1.2"));
        assert!(firewall.drops()[&Wall::SourceMac] > 0);
    });
}

#[test]
fn is_back_after_a_flush_with_all_that_it_had() {
    let a = new_container();
    on_a_host(|| {
        let (bridge, firewall) = firewall();
        firewall.attach(&bridge, &a, &spec(&["10.32.1.1/24", "fd00:1::1/64"])).unwrap();
        let exposed = [("10.32.1.9/24", true), ("10.32.2.9/24", true), ("fd00:1::9/64", false)];
        firewall.set_exposed(
            exposed
                .map(|(address, masquerade)| Exposure { address: address.parse().unwrap(), masquerade })
                .into(),
        );
        let sources = ["192.0.2.1", "2001:db8::1"].map(|source| source.parse().unwrap()).into();
        let sealed = Some(SealedTunnel {
            port: 6786,
            address: Ipv4Addr::new(240, 0, 0, 1),
            only_at: Some((6785, IpAddr::from([192, 0, 2, 1]))),
        });
        firewall.set_tunnel(Some(Tunnel { port: 6784, sources, sealed }));
        let before = ruleset();
        for command in [
            "nft flush ruleset",
            "nft delete table inet mesh_mesh0",
            "nft flush chain bridge mesh_mesh0 prerouting",
            "nft flush set bridge mesh_mesh0 sources4",
        ] {
            assert!(run(command).status.success(), "{command}");
            eventually("the firewall is back", || ruleset() == before);
        }
        assert_eq!(firewall.state(), FirewallState::Up);
    });
}

#[test]
fn whatever_is_dropped_is_counted_by_its_reason() {
    let a = new_container();
    on_a_host(|| {
        let (bridge, firewall) = firewall();
        firewall.attach(&bridge, &a, &spec(&["10.32.1.1/24", "fd00:1::1/64"])).unwrap();
        let exposed = ["10.32.1.9/24", "fd00:1::9/64"]
            .map(|address| Exposure { address: address.parse().unwrap(), masquerade: true });
        firewall.set_exposed(exposed.into());
        let sealed = Some(SealedTunnel { port: 6786, address: Ipv4Addr::new(240, 0, 0, 1), only_at: None });
        let sources = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        firewall.set_tunnel(Some(Tunnel { port: 6784, sources, sealed }));
        let text = ruleset();
        let dropping: Vec<_> = text.lines().filter(|line| line.contains("drop")).collect();
        assert!(dropping.len() > 20, "{text}");
        for line in &dropping {
            assert!(line.contains("counter name") && line.ends_with(" drop"), "{line}");
        }
        for wall in Wall::ALL {
            let counter = format!("counter name \"{}\" drop", wall.name());
            assert!(text.contains(&counter), "nothing is dropped as {}", wall.name());
            assert!(firewall.drops().contains_key(&wall));
        }
    });
}

#[test]
fn what_comes_and_goes_leaves_nothing_behind() {
    let (a, b) = (new_container(), new_container());
    on_a_host(|| {
        let (bridge, firewall) = firewall();
        let empty = ruleset();
        firewall.attach(&bridge, &a, &spec(&["10.32.1.1/24"])).unwrap();
        let one = ruleset();
        firewall.attach(&bridge, &b, &spec(&["10.32.1.2/24"])).unwrap();
        firewall.detach(&bridge, &b, &ifname(), &[]).unwrap();
        assert_eq!(ruleset(), one);
        firewall.detach(&bridge, &a, &ifname(), &[]).unwrap();
        assert_eq!(ruleset(), empty);
        drop(firewall);
        assert_eq!(ruleset(), empty, "it outlives the router");
        remove_all(&bridge.name).unwrap();
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn a_later_life_takes_over_the_guards_of_ports_that_are_still_there() {
    let (a, b) = (new_container(), new_container());
    on_a_host(|| {
        let (bridge, firewall) = firewall();
        firewall.attach(&bridge, &a, &spec(&["10.32.1.1/24", "fd00:1::1/64"])).unwrap();
        let guards = firewall.guards();
        firewall.attach(&bridge, &b, &spec(&["10.32.1.2/24"])).unwrap();
        drop(firewall);
        mesh_hostnet::detach(&bridge, &b, &ifname(), &[]).unwrap();
        let (_, firewall) = self::firewall();
        assert_eq!(firewall.guards(), guards);
    });
}

#[test]
fn tables_of_others_are_left_alone() {
    on_a_host(|| {
        assert!(run("nft add table inet other").status.success());
        assert!(
            run("nft add chain inet other input { type filter hook input priority 5 ; }").status.success()
        );
        let before = ruleset();
        let (bridge, firewall) = firewall();
        firewall.guard(
            &"mv0".parse().unwrap(),
            PortGuard { mac: bridge.mac, addresses: BTreeSet::from(["10.32.0.1/12".parse().unwrap()]) },
        );
        drop(firewall);
        remove_all(&bridge.name).unwrap();
        assert_eq!(ruleset(), before);
    });
}
