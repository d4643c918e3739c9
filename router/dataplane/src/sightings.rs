//! What the data plane and others tell each other about MACs: which ones it has seen behind peers, and which ones peers
//! have announced.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_wire::{MacAddr, PeerId};

use crate::engine::{Location, MacEntry, Owner};
use crate::shared::Shared;

/// A view of the MAC table that outlives no data plane's threads, but may outlive its handle.
pub struct Sightings {
    shared: Arc<Shared>,
    /// What the table's count of changes was when it was looked at last.
    seen: Option<u64>,
}

impl Sightings {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, seen: None }
    }

    /// The MACs behind peers, if there are others than when this was asked last.
    pub fn news(&mut self) -> Option<BTreeMap<MacAddr, PeerId>> {
        let changes = self.shared.macs.changes();
        if self.seen.replace(changes) == Some(changes) {
            return None;
        }
        let behind_peer = |entry: MacEntry| match entry.owner {
            Owner::Local => None,
            Owner::Peer(peer) => Some((entry.mac, peer)),
        };
        let entries = self.shared.macs.entries(self.shared.clock.now());
        Some(entries.into_iter().filter_map(behind_peer).collect())
    }

    /// The MACs for which several fight, and where each stays.
    #[must_use]
    pub fn frozen(&self) -> Vec<MacEntry> {
        let mut entries = self.shared.macs.entries(self.shared.clock.now());
        entries.retain(|entry| entry.is_frozen);
        entries
    }

    /// Takes an announcement for a sighting, so that frames for the MAC need not be flooded. One that is no news does not
    /// outweigh what has been seen since.
    pub fn announced(&self, mac: MacAddr, peer: PeerId, is_news: bool) {
        let now = self.shared.clock.now();
        let is_known = self.shared.snapshot.load().tables.knows(peer);
        if is_known && (is_news || self.shared.macs.locate(mac, now) == Location::Unknown) {
            self.shared.macs.place(mac, Owner::Peer(peer), now);
        }
    }

    /// A peer no longer announces a MAC: whatever was seen of it there is over.
    pub fn withdrawn(&self, mac: MacAddr, peer: PeerId) {
        self.shared.macs.forget(mac, Owner::Peer(peer));
    }
}

impl std::fmt::Debug for Sightings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sightings").field("seen", &self.seen).finish_non_exhaustive()
    }
}
