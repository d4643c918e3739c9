//! Heartbeats of kernel paths: frames that one router sends through the other's VXLAN device, and that no bridge hands
//! on. Owns their bytes; who asks when is decided elsewhere.
//!
//! The frame goes to 01:80:c2:00:00:0e, which a bridge gives to whoever listens on the port itself and to nobody else
//! (IEEE 802.1Q, table 8-1), and so neither reaches a container nor can come from one.

use crate::MacAddr;

/// Bytes of the VXLAN header (RFC 7348, section 5).
pub const HEADER_LEN: usize = 8;

/// Bytes of the Ethernet header behind it.
pub const ETHERNET_LEN: usize = 14;

/// Where the payload of the inner frame begins.
pub const PAYLOAD_AT: usize = HEADER_LEN + ETHERNET_LEN;

/// The type of the inner frame: the first of two for experiments on one's own network (IEEE 802, section 9.2.4).
pub const ETHERTYPE: u16 = 0x88b5;

/// To whom the inner frame goes.
pub const DESTINATION: MacAddr = MacAddr::from_bytes([0x01, 0x80, 0xc2, 0, 0, 0x0e]);

/// From whom it seems to come: no station of any network.
const SOURCE: MacAddr = MacAddr::from_bytes([0x02, 0, 0, 0, 0, 0]);

/// The flag that says that there is a network identifier.
const FLAG_VNI: u8 = 0x08;

/// What a heartbeat begins with, so that another's use of the type is not taken for one.
const MAGIC: [u8; 4] = *b"mesh";

const KIND_QUESTION: u8 = 1;
const KIND_ANSWER: u8 = 2;

/// Bytes of a heartbeat without what fills it up.
pub const HEARTBEAT_LEN: usize = MAGIC.len() + 1 + 8 + 8;

/// A question whether a kernel path carries, or the answer to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which of both.
    pub kind: HeartbeatKind,
    /// What the receiver told the sender in its [`VxlanOffer`](crate::control::VxlanOffer).
    pub cookie: u64,
    /// Numbers the question; the answer bears the same.
    pub number: u64,
}

/// What a heartbeat is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatKind {
    /// Wants an answer.
    Question,
    /// Is one. It is short, so that nobody can make a router send more than it was sent.
    Answer,
}

impl Heartbeat {
    /// The UDP payload to a receiver that takes `vni`, with an inner frame whose payload is filled up to `payload_len`
    /// bytes; it is longer if that is too short for a heartbeat.
    #[must_use]
    pub fn encode(&self, vni: u32, payload_len: usize) -> Vec<u8> {
        let len = PAYLOAD_AT + payload_len.max(HEARTBEAT_LEN);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend([FLAG_VNI, 0, 0, 0]);
        bytes.extend((vni << 8).to_be_bytes());
        bytes.extend(DESTINATION.as_bytes());
        bytes.extend(SOURCE.as_bytes());
        bytes.extend(ETHERTYPE.to_be_bytes());
        bytes.extend(MAGIC);
        bytes.push(match self.kind {
            HeartbeatKind::Question => KIND_QUESTION,
            HeartbeatKind::Answer => KIND_ANSWER,
        });
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.resize(len, 0);
        bytes
    }

    /// Reads the payload of an inner frame of [`ETHERTYPE`]; `None` if it is no heartbeat.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (magic, rest) = payload.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        let (number, _filling) = rest.split_first_chunk()?;
        let kind = match *kind {
            KIND_QUESTION => HeartbeatKind::Question,
            KIND_ANSWER => HeartbeatKind::Answer,
            _ => return None,
        };
        let (cookie, number) = (u64::from_be_bytes(*cookie), u64::from_be_bytes(*number));
        (*magic == MAGIC).then_some(Self { kind, cookie, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_survives_and_anything_else_is_none() {
        let heartbeat = Heartbeat { kind: HeartbeatKind::Question, cookie: 7, number: u64::MAX };
        let bytes = heartbeat.encode(0xab_cdef, 1_370);
        assert_eq!(bytes.len(), PAYLOAD_AT + 1_370);
        assert_eq!(Heartbeat::decode(&bytes[PAYLOAD_AT..]), Some(heartbeat));
        for len in 0..HEARTBEAT_LEN {
            assert_eq!(Heartbeat::decode(&bytes[PAYLOAD_AT..][..len]), None, "{len}");
        }
        for at in 0..5 {
            let mut other = bytes[PAYLOAD_AT..].to_vec();
            other[at] ^= 0x40;
            assert_eq!(Heartbeat::decode(&other), None, "{at}");
        }
    }
}
