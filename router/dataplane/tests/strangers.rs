//! A data plane against a peer played by the test: what is not authentic has no effect and no answer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test file uses its part of the bench")]
mod bench;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::Receiver;

use bench::{DEADLINE, Keys, Namespace, TAP, eventually, index, peer};
use mesh_crypto::{DirectionKey, OpeningKey, SealingKey, Suite};
use mesh_dataplane::engine::{DropReason, Plan};
use mesh_dataplane::{Config, Dataplane, Report, StartError, TapError};
use mesh_wire::sleeve::{COOKIE_LEN, HEADER_LEN, Header, Message, Messages, PacketKind, Probe};

const ALL_KEYS: [Keys; 3] =
    [Keys::Sealed(Suite::Aes256Gcm), Keys::Sealed(Suite::ChaCha20Poly1305), Keys::Clear];

/// A data plane (peer 1) on loopback, and the ends of its one link that the test plays (peer 2).
struct Scene {
    namespace: Namespace,
    dataplane: Dataplane,
    reports: Receiver<Report>,
    router: SocketAddr,
    keys: Keys,
    socket: UdpSocket,
    counter: u64,
}

impl Scene {
    fn new(keys: Keys) -> Self {
        let namespace = Namespace::new();
        let (dataplane, reports) = namespace.dataplane(1, 1370).unwrap();
        let router = ([127, 0, 0, 1], dataplane.port()).into();
        let socket = socket(&namespace);
        let scene = Self { namespace, dataplane, reports, router, keys, socket, counter: 0 };
        scene.publish(vec![keys.link(1, 2, scene.socket.local_addr().unwrap())]);
        scene
    }

    fn publish(&self, links: Vec<mesh_dataplane::engine::LinkPlan>) {
        self.dataplane.publish(Plan {
            me: peer(1),
            digest: 0,
            links,
            next_hop: BTreeMap::new(),
            trees: BTreeMap::new(),
        });
    }

    /// The next packet of peer 2.
    fn packet(&mut self, message: &Message<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        message.encode(&mut body).unwrap();
        self.packet_of(&mut body)
    }

    fn packet_of(&mut self, body: &mut [u8]) -> Vec<u8> {
        self.counter += 1;
        let key = self.keys.direction(2, 1);
        let kind = if self.keys == Keys::Clear { PacketKind::Clear } else { PacketKind::Sealed };
        let header = Header { kind, receiver: index(2, 1), counter: self.counter }.encode();
        match (&key, SealingKey::new(&key)) {
            (DirectionKey::Sealed { .. }, key) => {
                let tag = key.unwrap().seal_in_place(self.counter, &header, body);
                [&header, &*body, &tag].concat()
            }
            (DirectionKey::Clear { cookie }, _) => [&header, &cookie[..], body].concat(),
        }
    }

    fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, self.router).unwrap();
    }

    /// What a packet of peer 1 says.
    fn open(&self, packet: &mut [u8]) -> Vec<(bool, Probe)> {
        let header = Header::decode(packet).unwrap();
        assert_eq!(header.receiver, index(1, 2));
        let (head, rest) = packet.split_first_chunk_mut::<HEADER_LEN>().unwrap();
        let body = match self.keys.direction(1, 2) {
            DirectionKey::Clear { cookie } => rest.strip_prefix(&cookie[..]).unwrap(),
            ref key @ DirectionKey::Sealed { .. } => {
                let len = OpeningKey::new(key).unwrap().open_in_place(header.counter, head, rest).unwrap();
                &rest[..len]
            }
        };
        Messages::new(body)
            .map(|message| match message.unwrap() {
                Message::Probe(probe) => (false, probe),
                Message::ProbeReply(probe) => (true, probe),
                other @ Message::Frame { .. } => panic!("{other:?}"),
            })
            .collect()
    }

    /// Waits for the reply to this probe on `socket`, and passes over the router's own probes. Any other reply fails.
    #[track_caller]
    fn expect_reply(&self, socket: &UdpSocket, sequence: u32) {
        let mut buffer = [0; 2048];
        eventually("a reply", || {
            let (len, from) =
                socket.recv_from(&mut buffer).expect("the router probes and replies all the time");
            assert_eq!(from, self.router);
            let replies: Vec<_> =
                self.open(&mut buffer[..len]).into_iter().filter(|(is_reply, _)| *is_reply).collect();
            assert!(replies.iter().all(|(_, probe)| probe.sequence == sequence), "{replies:?}");
            (!replies.is_empty()).then_some(())
        });
    }
}

