//! The hosts and their routers, and the one queue of events that moves them. Owns virtual time.
//!
//! Events are ordered by time and then by number, and every event has one handler here: what an event causes becomes a
//! later event, so that no router runs inside another's step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_crypto::{Rng, SecretBytes};
use mesh_node::{ConnectionId, DialFailure, Event, Input, Node, Output, Plan, Report};
use mesh_topology::{Routes, Target};
use mesh_wire::{BootCount, Moment, PeerId};

use crate::addresses::Management;
use crate::faults::{Boot, Crash, Fault};
use crate::invariants::{Histories, Violation};
use crate::names::Naming;
use crate::network::{self, Network, PORT};
use crate::scale::Memo;
use crate::scenario::{HostPlan, Scenario, rng_from};
use crate::sleeve::{Arrival, Datagram, Sleeve};
use crate::tcp::{self, End, EndState, Pipe, Segment, Stream};
use crate::trace::{Sink, Trace};

/// A shell gives a dial up after this long.
const DIAL_TIME_MAX: Duration = Duration::from_secs(3);

/// How often the containers of a host talk to each host that they talk to.
const TALKS_EVERY: Duration = Duration::from_secs(1);

/// A connection request that is lost is sent again after this long (RFC 6298, section 2.1).
const REQUEST_AGAIN: Duration = Duration::from_secs(1);

/// Time until a resolver says that a name has no address.
const RESOLVE_TIME: Duration = Duration::from_millis(1);

/// First ephemeral port, and how many there are.
const EPHEMERAL: (u16, u64) = (32_768, 28_000);

/// A host, by its place in the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}", self.0)
    }
}

/// All hosts, the network between them, and what is due.
///
/// [`Self::run_until`] stops at the first [`Violation`]; a world that has reported one is of no further use.
pub struct World {
    now: Moment,
    queue: BTreeMap<(Moment, u64), Happening>,
    happenings: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Network,
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) streams_opened: u64,
    pub(crate) histories: Histories,
    /// Where addresses are managed: disks, clients, and who was told what.
    pub(crate) management: Option<Management>,
    /// What each host's containers are called.
    pub(crate) naming: Naming,
    /// Where there are many hosts: what opens records once for all.
    memo: Option<Memo>,
    rng: Rng,
    pub(crate) trace: Trace,
}

/// A host: what survives its router's lives, and the present one.
pub(crate) struct Host {
    pub(crate) plan: HostPlan,
    pub(crate) peer: PeerId,
    /// Those that it was before its state was lost.
    pub(crate) former: Vec<PeerId>,
    pub(crate) secret: SecretBytes,
    pub(crate) boot: BootCount,
    /// Whether its count of lives has ever gone back.
    pub(crate) restored: bool,
    pub(crate) lives: u64,
    pub(crate) rng: Rng,
    /// How far its clock is ahead of virtual time.
    pub(crate) ahead: Duration,
    pub(crate) life: Option<Life>,
    /// Its router does nothing until then.
    pub(crate) paused_until: Option<Moment>,
    /// What has come for it meanwhile.
    pub(crate) waiting: Vec<Input>,
    /// The number of its own record that was noted last.
    pub(crate) noted: (BootCount, u64),
    pub(crate) tally: Tally,
}

/// What a host has done so far, in all its lives.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Bytes written to control connections.
    pub(crate) control_bytes: u64,
    /// Bytes of probes and their replies, as UDP payload.
    pub(crate) probe_bytes: u64,
    /// Plans given to the data plane that sent frames other ways than the one before.
    pub(crate) plans: u64,
    /// Sessions begun.
    pub(crate) sessions: u64,
}

/// A running router with its shell.
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) node: Node,
    /// The node's next timeout, as of its last input.
    pub(crate) node_timeout: Option<Moment>,
    pub(crate) sleeve: Option<Sleeve>,
    pub(crate) streams: BTreeMap<ConnectionId, (u64, usize)>,
    dials: BTreeSet<ConnectionId>,
    pub(crate) accepted: u64,
    /// The event that will wake it; others are stale.
    wake: Option<Moment>,
    /// How often its timeout was due at this same moment.
    pub(crate) wakes_at: (Moment, u32),
}

