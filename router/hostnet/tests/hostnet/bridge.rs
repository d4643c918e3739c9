//! Making the bridge, finding it again, its ports and its MTU.

use mesh_hostnet::{HostError, PortKind, add_port, attach, attachments, ensure_bridge, remove_all, set_mtu};

use crate::support::{
    Snapshot, bridge, bridge_name, error_of, has_link, ip, ip_json, link, new_container, on_a_host, spec,
    sysctl,
};

#[test]
fn makes_a_bridge_that_only_passes_frames() {
    on_a_host(|| {
        let made = bridge();
        let shown = link("mesh0");
        assert_eq!(shown["ifalias"], "mesh bridge");
        assert_eq!(shown["mtu"], 1370);
        assert_eq!(shown["address"], made.mac.to_string());
        assert_eq!(shown["ifindex"], made.index);
        assert!(shown["flags"].as_array().unwrap().iter().any(|flag| flag == "UP"));
        let data = &shown["linkinfo"]["info_data"];
        for (option, value) in [
            ("stp_state", 0),
            ("forward_delay", 0),
            ("mcast_snooping", 1),
            ("nf_call_iptables", 0),
            ("nf_call_ip6tables", 0),
            ("nf_call_arptables", 0),
        ] {
            assert_eq!(data[option], value, "{option}");
        }
        assert_eq!(sysctl("ipv6/conf/mesh0/disable_ipv6"), "1");
        assert_eq!(ip_json("address show dev mesh0")[0]["addr_info"], serde_json::json!([]));
        assert!(!has_link("mesh0~new"));
    });
}

#[test]
fn takes_over_the_bridge_of_an_earlier_life_and_repairs_it() {
    on_a_host(|| {
        let first = bridge();
        ip("link set mesh0 type bridge stp_state 1 mcast_snooping 0");
        ip("link set mesh0 down");
        let second = ensure_bridge(&bridge_name(), 1400).unwrap();
        assert_eq!((second.index, second.mac, second.mtu), (first.index, first.mac, 1400));
        let data = &link("mesh0")["linkinfo"]["info_data"];
        assert_eq!((&data["stp_state"], &data["mcast_snooping"]), (&0.into(), &1.into()));
        assert_eq!(data["forward_delay"], 0);
    });
}

#[test]
fn keeps_its_mac_when_ports_come_and_go() {
    on_a_host(|| {
        let made = bridge();
        ip("link add low address 02:00:00:00:00:01 type veth peer name high");
        add_port(&made, &"low".parse().unwrap(), PortKind::Uplink).unwrap();
        assert_eq!(link("mesh0")["address"], made.mac.to_string());
        ip("link delete low");
        assert_eq!(link("mesh0")["address"], made.mac.to_string());
    });
}

#[test]
fn refuses_a_name_that_a_strangers_bridge_has() {
    on_a_host(|| {
        ip("link add mesh0 type bridge");
        let before = Snapshot::take();
        let error = error_of(ensure_bridge(&bridge_name(), 1370));
        assert!(matches!(&error, HostError::NameInUse { kind, .. } if kind == "bridge"), "{error}");
        assert!(error.hint().unwrap().contains("--bridge"));
        before.assert_restored();
    });
}

#[test]
fn refuses_a_name_that_another_kind_of_interface_has() {
    on_a_host(|| {
        ip("tuntap add dev mesh0 mode tap");
        let before = Snapshot::take();
        let error = error_of(ensure_bridge(&bridge_name(), 1370));
        assert!(matches!(&error, HostError::NameInUse { kind, .. } if kind == "tun"), "{error}");
        before.assert_restored();
    });
}

#[test]
fn clears_away_a_bridge_that_was_never_finished() {
    on_a_host(|| {
        ip("link add mesh0~new type bridge");
        bridge();
        assert!(!has_link("mesh0~new"));
        assert!(has_link("mesh0"));
    });
}