fn socket(namespace: &Namespace) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(("127.0.0.1", 0)).unwrap());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

const fn probe(sequence: u32) -> Message<'static> {
    Message::Probe(Probe { sequence, sent_ns: 42 })
}

#[test]
fn garbage_is_counted_and_not_answered() {
    let mut scene = Scene::new(ALL_KEYS[0]);
    let stranger = socket(&scene.namespace);
    stranger.set_nonblocking(true).unwrap();
    // Bytes of a simple generator: all lengths, no header of ours among them but by design below.
    let mut state = 1_u32;
    for len in 0..1_000 {
        let garbage: Vec<u8> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        stranger.send_to(&garbage, scene.router).unwrap();
        if len % 100 == 99 {
            // A good packet behind the garbage is served, so that the socket's buffer has been emptied.
            let packet = scene.packet(&probe(len));
            scene.send(&packet);
            scene.expect_reply(&scene.socket, len);
        }
    }
    let header = Header { kind: PacketKind::Sealed, receiver: index(9, 9), counter: 1 }.encode();
    stranger.send_to(&header, scene.router).unwrap();
    let guess = Header { kind: PacketKind::Sealed, receiver: index(2, 1), counter: 1 << 40 }.encode();
    stranger.send_to(&guess, scene.router).unwrap();
    let guess = Header { kind: PacketKind::Sealed, receiver: index(2, 1), counter: 1 << 20 }.encode();
    stranger.send_to(&[&guess[..], &[0; 64]].concat(), scene.router).unwrap();
    let packet = scene.packet(&probe(5_000));
    scene.send(&packet);
    scene.expect_reply(&scene.socket, 5_000);

    let counters = scene.dataplane.counters();
    assert_eq!(counters.drops(DropReason::NotSleeve), 1_000);
    assert_eq!(counters.drops(DropReason::UnknownReceiver), 1);
    assert_eq!(counters.drops(DropReason::KeyExhausted), 1);
    assert_eq!(counters.drops(DropReason::NotAuthentic), 1);
    let answer = stranger.recv_from(&mut [0; 64]).unwrap_err();
    assert_eq!(answer.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_replay_is_counted_and_not_answered_and_moves_no_address() {
    for keys in ALL_KEYS {
        let mut scene = Scene::new(keys);
        let [first, second] = [1, 2].map(|sequence| scene.packet(&probe(sequence)));
        scene.send(&first);
        scene.expect_reply(&scene.socket, 1);
        let attacker = socket(&scene.namespace);
        attacker.set_nonblocking(true).unwrap();
        attacker.send_to(&first, scene.router).unwrap();
        scene.send(&second);
        scene.expect_reply(&scene.socket, 2);
        assert_eq!(scene.dataplane.counters().drops(DropReason::Replayed), 1);
        assert_eq!(scene.dataplane.links()[0].remote, scene.socket.local_addr().unwrap());
        assert_eq!(attacker.recv_from(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_forged_proof_or_the_other_protection_is_refused() {
    for keys in ALL_KEYS {
        let mut scene = Scene::new(keys);
        let mut forged = scene.packet(&probe(1));
        forged[HEADER_LEN] ^= 1;
        scene.send(&forged);
        let kind = if keys == Keys::Clear { PacketKind::Sealed } else { PacketKind::Clear };
        let header = Header { kind, receiver: index(2, 1), counter: 50 }.encode();
        scene.send(&[&header[..], &[0; COOKIE_LEN + 30]].concat());
        let packet = scene.packet(&probe(3));
        scene.send(&packet);
        scene.expect_reply(&scene.socket, 3);
        let counters = scene.dataplane.counters();
        assert_eq!(counters.drops(DropReason::NotAuthentic), 1);
        assert_eq!(counters.drops(DropReason::WrongProtection), 1);
    }
}

#[test]
fn the_address_follows_authentic_packets_and_is_reported() {
    let mut scene = Scene::new(ALL_KEYS[0]);
    let home = scene.socket.local_addr().unwrap();
    let late = scene.packet(&probe(1));
    let elsewhere = socket(&scene.namespace);
    let away = elsewhere.local_addr().unwrap();
    let packet = scene.packet(&probe(2));
    elsewhere.send_to(&packet, scene.router).unwrap();
    scene.expect_reply(&elsewhere, 2);
    let report = scene.reports.recv_timeout(DEADLINE).unwrap();
    assert!(
        matches!(report, Report::Roamed { peer: p, from, to } if (p, from, to) == (peer(2), home, away)),
        "{report:?}"
    );
    // A packet that was overtaken on the way is served, and moves nothing.
    scene.send(&late);
    scene.expect_reply(&elsewhere, 1);
    assert_eq!(scene.dataplane.links()[0].remote, away);
}

#[test]
fn a_link_is_alive_after_a_reply_and_reported_anew_on_a_new_session() {
    let mut scene = Scene::new(Keys::Clear);
    let serve = |scene: &mut Scene| {
        let mut buffer = [0; 2048];
        eventually("alive", || {
            let (len, _) = scene.socket.recv_from(&mut buffer).unwrap();
            for (is_reply, asked) in scene.open(&mut buffer[..len]) {
                assert!(!is_reply);
                let reply = scene.packet(&Message::ProbeReply(asked));
                scene.send(&reply);
            }
            scene.reports.try_recv().ok()
        })
    };
    let report = serve(&mut scene);
    assert!(matches!(report, Report::Alive { peer: p, .. } if p == peer(2)), "{report:?}");
    let mut renewed = Keys::Clear.link(1, 2, scene.socket.local_addr().unwrap());
    let old_index = renewed.receive[0].index;
    renewed.receive[0].index.0 += 1;
    scene.publish(vec![renewed]);
    assert!(!scene.dataplane.links()[0].is_alive);
    scene.publish(vec![Keys::Clear.link(1, 2, scene.socket.local_addr().unwrap())]);
    assert_eq!(old_index, index(2, 1));
    let report = serve(&mut scene);
    assert!(matches!(report, Report::Alive { .. }), "{report:?}");
}

#[test]
fn messages_of_the_future_are_skipped_and_one_packet_gets_one_reply() {
    let mut scene = Scene::new(ALL_KEYS[0]);
    let mut body = vec![200, 0, 3, 1, 2, 3];
    probe(1).encode(&mut body).unwrap();
    probe(1).encode(&mut body).unwrap();
    body.extend([1, 0, 200]);
    let packet = scene.packet_of(&mut body);
    scene.send(&packet);
    scene.expect_reply(&scene.socket, 1);
    let counters = scene.dataplane.counters();
    assert_eq!(counters.drops(DropReason::UnknownMessage), 1);
    assert_eq!(counters.drops(DropReason::SurplusProbe), 1);
    assert_eq!(counters.drops(DropReason::MalformedMessage), 1);
}

#[test]
fn what_is_in_use_or_missing_is_named() {
    let namespace = Namespace::new();
    let (first, _reports) = namespace.dataplane(2, 1370).unwrap();
    let start = |name: &'static str, port, workers, mtu| {
        let config = Config { tap_name: name.to_owned(), listen: None, port, workers, mtu };
        namespace.run(move || Dataplane::start(config, |_| true).err().unwrap())
    };
    assert!(matches!(start(TAP, 0, 1, 1370), StartError::Tap(TapError::NameInUse(name)) if name == TAP));
    assert!(matches!(start("lo", 0, 1, 1370), StartError::Tap(TapError::NameInUse(_))));
    assert!(matches!(start("other", first.port(), 2, 1370), StartError::Bind { port: 6783, .. }));
    assert!(matches!(start("other", 0, 0, 1370), StartError::Workers(0)));
    assert!(matches!(start("other", 0, 1, 9), StartError::Tap(TapError::Mtu { mtu: 9, .. })));
    assert!(!namespace.try_sh("ip link show other").status.success(), "a refused start leaves nothing");
    namespace.sh("mount -t tmpfs none /dev/net");
    assert!(matches!(start("other", 0, 1, 1370), StartError::Tap(TapError::NoDevice(_))));
}
