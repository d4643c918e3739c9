//! The learning table: behind whom a MAC was seen last. It owns ageing, the bound on its size, and what becomes of a MAC
//! for which several fight; it is pure, and sharing it between threads is `shared`'s matter.
//!
//! ```text
//!            seen elsewhere            the fifth time within 180 s
//! Settled ──────────────────► Moving ─────────────────────────────► Frozen: sightings elsewhere are not believed
//!    ▲                          │                                     │
//!    └──── 180 s without one ◄──┘                          180 s later, or when its owner gives it up
//! ```

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

/// A MAC that is seen behind another owner so often within [`MOVES_WINDOW`] is fought for (RFC 7432, section 15.1, N): this
/// move is not made, and none for [`FREEZE_TIME`]. Odd, so that of two who fight for a MAC the one keeps it that had it first.
pub const MOVES_MAX: u8 = 5;

/// See [`MOVES_MAX`] (RFC 7432, section 15.1, M).
pub const MOVES_WINDOW: Duration = Duration::from_secs(180);

/// How long a MAC that was fought for stays where it is.
pub const FREEZE_TIME: Duration = Duration::from_secs(180);

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
    /// The MAC has moved too often: it stays where it is.
    Frozen,
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
    /// Whether it stays there whoever else shows it.
    pub is_frozen: bool,
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
    mobility: Mobility,
}

#[derive(Debug, Clone, Copy)]
enum Mobility {
    Settled,
    /// It has moved so often since then.
    Moving {
        since: Moment,
        moves: u8,
    },
    Frozen {
        until: Moment,
    },
}

impl Mobility {
    /// What one more sighting elsewhere makes of it.
    fn after_a_move(self, now: Moment) -> Self {
        match self {
            Self::Frozen { until } if now < until => self,
            Self::Moving { since, moves } if now.since(since) < MOVES_WINDOW => {
                if moves + 1 < MOVES_MAX {
                    Self::Moving { since, moves: moves + 1 }
                } else {
                    Self::Frozen { until: now + FREEZE_TIME }
                }
            }
            Self::Settled | Self::Moving { .. } | Self::Frozen { .. } => {
                Self::Moving { since: now, moves: 1 }
            }
        }
    }

    fn is_frozen(self, now: Moment) -> bool {
        match self {
            Self::Frozen { until } => now < until,
            Self::Settled | Self::Moving { .. } => false,
        }
    }
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

    /// What [`learn`](Self::learn) would say, where it would tell the table nothing that it needs to know now.
    #[must_use]
    pub fn knows(&self, mac: MacAddr, owner: Owner, now: Moment) -> Option<Learned> {
        let entry = self.entries.get(&mac)?;
        if entry.owner == owner {
            (now.since(entry.seen) < MAC_REFRESH_INTERVAL).then_some(Learned::Refreshed)
        } else {
            entry.mobility.is_frozen(now).then_some(Learned::Frozen)
        }
    }

    /// Notes that `mac` was seen behind `owner`. The newest sighting wins, unless there were [`MOVES_MAX`] of them.
    pub fn learn(&mut self, mac: MacAddr, owner: Owner, now: Moment) -> Learned {
        let Some(entry) = self.entries.get_mut(&mac) else { return self.place(mac, owner, now) };
        if entry.owner == owner {
            entry.seen = now;
            return Learned::Refreshed;
        }
        entry.mobility = entry.mobility.after_a_move(now);
        if entry.mobility.is_frozen(now) {
            return Learned::Frozen;
        }
        (entry.owner, entry.seen) = (owner, now);
        Learned::Moved
    }

    /// Notes that `mac` is at `owner`, as that one has said of itself: no move that counts, and the end of any fight.
    pub fn place(&mut self, mac: MacAddr, owner: Owner, now: Moment) -> Learned {
        let is_full = self.entries.len() >= self.limit;
        let placed = Entry { owner, seen: now, mobility: Mobility::Settled };
        match self.entries.get_mut(&mac) {
            Some(entry) => {
                let before = std::mem::replace(entry, placed);
                if before.owner == owner { Learned::Refreshed } else { Learned::Moved }
            }
            None if is_full => Learned::Full,
            None => {
                self.entries.insert(mac, placed);
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
                is_frozen: entry.mobility.is_frozen(now),
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
    fn what_needs_no_writing_is_known_only_for_the_same_owner_and_a_short_time() {
        let mut table = MacTable::new(8);
        assert_eq!(table.knows(A, NEAR, at(0)), None);
        table.learn(A, NEAR, at(0));
        assert_eq!(table.knows(A, NEAR, at(0)), Some(Learned::Refreshed));
        assert_eq!(table.knows(A, FAR, at(0)), None);
        assert_eq!(table.knows(A, NEAR, at(1)), None);
    }

    /// Shows `A` behind these owners in turn, a second after each other.
    fn fight(table: &mut MacTable, owners: [Owner; 2], times: u64) -> Vec<Learned> {
        (0..times).map(|n| table.learn(A, owners[usize::try_from(n % 2).unwrap()], at(n))).collect()
    }

    #[test]
    fn of_two_who_fight_for_a_mac_the_one_keeps_it_that_had_it_first() {
        for owners in [[NEAR, FAR], [Owner::Local, FAR], [FAR, Owner::Local]] {
            let mut table = MacTable::new(8);
            let learnt = fight(&mut table, owners, 8);
            let [added, moves @ .., refused, own, again] = learnt.as_slice() else { panic!("{learnt:?}") };
            assert_eq!((added, moves), (&Learned::Added, &[Learned::Moved; 4][..]));
            assert_eq!((refused, own, again), (&Learned::Frozen, &Learned::Refreshed, &Learned::Frozen));
            assert_eq!(table.locate(A, at(8)), Location::Known(owners[0]));
            assert_eq!(table.knows(A, owners[1], at(8)), Some(Learned::Frozen));
            assert!(table.entries(at(8)).all(|entry| entry.is_frozen));
        }
    }

    #[test]
    fn a_freeze_ends_after_its_time_when_its_owner_gives_up_and_when_somebody_says_where_the_mac_is() {
        for end in 0..3 {
            let mut table = MacTable::new(8);
            fight(&mut table, [NEAR, FAR], 6);
            let mut now = at(6);
            assert_eq!(table.learn(A, FAR, now), Learned::Frozen);
            match end {
                0 => now = at(5) + FREEZE_TIME,
                1 => assert!(table.forget(A, NEAR)),
                _ => assert_eq!(table.place(A, FAR, now), Learned::Moved),
            }
            assert!(table.entries(now).all(|entry| !entry.is_frozen));
            assert_ne!(table.learn(A, FAR, now), Learned::Frozen);
            assert_eq!(table.locate(A, now), Location::Known(FAR));
        }
    }

    #[test]
    fn what_moves_once_a_minute_is_never_frozen() {
        let mut table = MacTable::new(8);
        for minute in 0..60 {
            let owner = if minute % 2 == 0 { NEAR } else { FAR };
            assert_ne!(table.learn(A, owner, at(60 * minute)), Learned::Frozen);
            assert_eq!(table.locate(A, at(60 * minute)), Location::Known(owner));
        }
    }

    #[test]
    fn a_mac_whose_owners_say_where_it_is_may_move_as_often_as_it_likes() {
        let mut table = MacTable::new(8);
        for second in 0..100 {
            let owner = if second % 2 == 0 { NEAR } else { FAR };
            table.place(A, owner, at(second));
            assert_eq!(table.learn(A, owner, at(second)), Learned::Refreshed);
        }
    }
}
