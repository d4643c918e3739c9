//! Sessions between peers that have no connection of their own: opened when frames go between them through others,
//! carried by the control sessions of those others, and used for one thing: to agree on keys and addresses for a data
//! link that goes straight, through NATs on both sides if it must.
//!
//! ```text
//!  frames to C go through B ──► handshake with C, in Relay messages by way of B ──► keys, candidate addresses
//!      ▲                                                                                 │ both ends probe them all
//!      └──── no candidate answers, or nobody needs the link: closed ◄──── frames go straight, B is left out
//! ```
//! Owns the streams, and what others observed of this router's address. A relayed session carries no gossip, stands in
//! no record, and counts for no route of others: it follows the traffic of the two peers alone. Whoever relays can
//! drop what it relays, and neither read nor change it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use mesh_crypto::{Membership, Protection, Role, Session};
use mesh_topology::Backoff;
use mesh_wire::control::{CANDIDATES_MAX, Farewell, Message, RELAY_HOPS_MAX, RELAY_PAYLOAD_LEN_MAX, Relay};
use mesh_wire::{Moment, PeerId};

use crate::connection::{CloseCause, Connection, Open, Phase};
use crate::counters::Count;
use crate::data_link::{DataLink, Rotation};
use crate::interface::ConnectionId;
use crate::limits::{PUNCH_TIME_MAX, RELAYED_SESSIONS_MAX};
use crate::node::Node;

/// All relayed sessions of a node, at most [`RELAYED_SESSIONS_MAX`], one a peer.
#[derive(Default)]
pub(crate) struct Relays {
    streams: BTreeMap<PeerId, Stream>,
    /// What was written to streams and has not gone out yet; emptied at the end of each input.
    outbox: VecDeque<(PeerId, Piece)>,
    /// When the next attempt with a peer may start, after attempts that led to nothing. Only peers of the topology.
    attempts: BTreeMap<PeerId, (Backoff, Moment)>,
    /// From where neighbours see this router's packets come.
    observed: BTreeMap<PeerId, SocketAddr>,
    /// The host's own addresses, with the port of its sleeve.
    own: Vec<SocketAddr>,
    numbered: u64,
}

/// A byte stream to a peer and back.
struct Stream {
    id: ConnectionId,
    /// Its name, given by its initiator.
    number: u64,
    is_initiator: bool,
    sent: u32,
    received: u32,
    /// It ends then, unless its data link has come alive.
    give_up_at: Option<Moment>,
}

/// What waits to go out.
enum Piece {
    Bytes { number: u64, from_initiator: bool, sequence: u32, bytes: Vec<u8> },
    End { number: u64, from_initiator: bool, sequence: u32 },
}

impl Relays {
    /// Takes bytes for the stream `id`, in pieces of at most [`RELAY_PAYLOAD_LEN_MAX`].
    pub(crate) fn write(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        let Some((peer, stream)) = self.streams.iter_mut().find(|(_, stream)| stream.id == id) else {
            return;
        };
        for bytes in bytes.chunks(RELAY_PAYLOAD_LEN_MAX) {
            let piece = Piece::Bytes {
                number: stream.number,
                from_initiator: stream.is_initiator,
                sequence: stream.sent,
                bytes: bytes.to_vec(),
            };
            stream.sent = stream.sent.wrapping_add(1);
            self.outbox.push_back((*peer, piece));
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.streams.values().filter_map(|stream| stream.give_up_at).min()
    }

    /// The relayed session with `peer`, whatever its phase.
    pub(crate) fn with(&self, peer: PeerId) -> Option<ConnectionId> {
        self.streams.get(&peer).map(|stream| stream.id)
    }

    /// All relayed sessions, whatever their phase.
    pub(crate) fn all(&self) -> impl Iterator<Item = (PeerId, ConnectionId)> {
        self.streams.iter().map(|(peer, stream)| (*peer, stream.id))
    }

    fn peer_of(&self, id: ConnectionId) -> Option<PeerId> {
        self.streams.iter().find(|(_, stream)| stream.id == id).map(|(peer, _)| *peer)
    }

    /// Where this router's sleeve may be reached, as far as it knows. Its own addresses first.
    fn candidates(&self) -> Vec<SocketAddr> {
        let mut seen = BTreeSet::new();
        let all = self.own.iter().chain(self.observed.values()).filter(|address| seen.insert(**address));
        all.copied().take(CANDIDATES_MAX).collect()
    }

    fn may_attempt(&self, peer: PeerId, now: Moment) -> bool {
        self.streams.len() < RELAYED_SESSIONS_MAX
            && !self.streams.contains_key(&peer)
            && self.attempts.get(&peer).is_none_or(|(_, not_before)| *not_before <= now)
    }
}

impl Node {
    /// The peers with whom there is a session over others.
    pub fn relayed_peers(&self) -> impl Iterator<Item = PeerId> {
        self.relays.streams.keys().copied()
    }

