//! WireGuard's family of generic netlink, byte for byte (include/uapi/linux/wireguard.h, and genetlink.h for the family's
//! number). Owns the coding of the few requests and answers that there are; sends nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Key, Peer, SecretKey};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

/// Bytes of struct nlmsghdr, and of struct genlmsghdr behind it.
pub(super) const HEADER_LEN: usize = 16;
pub(super) const GENERIC_LEN: usize = 4;

/// The family that names all others.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const FAMILY: &[u8] = b"wireguard\0";

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

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A device as the kernel describes it.
#[derive(Default)]
pub(super) struct Described {
    pub(super) private: Option<SecretKey>,
    pub(super) public: Option<Key>,
    pub(super) port: u16,
    /// The peers that may use each address.
    pub(super) peers: BTreeMap<Key, Option<Ipv4Addr>>,
}

/// Asks for the family's number.
pub(super) fn find_family(sequence: u32) -> Vec<u8> {
    let mut request = Request::new(GENL_ID_CTRL, NLM_F_REQUEST | NLM_F_ACK, sequence, CTRL_CMD_GETFAMILY);
    request.attribute(CTRL_ATTR_FAMILY_NAME, FAMILY);
    request.finish()
}

/// Reads it from what follows the headers of the answer.
pub(super) fn family(attributes_: &[u8]) -> Option<u16> {
    let (_, value) = attributes(attributes_).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)?;
    Some(u16::from_ne_bytes(value.try_into().ok()?))
}

/// Asks for all of a device.
pub(super) fn describe(family: u16, sequence: u32, device: u32) -> Vec<u8> {
    let mut request = Request::new(family, NLM_F_REQUEST | NLM_F_DUMP, sequence, WG_CMD_GET_DEVICE);
    request.attribute(WGDEVICE_A_IFINDEX, &device.to_ne_bytes());
    request.finish()
}

/// Gives a device its key and its UDP port, and takes all peers from it.
pub(super) fn set_key(family: u16, sequence: u32, device: u32, key: &SecretKey, port: u16) -> Vec<u8> {
    let mut request = Request::new(family, NLM_F_REQUEST | NLM_F_ACK, sequence, WG_CMD_SET_DEVICE);
    request.attribute(WGDEVICE_A_IFINDEX, &device.to_ne_bytes());
    request.attribute(WGDEVICE_A_PRIVATE_KEY, &key.0);
    request.attribute(WGDEVICE_A_FLAGS, &WGDEVICE_F_REPLACE_PEERS.to_ne_bytes());
    request.attribute(WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes());
    request.finish()
}

/// Adds a peer, or alters one. The kernel finds its address by itself once packets come, so that it is told it only where
/// there is news.
pub(super) fn set_peer(family: u16, sequence: u32, device: u32, peer: &Peer, tell_endpoint: bool) -> Vec<u8> {
    let mut request = Request::new(family, NLM_F_REQUEST | NLM_F_ACK, sequence, WG_CMD_SET_DEVICE);
    request.attribute(WGDEVICE_A_IFINDEX, &device.to_ne_bytes());
    request.nest(WGDEVICE_A_PEERS, |request| {
        request.nest(0, |request| {
            request.attribute(WGPEER_A_PUBLIC_KEY, &peer.key);
            request.attribute(WGPEER_A_PRESHARED_KEY, &peer.secret.0);
            if tell_endpoint {
                request.attribute(WGPEER_A_ENDPOINT, &socket_address(peer.endpoint));
            }
            request.nest(WGPEER_A_ALLOWEDIPS, |request| {
                request.nest(0, |request| {
                    request.attribute(WGALLOWEDIP_A_FAMILY, &AF_INET.to_ne_bytes());
                    request.attribute(WGALLOWEDIP_A_IPADDR, &peer.address.octets());
                    request.attribute(WGALLOWEDIP_A_CIDR_MASK, &[32]);
                });
            });
        });
    });
    request.finish()
}

