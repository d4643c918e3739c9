//! Data planes in network namespaces, with a bridge and a container each: frames between containers.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test file uses its part of the bench")]
mod bench;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use bench::{DEADLINE, Keys, Namespace, TAP, eventually, peer};
use mesh_crypto::Suite;
use mesh_dataplane::engine::{Direction, DropReason, Owner, Path, Plan, Tree};
use mesh_dataplane::{Dataplane, Report};
use mesh_wire::PeerId;

const MTU: u32 = 1370;

struct Host {
    namespace: Namespace,
    container: Namespace,
    dataplane: Dataplane,
    reports: Receiver<Report>,
}

impl Host {
    /// A host with a container 10.9.0.`number` and fd00::`number`; both need an underlay still.
    fn new(number: u8, workers: usize) -> Self {
        Self::within(Namespace::new(), number, workers)
    }

    fn within(namespace: Namespace, number: u8, workers: usize) -> Self {
        let (dataplane, reports) = namespace.dataplane(workers, MTU).unwrap();
        let container = namespace.bridge_with_container(&format!("10.9.0.{number}/24"), MTU);
        container.sh(&format!("ip addr add fd00::{number}/64 dev ethmesh nodad"));
        Self { namespace, container, dataplane, reports }
    }

    fn cable(&self, name: &str, address: &str, other: &Self, other_name: &str, other_address: &str) {
        self.namespace.cable(name, &other.namespace, other_name);
        self.namespace.sh(&format!("ip addr add {address}/24 dev {name}"));
        other.namespace.sh(&format!("ip addr add {other_address}/24 dev {other_name}"));
    }

    fn wait_until_alive(&self, links: usize) {
        eventually("links alive", || {
            let states = self.dataplane.links();
            (states.len() == links && states.iter().all(|link| link.is_alive && link.rtt.is_some()))
                .then_some(())
        });
    }

    fn ping(&self, options: &str, address: &str) {
        self.container.sh(&format!("ping -q -c 3 -i 0.05 -W 2 {options} {address}"));
    }
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 6783)
}

fn tree(parent: Option<u8>, children: &[u8]) -> Tree {
    Tree { parent: parent.map(peer), children: children.iter().copied().map(peer).collect() }
}

/// What two directly joined peers are told.
fn plan_of_two(me: u8, other: u8, remote: &str, keys: Keys) -> Plan {
    Plan {
        me: peer(me),
        digest: 1,
        links: vec![keys.link(me, other, at(remote))],
        next_hop: [(peer(other), peer(other))].into(),
        trees: [(peer(me), tree(None, &[other])), (peer(other), tree(Some(other), &[]))].into(),
        groups: Arc::default(),
    }
}

fn two_hosts(keys: Keys, workers: usize, addresses: [&str; 2]) -> [Host; 2] {
    let [a, b] = [Host::new(1, workers), Host::new(2, workers)];
    a.cable("u0", "192.0.2.1", &b, "u0", "192.0.2.2");
    a.namespace.sh("ip addr add fd01::1/64 dev u0 nodad");
    b.namespace.sh("ip addr add fd01::2/64 dev u0 nodad");
    a.dataplane.publish(plan_of_two(1, 2, addresses[1], keys));
    b.dataplane.publish(plan_of_two(2, 1, addresses[0], keys));
    a.wait_until_alive(1);
    b.wait_until_alive(1);
    [a, b]
}

const TRANSFER_LEN: usize = 8 << 20;

/// Bytes on their way from one container to another by TCP.
struct Transfer {
    sent: JoinHandle<()>,
    received: JoinHandle<Vec<u8>>,
}

fn transfer(from: &Host, to: &Host, address: &'static str) -> Transfer {
    let listener = to.container.run(move || TcpListener::bind((address, 5000)).unwrap());
    let received = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    let mut stream = from.container.run(move || TcpStream::connect((address, 5000)).unwrap());
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let sent = std::thread::spawn(move || stream.write_all(&pattern()).unwrap());
    Transfer { sent, received }
}

impl Transfer {
    fn finish(self) {
        self.sent.join().unwrap();
        assert!(self.received.join().unwrap() == pattern(), "bytes differ");
    }
}