enum Happening {
    Wake { host: HostId, life: u64 },
    Request(Request),
    DialFailed { host: HostId, life: u64, id: ConnectionId, failure: DialFailure },
    Segment { stream: u64, side: usize },
    Datagram { from: HostId, source: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Talk { host: HostId },
    Resume { host: HostId },
    Synced { host: HostId, life: u64 },
    Fault(Fault),
}

/// A TCP connection request on its way.
#[derive(Clone, Copy)]
struct Request {
    from: HostId,
    life: u64,
    id: ConnectionId,
    to: HostId,
    port: u16,
}

impl World {
    /// The hosts of `scenario`, whose routers start when it says so. Lines of the trace go to `sink`.
    #[must_use]
    pub fn new(scenario: &Scenario, sink: Option<Sink>) -> Self {
        let mut rng = rng_from(scenario.seed);
        let nats: Vec<_> = scenario.hosts.iter().map(|host| host.nat).collect();
        let network = Network::new(&nats, scenario.latency_max, &mut rng);
        let hosts = scenario.hosts.iter().map(|plan| Host::new(plan.clone(), &mut rng)).collect();
        let mut world = Self {
            now: Moment::ORIGIN,
            queue: BTreeMap::new(),
            happenings: 0,
            hosts,
            network,
            streams: BTreeMap::new(),
            streams_opened: 0,
            histories: Histories::default(),
            management: None,
            naming: Naming::default(),
            memo: scenario.light.then(Memo::default),
            rng,
            trace: if scenario.light { Trace::silent() } else { Trace::new(sink) },
        };
        for host in 0..scenario.hosts.len() {
            let at = world.now + network::below(&mut world.rng, scenario.start_within);
            world.at(at, Fault::Start { host: HostId(host), boot: Boot::Next });
            if !scenario.hosts[host].talks_to.is_empty() {
                world.push(at, Happening::Talk { host: HostId(host) });
            }
        }
        for (after, fault) in &scenario.faults {
            world.at(Moment::ORIGIN + *after, fault.clone());
        }
        world
    }

    /// What the clock of a host shows.
    pub(crate) fn clock(&self, host: HostId) -> Moment {
        self.now + self.hosts[host.0].ahead
    }

    /// Virtual time.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    /// What happened so far.
    #[must_use]
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Events handled so far.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.trace.events
    }

    /// Lets something happen later.
    pub fn at(&mut self, at: Moment, fault: Fault) {
        self.push(at, Happening::Fault(fault));
    }

    /// Lets something happen now, before all else.
    ///
    /// # Errors
    /// What it made go wrong.
    pub fn now_let(&mut self, fault: &Fault) -> Result<(), Violation> {
        self.fault(fault)
    }

    /// The running router of a host.
    #[must_use]
    pub fn node(&self, host: HostId) -> Option<&Node> {
        self.hosts[host.0].life.as_ref().map(|life| &life.node)
    }

    /// The id of a host's router in all its lives.
    #[must_use]
    pub fn peer(&self, host: HostId) -> PeerId {
        self.hosts[host.0].peer
    }

