//! The data links of a node's sessions: offers of keys, what the data plane reports, and what the own record says of
//! them.

use mesh_wire::control::{DataOffer, LinkRecord, Message};
use mesh_wire::{Moment, ReceiverIndex};

use crate::connection::Connection;
use crate::data_link::{Liveness, OfferOutcome};
use crate::interface::{ConnectionId, Event, Output, Report};
use crate::node::Node;

impl Node {
    pub(crate) fn data_offer(&mut self, id: ConnectionId, offer: DataOffer, now: Moment) {
        let index = self.fresh_index();
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        match open.data.handle_offer(offer, index, now) {
            OfferOutcome::Accepted => {}
            OfferOutcome::Answer(answer) => self.send(id, &Message::DataOffer(answer), now),
            OfferOutcome::OutOfStep => return,
        }
        self.plan_changed = true;
    }

    pub(crate) fn report(&mut self, report: Report, now: Moment) {
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

    pub(crate) fn rekey(&mut self, id: ConnectionId, now: Moment) {
        let index = self.fresh_index();
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        let offer = open.data.next_epoch(index, now);
        self.send(id, &Message::DataOffer(offer), now);
        self.plan_changed = true;
    }

    pub(crate) fn own_links(&self) -> Vec<LinkRecord> {
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
