//! Frames of one TCP or UDP stream merged into super-frames, by the rules of the kernel's own receive offload (net/ipv4
//! and net/ipv6, `*_gro_receive`): what is merged is exactly what [`segment`](super::segment) would cut the result into.
//! Owns what waits within one batch; reading batches and writing super-frames is the caller's matter.
//!
//! **Order.** A frame that is merged waits for those that follow it in its stream, and nothing of the same stream passes
//! it. A frame that cannot be told to be of another stream lets all that waits go first.

use mesh_wire::ethernet::Frame;

use super::checksum::Sum;
use super::offload::{Offload, PartialChecksum, SegmentKind, Segmentation};
use super::segment::{
    IPV4_FRAGMENT_AT, IPV4_FRAGMENT_MASK, IPV4_HEADER_LEN, IPV4_ID_AT, IPV4_TOTAL_LEN_AT, IPV6_HEADER_LEN,
    IPV6_PAYLOAD_LEN_AT, TCP_CHECKSUM_AT, TCP_CWR, TCP_FIN, TCP_FLAGS_AT, TCP_PSH, TCP_SEQUENCE_AT,
    Transport, UDP_CHECKSUM_AT, UDP_LEN_AT, Version, be16, finish_ipv4, get, len_at, put,
};

/// Streams of which frames wait at the same time; when one more comes, another one's go, each in its turn.
const STREAMS_MAX: usize = 8;

/// Frames in one super-frame; a full one goes.
pub const MERGED_FRAMES_MAX: usize = 64;

/// Longest IP packet, headers included: its length has 16 bits.
const PACKET_LEN_MAX: usize = u16::MAX as usize;

/// Longest headers: Ethernet with a tag, IPv6, TCP with all options.
const HEAD_LEN_MAX: usize = 18 + IPV6_HEADER_LEN + 60;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const IPV4_PROTOCOL_AT: usize = 9;
const IPV6_NEXT_HEADER_AT: usize = 6;
/// Of both ports, which TCP and UDP have at the same place.
const PORTS_LEN: usize = 4;
/// The source address, and behind it the destination.
const IPV4_ADDRESSES_AT: usize = 12;
const IPV6_ADDRESSES_AT: usize = 8;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;

/// Merges the frames of one batch. Each goes to `inject`, which [`push`](Self::push) and [`flush`](Self::flush) take, as
/// it is or as part of a super-frame; all of them when `flush` has returned.
#[derive(Debug)]
pub struct Merger<'f> {
    takes: SuperFrames,
    trains: [Option<Train<'f>>; STREAMS_MAX],
    /// Whose place the next stream gets if none is free.
    next: usize,
}

/// Which super-frames can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuperFrames {
    /// None: each frame goes as it is.
    Nothing,
    /// Of TCP.
    Tcp,
    /// Of TCP and UDP.
    TcpAndUdp,
}

/// What goes to the bridge with one write: `head`, then `payloads`.
#[derive(Debug, Clone, Copy)]
pub struct Injection<'i> {
    /// What is left to the kernel.
    pub offload: Offload,
    /// A whole frame, or the headers of a super-frame.
    pub head: &'i [u8],
    /// The payloads of a super-frame, at most [`MERGED_FRAMES_MAX`].
    pub payloads: &'i [&'i [u8]],
    /// The frames that it stands for.
    pub frames: usize,
    /// Their length together.
    pub frames_len: usize,
}

/// Frames of one stream, in order.
#[derive(Debug)]
struct Train<'f> {
    first: Segment<'f>,
    payloads: [&'f [u8]; MERGED_FRAMES_MAX],
    count: usize,
    payload_len: usize,
    /// FIN and PSH, of the last frame.
    last_flags: u8,
}

/// A frame with a TCP segment or a UDP datagram that is whole and has no IP options.
#[derive(Debug, Clone, Copy)]
struct Segment<'f> {
    frame: &'f [u8],
    ip: Version,
    ip_at: usize,
    transport: Transport,
    transport_at: usize,
    payload_at: usize,
}

enum Class<'f> {
    /// Of this stream.
    Stream(Segment<'f>),
    /// Of no stream that is merged.
    Apart,
    /// Of any stream, for what can be seen.
    Unclear,
}

impl<'f> Merger<'f> {
    /// One that makes these.
    #[must_use]
    pub fn new(takes: SuperFrames) -> Self {
        Self { takes, trains: Default::default(), next: 0 }
    }

