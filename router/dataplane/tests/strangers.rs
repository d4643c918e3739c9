//! A data plane against a peer played by the test: what is not authentic has no effect and no answer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test file uses its part of the bench")]
mod bench;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use bench::{DEADLINE, Keys, Namespace, TAP, eventually, index, peer};
use mesh_crypto::{DirectionKey, OpeningKey, SealingKey, Suite};
use mesh_dataplane::engine::{DropReason, LinkPlan, Plan};
use mesh_dataplane::{Config, Dataplane, Failure, Report, StartError, TapError, Uplink};
use mesh_wire::sleeve::{COOKIE_LEN, Envelope, HEADER_LEN, Header, Message, Messages, PacketKind, Probe};

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

    fn publish(&self, links: Vec<LinkPlan>) {
        self.dataplane.publish(Plan {
            me: peer(1),
            digest: 0,
            links,
            next_hop: BTreeMap::new(),
            trees: BTreeMap::new(),
            groups: Arc::default(),
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
            .filter_map(|message| match message.unwrap() {
                Message::Probe(probe) => Some((false, probe)),
                Message::ProbeReply(probe) => Some((true, probe)),
                Message::SizeProbe { .. } => None,
                other @ (Message::Frame { .. }
                | Message::Part(_)
                | Message::Deaf
                | Message::SizeReply { .. }) => panic!("{other:?}"),
            })
            .collect()
    }

    /// Waits for the reply to this probe on `socket`, and passes over the router's own probes. Any other reply fails.
    #[track_caller]
    fn expect_reply(&self, socket: &UdpSocket, sequence: u32) {
        let mut buffer = [0; 1 << 16];
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

/// Whether a reply to this probe comes within half a second.
fn is_answered(scene: &Scene, sequence: u32) -> bool {
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut buffer = [0; 1 << 16];
    scene.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while Instant::now() < deadline {
        let Ok((len, _)) = scene.socket.recv_from(&mut buffer) else { continue };
        if scene
            .open(&mut buffer[..len])
            .iter()
            .any(|(is_reply, probe)| *is_reply && probe.sequence == sequence)
        {
            return true;
        }
    }
    false
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

/// Packets that look like the neighbour's: five times as many as may fail in a second.
fn flood_with_guesses(stranger: &UdpSocket, router: SocketAddr, kind: PacketKind, until: &AtomicBool) {
    let deadline = Instant::now() + DEADLINE;
    let mut counter = 1 << 30;
    while !until.load(Ordering::Relaxed) && Instant::now() < deadline {
        for _ in 0..500 {
            counter += 1;
            let header = Header { kind, receiver: index(2, 1), counter }.encode();
            stranger.send_to(&[&header[..], &[7; 1_000]].concat(), router).unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_flood_with_a_known_receiver_index_is_limited_and_the_neighbour_is_served() {
    for keys in [ALL_KEYS[0], Keys::Clear] {
        let mut scene = Scene::new(keys);
        let stranger = socket(&scene.namespace);
        stranger.set_nonblocking(true).unwrap();
        let kind = if keys == Keys::Clear { PacketKind::Clear } else { PacketKind::Sealed };
        let (is_over, router, start) = (AtomicBool::new(false), scene.router, Instant::now());
        let answered = std::thread::scope(|scope| {
            scope.spawn(|| flood_with_guesses(&stranger, router, kind, &is_over));
            let answered = (0..50).filter(|sequence| {
                std::thread::sleep(Duration::from_millis(20));
                let packet = scene.packet(&probe(*sequence));
                scene.send(&packet);
                is_answered(&scene, *sequence)
            });
            let answered = answered.count();
            is_over.store(true, Ordering::Relaxed);
            answered
        });
        let counters = scene.dataplane.counters();
        let (tried, spared) =
            (counters.drops(DropReason::NotAuthentic), counters.drops(DropReason::GarbageLimit));
        assert!(answered >= 48, "{answered} of 50 with {tried} guesses tried and {spared} not");
        assert!(spared > 1_000, "{tried} tried, {spared} not");
        assert!(tried as f64 <= 1_100.0 + 10_000.0 * start.elapsed().as_secs_f64(), "{tried} tried");
        assert_eq!(stranger.recv_from(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
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
fn a_pinned_neighbour_is_served_from_elsewhere_and_answered_where_it_is_known() {
    let mut scene = Scene::new(Keys::Clear);
    let home = scene.socket.local_addr().unwrap();
    scene.publish(vec![LinkPlan { roams: false, ..Keys::Clear.link(1, 2, home) }]);
    let elsewhere = socket(&scene.namespace);
    elsewhere.set_nonblocking(true).unwrap();
    let packet = scene.packet(&probe(1));
    elsewhere.send_to(&packet, scene.router).unwrap();
    scene.expect_reply(&scene.socket, 1);
    assert_eq!(scene.dataplane.links()[0].remote, home);
    assert_eq!(elsewhere.recv_from(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_neighbour_that_answers_at_another_of_its_addresses_is_found_there() {
    let mut scene = Scene::new(ALL_KEYS[0]);
    let silent = socket(&scene.namespace);
    let wrong = silent.local_addr().unwrap();
    let right = scene.socket.local_addr().unwrap();
    let mut plan = scene.keys.link(1, 2, wrong);
    plan.candidates = vec![([127, 0, 0, 1], 9).into(), right];
    // Without the link before, this one is new, and its address is the plan's.
    scene.publish(vec![]);
    scene.publish(vec![plan]);
    scene.socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 1 << 16];
    while scene.socket.recv_from(&mut buffer).is_ok() {}
    scene.socket.set_nonblocking(false).unwrap();
    let (_, from) = silent.recv_from(&mut buffer).unwrap();
    assert_eq!(from, scene.router, "the first address is tried too");
    let (len, _) = scene.socket.recv_from(&mut buffer).unwrap();
    let (_, asked) = scene.open(&mut buffer[..len])[0];
    assert_eq!(scene.dataplane.links()[0].remote, wrong, "as long as nothing answers");
    let reply = scene.packet(&Message::ProbeReply(asked));
    scene.send(&reply);
    eventually("alive there", || {
        let link = scene.dataplane.links().remove(0);
        (link.is_alive && link.remote == right).then_some(())
    });
    let reports: Vec<_> = scene.reports.try_iter().collect();
    assert!(
        reports.iter().any(|report| matches!(report, Report::Roamed { to, .. } if *to == right)),
        "{reports:?}"
    );
}

#[test]
fn a_socket_that_errs_is_reported_and_opened_anew() {
    let mut scene = Scene::new(ALL_KEYS[0]);
    let packet = scene.packet(&probe(1));
    scene.send(&packet);
    scene.expect_reply(&scene.socket, 1);
    let descriptor = descriptor_of_the_only_socket(&scene.namespace);
    let no_socket = rustix::event::eventfd(1, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    // SAFETY: the descriptor stays open and with its owner; what it refers to is another file from now on.
    assert_eq!(unsafe { libc::dup2(no_socket.as_raw_fd(), descriptor) }, descriptor);
    let report = scene.reports.recv_timeout(DEADLINE).unwrap();
    assert!(matches!(report, Report::Failed(Failure::Udp(_))), "{report:?}");
    let mut sequence = 1;
    eventually("served again", || {
        sequence += 1;
        let packet = scene.packet(&probe(sequence));
        scene.send(&packet);
        is_answered(&scene, sequence).then_some(())
    });
    assert!(scene.reports.try_recv().is_err(), "an outage is told once");
}

/// The number of this process's descriptor for the router's socket, an IPv6 one.
fn descriptor_of_the_only_socket(namespace: &Namespace) -> i32 {
    let inode = namespace.sh("awk 'NR == 2 { print $10 }' /proc/thread-self/net/udp6");
    let name = format!("socket:[{}]", inode.trim());
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap());
    let mut ours = descriptors.filter(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == name.as_str())
    });
    ours.next().unwrap().file_name().into_string().unwrap().parse().unwrap()
}

#[test]
fn a_link_is_alive_after_a_reply_and_reported_anew_on_a_new_session() {
    let mut scene = Scene::new(Keys::Clear);
    let serve = |scene: &mut Scene| {
        let mut buffer = [0; 1 << 16];
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
fn a_frame_on_an_idle_link_calls_for_probes_at_once() {
    let mut scene = Scene::new(ALL_KEYS[0]);
    let here = scene.socket.local_addr().unwrap();
    // With so many links an idle one is probed every two seconds.
    let silent = (3..30).map(|other| scene.keys.link(1, other, ([127, 0, 0, 1], 9).into()));
    let plan = std::iter::once(scene.keys.link(1, 2, here)).chain(silent).collect();
    scene.publish(plan);
    scene.socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    eventually("idle", || (probes_within(&mut scene, Duration::from_millis(1_500)) <= 1).then_some(()));
    let frame = Message::Frame { envelope: Envelope::Direct, frame: &[2; 64] };
    let packet = scene.packet(&frame);
    scene.send(&packet);
    let probes = probes_within(&mut scene, Duration::from_millis(1_500));
    assert!((4..=8).contains(&probes), "{probes}: not one at once and then four a second");
}

/// Replies to the router's probes for a while. Returns how many there were.
fn probes_within(scene: &mut Scene, time: Duration) -> usize {
    let (start, mut buffer, mut probes) = (Instant::now(), [0; 1 << 16], 0);
    while start.elapsed() < time {
        let Ok((len, _)) = scene.socket.recv_from(&mut buffer) else { continue };
        for (_, asked) in scene.open(&mut buffer[..len]) {
            probes += 1;
            let reply = scene.packet(&Message::ProbeReply(asked));
            scene.send(&reply);
        }
    }
    probes
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
        let config = Config {
            uplink: Uplink::Tap(name.to_owned()),
            listen: None,
            port,
            workers,
            mtu,
            node_local: Vec::new(),
        };
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
