//! Connections and sessions: from the first byte to the last. Which of several with one peer counts is `rivals`' matter.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_crypto::{Handshake, HandshakeConfig, HandshakeError, HandshakeStep, Psk, Role, Session, VERSIONS};
use mesh_topology::Target;
use mesh_wire::control::{Farewell, Hello, Message};
use mesh_wire::{Moment, NetworkId, PeerId};

use crate::admission::{Admission, Meeting};
use crate::connection::{CloseCause, Connection, Open, Phase, PulseAction};
use crate::counters::Count;
use crate::data_link::{DataLink, Rotation};
use crate::interface::{ConnectionId, Event, Output};
use crate::limits::{ASLEEP_AFTER, HANDSHAKE_TIME_MAX, SESSION_SILENCE_MAX, UNAUTHENTICATED_LEN_MAX};
use crate::node::Node;
use crate::relay;

impl Node {
    pub(crate) fn dialed(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr, now: Moment) {
        let dialing = |connection: &&mut Connection| matches!(connection.phase, Phase::Dialing);
        if let Some(connection) = self.connections.get_mut(&id).filter(dialing) {
            connection.local = Some(local.ip());
            self.shake_hands(id, Role::Initiator, Some(remote), now);
        }
    }

    pub(crate) fn accepted(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr, now: Moment) {
        if let Err(cause) = self.admit(remote, now) {
            self.outputs.push_back(Output::Close { id });
            return self.remember_refusal(remote, cause, now);
        }
        let local = Some(local.ip());
        let connection = Connection { target: None, local, remote: Some(remote), phase: Phase::Dialing };
        self.connections.insert(id, connection);
        self.shake_hands(id, Role::Responder, Some(remote), now);
    }

