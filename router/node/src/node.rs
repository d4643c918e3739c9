//! The node itself: connections and sessions, and the decisions that span them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::{
    Handshake, HandshakeConfig, HandshakeStep, Identity, Membership, Protection, Psk, Rng, Role, Session,
};
use mesh_topology::{Connector, Routes, Target, Topology};
use mesh_wire::control::{DataOffer, Farewell, Hello, LinkRecord, Message};
use mesh_wire::{BootCount, Moment, Nickname, PeerId, ReceiverIndex};

use crate::connection::{CloseCause, Connection, Open, Phase, Pulse, PulseAction};
use crate::data_link::{DataLink, Liveness, OfferOutcome};
use crate::interface::{Config, ConnectionId, Event, Input, Output, Report};
use crate::limits::{
    ANTI_ENTROPY_EVERY, HALF_OPEN_MAX, HANDSHAKE_TIME_MAX, SESSION_SILENCE_MAX, SIMULTANEOUS_DIAL,
    UNREACHABLE_KEPT,
};
use crate::plan::Plan;
use crate::refusals::Refusals;

/// The control plane of one router.
///
/// **Contract.** After each [`Self::handle`] drain [`Self::poll_output`] to `None` before the next, and call again
/// with [`Input::Timeout`] no later than [`Self::poll_timeout`] says. Times never go backwards. The getters may be
/// called at any time. Nothing a peer sends makes a method panic.
pub struct Node {
    pub(crate) identity: Identity,
    secrets: Vec<Psk>,
    aes_preferred: bool,
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
    dials: u64,
    /// What follows from `topology`, as of the last time that it changed.
    routes: Routes,
    links_changed: bool,
    pub(crate) topology_changed: bool,
    plan_changed: bool,
    pub(crate) outputs: VecDeque<Output>,
}

/// Which of two sessions with one peer is kept.
enum Choice {
    Old,
    New,
    /// The peer says; until then the new one waits in reserve.
    Peers,
}

