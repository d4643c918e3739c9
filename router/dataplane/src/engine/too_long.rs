//! What becomes of a frame that is too long for the path to the next router: who sent it is told, if the protocol has a
//! word for that (RFC 1191, RFC 8201), and the frame is dropped; if it has none, the frame may travel in parts. Owns the
//! ICMP messages, and the greatest segment size of TCP that keeps it from coming to that.

use mesh_wire::ethernet::Frame;

use super::checksum::Sum;
use super::offload::Offload;
use super::segment::{
    IPV4_FRAGMENT_AT, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IPV6_PAYLOAD_LEN_AT, TCP_CHECKSUM_AT,
    TCP_DATA_OFFSET_AT, TCP_FLAGS_AT, TCP_HEADER_LEN, be16, get, len_at, put,
};

/// The least MTU that an IPv4 sender is told: what each host takes (RFC 791). Packets up to it go in parts.
const IPV4_MTU_MIN: usize = 576;

/// The same for IPv6 (RFC 8200, section 5), whose hosts do not believe in less.
const IPV6_MTU_MIN: usize = 1280;

/// Longest ICMP message over IPv4, IP header included (RFC 1812, section 4.3.2.3)...
const ICMPV4_LEN_MAX: usize = 576;

/// ...and over IPv6 (RFC 4443, section 2.4).
const ICMPV6_LEN_MAX: usize = 1280;

/// Longest frame that holds an answer.
pub const ANSWER_LEN_MAX: usize = 18 + ICMPV6_LEN_MAX;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const IPV4_DONT_FRAGMENT: u16 = 0x4000;
const IPV4_OFFSET_MASK: u16 = 0x1fff;
const IPV4_SOURCE: std::ops::Range<usize> = 12..16;
const IPV4_DESTINATION: std::ops::Range<usize> = 16..20;
const IPV6_SOURCE: std::ops::Range<usize> = 8..24;
const IPV6_DESTINATION: std::ops::Range<usize> = 24..40;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 64;
const TCP_SYN: u8 = 0x02;
const TCP_OPTION_END: u8 = 0;
const TCP_OPTION_PADDING: u8 = 1;
const TCP_OPTION_MSS: u8 = 2;

/// What is to be done with a frame that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// It goes in parts: its sender asked for no more, or cannot be told.
    Parts,
    /// The sender is to be told: [`answer`] makes the words.
    Tell,
}

/// What is to be done with `frame`, whose destination takes IP packets of `mtu` bytes.
#[must_use]
pub fn judge(frame: &[u8], mtu: usize) -> TooLong {
    let Ok(parsed) = Frame::parse(frame) else { return TooLong::Parts };
    let is_told = !parsed.destination().is_group()
        && match (parsed.ether_type(), parsed.payload()) {
            (ETHER_TYPE_IPV4, packet) => packet.len() > mtu.max(IPV4_MTU_MIN) && ipv4_may_be_told(packet),
            (ETHER_TYPE_IPV6, packet) => packet.len() > mtu.max(IPV6_MTU_MIN) && ipv6_may_be_told(packet),
            _ => false,
        };
    if is_told { TooLong::Tell } else { TooLong::Parts }
}

/// Appends the frame that tells the sender of `frame`, of which [`judge`] has said so, in the name of its destination.
pub fn answer(frame: &[u8], mtu: usize, out: &mut Vec<u8>) {
    let Ok(parsed) = Frame::parse(frame) else { return };
    let packet = parsed.payload();
    let head = &frame[..frame.len() - packet.len()];
    out.extend_from_slice(parsed.source().as_bytes());
    out.extend_from_slice(parsed.destination().as_bytes());
    // The type, and the tag before it.
    out.extend_from_slice(&head[12..]);
    match parsed.ether_type() {
        ETHER_TYPE_IPV4 => ipv4_answer(packet, mtu.max(IPV4_MTU_MIN), out),
        _ => ipv6_answer(packet, mtu.max(IPV6_MTU_MIN), out),
    }
}