    /// Frames of this router go to `peer` through others: tries to reach it straight.
    pub(crate) fn relayed_traffic(&mut self, peer: PeerId, now: Moment) {
        if !self.may_relay_with(peer) || !self.relays.may_attempt(peer, now) {
            return;
        }
        let number = self.rng.u64();
        let id = self.new_stream(peer, number, true, now);
        self.shake_hands(id, Role::Initiator, None, now);
    }

    /// Whether a session over others makes sense: with a peer of the network without a connection, by a router that reaches
    /// others than those it was told of.
    fn may_relay_with(&self, peer: PeerId) -> bool {
        self.discovery && self.topology.record(peer).is_some() && !self.sessions.contains_key(&peer)
    }

    /// Takes in a piece of a stream, for this router or for another.
    pub(crate) fn relay(&mut self, from: PeerId, relay: Relay, now: Moment) {
        let me = self.peer_id();
        if relay.source == me {
            return;
        }
        if relay.destination != me {
            let hops = relay.hops.saturating_sub(1);
            let next = self.routes().next_hop.get(&relay.destination).copied();
            let may_go = |next: &PeerId| hops > 0 && *next != from && *next != relay.source;
            let Some(next) = next.filter(may_go) else { return self.counters.count(Count::RelayDropped) };
            self.counters.count(Count::RelayForwarded);
            self.counters.add(Count::RelayForwardedBytes, relay.payload.len() as u64);
            self.send_relay(next, Relay { hops, ..relay }, now);
            return;
        }
        let Some(id) = self.stream_of(&relay, now) else { return };
        if relay.payload.is_empty() {
            return self.end(id, CloseCause::Closed, now);
        }
        let Some(stream) = self.relays.streams.get_mut(&relay.source) else { return };
        if relay.sequence != stream.received {
            return self.end(id, CloseCause::StreamBroken, now);
        }
        stream.received = stream.received.wrapping_add(1);
        self.received(id, relay.payload, now);
    }

    /// The stream that a piece belongs to; a new one if it is a first piece that may open one.
    ///
    /// When both ends open a stream at once, that of the smaller id stays.
    fn stream_of(&mut self, relay: &Relay, now: Moment) -> Option<ConnectionId> {
        let peer = relay.source;
        let known = self.relays.streams.get(&peer);
        if let Some(stream) = known
            && stream.number == relay.stream
            && stream.is_initiator != relay.from_initiator
        {
            return Some(stream.id);
        }
        let opens = relay.from_initiator && relay.sequence == 0 && !relay.payload.is_empty();
        if !opens || !self.may_relay_with(peer) {
            return None;
        }
        if let Some(stream) = known {
            let id = stream.id;
            let is_young = self.connections.get(&id).is_some_and(|connection| connection.open().is_none());
            if stream.is_initiator && is_young && self.peer_id() < peer {
                return None;
            }
            self.end(id, CloseCause::Duplicate, now);
        } else if self.relays.streams.len() >= RELAYED_SESSIONS_MAX {
            return None;
        }
        let id = self.new_stream(peer, relay.stream, false, now);
        self.shake_hands(id, Role::Responder, None, now);
        Some(id)
    }

    fn new_stream(&mut self, peer: PeerId, number: u64, is_initiator: bool, now: Moment) -> ConnectionId {
        let id = ConnectionId::Relayed(self.relays.numbered);
        self.relays.numbered += 1;
        let give_up_at = Some(now + PUNCH_TIME_MAX);
        let stream = Stream { id, number, is_initiator, sent: 0, received: 0, give_up_at };
        self.relays.streams.insert(peer, stream);
        self.connections
            .insert(id, Connection { target: None, local: None, remote: None, phase: Phase::Dialing });
        id
    }

