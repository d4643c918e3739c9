//! Two routers that know each other over a third only.

use super::*;

/// h1 – h2 – h3, where h1 and h3 cannot connect with each other, and frames pass between neighbours.
fn chain() -> Net {
    let hosts = [config(1, Some([9; 32]), vec![named(1)]), config(2, Some([9; 32]), vec![])];
    let last = config(3, Some([9; 32]), vec![named(1)]);
    let mut net = Net::new(hosts.into_iter().chain([last]).collect());
    net.cut = BTreeSet::from([(0, 2), (2, 0)]);
    for node in 0..3 {
        net.input(node, Input::Addresses(vec![address(node).ip()]));
    }
    net.run(secs(1));
    for (a, b) in [(0, 1), (1, 2)] {
        net.alive(a, b);
    }
    net.run(secs(1));
    assert_eq!(next_hop(&net, 0, 2), Some(net.nodes[1].peer_id()));
    net
}

fn next_hop(net: &Net, from: usize, to: usize) -> Option<PeerId> {
    let plan = net.plans[from].as_ref().expect("a plan");
    plan.routes.next_hop.get(&net.nodes[to].peer_id()).copied()
}

fn has_link(net: &Net, from: usize, to: usize) -> bool {
    let peer = net.nodes[to].peer_id();
    net.plans[from].as_ref().expect("a plan").links.iter().any(|link| link.peer == peer)
}

impl Net {
    /// Both ends hear that probes between them are answered.
    pub(super) fn alive(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            let peer = self.nodes[to].peer_id();
            self.input(from, Input::Report(Report::Alive { peer, rtt: Duration::from_millis(3) }));
        }
    }

    fn relayed(&mut self, from: usize, to: usize) {
        let peer = self.nodes[to].peer_id();
        self.input(from, Input::Report(Report::Relayed { peer }));
    }
}

#[test]
fn peers_whose_frames_are_relayed_agree_on_keys_and_go_straight() {
    let mut net = chain();
    net.relayed(0, 2);
    net.run(secs(1));
    assert!(passes(&net, 0, 2) && passes(&net, 2, 0));
    assert!(net.link(0, 2).candidates.contains(&address(2)));
    assert!(net.link(2, 0).candidates.contains(&address(0)));
    assert_eq!(next_hop(&net, 0, 2), Some(net.nodes[1].peer_id()), "no probe has been answered yet");

    net.alive(0, 2);
    net.run(secs(1));
    assert_eq!(next_hop(&net, 0, 2), Some(net.nodes[2].peer_id()));
    assert_eq!(next_hop(&net, 2, 0), Some(net.nodes[0].peer_id()));
    let records = |net: &Net, node: usize| net.nodes[node].peer_status();
    assert!(
        records(&net, 1).iter().flat_map(|peer| &peer.links).all(|link| {
            let ends = [0, 2].map(|node| net.nodes[node].peer_id());
            !ends.contains(&link.peer) || link.established
        }),
        "the direct link stands in no record"
    );
    assert_eq!(records(&net, 1).iter().map(|peer| peer.links.len()).sum::<usize>(), 4);
}

#[test]
fn a_direct_link_that_dies_leaves_frames_to_the_relay_and_a_new_attempt_follows() {
    let mut net = chain();
    net.relayed(0, 2);
    net.run(secs(1));
    net.alive(0, 2);
    net.run(secs(1));
    for (at, to) in [(0, 2), (2, 0)] {
        let peer = net.nodes[to].peer_id();
        net.input(at, Input::Report(Report::Dead { peer, silent_for: secs(1) }));
    }
    net.run(secs(1));
    assert_eq!(next_hop(&net, 0, 2), Some(net.nodes[1].peer_id()));
    assert!(passes(&net, 0, 2), "under fresh keys the two go on trying");
    net.alive(0, 2);
    net.run(secs(1));
    assert_eq!(next_hop(&net, 0, 2), Some(net.nodes[2].peer_id()));
}

#[test]
fn both_ends_may_open_a_session_at_once() {
    let mut net = chain();
    let (a, c) = (net.nodes[0].peer_id(), net.nodes[2].peer_id());
    // Each handles its report before it sees what the other has sent.
    let mut inputs = VecDeque::new();
    for (node, peer) in [(0, c), (2, a)] {
        net.nodes[node].handle(Input::Report(Report::Relayed { peer }), net.now);
    }
    for node in [0, 2] {
        while let Some(output) = net.nodes[node].poll_output() {
            net.output(node, output, &mut inputs);
        }
    }
    for (node, input) in inputs {
        net.input(node, input);
    }
    net.run(secs(1));
    assert!(passes(&net, 0, 2) && passes(&net, 2, 0));
    assert_eq!(net.nodes[0].relays.all().count(), 1);
    assert_eq!(net.nodes[2].relays.all().count(), 1);
}

