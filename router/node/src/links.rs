//! The data links of a node's sessions: offers of keys, what the data plane reports, and what the own record says of
//! them.

use std::time::Duration;

use mesh_wire::control::{DataOffer, Farewell, LinkRecord, Message, Rekey};
use mesh_wire::{Moment, PeerId, ReceiverIndex};

use crate::connection::{CloseCause, Connection, Open};
use crate::counters::Count;
use crate::data_link::{Liveness, RekeyReply};
use crate::interface::{ConnectionId, Event, Output, Report};
use crate::node::Node;

/// A round trip that has become another waits so long until the own record tells of it. It chooses only among ways of equally
/// many hops.
const DISTANCES_AFTER: Duration = Duration::from_secs(10);

/// In a large network it waits so long for each peer: however restless the wires are, all peers together tell of two such
/// changes a second.
const DISTANCES_AFTER_EACH: Duration = Duration::from_millis(500);

impl Node {
    pub(crate) fn data_offer(&mut self, id: ConnectionId, offer: DataOffer) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        self.plan_changed |= open.data.handle_offer(offer);
    }

    /// Tells the peer that this end receives. A session that waits beside another is not in the plan, and offers nothing until
    /// it counts: the peer may count on it already, and would send what nobody here takes.
    pub(crate) fn offer_data(&mut self, id: ConnectionId, now: Moment) {
        let is_planned =
            |open: &&Open| matches!(id, ConnectionId::Relayed(_)) || self.counts_on(open.peer, id);
        let open = self.connections.get(&id).and_then(Connection::open).filter(is_planned);
        if let Some(offer) = open.and_then(|open| open.data.offer()) {
            self.send(id, &Message::DataOffer(offer), now);
        }
    }

    /// Asks the peer for fresh keys, unless the last ones are not in force at both ends yet.
    pub(crate) fn rekey(&mut self, id: ConnectionId, now: Moment) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        if let Some(proposal) = open.data.propose(&mut self.rng) {
            self.send(id, &Message::Rekey(proposal), now);
        }
    }

    pub(crate) fn handle_rekey(&mut self, id: ConnectionId, rekey: &Rekey, now: Moment) {
        let index = self.fresh_index();
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        let answer = match open.data.handle_rekey(rekey, index, &mut self.rng, now) {
            Ok(RekeyReply::Nothing) => return,
            Ok(RekeyReply::Offer) => None,
            Ok(RekeyReply::AnswerAndOffer(answer)) => Some(answer),
            Err(error) => {
                self.send(id, &Message::Bye(Farewell::Violation), now);
                return self.end(id, CloseCause::Rekey(error), now);
            }
        };
        if let Some(answer) = answer {
            self.send(id, &Message::Rekey(answer), now);
        }
        self.offer_data(id, now);
        self.counters.count(Count::KeysRenewed);
        self.plan_changed = true;
    }

    pub(crate) fn report(&mut self, report: Report, now: Moment) {
        match report {
            Report::Alive { peer, rtt } => self.link_alive(peer, rtt, now),
            Report::Dead { peer, silent_for } => {
                self.drop_orphan(peer);
                self.link_dead(peer, silent_for, now);
            }
            Report::Roamed { peer, remote } => {
                if let Some((_, open)) = self.data_session(peer) {
                    open.data.set_remote(remote);
                    self.tell_observed(peer, now);
                }
            }
            Report::RekeyWanted { peer } => {
                if let Some((id, _)) = self.data_session(peer) {
                    self.rekey(id, now);
                }
            }
            Report::Relayed { peer } => self.relayed_traffic(peer, now),
            Report::Idle { peer } => self.end_relayed(peer, Farewell::Idle, now),
            Report::Overlay { peer, overlay } => self.set_overlay(peer, overlay),
        }
    }

    /// The session whose data link `peer`'s packets belong to.
    fn data_session(&mut self, peer: PeerId) -> Option<(ConnectionId, &mut Open)> {
        let id = self.sessions.get(&peer).copied().or_else(|| self.relays.with(peer))?;
        Some((id, self.connections.get_mut(&id)?.open_mut()?))
    }

    fn link_alive(&mut self, peer: PeerId, rtt: Duration, now: Moment) {
        let Some((id, open)) = self.data_session(peer) else { return };
        let was_alive = open.data.is_alive();
        open.data.set_liveness(Liveness::Alive { rtt });
        if was_alive {
            if open.data.has_moved() && matches!(id, ConnectionId::Dialed(_) | ConnectionId::Accepted(_)) {
                self.tell_distances_later(now);
            }
            return;
        }
        self.links_changed = true;
        self.outputs.push_back(Output::Event(Event::LinkUp { peer }));
        self.tell_observed(peer, now);
        if matches!(id, ConnectionId::Relayed(_)) {
            self.relayed_link_changed(peer, true, now);
        }
    }

    fn tell_distances_later(&mut self, now: Moment) {
        let peers = u32::try_from(self.peer_count()).unwrap_or(u32::MAX);
        let wait = DISTANCES_AFTER.max(DISTANCES_AFTER_EACH.saturating_mul(peers));
        self.timers.distances.get_or_insert(now + wait);
    }

    /// Has the own record say how far all neighbours are now.
    pub(crate) fn tell_distances(&mut self) {
        self.timers.distances = None;
        for id in self.sessions.values() {
            if let Some(open) = self.connections.get_mut(id).and_then(Connection::open_mut) {
                open.data.take_distance();
            }
        }
        self.links_changed = true;
    }

    fn link_dead(&mut self, peer: PeerId, silent_for: Duration, now: Moment) {
        let Some((id, open)) = self.data_session(peer) else { return };
        let was_alive = open.data.is_alive();
        open.data.set_liveness(Liveness::Silent);
        if was_alive {
            self.outputs.push_back(Output::Event(Event::LinkDown { peer, silent_for }));
            self.links_changed = true;
            if matches!(id, ConnectionId::Relayed(_)) {
                self.relayed_link_changed(peer, false, now);
            }
        }
        // Either end may have lost its place in the session, or been thrown out of it by a forged packet in clear mode:
        // fresh keys begin a new one.
        self.rekey(id, now);
    }

    /// Tells a neighbour from where its packets come, so that it can tell others.
    fn tell_observed(&mut self, peer: PeerId, now: Moment) {
        let Some(id) = self.sessions.get(&peer).copied() else { return };
        let open = self.connections.get(&id).and_then(Connection::open);
        if let Some(remote) = open.and_then(|open| open.data.remote()) {
            self.send(id, &Message::Observed(remote), now);
        }
    }

    pub(crate) fn own_links(&self) -> Vec<LinkRecord> {
        let links = self.sessions.iter().filter_map(|(peer, id)| {
            let connection = self.connections.get(id)?;
            Some(connection.open()?.data.record(*peer, connection.remote?, connection.target.is_some()))
        });
        links.chain(self.orphans.records()).collect()
    }

    /// A receiver index that no link of this router uses.
    pub(crate) fn fresh_index(&mut self) -> ReceiverIndex {
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