    /// All running routers.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.hosts.iter().filter_map(|host| Some(&host.life.as_ref()?.node))
    }

    /// Whether the scenario is simulated lightly.
    pub(crate) const fn is_light(&self) -> bool {
        self.memo.is_some()
    }

    /// A host that `of` has a session with.
    pub(crate) fn neighbour_of(&self, of: HostId) -> HostId {
        let links = self.node(of).map(|node| node.own_record().links.as_slice()).unwrap_or_default();
        let peer = links.first().map(|link| link.peer);
        let place = self.hosts.iter().position(|host| Some(host.peer) == peer);
        HostId(place.expect("it has neighbours, and they are hosts"))
    }

    /// The neighbour by which one router reaches another.
    #[must_use]
    pub fn next_hop(&self, from: HostId, to: HostId) -> Option<HostId> {
        let routes = &self.hosts[from.0].life.as_ref()?.sleeve.as_ref()?.plan().routes;
        let hop = routes.next_hop.get(&self.peer(to))?;
        self.hosts.iter().position(|host| host.peer == *hop).map(HostId)
    }

    /// Handles everything that is due up to `end`.
    ///
    /// # Errors
    /// The first thing that must never happen.
    pub fn run_until(&mut self, end: Moment) -> Result<(), Violation> {
        while let Some(due) = self.queue.first_entry().filter(|due| due.key().0 <= end) {
            let ((at, _), happening) = due.remove_entry();
            self.now = at;
            self.happen(happening)?;
        }
        self.now = end;
        Ok(())
    }

    /// Handles everything that is due for a while.
    ///
    /// # Errors
    /// The first thing that must never happen.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Violation> {
        self.run_until(self.now + time)
    }

    /// The disk of a host will have done its work after this time.
    pub(crate) fn push_sync(&mut self, host: HostId, time: Duration) {
        let Some(life) = self.hosts[host.0].life.as_ref().map(|life| life.number) else { return };
        self.push(self.now + time, Happening::Synced { host, life });
    }

    fn push(&mut self, at: Moment, happening: Happening) {
        self.happenings += 1;
        self.queue.insert((at, self.happenings), happening);
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Wake { host, life } => self.wake(host, life),
            Happening::Request(request) => self.request(request),
            Happening::DialFailed { host, life, id, failure } => self.dial_failed(host, life, id, failure),
            Happening::Segment { stream, side } => self.segment(stream, side),
            Happening::Datagram { from, source, to, bytes } => self.datagram(from, source, to, bytes),
            Happening::Talk { host } => self.talk(host),
            Happening::Resume { host } => self.resume(host),
            Happening::Synced { host, life } => match self.hosts[host.0].life_numbered(life) {
                Some(_) => self.synced(host),
                None => Ok(()),
            },
            Happening::Fault(fault) => self.fault(&fault),
        }
    }

    /// Runs what is due at a router: its timers and its probes.
    fn wake(&mut self, host: HostId, number: u64) -> Result<(), Violation> {
        let now = self.now;
        let (paused, clock) = (self.hosts[host.0].paused_until.is_some(), self.clock(host));
        let Some(life) = self.hosts[host.0].life_numbered(number) else { return Ok(()) };
        if life.wake != Some(now) || paused {
            return Ok(());
        }
        life.wake = None;
        let node_due = life.node_timeout.is_some_and(|at| at <= now);
        let sleeve_due = life.sleeve.as_ref().and_then(Sleeve::poll_timeout).is_some_and(|at| at <= clock);
        if node_due {
            life.wakes_at = if life.wakes_at.0 == now { (now, life.wakes_at.1 + 1) } else { (now, 1) };
            self.input(host, Input::Timeout)?;
        }
        if sleeve_due && let Some(sleeve) = self.hosts[host.0].sleeve() {
            let (probes, reports) = sleeve.handle_timeout(clock);
            for probe in probes {
                self.send_datagram(host, probe);
            }
            for report in reports {
                self.input(host, Input::Report(report))?;
            }
        }
        self.schedule_wake(host);
        Ok(())
    }

    fn schedule_wake(&mut self, host: HostId) {
        let now = self.now;
        let ahead = self.hosts[host.0].ahead;
        let Some(life) = &mut self.hosts[host.0].life else { return };
        let sleeve = life.sleeve.as_ref().and_then(Sleeve::poll_timeout).map(|at| world_time(at, ahead));
        let Some(at) = life.node_timeout.into_iter().chain(sleeve).min() else { return };
        let at = at.max(now);
        if life.wake.is_none_or(|wake| at < wake) {
            life.wake = Some(at);
            let number = life.number;
            self.push(at, Happening::Wake { host, life: number });
        }
    }

    /// One step of a router: input, outputs, checks.
    pub(crate) fn input(&mut self, host: HostId, input: Input) -> Result<(), Violation> {
        let now = self.now;
        let place = &mut self.hosts[host.0];
        if place.paused_until.is_some() {
            place.waiting.push(input);
            return Ok(());
        }
        let Some(life) = &mut place.life else { return Ok(()) };
        match &input {
            Input::Received { id, bytes } => {
                self.trace.record(now, format_args!("{host} received {id:?} {}", bytes.len()), bytes);
            }
            Input::Dialed { .. }
            | Input::DialFailed { .. }
            | Input::Accepted { .. }
            | Input::Closed { .. }
            | Input::Report(_)
            | Input::Connect { .. }
            | Input::Forget { .. }
            | Input::Secrets(_)
            | Input::Addresses(_)
            | Input::Founded(_)
            | Input::Macs(_)
            | Input::Groups(_)
            | Input::Vxlan(_)
            | Input::Names { .. }
            | Input::Ipam(_)
            | Input::Timeout
            | Input::Stop => self.trace.record(now, format_args!("{host} {input:?}"), &[]),
        }
        let news = matches!(input, Input::Received { .. });
        let clock = now + place.ahead;
        life.node.handle(input, clock);
        let mut outputs = Vec::new();
        while let Some(output) = life.node.poll_output() {
            outputs.push(output);
        }
        life.node_timeout = life.node.poll_timeout().map(|at| world_time(at, place.ahead));
        let mut planned = false;
        for output in outputs {
            planned |= matches!(output, Output::PlanChanged);
            self.output(host, output);
        }
        self.check_step(host)?;
        if self.is_light() {
            self.schedule_wake(host);
            return Ok(());
        }
        self.note_own_record(host);
        if planned || (news && self.hosts[host.0].restored) {
            self.check_views(host)?;
        }
        self.schedule_wake(host);
        Ok(())
    }

    pub(crate) fn output(&mut self, host: HostId, output: Output) {
        let (now, clock) = (self.now, self.clock(host));
        match output {
            Output::Dial { id, target } => self.dial(host, id, &target),
            Output::Write { id, bytes } => self.write(host, id, bytes),
            Output::Close { id } => self.close(host, id),
            Output::PlanChanged => {
                let is_light = self.is_light();
                let Some(life) = &mut self.hosts[host.0].life else { return };
                let plan = if is_light {
                    let (me, links) = (life.node.peer_id(), life.node.links());
                    Plan { me, links, routes: Routes::default(), groups: Arc::default() }
                } else {
                    life.node.plan()
                };
                let links = plan.links.len();
                self.trace.record(
                    now,
                    format_args!("{host} plan {links} links, digest {:08x}", plan.routes.digest),
                    &[],
                );
                let before = life.sleeve.as_ref().map(|sleeve| ways(sleeve.plan()));
                let is_other = before.is_none_or(|before| before != ways(&plan));
                match &mut life.sleeve {
                    Some(sleeve) => sleeve.install(plan, clock),
                    None => life.sleeve = Some(Sleeve::new(plan, clock)),
                }
                self.hosts[host.0].tally.plans += u64::from(is_other);
            }
            Output::Ipam(output) => self.address_output(host, output),
            Output::Joined(_) | Output::MacsChanged => {}
            Output::Event(event) => {
                self.trace.record(now, format_args!("{host} {event:?}"), &[]);
                if matches!(event, Event::Connected { .. }) {
                    self.hosts[host.0].tally.sessions += 1;
                }
            }
        }
    }

    fn dial(&mut self, from: HostId, id: ConnectionId, target: &Target) {
        self.trace.record(self.now, format_args!("{from} dials {target} {id:?}"), &[]);
        let Some(life) = &mut self.hosts[from.0].life else { return };
        life.dials.insert(id);
        let life = life.number;
        let (to, port) = match target {
            Target::Named { host, port } => {
                let to = host.strip_prefix('h').and_then(|number| number.parse().ok()).map(HostId);
                (to.filter(|to| to.0 < self.hosts.len()), *port)
            }
            Target::Discovered { address, .. } => (self.network.host_at(*address), address.port()),
        };
        let Some(to) = to else {
            let failure = DialFailure::Unresolvable;
            return self
                .push(self.now + RESOLVE_TIME, Happening::DialFailed { host: from, life, id, failure });
        };
        let failure = DialFailure::TimedOut;
        self.push(self.now + DIAL_TIME_MAX, Happening::DialFailed { host: from, life, id, failure });
        let arrives = self.now + self.network.latency_with_loss(from, to, REQUEST_AGAIN, &mut self.rng);
        self.push(arrives, Happening::Request(Request { from, life, id, to, port }));
    }

    fn request(&mut self, request: Request) -> Result<(), Violation> {
        let Request { from, life, id, to, port } = request;
        let dialing = self.hosts[from.0].life_numbered(life).is_some_and(|life| life.dials.contains(&id));
        let is_closed = self.hosts[to.0].plan.firewalled || self.network.is_behind_nat(to);
        if !dialing || (is_closed && from != to) {
            return Ok(());
        }
        if !self.network.carries(from, to) {
            self.push(self.now + REQUEST_AGAIN, Happening::Request(request));
            return Ok(());
        }
        let Some(acceptor) = self.hosts[to.0].life.as_mut().filter(|_| port == PORT) else {
            if self.network.carries(to, from) {
                let at = self.now + self.network.latency(to, from, &mut self.rng);
                let failure = DialFailure::Refused;
                self.push(at, Happening::DialFailed { host: from, life, id, failure });
            }
            return Ok(());
        };
        let there = ConnectionId::Accepted(acceptor.accepted);
        acceptor.accepted += 1;
        let number = self.streams_opened;
        self.streams_opened += 1;
        acceptor.streams.insert(there, (number, 1));
        let [here, far] = [from, to].map(|host| self.network.outside_address(host));
        let ends = [
            End { host: from, life, id, state: EndState::Dialing, address: here },
            End { host: to, life: acceptor.number, id: there, state: EndState::Open, address: far },
        ];
        self.streams.insert(number, Stream { ends, pipes: [Pipe::default(), Pipe::default()] });
        self.send_segment(number, 1, Segment::Established);
        let local = SocketAddr::new(self.network.own_address(to), PORT);
        let remote = SocketAddr::new(here, ephemeral_port(number));
        self.input(to, Input::Accepted { id: there, local, remote })
    }

    fn dial_failed(
        &mut self,
        host: HostId,
        life: u64,
        id: ConnectionId,
        failure: DialFailure,
    ) -> Result<(), Violation> {
        let dialing = self.hosts[host.0].life_numbered(life).is_some_and(|life| life.dials.remove(&id));
        if dialing { self.input(host, Input::DialFailed { id, failure }) } else { Ok(()) }
    }

    fn write(&mut self, host: HostId, id: ConnectionId, bytes: Vec<u8>) {
        let Some((stream, side)) = self.hosts[host.0].stream(id) else { return };
        self.hosts[host.0].tally.control_bytes += bytes.len() as u64;
        let Some(ends) = self.streams.get(&stream).map(|stream| stream.ends) else { return };
        let direction = (ends[side].host, ends[1 - side].host);
        for (at, piece) in tcp::pieces(bytes, direction, &self.network, &mut self.rng, self.now) {
            self.put_segment(stream, side, Segment::Bytes(piece), at);
        }
    }

    fn close(&mut self, host: HostId, id: ConnectionId) {
        let Some(life) = &mut self.hosts[host.0].life else { return };
        life.dials.remove(&id);
        let Some((stream, side)) = life.streams.remove(&id) else { return };
        self.end_side(stream, side);
    }

    /// Closes one end: what it has sent still arrives, and after that the end.
    fn end_side(&mut self, stream: u64, side: usize) {
        if let Some(known) = self.streams.get_mut(&stream) {
            known.ends[side].state = EndState::Closed;
            self.send_segment(stream, side, Segment::Closed);
        }
    }

    fn send_segment(&mut self, stream: u64, side: usize, segment: Segment) {
        let Some(ends) = self.streams.get(&stream).map(|stream| stream.ends) else { return };
        let (from, to) = (ends[side].host, ends[1 - side].host);
        let delay = self.network.latency_with_loss(from, to, network::RETRANSMIT_MIN, &mut self.rng);
        self.put_segment(stream, side, segment, self.now + delay);
    }

    fn put_segment(&mut self, stream: u64, side: usize, segment: Segment, at: Moment) {
        let Some(known) = self.streams.get_mut(&stream) else { return };
        if let Some(at) = known.pipes[side].push(segment, at) {
            self.push(at, Happening::Segment { stream, side });
        }
    }

    /// The first segment of a pipe is due at the other end.
    fn segment(&mut self, number: u64, side: usize) -> Result<(), Violation> {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        let (from, to) = (stream.ends[side], stream.ends[1 - side]);
        let has_moved = [from, to].iter().any(|end| self.network.outside_address(end.host) != end.address);
        if has_moved || !self.network.carries(from.host, to.host) {
            if stream.is_over() {
                self.streams.remove(&number);
                return Ok(());
            }
            let again = stream.pipes[side].stall(now);
            self.push(again, Happening::Segment { stream: number, side });
            return Ok(());
        }
        let segment = stream.pipes[side].pop(now);
        if let Some(next) = stream.pipes[side].next_arrival() {
            self.push(next, Happening::Segment { stream: number, side });
        }
        match segment {
            None => Ok(()),
            Some(Segment::Established) => self.established(number, to),
            Some(Segment::Bytes(bytes)) if to.state == EndState::Open => {
                self.input(to.host, Input::Received { id: to.id, bytes })
            }
            Some(Segment::Bytes(_)) => {
                // A reset answers whoever still talks to a closed end.
                if from.state == EndState::Open {
                    self.send_segment(number, 1 - side, Segment::Closed);
                }
                Ok(())
            }
            Some(Segment::Closed) => self.closed(number, 1 - side, to),
        }
    }

    fn established(&mut self, stream: u64, end: End) -> Result<(), Violation> {
        let remote = self.streams.get(&stream).map(|stream| stream.ends[1].address);
        let life = self.hosts[end.host.0].life_numbered(end.life);
        let (Some(life), Some(remote)) = (life.filter(|life| life.dials.contains(&end.id)), remote) else {
            self.end_side(stream, 0);
            return Ok(());
        };
        life.dials.remove(&end.id);
        life.streams.insert(end.id, (stream, 0));
        if let Some(known) = self.streams.get_mut(&stream) {
            known.ends[0].state = EndState::Open;
        }
        let local = SocketAddr::new(self.network.own_address(end.host), ephemeral_port(stream));
        let remote = SocketAddr::new(remote, PORT);
        self.input(end.host, Input::Dialed { id: end.id, local, remote })
    }

    fn closed(&mut self, stream: u64, side: usize, end: End) -> Result<(), Violation> {
        if let Some(known) = self.streams.get_mut(&stream) {
            known.ends[side].state = EndState::Closed;
            if known.is_over() {
                self.streams.remove(&stream);
            }
        }
        if end.state != EndState::Open {
            return Ok(());
        }
        if let Some(life) = self.hosts[end.host.0].life_numbered(end.life) {
            life.streams.remove(&end.id);
        }
        self.input(end.host, Input::Closed { id: end.id })
    }

    fn send_datagram(&mut self, from: HostId, (remote, bytes): Datagram) {
        self.hosts[from.0].tally.probe_bytes += bytes.len() as u64;
        let source = self.network.send(from, remote, &mut self.rng, self.now);
        let Some(to) = self.network.host_at(remote) else { return };
        let copies = if self.network.duplicates(&mut self.rng) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.network.loses(from, to, &mut self.rng) {
                let at = self.now + self.network.latency(from, to, &mut self.rng);
                self.push(at, Happening::Datagram { from, source, to: remote, bytes: bytes.clone() });
            }
        }
    }

    fn datagram(
        &mut self,
        from: HostId,
        source: SocketAddr,
        address: SocketAddr,
        bytes: Vec<u8>,
    ) -> Result<(), Violation> {
        let now = self.now;
        let Some(to) = self.network.receive(source, address, now) else { return Ok(()) };
        if !self.network.carries(from, to) {
            return Ok(());
        }
        if let Some(resumes) = self.hosts[to.0].paused_until {
            self.push(resumes, Happening::Datagram { from, source, to: address, bytes });
            return Ok(());
        }
        let clock = self.clock(to);
        let Some(sleeve) = self.hosts[to.0].sleeve() else { return Ok(()) };
        let arrival = sleeve.receive(source, &bytes, clock);
        let reports = sleeve.reports(clock);
        let outcome = match &arrival {
            Arrival::Unknown => "of an unknown session",
            Arrival::Replayed => "that came before",
            Arrival::Authentic(Some(_)) => "with a probe",
            Arrival::Authentic(None) => "with a reply",
            Arrival::Undecryptable(_) => "that does not decrypt",
        };
        self.trace.record(now, format_args!("{to} datagram of {from} {outcome}"), &bytes);
        match arrival {
            Arrival::Unknown | Arrival::Replayed | Arrival::Authentic(None) => {}
            Arrival::Authentic(Some(answer)) => self.send_datagram(to, answer),
            Arrival::Undecryptable(peer) => return Err(Violation::KeysDiffer { host: to, peer }),
        }
        for report in reports {
            self.input(to, Input::Report(report))?;
        }
        Ok(())
    }

    fn fault(&mut self, fault: &Fault) -> Result<(), Violation> {
        self.trace.record(self.now, format_args!("{fault}"), &[]);
        match fault {
            Fault::Crash { host, how } => self.crash(*host, *how)?,
            Fault::Start { host, boot } => self.start(*host, *boot)?,
            Fault::Block { from, to } => self.network.set_blocked(*from, *to, true),
            Fault::Unblock { from, to } => self.network.set_blocked(*from, *to, false),
            Fault::Partition(side) => self.network.set_sides(side),
            Fault::Loss(percent) => self.network.set_loss(*percent),
            Fault::Duplicates(percent) => self.network.set_duplicates(*percent),
            Fault::Pause { host, length } => {
                self.pause(*host, *length);
            }
            Fault::Sleep { host, length } => {
                if self.pause(*host, *length) {
                    self.network.set_powered(*host, false);
                }
            }
            Fault::Move(host) => self.move_host(*host)?,
            Fault::ForgetMappings(host) => self.network.forget_mappings(*host),
            Fault::ClockJump { host, by } => {
                self.hosts[host.0].ahead += *by;
                self.input(*host, Input::Timeout)?;
            }
            Fault::Calm => {
                self.network.heal();
                for host in (0..self.hosts.len()).map(HostId) {
                    self.start(host, Boot::Next)?;
                }
            }
        }
        Ok(())
    }

    fn crash(&mut self, host: HostId, how: Crash) -> Result<(), Violation> {
        if self.hosts[host.0].life.is_none() {
            return Ok(());
        }
        if how == Crash::Stopped && self.hosts[host.0].paused_until.is_none() {
            self.input(host, Input::Stop)?;
        }
        let Some(life) = self.hosts[host.0].life.take() else { return Ok(()) };
        if let Some(management) = &mut self.management {
            management.crashed(host);
        }
        self.hosts[host.0].paused_until = None;
        self.hosts[host.0].waiting.clear();
        for (stream, side) in life.streams.into_values() {
            match how {
                Crash::Stopped | Crash::Killed => self.end_side(stream, side),
                Crash::PowerCut => {
                    if let Some(stream) = self.streams.get_mut(&stream) {
                        stream.ends[side].state = EndState::Closed;
                    }
                }
            }
        }
        if how == Crash::PowerCut {
            self.network.set_powered(host, false);
        }
        Ok(())
    }

    fn start(&mut self, host: HostId, boot: Boot) -> Result<(), Violation> {
        let (now, clock) = (self.now, self.clock(host));
        let place = &mut self.hosts[host.0];
        if place.life.is_some() {
            return Ok(());
        }
        match boot {
            Boot::Next => place.boot.0 += 1,
            Boot::Restored(boot) => {
                place.boot = boot;
                place.restored = true;
            }
        }
        place.lives += 1;
        let mut config = place.config(host);
        config.ipam = self.management.as_mut().and_then(|management| management.opened(host, place.peer));
        let node = match &self.memo {
            Some(memo) => Node::with_opener(config, Box::new(memo.clone()), place.rng.fork(), clock),
            None => Node::new(config, place.rng.fork(), clock),
        };
        let life = Life {
            number: place.lives,
            node_timeout: node.poll_timeout().map(|at| world_time(at, place.ahead)),
            node,
            sleeve: None,
            streams: BTreeMap::new(),
            dials: BTreeSet::new(),
            accepted: 0,
            wake: None,
            wakes_at: (now, 0),
        };
        place.life = Some(life);
        place.paused_until = None;
        place.waiting.clear();
        self.network.set_powered(host, true);
        self.input(host, Input::Addresses(vec![self.network.own_address(host)]))?;
        self.name_all(host)?;
        self.input(host, Input::Timeout)
    }

    /// Stops a router without ending it: what comes for it waits. Returns whether it ran.
    fn pause(&mut self, host: HostId, length: Duration) -> bool {
        let resumes = self.now + length;
        let place = &mut self.hosts[host.0];
        let runs = place.life.is_some() && place.paused_until.is_none();
        if runs {
            place.paused_until = Some(resumes);
            self.push(resumes, Happening::Resume { host });
        }
        runs
    }

    fn resume(&mut self, host: HostId) -> Result<(), Violation> {
        let now = self.now;
        let place = &mut self.hosts[host.0];
        if place.paused_until.is_none_or(|at| at > now) {
            return Ok(());
        }
        place.paused_until = None;
        let waiting = std::mem::take(&mut place.waiting);
        self.network.set_powered(host, true);
        for input in waiting {
            self.input(host, input)?;
        }
        let Some(life) = &mut self.hosts[host.0].life else { return Ok(()) };
        life.wake = Some(now);
        let number = life.number;
        self.wake(host, number)
    }

    /// A host turns up in another network: its router hears of it, and its connections lead nowhere.
    fn move_host(&mut self, host: HostId) -> Result<(), Violation> {
        self.network.move_host(host);
        self.input(host, Input::Addresses(vec![self.network.own_address(host)]))
    }

    /// A host's containers talk to those of the hosts that the scenario names.
    fn talk(&mut self, host: HostId) -> Result<(), Violation> {
        let now = self.now;
        self.push(now + TALKS_EVERY, Happening::Talk { host });
        if self.hosts[host.0].paused_until.is_some() {
            return Ok(());
        }
        for to in self.hosts[host.0].plan.talks_to.clone() {
            let peer = self.peer(to);
            let clock = self.clock(host);
            let Some(sleeve) = self.hosts[host.0].sleeve() else { return Ok(()) };
            let Some(next) = sleeve.plan().routes.next_hop.get(&peer).copied() else { continue };
            sleeve.carried(next, clock);
            if next != peer {
                self.input(host, Input::Report(Report::Relayed { peer }))?;
            }
        }
        self.schedule_wake(host);
        Ok(())
    }
}

/// When a clock that is so far ahead shows this.
fn world_time(shown: Moment, ahead: Duration) -> Moment {
    Moment::ORIGIN + shown.since_origin().saturating_sub(ahead)
}

/// The port that the dialing end of a stream has.
pub(crate) fn ephemeral_port(stream: u64) -> u16 {
    EPHEMERAL.0 + u16::try_from(stream % EPHEMERAL.1).expect("a port is below 2^16")
}

/// What a plan says about where frames go, its keys apart.
fn ways(plan: &Plan) -> (u32, Vec<PeerId>, &BTreeMap<PeerId, PeerId>) {
    (plan.routes.digest, plan.links.iter().map(|link| link.peer).collect(), &plan.routes.next_hop)
}
