//! Several sessions with one peer: which of them counts, how another takes its place, and what gives a copy away.
//!
//! ```text
//!  same life:    old is asked ── answers in time ──► the end with the smaller id dismisses new by its farewell
//!                             └─ is silent ────────► the peer has lost it, as when it moved: new takes over
//!  other life:   old is asked ── answers in time ──► two copies of one identity: new is refused
//!                             └─ is silent ────────► the peer has started again: new takes over
//!  secret gone:  the end that dialed dials again ──► new takes over; old is closed
//! ```
//! A session that waits is open and in reserve: it takes over when the one that counts ends, whatever ends it.

use mesh_topology::Target;
use mesh_wire::control::{Farewell, Hello, Message};
use mesh_wire::{Moment, PeerId};

use crate::connection::{Challenge, CloseCause, Connection, Open};
use crate::interface::{ConnectionId, Event, Output};
use crate::limits::{RETIRED_KEPT, RIVAL_ANSWERS_WITHIN, SIMULTANEOUS_DIAL};
use crate::node::Node;

impl Node {
    /// Makes `id` the connection of `peer` that counts.
    pub(crate) fn count_on(&mut self, peer: PeerId, id: ConnectionId, now: Moment) {
        self.sessions.insert(peer, id);
        self.offer_data(id, now);
        self.begin_gossip(id, now);
        self.links_changed = true;
        self.plan_changed = true;
    }

    pub(crate) fn counts_on(&self, peer: PeerId, id: ConnectionId) -> bool {
        self.sessions.get(&peer) == Some(&id)
    }

    /// Settles which of two sessions with `peer` counts: `old`, which does so far, or `new`, which has just opened.
    pub(crate) fn settle_rivals(&mut self, peer: PeerId, old: ConnectionId, new: ConnectionId, now: Moment) {
        // At most one waits in reserve, the latest.
        for spare in self.open_with(peer) {
            if spare != old && spare != new {
                self.dismiss(spare, now);
            }
        }
        let open = |id| self.connections.get(&id).and_then(Connection::open);
        let (Some(old_open), Some(new_open)) = (open(old), open(new)) else { return };
        if life(&old_open.hello) != life(&new_open.hello) {
            return self.challenge(old, new, now);
        }
        let is_young = now.since(old_open.since) < SIMULTANEOUS_DIAL;
        let is_retired = old_open.retired.is_some();
        // A session that carries nothing is dead, both ends see that. One whose secret is gone is to be replaced; that is
        // for the end to do that decides.
        let is_dead = !is_young && !is_retired && !old_open.data.is_alive();
        if is_dead || (is_retired && self.decides(peer)) {
            self.dismiss(old, now);
        } else {
            self.challenge(old, new, now);
        }
    }

    /// Whether this end says which of two sessions with one life of `peer` is kept. The other end hears of it by the
    /// farewell; if each judged for itself, they could keep different ones.
    fn decides(&self, peer: PeerId) -> bool {
        self.peer_id() < peer
    }

    /// All sessions with a peer over connections of its own.
    pub(crate) fn open_with(&self, peer: PeerId) -> Vec<ConnectionId> {
        let with_peer = |c: &Connection| c.open().is_some_and(|open| open.peer == peer);
        let own = |id: &ConnectionId| !matches!(id, ConnectionId::Relayed(_));
        self.connections.iter().filter(|(id, c)| own(id) && with_peer(c)).map(|(id, _)| *id).collect()
    }

    /// Ends the session of a duplicate connection; the peer stays connected by the other.
    fn dismiss(&mut self, id: ConnectionId, now: Moment) {
        self.send(id, &Message::Bye(Farewell::Duplicate), now);
        self.end(id, CloseCause::Duplicate, now);
    }

