//! Detaching single addresses, and whole containers.

use ipnet::IpNet;
use mesh_hostnet::{HostError, attach, attachments, detach};

use crate::support::{
    Snapshot, addresses, bridge, error_of, has_link, ifname, ip, new_container, on_a_host, ping, spec,
};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    spec(texts).addresses
}

#[test]
fn removes_one_address_and_leaves_the_others_of_its_subnet() {
    on_a_host(|| {
        let bridge = bridge();
        let (container, other) = (new_container(), new_container());
        attach(&bridge, &other, &spec(&["10.32.0.9/12"])).unwrap();
        attach(&bridge, &container, &spec(&["10.32.0.1/12", "10.32.0.2/12", "10.32.0.3/12"])).unwrap();
        // The first address of a subnet is the kernel's primary one; the others would go with it by default.
        let removed = detach(&bridge, &container, &ifname(), &nets(&["10.32.0.1/12"])).unwrap();
        assert_eq!(removed, nets(&["10.32.0.1/12"]));
        assert_eq!(container.run(|| addresses("ethmesh")).unwrap(), ["10.32.0.2/12", "10.32.0.3/12"]);
        ping(&other, "10.32.0.3");
    });
}

#[test]
fn the_last_address_takes_the_interface_with_it() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let (outside, inside) = (Snapshot::take(), container.run(Snapshot::take).unwrap());
        attach(&bridge, &container, &spec(&["10.32.0.1/12", "fd00::1/64"])).unwrap();
        detach(&bridge, &container, &ifname(), &nets(&["10.32.0.1/12"])).unwrap();
        assert!(container.run(|| has_link("ethmesh")).unwrap());
        detach(&bridge, &container, &ifname(), &nets(&["fd00::1/64"])).unwrap();
        assert_eq!(attachments(&bridge).unwrap(), [""; 0]);
        outside.assert_restored();
        container.run(|| inside.assert_restored()).unwrap();
    });
}

#[test]
fn an_empty_list_means_all_addresses() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let all = ["10.32.0.1/12", "10.48.0.1/16", "fd00::1/64"];
        attach(&bridge, &container, &spec(&all)).unwrap();
        assert_eq!(detach(&bridge, &container, &ifname(), &[]).unwrap(), nets(&all));
        assert!(!container.run(|| has_link("ethmesh")).unwrap());
    });
}

#[test]
fn refuses_a_container_that_is_not_attached() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let error = error_of(detach(&bridge, &container, &ifname(), &[]));
        assert!(matches!(error, HostError::NotAttached { .. }), "{error}");
    });
}

#[test]
fn leaves_alone_an_interface_that_is_not_ours() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        container.run(|| ip("tuntap add dev ethmesh mode tap")).unwrap();
        let error = error_of(detach(&bridge, &container, &ifname(), &[]));
        assert!(matches!(error, HostError::NotAttached { .. }), "{error}");
        assert!(container.run(|| has_link("ethmesh")).unwrap());
    });
}

#[test]
fn an_address_that_is_not_there_leaves_the_others_in_place() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        attach(&bridge, &container, &spec(&["10.32.0.1/12", "10.32.0.2/12"])).unwrap();
        for missing in ["10.32.0.3/12", "10.32.0.1/16"] {
            let error = error_of(detach(&bridge, &container, &ifname(), &nets(&["10.32.0.2/12", missing])));
            assert!(matches!(error, HostError::AddressNotThere { .. }), "{error}");
        }
        assert_eq!(container.run(|| addresses("ethmesh")).unwrap(), ["10.32.0.1/12", "10.32.0.2/12"]);
    });
}

#[test]
fn takes_away_an_interface_that_the_container_renamed() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        container.run(|| ip("link set ethmesh down name renamed")).unwrap();
        detach(&bridge, &container, &ifname(), &[]).unwrap();
        assert!(!container.run(|| has_link("renamed")).unwrap());
    });
}