#[test]
fn peers_that_cannot_reach_each_other_stay_on_the_relay_and_try_again_later() {
    let mut net = chain();
    net.relayed(0, 2);
    net.run(secs(15));
    assert!(!has_link(&net, 0, 2) && !has_link(&net, 2, 0));
    assert_eq!(net.nodes[0].relays.all().count() + net.nodes[2].relays.all().count(), 0);
    net.relayed(0, 2);
    net.run(secs(1));
    assert!(!has_link(&net, 0, 2), "an attempt that led to nothing is not repeated at once");
    net.run(secs(60));
    net.relayed(0, 2);
    net.run(secs(1));
    assert!(passes(&net, 0, 2));
}

#[test]
fn a_session_that_nobody_needs_any_more_is_closed_at_both_ends() {
    let mut net = chain();
    net.relayed(0, 2);
    net.run(secs(1));
    net.alive(0, 2);
    let peer = net.nodes[2].peer_id();
    net.input(0, Input::Report(Report::Idle { peer }));
    net.run(secs(1));
    assert!(!has_link(&net, 0, 2) && !has_link(&net, 2, 0));
    net.relayed(2, 0);
    net.run(secs(1));
    assert!(passes(&net, 0, 2), "it was of use before, so the next attempt may start at once");
}

#[test]
fn a_router_tells_where_its_neighbours_see_its_packets_come_from() {
    let mut net = chain();
    let (a, b) = (net.nodes[0].peer_id(), net.nodes[1].peer_id());
    let outside = "198.51.100.7:40123".parse().expect("a literal");
    net.input(1, Input::Report(Report::Roamed { peer: a, remote: outside }));
    net.relayed(2, 0);
    net.run(secs(1));
    assert!(net.link(2, 0).candidates.contains(&outside), "{:?}", net.link(2, 0).candidates);
    let later = "198.51.100.7:40999".parse().expect("a literal");
    net.input(1, Input::Report(Report::Roamed { peer: a, remote: later }));
    net.run(secs(1));
    let candidates = &net.link(2, 0).candidates;
    assert!(candidates.contains(&later) && !candidates.contains(&outside), "{candidates:?}");
    net.input(0, Input::Report(Report::Idle { peer: b }));
    assert!(has_link(&net, 0, 1), "a neighbour's link is no relayed session");
}

#[test]
fn a_connection_takes_the_place_of_a_relayed_session() {
    let mut net = chain();
    net.relayed(0, 2);
    net.run(secs(1));
    net.alive(0, 2);
    net.cut.clear();
    net.nodes[0].connector =
        Connector::new(net.nodes[0].peer_id(), false, 64, vec![named(1), named(2)], net.now);
    net.run(secs(2));
    assert!(net.nodes[0].sessions.contains_key(&net.nodes[2].peer_id()));
    assert_eq!(net.nodes[0].relays.all().count() + net.nodes[2].relays.all().count(), 0);
    assert!(passes(&net, 0, 2) && passes(&net, 2, 0));
}

#[test]
fn a_relay_changes_nothing_and_a_missing_piece_ends_the_stream() {
    let mut net = chain();
    let (a, c) = (net.nodes[0].peer_id(), net.nodes[2].peer_id());
    net.relayed(0, 2);
    net.run(secs(1));
    let stray = |sequence, payload: &[u8]| mesh_wire::control::Relay {
        source: a,
        destination: c,
        hops: 3,
        stream: 7,
        from_initiator: true,
        sequence,
        payload: payload.to_vec(),
    };
    let through = net.nodes[2].sessions[&net.nodes[1].peer_id()];
    let now = net.now;
    for (sequence, payload) in [(0, &b""[..]), (1, b"x"), (5, b"GET / HTTP/1.1")] {
        let from = net.nodes[1].peer_id();
        net.nodes[2].relay(from, stray(sequence, payload), now);
    }
    net.input_drain(2);
    assert!(net.nodes[2].connections.contains_key(&through));
    assert!(passes(&net, 0, 2), "pieces of other streams are passed over");
}

#[test]
fn a_router_that_shall_not_discover_peers_stays_on_the_relays() {
    let mut net = chain();
    net.nodes[2].discovery = false;
    net.relayed(0, 2);
    net.relayed(2, 0);
    net.run(secs(1));
    assert!(!has_link(&net, 0, 2) && !has_link(&net, 2, 0));
}
