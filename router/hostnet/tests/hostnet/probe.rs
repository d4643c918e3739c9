//! Addresses that somebody on the bridge uses already.

use std::net::IpAddr;

use mesh_hostnet::{PROBE_EVERY, PROBES, Probe, attach, probe};

use crate::support::{bridge, ip, new_container, on_a_host, spec};

#[test]
fn who_has_an_address_already_is_found_and_its_own_interface_is_no_finding() {
    on_a_host(|| {
        let bridge = bridge();
        ip("link set lo up");
        let container = new_container();
        let addresses = ["10.32.0.9/24", "fd32::9/64"];
        let attached = attach(&bridge, &container, &spec(&addresses)).unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let other = attached.mac;
        let mut own = other;
        own.0[5] ^= 1;
        let wanted = |own| {
            ["10.32.0.9", "10.32.0.10", "fd32::9", "fd32::10"]
                .map(|text| Probe { address: address(text), own })
        };
        // The kernel of the container looks for duplicates of its own before it answers for an IPv6 address.
        let begun = std::time::Instant::now();
        let seen = loop {
            let seen = probe(&bridge, &wanted(own)).unwrap();
            if seen.len() == 2 || begun.elapsed().as_secs() > 5 {
                break seen;
            }
        };
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [(address("10.32.0.9"), other), (address("fd32::9"), other)]
        );
        let begun = std::time::Instant::now();
        assert!(probe(&bridge, &wanted(other)).unwrap().is_empty(), "its own interface may answer");
        assert!(begun.elapsed() >= PROBE_EVERY * PROBES);
        assert!(probe(&bridge, &[]).unwrap().is_empty());
    });
}