    /// The peer at the other end has proven who it is: keys and candidates follow.
    pub(crate) fn relayed_authenticated(&mut self, id: ConnectionId, session: Session, now: Moment) {
        let peer = session.peer.peer_id();
        let hello = match self.judge(&session, now) {
            Ok(hello) => hello,
            Err(cause) => return self.end(id, cause, now),
        };
        if self.relays.with(peer) != Some(id) {
            return self.end(id, CloseCause::StreamBroken, now);
        }
        let protection = match session.secured_by {
            Membership::Psk(_) => Protection::Sealed,
            Membership::Open => Protection::Clear,
        };
        let is_initiator = session.role == Role::Initiator;
        let rotation = is_initiator.then(|| Rotation::new(self.rekey_after, &mut self.rng, now));
        let index = self.fresh_index();
        let data = DataLink::new(None, session.keys, protection, index, rotation);
        let Session { secured_by, sealer, opener, .. } = session;
        let open = Open::new(peer, hello, secured_by, sealer, opener, data, now);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::Open(Box::new(open));
        }
        let candidates = self.relays.candidates();
        self.send(id, &Message::Candidates(candidates), now);
        self.offer_data(id, now);
        self.plan_changed = true;
    }

    /// A relayed session is over: the peer is told, and frames go through others again.
    pub(crate) fn relayed_ended(
        &mut self,
        id: ConnectionId,
        connection: &Connection,
        cause: &CloseCause,
        now: Moment,
    ) {
        let Some(peer) = self.relays.peer_of(id) else { return };
        let Some(stream) = self.relays.streams.remove(&peer) else { return };
        if !matches!(cause, CloseCause::Closed | CloseCause::Farewell(_)) {
            let Stream { number, is_initiator: from_initiator, sent: sequence, .. } = stream;
            self.relays.outbox.push_back((peer, Piece::End { number, from_initiator, sequence }));
        }
        let was_of_use = connection.open().is_some_and(|open| open.data.is_alive());
        if was_of_use {
            self.relays.attempts.remove(&peer);
        } else {
            let (backoff, not_before) =
                self.relays.attempts.entry(peer).or_insert_with(|| (Backoff::default(), now));
            *not_before = backoff.fail(&mut self.rng, now) + PUNCH_TIME_MAX;
        }
        self.plan_changed = true;
    }

    /// The data link of a relayed session has come alive, or died.
    pub(crate) fn relayed_link_changed(&mut self, peer: PeerId, is_alive: bool, now: Moment) {
        if let Some(stream) = self.relays.streams.get_mut(&peer) {
            stream.give_up_at = (!is_alive).then_some(now + PUNCH_TIME_MAX);
        }
        self.plan_changed = true;
    }

    /// Ends the relayed session with a peer that has a connection of its own now, or that nobody talks to any more.
    pub(crate) fn end_relayed(&mut self, peer: PeerId, farewell: Farewell, now: Moment) {
        if let Some(id) = self.relays.with(peer) {
            self.send(id, &Message::Bye(farewell), now);
            self.end(id, CloseCause::Farewell(farewell), now);
        }
    }

    /// Gives up relayed sessions whose data link never came alive, or has died, and forgets the past of peers that are
    /// gone.
    pub(crate) fn run_relay_timers(&mut self, now: Moment) {
        let due = |stream: &Stream| stream.give_up_at.is_some_and(|at| at <= now);
        let given_up: Vec<_> =
            self.relays.streams.values().filter(|stream| due(stream)).map(|stream| stream.id).collect();
        for id in given_up {
            self.send(id, &Message::Bye(Farewell::Idle), now);
            self.end(id, CloseCause::NotReachedDirectly(PUNCH_TIME_MAX), now);
        }
    }

    /// Forgets attempts with peers that the topology no longer has, and ends sessions with them.
    pub(crate) fn forget_relayed(&mut self, gone: &BTreeSet<PeerId>, now: Moment) {
        for peer in gone {
            self.relays.attempts.remove(peer);
            if let Some(id) = self.relays.with(*peer) {
                self.end(id, CloseCause::Closed, now);
            }
        }
    }

