//! Super-frames cut into frames for the wire: what a network card does that has TSO or USO (kernel: net/ipv4 and
//! net/ipv6, `*_gso_segment`). Owns the rules by which headers differ between the pieces; who reads super-frames and
//! where the pieces go is the caller's matter.

use mesh_wire::ethernet::Frame;

use super::checksum::Sum;
use super::offload::{BadOffload, SegmentKind, Segmentation, transport_checksum};

pub(super) const IPV4_HEADER_LEN: usize = 20;
pub(super) const IPV4_TOTAL_LEN_AT: usize = 2;
pub(super) const IPV4_ID_AT: usize = 4;
pub(super) const IPV4_FRAGMENT_AT: usize = 6;
pub(super) const IPV4_CHECKSUM_AT: usize = 10;
/// More fragments, and the offset: zero in a packet that is whole.
pub(super) const IPV4_FRAGMENT_MASK: u16 = 0x3fff;
pub(super) const IPV6_HEADER_LEN: usize = 40;
pub(super) const IPV6_PAYLOAD_LEN_AT: usize = 4;
pub(super) const TCP_HEADER_LEN: usize = 20;
pub(super) const TCP_SEQUENCE_AT: usize = 4;
pub(super) const TCP_DATA_OFFSET_AT: usize = 12;
pub(super) const TCP_FLAGS_AT: usize = 13;
pub(super) const TCP_CHECKSUM_AT: usize = 16;
pub(super) const TCP_FIN: u8 = 0x01;
pub(super) const TCP_PSH: u8 = 0x08;
pub(super) const TCP_CWR: u8 = 0x80;
const UDP_HEADER_LEN: usize = 8;
pub(super) const UDP_LEN_AT: usize = 4;
pub(super) const UDP_CHECKSUM_AT: usize = 6;

/// A super-frame, seen as the frames that it stands for: at least one, and less than 2^16.
#[derive(Debug, Clone, Copy)]
pub struct Pieces<'f> {
    /// All headers.
    head: &'f [u8],
    payload: &'f [u8],
    ip_at: usize,
    ip: Version,
    transport_at: usize,
    transport: Transport,
    /// Payload of each piece but the last.
    size: usize,
    /// What the checksums of all pieces have in common: the pseudo-header without its length.
    seed: Sum,
}

/// Of the Internet Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl<'f> Pieces<'f> {
    /// The pieces of `frame`, which the kernel wants cut in this way.
    ///
    /// # Errors
    /// [`BadOffload`] when the frame is not of the kind that it is said to be, is a fragment, or was cut short.
    pub fn new(frame: &'f [u8], segmentation: Segmentation) -> Result<Self, BadOffload> {
        let Segmentation { kind, size, head_len: _, checksum } = segmentation;
        let packet = Frame::parse(frame).or(Err(BadOffload))?.payload();
        let ip_at = frame.len() - packet.len();
        let transport_at = usize::from(checksum.start);
        let ip_head_len = transport_at.checked_sub(ip_at).ok_or(BadOffload)?;
        let ip = version(packet, ip_head_len).ok_or(BadOffload)?;
        let transport = match (kind, ip) {
            (SegmentKind::TcpV4 { .. }, Version::V4) | (SegmentKind::TcpV6 { .. }, Version::V6) => {
                Transport::Tcp
            }
            (SegmentKind::Udp, Version::V4 | Version::V6) => Transport::Udp,
            (SegmentKind::TcpV4 { .. }, Version::V6) | (SegmentKind::TcpV6 { .. }, Version::V4) => {
                return Err(BadOffload);
            }
        };
        let segment = frame.get(transport_at..).ok_or(BadOffload)?;
        let transport_len = transport.head_len(segment).ok_or(BadOffload)?;
        if usize::from(checksum.offset) != transport.checksum_at() || size == 0 {
            return Err(BadOffload);
        }
        let (head, payload) = frame.split_at_checked(transport_at + transport_len).ok_or(BadOffload)?;
        let partial = Sum::of(&head[transport_at + transport.checksum_at()..][..2]);
        let seed = partial.minus(Sum::of(&be16(segment.len())));
        Ok(Self { head, payload, ip_at, ip, transport_at, transport, size: size.into(), seed })
    }

    /// The same bytes in frames of at most `frame_len_max`, if that is less and if they are a stream, whose receiver does
    /// not see where it was cut.
    #[must_use]
    pub fn at_most(self, frame_len_max: usize) -> Self {
        let size = frame_len_max.saturating_sub(self.head.len());
        match self.transport {
            Transport::Tcp if size > 0 => Self { size: self.size.min(size), ..self },
            Transport::Tcp | Transport::Udp => self,
        }
    }

    /// The headers of the super-frame, which those of the pieces are made from.
    #[must_use]
    pub const fn head(&self) -> &'f [u8] {
        self.head
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Length of piece `number`, which is less than [`count`](Self::count).
    #[must_use]
    pub fn frame_len(&self, number: usize) -> usize {
        self.head.len() + self.part(number).len()
    }

    /// Length of all pieces together.
    #[must_use]
    pub fn frames_len(&self) -> usize {
        self.head.len() * self.count() + self.payload.len()
    }

    /// Appends piece `number` to `out`, complete, with all checksums.
    pub fn write(&self, number: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.head);
        out.extend_from_slice(self.part(number));
        let (_, packet) = out[start..].split_at_mut(self.ip_at);
        self.address(packet, number);
        let (_, segment) = packet.split_at_mut(self.transport_at - self.ip_at);
        match self.transport {
            Transport::Tcp => self.finish_tcp(segment, number),
            Transport::Udp => self.finish_udp(segment),
        }
    }

    fn part(&self, number: usize) -> &'f [u8] {
        let rest = self.payload.get(number * self.size..).unwrap_or_default();
        &rest[..rest.len().min(self.size)]
    }

    fn address(&self, packet: &mut [u8], number: usize) {
        match self.ip {
            Version::V4 => {
                put(packet, IPV4_TOTAL_LEN_AT, be16(packet.len()));
                let id = u16::from_be_bytes(get(packet, IPV4_ID_AT)).wrapping_add(number as u16);
                put(packet, IPV4_ID_AT, id.to_be_bytes());
                finish_ipv4(&mut packet[..self.transport_at - self.ip_at]);
            }
            Version::V6 => put(packet, IPV6_PAYLOAD_LEN_AT, be16(packet.len() - IPV6_HEADER_LEN)),
        }
    }

    fn finish_tcp(&self, segment: &mut [u8], number: usize) {
        let sequence = u32::from_be_bytes(get(segment, TCP_SEQUENCE_AT));
        let sequence = sequence.wrapping_add((number * self.size) as u32);
        put(segment, TCP_SEQUENCE_AT, sequence.to_be_bytes());
        if number > 0 {
            segment[TCP_FLAGS_AT] &= !TCP_CWR;
        }
        if number + 1 < self.count() {
            segment[TCP_FLAGS_AT] &= !(TCP_FIN | TCP_PSH);
        }
        self.finish_checksum(segment);
    }

    fn finish_udp(&self, segment: &mut [u8]) {
        put(segment, UDP_LEN_AT, be16(segment.len()));
        self.finish_checksum(segment);
    }

    fn finish_checksum(&self, segment: &mut [u8]) {
        let pseudo = self.seed.plus(Sum::of(&be16(segment.len())));
        put(segment, self.transport.checksum_at(), pseudo.partial());
        put(segment, self.transport.checksum_at(), transport_checksum(Sum::of(segment)));
    }
}

