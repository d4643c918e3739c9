//! Records between routers: how they spread, what repairs them, and what is refused.

use mesh_wire::control::{Gossip, PeerRecord, SignedRecord};

use super::*;
use crate::connection::Connection;
use crate::counters::Count;

const UNKNOWN: Channel = Channel(999);

fn identity(seed: u8) -> Identity {
    Identity::generate(&mut Rng::from_seed([seed; 32]))
}

/// An entry of `channel`.
fn entry(seed: u8, channel: Channel, version: u64) -> Vec<u8> {
    record(seed, channel, version, Vec::new())
}

/// An entry of `channel` whose body starts like that of every record.
fn record(seed: u8, channel: Channel, version: u64, links: Vec<LinkRecord>) -> Vec<u8> {
    let identity = identity(seed);
    let record = PeerRecord {
        key: *identity.public_key().as_bytes(),
        boot: BootCount(1),
        version,
        nickname: "x".parse().expect("a nickname"),
        port: 1,
        links,
        nonce: 1,
    };
    let body = record.encode();
    let signed = [&channel.0.to_be_bytes(), body.as_slice()].concat();
    let signature = *identity.sign("mesh record v1", &signed).as_bytes();
    SignedRecord { body, signature }.encode()
}

#[test]
fn a_round_trip_that_changes_all_the_time_is_told_of_now_and_then() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.run(secs(1));
    let peer = net.nodes[1].peer_id();
    let alive = |milliseconds| Report::Alive { peer, rtt: Duration::from_millis(milliseconds) };
    net.input(0, Input::Report(alive(1)));
    net.run(secs(1));
    let told = |net: &Net| (net.nodes[0].own_record().version, net.nodes[0].own_record().links[0].distance);
    let (version, near) = told(&net);

    for _ in 0..30 {
        net.input(0, Input::Report(alive(1)));
        net.run(secs(1));
        net.input(0, Input::Report(alive(40)));
        net.run(secs(1));
    }
    let (later, _) = told(&net);
    assert!(later <= version + 6, "the record went from {version} to {later} in a minute");
    net.run(secs(60));
    let (last, far) = told(&net);
    assert!(far > near && last <= later + 1, "{far} after {near}; the record went on to {last}");
}

fn link(peer: PeerId) -> LinkRecord {
    LinkRecord { distance: 0, overlay: 1, peer, address: address(0), outbound: false, established: true }
}

/// h1 – h2 – …, where nobody dials what it was not told to.
fn chain(count: u8) -> Vec<Config> {
    let host = |n: u8| {
        let targets = if n == 1 { vec![] } else { vec![named(usize::from(n) - 2)] };
        Config { discovery: false, ..config(n, None, targets) }
    };
    (1..=count).map(host).collect()
}

impl Net {
    /// The connection from one node to another, as the first names it.
    fn connection(&self, from: usize, to: usize) -> ConnectionId {
        self.nodes[from].sessions[&self.nodes[to].peer_id()]
    }

    fn say(&mut self, from: usize, to: usize, message: &Message) {
        let (id, now) = (self.connection(from, to), self.now);
        self.nodes[from].send(id, message, now);
        self.input_drain(from);
    }

    fn count(&self, node: usize, count: Count) -> u64 {
        self.nodes[node].counters().get(count)
    }

    fn carries(&self, node: usize, seed: u8, version: u64) -> bool {
        let records = self.nodes[node].carried.get(UNKNOWN);
        let record = records.and_then(|records| records.get(identity(seed).peer_id()));
        record.is_some_and(|record| record.row.version == version)
    }
}

fn gossip(channel: Channel, entries: Vec<Vec<u8>>) -> Message {
    Message::Gossip(Gossip { channel, entries: entries.into_iter().map(Into::into).collect() })
}

#[test]
fn records_of_an_unknown_channel_travel_on_and_reach_those_who_come_later() {
    let mut configs = chain(5);
    let late: Vec<_> = configs[3..].iter_mut().map(|config| std::mem::take(&mut config.targets)).collect();
    // h4 will dial h3, and h1 will dial h5: each side of a new session may be the one that has never heard of the channel.
    let mut net = Net::new(configs);
    net.run(secs(1));
    net.say(0, 1, &gossip(UNKNOWN, vec![entry(1, UNKNOWN, 1)]));
    net.run(secs(1));
    assert!(net.carries(1, 1, 1) && net.carries(2, 1, 1));
    net.input(3, Input::Connect { targets: late[0].clone(), replace: false });
    net.input(2, Input::Connect { targets: vec![named(4)], replace: false });
    net.run(secs(1));
    assert!(net.carries(3, 1, 1) && net.carries(4, 1, 1));
    assert!(
        net.nodes[2].counters().gossip().any(|(channel, traffic)| channel == UNKNOWN && traffic.sent > 0)
    );
}

