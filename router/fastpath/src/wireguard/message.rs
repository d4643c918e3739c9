//! WireGuard's family of generic netlink, byte for byte (include/uapi/linux/wireguard.h). Owns the coding of the few requests and answers that there are; sends nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Key, Peer, SecretKey};
use crate::genl::{Attributes, Request, attribute, attributes, fixed};

/// The family, and the version of its commands.
pub(super) const FAMILY: (&str, u8) = ("wireguard", 1);

const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;

const WGDEVICE_A_IFINDEX: u16 = 1;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_FLAGS: u16 = 5;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_PEERS: u16 = 8;
const WGDEVICE_F_REPLACE_PEERS: u32 = 1;

const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_PRESHARED_KEY: u16 = 2;
const WGPEER_A_FLAGS: u16 = 3;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGPEER_F_REMOVE_ME: u32 = 1;

const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

/// On an attribute of attributes; this family wants it.
const NLA_F_NESTED: u16 = 0x8000;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A device as the kernel describes it.
#[derive(Default)]
pub(super) struct Described {
    pub(super) private: Option<SecretKey>,
    pub(super) public: Option<Key>,
    pub(super) port: u16,
    pub(super) peers: BTreeMap<Key, DescribedPeer>,
}

/// A peer of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DescribedPeer {
    /// The address that it may use.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) secret: Option<SecretKey>,
}

/// Asks for all of a device.
pub(super) fn describe(device: u32) -> Request {
    request(WG_CMD_GET_DEVICE, of(device))
}

/// Gives a device its key and its UDP port, and takes all peers from it.
pub(super) fn set_key(device: u32, key: &SecretKey, port: u16) -> Request {
    let attributes = of(device)
        .with(WGDEVICE_A_PRIVATE_KEY, &key.0)
        .with(WGDEVICE_A_FLAGS, &WGDEVICE_F_REPLACE_PEERS.to_ne_bytes())
        .with(WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes());
    request(WG_CMD_SET_DEVICE, attributes)
}

/// Adds a peer, or alters one. The kernel finds its address by itself once packets come, so that it is told it only where
/// there is news.
pub(super) fn set_peer(device: u32, peer: &Peer, tell_endpoint: bool) -> Request {
    let allowed = Attributes::default()
        .with(WGALLOWEDIP_A_FAMILY, &AF_INET.to_ne_bytes())
        .with(WGALLOWEDIP_A_IPADDR, &peer.address.octets())
        .with(WGALLOWEDIP_A_CIDR_MASK, &[32]);
    let mut described = Attributes::default()
        .with(WGPEER_A_PUBLIC_KEY, &peer.key)
        .with(WGPEER_A_PRESHARED_KEY, &peer.secret.0);
    if tell_endpoint {
        described = described.with(WGPEER_A_ENDPOINT, &socket_address(peer.endpoint));
    }
    let described = described.with_nested(WGPEER_A_ALLOWEDIPS | NLA_F_NESTED, &list_of(&allowed));
    of_one_peer(device, &described)
}

/// Removes a peer.
pub(super) fn remove_peer(device: u32, key: &Key) -> Request {
    let described = Attributes::default()
        .with(WGPEER_A_PUBLIC_KEY, key)
        .with(WGPEER_A_FLAGS, &WGPEER_F_REMOVE_ME.to_ne_bytes());
    of_one_peer(device, &described)
}

fn of_one_peer(device: u32, peer: &Attributes) -> Request {
    request(WG_CMD_SET_DEVICE, of(device).with_nested(WGDEVICE_A_PEERS | NLA_F_NESTED, &list_of(peer)))
}

fn of(device: u32) -> Attributes {
    Attributes::default().with(WGDEVICE_A_IFINDEX, &device.to_ne_bytes())
}

/// A list of one.
fn list_of(entry: &Attributes) -> Attributes {
    Attributes::default().with_nested(NLA_F_NESTED, entry)
}

const fn request(command: u8, attributes: Attributes) -> Request {
    Request { command, header: None, attributes }
}

