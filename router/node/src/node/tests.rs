//! Nodes wired to each other directly: no latency, no loss. Weather is the simulator's business.

use std::net::IpAddr;

use mesh_crypto::{DirectionKey, OpeningKey, Psk, SealingKey};
use mesh_wire::control::Channel;

use std::net::SocketAddr;

use mesh_wire::BootCount;
use mesh_wire::control::LinkRecord;

use super::*;
use crate::interface::{DialFailure, Event, Report};
use crate::limits::{HALF_OPEN_MAX, HANDSHAKE_TIME_MAX, REKEY_AFTER};
use crate::status::ConnectionState;

mod addresses;
mod gossip;
mod kernel;
mod names;
mod relay;
mod routes;
mod sessions;
mod strangers;
mod targets;

/// Nodes 0.. with addresses 192.0.2.1.., each listening on port 6783.
struct Net {
    nodes: Vec<Node>,
    plans: Vec<Option<Plan>>,
    /// How often each was told that there is a new plan.
    planned: Vec<usize>,
    events: Vec<Vec<Event>>,
    joined: Vec<Vec<mesh_wire::NetworkId>>,
    answers: Vec<Vec<addresses::Answered>>,
    /// The other end of each connection's end.
    wires: BTreeMap<(usize, ConnectionId), (usize, ConnectionId)>,
    accepted: u64,
    /// Who cannot dial whom.
    cut: BTreeSet<(usize, usize)>,
    now: Moment,
}

fn address(node: usize) -> SocketAddr {
    let last = u8::try_from(node + 1).expect("few nodes");
    SocketAddr::from(([192, 0, 2, last], 6783))
}

fn named(node: usize) -> Target {
    Target::Named { host: address(node).ip().to_string(), port: 6783 }
}

fn config(seed: u8, psk: Option<[u8; 32]>, targets: Vec<Target>) -> Config {
    let identity = Identity::generate(&mut Rng::from_seed([seed; 32]));
    Config {
        names: names::empty(identity.peer_id(), 1),
        identity,
        boot: BootCount(1),
        nickname: format!("h{seed}").parse().expect("a nickname"),
        port: 6783,
        nonce: u64::from(seed),
        secrets: psk.map(Psk::from_bytes).into_iter().collect(),
        network: None,
        allowed: None,
        trusted_subnets: Vec::new(),
        ipam: None,
        connection_limit: 64,
        rekey_after: REKEY_AFTER,
        aes_preferred: true,
        discovery: true,
        targets,
    }
}

impl Net {
    fn new(configs: Vec<Config>) -> Self {
        let now = Moment::ORIGIN;
        let node =
            |(i, config)| Node::new(config, Rng::from_seed([100 + u8::try_from(i).expect("few"); 32]), now);
        let nodes: Vec<_> = configs.into_iter().enumerate().map(node).collect();
        let plans = nodes.iter().map(|_| None).collect();
        let planned = vec![0; nodes.len()];
        let events = nodes.iter().map(|_| Vec::new()).collect();
        let joined = nodes.iter().map(|_| Vec::new()).collect();
        let answers = nodes.iter().map(|_| Vec::new()).collect();
        Self {
            nodes,
            plans,
            planned,
            events,
            joined,
            answers,
            wires: BTreeMap::new(),
            accepted: 0,
            cut: BTreeSet::new(),
            now,
        }
    }

    fn input(&mut self, node: usize, input: Input) {
        self.inputs(VecDeque::from([(node, input)]));
    }

    /// Delivers in order, with all that follows.
    fn inputs(&mut self, mut inputs: VecDeque<(usize, Input)>) {
        while let Some((node, input)) = inputs.pop_front() {
            self.nodes[node].handle(input, self.now);
            while let Some(output) = self.nodes[node].poll_output() {
                self.output(node, output, &mut inputs);
            }
        }
    }

