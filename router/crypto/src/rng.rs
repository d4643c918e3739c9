//! Randomness as an argument: one generator, deterministic from its seed.
//!
//! The daemon seeds it from the operating system, the simulator from its own seed. Nothing here gathers entropy.

use std::fmt;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// A cryptographically strong generator (ChaCha20). It is not `Clone`, for two copies would give out the same keys:
/// [`Rng::fork`] makes an independent one.
pub struct Rng(ChaCha20Rng);

impl Rng {
    /// The generator with this seed. Two with the same seed give the same values.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// A uniform 32-bit value.
    pub fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A uniform 64-bit value.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A uniform value in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is 0, where no such value exists.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no value lies below 0");
        // Values under the remainder of 2^64 / bound would make the low results likelier, so they are drawn again.
        // At least half of all draws are kept, whatever the bound.
        let unfair = (u64::MAX - bound + 1) % bound;
        loop {
            let value = self.u64();
            if value >= unfair {
                return value % bound;
            }
        }
    }

    /// An independent generator, seeded from this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        let mut seed = [0; 32];
        self.fill(&mut seed);
        Self::from_seed(seed)
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rng").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let mut a = Rng::from_seed([7; 32]);
        let mut b = Rng::from_seed([7; 32]);
        let mut c = Rng::from_seed([8; 32]);
        assert_eq!((a.u64(), a.u32()), (b.u64(), b.u32()));
        assert_ne!(a.u64(), c.u64());
    }

    #[test]
    fn a_fork_differs_from_its_parent_and_repeats_with_its_seed() {
        let mut a = Rng::from_seed([7; 32]);
        let mut b = Rng::from_seed([7; 32]);
        let (mut fork_a, mut fork_b) = (a.fork(), b.fork());
        let first = fork_a.u64();
        assert_eq!(first, fork_b.u64());
        assert_ne!(first, a.u64());
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut rng = Rng::from_seed([1; 32]);
        let mut seen = [0_u32; 5];
        for _ in 0..1000 {
            seen[usize::try_from(rng.below(5)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (120..280).contains(count)), "{seen:?}");
        assert_eq!(rng.below(1), 0);
        assert!(rng.below(u64::MAX) < u64::MAX);
    }

    #[test]
    fn below_favours_no_value_under_a_bound_that_does_not_divide_the_range() {
        // By the remainder alone the lowest third would come half of the time.
        let mut rng = Rng::from_seed([2; 32]);
        let lowest_third = (0..1000).filter(|_| rng.below(3 << 62) < 1 << 62).count();
        assert!((280..390).contains(&lowest_third), "{lowest_third} of 1000");
    }

    #[test]
    fn debug_shows_nothing_of_the_state() {
        assert_eq!(format!("{:?}", Rng::from_seed([1; 32])), "Rng { .. }");
    }
}
