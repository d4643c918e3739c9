//! Frames through two workers in one thread, from bridge to bridge: that they cross, and what that costs.
//!
//! `cargo xtask instructions` runs each of these tests twice under callgrind, for different numbers of rounds: the difference
//! is what the rounds cost. The workers are as they run; in place of the TAP there is a socket that keeps the borders of
//! messages, and datagrams go over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use mesh_crypto::{DirectionKey, Suite};
use mesh_wire::{MacAddr, PeerId, ReceiverIndex};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::engine::offload::{PartialChecksum, SegmentKind, Segmentation};
use crate::engine::{
    Direction, Duplicates, LinkPlan, Offload, Owner, Path, PathSize, Plan, Prober, ReceivePlan, SendPlan,
    Sizes, Tree,
};
use crate::io::tap::TapQueue;
use crate::io::udp;
use crate::io::wake::Waker;
use crate::shared::{Clock, Macs, Publisher};

/// Names how many rounds there are to be.
const ROUNDS_VARIABLE: &str = "MESH_ROUNDS";

/// Rounds where nobody counts.
const ROUNDS: usize = 3;

/// Small frames that wait together; the socket in the TAP's place holds no more.
const SMALL_FRAMES: usize = 8;

/// Longest datagrams of the path between the two, as over Ethernet.
const DATAGRAM_LEN: u16 = 1_472;

const SEGMENT_LEN: usize = 1_350;
const SEGMENTS: usize = 46;

const SEALED: DirectionKey = DirectionKey::Sealed { suite: Suite::Aes256Gcm, key: [9; 32] };
const CLEAR: DirectionKey = DirectionKey::Clear { cookie: [7; 8] };

/// All happens at once.
const NOW: Moment = Moment::from_origin(Duration::from_secs(1));

struct End {
    worker: Worker,
    snapshot: Arc<Snapshot>,
    counters: Arc<Counters>,
    bridge: OwnedFd,
}

impl End {
    /// Peer `me`, with a link to `other` at `remote`; both directions have the same key.
    fn new(me: u8, other: u8, udp: UdpQueue, remote: SocketAddr, key: &DirectionKey) -> Self {
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            snapshot: ArcSwap::from_pointee(Snapshot::before_the_first_plan()),
            macs: Macs::new(),
            node_local: vec![Ipv4Addr::new(169, 254, 32, 53)],
            duplicates: Duplicates::default(),
            prober: Mutex::new(Prober::default()),
            sizes: Mutex::new(Sizes::default()),
            prober_is_wanted: AtomicBool::new(false),
            reports: Box::new(|_| true),
            is_stopping: AtomicBool::new(false),
            wakers: vec![Waker::new().unwrap()],
        });
        shared.macs.learn(mac(other), Owner::Peer(peer(other)), NOW);
        let index = |of: u8| ReceiverIndex(of.into());
        let tree = |parent: Option<u8>, children: &[u8]| Tree {
            parent: parent.map(peer),
            children: children.iter().copied().map(peer).collect(),
        };
        let plan = Plan {
            me: peer(me),
            digest: 1,
            links: vec![LinkPlan {
                peer: peer(other),
                remote,
                candidates: Vec::new(),
                roams: true,
                in_doubt: false,
                receive: vec![ReceivePlan { epoch: 0, index: index(me), key: key.clone() }],
                send: Some(SendPlan { epoch: 0, index: index(other), key: key.clone() }),
            }],
            next_hop: [(peer(other), peer(other))].into(),
            trees: [(peer(me), tree(None, &[other])), (peer(other), tree(Some(other), &[]))].into(),
            groups: Arc::default(),
        };
        let snapshot = Arc::new(Publisher::default().publish(plan).snapshot);
        let path = PathSize { datagram_len: DATAGRAM_LEN, is_settled: true };
        snapshot.outlets()[0].link.set_path(path);
        shared.snapshot.store(Arc::clone(&snapshot));
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (bridge, tap) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let counters = Arc::new(Counters::default());
        let uplink = UplinkQueue::Tap(TapQueue::over(tap));
        let worker = Worker::new(0, shared, uplink, udp, Arc::clone(&counters));
        Self { worker, snapshot, counters, bridge }
    }

    /// Two that are joined.
    fn pair(key: &DirectionKey) -> [Self; 2] {
        let loopback = Some(Ipv4Addr::LOCALHOST.into());
        let [a, b] = [(); 2].map(|()| udp::open(loopback, 0, 1).unwrap().remove(0));
        let [at_a, at_b] = [&a, &b].map(|udp| SocketAddr::from((Ipv4Addr::LOCALHOST, udp.port())));
        [Self::new(1, 2, a, at_b, key), Self::new(2, 1, b, at_a, key)]
    }

    /// Takes what the bridge sends to the other hosts.
    fn capture(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            rustix::io::write(&self.bridge, frame).unwrap();
        }
        self.worker.capture(&self.snapshot, NOW);
        self.worker.forwarder.outbox.flush();
    }

    /// Gives the bridge what has come.
    fn inject(&mut self, buffer: &mut [u8]) {
        self.worker.receive(NOW);
        while rustix::io::read(&self.bridge, &mut *buffer).is_ok() {}
    }
}

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; PeerId::LEN])
}

