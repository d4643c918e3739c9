//! Who gets a session with whom, what replaces it, and what ends it.

use mesh_crypto::Membership;
use mesh_wire::NetworkId;

use super::*;
use crate::limits::{
    EPOCHS_MAX, OLD_EPOCH_KEPT, RETIRED_KEPT, RIVAL_ANSWERS_WITHIN, UNAUTHENTICATED_LEN_MAX,
};

fn secret(byte: u8) -> Psk {
    Psk::from_bytes([byte; 32])
}

fn with_secrets(seed: u8, secrets: &[u8], targets: Vec<Target>) -> Config {
    Config { secrets: secrets.iter().map(|byte| secret(*byte)).collect(), ..config(seed, None, targets) }
}

fn network(byte: u8) -> NetworkId {
    NetworkId::from_bytes([byte; 16])
}

/// Two routers, the second of which has dialed, with frames passing.
fn pair(configs: [Config; 2]) -> Net {
    let mut net = Net::new(configs.into());
    net.run(secs(1));
    net.alive(0, 1);
    net.run(secs(1));
    net
}

impl Net {
    fn set_secrets(&mut self, node: usize, secrets: &[u8]) {
        self.input(node, Input::Secrets(secrets.iter().map(|byte| secret(*byte)).collect()));
    }

    /// What opened the session of `node` with `peer` that counts.
    fn secured_by(&self, node: usize, peer: usize) -> Option<Membership> {
        let id = self.nodes[node].sessions.get(&self.nodes[peer].peer_id())?;
        Some(self.nodes[node].connections.get(id)?.open()?.secured_by)
    }

    fn is_connected(&self, node: usize, peer: usize) -> bool {
        self.secured_by(node, peer).is_some()
    }

    fn forget_events(&mut self) {
        self.events.iter_mut().for_each(Vec::clear);
    }

    /// No session has ended and no link has failed since the events were forgotten.
    fn assert_undisturbed(&self) {
        let disturbing = |event: &&Event| {
            matches!(event, Event::Disconnected { .. } | Event::LinkDown { .. } | Event::LinkUp { .. })
        };
        assert_eq!(self.events.iter().flatten().find(disturbing), None);
    }
}

fn states_say(net: &Net, node: usize, words: &str) {
    let states = net.states(node);
    assert!(states.iter().any(|(_, info)| info.contains(words)), "node {node}: {states:?}");
}

#[test]
fn an_initiator_finds_the_secret_that_the_other_router_knows() {
    let mut net = Net::new(vec![with_secrets(1, &[2], vec![]), with_secrets(2, &[1, 3, 2], vec![named(0)])]);
    net.run(secs(5));
    assert_eq!(net.secured_by(1, 0), Some(Membership::Psk(secret(2).id())));
    assert!(!net.events[1].iter().any(|event| matches!(event, Event::DialFailed { .. })));
    for node in [0, 1] {
        let states = net.states(node);
        assert_eq!(states.len(), 1, "the secrets that did not fit are not spoken of any more: {states:?}");
    }
}

#[test]
fn a_target_that_failed_for_its_secret_is_shown_as_it_is_once_a_roll_lets_it_in() {
    let mut net = Net::new(vec![with_secrets(1, &[4], vec![]), with_secrets(2, &[1, 3], vec![named(0)])]);
    net.run(secs(20));
    states_say(&net, 1, "passwords differ");
    for (node, secrets) in [(0, &[4, 5][..]), (1, &[1, 5])] {
        net.set_secrets(node, secrets);
        net.run(secs(1));
    }
    net.run(secs(30));
    assert!(net.is_connected(1, 0));
    for node in [0, 1] {
        let states = net.states(node);
        assert_eq!(states.len(), 1, "node {node}: {states:?}");
    }
    let targets = net.nodes[1].target_status(net.now);
    let shown: Vec<_> = targets.iter().map(|target| (target.state, target.last_error.as_ref())).collect();
    assert_eq!(shown, [(crate::TargetState::Connected, None)]);
}

#[test]
fn an_initiator_that_knows_none_of_the_secrets_says_so_once() {
    let mut net = Net::new(vec![with_secrets(1, &[4], vec![]), with_secrets(2, &[1, 3, 2], vec![named(0)])]);
    net.run(secs(20));
    assert!(!net.is_connected(1, 0));
    let failures = net.events[1].iter().filter(|event| matches!(event, Event::DialFailed { .. })).count();
    assert_eq!(failures, 1);
    states_say(&net, 1, "passwords differ");
    states_say(&net, 0, "passwords differ");
}

