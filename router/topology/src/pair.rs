//! One hash for a pair of peers, the same at all routers: it decides who is a neighbour of whom, and makes the digest of
//! the links.

use mesh_wire::PeerId;

/// Where the hash starts, so that a pair of zeros is not a fixed point.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a pair in either order: the last step of splitmix64 over the four 64-bit words of the smaller id and the
/// greater, each mixed into the result of the one before. It need not resist an attacker, only spread.
pub(crate) fn hash(a: PeerId, b: PeerId) -> u64 {
    let (smaller, greater) = if a < b { (a, b) } else { (b, a) };
    let (words, _) = smaller.as_bytes().as_chunks::<8>();
    let (more, _) = greater.as_bytes().as_chunks::<8>();
    words.iter().chain(more).fold(SEED, |hash, word| mix(hash ^ u64::from_be_bytes(*word)))
}

const fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_one_hash_and_no_two_pairs_here_share_theirs() {
        let id = |n: u8| PeerId::from_bytes([n; 16]);
        let mut hashes: Vec<_> =
            (0..100).flat_map(|a| (0..a).map(move |b| (a, b))).map(|(a, b)| hash(id(a), id(b))).collect();
        assert_eq!(hash(id(3), id(5)), hash(id(5), id(3)));
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 100 * 99 / 2);
    }

    /// The protocol says what it is: computed by another implementation.
    #[test]
    fn the_hash_is_a_fixed_function_of_the_ids() {
        let smaller = PeerId::from_bytes(std::array::from_fn(|i| u8::try_from(i).expect("below 16")));
        let greater = PeerId::from_bytes([0xff; 16]);
        assert_eq!(hash(smaller, greater), 0x0d67_50d8_1897_3b5d);
    }
}
