//! What the kernel leaves to be done with a frame, and what may be left to it: `struct virtio_net_hdr`, which precedes
//! each frame of the TAP interface in both directions (kernel: include/uapi/linux/virtio_net.h). Owns its ten bytes;
//! the work itself is [`segment`](super::segment)'s and [`merge`](super::merge)'s.

use super::checksum::Sum;

/// Length of `struct virtio_net_hdr`.
pub const OFFLOAD_LEN: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Added to the type of a TCP frame whose first segment alone bears CWR.
const GSO_ECN: u8 = 0x80;

/// What is still to be done with a frame before it can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Nothing: it is as it would be on a wire.
    Nothing,
    /// One checksum.
    Checksum(PartialChecksum),
    /// It is a super-frame: cutting, and a checksum for each piece.
    Segmentation(Segmentation),
}

/// A checksum that holds the sum of the pseudo-header only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the checksummed part of the frame starts; it goes to the end.
    pub start: u16,
    /// Where in that part the checksum is.
    pub offset: u16,
}

/// How a super-frame is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// What is cut.
    pub kind: SegmentKind,
    /// Payload of each piece but the last, in bytes; not 0.
    pub size: u16,
    /// Length of all headers, which come again in each piece. Only a hint when it comes from the kernel.
    pub head_len: u16,
    /// The checksum of the transport header.
    pub checksum: PartialChecksum,
}

/// What a super-frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    TcpV4 {
        /// CWR stands in the header, for the first piece.
        has_cwr: bool,
    },
    /// TCP over IPv6.
    TcpV6 {
        /// CWR stands in the header, for the first piece.
        has_cwr: bool,
    },
    /// UDP datagrams of equal length, over either.
    Udp,
}

/// The frame needs something that was not offered, or its header contradicts itself or the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the frame needs what is not offered")]
pub struct BadOffload;

impl Offload {
    /// What `bytes` ask for.
    ///
    /// # Errors
    /// [`BadOffload`] for a type of super-frame that is not in [`SegmentKind`], and for a super-frame without size or
    /// without partial checksum: the kernel makes none.
    pub fn decode(bytes: [u8; OFFLOAD_LEN]) -> Result<Self, BadOffload> {
        let [flags, gso_type, h0, h1, z0, z1, s0, s1, o0, o1] = bytes;
        let checksum =
            PartialChecksum { start: u16::from_ne_bytes([s0, s1]), offset: u16::from_ne_bytes([o0, o1]) };
        let has_cwr = gso_type & GSO_ECN != 0;
        let kind = match gso_type & !GSO_ECN {
            GSO_NONE if flags & NEEDS_CHECKSUM == 0 => return Ok(Self::Nothing),
            GSO_NONE => return Ok(Self::Checksum(checksum)),
            GSO_TCP_V4 => SegmentKind::TcpV4 { has_cwr },
            GSO_TCP_V6 => SegmentKind::TcpV6 { has_cwr },
            GSO_UDP => SegmentKind::Udp,
            _ => return Err(BadOffload),
        };
        let size = u16::from_ne_bytes([z0, z1]);
        if size == 0 || flags & NEEDS_CHECKSUM == 0 {
            return Err(BadOffload);
        }
        let head_len = u16::from_ne_bytes([h0, h1]);
        Ok(Self::Segmentation(Segmentation { kind, size, head_len, checksum }))
    }

    /// The bytes that ask for this.
    #[must_use]
    pub fn encode(&self) -> [u8; OFFLOAD_LEN] {
        let (flags, gso_type, head_len, size, checksum) = match *self {
            Self::Nothing => return [0; OFFLOAD_LEN],
            Self::Checksum(checksum) => (NEEDS_CHECKSUM, GSO_NONE, 0, 0, checksum),
            Self::Segmentation(Segmentation { kind, size, head_len, checksum }) => {
                (NEEDS_CHECKSUM, kind.code(), head_len, size, checksum)
            }
        };
        let [h0, h1] = head_len.to_ne_bytes();
        let [z0, z1] = size.to_ne_bytes();
        let [s0, s1] = checksum.start.to_ne_bytes();
        let [o0, o1] = checksum.offset.to_ne_bytes();
        [flags, gso_type, h0, h1, z0, z1, s0, s1, o0, o1]
    }
}