/// Whether `frame` is a TCP SYN.
#[must_use]
pub fn is_syn(frame: &[u8]) -> bool {
    syn(frame).is_some()
}

/// Lowers the greatest segment size that `frame` announces to what fits into `mtu`, if it is a TCP SYN (RFC 9293, section
/// 3.7.1). The checksum is kept right, or left to be completed as `offload` says.
pub fn clamp_segment_size(frame: &mut [u8], offload: Offload, mtu: usize) {
    let Some((tcp_at, head_len, floor)) = syn(frame) else { return };
    let segment_size_max = mtu.saturating_sub(head_len).max(floor);
    let tcp = &mut frame[tcp_at..];
    let Some(at) = segment_size_at(tcp) else { return };
    let announced = get(tcp, at);
    if usize::from(u16::from_be_bytes(announced)) <= segment_size_max {
        return;
    }
    let clamped = be16(segment_size_max);
    put(tcp, at, clamped);
    if offload == Offload::Nothing {
        // RFC 1624, equation 3; an option at an odd place has its bytes in two words.
        let swap = |bytes: [u8; 2]| if at.is_multiple_of(2) { bytes } else { [bytes[1], bytes[0]] };
        let [a, b] = get(tcp, TCP_CHECKSUM_AT);
        let sum = Sum::of(&[!a, !b]).minus(Sum::of(&swap(announced))).plus(Sum::of(&swap(clamped)));
        put(tcp, TCP_CHECKSUM_AT, sum.checksum());
    }
}

fn ipv4_may_be_told(packet: &[u8]) -> bool {
    if packet.len() < IPV4_HEADER_LEN || packet[0] >> 4 != 4 || ipv4_head_len(packet) > packet.len() {
        return false;
    }
    let fragment = u16::from_be_bytes(get(packet, IPV4_FRAGMENT_AT));
    let is_error = packet[9] == PROTOCOL_ICMP
        && packet.get(ipv4_head_len(packet)).is_some_and(|kind| !matches!(kind, 0 | 8 | 13 | 14));
    fragment & IPV4_DONT_FRAGMENT != 0
        && fragment & IPV4_OFFSET_MASK == 0
        && !is_error
        && is_ipv4_host(&packet[IPV4_SOURCE])
        && is_ipv4_host(&packet[IPV4_DESTINATION])
}

fn is_ipv4_host(address: &[u8]) -> bool {
    address.first().is_some_and(|first| (1..224).contains(first) && *first != 127)
}

fn ipv4_head_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 0xf).max(5) * 4
}

fn ipv6_may_be_told(packet: &[u8]) -> bool {
    if packet.len() < IPV6_HEADER_LEN || packet[0] >> 4 != 6 {
        return false;
    }
    // An error message has a type below 128; one behind an extension header is told, which is no harm.
    let is_error =
        packet[6] == PROTOCOL_ICMPV6 && packet.get(IPV6_HEADER_LEN).is_some_and(|kind| *kind < 128);
    !is_error && is_ipv6_host(&packet[IPV6_SOURCE]) && is_ipv6_host(&packet[IPV6_DESTINATION])
}

fn is_ipv6_host(address: &[u8]) -> bool {
    address[0] != 0xff && address.iter().any(|byte| *byte != 0)
}

/// "Fragmentation needed" (RFC 792, RFC 1191, section 4).
fn ipv4_answer(packet: &[u8], mtu: usize, out: &mut Vec<u8>) {
    let quoted = &packet[..packet.len().min(ICMPV4_LEN_MAX - IPV4_HEADER_LEN - 8)];
    let len = IPV4_HEADER_LEN + 8 + quoted.len();
    let start = out.len();
    out.extend_from_slice(&[0x45, 0]);
    out.extend_from_slice(&be16(len));
    out.extend_from_slice(&[0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL_ICMP, 0, 0]);
    out.extend_from_slice(&packet[IPV4_DESTINATION]);
    out.extend_from_slice(&packet[IPV4_SOURCE]);
    let sum = Sum::of(&out[start..]).checksum();
    put(&mut out[start..], 10, sum);
    let icmp = out.len();
    out.extend_from_slice(&[3, 4, 0, 0, 0, 0]);
    out.extend_from_slice(&be16(mtu));
    out.extend_from_slice(quoted);
    let sum = Sum::of(&out[icmp..]).checksum();
    put(&mut out[icmp..], 2, sum);
}

