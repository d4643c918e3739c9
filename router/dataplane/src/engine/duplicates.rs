//! Which relayed broadcasts were here before. While routers' views differ, two copies of one broadcast may reach a
//! router; it owns the memory by which the second one ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_wire::sleeve::Envelope;
use mesh_wire::{Moment, PeerId};

use super::counters::DropReason;
use super::decide::{Arrival, Decision};

/// Broadcasts that are remembered. Each has one place, and a new one takes it from the one before: past this many
/// within a copy's delay a second copy may pass, and ends by its time to live.
const BROADCASTS_MAX: usize = 1 << 14;

/// How long a broadcast is remembered: longer than copies lag behind each other, and shorter than any source takes to
/// come round to the same number.
const REMEMBERED_FOR: Duration = Duration::from_secs(2);

/// Bits of a place that hold the time, in milliseconds; the others tell broadcasts apart.
const TIME_BITS: u32 = 24;

/// The memory, shared by all threads: one atomic exchange for each relayed broadcast.
pub struct Duplicates {
    places: Box<[AtomicU64]>,
}

impl Default for Duplicates {
    fn default() -> Self {
        Self { places: (0..BROADCASTS_MAX).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Duplicates {
    /// The decision about what came as `arrival`, or to drop it when it was accepted before. What is not accepted leaves
    /// no trace, so that a copy by a wrong way does not stand in the right one's way.
    #[must_use]
    pub fn check<'t>(&self, arrival: Arrival, decision: Decision<'t>, now: Moment) -> Decision<'t> {
        match arrival {
            Arrival::Received { envelope: Envelope::Broadcast { source, sequence, .. }, .. }
                if decision.inject && !self.is_first(source, sequence, now) =>
            {
                Decision::dropped(DropReason::Duplicate)
            }
            Arrival::Captured { .. } | Arrival::Received { .. } => decision,
        }
    }

    fn is_first(&self, source: PeerId, sequence: u32, now: Moment) -> bool {
        const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
        // A peer id is a hash already. An odd factor spreads the numbers of one source without making two alike.
        let id = source.as_bytes().first_chunk().map_or(0, |id| u64::from_le_bytes(*id));
        let name = id.wrapping_add(u64::from(sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15)) << TIME_BITS;
        let place = id.wrapping_add(u64::from(sequence)) as usize % BROADCASTS_MAX;
        // Its low bits are enough: a memory of four hours ago would have to be of the same broadcast.
        let time = now.since_origin().as_millis() as u64 & TIME_MASK;
        // Relaxed: the exchange alone decides which of two threads is first.
        let before = self.places[place].swap(name | time, Ordering::Relaxed);
        let age = time.wrapping_sub(before) & TIME_MASK;
        before & !TIME_MASK != name || u128::from(age) >= REMEMBERED_FOR.as_millis()
    }
}

impl std::fmt::Debug for Duplicates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Duplicates").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u64) -> PeerId {
        let mut bytes = [7; PeerId::LEN];
        bytes[..8].copy_from_slice(&number.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        PeerId::from_bytes(bytes)
    }

    fn at(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn a_number_counts_once_for_each_source_until_it_is_forgotten() {
        let seen = Duplicates::default();
        assert!(seen.is_first(peer(1), 5, at(0)));
        assert!(!seen.is_first(peer(1), 5, at(0)));
        assert!(seen.is_first(peer(1), 6, at(0)));
        assert!(seen.is_first(peer(2), 5, at(0)));
        assert!(!seen.is_first(peer(1), 5, at(1_999)));
        assert!(seen.is_first(peer(1), 5, at(4_000)), "two seconds after it came last");
    }

    #[test]
    fn thousands_of_broadcasts_are_told_apart_and_remembered() {
        let seen = Duplicates::default();
        let broadcasts = || (1..9).flat_map(|source| (0..500).map(move |n| (peer(source), n)));
        assert!(broadcasts().all(|(source, n)| seen.is_first(source, n, at(10))));
        let forgotten = broadcasts().filter(|(source, n)| seen.is_first(*source, *n, at(20))).count();
        assert!(forgotten < 1_000, "{forgotten} of 4,000");
    }

    #[test]
    fn the_numbers_of_one_source_have_all_the_places() {
        let seen = Duplicates::default();
        let numbers = || 7..7 + u32::try_from(BROADCASTS_MAX).unwrap();
        assert!(numbers().all(|n| seen.is_first(peer(1), n, at(0))));
        assert!(numbers().all(|n| !seen.is_first(peer(1), n, at(1))));
    }

    #[test]
    fn memory_survives_the_end_of_the_clocks_low_bits() {
        let seen = Duplicates::default();
        let turn = 1 << TIME_BITS;
        assert!(seen.is_first(peer(1), 5, at(turn - 10)));
        assert!(!seen.is_first(peer(1), 5, at(turn + 10)));
    }
}