    /// Takes the next frame.
    pub fn push(&mut self, frame: &'f [u8], inject: &mut impl FnMut(&Injection<'_>)) {
        let segment = match classify(frame, self.takes) {
            Class::Stream(segment) => segment,
            Class::Apart => return inject(&Injection::single(frame)),
            Class::Unclear => {
                self.flush(inject);
                return inject(&Injection::single(frame));
            }
        };
        let mut trains = self.trains.iter_mut();
        if let Some(place) = trains.find(|train| train.as_ref().is_some_and(|train| train.is_of(&segment))) {
            if let Some(train) = place.as_mut().filter(|train| train.takes(&segment) && segment.may_merge()) {
                train.add(&segment);
                if train.is_complete() {
                    depart(place, inject);
                }
                return;
            }
            depart(place, inject);
        }
        if segment.last_flags() != 0 || !segment.may_merge() {
            return inject(&Injection::single(frame));
        }
        let place = &mut self.trains[self.trains.iter().position(Option::is_none).unwrap_or(self.next)];
        if place.is_some() {
            depart(place, inject);
            self.next = (self.next + 1) % STREAMS_MAX;
        }
        *place = Some(Train::new(segment));
    }

    /// Lets all go that waits.
    pub fn flush(&mut self, inject: &mut impl FnMut(&Injection<'_>)) {
        self.trains.iter_mut().for_each(|place| depart(place, inject));
    }
}

fn depart(place: &mut Option<Train<'_>>, inject: &mut impl FnMut(&Injection<'_>)) {
    if let Some(train) = place.take() {
        train.inject(inject);
    }
}

impl<'f> Train<'f> {
    fn new(first: Segment<'f>) -> Self {
        let mut payloads = [&[][..]; MERGED_FRAMES_MAX];
        payloads[0] = first.payload();
        Self { first, payloads, count: 1, payload_len: first.payload().len(), last_flags: 0 }
    }

    fn is_of(&self, next: &Segment<'_>) -> bool {
        let (first, at) = (&self.first, self.first.ip_at);
        // Ethernet addresses, tag and type; then IP addresses; then ports.
        (first.ip, first.transport) == (next.ip, next.transport)
            && first.frame[..at] == next.frame[..next.ip_at]
            && first.addresses_and_ports() == next.addresses_and_ports()
    }

    /// Whether the next piece of this super-frame would be this one; it is of the same stream.
    fn takes(&self, next: &Segment<'_>) -> bool {
        let len = next.payload().len();
        len <= self.first.payload().len()
            && self.first.payload_at - self.first.ip_at + self.payload_len + len <= PACKET_LEN_MAX
            && self.has_same_ip(next)
            && match self.first.transport {
                Transport::Tcp => self.has_same_tcp(next),
                // Beside the ports there are a length and a checksum, which each piece has for itself.
                Transport::Udp => true,
            }
    }

    fn has_same_ip(&self, next: &Segment<'_>) -> bool {
        let (first, next) = (self.first.packet(), next.packet());
        match self.first.ip {
            Version::V4 => {
                let id = |packet| u16::from_be_bytes(get(packet, IPV4_ID_AT));
                // Version and traffic class; fragment bits, time to live and protocol. The identification counts, as it
                // will again in the pieces.
                first[..IPV4_TOTAL_LEN_AT] == next[..IPV4_TOTAL_LEN_AT]
                    && first[IPV4_FRAGMENT_AT..=IPV4_PROTOCOL_AT] == next[IPV4_FRAGMENT_AT..=IPV4_PROTOCOL_AT]
                    && id(next) == id(first).wrapping_add(self.count as u16)
            }
            Version::V6 => {
                first[..IPV6_PAYLOAD_LEN_AT] == next[..IPV6_PAYLOAD_LEN_AT]
                    && first[IPV6_NEXT_HEADER_AT..IPV6_ADDRESSES_AT]
                        == next[IPV6_NEXT_HEADER_AT..IPV6_ADDRESSES_AT]
            }
        }
    }

    fn has_same_tcp(&self, next: &Segment<'_>) -> bool {
        let (first, next) = (self.first.header(), next.header());
        let sequence = |header| u32::from_be_bytes(get(header, TCP_SEQUENCE_AT));
        let acknowledged = TCP_SEQUENCE_AT + 4;
        // CWR is the first one's, FIN and PSH are the last one's.
        let flags = first[TCP_FLAGS_AT] & !TCP_CWR == next[TCP_FLAGS_AT] & !(TCP_FIN | TCP_PSH);
        flags
            && sequence(next) == sequence(first).wrapping_add(self.payload_len as u32)
            && first[acknowledged..TCP_FLAGS_AT] == next[acknowledged..TCP_FLAGS_AT]
            && first[TCP_FLAGS_AT + 1..TCP_CHECKSUM_AT] == next[TCP_FLAGS_AT + 1..TCP_CHECKSUM_AT]
            && first[TCP_CHECKSUM_AT + 2..] == next[TCP_CHECKSUM_AT + 2..]
    }