#[test]
fn records_of_an_unknown_channel_go_with_their_origin() {
    let mut net = Net::new(chain(3));
    net.run(secs(1));
    net.say(0, 1, &gossip(UNKNOWN, vec![entry(1, UNKNOWN, 1), entry(77, UNKNOWN, 1)]));
    net.run(secs(1));
    assert!(net.carries(1, 77, 1) && !net.carries(2, 77, 1), "what nobody reaches is not handed on");
    net.run(secs(2));
    assert!(net.carries(1, 1, 1) && !net.carries(1, 77, 1), "and soon forgotten");
    net.input(1, Input::Forget { targets: vec![named(0)] });
    net.input(0, Input::Stop);
    net.run(secs(3));
    assert!((1..3).all(|node| net.nodes[node].carried.get(UNKNOWN).is_none()));
}

#[test]
fn routers_that_agree_ask_each_other_one_short_question_now_and_then() {
    let mut net = Net::new(chain(3));
    net.run(secs(5));
    let counts = |net: &Net| {
        let all = |count| (0..3).map(|node| net.count(node, count)).sum::<u64>();
        (all(Count::SummaryReceived), all(Count::SummaryDiffered), all(Count::RecordMerged))
    };
    let before = counts(&net);
    let bytes = |net: &Net| net.nodes[1].counters().gossip().map(|(_, traffic)| traffic.sent).sum::<u64>();
    let sent = bytes(&net);
    net.run(secs(100));
    let after = counts(&net);
    assert!((20..=40).contains(&(after.0 - before.0)), "{before:?} {after:?}");
    assert_eq!((before.1, before.2), (after.1, after.2));
    assert!(bytes(&net) - sent < 1_000);
}

#[test]
fn what_a_push_has_missed_is_found_by_a_summary() {
    let mut net = Net::new(chain(2));
    net.run(secs(1));
    net.nodes[0].carried.merge(UNKNOWN, &entry(1, UNKNOWN, 1)).expect("genuine");
    net.nodes[1].carried.merge(UNKNOWN, &entry(2, UNKNOWN, 5)).expect("genuine");
    assert!(!net.carries(1, 1, 1));
    net.run(secs(15));
    assert!(net.carries(1, 1, 1) && net.carries(0, 2, 5), "one exchange repairs both ways");
    net.nodes[0].carried.merge(UNKNOWN, &entry(1, UNKNOWN, 2)).expect("genuine");
    net.run(secs(15));
    assert!(net.carries(1, 1, 2));
}

#[test]
fn a_neighbour_that_reads_slowly_holds_little_and_gets_the_newest_in_the_end() {
    let mut net = Net::new(chain(2));
    net.run(secs(1));
    let (id, now) = (net.connection(0, 1), net.now);
    let large = |version| {
        let links = (0..1_000).map(|n| link(PeerId::from_bytes([n as u8; 16])));
        record(1, UNKNOWN, version, links.collect())
    };
    let node = &mut net.nodes[0];
    for version in 1..=100 {
        node.carried.merge(UNKNOWN, &large(version)).expect("genuine");
        node.send_records(id, UNKNOWN, &[node.peer_id()], now);
    }
    let written = |output: &Output| if let Output::Write { bytes, .. } = output { bytes.len() } else { 0 };
    let written: usize = node.outputs.iter().map(written).sum();
    assert!((400_000..700_000).contains(&written), "{written} bytes wait for the neighbour");
    net.input_drain(0);
    assert!(net.carries(1, 1, 100));
}

#[test]
fn a_link_that_flaps_costs_others_ten_records_a_second() {
    let mut net = Net::new(chain(2));
    net.run(secs(1));
    let peer = net.nodes[1].peer_id();
    let before = net.count(1, Count::RecordMerged);
    for n in 0..2_000 {
        let report = match n % 2 {
            0 => Report::Alive { peer, rtt: Duration::from_millis(3) },
            _ => Report::Dead { peer, silent_for: secs(1) },
        };
        net.input(0, Input::Report(report));
        net.run(Duration::from_millis(1));
    }
    net.run(secs(1));
    let merged = net.count(1, Count::RecordMerged) - before;
    assert!((15..=22).contains(&merged), "{merged} records in two seconds");
    let own = net.nodes[0].topology.own();
    assert_eq!(net.nodes[1].topology.record(net.nodes[0].peer_id()), Some(own), "the last one came through");
}