impl SegmentKind {
    const fn code(self) -> u8 {
        match self {
            Self::TcpV4 { has_cwr: false } => GSO_TCP_V4,
            Self::TcpV4 { has_cwr: true } => GSO_TCP_V4 | GSO_ECN,
            Self::TcpV6 { has_cwr: false } => GSO_TCP_V6,
            Self::TcpV6 { has_cwr: true } => GSO_TCP_V6 | GSO_ECN,
            Self::Udp => GSO_UDP,
        }
    }
}

impl PartialChecksum {
    /// Completes the checksum in `frame`.
    ///
    /// # Errors
    /// [`BadOffload`] when it lies outside; the frame is as it was.
    pub fn complete(self, frame: &mut [u8]) -> Result<(), BadOffload> {
        let part = frame.get_mut(usize::from(self.start)..).ok_or(BadOffload)?;
        let checksum = transport_checksum(Sum::of(part));
        let place = part.get_mut(usize::from(self.offset)..).and_then(|rest| rest.first_chunk_mut());
        *place.ok_or(BadOffload)? = checksum;
        Ok(())
    }
}

/// The checksum for this sum, in the form that does not mean "none" in UDP (RFC 768) and the same in TCP.
pub(super) const fn transport_checksum(sum: Sum) -> [u8; 2] {
    match sum.checksum() {
        [0, 0] => [0xff, 0xff],
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let checksum = PartialChecksum { start: 34, offset: 16 };
        let mut offloads = vec![Offload::Nothing, Offload::Checksum(checksum)];
        for kind in [
            SegmentKind::TcpV4 { has_cwr: false },
            SegmentKind::TcpV4 { has_cwr: true },
            SegmentKind::TcpV6 { has_cwr: false },
            SegmentKind::TcpV6 { has_cwr: true },
            SegmentKind::Udp,
        ] {
            offloads.push(Offload::Segmentation(Segmentation { kind, size: 1318, head_len: 66, checksum }));
        }
        for offload in offloads {
            assert_eq!(Offload::decode(offload.encode()), Ok(offload));
        }
    }

    #[test]
    fn refuses_what_was_not_offered_and_what_has_no_size_or_no_checksum() {
        let tcp = [NEEDS_CHECKSUM, GSO_TCP_V4, 66, 0, 100, 0, 34, 0, 16, 0];
        assert!(Offload::decode(tcp).is_ok());
        let with = |at: usize, value| {
            let mut bytes = tcp;
            bytes[at] = value;
            Offload::decode(bytes)
        };
        // 3 is UFO, 32 a tunnel.
        for bad in [with(1, 3), with(1, 33), with(0, 0), with(4, 0)] {
            assert_eq!(bad, Err(BadOffload));
        }
    }

    #[test]
    fn completes_a_checksum_and_refuses_one_outside() {
        let mut frame = [9, 9, 0, 1, 0xf2, 0x03, 0, 0];
        let at = |start, offset| PartialChecksum { start, offset };
        for bad in [at(9, 0), at(8, 0), at(2, 5), at(0, u16::MAX), at(u16::MAX, u16::MAX)] {
            assert_eq!(bad.complete(&mut frame), Err(BadOffload), "{bad:?}");
        }
        at(2, 4).complete(&mut frame).unwrap();
        assert_eq!(frame, [9, 9, 0, 1, 0xf2, 0x03, 0x0d, 0xfb]);
        assert!(Sum::of(&frame[2..]).is_valid());
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_the_other_zero() {
        let mut frame = [0xff, 0xff, 0, 0];
        PartialChecksum { start: 0, offset: 2 }.complete(&mut frame).unwrap();
        assert_eq!(frame, [0xff; 4]);
    }
}
