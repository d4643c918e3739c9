//! The learning table: behind whom a MAC was seen last. It owns ageing and the bound on its size; it is pure, and
//! sharing it between threads is `shared`'s matter.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_wire::{MacAddr, Moment, PeerId};

/// Most MACs that one router remembers. Past it new ones are not learnt, and their frames are flooded.
pub const MACS_MAX: usize = 65_536;

/// A MAC not seen for so long is forgotten (IEEE 802.1Q, section 8.8.3, recommends 300 s).
pub const MAC_AGE_MAX: Duration = Duration::from_secs(300);

/// A sighting that only confirms an entry is written down at most this often: in between, learning needs to read
/// the table only. Small against [`MAC_AGE_MAX`].
pub const MAC_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Behind whom a MAC is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// This router's bridge.
    Local,
    /// Another router's bridge.
    Peer(PeerId),
}

/// What the table says of a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// Never seen, or too long ago.
    Unknown,
    /// Seen behind this owner.
    Known(Owner),
}

/// What became of a sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It is a new entry.
    Added,
    /// The MAC was behind another owner.
    Moved,
    /// It confirmed an entry.
    Refreshed,
    /// The table is full: it was not learnt.
    Full,
}

/// One line of the table, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacEntry {
    /// The MAC.
    pub mac: MacAddr,
    /// Behind whom it is.
    pub owner: Owner,
    /// How long ago it was seen, within twice [`MAC_REFRESH_INTERVAL`].
    pub last_seen: Duration,
}

/// MACs and their owners, at most a fixed number.
#[derive(Debug)]
pub struct MacTable {
    entries: BTreeMap<MacAddr, Entry>,
    limit: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    owner: Owner,
    seen: Moment,
}

impl MacTable {
    /// An empty table for at most `limit` MACs.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { entries: BTreeMap::new(), limit }
    }

    /// Behind whom `mac` is.
    #[must_use]
    pub fn locate(&self, mac: MacAddr, now: Moment) -> Location {
        match self.entries.get(&mac) {
            Some(entry) if now.since(entry.seen) < MAC_AGE_MAX => Location::Known(entry.owner),
            Some(_) | None => Location::Unknown,
        }
    }

    /// True when [`learn`](Self::learn) would tell the table nothing that it needs to know now.
    #[must_use]
    pub fn is_fresh(&self, mac: MacAddr, owner: Owner, now: Moment) -> bool {
        self.entries
            .get(&mac)
            .is_some_and(|entry| entry.owner == owner && now.since(entry.seen) < MAC_REFRESH_INTERVAL)
    }

    /// Notes that `mac` was seen behind `owner`. The newest sighting wins.
    pub fn learn(&mut self, mac: MacAddr, owner: Owner, now: Moment) -> Learned {
        let is_full = self.entries.len() >= self.limit;
        let seen = Entry { owner, seen: now };
        match self.entries.get_mut(&mac) {
            Some(entry) => {
                let before = std::mem::replace(entry, seen);
                if before.owner == owner { Learned::Refreshed } else { Learned::Moved }
            }
            None if is_full => Learned::Full,
            None => {
                self.entries.insert(mac, seen);
                Learned::Added
            }
        }
    }

    /// Forgets `mac`, if it is behind `owner`. True if it was.
    pub fn forget(&mut self, mac: MacAddr, owner: Owner) -> bool {
        let is_there = self.entries.get(&mac).is_some_and(|entry| entry.owner == owner);
        if is_there {
            self.entries.remove(&mac);
        }
        is_there
    }

    /// Forgets what is older than [`MAC_AGE_MAX`]. True if there was any.
    pub fn expire(&mut self, now: Moment) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| now.since(entry.seen) < MAC_AGE_MAX);
        self.entries.len() != before
    }

    /// Forgets the MACs of peers for which `stays` is false. True if there was any.
    pub fn retain_peers(&mut self, stays: impl Fn(PeerId) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| match entry.owner {
            Owner::Local => true,
            Owner::Peer(peer) => stays(peer),
        });
        self.entries.len() != before
    }

    /// The entries that have not aged, by MAC.
    pub fn entries(&self, now: Moment) -> impl Iterator<Item = MacEntry> {
        self.entries
            .iter()
            .map(move |(mac, entry)| MacEntry {
                mac: *mac,
                owner: entry.owner,
                last_seen: now.since(entry.seen),
            })
            .filter(|entry| entry.last_seen < MAC_AGE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 2]);
    const C: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 3]);
    const NEAR: Owner = Owner::Peer(PeerId::from_bytes([1; 16]));
    const FAR: Owner = Owner::Peer(PeerId::from_bytes([2; 16]));

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn the_newest_sighting_wins() {
        let mut table = MacTable::new(8);
        assert_eq!(table.learn(A, NEAR, at(0)), Learned::Added);
        assert_eq!(table.learn(A, FAR, at(1)), Learned::Moved);
        assert_eq!(table.learn(A, FAR, at(2)), Learned::Refreshed);
        assert_eq!(table.locate(A, at(2)), Location::Known(FAR));
        assert_eq!(table.locate(B, at(2)), Location::Unknown);
    }

    #[test]
    fn an_entry_is_forgotten_when_its_age_is_reached_and_not_before() {
        let mut table = MacTable::new(8);
        table.learn(A, NEAR, at(10));
        table.expire(at(309));
        assert_eq!(table.locate(A, at(309)), Location::Known(NEAR));
        assert_eq!(table.locate(A, at(310)), Location::Unknown);
        assert_eq!(table.entries(at(310)).count(), 0);
        table.expire(at(310));
        assert_eq!(table.learn(A, NEAR, at(310)), Learned::Added);
    }

    #[test]
    fn a_full_table_learns_nothing_new_but_keeps_and_moves_what_it_has() {
        let mut table = MacTable::new(2);
        table.learn(A, NEAR, at(0));
        table.learn(B, NEAR, at(0));
        assert_eq!(table.learn(C, NEAR, at(1)), Learned::Full);
        assert_eq!(table.locate(C, at(1)), Location::Unknown);
        assert_eq!(table.learn(B, FAR, at(1)), Learned::Moved);
        table.expire(at(300));
        assert_eq!(table.learn(C, NEAR, at(300)), Learned::Added);
    }

    #[test]
    fn macs_vanish_with_their_peer_and_local_ones_stay() {
        let mut table = MacTable::new(8);
        table.learn(A, NEAR, at(0));
        table.learn(B, FAR, at(0));
        table.learn(C, Owner::Local, at(0));
        table.retain_peers(|peer| Owner::Peer(peer) == FAR);
        let left: Vec<_> = table.entries(at(3)).map(|entry| (entry.mac, entry.owner)).collect();
        assert_eq!(left, [(B, FAR), (C, Owner::Local)]);
    }

    #[test]
    fn a_sighting_is_fresh_only_for_the_same_owner_and_a_short_time() {
        let mut table = MacTable::new(8);
        assert!(!table.is_fresh(A, NEAR, at(0)));
        table.learn(A, NEAR, at(0));
        assert!(table.is_fresh(A, NEAR, at(0)));
        assert!(!table.is_fresh(A, FAR, at(0)));
        assert!(!table.is_fresh(A, NEAR, at(1)));
    }
}