    /// `id` counts from now on, in the place of `old`, which has ended. Packets that are on their way under the keys of
    /// the same life are received, and go on being sent until the peer is ready for the new ones.
    pub(crate) fn take_over(&mut self, id: ConnectionId, old: Open, now: Moment) {
        let peer = old.peer;
        if let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) {
            let goes_on = life(&open.hello) == life(&old.hello);
            if goes_on && open.data.protection() == old.data.protection() {
                open.data.inherit(old.data, now);
            }
        }
        self.count_on(peer, id, now);
    }

    /// `new` has opened beside `old`: asks for a sign of life on `old`, whose end judges. Until then `new` waits.
    fn challenge(&mut self, old: ConnectionId, new: ConnectionId, now: Moment) {
        let number = self.rng.u64();
        let Some(open) = self.connections.get_mut(&old).and_then(Connection::open_mut) else { return };
        let asked_before = open.challenge.take();
        let (number, deadline) = asked_before
            .map_or((number, now + RIVAL_ANSWERS_WITHIN), |challenge| (challenge.number, challenge.deadline));
        open.challenge = Some(Challenge { rival: new, number, deadline });
        self.send(old, &Message::Ping(number), now);
    }

    /// The peer has answered a question. If it was whether this session is still there beside a rival, the rival is one too
    /// many; of another life, it is a copy's.
    pub(crate) fn pong(&mut self, id: ConnectionId, number: u64, now: Moment) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        let Some(Challenge { rival, .. }) = open.challenge.take_if(|asked| asked.number == number) else {
            return;
        };
        let (peer, this_life) = (open.peer, life(&open.hello));
        let Some(connection) = self.connections.get(&rival) else { return };
        if connection.open().is_some_and(|open| life(&open.hello) == this_life) {
            if self.decides(peer) {
                self.dismiss(rival, now);
            }
            return;
        }
        let (remote, target) = (connection.remote, connection.target.clone());
        let cause = CloseCause::Cloned(peer);
        self.send(rival, &Message::Bye(Farewell::Cloned), now);
        self.end(rival, cause.clone(), now);
        let is_news = match (target, remote) {
            (Some(target), _) => {
                self.attempt_failed(target, cause, now);
                true
            }
            (None, Some(remote)) => self.refusals.add(remote, cause, now),
            (None, None) => false,
        };
        if is_news {
            self.outputs.push_back(Output::Event(Event::Cloned { peer, remote }));
            self.address_input(mesh_ipam::Input::Copied { peer }, now);
        }
    }

    /// The time to answer is over: a session whose rival still waits is dead.
    pub(crate) fn challenge_over(&mut self, id: ConnectionId, now: Moment) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        let Some(Challenge { rival, .. }) = open.challenge.take_if(|asked| asked.deadline <= now) else {
            return;
        };
        if self.connections.contains_key(&rival) {
            self.end(id, CloseCause::Silent(RIVAL_ANSWERS_WITHIN), now);
        }
    }

    /// The secret that opened a session is no longer valid at one of its ends. The end that dialed it dials again, and
    /// the session goes on for [`RETIRED_KEPT`] at most, until the other has taken over.
    pub(crate) fn retire(&mut self, id: ConnectionId, now: Moment) {
        if matches!(id, ConnectionId::Relayed(_)) {
            return self.end(id, CloseCause::Farewell(Farewell::SecretRetired), now);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let target = connection.target.clone();
        let Some(open) = connection.open_mut().filter(|open| open.retired.is_none()) else { return };
        open.retired = Some(now + RETIRED_KEPT);
        if let Some(target) = target {
            self.dial(target);
        }
    }

    /// Ends what a retired session was kept for.
    pub(crate) fn retirement_over(&mut self, id: ConnectionId, now: Moment) {
        let open = self.connections.get(&id).and_then(Connection::open);
        if open.and_then(|open| open.retired).is_some_and(|at| at <= now) {
            self.end(id, CloseCause::SecretRetired, now);
        }
    }

    /// A connection that was to take the place of a retired session has ended before it could: its target is dialed
    /// again.
    pub(crate) fn succession_failed(&mut self, peer: PeerId, target: Option<&Target>, now: Moment) {
        let counted = self.sessions.get(&peer).and_then(|id| self.connections.get(id));
        let is_retired = counted.and_then(Connection::open).is_some_and(|open| open.retired.is_some());
        if let Some(target) = target.filter(|_| is_retired) {
            self.connector.failed(target, &mut self.rng, now);
        }
    }
}

/// What tells the lives of one identity apart.
pub(crate) const fn life(hello: &Hello) -> (u64, u64) {
    (hello.boot.0, hello.nonce)
}