    fn output(&mut self, node: usize, output: Output, inputs: &mut VecDeque<(usize, Input)>) {
        match output {
            Output::Dial { id, target } => {
                let to = (0..self.nodes.len()).find(|to| match &target {
                    Target::Named { host, .. } => *host == address(*to).ip().to_string(),
                    Target::Discovered { address: at, .. } => *at == address(*to),
                });
                let Some(to) = to.filter(|to| !self.cut.contains(&(node, *to))) else {
                    inputs.push_back((node, Input::DialFailed { id, failure: DialFailure::Refused }));
                    return;
                };
                let there = ConnectionId::Accepted(self.accepted);
                self.accepted += 1;
                self.wires.insert((node, id), (to, there));
                self.wires.insert((to, there), (node, id));
                let remote = SocketAddr::new(address(node).ip(), 40_000);
                inputs.push_back((to, Input::Accepted { id: there, local: address(to), remote }));
                inputs.push_back((node, Input::Dialed { id, local: remote, remote: address(to) }));
            }
            Output::Write { id, bytes } => {
                if let Some((to, id)) = self.wires.get(&(node, id)).copied() {
                    inputs.push_back((to, Input::Received { id, bytes }));
                }
            }
            Output::Close { id } => {
                if let Some((to, there)) = self.wires.remove(&(node, id)) {
                    inputs.push_back((to, Input::Closed { id: there }));
                }
            }
            Output::PlanChanged => {
                self.planned[node] += 1;
                self.plans[node] = Some(self.nodes[node].plan());
            }
            Output::MacsChanged => {}
            Output::Joined(network) => self.joined[node].push(network),
            Output::Ipam(output) => self.ipam_output(node, output, inputs),
            Output::Event(event) => self.events[node].push(event),
        }
    }

    /// Lets `time` pass, each timeout at its moment.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            let next = (0..self.nodes.len()).filter_map(|i| Some((self.nodes[i].poll_timeout()?, i))).min();
            let Some((at, node)) = next.filter(|(at, _)| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.input(node, Input::Timeout);
        }
        panic!("the nodes keep waking up");
    }

    fn link(&self, from: usize, to: usize) -> &LinkPlan {
        let peer = self.nodes[to].peer_id();
        let plan = self.plans[from].as_ref().expect("a plan");
        plan.links.iter().find(|link| link.peer == peer).expect("a link")
    }

    fn states(&self, node: usize) -> Vec<(ConnectionState, String)> {
        self.nodes[node].connection_status().into_iter().map(|c| (c.state, c.info)).collect()
    }
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Seals with `from`'s sending key and opens with the matching end of `to`.
fn passes(net: &Net, from: usize, to: usize) -> bool {
    let Some(send) = net.link(from, to).send.clone() else { return false };
    let receive = net.link(to, from).receive.iter().find(|end| end.index == send.index);
    let Some(receive) = receive else { return false };
    if let (DirectionKey::Clear { cookie: shown }, DirectionKey::Clear { cookie }) = (&send.key, &receive.key)
    {
        return shown == cookie;
    }
    let (Some(sealing), Some(opening)) = (SealingKey::new(&send.key), OpeningKey::new(&receive.key)) else {
        return false;
    };
    let mut packet = b"a frame".to_vec();
    let tag = sealing.seal_in_place(1, &[0; 16], &mut packet);
    packet.extend(tag);
    opening.open_in_place(1, &[0; 16], &mut packet).is_ok_and(|len| &packet[..len] == b"a frame")
}

#[test]
fn two_routers_connect_and_agree_on_data_keys() {
    let mut net = Net::new(vec![config(1, Some([9; 32]), vec![]), config(2, Some([9; 32]), vec![named(0)])]);
    net.run(secs(1));
    assert!(passes(&net, 0, 1) && passes(&net, 1, 0));
    assert_eq!(net.link(0, 1).remote, address(1), "sleeve listens on the announced port, not on TCP's");
    assert_eq!(net.states(0)[0].0, ConnectionState::Pending);

    let (a, b) = (net.nodes[0].peer_id(), net.nodes[1].peer_id());
    net.input(0, Input::Report(Report::Alive { peer: b, rtt: Duration::from_millis(3) }));
    net.input(1, Input::Report(Report::Alive { peer: a, rtt: Duration::from_millis(3) }));
    net.run(secs(1));
    assert_eq!(net.states(0)[0].0, ConnectionState::Established);
    assert!(net.nodes[0].connection_status()[0].encrypted);
    let routes = &net.plans[0].as_ref().expect("a plan").routes;
    assert_eq!(routes.next_hop, BTreeMap::from([(b, b)]));
}

