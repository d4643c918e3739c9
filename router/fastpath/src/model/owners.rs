//! Who is behind a MAC: announcements first, sightings of those who do not announce second, and what was known of a router that is away.

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::control::MACS_ANNOUNCED_MAX;
use mesh_wire::{MacAddr, Moment, PeerId};

use super::{AWAY_MAX, Place, View};

/// MACs and their peers. A MAC has one owner, or none.
#[derive(Debug, Default)]
pub struct Owners {
    announced: BTreeMap<MacAddr, PeerId>,
    learnt: BTreeMap<MacAddr, PeerId>,
    /// Whose announcements say all there is to say: what else was seen of them is over.
    complete: BTreeSet<PeerId>,
    /// Whose announcements are lost, and until when they are remembered.
    away: BTreeMap<PeerId, Moment>,
    /// Flows of an earlier life of this router whose owners it has not heard of yet, and until when they stay.
    adopted: BTreeMap<MacAddr, Place>,
    adopted_until: Option<Moment>,
    /// Where an earlier life sent the frames of those that have been heard of since.
    inherited: BTreeMap<PeerId, Place>,
}

impl Owners {
    /// Takes over what is in the kernel already.
    pub(super) fn adopt(&mut self, flows: &BTreeMap<MacAddr, Place>, now: Moment) {
        self.adopted = flows.clone();
        self.adopted_until = (!flows.is_empty()).then_some(now + AWAY_MAX);
    }

    /// Takes in the announcements that hold now. What a peer announced whose record is gone is remembered for
    /// [`AWAY_MAX`], unless somebody else announces it.
    pub(super) fn announce(&mut self, view: &View, now: Moment) {
        self.away.retain(|peer, _| !view.announcing.contains(peer));
        let mut announced = BTreeMap::clone(&view.announced);
        for (mac, peer) in &self.announced {
            if view.announcing.contains(peer) || announced.contains_key(mac) {
                continue;
            }
            let until = *self.away.entry(*peer).or_insert(now + AWAY_MAX);
            if until > now {
                announced.insert(*mac, *peer);
            }
        }
        let mut counts: BTreeMap<PeerId, usize> = view.announcing.iter().map(|peer| (*peer, 0)).collect();
        announced.values().for_each(|peer| *counts.entry(*peer).or_default() += 1);
        let has_room = |(peer, count): (PeerId, usize)| (count < MACS_ANNOUNCED_MAX).then_some(peer);
        self.complete = counts.into_iter().filter_map(has_room).collect();
        self.announced = announced;
        self.inherit();
    }

    fn inherit(&mut self) {
        let known = |mac| self.announced.get(mac).or_else(|| self.learnt.get(mac));
        let inherited = self.adopted.iter().filter_map(|(mac, place)| Some((*known(mac)?, *place)));
        self.inherited.extend(inherited.collect::<Vec<_>>());
        self.adopted.retain(|mac, _| !self.announced.contains_key(mac) && !self.learnt.contains_key(mac));
    }

    /// Takes in what the data plane has seen. It sees nothing of what the kernel carries, so that what it forgets stays
    /// while the kernel has frames for it (`in_use`).
    pub(super) fn learn(&mut self, seen: &BTreeMap<MacAddr, PeerId>, in_use: impl Fn(MacAddr) -> bool) {
        self.learnt.retain(|mac, _| seen.contains_key(mac) || in_use(*mac));
        self.learnt.extend(seen);
        self.inherit();
    }

    /// Forgets what was adopted and would go on in clear, and routers that are away and to whom it would.
    pub(super) fn forget_clear(&mut self, is_sealed: impl Fn(PeerId) -> bool) {
        let (stays, gone): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.away).into_iter().partition(|(peer, _)| is_sealed(*peer));
        self.away = stays;
        self.announced.retain(|_, peer| !gone.contains_key(peer));
        self.adopted.retain(|_, place| place.is_sealed());
        self.inherited.retain(|_, place| place.is_sealed());
    }

    pub(super) fn expire(&mut self, now: Moment) {
        let gone: BTreeSet<_> =
            self.away.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        if !gone.is_empty() {
            self.away.retain(|peer, _| !gone.contains(peer));
            self.announced.retain(|_, peer| !gone.contains(peer));
        }
        if self.adopted_until.is_some_and(|until| until <= now) {
            self.adopted.clear();
            self.inherited.clear();
            self.adopted_until = None;
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.away.values().copied().chain(self.adopted_until).min()
    }

    /// All MACs with an owner, each once.
    pub fn iter(&self) -> impl Iterator<Item = (MacAddr, PeerId)> {
        let counts = |(mac, peer): &(&MacAddr, &PeerId)| {
            !self.announced.contains_key(*mac) && !self.complete.contains(*peer)
        };
        let seen = self.learnt.iter().filter(counts);
        self.announced.iter().chain(seen).map(|(mac, peer)| (*mac, *peer))
    }

    /// The owners.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<PeerId> {
        self.iter().map(|(_, peer)| peer).collect()
    }

    /// Where an earlier life of this router sent a peer's frames.
    pub(super) fn inherited(&self, peer: PeerId) -> Option<Place> {
        self.inherited.get(&peer).copied()
    }

    pub(super) fn adopted(&self) -> impl Iterator<Item = (MacAddr, Place)> {
        self.adopted.iter().map(|(mac, place)| (*mac, *place))
    }

    /// Who is behind a MAC.
    #[must_use]
    pub fn of(&self, mac: MacAddr) -> Option<PeerId> {
        let seen = || self.learnt.get(&mac).filter(|peer| !self.complete.contains(*peer));
        self.announced.get(&mac).or_else(seen).copied()
    }
}
