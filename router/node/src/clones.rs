//! Whether somebody else is at work with this router's identity, judged by the records that bear it. Owns the judgement
//! alone; two sessions of one identity with a neighbour are what `sessions` sees.
//!
//! A record of an earlier life that outranks the present one is a ghost: this router numbers its own record above it,
//! and that is the end of it. A copy at work does the same in its turn, so that its records advance again and again.

use std::collections::{BTreeMap, VecDeque};

use mesh_wire::{BootCount, Moment};

use crate::limits::{CLONE_ADVANCES, CLONE_JUDGED_WITHIN, CLONES_WATCHED_MAX};

/// The lives that bore this router's identity in records which outranked its own lately, by their nonces.
#[derive(Debug, Default)]
pub(crate) struct Clones {
    others: BTreeMap<u64, Other>,
}

#[derive(Debug)]
struct Other {
    /// The greatest number that it has borne.
    number: (BootCount, u64),
    /// When it advanced, at most [`CLONE_ADVANCES`] times.
    advances: VecDeque<Moment>,
}

impl Clones {
    /// Takes in a record of this identity that outranks this router's own. Returns whether its author is at work now.
    pub(crate) fn outranked_by(&mut self, nonce: u64, number: (BootCount, u64), now: Moment) -> bool {
        if !self.others.contains_key(&nonce) && self.others.len() >= CLONES_WATCHED_MAX {
            self.forget_the_oldest();
        }
        let other = self.others.entry(nonce).or_insert_with(|| Other { number, advances: VecDeque::new() });
        // The same record comes from several neighbours.
        if number <= other.number && !other.advances.is_empty() {
            return false;
        }
        other.number = number;
        other.advances.retain(|at| now.since(*at) < CLONE_JUDGED_WITHIN);
        other.advances.push_back(now);
        let is_at_work = other.advances.len() >= CLONE_ADVANCES;
        if is_at_work {
            // The next judgement, and line in the log, asks for as many again.
            other.advances.clear();
            other.advances.push_back(now);
        }
        is_at_work
    }

    fn forget_the_oldest(&mut self) {
        let oldest = self.others.iter().min_by_key(|(_, other)| other.advances.back().copied());
        if let Some(nonce) = oldest.map(|(nonce, _)| *nonce) {
            self.others.remove(&nonce);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ORIGIN + Duration::from_secs(seconds)
    }

    #[test]
    fn a_ghost_that_comes_from_many_neighbours_is_nobody() {
        let mut clones = Clones::default();
        assert!((0..100).all(|n| !clones.outranked_by(7, (BootCount(3), 40), at(n))));
        assert!(!clones.outranked_by(7, (BootCount(3), 41), at(100)));
    }

    #[test]
    fn a_copy_that_advances_again_and_again_is_at_work() {
        let mut clones = Clones::default();
        let judged: Vec<_> = (1..=6).map(|n| clones.outranked_by(7, (BootCount(3), n), at(n))).collect();
        assert_eq!(judged, [false, false, true, false, true, false]);
    }

    #[test]
    fn what_advances_once_in_a_while_is_not_judged() {
        let mut clones = Clones::default();
        assert!((1..100).all(|n| !clones.outranked_by(7, (BootCount(n), 1), at(20 * n))));
    }

    #[test]
    fn many_lives_are_watched_in_bounded_memory() {
        let mut clones = Clones::default();
        for nonce in 0..1_000 {
            clones.outranked_by(nonce, (BootCount(1), nonce), at(nonce));
        }
        assert_eq!(clones.others.len(), CLONES_WATCHED_MAX);
        assert!(clones.others.contains_key(&999));
    }
}
