//! Connections and sessions: from the first byte to the last, and which of two with one peer counts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::{Handshake, HandshakeConfig, HandshakeStep, Membership, Protection, Role, Session};
use mesh_topology::Target;
use mesh_wire::control::{Farewell, Hello, Message};
use mesh_wire::{BootCount, Moment, PeerId};

use crate::connection::{CloseCause, Connection, Open, Phase, Pulse, PulseAction};
use crate::data_link::DataLink;
use crate::interface::{ConnectionId, Event, Output};
use crate::limits::{HALF_OPEN_MAX, HANDSHAKE_TIME_MAX, SESSION_SILENCE_MAX, SIMULTANEOUS_DIAL};
use crate::node::Node;

/// Which of two sessions with one peer is kept.
pub(crate) enum Choice {
    Old,
    New,
    /// The peer says; until then the new one waits in reserve.
    Peers,
}

impl Node {
    pub(crate) fn dialed(&mut self, id: ConnectionId, remote: SocketAddr, now: Moment) {
        if self.connections.get(&id).is_some_and(|connection| matches!(connection.phase, Phase::Dialing)) {
            self.shake_hands(id, Role::Initiator, remote, now);
        }
    }

    pub(crate) fn accepted(&mut self, id: ConnectionId, remote: SocketAddr, now: Moment) {
        let half_open = self.connections.values().filter(|connection| connection.is_half_open()).count();
        if half_open >= HALF_OPEN_MAX {
            self.outputs.push_back(Output::Close { id });
            self.remember_refusal(remote, CloseCause::TooManyHalfOpen, now);
            return;
        }
        self.connections.insert(id, Connection { target: None, remote: Some(remote), phase: Phase::Dialing });
        self.shake_hands(id, Role::Responder, remote, now);
    }

    pub(crate) fn shake_hands(&mut self, id: ConnectionId, role: Role, remote: SocketAddr, now: Moment) {
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

    pub(crate) fn received(&mut self, id: ConnectionId, bytes: Vec<u8>, now: Moment) {
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
    pub(crate) fn authenticated(&mut self, id: ConnectionId, session: Session, now: Moment) {
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
    pub(crate) fn count_on(&mut self, peer: PeerId, id: ConnectionId) {
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
    pub(crate) fn choose(&self, old: ConnectionId, new_boot: BootCount, now: Moment) -> Choice {
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
    pub(crate) fn dismiss_spares(&mut self, peer: PeerId, but: ConnectionId, now: Moment) {
        for spare in self.open_with(peer) {
            if spare != but && !self.counts_on(peer, spare) {
                self.dismiss(spare, now);
            }
        }
    }

    pub(crate) fn open_with(&self, peer: PeerId) -> Vec<ConnectionId> {
        let with_peer = |c: &Connection| c.open().is_some_and(|open| open.peer == peer);
        self.connections.iter().filter(|(_, c)| with_peer(c)).map(|(id, _)| *id).collect()
    }

    /// Ends the session of a duplicate connection; the peer stays connected by the other.
    pub(crate) fn dismiss(&mut self, id: ConnectionId, now: Moment) {
        self.send(id, &Message::Bye(Farewell::Duplicate), now);
        self.end(id, CloseCause::Duplicate, now);
    }

    pub(crate) fn read_frames(&mut self, id: ConnectionId, bytes: &[u8], now: Moment) {
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

    pub(crate) fn message(&mut self, id: ConnectionId, peer: PeerId, message: Message, now: Moment) {
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

    /// Ends a connection: tells the shell, and draws the consequences for target and peer.
    pub(crate) fn end(&mut self, id: ConnectionId, cause: CloseCause, now: Moment) {
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

    pub(crate) fn remember_refusal(&mut self, remote: SocketAddr, cause: CloseCause, now: Moment) {
        if !cause.is_self_connection() && self.refusals.add(remote, cause.clone(), now) {
            self.outputs.push_back(Output::Event(Event::Refused { remote, cause }));
        }
    }

    /// The last session with a peer is gone.
    pub(crate) fn lost(&mut self, peer: PeerId, cause: CloseCause, lasted: Duration, now: Moment) {
        self.sessions.remove(&peer);
        self.connector.lost(peer, lasted, &mut self.rng, now);
        self.links_changed = true;
        self.plan_changed = true;
        self.topology_changed = true;
        self.outputs.push_back(Output::Event(Event::Disconnected { peer, cause }));
    }

    pub(crate) fn attempt_failed(&mut self, target: Target, cause: CloseCause, now: Moment) {
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

    pub(crate) fn write(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.outputs.push_back(Output::Write { id, bytes });
        }
    }

    pub(crate) fn run_connection_timers(&mut self, id: ConnectionId, now: Moment) {
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
}