/// Removes a peer.
pub(super) fn remove_peer(family: u16, sequence: u32, device: u32, key: &Key) -> Vec<u8> {
    let mut request = Request::new(family, NLM_F_REQUEST | NLM_F_ACK, sequence, WG_CMD_SET_DEVICE);
    request.attribute(WGDEVICE_A_IFINDEX, &device.to_ne_bytes());
    request.nest(WGDEVICE_A_PEERS, |request| {
        request.nest(0, |request| {
            request.attribute(WGPEER_A_PUBLIC_KEY, key);
            request.attribute(WGPEER_A_FLAGS, &WGPEER_F_REMOVE_ME.to_ne_bytes());
        });
    });
    request.finish()
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
    let value = |kind| attributes(peer).find_map(|(found, value)| (found == kind).then_some(value));
    let Some(key) = value(WGPEER_A_PUBLIC_KEY).and_then(|key| key.try_into().ok()) else { return };
    let allowed = value(WGPEER_A_ALLOWEDIPS).and_then(|all| attributes(all).next());
    let address = allowed.and_then(|(_, first)| {
        let (_, bytes) = attributes(first).find(|(kind, _)| *kind == WGALLOWEDIP_A_IPADDR)?;
        <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
    });
    let known = into.peers.entry(key).or_default();
    *known = known.or(address);
}

/// The attributes of a message or a nest, up to the first that is broken.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind) & NLA_TYPE_MASK, value))
    })
}

/// struct sockaddr_in or sockaddr_in6.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&AF_INET.to_ne_bytes()[..], &port, &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [&AF_INET6.to_ne_bytes()[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat(),
    }
}

/// A request while it is written.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, sequence: u32, command: u8) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The port is the kernel's to fill in; version 1 of the command.
        bytes.extend([0, 0, 0, 0, command, 1, 0, 0]);
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |request| request.0.extend(value));
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nested(kind | NLA_F_NESTED, fill);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let len =
            u16::try_from(self.0.len() - start).expect("a request about one peer has some hundred bytes");
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).expect("a request about one peer has some hundred bytes");
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
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
    fn the_familys_number_is_asked_for_by_its_name() {
        assert_eq!(
            hex(&find_family(7)),
            "24000000 10000500 07000000 00000000 03010000 0e000200 77697265 67756172 64000000"
        );
        assert_eq!(family(&[6, 0, 1, 0, 0x1d, 0, 0, 0]), Some(0x1d));
        assert_eq!(family(&[6, 0, 2, 0, 0x1d, 0, 0, 0]), None);
    }

    #[test]
    fn a_device_gets_its_key_and_port_and_loses_its_peers() {
        let wanted = format!(
            "50000000 1d000500 01000000 00000000 01010000 08000100 05000000 24000300 {} 08000500 01000000 06000600 811a0000",
            ["cccccccc"; 8].join(" ")
        );
        assert_eq!(hex(&set_key(0x1d, 1, 5, &SecretKey([0xcc; 32]), 6785)), wanted);
    }

    #[test]
    fn a_peer_is_set_with_one_address_and_its_endpoint_only_where_that_is_news() {
        let (key, secret) = (["aaaaaaaa"; 8].join(" "), ["bbbbbbbb"; 8].join(" "));
        let allowed = "20000980 1c000080 06000100 02000000 08000200 f0010203 05000300 20000000";
        assert_eq!(
            hex(&set_peer(0x1d, 1, 5, &peer("192.0.2.9:6785"), true)),
            format!(
                "a0000000 1d000500 01000000 00000000 01010000 08000100 05000000 84000880 80000080 24000100 {key} \
                 24000200 {secret} 14000400 02001a81 c0000209 00000000 00000000 {allowed}"
            )
        );
        assert_eq!(
            hex(&set_peer(0x1d, 1, 5, &peer("192.0.2.9:6785"), false)),
            format!(
                "8c000000 1d000500 01000000 00000000 01010000 08000100 05000000 70000880 6c000080 24000100 {key} \
                 24000200 {secret} {allowed}"
            )
        );
        let six = hex(&set_peer(0x1d, 1, 5, &peer("[2001:db8::9]:6785"), true));
        assert!(
            six.contains("20000400 0a001a81 00000000 20010db8 00000000 00000000 00000009 00000000"),
            "{six}"
        );
    }

    #[test]
    fn what_the_kernel_says_is_read_and_what_is_cut_is_passed_over() {
        let mut request =
            set_peer(0x1d, 1, 5, &peer("192.0.2.9:6785"), true).split_off(HEADER_LEN + GENERIC_LEN);
        request
            .extend([&36_u16.to_ne_bytes()[..], &WGDEVICE_A_PUBLIC_KEY.to_ne_bytes(), &[0xdd; 32]].concat());
        let mut described = Described::default();
        read_device(&request, &mut described);
        assert_eq!(described.public, Some([0xdd; 32]));
        assert_eq!(described.peers, BTreeMap::from([([0xaa; 32], Some(Ipv4Addr::new(240, 1, 2, 3)))]));
        for len in 0..request.len() {
            read_device(&request[..len], &mut Described::default());
        }
    }
}
