//! Ethernet (MAC) addresses. Owns the type and its classes; who has which address is the MAC table's matter.

use std::fmt;
use std::str::FromStr;

use minicbor::{CborLen, Decode, Encode};

/// A 48-bit Ethernet address (IEEE 802, section 8), in the order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, CborLen)]
#[cbor(transparent)]
pub struct MacAddr(#[cbor(with = "minicbor::bytes")] [u8; Self::LEN]);

/// Why a text is no [`MacAddr`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six two-digit hexadecimal numbers joined by ':'")]
pub struct MacAddrError;

impl MacAddr {
    /// Length in bytes.
    pub const LEN: usize = 6;

    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; Self::LEN]);

    /// The address with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The address's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// True for multicast and broadcast: the I/G bit, the lowest of the first byte.
    #[must_use]
    pub const fn is_group(&self) -> bool {
        self.0[0] & 1 == 1
    }

    /// True when a station can send from it: neither a group nor all zero.
    #[must_use]
    pub fn is_station(&self) -> bool {
        !self.is_group() && self.0 != [0; Self::LEN]
    }

    /// True for 01:80:c2:00:00:00 to 0f, the addresses that no bridge forwards (IEEE 802.1Q, table 8-1): spanning
    /// tree, pause frames, LACP, LLDP.
    #[must_use]
    pub const fn is_link_local_control(&self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
    }

    /// True for groups of IPv4 and IPv6 whose members tell of themselves (RFC 1112, section 6.4; RFC 2464, section 7), so that
    /// frames need not go anywhere else. Not so for 224.0.0.0/24, which everybody gets (RFC 4541, section 2.1.2), and which
    /// shares its addresses with 31 other such networks; nor for the IPv6 groups with small numbers, all nodes among them,
    /// and those of neighbour discovery, without which nobody would be found.
    #[must_use]
    pub const fn is_snooped_group(&self) -> bool {
        match self.0 {
            [0x01, 0x00, 0x5e, high, middle, _] => high < 0x80 && (high != 0 || middle != 0),
            [0x33, 0x33, 0xff, ..] | [0x33, 0x33, 0, 0, 0, _] => false,
            [0x33, 0x33, ..] => true,
            _ => false,
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut bytes = [0; Self::LEN];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddrError)?;
            let is_two_digits = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| is_two_digits).ok_or(MacAddrError)?;
        }
        if parts.next().is_some() {
            return Err(MacAddrError);
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(text: &str) -> MacAddr {
        text.parse().unwrap()
    }

    #[test]
    fn reads_what_it_shows() {
        assert_eq!(mac("02:42:ac:11:00:FE").to_string(), "02:42:ac:11:00:fe");
    }

    #[test]
    fn refuses_texts_that_are_no_address() {
        for text in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "+2:42:ac:11:00:02",
            "0g:0:0:0:0:0",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError), "{text:?}");
        }
    }

    #[test]
    fn groups_that_everybody_needs_are_not_snooped() {
        for snooped in ["01:00:5e:00:01:00", "01:00:5e:7f:ff:fa", "33:33:00:00:12:34", "33:33:00:01:00:02"] {
            assert!(mac(snooped).is_snooped_group(), "{snooped}");
        }
        for flooded in [
            "01:00:5e:00:00:fb",
            "01:00:5e:80:00:01",
            "33:33:00:00:00:01",
            "33:33:ff:00:00:09",
            "01:80:c2:00:00:0e",
            "ff:ff:ff:ff:ff:ff",
            "02:00:5e:01:01:01",
        ] {
            assert!(!mac(flooded).is_snooped_group(), "{flooded}");
        }
    }

    #[test]
    fn tells_groups_stations_and_link_local_control_apart() {
        assert!(MacAddr::BROADCAST.is_group());
        assert!(mac("33:33:00:00:00:01").is_group());
        assert!(mac("02:00:00:00:00:01").is_station());
        assert!(!mac("00:00:00:00:00:00").is_station());
        assert!(mac("01:80:c2:00:00:0e").is_link_local_control());
        assert!(!mac("01:80:c2:00:00:10").is_link_local_control());
        assert!(!mac("01:80:c2:01:00:00").is_link_local_control());
    }
}