    pub(crate) fn shake_hands(
        &mut self,
        id: ConnectionId,
        role: Role,
        remote: Option<SocketAddr>,
        now: Moment,
    ) {
        let own = self.topology.own();
        let hello = Hello {
            nickname: own.nickname.clone(),
            boot: own.boot,
            port: own.port,
            nonce: own.nonce,
            network: self.admission.network(),
            trusts: self.admission.trusts(remote),
        };
        let target = self.connections.get(&id).and_then(|connection| connection.target.as_ref());
        let config = HandshakeConfig {
            role,
            versions: VERSIONS,
            identity: &self.identity,
            secrets: match role {
                Role::Initiator => self.admission.shown_to(target),
                Role::Responder => self.admission.accepted(),
            },
            allowed: self.admission.allowed(),
            aes_preferred: self.aes_preferred,
            payload: hello.encode(),
        };
        let (handshake, bytes) = Handshake::new(config, &mut self.rng);
        self.write(id, bytes);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.remote = remote;
            connection.phase =
                Phase::Handshaking { handshake, deadline: now + HANDSHAKE_TIME_MAX, received: 0 };
        }
    }

    pub(crate) fn received(&mut self, id: ConnectionId, bytes: Vec<u8>, now: Moment) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match std::mem::replace(&mut connection.phase, Phase::Dialing) {
            Phase::Dialing => {}
            Phase::Handshaking { handshake, deadline, received } => match handshake.handle(&bytes) {
                // What comes behind the end of a handshake, in one piece with it, does not count.
                HandshakeStep::More { .. } if received + bytes.len() > UNAUTHENTICATED_LEN_MAX => {
                    self.end(id, CloseCause::HandshakeTooLong, now);
                }
                HandshakeStep::More { handshake, send } => {
                    let received = received + bytes.len();
                    connection.phase = Phase::Handshaking { handshake, deadline, received };
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
        if matches!(id, ConnectionId::Relayed(_)) {
            return self.relayed_authenticated(id, session, now);
        }
        let peer = session.peer.peer_id();
        let hello = match self.judge(&session, now) {
            Ok(hello) => hello,
            Err(cause) => return self.end(id, cause, now),
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
        self.refusals.let_in(remote.ip());
        let outbound = target.is_some();
        let both_trust = hello.trusts && self.admission.trusts(Some(remote));
        let (protection, pinned) = Admission::protection(session.secured_by, both_trust);
        let sleeve = if outbound { remote } else { SocketAddr::new(remote.ip(), hello.port) };
        let rotation = outbound.then(|| Rotation::new(self.rekey_after, &mut self.rng, now));
        let index = self.fresh_index();
        let mut data = DataLink::new(Some(sleeve), session.keys, protection, index, rotation);
        if pinned {
            data.pin();
        }
        let nickname = hello.nickname.clone();
        let knows_network = hello.network.is_some();
        let Session { secured_by, sealer, opener, .. } = session;
        let open = Open::new(peer, hello, secured_by, sealer, opener, data, now);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::Open(Box::new(open));
        }
        if let Some(network) = self.admission.network().filter(|_| !knows_network) {
            self.send(id, &Message::Network(network), now);
        }
        self.offer_vxlan(id, now);
        match self.sessions.get(&peer).copied() {
            None => {
                self.counters.count(Count::SessionOpened);
                self.outputs.push_back(Output::Event(Event::Connected { peer, nickname, remote, outbound }));
                self.adopt_link(peer, id, now);
                self.count_on(peer, id, now);
            }
            Some(rival) => self.settle_rivals(peer, rival, id, now),
        }
    }

    /// Whether a peer that has proven its identity may stay, by what it says of itself.
    pub(crate) fn judge(&mut self, session: &Session, now: Moment) -> Result<Hello, CloseCause> {
        let hello = Hello::decode(&session.payload).map_err(CloseCause::Hello)?;
        // The secrets may have changed since the handshake began.
        if !self.admission.holds(session.secured_by) {
            return Err(CloseCause::SecretRetired);
        }
        self.learn_network(hello.network, now)?;
        Ok(hello)
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
                Ok(message) => {
                    self.counters.received(&message, plaintext.len());
                    self.message(id, peer, message, now);
                }
                Err(error) => {
                    self.send(id, &Message::Bye(Farewell::Violation), now);
                    return self.end(id, CloseCause::Message(error), now);
                }
            }
        }
    }

    pub(crate) fn message(&mut self, id: ConnectionId, peer: PeerId, message: Message, now: Moment) {
        if matches!(id, ConnectionId::Relayed(_)) && !relay::is_carried(&message) {
            return;
        }
        // A session that waits beside another may be a copy's: no record is taken from it before it counts.
        let is_gossip = matches!(message, Message::Gossip(_) | Message::Summary(_) | Message::Digest(_));
        if is_gossip && !self.counts_on(peer, id) {
            return;
        }
        match message {
            Message::Gossip(gossip) => self.gossip(id, peer, &gossip, now),
            Message::Digest(digest) => self.answer_digest(id, &digest, now),
            Message::Ping(number) => self.send(id, &Message::Pong(number), now),
            // That it came is the sign of life that was asked for.
            Message::Pong(number) => {
                self.pong(id, number, now);
                self.gossip_read(id, number, now);
            }
            Message::DataOffer(offer) => self.data_offer(id, offer),
            Message::Bye(Farewell::SecretRetired) => self.retire(id, now),
            Message::Bye(Farewell::Cloned) => {
                self.address_input(mesh_ipam::Input::Copied { peer: self.peer_id() }, now);
                self.end(id, CloseCause::Farewell(Farewell::Cloned), now);
            }
            Message::Bye(farewell) => self.end(id, CloseCause::Farewell(farewell), now),
            Message::Rekey(rekey) => self.handle_rekey(id, &rekey, now),
            Message::Observed(address) => self.observed(peer, address),
            Message::Candidates(addresses) => self.candidates(id, addresses),
            Message::Network(network) => {
                if let Err(cause) = self.learn_network(Some(network), now) {
                    self.send(id, &Message::Bye(Farewell::OtherNetwork), now);
                    self.end(id, cause, now);
                }
            }
            Message::Vxlan(offer) => self.vxlan_offered(id, offer),
            Message::Relay(relay) => self.relay(peer, relay, now),
            Message::Mail(mail) => self.mail(id, mail, now),
            Message::Summary(summary) => self.answer_summary(id, &summary, now),
            Message::Unknown(_) => self.counters.count(Count::MessageUnknown),
        }
    }

    /// Ends a connection: tells the shell, and draws the consequences for target and peer.
    pub(crate) fn end(&mut self, id: ConnectionId, cause: CloseCause, now: Moment) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if matches!(id, ConnectionId::Relayed(_)) {
            return self.relayed_ended(id, &connection, &cause, now);
        }
        self.outputs.push_back(Output::Close { id });
        self.counters.count_end(&cause, connection.open().is_some());
        let Connection { target, remote, phase, .. } = connection;
        match (phase, target) {
            (Phase::Open(open), target) if self.counts_on(open.peer, id) => {
                match self.open_with(open.peer).first() {
                    Some(spare) => self.take_over(*spare, *open, now),
                    None => {
                        let (peer, lasted) = (open.peer, now.since(open.since));
                        if let Some(remote) = remote {
                            self.left(remote.ip(), now);
                        }
                        self.keep_link(*open, remote, target.is_some(), &cause, now);
                        self.lost(peer, cause.clone(), lasted, now);
                    }
                }
                if let Some(target) = target.filter(|_| !cause.is_enough()) {
                    self.failures.insert(target, cause);
                }
            }
            (Phase::Open(open), target) => self.succession_failed(open.peer, target.as_ref(), now),
            (Phase::Dialing | Phase::Handshaking { .. }, Some(target)) => {
                self.attempt_failed(target, cause, now);
            }
            (Phase::Dialing | Phase::Handshaking { .. }, None) => {
                if let Some(remote) = remote {
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
        if cause.is_enough() {
            self.connector.enough(peer, now);
        } else {
            self.connector.lost(peer, lasted, &mut self.rng, now);
        }
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
        let secret_differs = matches!(cause, CloseCause::Handshake(HandshakeError::PasswordDiffers));
        if secret_differs && self.admission.turned_down_by(&target) {
            return;
        }
        if self.failures.get(&target) != Some(&cause) {
            let event = Event::DialFailed { target: target.clone(), cause: cause.clone() };
            self.outputs.push_back(Output::Event(event));
        }
        self.failures.insert(target, cause);
        self.drop_old_failures();
    }

    pub(crate) fn send(&mut self, id: ConnectionId, message: &Message, now: Moment) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        match open.seal(message) {
            Ok(bytes) => {
                self.counters.sent(message, bytes.len());
                self.write(id, bytes);
            }
            Err(error) => self.end(id, CloseCause::Frame(error), now),
        }
    }

    pub(crate) fn write(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        if matches!(id, ConnectionId::Relayed(_)) {
            self.relays.write(id, bytes);
        } else if !bytes.is_empty() {
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
        if open.challenge.is_some() || open.retired.is_some() {
            self.challenge_over(id, now);
            self.retirement_over(id, now);
        }
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
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

    /// The network's secrets are others now. What a secret opened that is not among them is opened anew.
    pub(crate) fn set_secrets(&mut self, secrets: Vec<Psk>, now: Moment) {
        self.admission.set_secrets(secrets);
        let retired = |c: &Connection| c.open().is_some_and(|open| !self.admission.holds(open.secured_by));
        let retired: Vec<_> =
            self.connections.iter().filter(|(_, c)| retired(c)).map(|(id, _)| *id).collect();
        for id in retired {
            self.send(id, &Message::Bye(Farewell::SecretRetired), now);
            self.retire(id, now);
        }
        // Whoever was refused before may be accepted now.
        self.connector.hurry(&mut self.rng, now);
    }

    /// The host has these addresses now. Connections from one that it has lost are dead, and where no way led before one
    /// may lead now.
    pub(crate) fn addresses_changed(&mut self, addresses: &[IpAddr], now: Moment) {
        self.set_addresses(addresses);
        let present: BTreeSet<_> = addresses.iter().map(IpAddr::to_canonical).collect();
        let is_gone = |local: &IpAddr| !local.is_loopback() && !present.contains(local);
        let local = |c: &Connection| c.local.map(|local| local.to_canonical()).filter(is_gone);
        let gone: Vec<_> = self.connections.iter().filter_map(|(id, c)| Some((*id, local(c)?))).collect();
        for (id, local) in gone {
            let connection = self.connections.get(&id);
            let dialed_by =
                connection.filter(|connection| connection.target.is_none()).and_then(|connection| {
                    let open = connection.open()?;
                    Some((open.peer, SocketAddr::new(connection.remote?.ip(), open.hello.port)))
                });
            self.end(id, CloseCause::AddressGone(local), now);
            // Whoever dialed this router looks for it where it was.
            if let Some((peer, address)) = dialed_by {
                self.connector.revisit(peer, address, now);
            }
        }
        self.connector.hurry(&mut self.rng, now);
    }

    /// This router belongs to a network of its own founding.
    pub(crate) fn founded(&mut self, network: NetworkId, now: Moment) {
        // If it has joined another in the meantime, it stays there.
        let _stays = self.learn_network(Some(network), now);
    }

    /// Takes in which network a peer belongs to. A router without one joins it, and tells all whom it is connected with.
    fn learn_network(&mut self, theirs: Option<NetworkId>, now: Moment) -> Result<(), CloseCause> {
        match (self.admission.meet(theirs), theirs) {
            (Meeting::Strangers(ours, theirs), _) => return Err(CloseCause::OtherNetwork { ours, theirs }),
            (Meeting::Joined, Some(network)) => {
                self.outputs.push_back(Output::Joined(network));
                for id in self.sessions.values().copied().collect::<Vec<_>>() {
                    self.send(id, &Message::Network(network), now);
                }
            }
            (Meeting::Joined, None) | (Meeting::Nothing, _) => {}
        }
        Ok(())
    }

    /// A router that was not run for a while has not heard what was said to it meanwhile: nobody is blamed for that.
    pub(crate) fn excuse_own_sleep(&mut self, now: Moment) {
        // A pulse is among what the table's first entry comes before.
        if self.connections.poll_timeout().is_none_or(|due| now.since(due) < ASLEEP_AFTER) {
            return;
        }
        let pulses =
            self.connections.values().filter_map(Connection::open).map(|open| open.pulse.poll_timeout());
        let late = pulses.min().map_or(Duration::ZERO, |due| now.since(due));
        if late >= ASLEEP_AFTER {
            self.connections.excuse(late);
        }
    }
}
