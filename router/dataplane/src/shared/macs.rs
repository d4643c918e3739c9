//! The MAC table as the threads share it: sharded read-write locks.
//!
//! Each frame reads twice (is the source's entry fresh, where is the destination), and a read lock that nobody writes
//! under costs one uncontended atomic. A write happens when a MAC is new, moved, or was not refreshed for a second; it
//! touches one shard of sixteen. That keeps the pure table as it is, without a concurrent map and its dependency.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mesh_wire::{MacAddr, Moment, PeerId};

use crate::engine::macs::MACS_MAX;
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
        if read(shard).is_fresh(mac, owner, now) {
            return Learned::Refreshed;
        }
        let learned = write(shard).learn(mac, owner, now);
        match learned {
            Learned::Added | Learned::Moved => drop(self.changes.fetch_add(1, Ordering::Relaxed)),
            Learned::Refreshed | Learned::Full => {}
        }
        learned
    }

    /// Forgets a MAC, if it is behind this owner.
    pub(crate) fn forget(&self, mac: MacAddr, owner: Owner) {
        if write(self.shard(mac)).forget(mac, owner) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A number that differs whenever the table has other MACs or owners than before.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Drops aged entries of one shard, a different one each time: a walk over all would stop the data path.
    pub(crate) fn expire_some(&self, now: Moment) {
        let shard = self.next_to_expire.fetch_add(1, Ordering::Relaxed) % SHARDS;
        if write(&self.shards[shard]).expire(now) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn retain_peers(&self, stays: impl Fn(PeerId) -> bool) {
        for shard in &self.shards {
            if write(shard).retain_peers(&stays) {
                self.changes.fetch_add(1, Ordering::Relaxed);
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
        let folded = mac.as_bytes().iter().fold(0, |sum, byte| sum ^ byte ^ (byte >> 4));
        &self.shards[usize::from(folded) % SHARDS]
    }
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
