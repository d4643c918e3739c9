//! What this router answers for: its domain, and the reverse zones of its address ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::name::{Name, NameError};

/// In which order the addresses of a name are given. Both shuffle, so that clients spread.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// At random.
    #[default]
    Shuffled,
    /// Those on this router's host first, both groups at random.
    LocalFirst,
}

/// The zones of a router and how it answers in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The domain; every registered name lies in it.
    pub domain: Name,
    /// Address ranges whose reverse zones are answered for.
    pub ranges: Vec<IpNet>,
    /// How long an answer may be kept, in seconds.
    pub ttl: u32,
    /// How long a denial may be kept, in seconds (RFC 2308, section 5).
    pub negative_ttl: u32,
    /// Where the name server itself is reached: the addresses of `ns.` and the domain.
    pub servers: Vec<IpAddr>,
    /// In which order addresses are given.
    pub order: Order,
}

impl Zone {
    /// The name of the server in NS and SOA records.
    pub fn server_name(&self) -> Result<Name, NameError> {
        let label: Name = "ns".parse()?;
        label.below(&self.domain)
    }

    /// The apex of the zone that `name` lies in, if it is one of ours.
    #[must_use]
    pub fn apex(&self, name: &Name) -> Option<Name> {
        if name.is_within(&self.domain) {
            return Some(self.domain.clone());
        }
        let reverse = Reverse::of(name)?;
        self.ranges.iter().find_map(|range| reverse.apex_in(range, name))
    }

    /// The reverse name of `address` and the apex of its zone, if it lies in one of the ranges.
    #[must_use]
    pub(crate) fn reverse(&self, address: IpAddr) -> Option<(Name, Name)> {
        let range = self.ranges.iter().find(|range| range.contains(&address))?;
        let name = reverse_name(address);
        let apex = Reverse::of(&name)?.apex_in(range, &name)?;
        Some((name, apex))
    }
}

/// A name under `in-addr.arpa` or `ip6.arpa`, by what stands before that.
struct Reverse {
    /// How many bits a label stands for, 8 or 4.
    label_bits: usize,
    /// How many labels an address has.
    label_count: usize,
    /// The values of the labels from the right, as far as they are values.
    digits: Vec<u8>,
}

impl Reverse {
    fn of(name: &Name) -> Option<Self> {
        let labels: Vec<&[u8]> = name.labels().collect();
        let (labels, label_bits, label_count) = match labels.as_slice() {
            [labels @ .., b"in-addr", b"arpa"] => (labels, 8, 4),
            [labels @ .., b"ip6", b"arpa"] => (labels, 4, 32),
            _elsewhere => return None,
        };
        let value = |label: &&[u8]| digit(label, label_bits);
        let digits = labels.iter().rev().take(label_count).map_while(value).collect();
        Some(Self { label_bits, label_count, digits })
    }

    /// The apex of the zone of `range` that `name`, which this was read from, lies in. Zones end where labels do
    /// (RFC 1035, section 3.5): a range that ends inside one has several.
    fn apex_in(&self, range: &IpNet, name: &Name) -> Option<Name> {
        let bits = match range {
            IpNet::V4(_) => 32,
            IpNet::V6(_) => 128,
        };
        if bits != self.label_bits * self.label_count {
            return None;
        }
        let count = usize::from(range.prefix_len()).div_ceil(self.label_bits).max(1);
        let digits = self.digits.get(..count)?;
        let mut octets = [0_u8; 16];
        for (position, digit) in digits.iter().enumerate() {
            let bit = position * self.label_bits;
            octets[bit / 8] |= digit << (8 - self.label_bits - bit % 8);
        }
        let [a, b, c, d, ..] = octets;
        let address = match range {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(octets)),
        };
        range.contains(&address).then(|| name.suffix(count + 2))
    }
}

/// The value of a label of a reverse name, if it is written as it must be.
fn digit(label: &[u8], label_bits: usize) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    if label_bits == 4 {
        return if label.len() == 1 { u8::from_str_radix(text, 16).ok() } else { None };
    }
    let plain = label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label[0] != b'0');
    if plain { text.parse().ok() } else { None }
}

/// The name under which pointers to the names of `address` stand (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn reverse_name(address: IpAddr) -> Name {
    let text = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let labels: String = nibbles.map(|nibble| format!("{nibble:x}.")).collect();
            format!("{labels}ip6.arpa")
        }
    };
    text.parse().expect("reverse names have short labels and at most 72 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(ranges: &[&str]) -> Zone {
        Zone {
            domain: "mesh.internal".parse().unwrap(),
            ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            ttl: 1,
            negative_ttl: 1,
            servers: Vec::new(),
            order: Order::Shuffled,
        }
    }

    fn apex(zone: &Zone, name: &str) -> Option<String> {
        zone.apex(&name.parse().unwrap()).map(|name| name.to_string())
    }

    #[test]
    fn a_range_that_ends_inside_an_octet_has_a_zone_for_each_value() {
        let zone = zone(&["10.32.0.0/12"]);
        assert_eq!(apex(&zone, "1.2.37.10.in-addr.arpa").as_deref(), Some("37.10.in-addr.arpa."));
        assert_eq!(apex(&zone, "47.10.in-addr.arpa").as_deref(), Some("47.10.in-addr.arpa."));
        assert_eq!(apex(&zone, "odd.47.10.in-addr.arpa").as_deref(), Some("47.10.in-addr.arpa."));
        for foreign in
            ["48.10.in-addr.arpa", "10.in-addr.arpa", "037.10.in-addr.arpa", "in-addr.arpa", "37.10.arpa"]
        {
            assert_eq!(apex(&zone, foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_range_smaller_than_a_zone_answers_for_its_addresses_only() {
        let zone = zone(&["192.0.2.64/26"]);
        assert_eq!(apex(&zone, "65.2.0.192.in-addr.arpa").as_deref(), Some("65.2.0.192.in-addr.arpa."));
        assert_eq!(apex(&zone, "1.2.0.192.in-addr.arpa"), None);
        assert_eq!(apex(&zone, "2.0.192.in-addr.arpa"), None);
    }

    #[test]
    fn reverse_names_of_both_families_lie_in_their_zones() {
        let zone = zone(&["10.32.0.0/12", "fd00:12::/30"]);
        let (name, apex) = zone.reverse("10.33.0.5".parse().unwrap()).unwrap();
        assert_eq!(
            (name.to_string(), apex.to_string()),
            ("5.0.33.10.in-addr.arpa.".to_owned(), "33.10.in-addr.arpa.".to_owned())
        );
        let (name, apex) = zone.reverse("fd00:12::1".parse().unwrap()).unwrap();
        assert_eq!(apex.to_string(), "2.1.0.0.0.0.d.f.ip6.arpa.");
        assert!(name.is_within(&apex) && name.label_count() == 34);
        assert_eq!(zone.reverse("10.48.0.1".parse().unwrap()), None);
        assert_eq!(zone.reverse("fd00:16::1".parse().unwrap()), None);
    }
}
