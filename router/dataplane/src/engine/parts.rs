//! Messages that came in parts, put together again. Owns what waits for its last part; cutting is the sender's, and what
//! the message says whoever takes it.

use std::time::Duration;

use mesh_wire::sleeve::Part;
use mesh_wire::{Moment, PeerId};

/// Messages of which parts wait at the same time, in one thread: 4 MiB at most. When one more comes, the oldest is given up.
const WHOLES_MAX: usize = 64;

/// How long a message may wait for its last part.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What one thread has of messages that are not whole yet.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// The oldest first.
    wholes: Vec<Whole>,
    /// A buffer for the next message.
    spare: Vec<u8>,
    given_up: u64,
}

#[derive(Debug)]
struct Whole {
    from: PeerId,
    number: u32,
    since: Moment,
    missing: usize,
    bytes: Vec<u8>,
}

impl Reassembly {
    /// Takes a part that a neighbour sent; the whole message, when this was its last part. Parts that overlap are a
    /// neighbour's own fault, and the message is then not what was sent.
    pub fn take(&mut self, from: PeerId, part: &Part<'_>, now: Moment) -> Option<Vec<u8>> {
        let place = match self.place(from, part) {
            Some(place) => place,
            None => self.begin(from, part, now),
        };
        let whole = &mut self.wholes[place];
        let offset = usize::from(part.offset);
        whole.bytes[offset..offset + part.bytes.len()].copy_from_slice(part.bytes);
        whole.missing = whole.missing.saturating_sub(part.bytes.len());
        (whole.missing == 0).then(|| self.wholes.remove(place).bytes)
    }

    /// Takes a buffer back that [`take`](Self::take) gave away.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare = buffer;
    }

    /// How many messages were given up since this was asked last.
    pub const fn take_given_up(&mut self) -> u64 {
        std::mem::replace(&mut self.given_up, 0)
    }

    fn place(&self, from: PeerId, part: &Part<'_>) -> Option<usize> {
        self.wholes.iter().position(|whole| {
            whole.number == part.number
                && whole.from == from
                && whole.bytes.len() == usize::from(part.whole_len)
        })
    }

    fn begin(&mut self, from: PeerId, part: &Part<'_>, now: Moment) -> usize {
        let aged = self.wholes.iter().take_while(|whole| now.since(whole.since) >= WAIT_MAX).count();
        let surplus = (self.wholes.len() + 1).saturating_sub(WHOLES_MAX);
        let leaving = aged.max(surplus);
        self.given_up += leaving as u64;
        let mut bytes = std::mem::take(&mut self.spare);
        if let Some(left) = self.wholes.drain(..leaving).next_back() {
            bytes = left.bytes;
        }
        // Zeros, so that no gap shows what the buffer held of others.
        bytes.clear();
        bytes.resize(part.whole_len.into(), 0);
        self.wholes.push(Whole { from, number: part.number, since: now, missing: bytes.len(), bytes });
        self.wholes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: PeerId = PeerId::from_bytes([1; 16]);
    const B: PeerId = PeerId::from_bytes([2; 16]);

    fn parts(whole: &[u8], number: u32, len: usize) -> Vec<Part<'_>> {
        let part = |(at, bytes)| Part {
            number,
            whole_len: u16::try_from(whole.len()).unwrap(),
            offset: u16::try_from(at * len).unwrap(),
            bytes,
        };
        whole.chunks(len).enumerate().map(part).collect()
    }

    fn at(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    proptest! {
        #[test]
        fn messages_of_several_neighbours_are_whole_again_in_whatever_order_their_parts_come(
            wholes in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..4_000)), 1..8),
            len in 100_usize..1_500,
            order: u64,
        ) {
            let mut all: Vec<_> = wholes.iter().zip(0_u32..).flat_map(|((is_a, whole), number)| {
                let from = if *is_a { A } else { B };
                parts(whole, number / 2, len).into_iter().map(move |part| (from, number, part))
            }).collect();
            // Two neighbours may use one number at the same time; one neighbour does not.
            prop_assume!(wholes.chunks(2).all(|pair| pair.len() < 2 || pair[0].0 != pair[1].0));
            all.sort_by_key(|(_, number, part)| {
                order.wrapping_mul(u64::from(part.offset) * 31 + u64::from(*number) + 1).rotate_left(17)
            });
            let mut reassembly = Reassembly::default();
            let mut found = 0;
            for (from, number, part) in all {
                if let Some(whole) = reassembly.take(from, &part, at(0)) {
                    prop_assert_eq!(&whole, &wholes[number as usize].1);
                    reassembly.give_back(whole);
                    found += 1;
                }
            }
            prop_assert_eq!(found, wholes.len());
            prop_assert_eq!(reassembly.take_given_up(), 0);
        }
    }

    #[test]
    fn what_stays_incomplete_is_given_up_and_leaves_nothing_in_what_follows() {
        let mut reassembly = Reassembly::default();
        let secret = [7; 1_000];
        assert_eq!(reassembly.take(A, &parts(&secret, 1, 600)[0], at(0)), None);
        let whole = [0; 1_000];
        let gap = parts(&whole, 2, 500);
        assert_eq!(reassembly.take(B, &gap[0], at(1_000)), None);
        assert_eq!(reassembly.take_given_up(), 1);
        assert_eq!(
            reassembly.take(B, &gap[0], at(1_000)).unwrap(),
            whole,
            "the same part twice, in place of the other"
        );
        assert_eq!(reassembly.take(A, &parts(&secret, 1, 600)[1], at(1_000)), None, "its first part is gone");
    }

    #[test]
    fn only_so_many_messages_wait() {
        let mut reassembly = Reassembly::default();
        let whole = [1; 10];
        for number in 0..1_000 {
            assert_eq!(reassembly.take(A, &parts(&whole, number, 6)[0], at(0)), None);
        }
        assert_eq!(reassembly.wholes.len(), WHOLES_MAX);
        assert_eq!(reassembly.take_given_up(), 1_000 - WHOLES_MAX as u64);
        assert!(reassembly.take(A, &parts(&whole, 999, 6)[1], at(0)).is_some());
    }
}