#[test]
fn a_roll_of_the_secret_disturbs_neither_session_nor_link() {
    // Whoever dialed, and whichever router's turn comes first.
    for first in [0, 1] {
        let mut net = pair([with_secrets(1, &[1], vec![]), with_secrets(2, &[1], vec![named(0)])]);
        let second = 1 - first;
        net.forget_events();
        for list in [&[1, 2][..], &[2, 1], &[2]] {
            for node in [first, second] {
                let old_index = net.link(node, 1 - node).receive.last().map(|end| end.index);
                net.set_secrets(node, list);
                assert!(passes(&net, 0, 1) && passes(&net, 1, 0), "{list:?} at {node}");
                net.run(secs(1));
                assert!(passes(&net, 0, 1) && passes(&net, 1, 0), "{list:?} at {node}");
                let receives = &net.link(node, 1 - node).receive;
                assert!(
                    receives.iter().any(|end| Some(end.index) == old_index),
                    "what is on its way is heard"
                );
            }
        }
        assert_eq!(net.secured_by(0, 1), Some(Membership::Psk(secret(2).id())));
        assert_eq!(net.secured_by(1, 0), Some(Membership::Psk(secret(2).id())));
        assert!(net.nodes.iter().all(|node| node.connections.keys().count() == 1));
        net.assert_undisturbed();
        net.run(RETIRED_KEPT * 2);
        net.assert_undisturbed();
    }
}

#[test]
fn a_roll_loses_no_frame_though_the_old_connection_is_slower_than_the_new_one() {
    for first in [0, 1] {
        let mut net = pair([with_secrets(1, &[1], vec![]), with_secrets(2, &[1], vec![named(0)])]);
        for (node, list) in [(0, &[1, 2][..]), (1, &[1, 2]), (0, &[2, 1]), (1, &[2, 1])] {
            net.set_secrets(node, list);
        }
        let old: BTreeSet<_> = net.wires.keys().copied().collect();
        let mut inputs = VecDeque::from([(first, Input::Secrets(vec![secret(2)]))]);
        let (mut spoken, mut late) = (false, VecDeque::new());
        while let Some((node, input)) = inputs.pop_front() {
            // All but the word that the secret is gone waits.
            let is_old = matches!(&input, Input::Received { id, .. } | Input::Closed { id } if old.contains(&(node, *id)));
            if is_old && std::mem::replace(&mut spoken, true) {
                late.push_back((node, input));
                continue;
            }
            net.nodes[node].handle(input, net.now);
            while let Some(output) = net.nodes[node].poll_output() {
                net.output(node, output, &mut inputs);
            }
            assert!(passes(&net, 0, 1) && passes(&net, 1, 0), "before the old connection was heard");
        }
        assert!(!late.is_empty(), "nothing was said on the old connection");
        while let Some(input) = late.pop_front() {
            net.inputs(VecDeque::from([input]));
            assert!(passes(&net, 0, 1) && passes(&net, 1, 0), "while the old connection is heard");
        }
        net.run(secs(1));
        assert!(passes(&net, 0, 1) && passes(&net, 1, 0));
        assert_eq!(net.secured_by(0, 1), Some(Membership::Psk(secret(2).id())));
        assert_eq!(net.secured_by(1, 0), Some(Membership::Psk(secret(2).id())));
    }
}

#[test]
fn a_secret_replaced_at_one_router_some_seconds_before_the_other_disturbs_nothing() {
    for first in [0, 1] {
        let mut net = pair([with_secrets(1, &[1], vec![]), with_secrets(2, &[1], vec![named(0)])]);
        net.forget_events();
        net.set_secrets(first, &[2]);
        net.run(secs(3));
        assert!(net.is_connected(0, 1) && net.is_connected(1, 0), "the old session goes on meanwhile");
        net.set_secrets(1 - first, &[2]);
        net.run(secs(3));
        assert_eq!(net.secured_by(0, 1), Some(Membership::Psk(secret(2).id())));
        assert!(passes(&net, 0, 1) && passes(&net, 1, 0));
        net.assert_undisturbed();
    }
}

#[test]
fn a_router_that_is_not_given_the_new_secret_is_out_soon() {
    let mut net = pair([with_secrets(1, &[1], vec![]), with_secrets(2, &[1], vec![named(0)])]);
    net.set_secrets(0, &[2]);
    net.run(RETIRED_KEPT + secs(1));
    assert!(!net.is_connected(0, 1) && !net.is_connected(1, 0));
    states_say(&net, 1, "passwords differ");
}

