//! Addresses that a name of somebody else's must not lead to: those of the overlay and of the host itself. Otherwise
//! a web page could give its own name to a container, and have the visitor's browser speak to it (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::raw::{CLASS_IN, Raw, TYPE_A, TYPE_AAAA, u16_at};

/// Service bindings, and their parameters with addresses (RFC 9460, section 14).
const TYPE_SVCB: u16 = 64;
const TYPE_HTTPS: u16 = 65;
const KEY_V4_HINT: u16 = 4;
const KEY_V6_HINT: u16 = 6;

/// The one name that is to lead to the host itself (RFC 6761, section 6.3).
const LOCALHOST: &[u8] = b"localhost";

/// Whether a record of `message` leads into `private` or to the host itself.
pub(crate) fn is_rebinding(message: &Raw<'_>, private: &[IpNet]) -> bool {
    if message.labels().last().is_some_and(|label| label.eq_ignore_ascii_case(LOCALHOST)) {
        return false;
    }
    let records = message.records().iter().filter(|record| record.class == CLASS_IN);
    let mut addresses = records.flat_map(|record| addresses(record.kind, message.data(record)));
    addresses.any(|address| is_of_the_host(address) || private.iter().any(|range| range.contains(&address)))
}

/// The addresses in the data of a record.
fn addresses(kind: u16, data: &[u8]) -> Vec<IpAddr> {
    match kind {
        TYPE_A => v4(data).collect(),
        TYPE_AAAA => v6(data).collect(),
        TYPE_SVCB | TYPE_HTTPS => hints(data).unwrap_or_default(),
        _other => Vec::new(),
    }
}

/// The address hints of a service binding, which browsers use in place of addresses (RFC 9460, section 7.3). None if
/// it is broken, as its reader will find, too.
fn hints(data: &[u8]) -> Option<Vec<IpAddr>> {
    let (_priority, mut rest) = data.split_at_checked(2)?;
    loop {
        let (len, after) = rest.split_first()?;
        rest = after.get(usize::from(*len)..)?;
        if *len == 0 {
            break;
        }
    }
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (key, len) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        let value = rest.get(4..4 + len)?;
        rest = &rest[4 + len..];
        match key {
            KEY_V4_HINT => found.extend(v4(value)),
            KEY_V6_HINT => found.extend(v6(value)),
            _other => {}
        }
    }
    Some(found)
}

fn v4(data: &[u8]) -> impl Iterator<Item = IpAddr> {
    data.as_chunks::<4>().0.iter().map(|octets| Ipv4Addr::from(*octets).into())
}

/// An address that stands for an IPv4 address (RFC 4291, section 2.5.5.2) is that.
fn v6(data: &[u8]) -> impl Iterator<Item = IpAddr> {
    data.as_chunks::<16>().0.iter().map(|octets| Ipv6Addr::from(*octets).to_canonical())
}

/// Loopback, link-local, and the unspecified addresses, which Linux takes for loopback.
const fn is_of_the_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, AAAA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;

    fn judge(name: &str, addresses: &[&str]) -> bool {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        let name = Name::from_ascii(name).unwrap();
        message.add_query(Query::query(name.clone(), RecordType::A));
        for address in addresses {
            let data = match address.parse().unwrap() {
                IpAddr::V4(v4) => RData::A(A(v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
            };
            message.add_additional(Record::from_rdata(name.clone(), 1, data));
        }
        let bytes = message.to_vec().unwrap();
        let private = ["10.32.0.0/12".parse().unwrap(), "fd00:12::/32".parse().unwrap()];
        is_rebinding(&Raw::read(&bytes).unwrap(), &private)
    }

    #[test]
    fn a_name_may_lead_anywhere_but_into_the_overlay_and_to_the_host() {
        for good in ["192.0.2.1", "10.48.0.1", "10.31.255.255", "2001:db8::1", "fd00:13::1"] {
            assert!(!judge("www.example.com.", &[good]), "{good}");
        }
        let bad = [
            "10.32.0.1",
            "10.47.255.255",
            "127.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.32.53",
            "fd00:12::1",
            "::1",
            "::",
            "fe80::1",
            "::ffff:10.32.0.1",
            "::ffff:127.0.0.1",
        ];
        for bad in bad {
            assert!(judge("www.example.com.", &[bad]), "{bad}");
            assert!(judge("www.example.com.", &["192.0.2.1", bad]), "{bad} behind a good one");
        }
        assert!(!judge("LocalHost.", &["127.0.0.1", "::1"]));
        assert!(judge("localhost.example.com.", &["127.0.0.1"]));
    }

    #[test]
    fn hints_of_service_bindings_are_addresses_too() {
        let private = [10, 32, 0, 1];
        let v4 =
            [&[0, 1, 3, b'w', b'w', b'w', 0, 0, 1, 0, 2, b'h', b'2', 0, 4, 0, 8, 192, 0, 2, 1][..], &private]
                .concat();
        let expected: Vec<IpAddr> = vec![[192, 0, 2, 1].into(), private.into()];
        assert_eq!(addresses(TYPE_HTTPS, &v4), expected);
        let v6 = [&[0, 1, 0, 0, 6, 0, 16][..], &Ipv6Addr::LOCALHOST.octets()].concat();
        assert_eq!(addresses(TYPE_SVCB, &v6), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        for len in 0..v4.len() {
            assert!(!addresses(TYPE_HTTPS, &v4[..len]).contains(&private.into()), "{len}");
        }
    }
}