impl Transport {
    pub(super) const fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => TCP_CHECKSUM_AT,
            Self::Udp => UDP_CHECKSUM_AT,
        }
    }

    /// Length of the header at the start of `segment`.
    pub(super) fn head_len(self, segment: &[u8]) -> Option<usize> {
        match self {
            Self::Tcp => {
                let len = usize::from(segment.get(TCP_DATA_OFFSET_AT)? >> 4) * 4;
                (len >= TCP_HEADER_LEN).then_some(len)
            }
            Self::Udp => Some(UDP_HEADER_LEN),
        }
    }
}

/// The version of a `packet` that is whole, is as long as it says, and has `head_len` bytes of headers before the
/// transport's. Only IPv6 has extension headers, which are not looked at.
fn version(packet: &[u8], head_len: usize) -> Option<Version> {
    match packet.first()? >> 4 {
        4 => {
            let says_head_len = usize::from(packet[0] & 0xf) * 4;
            let fits =
                packet.len() >= IPV4_HEADER_LEN && head_len >= IPV4_HEADER_LEN && says_head_len == head_len;
            let is_whole = || u16::from_be_bytes(get(packet, IPV4_FRAGMENT_AT)) & IPV4_FRAGMENT_MASK == 0;
            let has_len = || len_at(packet, IPV4_TOTAL_LEN_AT) == packet.len();
            (fits && is_whole() && has_len()).then_some(Version::V4)
        }
        6 => {
            let fits = packet.len() >= IPV6_HEADER_LEN && head_len >= IPV6_HEADER_LEN;
            let has_len = || len_at(packet, IPV6_PAYLOAD_LEN_AT) == packet.len() - IPV6_HEADER_LEN;
            (fits && has_len()).then_some(Version::V6)
        }
        _ => None,
    }
}

/// Writes the checksum of an IPv4 header.
pub(super) fn finish_ipv4(header: &mut [u8]) {
    put(header, IPV4_CHECKSUM_AT, [0; 2]);
    put(header, IPV4_CHECKSUM_AT, Sum::of(header).checksum());
}

/// A length field's value.
pub(super) fn len_at(bytes: &[u8], at: usize) -> usize {
    u16::from_be_bytes(get(bytes, at)).into()
}

/// A length field. What it is the length of fits, being part of a packet whose own length field was right.
pub(super) const fn be16(len: usize) -> [u8; 2] {
    (len as u16).to_be_bytes()
}

/// The `N` bytes at `at`, which the caller knows to be there.
pub(super) fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the header was seen to be complete")
}

pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

#[cfg(test)]
mod tests;
