//! Which counters of a session have been seen: the sliding window of RFC 6479.
//!
//! Owns the memory of counters. Does not decide whether a datagram is genuine: [`ReplayWindow::commit`] is for counters
//! of datagrams that opened.

/// Size of the window's bitmap, in bits. Threads draw counters from one number, and a thread may be off its core between
/// drawing one and sending it: 100 ms of 300,000 packets a second pass meanwhile, or 30 ms of a million.
pub const REPLAY_WINDOW: usize = 32_768;

const WORD_BITS: u64 = u64::BITS as u64;

const WORDS: usize = REPLAY_WINDOW / u64::BITS as usize;

/// How far behind the greatest counter one may lie and still be told from a repetition. One word less than the bitmap,
/// for the word that holds the greatest counter is cleared when it is entered, which drops the oldest 64 at once.
const REACH: u64 = REPLAY_WINDOW as u64 - WORD_BITS;

/// The counters seen so far: a ring of words with one bit a counter, cleared word by word as it moves on.
#[derive(Clone)]
pub struct ReplayWindow {
    greatest: u64,
    words: [u64; WORDS],
}

impl ReplayWindow {
    /// Whether a datagram with this counter may be opened. Changes nothing, so that a forged counter does no harm.
    ///
    /// # Errors
    /// [`ReplayError`] if the counter was committed before, or is too old to know.
    pub fn check(&self, counter: u64) -> Result<(), ReplayError> {
        if counter > self.greatest {
            return Ok(());
        }
        if self.greatest - counter >= REACH {
            return Err(ReplayError::TooOld);
        }
        let (word, bit) = place(counter);
        if self.words[word] & bit == 0 { Ok(()) } else { Err(ReplayError::Repeated) }
    }

    /// Remembers the counter of a datagram that opened.
    ///
    /// # Errors
    /// [`ReplayError`] as from [`ReplayWindow::check`], with the window unchanged: the datagram is dropped after all.
    /// This happens when the same datagram was opened twice between check and commit.
    pub fn commit(&mut self, counter: u64) -> Result<(), ReplayError> {
        self.check(counter)?;
        if counter > self.greatest {
            self.advance(counter);
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
        Ok(())
    }

    /// Clears the words that the window enters on its way to `counter`; at most all of them, however far it jumps.
    fn advance(&mut self, counter: u64) {
        let entered = counter / WORD_BITS - self.greatest / WORD_BITS;
        for step in 1..=entered.min(WORDS as u64) {
            // Counted back from the new word, for a long jump needs the last words only.
            let (word, _) = place(counter - (step - 1) * WORD_BITS);
            self.words[word] = 0;
        }
        self.greatest = counter;
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { greatest: 0, words: [0; WORDS] }
    }
}

/// Why a datagram's counter is refused. Both are ordinary on a network that repeats or reorders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A datagram with it was accepted before.
    #[error("the datagram was received before")]
    Repeated,
    /// It lies so far back that it cannot be told whether it was.
    #[error("the datagram lies too far behind")]
    TooOld,
}

/// The word that a counter falls into, and its bit there.
const fn place(counter: u64) -> (usize, u64) {
    ((counter / WORD_BITS) as usize % WORDS, 1 << (counter % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The window as a plain set.
    #[derive(Default)]
    struct Model {
        greatest: u64,
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn commit(&mut self, counter: u64) -> Result<(), ReplayError> {
            if counter < self.greatest && self.greatest - counter >= REACH {
                return Err(ReplayError::TooOld);
            }
            if !self.seen.insert(counter) {
                return Err(ReplayError::Repeated);
            }
            self.greatest = self.greatest.max(counter);
            Ok(())
        }
    }

    /// Steps from the greatest counter so far, so that runs dwell at the edges: repetitions, both ends of the window,
    /// words' borders, and long jumps.
    fn step() -> impl Strategy<Value = i64> {
        let reach = i64::try_from(REACH).unwrap();
        prop_oneof![
            4 => -3_i64..=3,
            3 => -reach - 70..=-reach + 70,
            3 => -reach..=0,
            2 => 50_i64..=140,
            1 => reach - 70..=reach + 200,
            1 => 0_i64..1 << 40,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_set_of_all_counters(
            start in prop_oneof![Just(0_u64), 0..20_000_u64, Just(1 << 34)],
            steps in prop::collection::vec(step(), 1..600),
        ) {
            let (mut window, mut model) = (ReplayWindow::default(), Model::default());
            let mut greatest = start;
            for step in steps {
                let counter = greatest.saturating_add_signed(step);
                let expected = model.commit(counter);
                prop_assert_eq!(window.check(counter), expected, "check {}", counter);
                prop_assert_eq!(window.commit(counter), expected, "commit {}", counter);
                greatest = greatest.max(counter);
            }
        }
    }

    /// Commits in order, with the expected answers.
    fn run(vectors: &[(u64, Result<(), ReplayError>)]) {
        let mut window = ReplayWindow::default();
        for (at, (counter, expected)) in vectors.iter().enumerate() {
            assert_eq!(window.commit(*counter), *expected, "step {at}, counter {counter}");
        }
    }

    const OLD: Result<(), ReplayError> = Err(ReplayError::TooOld);
    const AGAIN: Result<(), ReplayError> = Err(ReplayError::Repeated);

    #[test]
    fn takes_each_counter_once_from_zero_on() {
        run(&[
            (0, Ok(())),
            (0, AGAIN),
            (1, Ok(())),
            (1, AGAIN),
            (9, Ok(())),
            (8, Ok(())),
            (7, Ok(())),
            (7, AGAIN),
        ]);
    }

    #[test]
    fn reaches_back_exactly_its_width() {
        assert_eq!(REACH, 32_704);
        run(&[
            (REACH, Ok(())),
            (0, OLD),
            (1, Ok(())),
            (1, AGAIN),
            (REACH + 1, Ok(())),
            (1, OLD),
            (2, Ok(())),
            (3 * REACH, Ok(())),
            (2 * REACH, OLD),
            (2 * REACH + 1, Ok(())),
            (2 * REACH + 1, AGAIN),
        ]);
    }

    #[test]
    fn forgets_a_ring_position_when_the_window_moves_past_it() {
        let lap = REPLAY_WINDOW as u64;
        run(&[
            (5, Ok(())),
            (5 + lap, Ok(())),
            (5 + lap, AGAIN),
            (5 + 7 * lap, Ok(())),
            (4 + 7 * lap, Ok(())),
        ]);
    }

    #[test]
    fn every_order_of_a_full_window_is_taken_once() {
        let mut window = ReplayWindow::default();
        for counter in (0..REACH).rev() {
            assert_eq!(window.commit(counter), Ok(()));
        }
        for counter in 0..REACH {
            assert_eq!(window.commit(counter), AGAIN);
        }
    }

    #[test]
    fn survives_the_greatest_counter_there_is() {
        run(&[
            (u64::MAX, Ok(())),
            (u64::MAX, AGAIN),
            (u64::MAX - 1, Ok(())),
            (u64::MAX - REACH, OLD),
            (u64::MAX - REACH + 1, Ok(())),
            (0, OLD),
        ]);
    }

    #[test]
    fn a_check_changes_nothing() {
        let window = ReplayWindow::default();
        assert_eq!(window.check(1 << 40), Ok(()));
        assert_eq!(window.check(1 << 40), Ok(()));
        assert_eq!(window.check(0), Ok(()));
    }
}