#[test]
fn a_secret_where_there_was_none_and_none_where_there_was_one_replace_the_session() {
    for (before, after) in [(&[][..], &[1][..]), (&[1], &[])] {
        let mut net = pair([with_secrets(1, before, vec![]), with_secrets(2, before, vec![named(0)])]);
        net.set_secrets(0, after);
        net.set_secrets(1, after);
        net.run(secs(3));
        let expected = after.first().map_or(Membership::Open, |byte| Membership::Psk(secret(*byte).id()));
        assert_eq!(net.secured_by(0, 1), Some(expected));
        let sealed = |net: &Net| {
            net.link(0, 1).receive.iter().all(|end| matches!(end.key, DirectionKey::Sealed { .. }))
        };
        assert_eq!(sealed(&net), !after.is_empty(), "no key of the other kind is kept");
    }
}

#[test]
fn routers_of_different_networks_refuse_each_other_and_name_both() {
    let of = |seed, byte, targets| Config { network: Some(network(byte)), ..config(seed, None, targets) };
    let mut net = Net::new(vec![of(1, 0xaa, vec![]), of(2, 0xbb, vec![named(0)])]);
    net.run(secs(1));
    for node in [0, 1] {
        assert!(!net.is_connected(node, 1 - node));
        states_say(&net, node, "aaaaaaaaaaaa");
        states_say(&net, node, "bbbbbbbbbbbb");
        assert_eq!(net.states(node)[0].0, ConnectionState::Failed);
        assert!(!net.events[node].iter().any(|event| matches!(event, Event::Connected { .. })));
    }
}

#[test]
fn a_network_spreads_to_routers_without_one_also_over_open_sessions() {
    let quiet = |seed, targets| Config { discovery: false, ..config(seed, None, targets) };
    let mut net = Net::new(vec![quiet(1, vec![]), quiet(2, vec![named(0)]), quiet(3, vec![named(1)])]);
    net.run(secs(1));
    assert!(net.nodes.iter().all(|node| node.admission.network().is_none()));
    net.input(0, Input::Founded(network(7)));
    for node in &net.nodes {
        assert_eq!(node.admission.network(), Some(network(7)));
    }
    assert_eq!(net.joined, vec![vec![network(7)]; 3], "each is told to remember it, once");
    net.input(2, Input::Founded(network(8)));
    assert_eq!(net.nodes[2].admission.network(), Some(network(7)), "who has joined stays");
}

#[test]
fn a_router_joins_the_network_of_the_first_that_it_meets() {
    let with = Config { network: Some(network(7)), ..config(1, None, vec![]) };
    let mut net = Net::new(vec![with, config(2, None, vec![named(0)])]);
    net.run(secs(1));
    assert!(net.is_connected(0, 1));
    assert_eq!(net.joined, [vec![], vec![network(7)]]);
}

#[test]
fn two_networks_that_meet_over_a_router_of_neither_come_apart() {
    let of = |seed, byte, targets| Config { network: Some(network(byte)), ..config(seed, None, targets) };
    let mut net =
        Net::new(vec![of(1, 0xaa, vec![]), of(2, 0xbb, vec![]), config(3, None, vec![named(0), named(1)])]);
    net.run(secs(2));
    let joined = net.nodes[2].admission.network().expect("one of the two");
    let (own, other) = if joined == network(0xaa) { (0, 1) } else { (1, 0) };
    assert!(net.is_connected(2, own) && !net.is_connected(2, other) && !net.is_connected(0, 1));
}

#[test]
fn only_allowed_peers_get_in_and_the_others_read_why() {
    let friend = config(2, None, vec![]).identity.peer_id();
    let picky = Config { allowed: Some(BTreeSet::from([friend])), ..config(1, None, vec![]) };
    let targets = vec![named(0)];
    let mut net = Net::new(vec![
        picky,
        config(2, None, targets.clone()),
        Config { discovery: false, ..config(3, None, targets) },
    ]);
    net.run(secs(2));
    assert!(net.is_connected(0, 1) && !net.is_connected(0, 2));
    states_say(&net, 2, "accepts certain peers only");
    let id = net.nodes[2].peer_id();
    states_say(&net, 0, &format!("{id:x}"));
}

#[test]
fn frames_travel_in_clear_between_routers_that_both_trust_the_way() {
    let trusting = |seed, trusts: bool, targets| Config {
        trusted_subnets: if trusts { vec!["192.0.2.0/24".parse().expect("a subnet")] } else { vec![] },
        ..config(seed, Some([9; 32]), targets)
    };
    for (a, b) in [(true, true), (true, false), (false, true)] {
        let mut net = Net::new(vec![trusting(1, a, vec![]), trusting(2, b, vec![named(0)])]);
        net.run(secs(1));
        for (from, to) in [(0, 1), (1, 0)] {
            let link = net.link(from, to);
            let is_clear = matches!(link.receive[0].key, DirectionKey::Clear { .. });
            assert_eq!(is_clear, a && b);
            assert_eq!(link.roams, !is_clear, "where the address excuses the missing seal, it stays");
        }
        assert!(passes(&net, 0, 1) && passes(&net, 1, 0));
    }
}