/// Takes in a part of a description: the kernel sends a device with many peers in several.
pub(super) fn read_device(part: &[u8], into: &mut Described) {
    for (kind, value) in attributes(part) {
        match kind {
            WGDEVICE_A_PRIVATE_KEY => into.private = value.try_into().ok().map(SecretKey),
            WGDEVICE_A_PUBLIC_KEY => into.public = value.try_into().ok(),
            WGDEVICE_A_LISTEN_PORT => into.port = value.try_into().map_or(0, u16::from_ne_bytes),
            WGDEVICE_A_PEERS => attributes(value).for_each(|(_, peer)| read_peer(peer, into)),
            _ => {}
        }
    }
}

fn read_peer(peer: &[u8], into: &mut Described) {
    let Some(key) = attribute(peer, WGPEER_A_PUBLIC_KEY).and_then(|key| key.try_into().ok()) else { return };
    let allowed = attribute(peer, WGPEER_A_ALLOWEDIPS).and_then(|all| attributes(all).next());
    let address = allowed.and_then(|(_, first)| fixed::<4>(first, WGALLOWEDIP_A_IPADDR).map(Ipv4Addr::from));
    let secret = fixed(peer, WGPEER_A_PRESHARED_KEY).map(SecretKey);
    let known = into.peers.entry(key).or_default();
    // The later parts of one with many addresses tell its key, and no more.
    known.address = known.address.or(address);
    known.secret = known.secret.take().or(secret);
}

/// struct sockaddr_in or sockaddr_in6.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&AF_INET.to_ne_bytes()[..], &port, &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [&AF_INET6.to_ne_bytes()[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat(),
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn hex(request: &Request) -> String {
        let bytes = request.attributes.as_bytes();
        bytes
            .chunks(4)
            .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect::<Vec<String>>()
            .join(" ")
    }

    fn peer(endpoint: &str) -> Peer {
        Peer {
            key: [0xaa; 32],
            secret: SecretKey([0xbb; 32]),
            endpoint: endpoint.parse().expect("an address and a port"),
            address: Ipv4Addr::new(240, 1, 2, 3),
        }
    }

    #[test]
    fn a_device_gets_its_key_and_port_and_loses_its_peers() {
        let wanted = format!(
            "08000100 05000000 24000300 {} 08000500 01000000 06000600 811a0000",
            ["cccccccc"; 8].join(" ")
        );
        assert_eq!(hex(&set_key(5, &SecretKey([0xcc; 32]), 6785)), wanted);
    }

    #[test]
    fn a_peer_is_set_with_one_address_and_its_endpoint_only_where_that_is_news() {
        let (key, secret) = (["aaaaaaaa"; 8].join(" "), ["bbbbbbbb"; 8].join(" "));
        let allowed = "20000980 1c000080 06000100 02000000 08000200 f0010203 05000300 20000000";
        assert_eq!(
            hex(&set_peer(5, &peer("192.0.2.9:6785"), true)),
            format!(
                "08000100 05000000 84000880 80000080 24000100 {key} \
                 24000200 {secret} 14000400 02001a81 c0000209 00000000 00000000 {allowed}"
            )
        );
        assert_eq!(
            hex(&set_peer(5, &peer("192.0.2.9:6785"), false)),
            format!(
                "08000100 05000000 70000880 6c000080 24000100 {key} \
                 24000200 {secret} {allowed}"
            )
        );
        let six = hex(&set_peer(5, &peer("[2001:db8::9]:6785"), true));
        assert!(
            six.contains("20000400 0a001a81 00000000 20010db8 00000000 00000000 00000009 00000000"),
            "{six}"
        );
    }

    #[test]
    fn what_the_kernel_says_is_read_and_what_is_cut_is_passed_over() {
        let mut request = set_peer(5, &peer("192.0.2.9:6785"), true).attributes.as_bytes().to_vec();
        request
            .extend([&36_u16.to_ne_bytes()[..], &WGDEVICE_A_PUBLIC_KEY.to_ne_bytes(), &[0xdd; 32]].concat());
        let mut described = Described::default();
        read_device(&request, &mut described);
        assert_eq!(described.public, Some([0xdd; 32]));
        let wanted =
            DescribedPeer { address: Some(Ipv4Addr::new(240, 1, 2, 3)), secret: Some(SecretKey([0xbb; 32])) };
        assert_eq!(described.peers, BTreeMap::from([([0xaa; 32], wanted)]));
        for len in 0..request.len() {
            read_device(&request[..len], &mut Described::default());
        }
    }
}
