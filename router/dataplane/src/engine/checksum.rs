//! The Internet checksum (RFC 1071): sums, and folding them. Owns nothing of the headers that carry it.

/// A one's complement sum of 16-bit words in progress, in the byte order of this machine: the sum does not depend on
/// the order (RFC 1071, section 2.B), if bytes go in and come out in the same one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, of which there are less than 2^33; the last one of an odd number is followed by a zero.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // Words of 32 bits count as two of 16: 2^16 is 1 in this arithmetic. The compiler makes vectors of the loop.
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// The sum of both. All but the last of the parts of a whole must have even lengths.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.folded() as u64 + other.folded() as u64)
    }

    /// The sum without `other`, which was part of it.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.folded() as u64 + !other.folded() as u64)
    }

    /// The sum itself, as it stands in a packet whose checksum is left to others.
    #[must_use]
    pub const fn partial(self) -> [u8; 2] {
        self.folded().to_ne_bytes()
    }

    /// The checksum, as it stands in a packet.
    #[must_use]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.folded()).to_ne_bytes()
    }

    /// True for the sum of something that contains its own right checksum.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.folded() == u16::MAX
    }

    const fn folded(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        ((sum >> 16) + (sum & 0xffff)) as u16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::sum as naive;
    use super::*;

    #[test]
    fn sums_the_example_of_rfc_1071() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!((sum.partial(), sum.checksum()), ([0xdd, 0xf2], [0x22, 0x0d]));
    }

    #[test]
    fn many_greatest_words_do_not_overflow() {
        assert_eq!(Sum::of(&[0xff; 1 << 17]).partial(), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn agrees_with_adding_word_by_word(bytes: Vec<u8>, split: prop::sample::Index) {
            prop_assert_eq!(Sum::of(&bytes).partial(), naive(&bytes).to_be_bytes());
            let (a, b) = bytes.split_at(split.index(bytes.len() + 1) & !1);
            let both = Sum::of(a).plus(Sum::of(b));
            prop_assert_eq!(both.partial(), naive(&bytes).to_be_bytes());
            // Zero has two forms in one's complement, which only a following addition makes one.
            let back = both.minus(Sum::of(b)).plus(Sum::of(&[0, 1]));
            prop_assert_eq!(back.partial(), Sum::of(a).plus(Sum::of(&[0, 1])).partial());
        }

        #[test]
        fn a_whole_with_its_checksum_is_valid(mut bytes: Vec<u8>) {
            bytes.extend([0; 3]);
            bytes.truncate(bytes.len() & !1);
            let end = bytes.len() - 2;
            bytes[end..].fill(0);
            let checksum = Sum::of(&bytes).checksum();
            bytes[end..].copy_from_slice(&checksum);
            prop_assert!(Sum::of(&bytes).is_valid());
        }
    }
}
