//! Groups of IPv4 and IPv6: who has members of which, and which frames tell of members. Owns no way to anybody; the
//! [`Tables`](super::Tables) turn this into ways.

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::ethernet::Frame;
use mesh_wire::{MacAddr, PeerId};

/// Most peers to which a frame for a group goes as so many copies. One for more is flooded: the tree makes a copy only where
/// its branches part.
pub const GROUP_COPIES_MAX: usize = 16;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Where an IPv4 header has its protocol (RFC 791, section 3.1), and which is IGMP's.
const IPV4_PROTOCOL: usize = 9;
const IGMP: u8 = 2;

/// Where an IPv6 header has the next one's kind, and where it ends (RFC 8200, section 3).
const IPV6_NEXT_HEADER: usize = 6;
const IPV6_HEADER_LEN: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ICMPV6: u8 = 58;

/// Query, reports of both versions, done (RFC 3810, section 5; RFC 2710, section 3.1).
const MLD_TYPES: [u8; 4] = [130, 131, 132, 143];

/// What peers have said of the groups on their bridges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Those that want the frames of their own groups alone. All others want those of every group, or have said nothing.
    pub selective: BTreeSet<PeerId>,
    /// The selective ones that have members of each group.
    pub members: BTreeMap<MacAddr, BTreeSet<PeerId>>,
}

/// Whether `frame` asks for members of groups, or tells of them: IGMP (RFC 3376) or MLD (RFC 3810).
///
/// The bridges of all hosts ask for themselves. A host that hears of another's membership in the older versions of both
/// says nothing of its own, and its bridge would take it for no member.
#[must_use]
pub fn tells_of_members(frame: &Frame<'_>) -> bool {
    let packet = frame.payload();
    match frame.ether_type() {
        ETHERTYPE_IPV4 => packet.get(IPV4_PROTOCOL) == Some(&IGMP),
        ETHERTYPE_IPV6 => is_mld(packet).unwrap_or(false),
        _ => false,
    }
}

/// A message of MLD stands behind a hop-by-hop header with a router alert (RFC 3810, section 5).
fn is_mld(packet: &[u8]) -> Option<bool> {
    if *packet.get(IPV6_NEXT_HEADER)? != HOP_BY_HOP || *packet.get(IPV6_HEADER_LEN)? != ICMPV6 {
        return Some(false);
    }
    let len = (usize::from(*packet.get(IPV6_HEADER_LEN + 1)?) + 1) * 8;
    Some(MLD_TYPES.contains(packet.get(IPV6_HEADER_LEN + len)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: u16, packet: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(packet);
        bytes
    }

    fn tells(bytes: &[u8]) -> bool {
        tells_of_members(&Frame::parse(bytes).expect("a header"))
    }

    fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; IPV6_HEADER_LEN];
        packet[IPV6_NEXT_HEADER] = next;
        packet.extend(rest);
        frame(ETHERTYPE_IPV6, &packet)
    }

    #[test]
    fn igmp_and_mld_are_known_and_nothing_else_is() {
        let mut packet = [0; 24];
        packet[IPV4_PROTOCOL] = IGMP;
        assert!(tells(&frame(ETHERTYPE_IPV4, &packet)));
        assert!(!tells(&frame(0x88b5, &packet)));
        packet[IPV4_PROTOCOL] = 17;
        assert!(!tells(&frame(ETHERTYPE_IPV4, &packet)));

        let with_alert = |message| [ICMPV6, 0, 5, 2, 0, 0, 1, 0, message, 0];
        for message in MLD_TYPES {
            assert!(tells(&ipv6(HOP_BY_HOP, &with_alert(message))));
        }
        assert!(!tells(&ipv6(HOP_BY_HOP, &with_alert(135))), "neighbour discovery");
        assert!(!tells(&ipv6(ICMPV6, &[135, 0])));
        let whole = ipv6(HOP_BY_HOP, &with_alert(143));
        assert!((14..whole.len() - 1).all(|len| !tells(&whole[..len])), "cut short");
    }
}
