//! Which interfaces tell the MTU of the network below.

use mesh_hostnet::{UNDERLAY_MTU_DEFAULT, underlay_mtu};

use crate::support::{bridge, ip, on_a_host};

fn add_underlay(name: &str, mtu: u32, address: &str) {
    ip(&format!("link add {name} mtu {mtu} type veth peer name p-{name}"));
    ip(&format!("address add {address} dev {name}"));
    ip(&format!("link set {name} up"));
}

#[test]
fn is_that_of_ethernet_when_nothing_tells() {
    on_a_host(|| {
        ip("link set lo up");
        assert_eq!(underlay_mtu().unwrap(), UNDERLAY_MTU_DEFAULT);
    });
}

#[test]
fn is_the_smallest_of_the_interfaces_that_reach_other_hosts() {
    on_a_host(|| {
        add_underlay("eth0", 9000, "192.0.2.1/24");
        assert_eq!(underlay_mtu().unwrap(), 9000);
        add_underlay("eth1", 1400, "2001:db8::1/64");
        assert_eq!(underlay_mtu().unwrap(), 1400);
    });
}

#[test]
fn counts_a_bridge_that_holds_the_hosts_address() {
    on_a_host(|| {
        ip("link add br0 mtu 4000 type bridge");
        ip("address add 192.0.2.1/24 dev br0");
        ip("link set br0 up");
        assert_eq!(underlay_mtu().unwrap(), 4000);
    });
}

#[test]
fn leaves_out_interfaces_that_are_down_or_have_no_address_of_use() {
    on_a_host(|| {
        add_underlay("eth0", 9000, "192.0.2.1/24");
        add_underlay("eth1", 1000, "192.0.2.2/24");
        ip("link set eth1 down");
        ip("link add eth2 mtu 1001 type veth peer name p-eth2");
        ip("link set eth2 up");
        add_underlay("eth3", 1002, "169.254.7.7/16 scope link");
        assert_eq!(underlay_mtu().unwrap(), 9000);
    });
}

#[test]
fn leaves_out_container_runtimes_other_overlays_and_our_own() {
    on_a_host(|| {
        add_underlay("eth0", 9000, "192.0.2.1/24");
        for (name, kind) in
            [("docker0", "bridge"), ("br-0123456789ab", "bridge"), ("other", "vxlan dstport 4789 external")]
        {
            ip(&format!("link add {name} mtu 1000 type {kind}"));
            ip(&format!("address add 198.51.100.1/24 dev {name}"));
            ip(&format!("link set {name} up"));
        }
        bridge();
        ip("address add 10.32.0.1/12 dev mesh0");
        assert_eq!(underlay_mtu().unwrap(), 9000);
    });
}
