//! The node itself: connections and sessions, and the decisions that span them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mesh_crypto::{Identity, Psk, Rng};
use mesh_topology::{Connector, Routes, Target, Topology};
use mesh_wire::control::{Farewell, Message};
use mesh_wire::{Moment, Nickname, PeerId};

use crate::connection::{CloseCause, Connection, Phase};
use crate::interface::{Config, ConnectionId, Input, Output};
use crate::limits::{ANTI_ENTROPY_EVERY, UNREACHABLE_KEPT};
use crate::plan::Plan;
use crate::refusals::Refusals;

/// The control plane of one router.
///
/// **Contract.** After each [`Self::handle`] drain [`Self::poll_output`] to `None` before the next, and call again
/// with [`Input::Timeout`] no later than [`Self::poll_timeout`] says. Times never go backwards. The getters may be
/// called at any time. Nothing a peer sends makes a method panic.
pub struct Node {
    pub(crate) identity: Identity,
    pub(crate) secrets: Vec<Psk>,
    pub(crate) aes_preferred: bool,
    pub(crate) topology: Topology,
    pub(crate) connector: Connector,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// The one connection of each peer that counts.
    pub(crate) sessions: BTreeMap<PeerId, ConnectionId>,
    /// Why each target's last attempt failed.
    pub(crate) failures: BTreeMap<Target, CloseCause>,
    pub(crate) refusals: Refusals,
    /// Records to pass on, by origin, with the connection they came from. One whose origin cannot be reached yet
    /// waits here until it can, or is forgotten.
    pub(crate) news: BTreeMap<PeerId, Option<ConnectionId>>,
    pub(crate) timers: Timers,
    pub(crate) rng: Rng,
    pub(crate) dials: u64,
    /// What follows from `topology`, as of the last time that it changed.
    pub(crate) routes: Routes,
    pub(crate) links_changed: bool,
    pub(crate) topology_changed: bool,
    pub(crate) plan_changed: bool,
    pub(crate) outputs: VecDeque<Output>,
}

/// All times of the node that belong to no single connection.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(crate) gossip: Option<Moment>,
    pub(crate) forget: Option<Moment>,
    pub(crate) anti_entropy: Option<Moment>,
}

impl Node {
    /// A node that has connected to nobody yet; its first [`Input::Timeout`] may come at once.
    #[must_use]
    pub fn new(config: Config, rng: Rng, now: Moment) -> Self {
        let topology =
            Topology::new(&config.identity, config.boot, config.nickname, config.port, config.nonce);
        let connector = Connector::new(topology.me(), config.discovery, config.targets, now);
        Self {
            identity: config.identity,
            secrets: config.secrets,
            aes_preferred: config.aes_preferred,
            topology,
            connector,
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            failures: BTreeMap::new(),
            refusals: Refusals::default(),
            news: BTreeMap::new(),
            timers: Timers { anti_entropy: Some(now + ANTI_ENTROPY_EVERY), ..Timers::default() },
            rng,
            dials: 0,
            routes: Routes::default(),
            links_changed: false,
            topology_changed: true,
            plan_changed: true,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Moment) {
        debug_assert!(self.outputs.is_empty(), "outputs of the last input were not drained");
        match input {
            Input::Dialed { id, remote, .. } => self.dialed(id, remote, now),
            Input::DialFailed { id, failure } => self.end(id, CloseCause::Dial(failure), now),
            Input::Accepted { id, remote, .. } => self.accepted(id, remote, now),
            Input::Received { id, bytes } => self.received(id, bytes, now),
            Input::Closed { id } => self.end(id, CloseCause::Closed, now),
            Input::Report(report) => self.report(report, now),
            Input::Timeout
            | Input::Connect { .. }
            | Input::Forget { .. }
            | Input::Secrets(_)
            | Input::Addresses(_)
            | Input::Founded(_) => {}
            Input::Stop => return self.stop(),
        }
        self.run_timers(now);
        self.settle(now);
    }

    /// The next thing that the shell shall do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let connections = self.connections.values().filter_map(Connection::poll_timeout).min();
        let Timers { gossip, forget, anti_entropy } = self.timers;
        [connections, self.connector.poll_timeout(), gossip, forget, anti_entropy].into_iter().flatten().min()
    }

    /// All that the data plane shall do, as of now.
    #[must_use]
    pub fn plan(&mut self) -> Plan {
        let links = self.sessions.iter().filter_map(|(peer, id)| {
            Some((*peer, &self.connections.get(id).and_then(Connection::open)?.data))
        });
        Plan::new(self.peer_id(), self.routes.clone(), links)
    }

    /// This router's id.
    #[must_use]
    pub const fn peer_id(&self) -> PeerId {
        self.topology.me()
    }

    /// This router's label.
    #[must_use]
    pub fn nickname(&self) -> &Nickname {
        &self.topology.own().nickname
    }

    /// Whether the network has a secret.
    #[must_use]
    pub const fn has_secret(&self) -> bool {
        !self.secrets.is_empty()
    }

    fn stop(&mut self) {
        for (id, mut connection) in std::mem::take(&mut self.connections) {
            if let Some(Ok(bytes)) =
                connection.open_mut().map(|open| open.seal(&Message::Bye(Farewell::Stopping)))
            {
                self.outputs.push_back(Output::Write { id, bytes });
            }
            self.outputs.push_back(Output::Close { id });
        }
        self.sessions.clear();
    }

    fn run_timers(&mut self, now: Moment) {
        let due: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.poll_timeout().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.run_connection_timers(id, now);
        }
        if self.timers.anti_entropy.is_some_and(|at| at <= now) {
            let fifth_ms = u64::try_from(ANTI_ENTROPY_EVERY.as_millis() / 5).unwrap_or(u64::MAX);
            let wait = ANTI_ENTROPY_EVERY * 4 / 5 + Duration::from_millis(self.rng.below(2 * fifth_ms));
            self.timers.anti_entropy = Some(now + wait);
            if let Some(id) = self.pick_neighbours(1, None).pop() {
                self.send(id, &self.digest(true), now);
            }
        }
        if self.timers.forget.is_some_and(|at| at <= now) {
            self.timers.forget = None;
            let gone = self.topology.forget_unreachable();
            self.topology_changed |= !gone.is_empty();
        }
        self.refusals.expire(now);
    }

    /// Draws the consequences of what changed: own record, news, targets, dials, plan.
    fn settle(&mut self, now: Moment) {
        if self.links_changed {
            self.links_changed = false;
            let links = self.own_links();
            if self.topology.publish(&self.identity, links) {
                self.news.insert(self.peer_id(), None);
                self.topology_changed = true;
                self.gossip_soon(now);
            }
        }
        if self.topology_changed {
            self.topology_changed = false;
            self.plan_changed = true;
            self.routes = Routes::compute(&self.topology);
            self.timers.forget = Some(now + UNREACHABLE_KEPT);
            let connected = self.sessions.keys().copied().collect::<BTreeSet<_>>();
            self.connector.discover(&self.topology, &connected, now);
        }
        if self.timers.gossip.is_some_and(|at| at <= now) {
            self.timers.gossip = None;
            self.spread_news(now);
        }
        for target in self.connector.due(now) {
            let id = ConnectionId::Dialed(self.dials);
            self.dials += 1;
            let connection = Connection { target: Some(target.clone()), remote: None, phase: Phase::Dialing };
            self.connections.insert(id, connection);
            self.outputs.push_back(Output::Dial { id, target });
        }
        if self.plan_changed {
            self.plan_changed = false;
            self.outputs.push_back(Output::PlanChanged);
        }
    }
}

#[cfg(test)]
mod tests;