    fn add(&mut self, next: &Segment<'f>) {
        self.payloads[self.count] = next.payload();
        self.count += 1;
        self.payload_len += next.payload().len();
        self.last_flags = next.last_flags();
    }

    /// Whether nothing can follow.
    fn is_complete(&self) -> bool {
        self.last_flags != 0
            || self.count == MERGED_FRAMES_MAX
            || self.payloads[self.count - 1].len() < self.first.payload().len()
    }

    fn inject(&self, inject: &mut impl FnMut(&Injection<'_>)) {
        if self.count == 1 {
            return inject(&Injection::single(self.first.frame));
        }
        let Segment { ip, ip_at, transport, transport_at, payload_at, .. } = self.first;
        let mut head = [0; HEAD_LEN_MAX];
        let head = &mut head[..payload_at];
        head.copy_from_slice(&self.first.frame[..payload_at]);
        let (packet_len, segment_len) =
            (payload_at - ip_at + self.payload_len, payload_at - transport_at + self.payload_len);
        let segment = &mut head[transport_at..];
        let kind = match transport {
            Transport::Tcp => {
                let has_cwr = segment[TCP_FLAGS_AT] & TCP_CWR != 0;
                segment[TCP_FLAGS_AT] |= self.last_flags;
                match ip {
                    Version::V4 => SegmentKind::TcpV4 { has_cwr },
                    Version::V6 => SegmentKind::TcpV6 { has_cwr },
                }
            }
            Transport::Udp => {
                put(segment, UDP_LEN_AT, be16(segment_len));
                SegmentKind::Udp
            }
        };
        let pseudo = pseudo_header(&head[ip_at..], ip, transport, segment_len);
        put(head, transport_at + transport.checksum_at(), pseudo.partial());
        match ip {
            Version::V4 => {
                let header = &mut head[ip_at..transport_at];
                put(header, IPV4_TOTAL_LEN_AT, be16(packet_len));
                finish_ipv4(header);
            }
            Version::V6 => put(&mut head[ip_at..], IPV6_PAYLOAD_LEN_AT, be16(segment_len)),
        }
        // They fit: the headers are less than 2^8 bytes long, and the payload is part of a packet.
        let segmentation = Segmentation {
            kind,
            size: self.first.payload().len() as u16,
            head_len: payload_at as u16,
            checksum: PartialChecksum { start: transport_at as u16, offset: transport.checksum_at() as u16 },
        };
        inject(&Injection {
            offload: Offload::Segmentation(segmentation),
            head,
            payloads: &self.payloads[..self.count],
            frames: self.count,
            frames_len: self.count * payload_at + self.payload_len,
        });
    }
}

impl<'f> Segment<'f> {
    fn packet(&self) -> &'f [u8] {
        &self.frame[self.ip_at..]
    }

    fn header(&self) -> &'f [u8] {
        &self.frame[self.transport_at..self.payload_at]
    }

    fn payload(&self) -> &'f [u8] {
        &self.frame[self.payload_at..]
    }

    /// They are next to each other in both versions, for there are no options.
    fn addresses_and_ports(&self) -> &'f [u8] {
        let addresses_at = match self.ip {
            Version::V4 => IPV4_ADDRESSES_AT,
            Version::V6 => IPV6_ADDRESSES_AT,
        };
        &self.frame[self.ip_at + addresses_at..self.transport_at + PORTS_LEN]
    }

    /// Whether it may be part of a super-frame at all: data, nothing that only the receiver should interpret, and sums
    /// that are right, for those of the super-frame will be.
    fn may_merge(&self) -> bool {
        let header = self.header();
        let is_plain = match self.transport {
            Transport::Tcp => {
                let flags = header[TCP_FLAGS_AT];
                flags & TCP_ACK != 0 && flags & !(TCP_ACK | TCP_PSH | TCP_FIN | TCP_ECE | TCP_CWR) == 0
            }
            // Zero means that there is no checksum (RFC 768), and there would be one.
            Transport::Udp => header[UDP_CHECKSUM_AT..] != [0, 0],
        };
        is_plain && !self.payload().is_empty() && self.is_intact()
    }

    fn is_intact(&self) -> bool {
        let segment = &self.frame[self.transport_at..];
        let pseudo = pseudo_header(self.packet(), self.ip, self.transport, segment.len());
        let ip_is_intact = match self.ip {
            Version::V4 => Sum::of(&self.frame[self.ip_at..self.transport_at]).is_valid(),
            Version::V6 => true,
        };
        ip_is_intact && pseudo.plus(Sum::of(segment)).is_valid()
    }

    /// The flags that only the last piece of a super-frame has.
    fn last_flags(&self) -> u8 {
        match self.transport {
            Transport::Tcp => self.header()[TCP_FLAGS_AT] & (TCP_FIN | TCP_PSH),
            Transport::Udp => 0,
        }
    }
}