#[test]
fn entries_that_are_refused_are_counted_and_hurt_nobody_else() {
    let mut net = Net::new(chain(2));
    net.run(secs(1));
    let mut forged = entry(1, UNKNOWN, 1);
    *forged.last_mut().expect("not empty") ^= 1;
    let mut entries = vec![b"nonsense".to_vec(); 100];
    entries.extend([forged, entry(1, UNKNOWN, 1), entry(1, Channel(7), 2), vec![0; 70_000]]);
    net.say(0, 1, &gossip(UNKNOWN, entries));
    assert!(net.carries(1, 1, 1), "the good one among them holds");
    assert_eq!(net.count(1, Count::RecordRefused), 101);
    assert_eq!(net.count(1, Count::RecordForged), 2, "one was signed for another channel");
    let lines = net.events[1].iter().filter(|event| matches!(event, Event::GossipRefused { .. })).count();
    assert!((1..=16).contains(&lines), "{lines} lines in the log");
    assert_eq!(net.nodes[1].sessions.len(), 1);
}

#[test]
fn a_message_that_is_none_ends_the_session_with_the_reason() {
    let mut net = Net::new(chain(2));
    net.run(secs(1));
    let id = net.connection(0, 1);
    let open = net.nodes[0].connections.get_mut(&id).and_then(Connection::open_mut).expect("open");
    let bytes = open.sealer.seal(&[1, 0xff, 0xff]).expect("short");
    net.nodes[0].write(id, bytes);
    net.input_drain(0);
    let cause = |node: usize| {
        net.events[node].iter().find_map(|event| {
            let Event::Disconnected { cause, .. } = event else { return None };
            Some(cause.clone())
        })
    };
    assert_eq!(cause(0), Some(CloseCause::Farewell(Farewell::Violation)));
    assert!(matches!(cause(1), Some(CloseCause::Message(_))));
    assert_eq!(net.count(1, Count::Violation), 1);
}

#[test]
fn of_two_routers_with_one_identity_one_gives_up() {
    // The copies have no neighbour in common, so that only their records meet.
    let copy = |nonce, to| Config { nonce, ..config(3, None, vec![named(to)]) };
    let configs = vec![config(1, None, vec![named(1)]), config(2, None, vec![]), copy(50, 0), copy(60, 1)];
    let mut net = Net::new(configs.into_iter().map(|c| Config { discovery: false, ..c }).collect());
    net.run(secs(10));
    assert!(!net.nodes[2].is_fenced() && net.nodes[3].is_fenced());
    let told = |node: usize| net.events[node].iter().any(|event| matches!(event, Event::Cloned { .. }));
    assert!(told(2) && told(3));
    assert!(net.nodes[3].connections.keys().next().is_none() && net.nodes[2].sessions.len() == 1);
    net.run(secs(60));
    assert!(net.nodes[3].connections.keys().next().is_none(), "it neither dials nor accepts");
}

#[test]
fn plans_follow_the_topology_at_a_pace_and_the_last_one_is_complete() {
    let mut net = Net::new(chain(2));
    net.run(secs(1));
    let mut others: Vec<_> = (0..100_u8)
        .map(|n| {
            let identity = identity(100 + n);
            let nickname = "other".parse().expect("a nickname");
            (Topology::new(&identity, BootCount(1), nickname, 6783, 1), identity)
        })
        .collect();
    let all: Vec<_> =
        others.iter().map(|(theirs, _)| theirs.entry(theirs.me()).expect("own").to_vec()).collect();
    net.say(1, 0, &gossip(Channel::TOPOLOGY, all));
    net.run(Duration::from_millis(50));
    let before = (net.planned[0], net.count(0, Count::RoutesComputed));
    for (theirs, identity) in &mut others {
        theirs.publish(identity, vec![link(PeerId::from_bytes([9; 16]))]);
        let entry = theirs.entry(theirs.me()).expect("own").to_vec();
        net.say(1, 0, &gossip(Channel::TOPOLOGY, vec![entry]));
        net.run(Duration::from_millis(1));
    }
    net.run(Duration::from_millis(20));
    let plans = net.planned[0] - before.0;
    assert!((5..=13).contains(&plans), "{plans} plans in 120 ms for a network of 102");
    assert_eq!(net.count(0, Count::RoutesComputed) - before.1, plans as u64);
}