fn mac(number: u8) -> MacAddr {
    MacAddr::from_bytes([2, 0, 0, 0, 0, number])
}

/// Has these frames cross in each round, and expects so many.
fn cross(key: &DirectionKey, frames: &[Vec<u8>], expected: usize) {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let [mut from, mut to] = End::pair(key);
    let mut buffer = vec![0; 1 << 17];
    for _ in 0..rounds {
        from.capture(frames);
        to.inject(&mut buffer);
    }
    let mut counted = crate::engine::CounterSnapshot::default();
    counted.add(&to.counters);
    let arrived = counted.traffic(Path::Bridge, Direction::Out).frames;
    assert_eq!(arrived, (rounds * expected) as u64);
}

/// Frames of 64 bytes with a datagram each, as the TAP gives them.
fn small(count: usize) -> Vec<Vec<u8>> {
    let udp = [&[4, 0, 8, 0, 0, 30, 0, 0][..], &[5; 22]].concat();
    vec![[&Offload::Nothing.encode()[..], &ipv4(17, &udp)].concat(); count]
}

/// A super-frame of TCP.
fn stream() -> Vec<Vec<u8>> {
    let head = [4, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    let tcp = [&head[..], &[5; SEGMENTS * SEGMENT_LEN]].concat();
    let offload = Offload::Segmentation(Segmentation {
        kind: SegmentKind::TcpV4 { has_cwr: false },
        size: SEGMENT_LEN as u16,
        head_len: 54,
        checksum: PartialChecksum { start: 34, offset: 16 },
    });
    vec![[&offload.encode()[..], &ipv4(6, &tcp)].concat()]
}

/// A frame from the first one's container to the second one's.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let head = [0x45, 0, len[0], len[1], 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
    let [to, from] = [mac(2), mac(1)];
    [&to.as_bytes()[..], from.as_bytes(), &[8, 0], &head, payload].concat()
}

#[test]
fn a_small_frame_crosses_sealed() {
    cross(&SEALED, &small(1), 1);
}

#[test]
fn small_frames_cross_sealed() {
    cross(&SEALED, &small(SMALL_FRAMES), SMALL_FRAMES);
}

#[test]
fn small_frames_cross_in_clear() {
    cross(&CLEAR, &small(SMALL_FRAMES), SMALL_FRAMES);
}

#[test]
fn a_super_frame_crosses_sealed() {
    cross(&SEALED, &stream(), SEGMENTS);
}

#[test]
fn a_super_frame_crosses_in_clear() {
    cross(&CLEAR, &stream(), SEGMENTS);
}
