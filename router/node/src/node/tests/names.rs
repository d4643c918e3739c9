//! Names over real sessions: how far they travel, when they are hidden, and what a restart does to them.

use mesh_names::{ContainerId, Entry, Name, Names, Order, Zone};
use mesh_wire::control::{Gossip, NamesRecord, SignedRecord};

use super::*;
use crate::counters::Count;

/// The names of a router that knows none.
pub(super) fn empty(me: PeerId, boot: u64) -> Names {
    let zone = Zone {
        domain: "mesh.internal".parse().expect("a name"),
        ranges: Vec::new(),
        ttl: 1,
        negative_ttl: 1,
        servers: Vec::new(),
        order: Order::Shuffled,
    };
    Names::new(me, BootCount(boot), zone).expect("the domain is short")
}

fn chain(count: u8) -> Vec<Config> {
    let host = |n: u8| {
        let targets = if n == 1 { vec![] } else { vec![named(usize::from(n) - 2)] };
        Config { discovery: false, ..config(n, None, targets) }
    };
    (1..=count).map(host).collect()
}

fn container() -> ContainerId {
    "netns:c1".parse().expect("an id")
}

fn entry(label: &str, last: u8) -> Entry {
    let address = IpAddr::from([10, 32, 0, last]);
    Entry::new(&format!("{label}.mesh.internal"), address, container(), None).expect("an entry")
}

fn say(net: &mut Net, node: usize, entries: impl IntoIterator<Item = Entry>) {
    let entries = entries.into_iter().collect();
    net.input(node, Input::Names { container: container(), entries });
}

/// The addresses of a name, as a server of this node would give them.
fn lookup(net: &mut Net, node: usize, label: &str) -> Vec<IpAddr> {
    let name: Name = format!("{label}.mesh.internal").parse().expect("a name");
    net.nodes[node].names().addresses(&name).1
}

fn addresses(last: &[u8]) -> Vec<IpAddr> {
    last.iter().map(|last| IpAddr::from([10, 32, 0, *last])).collect()
}

/// A router's process dies, and another takes its place in the next life.
fn restart(net: &mut Net, node: usize, config: Config) {
    let ends: Vec<_> = net.wires.iter().filter(|((of, _), _)| *of == node).map(|(a, b)| (*a, *b)).collect();
    for (here, (to, there)) in ends {
        net.wires.remove(&here);
        net.wires.remove(&(to, there));
        net.input(to, Input::Closed { id: there });
    }
    let names = empty(net.nodes[node].peer_id(), 2);
    let config = Config { boot: BootCount(2), nonce: 99, names, ..config };
    net.nodes[node] = Node::new(config, Rng::from_seed([77; 32]), net.now);
}

#[test]
fn a_name_is_known_everywhere_within_a_second_and_gone_as_fast() {
    let mut net = Net::new(chain(4));
    net.run(secs(2));
    say(&mut net, 0, [entry("web", 1), entry("web", 2)]);
    net.run(Duration::from_millis(200));
    for node in 0..4 {
        assert_eq!(lookup(&mut net, node, "web"), addresses(&[1, 2]), "{node}");
    }
    say(&mut net, 0, [entry("web", 2)]);
    net.run(Duration::from_millis(200));
    assert_eq!(lookup(&mut net, 3, "web"), addresses(&[2]));
    say(&mut net, 0, []);
    net.run(Duration::from_millis(200));
    assert!((0..4).all(|node| lookup(&mut net, node, "web").is_empty()));
    assert_eq!(net.nodes[3].name_entries().count(), 0);
}

#[test]
fn whoever_comes_later_learns_the_names_and_nobody_without_names_says_a_word_of_them() {
    let mut configs = chain(3);
    let late = std::mem::take(&mut configs[2].targets);
    let mut net = Net::new(configs);
    say(&mut net, 0, [entry("web", 1)]);
    net.run(secs(2));
    net.input(2, Input::Connect { targets: late, replace: true });
    net.run(secs(2));
    assert_eq!(lookup(&mut net, 2, "web"), addresses(&[1]));
    let records = net.nodes[2].names.get(0).expect("there is one");
    assert_eq!(records.len(), 1);
}

#[test]
fn names_of_a_peer_out_of_reach_are_hidden_and_come_back_with_it() {
    let mut net = Net::new(chain(3));
    say(&mut net, 2, [entry("web", 3)]);
    net.run(secs(2));
    assert_eq!(lookup(&mut net, 0, "web"), addresses(&[3]));
    let id = net.nodes[1].sessions[&net.nodes[2].peer_id()];
    let (to, there) = net.wires[&(1, id)];
    net.cut.extend([(2, 1), (1, 2)]);
    net.wires.remove(&(1, id));
    net.wires.remove(&(to, there));
    net.input(1, Input::Closed { id });
    net.input(to, Input::Closed { id: there });
    net.run(Duration::from_millis(200));
    assert_eq!(lookup(&mut net, 0, "web"), addresses(&[]), "hidden at once");
    assert_eq!(lookup(&mut net, 2, "web"), addresses(&[3]), "its own router answers on");
    // Longer than records of unreachable peers are kept.
    net.run(secs(5));
    net.cut.clear();
    net.run(secs(40));
    assert_eq!(lookup(&mut net, 0, "web"), addresses(&[3]));
}

