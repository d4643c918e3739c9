//! Removing all that the router made.

use mesh_hostnet::{PortKind, add_port, attach, remove_all};

use crate::support::{Snapshot, bridge, bridge_name, has_link, ip, new_container, on_a_host, spec};

#[test]
fn leaves_host_and_containers_exactly_as_they_were() {
    on_a_host(|| {
        let containers = [new_container(), new_container(), new_container()];
        ip("link add br-other type bridge");
        ip("link add uplink0 type veth peer name far");
        let outside = Snapshot::take();
        let inside: Vec<_> =
            containers.iter().map(|container| container.run(Snapshot::take).unwrap()).collect();

        let bridge = bridge();
        ip("tuntap add dev mesh0-tap mode tap");
        add_port(&bridge, &bridge_name().tap(), PortKind::Uplink).unwrap();
        for (number, container) in containers.iter().enumerate() {
            attach(&bridge, container, &spec(&[&format!("10.32.0.{}/12", number + 1)])).unwrap();
        }
        let removed = remove_all(&bridge_name()).unwrap();

        assert_eq!(removed.len(), containers.len() + 2);
        assert_eq!(removed[containers.len()].as_str(), "mesh0-tap");
        assert_eq!(removed[containers.len() + 1].as_str(), "mesh0");
        outside.assert_restored();
        for (container, before) in containers.iter().zip(&inside) {
            container.run(|| before.assert_restored()).unwrap();
        }
    });
}

#[test]
fn does_nothing_where_there_is_nothing() {
    on_a_host(|| {
        let before = Snapshot::take();
        assert_eq!(remove_all(&bridge_name()).unwrap(), []);
        before.assert_restored();
    });
}

#[test]
fn leaves_a_strangers_bridge_and_its_ports_alone() {
    on_a_host(|| {
        ip("link add mesh0 type bridge");
        ip("link add port0 master mesh0 type veth peer name far");
        ip("tuntap add dev mesh0-tap mode tap");
        let before = Snapshot::take();
        assert_eq!(remove_all(&bridge_name()).unwrap(), []);
        before.assert_restored();
    });
}

#[test]
fn leaves_a_strangers_port_of_our_bridge_alone() {
    on_a_host(|| {
        bridge();
        ip("link add port0 master mesh0 type veth peer name far");
        remove_all(&bridge_name()).unwrap();
        assert!(has_link("port0"));
        assert!(!has_link("mesh0"));
    });
}

#[test]
fn removes_containers_interfaces_that_lost_their_bridge() {
    on_a_host(|| {
        let container = new_container();
        let host_end = attach(&bridge(), &container, &spec(&["10.32.0.1/12"])).unwrap().host_interface;
        ip("link delete mesh0");
        assert_eq!(remove_all(&bridge_name()).unwrap(), [host_end]);
        assert!(!container.run(|| has_link("ethmesh")).unwrap());
    });
}

#[test]
fn removes_a_bridge_that_was_never_finished() {
    on_a_host(|| {
        let before = Snapshot::take();
        ip("link add mesh0~new type bridge");
        assert_eq!(remove_all(&bridge_name()).unwrap().len(), 1);
        before.assert_restored();
    });
}
