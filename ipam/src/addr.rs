//! Addresses as numbers. Owns the one address space in which both families lie; knows no range and no owner.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use minicbor::{Decode, Decoder, Encode, Encoder};

/// An IPv4 or IPv6 address as a number of 128 bits. IPv4 lies at `::ffff:0:0/96` (RFC 4291, section 2.5.5.2), so that
/// ranges of both families are compared, split and aligned by the same arithmetic.
///
/// In CBOR a byte string: 4 bytes for IPv4, 16 for IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub(crate) u128);

impl Addr {
    /// The next address, unless this is the last of all.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The address before, unless this is the first of all.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self(u128::from(v4.to_ipv6_mapped())),
            IpAddr::V6(v6) => Self(u128::from(v6)),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(address: Ipv4Addr) -> Self {
        Self::from(IpAddr::V4(address))
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        let v6 = Ipv6Addr::from(addr.0);
        v6.to_ipv4_mapped().map_or(Self::V6(v6), Self::V4)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<C> Encode<C> for Addr {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match IpAddr::from(*self) {
            IpAddr::V4(v4) => e.bytes(&v4.octets())?.ok(),
            IpAddr::V6(v6) => e.bytes(&v6.octets())?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Addr {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        let bytes = d.bytes()?;
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            return Ok(Self::from(Ipv4Addr::from(v4)));
        }
        let v6 = <[u8; 16]>::try_from(bytes).map_err(|_length: std::array::TryFromSliceError| {
            minicbor::decode::Error::message("an address has 4 or 16 bytes").at(position)
        })?;
        Ok(Self(u128::from_be_bytes(v6)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_way_to_a_number_and_back() {
        for text in ["10.32.0.1", "255.255.255.255", "fd00::1", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(address)), address);
            let bytes = minicbor::to_vec(Addr::from(address)).unwrap();
            assert_eq!(minicbor::decode::<Addr>(&bytes).unwrap(), Addr::from(address));
        }
    }

    #[test]
    fn bytes_of_another_length_are_no_address() {
        assert!(minicbor::decode::<Addr>(&[0x43, 1, 2, 3]).is_err());
    }
}
