//! Which routes of the host lead to addresses that the network is to have.

use mesh_hostnet::{HostRoute, route_into};

use crate::support::{bridge, ip, on_a_host};

fn found(range: &str) -> Option<String> {
    route_into(range.parse().unwrap()).unwrap().as_ref().map(HostRoute::to_string)
}

#[test]
fn a_route_that_covers_a_range_or_lies_in_it_is_named() {
    on_a_host(|| {
        ip("link add eth0 type veth peer name p-eth0");
        ip("link set p-eth0 up");
        ip("link set eth0 up");
        ip("address add 192.0.2.1/24 dev eth0");
        ip("address add 2001:db8::1/64 dev eth0");
        assert_eq!(found("10.32.0.0/12"), None);
        ip("route add default via 192.0.2.9");
        ip("route add blackhole 10.33.0.0/16");
        assert_eq!(found("10.32.0.0/12"), None, "neither leads anywhere in particular");
        ip("route add 10.40.0.0/16 via 192.0.2.9 table 7");
        assert_eq!(found("10.32.0.0/12").as_deref(), Some("10.40.0.0/16 dev eth0"));
        assert_eq!(found("10.40.7.0/24").as_deref(), Some("10.40.0.0/16 dev eth0"));
        assert_eq!(found("10.41.0.0/16"), None);
        assert_eq!(found("2001:db8::/32").as_deref(), Some("2001:db8::/64 dev eth0"));
        assert_eq!(found("fd00::/48"), None);
    });
}

#[test]
fn a_route_by_an_interface_of_ours_does_not_count() {
    on_a_host(|| {
        let _bridge = bridge();
        ip("address add 10.32.0.1/12 dev mesh0");
        assert_eq!(found("10.32.0.0/12"), None);
    });
}
