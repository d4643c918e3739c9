//! The MAC table as the threads share it: sharded read-write locks, and what each thread remembers of it.
//!
//! Each frame asks twice (is the source's entry fresh, where is the destination). [`Memory`] answers for a second, as long
//! as no MAC is new, moved or forgotten: for nearly all frames that is one read of a number that nobody writes. A write happens when a MAC
//! is new, moved, or was not refreshed for a second; it touches one shard of sixteen. That keeps the pure table as it is, without a
//! concurrent map and its dependency.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mesh_wire::{MacAddr, Moment, PeerId};

use crate::engine::macs::{MAC_REFRESH_INTERVAL, MACS_MAX};
use crate::engine::{Learned, Location, MacEntry, MacTable, Owner};

/// Number of shards. Each takes an equal part of [`MACS_MAX`], so that the table may refuse MACs a little before all
/// shards are full.
const SHARDS: usize = 16;

pub(crate) struct Macs {
    shards: [RwLock<MacTable>; SHARDS],
    next_to_expire: AtomicUsize,
    /// Counts what is new, moved, or forgotten.
    changes: AtomicU64,
}

impl Macs {
    pub(crate) fn new() -> Self {
        let shards = std::array::from_fn(|_| RwLock::new(MacTable::new(MACS_MAX / SHARDS)));
        Self { shards, next_to_expire: AtomicUsize::new(0), changes: AtomicU64::new(0) }
    }

    pub(crate) fn locate(&self, mac: MacAddr, now: Moment) -> Location {
        read(self.shard(mac)).locate(mac, now)
    }

    pub(crate) fn learn(&self, mac: MacAddr, owner: Owner, now: Moment) -> Learned {
        let shard = self.shard(mac);
        if let Some(known) = read(shard).knows(mac, owner, now) {
            return known;
        }
        let learned = write(shard).learn(mac, owner, now);
        self.note(learned);
        learned
    }

    /// Takes in where its owner says that a MAC is.
    pub(crate) fn place(&self, mac: MacAddr, owner: Owner, now: Moment) {
        let placed = write(self.shard(mac)).place(mac, owner, now);
        self.note(placed);
    }

    fn note(&self, learned: Learned) {
        match learned {
            Learned::Added | Learned::Moved => drop(self.changes.fetch_add(1, Ordering::Release)),
            Learned::Refreshed | Learned::Frozen | Learned::Full => {}
        }
    }