/// "Packet too big" (RFC 4443, section 3.2).
fn ipv6_answer(packet: &[u8], mtu: usize, out: &mut Vec<u8>) {
    let quoted = &packet[..packet.len().min(ICMPV6_LEN_MAX - IPV6_HEADER_LEN - 8)];
    let len = 8 + quoted.len();
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&be16(len));
    out.extend_from_slice(&[PROTOCOL_ICMPV6, HOP_LIMIT]);
    out.extend_from_slice(&packet[IPV6_DESTINATION]);
    out.extend_from_slice(&packet[IPV6_SOURCE]);
    let icmp = out.len();
    out.extend_from_slice(&[2, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&be16(mtu));
    out.extend_from_slice(quoted);
    let addresses = Sum::of(&packet[IPV6_SOURCE.start..IPV6_DESTINATION.end]);
    let pseudo = addresses.plus(Sum::of(&be16(len))).plus(Sum::of(&[0, PROTOCOL_ICMPV6]));
    let sum = pseudo.plus(Sum::of(&out[icmp..])).checksum();
    put(&mut out[icmp..], 2, sum);
}

/// Where the TCP header of a SYN starts, how long IP's and TCP's headers are without options, and the least segment size
/// that makes sense.
fn syn(frame: &[u8]) -> Option<(usize, usize, usize)> {
    let parsed = Frame::parse(frame).ok()?;
    let packet = parsed.payload();
    let ip_at = frame.len() - packet.len();
    let (ip_len, plain_len, mtu_min) = match parsed.ether_type() {
        ETHER_TYPE_IPV4 if packet.len() >= IPV4_HEADER_LEN && packet[9] == PROTOCOL_TCP => {
            let is_first = u16::from_be_bytes(get(packet, IPV4_FRAGMENT_AT)) & IPV4_OFFSET_MASK == 0;
            (is_first.then(|| ipv4_head_len(packet))?, IPV4_HEADER_LEN, IPV4_MTU_MIN)
        }
        ETHER_TYPE_IPV6 if packet.len() >= IPV6_HEADER_LEN && packet[6] == PROTOCOL_TCP => {
            let is_whole = len_at(packet, IPV6_PAYLOAD_LEN_AT) <= packet.len();
            (is_whole.then_some(IPV6_HEADER_LEN)?, IPV6_HEADER_LEN, IPV6_MTU_MIN)
        }
        _ => return None,
    };
    let tcp = packet.get(ip_len..)?;
    let is_syn = tcp.len() >= TCP_HEADER_LEN && tcp[TCP_FLAGS_AT] & TCP_SYN != 0;
    let head_len = plain_len + TCP_HEADER_LEN;
    is_syn.then_some((ip_at + ip_len, head_len, mtu_min - head_len))
}

/// Where in a TCP header the value of the option stands that announces the greatest segment size.
fn segment_size_at(tcp: &[u8]) -> Option<usize> {
    let end = (usize::from(tcp[TCP_DATA_OFFSET_AT] >> 4) * 4).min(tcp.len());
    let mut at = TCP_HEADER_LEN;
    while at < end {
        match tcp[at] {
            TCP_OPTION_END => return None,
            TCP_OPTION_PADDING => at += 1,
            kind => {
                let len = usize::from(*tcp.get(at + 1)?);
                if kind == TCP_OPTION_MSS && len == 4 && at + 4 <= end {
                    return Some(at + 2);
                }
                // Two bytes are the least; less would never end.
                at += len.max(2);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