#[test]
fn a_refusal_of_the_kernel_leaves_no_bridge() {
    on_a_host(|| {
        ip("tuntap add dev mesh0~new mode tap");
        let before = Snapshot::take();
        let error = error_of(ensure_bridge(&bridge_name(), 1370));
        assert!(matches!(error, HostError::Kernel { .. }), "{error}");
        assert!(error.to_string().starts_with("cannot create the bridge mesh0: File exists"), "{error}");
        before.assert_restored();
    });
}

#[test]
fn refuses_an_mtu_that_no_interface_can_have() {
    on_a_host(|| {
        for mtu in [0, 67, 65_536] {
            assert!(matches!(error_of(ensure_bridge(&bridge_name(), mtu)), HostError::MtuOutOfRange { .. }));
        }
        assert!(!has_link("mesh0"));
    });
}

#[test]
fn makes_an_interface_a_port_and_says_the_same_twice() {
    on_a_host(|| {
        let bridge = bridge();
        ip("tuntap add dev mesh0-tap mode tap");
        for _ in 0..2 {
            add_port(&bridge, &bridge_name().tap(), PortKind::Uplink).unwrap();
        }
        let shown = link("mesh0-tap");
        assert_eq!(shown["master"], "mesh0");
        assert_eq!(shown["mtu"], 1370);
        assert_eq!(shown["ifalias"], "mesh uplink");
        assert_eq!(shown["linkinfo"]["info_slave_data"]["learning"], true);
        assert_eq!(shown["linkinfo"]["info_slave_data"]["flood"], true);
        assert_eq!(sysctl("ipv6/conf/mesh0-tap/disable_ipv6"), "1");
    });
}

#[test]
fn refuses_a_port_that_is_missing_or_belongs_to_another_bridge() {
    on_a_host(|| {
        let bridge = bridge();
        let port = "port0".parse().unwrap();
        assert!(matches!(
            error_of(add_port(&bridge, &port, PortKind::Uplink)),
            HostError::PortMissing { .. }
        ));
        ip("link add other type bridge");
        ip("link add port0 master other type veth peer name far");
        assert!(matches!(error_of(add_port(&bridge, &port, PortKind::Uplink)), HostError::PortTaken { .. }));
        assert_eq!(link("port0")["master"], "other");
    });
}

#[test]
fn says_that_the_bridge_is_gone() {
    on_a_host(|| {
        let made = bridge();
        ip("link delete mesh0");
        ip("link add mesh0 type bridge");
        assert!(matches!(error_of(set_mtu(&made, 1300)), HostError::BridgeGone { .. }));
        assert!(matches!(
            error_of(attach(&made, &new_container(), &spec(&[]))),
            HostError::BridgeGone { .. }
        ));
    });
}

#[test]
fn sets_the_mtu_of_the_bridge_and_its_ports_both_ways() {
    on_a_host(|| {
        let bridge = bridge();
        let container = new_container();
        let host_end = attach(&bridge, &container, &spec(&["10.32.0.1/12"])).unwrap().host_interface;
        for mtu in [1200, 8000] {
            assert_eq!(set_mtu(&bridge, mtu).unwrap().mtu, mtu);
            assert_eq!(link("mesh0")["mtu"], mtu);
            assert_eq!(link(host_end.as_str())["mtu"], mtu);
        }
    });
}

#[test]
fn lists_the_attachments_of_its_bridge_alone() {
    on_a_host(|| {
        let (first, second) = (bridge(), ensure_bridge(&"mesh1".parse().unwrap(), 1370).unwrap());
        let (a, b) = (new_container(), new_container());
        ip("link add mv000000000000 master mesh0 type veth peer name other");
        let on_first = attach(&first, &a, &spec(&["10.32.0.1/12"])).unwrap().host_interface;
        let on_second = attach(&second, &b, &spec(&["10.32.0.2/12"])).unwrap().host_interface;
        assert_eq!(attachments(&first).unwrap(), [on_first.as_str()]);
        assert_eq!(attachments(&second).unwrap(), [on_second.as_str()]);
        remove_all(&first.name).unwrap();
        assert_eq!(attachments(&second).unwrap(), [on_second.as_str()]);
    });
}
