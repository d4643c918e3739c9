//! The topology channel of a node: merging what comes, spreading what is new, repairing what was lost.
//!
//! News goes at once to the neighbours but the one it came from, collected for a moment so that a burst makes one
//! message. A digest, exchanged when a session opens and now and then with a random neighbour, finds what that missed.

use std::collections::BTreeMap;

use mesh_topology::Merged;
use mesh_wire::control::{Channel, Digest, GOSSIP_ENTRIES_MAX, Gossip, Message};
use mesh_wire::{Moment, PeerId};
use minicbor::bytes::ByteVec;

use crate::interface::{ConnectionId, Event, Output};
use crate::limits::{GOSSIP_COALESCED_FOR, GOSSIP_FANOUT, GOSSIP_LEN};
use crate::node::Node;

impl Node {
    pub(crate) fn gossip(&mut self, id: ConnectionId, peer: PeerId, gossip: &Gossip, now: Moment) {
        if gossip.channel != Channel::TOPOLOGY {
            return;
        }
        for entry in &gossip.entries {
            match self.topology.merge(entry) {
                Ok(Merged::Newer(origin)) => {
                    self.news.insert(origin, Some(id));
                    self.topology_changed = true;
                }
                Ok(Merged::Known(_)) => {}
                Ok(Merged::Ghost) => {
                    self.topology.outrun(&self.identity, entry);
                    self.news.insert(self.peer_id(), None);
                }
                Err(error) => self.outputs.push_back(Output::Event(Event::GossipRefused { peer, error })),
            }
        }
        self.gossip_soon(now);
    }

    pub(crate) fn answer_digest(&mut self, id: ConnectionId, digest: &Digest, now: Moment) {
        if digest.channel != Channel::TOPOLOGY {
            return;
        }
        let (newer_here, newer_there) = self.topology.compare(&digest.rows);
        self.send_records(id, &newer_here, now);
        if digest.reply && newer_there {
            self.send(id, &self.digest(false), now);
        }
    }

    pub(crate) fn spread_news(&mut self, now: Moment) {
        let reachable = self.topology.reachable();
        let mut by_source: BTreeMap<Option<ConnectionId>, Vec<PeerId>> = BTreeMap::new();
        self.news.retain(|origin, from| {
            let spread = reachable.contains(origin);
            if spread {
                by_source.entry(*from).or_default().push(*origin);
            }
            !spread && self.topology.record(*origin).is_some()
        });
        for (from, origins) in by_source {
            for id in self.pick_neighbours(GOSSIP_FANOUT, from) {
                self.send_records(id, &origins, now);
            }
        }
    }

    /// Sends records in as many messages as their size asks for.
    pub(crate) fn send_records(&mut self, id: ConnectionId, origins: &[PeerId], now: Moment) {
        let mut messages: Vec<Vec<ByteVec>> = Vec::new();
        let mut room = 0;
        for entry in origins.iter().filter_map(|origin| self.topology.entry(*origin)) {
            if messages.last().is_none_or(|entries| entry.len() > room || entries.len() >= GOSSIP_ENTRIES_MAX)
            {
                messages.push(Vec::new());
                room = GOSSIP_LEN;
            }
            room = room.saturating_sub(entry.len());
            messages.last_mut().expect("one was pushed").push(entry.to_vec().into());
        }
        for entries in messages {
            self.send(id, &Message::Gossip(Gossip { channel: Channel::TOPOLOGY, entries }), now);
        }
    }

    pub(crate) fn digest(&self, reply: bool) -> Message {
        Message::Digest(Digest {
            channel: Channel::TOPOLOGY,
            rows: self.topology.digest(),
            reply,
            buckets: u64::MAX,
        })
    }

    pub(crate) fn gossip_soon(&mut self, now: Moment) {
        if !self.news.is_empty() {
            self.timers.gossip.get_or_insert(now + GOSSIP_COALESCED_FOR);
        }
    }

    /// At most `count` sessions, chosen at random, without `but`.
    pub(crate) fn pick_neighbours(&mut self, count: usize, but: Option<ConnectionId>) -> Vec<ConnectionId> {
        let mut all: Vec<_> = self.sessions.values().copied().filter(|id| Some(*id) != but).collect();
        while all.len() > count {
            let out = usize::try_from(self.rng.below(all.len() as u64)).unwrap_or(0);
            all.swap_remove(out);
        }
        all
    }
}
