//! Ethernet addresses of the interfaces that we make.
//!
//! Owns their making, at random or from a name. Does not own the views on frames, which are another crate's.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv6Addr;
use std::str::FromStr;

/// How the MACs of hosts' bridges begin, as an address with zeros behind: what a host sends into the overlay, for itself or
/// as a router, is known by that. No container's MAC begins so.
pub(crate) const HOST_PREFIX: MacAddress = MacAddress([0x02, 0x6d, 0, 0, 0, 0]);

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// A random, locally administered, unicast address (IEEE 802, the two low bits of the first byte), with 46 bits
    /// from the kernel's generator.
    ///
    /// We choose it instead of the kernel so that it counts as set by hand: udev then leaves it alone, and a bridge
    /// keeps it whatever ports come and go.
    ///
    /// It is never that of a host: one in 16,384 is drawn like it, and has its second byte turned.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 6];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self::local(bytes))
    }

    /// The address, of the same kind, that follows from a name: the same each time, and another for another name.
    #[must_use]
    pub fn of_name(name: impl IntoIterator<Item = u8>) -> Self {
        let [_, _, bytes @ ..] = fnv1a_48(name).to_be_bytes();
        Self::local(bytes)
    }

    const fn local(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] | 0b10) & !0b01;
        if Self(bytes).is_host() {
            bytes[1] = !bytes[1];
        }
        Self(bytes)
    }

    /// A random address for a host's bridge: [`HOST_PREFIX`] and 32 bits.
    pub(crate) fn random_host() -> io::Result<Self> {
        let Self(mut bytes) = Self::random()?;
        bytes[..2].copy_from_slice(&HOST_PREFIX.0[..2]);
        Ok(Self(bytes))
    }

    /// Whether it is the address of a host's bridge.
    #[must_use]
    pub const fn is_host(self) -> bool {
        self.0[0] == HOST_PREFIX.0[0] && self.0[1] == HOST_PREFIX.0[1]
    }
}

impl MacAddress {
    /// The IPv6 address that an interface with this MAC gives itself (RFC 4291 appendix A).
    pub(crate) fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 0b10, b, c, 0xff, 0xfe, d, e, f])
    }
}

/// 48 bits of FNV-1a, folded as its authors advise. What follows from it outlives a version of the router: it must not
/// change.
pub(crate) fn fnv1a_48(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = bytes.into_iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    (hash >> 48) ^ (hash & 0xffff_ffff_ffff)
}

/// A text is not six pairs of hexadecimal digits with colons.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an Ethernet address is written as 02:00:00:00:00:01")]
pub struct MacAddressError;

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, MacAddressError> {
        let mut pairs = text.split(':');
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let pair =
                pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
            let pair = pair.ok_or(MacAddressError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_no_number| MacAddressError)?;
        }
        if pairs.next().is_none() { Ok(Self(bytes)) } else { Err(MacAddressError) }
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
    fn a_host_is_known_by_its_address_and_no_container_has_one_like_it() {
        assert!(MacAddress::random_host().unwrap().is_host());
        assert!(!MacAddress::random().unwrap().is_host());
    }

    #[test]
    fn a_name_has_one_address_and_another_name_another() {
        let of = |name: &str| MacAddress::of_name(name.bytes());
        assert_eq!(of("netns:c1"), of("netns:c1"));
        assert_ne!(of("netns:c1"), of("netns:c2"));
        assert_eq!(of("netns:c1").0[0] & 0b11, 0b10);
    }

    #[test]
    fn reads_what_it_shows_and_nothing_else() {
        let mac = MacAddress([2, 0, 0xab, 0xcd, 0xef, 1]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for text in ["", "02:00:ab:cd:ef", "02:00:ab:cd:ef:01:02", "02:00:ab:cd:ef:+1", "0200abcdef01"] {
            assert_eq!(text.parse::<MacAddress>(), Err(MacAddressError), "{text:?}");
        }
    }

    #[test]
    fn shows_six_pairs_of_digits() {
        assert_eq!(MacAddress([2, 0, 0xab, 0xcd, 0xef, 1]).to_string(), "02:00:ab:cd:ef:01");
    }
}