    /// Forgets a MAC, if it is behind this owner.
    pub(crate) fn forget(&self, mac: MacAddr, owner: Owner) {
        if write(self.shard(mac)).forget(mac, owner) {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// A number that differs whenever the table has other MACs or owners than before.
    pub(crate) fn changes(&self) -> u64 {
        // With the release of a change: who sees the number sees the change.
        self.changes.load(Ordering::Acquire)
    }

    /// Drops aged entries of one shard, a different one each time: a walk over all would stop the data path.
    pub(crate) fn expire_some(&self, now: Moment) {
        let shard = self.next_to_expire.fetch_add(1, Ordering::Relaxed) % SHARDS;
        if write(&self.shards[shard]).expire(now) {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    pub(crate) fn retain_peers(&self, stays: impl Fn(PeerId) -> bool) {
        for shard in &self.shards {
            if write(shard).retain_peers(&stays) {
                self.changes.fetch_add(1, Ordering::Release);
            }
        }
    }

    pub(crate) fn entries(&self, now: Moment) -> Vec<MacEntry> {
        let mut entries: Vec<_> =
            self.shards.iter().flat_map(|shard| read(shard).entries(now).collect::<Vec<_>>()).collect();
        entries.sort_by_key(|entry| entry.mac);
        entries
    }

    fn shard(&self, mac: MacAddr) -> &RwLock<MacTable> {
        &self.shards[usize::from(folded(mac)) % SHARDS]
    }
}

/// Places for MACs in each half of a thread's [`Memory`]; a MAC has one of them, and may find another one there.
const REMEMBERED_MAX: usize = 256;

/// What one thread has had from the table. It may believe in a MAC a second longer than the table.
pub(crate) struct Memory {
    located: Remembered,
    learnt: Remembered,
}

/// Owners by MAC, each for [`MAC_REFRESH_INTERVAL`] and as long as the table has not changed.
struct Remembered(Box<[Option<Sighting>; REMEMBERED_MAX]>);

#[derive(Debug, Clone, Copy)]
struct Sighting {
    mac: MacAddr,
    owner: Owner,
    /// Those of the table before it was asked.
    changes: u64,
    at: Moment,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { located: Remembered::new(), learnt: Remembered::new() }
    }

    /// As [`Macs::locate`].
    pub(crate) fn locate(&mut self, macs: &Macs, mac: MacAddr, now: Moment) -> Location {
        let changes = macs.changes();
        if let Some(owner) = self.located.owner(mac, changes, now) {
            return Location::Known(owner);
        }
        let location = macs.locate(mac, now);
        if let Location::Known(owner) = location {
            self.located.put(Sighting { mac, owner, changes, at: now });
        }
        location
    }

    /// As [`Macs::learn`].
    pub(crate) fn learn(&mut self, macs: &Macs, mac: MacAddr, owner: Owner, now: Moment) -> Learned {
        let changes = macs.changes();
        if self.learnt.owner(mac, changes, now) == Some(owner) {
            return Learned::Refreshed;
        }
        let learned = macs.learn(mac, owner, now);
        if learned == Learned::Refreshed {
            self.learnt.put(Sighting { mac, owner, changes, at: now });
        }
        learned
    }
}

impl Remembered {
    fn new() -> Self {
        Self(Box::new([None; REMEMBERED_MAX]))
    }

    fn owner(&self, mac: MacAddr, changes: u64, now: Moment) -> Option<Owner> {
        let sighting = self.0[usize::from(folded(mac)) % REMEMBERED_MAX].as_ref()?;
        let holds = sighting.mac == mac
            && sighting.changes == changes
            && now.since(sighting.at) < MAC_REFRESH_INTERVAL;
        holds.then_some(sighting.owner)
    }

    fn put(&mut self, sighting: Sighting) {
        self.0[usize::from(folded(sighting.mac)) % REMEMBERED_MAX] = Some(sighting);
    }
}

/// A byte in which addresses differ that are counted up.
fn folded(mac: MacAddr) -> u8 {
    mac.as_bytes().iter().fold(0, |sum, byte| sum ^ byte ^ (byte >> 4))
}

// A table is valid after each of its operations, so a panic elsewhere under the lock does no harm to it.
fn read(shard: &RwLock<MacTable>) -> RwLockReadGuard<'_, MacTable> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<MacTable>) -> RwLockWriteGuard<'_, MacTable> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PEER: PeerId = PeerId::from_bytes([1; 16]);

    fn mac(number: u32) -> MacAddr {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddr::from_bytes([2, 0, a, b, c, d])
    }

    #[test]
    fn ordinary_addresses_fill_the_table_almost_to_its_bound_and_never_past_it() {
        let macs = Macs::new();
        let learnt = (0..100_000)
            .filter(|n| macs.learn(mac(*n), Owner::Local, Moment::ORIGIN) == Learned::Added)
            .count();
        assert!((MACS_MAX * 9 / 10..=MACS_MAX).contains(&learnt), "{learnt}");
        assert_eq!(macs.entries(Moment::ORIGIN).len(), learnt);
    }

    #[test]
    fn a_round_of_expiry_reaches_each_shard() {
        let macs = Macs::new();
        (0..1_000)
            .for_each(|n| assert_eq!(macs.learn(mac(n), Owner::Peer(PEER), Moment::ORIGIN), Learned::Added));
        let later = Moment::from_origin(Duration::from_secs(1_000));
        (0..SHARDS).for_each(|_| macs.expire_some(later));
        assert!(macs.entries(Moment::ORIGIN).is_empty());
    }

    #[test]
    fn a_thread_that_remembers_says_what_the_table_says_and_keeps_it_fresh() {
        let (macs, mut memory) = (Macs::new(), Memory::new());
        let at = |ms| Moment::from_origin(Duration::from_millis(ms));
        let (one, other) = (Owner::Peer(PEER), Owner::Local);
        assert_eq!(memory.locate(&macs, mac(1), at(0)), Location::Unknown);
        assert_eq!(memory.learn(&macs, mac(1), one, at(0)), Learned::Added);
        for ms in (0..600_000).step_by(100) {
            assert_eq!(memory.locate(&macs, mac(1), at(ms)), Location::Known(one), "{ms} ms");
            assert_eq!(memory.learn(&macs, mac(1), one, at(ms)), Learned::Refreshed, "{ms} ms");
        }
        assert_eq!(macs.learn(mac(1), other, at(600_000)), Learned::Moved, "by another thread");
        assert_eq!(memory.locate(&macs, mac(1), at(600_000)), Location::Known(other));
        assert_eq!(memory.learn(&macs, mac(1), one, at(600_000)), Learned::Moved);
        macs.forget(mac(1), one);
        assert_eq!(memory.locate(&macs, mac(1), at(600_000)), Location::Unknown);
    }

    #[test]
    fn macs_that_share_a_place_in_a_memory_are_told_from_each_other() {
        let (macs, mut memory) = (Macs::new(), Memory::new());
        let [a, b] = [mac(0x0102), mac(0x0201)];
        assert_eq!(folded(a), folded(b));
        macs.learn(a, Owner::Local, Moment::ORIGIN);
        macs.learn(b, Owner::Peer(PEER), Moment::ORIGIN);
        for _ in 0..2 {
            assert_eq!(memory.locate(&macs, a, Moment::ORIGIN), Location::Known(Owner::Local));
            assert_eq!(memory.locate(&macs, b, Moment::ORIGIN), Location::Known(Owner::Peer(PEER)));
        }
    }

    #[test]
    fn a_confirmed_sighting_is_written_down_once_a_second() {
        let macs = Macs::new();
        let at = |ms| Moment::from_origin(Duration::from_millis(ms));
        macs.learn(mac(1), Owner::Local, at(0));
        macs.learn(mac(1), Owner::Local, at(999));
        assert_eq!(macs.entries(at(999))[0].last_seen, Duration::from_millis(999));
        macs.learn(mac(1), Owner::Local, at(1_000));
        assert_eq!(macs.entries(at(1_000))[0].last_seen, Duration::ZERO);
        assert_eq!(macs.learn(mac(1), Owner::Peer(PEER), at(1_001)), Learned::Moved);
    }
}