#[test]
fn a_session_from_an_address_that_the_host_has_lost_is_closed_and_dialed_anew_at_once() {
    let mut net = pair([config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.input(1, Input::Addresses(vec![address(1).ip(), "198.51.100.9".parse().expect("a literal")]));
    assert!(net.is_connected(1, 0), "it is still there");
    net.input(1, Input::Addresses(vec!["198.51.100.9".parse().expect("a literal")]));
    let gone = CloseCause::AddressGone(address(1).ip());
    assert!(
        net.events[1]
            .iter()
            .any(|event| matches!(event, Event::Disconnected { cause, .. } if *cause == gone))
    );
    net.run(secs(1));
    assert!(net.is_connected(1, 0));
}

#[test]
fn a_router_that_was_asleep_gives_its_peers_time_to_speak() {
    let mut net = pair([config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.forget_events();
    net.now = net.now + secs(3600);
    for node in [0, 1] {
        net.input(node, Input::Timeout);
    }
    net.run(secs(30));
    net.assert_undisturbed();
    // Who does not speak then is given up.
    net.now = net.now + secs(3600);
    net.wires.clear();
    net.run(secs(11));
    let silent = |event: &Event| matches!(event, Event::Disconnected { cause: CloseCause::Silent(_), .. });
    assert!(net.events.iter().all(|events| events.iter().any(silent)));
}

/// A router, and two copies of another that dial it: the second has another nonce, and starts later.
fn with_copy() -> Net {
    let original = config(2, None, vec![named(0)]);
    let copy = Config { nonce: 99, ..config(2, None, vec![]) };
    let mut net = Net::new(vec![config(1, None, vec![]), original, copy]);
    net.run(secs(1));
    assert!(net.is_connected(0, 1));
    net
}

fn dial_from_copy(net: &mut Net) {
    net.input(2, Input::Connect { targets: vec![named(0)], replace: false });
}

#[test]
fn a_copy_of_a_peer_that_is_at_work_is_refused_and_all_say_so() {
    let mut net = with_copy();
    let first = net.nodes[0].sessions.clone();
    dial_from_copy(&mut net);
    net.run(Duration::from_millis(100));
    assert_eq!(net.nodes[0].sessions, first);
    assert!(net.nodes[2].sessions.is_empty());
    let cloned = |event: &&Event| matches!(event, Event::Cloned { remote: Some(_), .. });
    assert_eq!(net.events[0].iter().filter(cloned).count(), 1);
    states_say(&net, 0, "copy of its identity");
    states_say(&net, 2, "one of them is a copy");
    assert_eq!(net.states(2)[0].0, ConnectionState::Failed);
}

#[test]
fn a_peer_that_starts_again_takes_the_place_of_its_earlier_life() {
    let mut net = with_copy();
    // The earlier life vanishes without a word.
    net.wires.clear();
    let id = *net.nodes[0].connections.keys().next().expect("a connection");
    dial_from_copy(&mut net);
    net.run(RIVAL_ANSWERS_WITHIN);
    assert!(!net.nodes[0].connections.contains_key(&id));
    assert!(net.is_connected(0, 2));
    net.run(secs(1));
    assert!(net.is_connected(2, 0) && passes(&net, 2, 0) && passes(&net, 0, 2));
    assert!(!net.events[0].iter().any(|event| matches!(event, Event::Cloned { .. })));
}

#[test]
fn who_sends_more_than_a_handshake_before_it_is_known_is_closed() {
    let mut net = Net::new(vec![config(1, None, vec![])]);
    let id = ConnectionId::Accepted(0);
    net.input(
        0,
        Input::Accepted { id, local: address(0), remote: "198.51.100.1:5".parse().expect("a literal") },
    );
    // A preamble, and the beginning of a record of the greatest length.
    let mut bytes = b"MESH\x01\x01\x00\x00\0\0\0\0\0\0\0\0\x01\x10\x00".to_vec();
    for _ in 0..UNAUTHENTICATED_LEN_MAX / 512 {
        assert_eq!(net.nodes[0].connections.keys().count(), 1);
        bytes.resize(512, 0);
        net.input(0, Input::Received { id, bytes: std::mem::take(&mut bytes) });
    }
    net.input(0, Input::Received { id, bytes: vec![0] });
    assert!(net.nodes[0].connections.keys().next().is_none());
}

/// Two routers whose containers reach each other, and whose connection somebody resets.
fn reset_pair() -> Net {
    let secret = Some([9; 32]);
    let mut net = Net::new(vec![config(1, secret, vec![]), config(2, secret, vec![named(0)])]);
    net.run(secs(1));
    net.alive(0, 1);
    net.run(secs(1));
    net
}

#[test]
fn a_connection_that_is_reset_takes_no_frame_with_it() {
    let mut net = reset_pair();
    let (sent, version) = (net.link(0, 1).send.clone().expect("offered"), net.nodes[0].own_record().version);
    let ends: Vec<_> = net.wires.keys().copied().collect();
    net.wires.clear();
    for (node, id) in ends {
        net.input(node, Input::Closed { id });
        assert!(net.plans[node].as_ref().is_some_and(|plan| plan.links.len() == 1), "the link goes on");
    }
    net.run(secs(3));
    assert!(passes(&net, 0, 1) && passes(&net, 1, 0));
    let fresh = net.link(0, 1).send.clone().expect("offered");
    assert_ne!(fresh.index, sent.index);
    assert!(
        net.link(1, 0).receive.iter().any(|end| end.index == sent.index),
        "what is on its way is received"
    );
    assert!(net.nodes[0].own_record().links[0].established);
    assert!(net.nodes[0].own_record().version <= version + 1, "the link did not go down for others");
}

#[test]
fn a_peer_that_died_is_missed_after_a_second() {
    let mut net = reset_pair();
    net.cut = BTreeSet::from([(0, 1), (1, 0)]);
    let ends: Vec<_> = net.wires.keys().copied().collect();
    net.wires.clear();
    for (node, id) in ends {
        net.input(node, Input::Closed { id });
    }
    net.run(secs(2));
    assert!(net.plans[0].as_ref().is_some_and(|plan| plan.links.is_empty()));
    assert!(net.nodes[0].own_record().links.is_empty());
}

/// A step of one of two routers during which their connection breaks after so many inputs: what was on its way is lost.
fn break_within(net: &mut Net, node: usize, input: Input, inputs_handled: usize) {
    let mut inputs = VecDeque::from([(node, input)]);
    for _ in 0..inputs_handled {
        let Some((node, input)) = inputs.pop_front() else { break };
        net.nodes[node].handle(input, net.now);
        while let Some(output) = net.nodes[node].poll_output() {
            net.output(node, output, &mut inputs);
        }
    }
    let ends: Vec<_> = net.wires.keys().copied().collect();
    net.wires.clear();
    for (node, id) in ends {
        net.input(node, Input::Closed { id });
    }
}

#[test]
fn keys_whose_renewal_is_lost_half_way_are_renewed_on_the_next_connection() {
    for asking in [0, 1] {
        for handled in 1..8 {
            let mut net = reset_pair();
            let peer = net.nodes[1 - asking].peer_id();
            break_within(&mut net, asking, Input::Report(Report::RekeyWanted { peer }), handled);
            assert!(passes(&net, 0, 1) && passes(&net, 1, 0), "the old keys hold: {asking} {handled}");
            net.run(secs(3));
            assert!(passes(&net, 0, 1) && passes(&net, 1, 0), "and then the new ones: {asking} {handled}");
            assert!(net.link(0, 1).receive.len() <= EPOCHS_MAX);
        }
    }
}

#[test]
fn a_storm_of_renewals_from_both_ends_costs_little_and_ends_with_one_key() {
    let mut net = reset_pair();
    let peers = [net.nodes[0].peer_id(), net.nodes[1].peer_id()];
    for round in 0..200 {
        let ask = |from: usize| (from, Input::Report(Report::RekeyWanted { peer: peers[1 - from] }));
        // Both at once, the one before the other, and one alone.
        let asked = match round % 3 {
            0 => VecDeque::from([ask(0), ask(1)]),
            1 => VecDeque::from([ask(1), ask(0), ask(0)]),
            _ => VecDeque::from([ask(1)]),
        };
        net.inputs(asked);
        assert!(passes(&net, 0, 1) && passes(&net, 1, 0), "round {round}");
        assert!([net.link(0, 1), net.link(1, 0)].iter().all(|link| link.receive.len() <= EPOCHS_MAX));
    }
    net.run(OLD_EPOCH_KEPT);
    assert_eq!(net.link(0, 1).receive.len(), 1);
}