/// Bytes of which no two stretches are alike.
fn pattern() -> Vec<u8> {
    (0..TRANSFER_LEN as u32 / 4).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

fn assert_containers_talk([a, b]: &[Host; 2]) {
    a.ping("", "10.9.0.2");
    b.ping("", "10.9.0.1");
    a.ping("-6", "fd00::2");
    a.ping("-s 9000", "10.9.0.2");
    let owners: BTreeMap<_, usize> = a.dataplane.macs().iter().fold(BTreeMap::new(), |mut count, entry| {
        *count.entry(entry.owner).or_default() += 1;
        count
    });
    assert!(owners.contains_key(&Owner::Local) && owners.contains_key(&Owner::Peer(peer(2))), "{owners:?}");
    let counters = a.dataplane.counters();
    for (path, direction) in
        [(Path::Bridge, Direction::In), (Path::Bridge, Direction::Out), (Path::Sleeve, Direction::In)]
    {
        assert!(counters.traffic(path, direction).frames > 0, "{path:?} {direction:?}");
    }
    assert_eq!(counters.traffic(Path::Relay, Direction::Out).frames, 0);
    for reason in
        [DropReason::NotAuthentic, DropReason::Replayed, DropReason::MalformedMessage, DropReason::TooLong]
    {
        assert_eq!(counters.drops(reason), 0, "{reason:?}");
    }
}

#[test]
fn containers_on_two_hosts_talk_over_sealed_packets() {
    let hosts = two_hosts(Keys::Sealed(Suite::Aes256Gcm), 1, ["192.0.2.1", "192.0.2.2"]);
    assert_containers_talk(&hosts);
}

#[test]
fn containers_on_two_hosts_talk_over_clear_packets_and_several_threads() {
    assert_containers_talk(&two_hosts(Keys::Clear, 2, ["192.0.2.1", "192.0.2.2"]));
}

#[test]
fn containers_on_two_hosts_talk_over_an_ipv6_underlay() {
    assert_containers_talk(&two_hosts(Keys::Sealed(Suite::ChaCha20Poly1305), 1, ["fd01::1", "fd01::2"]));
}

#[test]
fn a_host_with_ipv6_switched_off_is_served_over_ipv4() {
    let namespace = Namespace::new();
    namespace.sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    let [a, b] = [Host::within(namespace, 1, 1), Host::new(2, 1)];
    a.cable("u0", "192.0.2.1", &b, "u0", "192.0.2.2");
    a.dataplane.publish(plan_of_two(1, 2, "192.0.2.2", Keys::Clear));
    b.dataplane.publish(plan_of_two(2, 1, "192.0.2.1", Keys::Clear));
    a.wait_until_alive(1);
    a.ping("", "10.9.0.2");
}

#[test]
fn a_peer_between_two_others_relays_for_them() {
    let [a, b, c] = [Host::new(1, 1), Host::new(2, 1), Host::new(3, 1)];
    a.cable("u0", "192.0.2.1", &b, "u0", "192.0.2.2");
    b.cable("u1", "198.51.100.2", &c, "u0", "198.51.100.3");
    let keys = Keys::Sealed(Suite::Aes256Gcm);
    let hops = |hops: [(u8, u8); 2]| hops.map(|(to, hop)| (peer(to), peer(hop))).into();
    let plan = |me, links, next_hop: BTreeMap<PeerId, PeerId>, trees: [Tree; 3]| Plan {
        me: peer(me),
        digest: 1,
        links,
        next_hop,
        trees: [1, 2, 3].map(peer).into_iter().zip(trees).collect(),
        groups: Arc::default(),
    };
    a.dataplane.publish(plan(
        1,
        vec![keys.link(1, 2, at("192.0.2.2"))],
        hops([(2, 2), (3, 2)]),
        [tree(None, &[2]), tree(Some(2), &[]), tree(Some(2), &[])],
    ));
    b.dataplane.publish(plan(
        2,
        vec![keys.link(2, 1, at("192.0.2.1")), keys.link(2, 3, at("198.51.100.3"))],
        hops([(1, 1), (3, 3)]),
        [tree(Some(1), &[3]), tree(None, &[1, 3]), tree(Some(3), &[1])],
    ));
    c.dataplane.publish(plan(
        3,
        vec![keys.link(3, 2, at("198.51.100.2"))],
        hops([(1, 2), (2, 2)]),
        [tree(Some(2), &[]), tree(Some(2), &[]), tree(None, &[2])],
    ));
    for (host, links) in [(&a, 1), (&b, 2), (&c, 1)] {
        host.wait_until_alive(links);
    }
    a.ping("", "10.9.0.3");
    a.ping("", "10.9.0.2");
    c.ping("-6", "fd00::1");
    transfer(&a, &c, "10.9.0.3").finish();
    let knows_c = a.dataplane.macs().iter().any(|entry| entry.owner == Owner::Peer(peer(3)));
    assert!(knows_c, "the source of relayed frames is learnt, not the relay");
    assert!(b.dataplane.counters().traffic(Path::Relay, Direction::Out).frames > 0);
    let relayed = |host: &Host| {
        host.reports.try_iter().filter(|report| matches!(report, Report::Relayed { .. })).collect::<Vec<_>>()
    };
    let news = relayed(&a);
    assert!(
        news.iter().all(|report| matches!(report, Report::Relayed { peer: p } if *p == peer(3))),
        "{news:?}"
    );
    assert!((1..=3).contains(&news.len()), "{news:?} in about a second");
    assert!(relayed(&b).is_empty(), "the relay captured nothing");
}

#[test]
fn a_host_that_dies_is_reported_and_its_macs_go_with_the_plan() {
    let [a, b] = two_hosts(Keys::Clear, 1, ["192.0.2.1", "192.0.2.2"]);
    a.ping("", "10.9.0.2");
    let report = a.reports.recv_timeout(DEADLINE).unwrap();
    assert!(matches!(report, Report::Alive { peer: p, .. } if p == peer(2)), "{report:?}");
    // Said again when the round-trip time has changed.
    let news = || {
        let report = || a.reports.recv_timeout(DEADLINE).unwrap();
        std::iter::repeat_with(report).find(|report| !matches!(report, Report::Alive { .. })).unwrap()
    };
    let report = news();
    assert!(matches!(report, Report::PathMtu { peer: p, datagram_len: 1472 } if p == peer(2)), "{report:?}");
    assert_eq!(a.dataplane.links()[0].mtu, Some(1390));
    b.dataplane.stop();
    let report = news();
    let Report::Dead { peer: dead, silent_for } = report else { panic!("{report:?}") };
    assert_eq!(dead, peer(2));
    assert!((1_250..2_000).contains(&silent_for.as_millis()), "{silent_for:?}");
    let nobody = Plan {
        me: peer(1),
        digest: 2,
        links: vec![],
        next_hop: BTreeMap::new(),
        trees: BTreeMap::new(),
        groups: Arc::default(),
    };
    a.dataplane.publish(nobody);
    assert!(a.dataplane.macs().iter().all(|entry| entry.owner == Owner::Local));
    assert!(a.dataplane.links().is_empty());
}

#[test]
fn frames_that_fit_no_datagram_are_counted_and_others_pass() {
    const MTU_MAX: u32 = 65_521;
    let host = Namespace::new();
    let (dataplane, _reports) = host.dataplane(1, MTU_MAX).unwrap();
    let container = host.bridge_with_container("10.9.0.1/24", MTU_MAX);
    host.sh("ip link set mesh0 mtu 65521");
    dataplane.publish(plan_of_two(1, 2, "127.0.0.1", Keys::Sealed(Suite::Aes256Gcm)));
    container.sh("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev ethmesh");
    container.try_sh("ping -q -c 1 -W 0.1 -s 65490 10.9.0.2");
    eventually("counted as too long", || (dataplane.counters().drops(DropReason::TooLong) > 0).then_some(()));
    let sent = |dataplane: &Dataplane| dataplane.counters().traffic(Path::Sleeve, Direction::Out).bytes;
    let before = sent(&dataplane);
    container.try_sh("ping -q -c 1 -W 0.1 -s 60000 10.9.0.2");
    eventually("a frame that fits", || (sent(&dataplane) > before + 60_000).then_some(()));
    assert_eq!(dataplane.counters().drops(DropReason::TooLong), 1);
}

#[test]
fn tcp_runs_both_ways_at_once() {
    let [a, b] = two_hosts(Keys::Sealed(Suite::Aes256Gcm), 1, ["192.0.2.1", "192.0.2.2"]);
    let both = [transfer(&a, &b, "10.9.0.2"), transfer(&b, &a, "10.9.0.1")];
    both.into_iter().for_each(Transfer::finish);
    assert_eq!(a.dataplane.counters().drops(DropReason::SuperFrame), 0);
    let captured = a.dataplane.counters().traffic(Path::Bridge, Direction::In);
    assert!(
        captured.bytes / captured.frames <= u64::from(MTU) + 14,
        "frames are counted as on a wire: {captured:?}"
    );
    // Trains of datagrams must not have been taken for replays or forgeries.
    for host in [&a, &b] {
        assert_eq!(host.dataplane.counters().drops(DropReason::Replayed), 0);
        assert_eq!(host.dataplane.counters().drops(DropReason::NotAuthentic), 0);
    }
}

#[test]
fn super_frames_cross_and_arrive_as_super_frames() {
    let [a, b] = two_hosts(Keys::Sealed(Suite::Aes256Gcm), 1, ["192.0.2.1", "192.0.2.2"]);
    for address in ["10.9.0.2", "fd00::2"] {
        let counts = || {
            let arrived = b.container.sh("cat /proc/thread-self/net/dev | grep ethmesh");
            let arrived: u64 = arrived.split_whitespace().nth(2).unwrap().parse().unwrap();
            (b.dataplane.counters().traffic(Path::Bridge, Direction::Out).frames, arrived)
        };
        let (frames_before, arrived_before) = counts();
        transfer(&a, &b, address).finish();
        let (frames, arrived) = counts();
        let (frames, arrived) = (frames - frames_before, arrived - arrived_before);
        assert!(frames as usize > TRANSFER_LEN / MTU as usize, "{address}: frames count as on a wire");
        assert!(arrived * 3 < frames, "{address}: {frames} frames arrived as {arrived}");
    }
    assert_eq!(a.dataplane.counters().drops(DropReason::SuperFrame), 0);
    assert_eq!(b.dataplane.counters().drops(DropReason::InjectFailed), 0);
}

#[test]
fn a_wire_too_narrow_for_trains_of_datagrams_carries_them_one_by_one() {
    let hosts @ [a, b] = &two_hosts(Keys::Clear, 1, ["192.0.2.1", "192.0.2.2"]);
    hosts.iter().for_each(|host| drop(host.namespace.sh("ip link set u0 mtu 1300")));
    transfer(a, b, "10.9.0.2").finish();
    assert_eq!(a.dataplane.counters().drops(DropReason::TooLong), 0);
    assert_eq!(a.dataplane.counters().drops(DropReason::SendFailed), 0);
}

#[test]
fn a_train_of_datagrams_crosses_in_order() {
    const LEN: usize = 1_200;
    let [a, b] = two_hosts(Keys::Sealed(Suite::Aes256Gcm), 1, ["192.0.2.1", "192.0.2.2"]);
    for address in ["10.9.0.2", "fd00::2"] {
        let to = SocketAddr::new(address.parse().unwrap(), 5000);
        let receiver = b.container.run(move || UdpSocket::bind(to).unwrap());
        receiver.set_read_timeout(Some(DEADLINE)).unwrap();
        let contents: Vec<u8> = (0..20 * LEN - 5).map(|n| (n / 7) as u8).collect();
        let train = contents.clone();
        a.container.run(move || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            let state = quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
            assert!(state.max_gso_segments() > 1);
            let transmit = quinn_udp::Transmit {
                destination: to,
                ecn: None,
                contents: &train,
                segment_size: Some(LEN),
                src_ip: None,
            };
            state.try_send((&socket).into(), &transmit).unwrap();
        });
        for datagram in contents.chunks(LEN) {
            let mut buffer = [0; 2 * LEN];
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], datagram);
        }
    }
}

#[test]
fn stopping_leaves_no_interface_and_no_port() {
    let host = Namespace::new();
    for _ in 0..3 {
        let (dataplane, _reports) = host.dataplane(2, MTU).unwrap();
        host.sh(&format!("ip link show {TAP}"));
        assert_eq!(host.sh(&format!("cat /proc/self/net/dev | grep -c {TAP}")).trim(), "1");
        dataplane.stop();
        assert!(!host.try_sh(&format!("ip link show {TAP}")).status.success());
        let sockets = host.sh("cat /proc/thread-self/net/udp6 | tail -n +2");
        assert_eq!(sockets, "", "a socket is left");
    }
}

#[test]
fn an_interface_removed_by_somebody_else_is_reported_once() {
    let host = Namespace::new();
    let (dataplane, reports) = host.dataplane(1, MTU).unwrap();
    host.sh(&format!("ip link del {TAP}"));
    let report = reports.recv_timeout(DEADLINE).unwrap();
    assert!(matches!(report, Report::Failed(mesh_dataplane::Failure::Uplink(_))), "{report:?}");
    assert!(reports.recv_timeout(Duration::from_millis(100)).is_err());
    dataplane.stop();
}
