//! What `attach` refuses, without a trace outside or inside.

use mesh_hostnet::{AddressFault, AttachSpec, HostError, attach};

use crate::support::{Snapshot, bridge, error_of, ip, new_container, on_a_host, spec};

/// The error of attaching a container that was prepared with these commands of `ip`.
fn refusal(preparation: &[&str], spec: &AttachSpec) -> HostError {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        container.run(|| preparation.iter().for_each(|command| drop(ip(command)))).unwrap();
        let (outside, inside) = (Snapshot::take(), container.run(Snapshot::take).unwrap());
        let error = error_of(attach(&bridge, &container, spec));
        outside.assert_restored();
        container.run(|| inside.assert_restored()).unwrap();
        error
    })
}

fn fault_of(address: &str) -> AddressFault {
    let error = refusal(&[], &spec(&["10.32.0.1/12", address]));
    let HostError::UnusableAddress { fault, .. } = error else { panic!("{error}") };
    fault
}

#[test]
fn refuses_the_address_of_the_subnet_itself() {
    assert_eq!(fault_of("10.40.0.0/16"), AddressFault::Network);
}

#[test]
fn refuses_a_broadcast_address() {
    assert_eq!(fault_of("10.40.255.255/16"), AddressFault::Broadcast);
}

#[test]
fn refuses_a_multicast_address() {
    assert_eq!(fault_of("224.1.2.3/24"), AddressFault::Multicast);
    assert_eq!(fault_of("ff05::1/64"), AddressFault::Multicast);
}

#[test]
fn refuses_a_loopback_address() {
    assert_eq!(fault_of("127.0.0.2/8"), AddressFault::Loopback);
}

#[test]
fn refuses_the_unspecified_address() {
    assert_eq!(fault_of("0.0.0.0/8"), AddressFault::Unspecified);
}

#[test]
fn refuses_the_same_address_twice() {
    let error = refusal(&[], &spec(&["10.32.0.1/12", "10.32.0.1/12"]));
    assert!(matches!(error, HostError::DuplicateAddress { .. }), "{error}");
}

#[test]
fn refuses_an_interface_name_that_the_container_uses() {
    let error = refusal(&["tuntap add dev ethmesh mode tap"], &spec(&["10.32.0.1/12"]));
    assert!(matches!(error, HostError::InterfaceInUse { .. }), "{error}");
}

#[test]
fn refuses_an_interface_name_that_a_strangers_veth_uses() {
    let error = refusal(&["link add ethmesh type veth peer name other"], &spec(&["10.32.0.1/12"]));
    assert!(matches!(error, HostError::InterfaceInUse { .. }), "{error}");
}

#[test]
fn refuses_an_address_that_another_interface_of_the_container_has() {
    let preparation = ["tuntap add dev eth9 mode tap", "address add 10.32.0.1/24 dev eth9"];
    let error = refusal(&preparation, &spec(&["10.32.0.1/12"]));
    assert!(matches!(&error, HostError::AddressInUse { interface, .. } if interface == "eth9"), "{error}");
}

#[test]
fn refuses_ipv6_with_an_mtu_below_its_least() {
    let mut spec = spec(&["fd00::1/64"]);
    spec.mtu = 1279;
    let error = refusal(&[], &spec);
    assert!(matches!(error, HostError::MtuOutOfRange { min: 1280, .. }), "{error}");
}

#[test]
fn refuses_an_mtu_that_would_cost_an_attached_container_its_ipv6_addresses() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        attach(&bridge, &container, &spec(&["10.32.0.1/12", "fd00::1/64"])).unwrap();
        let mut lower = spec(&["10.32.0.1/12"]);
        lower.mtu = 1200;
        let error = error_of(attach(&bridge, &container, &lower));
        assert!(matches!(error, HostError::MtuOutOfRange { min: 1280, .. }), "{error}");
    });
}

#[test]
fn refuses_an_address_that_is_there_with_another_prefix() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        let error = error_of(attach(&bridge, &container, &spec(&["10.32.0.1/16"])));
        assert!(
            matches!(&error, HostError::AddressInUse { interface, .. } if interface == "ethmesh"),
            "{error}"
        );
    });
}

#[test]
fn refuses_a_container_that_is_attached_to_another_bridge() {
    on_a_host(|| {
        let (first, second) =
            (bridge(), mesh_hostnet::ensure_bridge(&"mesh1".parse().unwrap(), 1370).unwrap());
        let container = new_container();
        attach(&first, &container, &spec(&["10.32.0.1/12"])).unwrap();
        let error = error_of(attach(&second, &container, &spec(&["10.32.0.1/12"])));
        assert!(matches!(error, HostError::PortTaken { .. }), "{error}");
    });
}

#[test]
fn refuses_to_replace_an_interface_that_the_container_renamed() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap();
        container.run(|| ip("link set ethmesh down name renamed")).unwrap();
        let error = error_of(attach(&bridge, &container, &spec(&["10.32.0.1/12"])));
        assert!(matches!(error, HostError::HostInterfaceInUse { .. }), "{error}");
        assert!(error.hint().is_some());
    });
}
