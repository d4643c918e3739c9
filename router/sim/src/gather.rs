//! A network as it stands when all have joined, made at one moment of virtual time: what it costs for n routers to join each
//! other one by one grows with the square of n.
//!
//! Every pair that shall be connected shakes hands, by the inputs and outputs that a shell would see, and its data links
//! are reported alive. What everybody then says of itself is handed to all ([`mesh_node::Node::adopt`]). So it is done twice: the first
//! time gives the records, the second time, in which the same happens, all hold them from the beginning, and what
//! sessions compare when they open is the same at both ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use mesh_node::{ConnectionId, Event, Input, Output, Report};
use mesh_topology::{Formation, Records, Target, Topology};
use mesh_wire::control::PeerRecord;

use crate::faults::{Boot, Fault};
use crate::invariants::Violation;
use crate::network::PORT;
use crate::scenario::{CONNECTION_LIMIT, Scenario};
use crate::tcp::{End, EndState, Pipe, Stream};
use crate::world::ephemeral_port;
use crate::{HostId, World};

impl World {
    /// The hosts of `scenario` at their beginning, all connected with those whom [`Formation`] chooses. The targets that
    /// the scenario gives them count when they start again.
    ///
    /// # Errors
    /// The first thing that must never happen.
    pub(crate) fn gathered(scenario: &Scenario) -> Result<Self, Violation> {
        let first = Self::introduced(scenario, None)?;
        let signed: BTreeMap<_, _> =
            first.nodes().map(|node| (node.peer_id(), node.signed_record())).collect();
        drop(first);
        let mut records = Topology::empty();
        signed.into_values().for_each(|record| drop(records.put(record)));
        Self::introduced(scenario, Some(&records))
    }

    fn introduced(scenario: &Scenario, records: Option<&Records<PeerRecord>>) -> Result<Self, Violation> {
        let mut world = Self::new(scenario, None);
        for index in 0..scenario.hosts.len() {
            world.hosts[index].plan.targets.clear();
            world.now_let(&Fault::Start { host: HostId(index), boot: Boot::Next })?;
            if let Some((life, records)) = world.hosts[index].life.as_mut().zip(records) {
                life.node.adopt(records);
            }
        }
        for (from, to) in world.pairs() {
            world.meet(from, to)?;
        }
        for (host, plan) in world.hosts.iter_mut().zip(&scenario.hosts) {
            host.plan.targets.clone_from(&plan.targets);
        }
        Ok(world)
    }

    /// Who shall dial whom.
    fn pairs(&self) -> Vec<(HostId, HostId)> {
        let places: BTreeMap<_, _> =
            self.hosts.iter().enumerate().map(|(index, host)| (host.peer, HostId(index))).collect();
        let formation = Formation::new(places.keys().copied(), CONNECTION_LIMIT);
        let mut seen = BTreeSet::new();
        let chosen = places.iter().flat_map(|(peer, from)| {
            formation.choices(*peer).into_iter().map(|to| (*from, places[&to])).collect::<Vec<_>>()
        });
        chosen.filter(|(from, to)| seen.insert((*from.min(to), *from.max(to)))).collect()
    }

    /// Connects two hosts, and lets their data link be alive.
    fn meet(&mut self, from: HostId, to: HostId) -> Result<(), Violation> {
        let target = Target::Named { host: to.to_string(), port: PORT };
        let dials = self.step(from, Input::Connect { targets: vec![target.clone()], replace: false });
        let id = dials.iter().find_map(|output| {
            let Output::Dial { id, .. } = output else { return None };
            Some(*id)
        });
        let ends = self.put_stream([from, to], id.expect("a new target is dialed at once"));
        self.shake_hands(ends);
        let rtt = self.network.round_trip(from, to);
        for (host, other) in [(from, to), (to, from)] {
            self.input(host, Input::Report(Report::Alive { peer: self.peer(other), rtt }))?;
        }
        self.input(from, Input::Forget { targets: vec![target] })
    }

    /// A connection between two hosts, both of whose ends are open.
    fn put_stream(&mut self, hosts: [HostId; 2], dialed: ConnectionId) -> [End; 2] {
        let number = self.streams_opened;
        self.streams_opened += 1;
        let mut side = 0;
        let ends = hosts.map(|host| {
            let life = self.hosts[host.0].life.as_mut().expect("all run");
            let id = if side == 0 { dialed } else { ConnectionId::Accepted(life.accepted) };
            life.accepted += side as u64;
            life.streams.insert(id, (number, side));
            side += 1;
            let address = self.network.outside_address(host);
            End { host, life: life.number, id, state: EndState::Open, address }
        });
        self.streams.insert(number, Stream { ends, pipes: [Pipe::default(), Pipe::default()] });
        ends
    }

    /// Hands over what the two ends write until both have a session; what they write in it goes its usual way.
    fn shake_hands(&mut self, ends: [End; 2]) {
        let port = ephemeral_port(self.streams_opened - 1);
        let [here, there] =
            [(0, port), (1, PORT)].map(|(side, port)| SocketAddr::new(ends[side].address, port));
        let mut inputs = VecDeque::from([
            (1, Input::Accepted { id: ends[1].id, local: there, remote: here }),
            (0, Input::Dialed { id: ends[0].id, local: here, remote: there }),
        ]);
        let mut is_open = [false; 2];
        while let Some((side, input)) = inputs.pop_front() {
            let mut is_handed_over = is_open[side];
            for mut output in self.step(ends[side].host, input) {
                is_open[side] |= matches!(output, Output::Event(Event::Connected { .. }));
                if !is_handed_over && let Output::Write { bytes, .. } = &mut output {
                    is_handed_over = true;
                    let bytes = std::mem::take(bytes);
                    inputs.push_back((1 - side, Input::Received { id: ends[1 - side].id, bytes }));
                } else {
                    self.output(ends[side].host, output);
                }
            }
        }
        debug_assert_eq!(is_open, [true; 2], "everybody has the same secret");
    }

    /// One input, and what it leads to.
    fn step(&mut self, host: HostId, input: Input) -> Vec<Output> {
        let now = self.now();
        let life = self.hosts[host.0].life.as_mut().expect("all run");
        life.node.handle(input, now);
        let outputs = std::iter::from_fn(|| life.node.poll_output()).collect();
        life.node_timeout = life.node.poll_timeout();
        outputs
    }
}