#[test]
fn names_without_a_way_for_frames_are_hidden_after_a_second_and_shown_with_the_next_frame() {
    let mut net = Net::new(chain(2));
    net.run(secs(2));
    say(&mut net, 0, [entry("web", 1)]);
    net.run(Duration::from_millis(200));
    assert_eq!(lookup(&mut net, 1, "web"), addresses(&[1]), "before any frame has passed");
    let (a, b) = (net.nodes[0].peer_id(), net.nodes[1].peer_id());
    let frames_pass = |net: &mut Net, pass: bool| {
        for (from, peer) in [(0, b), (1, a)] {
            let alive = Report::Alive { peer, rtt: Duration::from_millis(3) };
            let dead = Report::Dead { peer, silent_for: secs(1) };
            net.input(from, Input::Report(if pass { alive } else { dead }));
        }
        net.run(Duration::from_millis(100));
    };
    frames_pass(&mut net, true);
    frames_pass(&mut net, false);
    net.run(Duration::from_millis(700));
    assert_eq!(lookup(&mut net, 1, "web"), addresses(&[1]), "another way may open");
    net.run(Duration::from_millis(300));
    assert_eq!(lookup(&mut net, 1, "web"), addresses(&[]), "though the session still stands");
    assert_eq!(net.nodes[1].peer_status().len(), 2);
    frames_pass(&mut net, true);
    assert_eq!(lookup(&mut net, 1, "web"), addresses(&[1]));
    frames_pass(&mut net, false);
    frames_pass(&mut net, true);
    net.run(secs(2));
    assert_eq!(lookup(&mut net, 1, "web"), addresses(&[1]), "a short silence is none");
}

#[test]
fn a_set_that_grows_is_cut_and_one_that_shrinks_leaves_nothing_behind() {
    let mut net = Net::new(chain(3));
    net.run(secs(2));
    let many = |count: u32| {
        (0..count).map(|n| entry(&format!("a-rather-long-name-of-a-host-{n}"), 1)).collect::<Vec<_>>()
    };
    say(&mut net, 0, many(3_000));
    net.run(secs(2));
    assert_eq!(net.nodes[2].name_entries().count(), 3_000);
    assert!(net.nodes[2].names.channels().count() > 1, "more than one chunk");
    say(&mut net, 0, many(1));
    net.run(secs(2));
    assert_eq!(net.nodes[2].name_entries().count(), 1);
    assert_eq!(lookup(&mut net, 2, "a-rather-long-name-of-a-host-0"), addresses(&[1]));
    let before = net.count_of(1, Count::SummaryDiffered);
    net.run(secs(60));
    assert_eq!(net.count_of(1, Count::SummaryDiffered), before, "and all agree");
}

#[test]
fn a_restarted_router_outruns_what_others_remember_of_its_earlier_life() {
    for names_later in [0_u8, 1, 2] {
        let mut net = Net::new(chain(3));
        let many = (0..3_000).map(|n| entry(&format!("a-rather-long-name-of-a-host-{n}"), 1));
        say(&mut net, 2, many);
        net.run(secs(2));
        assert_eq!(net.nodes[0].name_entries().count(), 3_000);
        let config = chain(3).pop().expect("three");
        restart(&mut net, 2, config);
        say(&mut net, 2, (0..names_later).map(|n| entry(&format!("new-{n}"), n)));
        net.run(secs(3));
        for node in 0..3 {
            assert_eq!(net.nodes[node].name_entries().count(), usize::from(names_later), "{node}");
        }
        let before = net.count_of(1, Count::SummaryDiffered);
        net.run(secs(60));
        assert_eq!(net.count_of(1, Count::SummaryDiffered), before, "and all agree");
    }
}

#[test]
fn a_member_can_lie_only_about_itself() {
    let mut net = Net::new(chain(2));
    net.run(secs(2));
    let liar = Identity::generate(&mut Rng::from_seed([1; 32]));
    let honest = net.nodes[1].peer_id();
    for (origin, channel) in [(honest, Channel::NAMES), (liar.peer_id(), Channel(Channel::NAMES.0 + 1))] {
        let mut names = empty(origin, 1);
        names.add(entry("web", 66)).expect("room");
        let chunk = names.own_chunk(0).expect("the first");
        let number = chunk.number();
        let key = *liar.public_key().as_bytes();
        let record = NamesRecord { key, boot: number.boot, version: number.version, chunk: chunk.encode() };
        let body = record.encode();
        let signed = [&channel.0.to_be_bytes(), body.as_slice()].concat();
        let signature = *liar.sign("mesh record v1", &signed).as_bytes();
        let entry = SignedRecord { body, signature }.encode();
        let gossip = Message::Gossip(Gossip { channel, entries: vec![entry.into()] });
        let (id, now) = (net.nodes[0].sessions[&honest], net.now);
        net.nodes[0].send(id, &gossip, now);
        net.input_drain(0);
    }
    net.run(secs(1));
    assert_eq!(lookup(&mut net, 1, "web"), addresses(&[]));
    assert_eq!(net.count_of(1, Count::RecordRefused), 2);
}

impl Net {
    fn count_of(&self, node: usize, count: Count) -> u64 {
        self.nodes[node].counters().get(count)
    }
}