impl<'i> Injection<'i> {
    /// A frame as it is.
    #[must_use]
    pub const fn single(frame: &'i [u8]) -> Self {
        Self { offload: Offload::Nothing, head: frame, payloads: &[], frames: 1, frames_len: frame.len() }
    }
}

/// What a segment of `len` bytes in this packet has in its sum besides itself.
fn pseudo_header(packet: &[u8], ip: Version, transport: Transport, len: usize) -> Sum {
    let addresses = match ip {
        Version::V4 => &packet[IPV4_ADDRESSES_AT..IPV4_HEADER_LEN],
        Version::V6 => &packet[IPV6_ADDRESSES_AT..IPV6_HEADER_LEN],
    };
    let protocol = match transport {
        Transport::Tcp => PROTOCOL_TCP,
        Transport::Udp => PROTOCOL_UDP,
    };
    Sum::of(addresses).plus(Sum::of(&[0, protocol])).plus(Sum::of(&be16(len)))
}

fn classify(frame: &[u8], takes: SuperFrames) -> Class<'_> {
    if takes == SuperFrames::Nothing {
        return Class::Apart;
    }
    let Ok(parsed) = Frame::parse(frame) else {
        return Class::Unclear;
    };
    let packet = parsed.payload();
    let protocol_at = match parsed.ether_type() {
        ETHER_TYPE_IPV4 => IPV4_PROTOCOL_AT,
        ETHER_TYPE_IPV6 => IPV6_NEXT_HEADER_AT,
        _ => return Class::Unclear,
    };
    let transport = match packet.get(protocol_at) {
        Some(&PROTOCOL_TCP) => Transport::Tcp,
        Some(&PROTOCOL_UDP) if takes == SuperFrames::TcpAndUdp => Transport::Udp,
        Some(&PROTOCOL_UDP) => return Class::Apart,
        Some(_) | None => return Class::Unclear,
    };
    segment(frame, packet, transport).map_or(Class::Unclear, Class::Stream)
}

/// The segment in `packet`, which ends `frame`; none if it is a fragment, has IP options, or if lengths do not agree.
fn segment<'f>(frame: &'f [u8], packet: &'f [u8], transport: Transport) -> Option<Segment<'f>> {
    let (ip, ip_head_len, says_len) = match packet.first()? {
        0x45 if packet.len() >= IPV4_HEADER_LEN => {
            (Version::V4, IPV4_HEADER_LEN, len_at(packet, IPV4_TOTAL_LEN_AT))
        }
        0x60..=0x6f if packet.len() >= IPV6_HEADER_LEN => {
            (Version::V6, IPV6_HEADER_LEN, IPV6_HEADER_LEN + len_at(packet, IPV6_PAYLOAD_LEN_AT))
        }
        _ => return None,
    };
    let is_fragment =
        ip == Version::V4 && u16::from_be_bytes(get(packet, IPV4_FRAGMENT_AT)) & IPV4_FRAGMENT_MASK != 0;
    let segment = packet.get(ip_head_len..)?;
    let head_len = transport.head_len(segment).filter(|len| *len <= segment.len())?;
    let has_len = match transport {
        Transport::Tcp => true,
        Transport::Udp => len_at(segment, UDP_LEN_AT) == segment.len(),
    };
    let is_whole = says_len == packet.len() && has_len && !is_fragment;
    let ip_at = frame.len() - packet.len();
    let transport_at = ip_at + ip_head_len;
    is_whole.then_some(Segment {
        frame,
        ip,
        ip_at,
        transport,
        transport_at,
        payload_at: transport_at + head_len,
    })
}

#[cfg(test)]
mod tests;
