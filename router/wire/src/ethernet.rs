//! A read-only view of an Ethernet II frame (IEEE 802.3 without preamble and checksum), with or without an 802.1Q
//! tag. It looks at the header alone; what the frame carries is opaque here.

use crate::MacAddr;

/// Length of the header without a tag: destination, source, EtherType.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// Length of one 802.1Q tag.
pub const VLAN_TAG_LEN: usize = 4;

/// EtherType of a customer tag (IEEE 802.1Q).
const TPID_CUSTOMER: u16 = 0x8100;

/// EtherType of a service tag (IEEE 802.1ad).
const TPID_SERVICE: u16 = 0x88a8;

/// A frame whose header is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    tag: Option<u16>,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is cut short.
    #[error("{0} bytes hold no Ethernet header")]
    TooShort(usize),
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` hold.
    ///
    /// # Errors
    /// [`FrameError::TooShort`] when the header, or the 802.1Q tag that it announces, is cut short.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let ether_type = be16(bytes, 12).ok_or(FrameError::TooShort(bytes.len()))?;
        if ether_type != TPID_CUSTOMER && ether_type != TPID_SERVICE {
            return Ok(Self { bytes, tag: None });
        }
        if bytes.len() < ETHERNET_HEADER_LEN + VLAN_TAG_LEN {
            return Err(FrameError::TooShort(bytes.len()));
        }
        Ok(Self { bytes, tag: be16(bytes, ETHERNET_HEADER_LEN) })
    }

    /// Whom the frame is for.
    #[must_use]
    pub fn destination(&self) -> MacAddr {
        self.address(0)
    }

    /// Who sent the frame.
    #[must_use]
    pub fn source(&self) -> MacAddr {
        self.address(MacAddr::LEN)
    }

    /// The 12-bit VLAN id of the outer tag, if there is one.
    #[must_use]
    pub fn vlan(&self) -> Option<u16> {
        self.tag.map(|control| control & 0x0fff)
    }

    /// The EtherType of the payload: behind the outer tag if there is one.
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        be16(self.bytes, self.header_len() - 2).expect("parse saw the whole header")
    }

    /// What follows the header and the outer tag.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header_len()..]
    }

    /// The whole frame.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    const fn header_len(&self) -> usize {
        if self.tag.is_some() { ETHERNET_HEADER_LEN + VLAN_TAG_LEN } else { ETHERNET_HEADER_LEN }
    }

    fn address(&self, at: usize) -> MacAddr {
        let bytes = self.bytes[at..].first_chunk().expect("parse saw the whole header");
        MacAddr::from_bytes(*bytes)
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06, 1, 2, 3];
    const TAGGED: &[u8] = &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0xe0, 0x2a, 0x08, 0x00, 9];

    #[test]
    fn sees_through_one_tag() {
        let plain = Frame::parse(PLAIN).unwrap();
        assert_eq!(plain.destination(), MacAddr::BROADCAST);
        assert_eq!(plain.source().to_string(), "02:00:00:00:00:01");
        assert_eq!((plain.vlan(), plain.ether_type(), plain.payload()), (None, 0x0806, &[1, 2, 3][..]));

        let tagged = Frame::parse(TAGGED).unwrap();
        assert_eq!((tagged.vlan(), tagged.ether_type(), tagged.payload()), (Some(42), 0x0800, &[9][..]));
    }

    #[test]
    fn refuses_a_header_that_is_cut_short() {
        for len in 0..ETHERNET_HEADER_LEN {
            assert_eq!(Frame::parse(&PLAIN[..len]), Err(FrameError::TooShort(len)));
        }
        for len in ETHERNET_HEADER_LEN..ETHERNET_HEADER_LEN + VLAN_TAG_LEN {
            assert_eq!(Frame::parse(&TAGGED[..len]), Err(FrameError::TooShort(len)));
        }
    }
}
