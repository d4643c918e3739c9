//! The VXLAN back end in a namespace of its own, with the real kernel. Needs root; nothing is left over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mesh_fastpath::model::{Agreement, View};
use mesh_fastpath::vxlan::{BackEnd, Config, FastPath, Hooks};
use mesh_hostnet::{Bridge, BridgeName, PortKind, add_port, ensure_bridge};
use mesh_wire::control::VxlanOffer;
use mesh_wire::{MacAddr, PeerId};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `test` on a thread with a network namespace of its own, with a bridge and a TAP in it.
fn on_a_host(test: impl FnOnce(Bridge) + Send + 'static) {
    let run = move || {
        // SAFETY: without `FILES`, nothing is unshared that another thread could notice.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("these tests need root");
        ip("link set lo up");
        let name: BridgeName = "mesh0".parse().unwrap();
        let bridge = ensure_bridge(&name, 1390).unwrap();
        ip("tuntap add mesh0-tap mode tap");
        add_port(&bridge, &name.tap(), PortKind::Uplink).unwrap();
        test(bridge);
    };
    thread::spawn(run).join().unwrap();
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn start(bridge: &Bridge) -> FastPath {
    let config = Config {
        back_end: BackEnd::Vxlan,
        bridge: bridge.clone(),
        tap: bridge.name.tap(),
        port: 6784,
        may_be_clear: true,
        seal: None,
        listen: None,
        vni: 77,
        adopt: true,
    };
    let hooks = Hooks {
        learnt: Box::new(|| None),
        ask: Box::new(|_| Some(Duration::ZERO)),
        guard: Box::new(|_| {}),
        is_guarded: Box::new(|| true),
        tell: Box::new(|_| {}),
    };
    FastPath::start(&config, hooks).unwrap()
}

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; 16])
}

/// A network of ten neighbours, each with a tenth of so many MACs.
fn view(macs: u32) -> View {
    let peers: Vec<_> = (1..=10_u8).collect();
    let agreement = |number: &u8| {
        let remote = IpAddr::V4(Ipv4Addr::new(192, 0, 2, *number));
        let theirs =
            VxlanOffer { port: 6784, vni: 100 + u32::from(*number), cookie: 1, seal: None, esp: None };
        (peer(*number), Agreement::Both { remote, theirs, our_cookie: u64::from(*number) })
    };
    let mac = |number: u32| {
        let [a, b, c, d] = number.to_be_bytes();
        (MacAddr::from_bytes([2, 7, a, b, c, d]), peer((number % 10 + 1) as u8))
    };
    View {
        neighbours: peers.iter().map(agreement).collect(),
        reachable: peers.iter().copied().map(peer).collect(),
        relayed: BTreeSet::new(),
        announced: Arc::new((0..macs).map(mac).collect::<BTreeMap<_, _>>()),
        announcing: peers.iter().copied().map(peer).collect::<BTreeSet<_>>(),
        may_wait: true,
        seals: BTreeMap::new(),
        room: BTreeMap::new(),
    }
}

fn wait_for(path: &FastPath, count: usize) -> Duration {
    let begun = Instant::now();
    loop {
        let flows = path.flows().flows;
        if flows.len() == count && flows.iter().all(|flow| flow.place.is_some()) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "{} flows in place of {count}", flows.len());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ten_thousand_flows_come_and_go_while_others_use_rtnetlink() {
    on_a_host(|bridge| {
        let path = start(&bridge);
        path.see(view(10_000));
        // Another user of the kernel's lock in the meantime.
        let begun = Instant::now();
        ip("link add dummy type bridge");
        let other = begun.elapsed();
        let installed = wait_for(&path, 10_000);
        path.see(view(0));
        let withdrawn = wait_for(&path, 0);
        println!(
            "measured: 10,000 flows installed in {installed:?}, withdrawn in {withdrawn:?}; another's request {other:?}"
        );
        assert!(other < Duration::from_secs(5), "others wait for {other:?}");
        let counted = path.flows().counted;
        assert_eq!(
            (counted.installed, counted.withdrawn, counted.failed),
            (10_000, 10_000, 0),
            "{counted:?}"
        );
    });
}

#[test]
fn the_devices_of_an_earlier_life_are_taken_over_as_they_are() {
    on_a_host(|bridge| {
        let path = start(&bridge);
        path.see(view(10));
        wait_for(&path, 10);
        drop(path);
        let devices = ip("-d link show mesh0-vx");
        let path = start(&bridge);
        assert_eq!(ip("-d link show mesh0-vx").split("vxlan").nth(1), devices.split("vxlan").nth(1));
        path.see(view(10));
        wait_for(&path, 10);
    });
}
