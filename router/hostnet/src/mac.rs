//! Ethernet addresses of the interfaces that we make.
//!
//! Owns their making at random. Does not own the views on frames, which are another crate's.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// A random, locally administered, unicast address (IEEE 802, the two low bits of the first byte), with 46 bits
    /// from the kernel's generator.
    ///
    /// We choose it instead of the kernel so that it counts as set by hand: udev then leaves it alone, and a bridge
    /// keeps it whatever ports come and go.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 6];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        bytes[0] = (bytes[0] | 0b10) & !0b01;
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_are_local_unicast_and_differ() {
        let (a, b) = (MacAddress::random().unwrap(), MacAddress::random().unwrap());
        assert_eq!(a.0[0] & 0b11, 0b10);
        assert_ne!(a, b);
    }

    #[test]
    fn shows_six_pairs_of_digits() {
        assert_eq!(MacAddress([2, 0, 0xab, 0xcd, 0xef, 1]).to_string(), "02:00:ab:cd:ef:01");
    }
}
