//! Addresses that each host has for itself, the same on all of them, such as that of the name server: what is from or to one
//! stays on its host. Owns which frames those are.

use std::net::Ipv4Addr;

use mesh_wire::ethernet::Frame;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;

/// Where an IPv4 packet has its source and its destination (RFC 791, section 3.1).
const IPV4_ADDRESSES: [usize; 2] = [12, 16];

/// Where an ARP packet over Ethernet has the protocol addresses of its sender and of its target (RFC 826).
const ARP_ADDRESSES: [usize; 2] = [14, 24];

/// Whether `frame` is from or to one of `addresses`, or asks for one, or announces one.
#[must_use]
pub fn is_node_local(frame: &Frame<'_>, addresses: &[Ipv4Addr]) -> bool {
    let places = match frame.ether_type() {
        _ if addresses.is_empty() => return false,
        ETHERTYPE_IPV4 => IPV4_ADDRESSES,
        ETHERTYPE_ARP => ARP_ADDRESSES,
        _ => return false,
    };
    let at =
        |place: usize| frame.payload().get(place..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    places.into_iter().filter_map(at).any(|address| addresses.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 32, 53);
    const OTHER: Ipv4Addr = Ipv4Addr::new(169, 254, 32, 54);

    fn frame(ether_type: u16, places: [usize; 2], addresses: [Ipv4Addr; 2]) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        bytes.extend(ether_type.to_be_bytes());
        bytes.resize(14 + 28, 0);
        for (place, address) in places.into_iter().zip(addresses) {
            bytes[14 + place..][..4].copy_from_slice(&address.octets());
        }
        bytes
    }

    fn is_local(bytes: &[u8]) -> bool {
        is_node_local(&Frame::parse(bytes).expect("a header"), &[LOCAL])
    }

    #[test]
    fn packets_and_questions_of_either_direction_are_known_and_others_are_not() {
        for (ether_type, places) in [(ETHERTYPE_IPV4, IPV4_ADDRESSES), (ETHERTYPE_ARP, ARP_ADDRESSES)] {
            assert!(is_local(&frame(ether_type, places, [LOCAL, OTHER])));
            assert!(is_local(&frame(ether_type, places, [OTHER, LOCAL])));
            assert!(!is_local(&frame(ether_type, places, [OTHER, OTHER])));
            let cut = &frame(ether_type, places, [OTHER, LOCAL])[..14 + places[1] + 3];
            assert!(!is_local(cut));
        }
        assert!(!is_local(&frame(0x86dd, IPV4_ADDRESSES, [LOCAL, LOCAL])));
    }

    #[test]
    fn without_such_addresses_nothing_is_looked_at() {
        let bytes = frame(ETHERTYPE_IPV4, IPV4_ADDRESSES, [LOCAL, LOCAL]);
        assert!(!is_node_local(&Frame::parse(&bytes).expect("a header"), &[]));
    }
}