/// All times of the node that belong to no single connection.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(crate) gossip: Option<Moment>,
    forget: Option<Moment>,
    anti_entropy: Option<Moment>,
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

    fn dialed(&mut self, id: ConnectionId, remote: SocketAddr, now: Moment) {
        if self.connections.get(&id).is_some_and(|connection| matches!(connection.phase, Phase::Dialing)) {
            self.shake_hands(id, Role::Initiator, remote, now);
        }
    }

    fn accepted(&mut self, id: ConnectionId, remote: SocketAddr, now: Moment) {
        let half_open = self.connections.values().filter(|connection| connection.is_half_open()).count();
        if half_open >= HALF_OPEN_MAX {
            self.outputs.push_back(Output::Close { id });
            self.remember_refusal(remote, CloseCause::TooManyHalfOpen, now);
            return;
        }
        self.connections.insert(id, Connection { target: None, remote: Some(remote), phase: Phase::Dialing });
        self.shake_hands(id, Role::Responder, remote, now);
    }

    fn shake_hands(&mut self, id: ConnectionId, role: Role, remote: SocketAddr, now: Moment) {
        let own = self.topology.own();
        let hello = Hello {
            nickname: own.nickname.clone(),
            boot: own.boot,
            port: own.port,
            nonce: own.nonce,
            network: None,
            trusts: false,
        };
        let config = HandshakeConfig {
            role,
            identity: &self.identity,
            psk: self.secrets.first(),
            aes_preferred: self.aes_preferred,
            payload: hello.encode(),
        };
        let (handshake, bytes) = Handshake::new(config, &mut self.rng);
        self.write(id, bytes);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.remote = Some(remote);
            connection.phase = Phase::Handshaking { handshake, deadline: now + HANDSHAKE_TIME_MAX };
        }
    }

    fn received(&mut self, id: ConnectionId, bytes: Vec<u8>, now: Moment) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match std::mem::replace(&mut connection.phase, Phase::Dialing) {
            Phase::Dialing => {}
            Phase::Handshaking { handshake, deadline } => match handshake.handle(&bytes) {
                HandshakeStep::More { handshake, send } => {
                    connection.phase = Phase::Handshaking { handshake, deadline };
                    self.write(id, send);
                }
                HandshakeStep::Done { session, send, rest } => {
                    self.write(id, send);
                    self.authenticated(id, *session, now);
                    self.read_frames(id, &rest, now);
                }
                HandshakeStep::Failed { error, send } => {
                    self.write(id, send);
                    self.end(id, CloseCause::Handshake(error), now);
                }
            },
            Phase::Open(open) => {
                connection.phase = Phase::Open(open);
                self.read_frames(id, &bytes, now);
            }
        }
    }

    /// Opens a session, unless another with the same peer is kept.
    fn authenticated(&mut self, id: ConnectionId, session: Session, now: Moment) {
        let peer = session.peer.peer_id();
        let hello = match Hello::decode(&session.payload) {
            Ok(hello) => hello,
            Err(error) => return self.end(id, CloseCause::Hello(error), now),
        };
        let Some((target, remote)) =
            self.connections.get(&id).and_then(|c| Some((c.target.clone(), c.remote?)))
        else {
            return;
        };
        if let Some(target) = &target {
            self.connector.connected(target, peer);
            self.failures.remove(target);
        }
        let outbound = target.is_some();
        let protection = match session.secured_by {
            Membership::Psk => Protection::Sealed,
            Membership::Open => Protection::Clear,
        };
        let sleeve = if outbound { remote } else { SocketAddr::new(remote.ip(), hello.port) };
        let rekey_at = outbound.then(|| DataLink::next_rekey(&mut self.rng, now));
        let index = self.fresh_index();
        let (data, offer) = DataLink::new(sleeve, session.keys, protection, index, rekey_at);
        let Session { sealer, opener, .. } = session;
        let boot = hello.boot;
        let nickname = hello.nickname.clone();
        let open = Open { peer, hello, sealer, opener, since: now, data, pulse: Pulse::new(now) };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::Open(Box::new(open));
        }
        self.send(id, &Message::DataOffer(offer), now);
        self.send(id, &self.digest(false), now);
        match self.sessions.get(&peer).copied() {
            None => {
                self.outputs.push_back(Output::Event(Event::Connected { peer, nickname, remote, outbound }));
                self.count_on(peer, id);
            }
            Some(rival) => match self.choose(rival, boot, now) {
                Choice::Old => self.dismiss(id, now),
                Choice::New => {
                    self.count_on(peer, id);
                    self.dismiss(rival, now);
                }
                Choice::Peers => self.dismiss_spares(peer, id, now),
            },
        }
    }

    /// Makes `id` the connection of `peer` that counts.
    fn count_on(&mut self, peer: PeerId, id: ConnectionId) {
        self.sessions.insert(peer, id);
        self.links_changed = true;
        self.plan_changed = true;
    }

    pub(crate) fn counts_on(&self, peer: PeerId, id: ConnectionId) -> bool {
        self.sessions.get(&peer) == Some(&id)
    }

    /// Which of two sessions with one peer is kept: `old`, or one of the life `new_boot` that has just opened.
    ///
    /// A session with an earlier life is dead, both ends see that. Otherwise the end with the smaller id decides
    /// alone, and tells the other by its farewell; if each judged for itself, they could keep different ones.
    fn choose(&self, old: ConnectionId, new_boot: BootCount, now: Moment) -> Choice {
        let Some(open) = self.connections.get(&old).and_then(Connection::open) else { return Choice::New };
        if new_boot != open.hello.boot {
            return if open.hello.boot > new_boot { Choice::Old } else { Choice::New };
        }
        let is_young = now.since(open.since) < SIMULTANEOUS_DIAL;
        if !is_young && !open.data.is_alive() {
            return Choice::New;
        }
        if self.peer_id() < open.peer { Choice::Old } else { Choice::Peers }
    }

    /// Keeps at most one session in reserve beside the one that counts, the latest.
    fn dismiss_spares(&mut self, peer: PeerId, but: ConnectionId, now: Moment) {
        for spare in self.open_with(peer) {
            if spare != but && !self.counts_on(peer, spare) {
                self.dismiss(spare, now);
            }
        }
    }

    fn open_with(&self, peer: PeerId) -> Vec<ConnectionId> {
        let with_peer = |c: &Connection| c.open().is_some_and(|open| open.peer == peer);
        self.connections.iter().filter(|(_, c)| with_peer(c)).map(|(id, _)| *id).collect()
    }

    /// Ends the session of a duplicate connection; the peer stays connected by the other.
    fn dismiss(&mut self, id: ConnectionId, now: Moment) {
        self.send(id, &Message::Bye(Farewell::Duplicate), now);
        self.end(id, CloseCause::Duplicate, now);
    }

    fn read_frames(&mut self, id: ConnectionId, bytes: &[u8], now: Moment) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        open.opener.push(bytes);
        loop {
            // Each message may end the connection, so it is looked up anew.
            let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
            let plaintext = match open.opener.next() {
                Ok(Some(plaintext)) => plaintext,
                Ok(None) => return,
                Err(error) => return self.end(id, CloseCause::Frame(error), now),
            };
            open.pulse.heard(now);
            let peer = open.peer;
            match Message::decode(&plaintext) {
                Ok(message) => self.message(id, peer, message, now),
                Err(error) => {
                    self.send(id, &Message::Bye(Farewell::Violation), now);
                    return self.end(id, CloseCause::Message(error), now);
                }
            }
        }
    }

    fn message(&mut self, id: ConnectionId, peer: PeerId, message: Message, now: Moment) {
        match message {
            Message::Gossip(gossip) => self.gossip(id, peer, &gossip, now),
            Message::Digest(digest) => self.answer_digest(id, &digest, now),
            Message::Ping(number) => self.send(id, &Message::Pong(number), now),
            // That it came is the sign of life that was asked for.
            Message::Pong(_) => {}
            Message::DataOffer(offer) => self.data_offer(id, offer, now),
            Message::Bye(farewell) => self.end(id, CloseCause::Farewell(farewell), now),
            Message::Summary(_)
            | Message::Rekey(_)
            | Message::Observed(_)
            | Message::Candidates(_)
            | Message::Relay(_)
            | Message::Unknown(_) => {}
        }
    }

    fn data_offer(&mut self, id: ConnectionId, offer: DataOffer, now: Moment) {
        let index = self.fresh_index();
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        match open.data.handle_offer(offer, index, now) {
            OfferOutcome::Accepted => {}
            OfferOutcome::Answer(answer) => self.send(id, &Message::DataOffer(answer), now),
            OfferOutcome::OutOfStep => return,
        }
        self.plan_changed = true;
    }

    fn report(&mut self, report: Report, now: Moment) {
        let (Report::Alive { peer, .. }
        | Report::Dead { peer, .. }
        | Report::Roamed { peer, .. }
        | Report::RekeyWanted { peer }
        | Report::Relayed { peer }
        | Report::Idle { peer }) = report;
        let Some(id) = self.sessions.get(&peer).copied() else { return };
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        match report {
            Report::Alive { rtt, .. } => {
                if !open.data.is_alive() {
                    self.outputs.push_back(Output::Event(Event::LinkUp { peer }));
                    self.links_changed = true;
                }
                open.data.set_liveness(Liveness::Alive { rtt });
            }
            Report::Dead { silent_for, .. } => {
                if open.data.is_alive() {
                    self.outputs.push_back(Output::Event(Event::LinkDown { peer, silent_for }));
                    self.links_changed = true;
                }
                open.data.set_liveness(Liveness::Silent);
                // Either end may have lost its place in the session, or been thrown out of it by a forged packet in
                // clear mode: fresh keys begin a new one.
                if open.data.can_rekey() {
                    self.rekey(id, now);
                }
            }
            Report::Roamed { remote, .. } => open.data.set_remote(remote),
            Report::RekeyWanted { .. } => self.rekey(id, now),
            Report::Relayed { .. } | Report::Idle { .. } => {}
        }
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

    fn run_connection_timers(&mut self, id: ConnectionId, now: Moment) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let open = match &mut connection.phase {
            Phase::Dialing => return,
            Phase::Handshaking { .. } => return self.end(id, CloseCause::HandshakeTimeout, now),
            Phase::Open(open) => open,
        };
        self.plan_changed |= open.data.retire(now);
        let rekey = open.data.rekey_due(&mut self.rng, now);
        match open.pulse.check(now) {
            PulseAction::Nothing => {}
            PulseAction::Ping => self.send(id, &Message::Ping(0), now),
            PulseAction::GiveUp => {
                let cause = CloseCause::Silent(SESSION_SILENCE_MAX);
                return self.end(id, cause, now);
            }
        }
        if rekey {
            self.rekey(id, now);
        }
    }

    fn rekey(&mut self, id: ConnectionId, now: Moment) {
        let index = self.fresh_index();
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        let offer = open.data.next_epoch(index, now);
        self.send(id, &Message::DataOffer(offer), now);
        self.plan_changed = true;
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

    /// Ends a connection: tells the shell, and draws the consequences for target and peer.
    fn end(&mut self, id: ConnectionId, cause: CloseCause, now: Moment) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.outputs.push_back(Output::Close { id });
        if let Phase::Open(open) = &connection.phase {
            let current = self.counts_on(open.peer, id);
            if current {
                match self.open_with(open.peer).first() {
                    Some(spare) => self.count_on(open.peer, *spare),
                    None => self.lost(open.peer, cause.clone(), now.since(open.since), now),
                }
            }
            if let Some(target) = connection.target.filter(|_| current) {
                self.failures.insert(target, cause);
            }
            return;
        }
        match connection.target {
            Some(target) => self.attempt_failed(target, cause, now),
            None => {
                if let Some(remote) = connection.remote {
                    self.remember_refusal(remote, cause, now);
                }
            }
        }
    }

    fn remember_refusal(&mut self, remote: SocketAddr, cause: CloseCause, now: Moment) {
        if !cause.is_self_connection() && self.refusals.add(remote, cause.clone(), now) {
            self.outputs.push_back(Output::Event(Event::Refused { remote, cause }));
        }
    }

    /// The last session with a peer is gone.
    fn lost(&mut self, peer: PeerId, cause: CloseCause, lasted: Duration, now: Moment) {
        self.sessions.remove(&peer);
        self.connector.lost(peer, lasted, &mut self.rng, now);
        self.links_changed = true;
        self.plan_changed = true;
        self.topology_changed = true;
        self.outputs.push_back(Output::Event(Event::Disconnected { peer, cause }));
    }

    fn attempt_failed(&mut self, target: Target, cause: CloseCause, now: Moment) {
        if cause.is_self_connection() {
            self.connector.reached_itself(&target, now);
            return;
        }
        self.connector.failed(&target, &mut self.rng, now);
        if self.failures.get(&target) != Some(&cause) {
            let event = Event::DialFailed { target: target.clone(), cause: cause.clone() };
            self.outputs.push_back(Output::Event(event));
        }
        self.failures.insert(target, cause);
        let targets: BTreeSet<_> = self.connector.targets().map(|(target, _)| target.clone()).collect();
        self.failures.retain(|target, _| targets.contains(target));
    }

    pub(crate) fn send(&mut self, id: ConnectionId, message: &Message, now: Moment) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        match open.seal(message) {
            Ok(bytes) => self.write(id, bytes),
            Err(error) => self.end(id, CloseCause::Frame(error), now),
        }
    }

    fn write(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.outputs.push_back(Output::Write { id, bytes });
        }
    }

    fn own_links(&self) -> Vec<LinkRecord> {
        let links = self.sessions.iter().filter_map(|(peer, id)| {
            let connection = self.connections.get(id)?;
            Some(LinkRecord {
                peer: *peer,
                address: connection.remote?,
                outbound: connection.target.is_some(),
                established: connection.open()?.data.is_alive(),
                distance: 0,
                overlay: 1,
            })
        });
        links.collect()
    }

    /// A receiver index that no link of this router uses.
    fn fresh_index(&mut self) -> ReceiverIndex {
        loop {
            let index = ReceiverIndex(self.rng.u32());
            let used =
                self.connections.values().filter_map(Connection::open).any(|open| open.data.uses(index));
            if !used {
                return index;
            }
        }
    }
}

#[cfg(test)]
mod tests;
