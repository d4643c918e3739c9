//! Word of the host's addresses.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_hostnet::AddressWatch;

use crate::support::{bridge, eventually, ip, on_a_host, set_sysctl};

/// A watch, and all that it has told.
struct Told {
    lists: Arc<Mutex<Vec<Vec<IpAddr>>>>,
    watch: Option<AddressWatch>,
}

impl Told {
    fn start() -> Self {
        let lists = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lists);
        let watch = AddressWatch::start(move |addresses| into.lock().unwrap().push(addresses)).unwrap();
        Self { lists, watch: Some(watch) }
    }

    fn count(&self) -> usize {
        self.lists.lock().unwrap().len()
    }

    fn last(&self) -> Vec<IpAddr> {
        self.lists.lock().unwrap().last().cloned().unwrap()
    }

    /// Waits until the last word is this.
    fn expect(&self, addresses: &[&str]) {
        let expected: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        eventually(&format!("{expected:?}, not {:?}", self.last()), || self.last() == expected);
    }
}

fn add_interface(name: &str, address: &str) {
    ip(&format!("link add {name} type veth peer name p-{name}"));
    ip(&format!("link set p-{name} up"));
    ip(&format!("link set {name} up"));
    ip(&format!("address add {address} dev {name}"));
}

#[test]
fn all_addresses_are_told_at_the_start_and_after_each_change() {
    on_a_host(|| {
        ip("link set lo up");
        add_interface("eth0", "192.0.2.1/24");
        let told = Told::start();
        assert_eq!(told.count(), 1);
        told.expect(&["192.0.2.1"]);
        ip("address add 192.0.2.2/24 dev eth0");
        told.expect(&["192.0.2.1", "192.0.2.2"]);
        ip("address add 2001:db8::1/64 dev eth0");
        told.expect(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        ip("address del 192.0.2.1/24 dev eth0");
        told.expect(&["2001:db8::1"]);
        ip("link set eth0 down");
        told.expect(&[]);
    });
}

#[test]
fn an_ipv6_address_counts_once_no_duplicate_was_found() {
    on_a_host(|| {
        set_sysctl("ipv6/conf/default/dad_transmits", "1");
        add_interface("eth0", "2001:db8::1/64");
        let told = Told::start();
        told.expect(&[]);
        told.expect(&["2001:db8::1"]);
    });
}

#[test]
fn our_own_bridge_and_loopback_are_left_out_and_a_change_of_them_is_no_news() {
    on_a_host(|| {
        ip("link set lo up");
        add_interface("eth0", "192.0.2.1/24");
        let told = Told::start();
        bridge();
        ip("address add 10.32.0.1/12 dev mesh0");
        ip("address add 127.0.0.2/8 dev lo");
        // A router's address often stands on loopback.
        ip("address add 198.51.100.7/32 dev lo");
        told.expect(&["192.0.2.1", "198.51.100.7"]);
        assert_eq!(told.count(), 2, "{:?}", told.lists);
    });
}

#[test]
fn a_burst_that_overruns_the_socket_ends_with_the_truth() {
    on_a_host(|| {
        add_interface("eth0", "192.0.2.1/24");
        let told = Told::start();
        let adds = (1..=250).flat_map(|third| (1..=20).map(move |last| (third, last)));
        let batch: String =
            adds.map(|(third, last)| format!("address add 10.9.{third}.{last}/16 dev eth0\n")).collect();
        let dir = std::env::temp_dir().join(format!("mesh-watch-{}", std::process::id()));
        std::fs::write(&dir, batch).unwrap();
        ip(&format!("-batch {}", dir.display()));
        std::fs::remove_file(&dir).unwrap();
        eventually("all 5,001 addresses", || told.last().len() == 5_001);
        assert!(told.count() < 100, "{} words for one burst", told.count());
    });
}

#[test]
fn a_dropped_watch_is_silent_and_ends_at_once() {
    on_a_host(|| {
        add_interface("eth0", "192.0.2.1/24");
        let mut told = Told::start();
        let since = std::time::Instant::now();
        told.watch = None;
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        ip("address add 192.0.2.2/24 dev eth0");
        assert_eq!(told.count(), 1);
    });
}