#[test]
fn without_a_secret_frames_carry_a_cookie() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.run(secs(1));
    let (send, receive) = (net.link(0, 1).send.clone().expect("offered"), &net.link(1, 0).receive[0]);
    let DirectionKey::Clear { cookie: sent } = &send.key else { panic!("sealed without a secret") };
    let DirectionKey::Clear { cookie: expected } = &receive.key else { panic!("sealed") };
    assert_eq!(sent, expected);
    assert!(!net.nodes[0].connection_status()[0].encrypted);
}

#[test]
fn both_sides_say_that_the_passwords_differ() {
    let mut net = Net::new(vec![config(1, Some([1; 32]), vec![]), config(2, Some([2; 32]), vec![named(0)])]);
    net.run(secs(2));
    for node in [0, 1] {
        let states = net.states(node);
        assert_eq!(states.len(), 1, "{states:?}");
        assert_eq!(states[0].0, ConnectionState::Failed);
        assert!(states[0].1.contains("password"), "{states:?}");
        assert_eq!(net.nodes[node].peer_status().len(), 1, "nothing was learnt from the other");
    }
    let refused = net.events[0].iter().filter(|event| matches!(event, Event::Refused { .. })).count();
    assert_eq!(refused, 1, "the same host for the same reason is one line in the log");
}

#[test]
fn a_password_on_one_side_only_is_refused_on_both_with_the_reason() {
    let mut net = Net::new(vec![config(1, Some([1; 32]), vec![]), config(2, None, vec![named(0)])]);
    net.run(secs(1));
    for node in [0, 1] {
        let states = net.states(node);
        assert_eq!(states[0].0, ConnectionState::Failed, "{states:?}");
        assert!(states[0].1.contains("password"), "{states:?}");
    }
}

#[test]
fn a_router_that_is_told_its_own_name_neither_connects_nor_complains() {
    let mut net = Net::new(vec![config(1, None, vec![named(0)])]);
    net.run(secs(10));
    assert_eq!(net.states(0), vec![]);
    assert_eq!(net.nodes[0].target_status(net.now)[0].state, crate::TargetState::Itself);
}

#[test]
fn routers_that_name_each_other_keep_one_connection() {
    let mut net = Net::new(vec![config(1, None, vec![named(1)]), config(2, None, vec![named(0)])]);
    net.run(secs(5));
    for node in [0, 1] {
        assert_eq!(net.states(node).len(), 1, "{:?}", net.states(node));
        assert_eq!(net.nodes[node].connections.keys().count(), 1);
    }
    assert!(passes(&net, 0, 1) && passes(&net, 1, 0));
}

#[test]
fn a_rekey_gives_new_keys_and_keeps_the_old_ones_for_a_while() {
    let mut net = Net::new(vec![config(1, Some([9; 32]), vec![]), config(2, Some([9; 32]), vec![named(0)])]);
    net.run(secs(1));
    let old = net.link(0, 1).send.clone().expect("offered");
    net.run(secs(140));
    let new = net.link(0, 1).send.clone().expect("offered");
    assert_eq!((old.epoch, new.epoch), (0, 1));
    assert_ne!(old.index, new.index);
    assert!(passes(&net, 0, 1) && passes(&net, 1, 0));
    let epochs = |net: &Net| net.link(1, 0).receive.iter().map(|end| end.epoch).collect::<Vec<_>>();
    assert_eq!(epochs(&net), vec![0, 1]);
    net.run(secs(55));
    assert_eq!(epochs(&net), vec![1]);
    net.run(secs(600));
    assert!(passes(&net, 0, 1) && net.link(0, 1).send.as_ref().is_some_and(|send| send.epoch >= 4));
}