    /// Sends what was written to streams, by the routes of now. Where there is none it is lost, and the stream breaks.
    fn flush_relayed(&mut self, now: Moment) {
        while let Some((destination, piece)) = self.relays.outbox.pop_front() {
            let (stream, from_initiator, sequence, payload) = match piece {
                Piece::Bytes { number, from_initiator, sequence, bytes } => {
                    (number, from_initiator, sequence, bytes)
                }
                Piece::End { number, from_initiator, sequence } => {
                    (number, from_initiator, sequence, Vec::new())
                }
            };
            let source = self.peer_id();
            let relay = Relay {
                source,
                destination,
                hops: RELAY_HOPS_MAX,
                stream,
                from_initiator,
                sequence,
                payload,
            };
            if let Some(next) = self.routes().next_hop.get(&destination).copied() {
                self.send_relay(next, relay, now);
            }
        }
    }

    fn send_relay(&mut self, next: PeerId, relay: Relay, now: Moment) {
        if let Some(id) = self.sessions.get(&next).copied() {
            self.send(id, &Message::Relay(relay), now);
        }
    }

    /// A neighbour says from where this router's packets come.
    pub(crate) fn observed(&mut self, by: PeerId, address: SocketAddr) {
        if !self.sessions.contains_key(&by) || !is_candidate(address) {
            return;
        }
        if self.relays.observed.insert(by, address) != Some(address) {
            self.relays.observed.retain(|peer, _| self.sessions.contains_key(peer));
            self.candidates_changed = true;
        }
    }

    /// The peer of a relayed session says where it may be reached.
    pub(crate) fn candidates(&mut self, id: ConnectionId, addresses: Vec<SocketAddr>) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        if matches!(id, ConnectionId::Relayed(_)) {
            open.data
                .set_candidates(addresses.into_iter().filter(|address| is_candidate(*address)).collect());
            self.plan_changed = true;
        }
    }

    /// The host has these addresses now.
    pub(crate) fn set_addresses(&mut self, addresses: &[IpAddr]) {
        let port = self.topology.own().port;
        let own = addresses.iter().map(|ip| SocketAddr::new(*ip, port)).filter(|at| is_candidate(*at));
        self.relays.own = own.collect();
        self.candidates_changed = true;
    }

    /// Ends relayed sessions with peers that have a connection by now, and sends what waits.
    pub(crate) fn settle_relayed(&mut self, now: Moment) {
        let connected: Vec<_> =
            self.relays.streams.keys().filter(|peer| self.sessions.contains_key(peer)).copied().collect();
        for peer in connected {
            self.end_relayed(peer, Farewell::Duplicate, now);
        }
        self.spread_candidates(now);
        self.flush_relayed(now);
    }

    /// Tells the peers of relayed sessions when the own candidates have changed.
    fn spread_candidates(&mut self, now: Moment) {
        if !std::mem::take(&mut self.candidates_changed) {
            return;
        }
        // What could not be reached from the old addresses may be from the new ones.
        self.relays.attempts.clear();
        let message = Message::Candidates(self.relays.candidates());
        let open: Vec<_> = self
            .relays
            .all()
            .map(|(_, id)| id)
            .filter(|id| self.connections.get(id).is_some_and(|connection| connection.open().is_some()))
            .collect();
        for id in open {
            self.send(id, &message, now);
        }
    }
}

/// Whether a message counts in a relayed session, which is about one data link and nothing else.
pub(crate) const fn is_carried(message: &Message) -> bool {
    match message {
        Message::Ping(_)
        | Message::Pong(_)
        | Message::DataOffer(_)
        | Message::Rekey(_)
        | Message::Candidates(_)
        | Message::Bye(_) => true,
        Message::Gossip(_)
        | Message::Summary(_)
        | Message::Digest(_)
        | Message::Observed(_)
        | Message::Network(_)
        | Message::Vxlan(_)
        | Message::Relay(_)
        | Message::Mail(_)
        | Message::Unknown(_) => false,
    }
}

/// Whether packets may be sent to an address that somebody else names: one host's, and not this one's own.
fn is_candidate(address: SocketAddr) -> bool {
    let ip = address.ip();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    address.port() != 0
        && !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_broadcast || is_link_local)
}