#[test]
fn a_link_that_falls_silent_starts_afresh_under_new_keys() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.run(secs(1));
    let (a, b) = (net.nodes[0].peer_id(), net.nodes[1].peer_id());
    for epoch in 1..=2 {
        net.input(0, Input::Report(Report::Alive { peer: b, rtt: Duration::from_millis(3) }));
        net.input(1, Input::Report(Report::Alive { peer: a, rtt: Duration::from_millis(3) }));
        // Either end may be the one that notices.
        let (at, peer) = if epoch == 1 { (0, b) } else { (1, a) };
        net.input(at, Input::Report(Report::Dead { peer, silent_for: secs(1) }));
        net.run(secs(1));
        assert_eq!(net.link(0, 1).send.as_ref().map(|send| send.epoch), Some(epoch));
        assert_eq!(net.link(1, 0).send.as_ref().map(|send| send.epoch), Some(epoch));
        assert_eq!(net.states(at)[0].0, ConnectionState::Pending);
    }
}

#[test]
fn a_peer_that_stops_is_gone_at_once() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.run(secs(1));
    net.input(1, Input::Stop);
    assert!(net.nodes[0].connections.keys().next().is_none());
    assert!(matches!(
        net.events[0].last(),
        Some(Event::Disconnected { cause: CloseCause::Farewell(Farewell::Stopping), .. })
    ));
    net.run(secs(2));
    assert_eq!(net.nodes[0].peer_status().len(), 1);
}

#[test]
fn an_unknown_channel_and_an_unknown_message_are_passed_over() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.run(secs(1));
    let gossip = mesh_wire::control::Gossip { channel: Channel(999), entries: vec![vec![1, 2, 3].into()] };
    for message in [Message::Gossip(gossip), Message::Unknown(77)] {
        let id = *net.nodes[1].connections.keys().next().expect("a connection");
        let now = net.now;
        net.nodes[1].send(id, &message, now);
        net.input_drain(1);
        assert_eq!(net.nodes[0].connections.keys().count(), 1);
    }
}

#[test]
fn records_too_large_for_one_message_go_in_several() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.run(secs(1));
    let mut origins = Vec::new();
    for seed in 10..18 {
        let identity = Identity::generate(&mut Rng::from_seed([seed; 32]));
        let mut theirs = Topology::new(&identity, BootCount(1), "big".parse().expect("a nickname"), 6783, 1);
        let link = |n| LinkRecord {
            distance: 0,
            overlay: 1,
            peer: PeerId::from_bytes([seed; 16]),
            address: SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, n)),
            outbound: false,
            established: false,
        };
        theirs.publish(&identity, (1..7_000).map(link).collect());
        net.nodes[0].topology.merge(theirs.entry(theirs.me()).expect("own record")).expect("genuine");
        origins.push(theirs.me());
    }
    let (id, now) = (*net.nodes[0].connections.keys().next().expect("a connection"), net.now);
    net.nodes[0].send_records(id, Channel::TOPOLOGY, &origins, now);
    net.input_drain(0);
    for origin in origins {
        assert!(net.nodes[1].topology.record(origin).is_some());
    }
}

#[test]
fn a_silent_session_is_given_up() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    net.run(secs(1));
    net.wires.clear();
    net.run(secs(11));
    assert!(net.events.iter().all(|events| {
        events.iter().any(|e| matches!(e, Event::Disconnected { cause: CloseCause::Silent(_), .. }))
    }));
}

impl Net {
    /// Delivers what a node has to say already, after a test has reached into it.
    fn input_drain(&mut self, node: usize) {
        self.nodes[node].connections.tabulate();
        let mut inputs = VecDeque::new();
        while let Some(output) = self.nodes[node].poll_output() {
            self.output(node, output, &mut inputs);
        }
        self.inputs(inputs);
    }
}
