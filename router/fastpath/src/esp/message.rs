//! IPsec's kind of netlink, byte for byte (include/uapi/linux/xfrm.h). Owns the coding of the few requests and answers that
//! there are; sends nothing.

use std::net::{IpAddr, Ipv4Addr};

use mesh_hostnet::SEALED_NET;

use super::Key;
use crate::genl::{Attributes, attribute, fixed};

pub(super) const XFRM_MSG_NEWSA: u16 = 0x10;
pub(super) const XFRM_MSG_DELSA: u16 = 0x11;
pub(super) const XFRM_MSG_GETSA: u16 = 0x12;
pub(super) const XFRM_MSG_DELPOLICY: u16 = 0x14;
pub(super) const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// Makes a policy, or replaces the one with this selector.
pub(super) const XFRM_MSG_UPDPOLICY: u16 = 0x19;

const XFRMA_TMPL: u16 = 5;
const XFRMA_ALG_AEAD: u16 = 18;
const XFRMA_REPLAY_ESN_VAL: u16 = 23;
const XFRMA_IF_ID: u16 = 31;

const XFRM_POLICY_IN: u8 = 0;
const XFRM_POLICY_OUT: u8 = 1;
const XFRM_MODE_TUNNEL: u8 = 1;
const XFRM_STATE_ESN: u8 = 128;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Bytes of struct xfrm_usersa_info and of struct xfrm_userpolicy_info.
const STATE_LEN: usize = 224;
const POLICY_LEN: usize = 168;

/// Where fields that are read begin: of a state its selector's, its destination and its parameter index; of a policy its
/// direction.
const SELECTOR_SOURCE_AT: usize = 16;
const STATE_DESTINATION_AT: usize = 56;
const STATE_SPI_AT: usize = 72;
const STATE_FAMILY_AT: usize = 212;
const POLICY_DIRECTION_AT: usize = 160;

/// AES in Galois/counter mode as ESP uses it, the salt behind the key (RFC 4106), with a tag of 128 bits.
const ALGORITHM: &[u8] = b"rfc4106(gcm(aes))";
const ALGORITHM_NAME_LEN: usize = 64;
const TAG_BITS: u32 = 128;

/// Packets that may come late, behind the newest one: some milliseconds of a fast wire. The kernel's limit is 4,096.
const REPLAY_WINDOW: u32 = 2_048;

/// One direction of what seals between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    /// The underlay's addresses.
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// The addresses inside.
    pub(super) inner_from: Ipv4Addr,
    pub(super) inner_to: Ipv4Addr,
}

/// What the kernel has of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    /// A state: packets to this underlay address that bear the index, from this address inside.
    State { spi: u32, to: IpAddr, inner_from: Ipv4Addr },
    /// The policy for packets to an address inside, and the state that it takes for them.
    Out { inner_from: Ipv4Addr, inner_to: Ipv4Addr, spi: u32, from: IpAddr, to: IpAddr },
    /// The policy for packets to this address inside.
    In { inner_to: Ipv4Addr },
}

/// Makes a state, its sequence numbers of 64 bits beginning at 0.
pub(super) fn new_state(number: u32, way: &Way, key: &Key) -> Vec<u8> {
    let mut body = selector((way.inner_from, 32), (way.inner_to, 32));
    body.extend(id(way.to, key.spi));
    body.extend(bytes_of(way.from));
    body.extend(lifetime());
    // What was used so far, statistics, and a sequence number of requests.
    body.extend([0; 32 + 12 + 4]);
    body.extend(number.to_ne_bytes());
    body.extend(family(way.to).to_ne_bytes());
    body.extend([XFRM_MODE_TUNNEL, 0, XFRM_STATE_ESN]);
    body.resize(STATE_LEN, 0);
    let mut aead = ALGORITHM.to_vec();
    aead.resize(ALGORITHM_NAME_LEN, 0);
    let key_bits = u32::try_from(key.key.len() * 8).expect("a key has some bytes");
    aead.extend([key_bits, TAG_BITS].map(u32::to_ne_bytes).concat());
    aead.extend(key.key);
    let words = REPLAY_WINDOW.div_ceil(32);
    let mut replay = [words, 0, 0, 0, 0, REPLAY_WINDOW].map(u32::to_ne_bytes).concat();
    replay.resize(replay.len() + words as usize * 4, 0);
    let attributes = Attributes::default().with(XFRMA_ALG_AEAD, &aead).with(XFRMA_REPLAY_ESN_VAL, &replay);
    body.extend(attributes.with(XFRMA_IF_ID, &number.to_ne_bytes()).as_bytes());
    aead.fill(0);
    std::hint::black_box(&aead);
    body
}

/// Removes a state.
pub(super) fn delete_state(to: IpAddr, spi: u32) -> Vec<u8> {
    let mut body = bytes_of(to).to_vec();
    body.extend(spi.to_be_bytes());
    body.extend(family(to).to_ne_bytes());
    body.extend([libc_esp(), 0]);
    body
}

/// Has all packets to an address inside sealed by this state and no other.
pub(super) fn policy_out(number: u32, way: &Way, spi: u32) -> Vec<u8> {
    let selector = selector((way.inner_from, 32), (way.inner_to, 32));
    policy(number, selector, XFRM_POLICY_OUT, &template(number, way.from, way.to, spi))
}

/// Takes packets from the addresses inside only where they were sealed; the selectors of the states say by whom.
pub(super) fn policy_in(number: u32, own: Ipv4Addr) -> Vec<u8> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    policy(number, selector_in(own), XFRM_POLICY_IN, &template(number, any, any, 0))
}

/// Removes the policy for packets to an address inside.
pub(super) fn delete_policy_out(number: u32, own: Ipv4Addr, inner_to: Ipv4Addr) -> Vec<u8> {
    delete_policy(number, selector((own, 32), (inner_to, 32)), XFRM_POLICY_OUT)
}

/// Removes the policy for packets from the addresses inside.
pub(super) fn delete_policy_in(number: u32, own: Ipv4Addr) -> Vec<u8> {
    delete_policy(number, selector_in(own), XFRM_POLICY_IN)
}

fn selector_in(own: Ipv4Addr) -> Vec<u8> {
    selector((SEALED_NET.addr(), SEALED_NET.prefix_len()), (own, 32))
}

fn delete_policy(number: u32, selector: Vec<u8>, direction: u8) -> Vec<u8> {
    let mut body = selector;
    body.extend([0; 4]);
    body.extend([direction, 0, 0, 0]);
    body.extend(Attributes::default().with(XFRMA_IF_ID, &number.to_ne_bytes()).as_bytes());
    body
}

fn policy(number: u32, selector: Vec<u8>, direction: u8, template: &[u8]) -> Vec<u8> {
    let mut body = selector;
    body.extend(lifetime());
    // What was used so far, priority, and a number that the kernel gives.
    body.extend([0; 32 + 4 + 4]);
    body.push(direction);
    body.resize(POLICY_LEN, 0);
    let attributes = Attributes::default().with(XFRMA_TMPL, template);
    body.extend(attributes.with(XFRMA_IF_ID, &number.to_ne_bytes()).as_bytes());
    body
}

/// struct xfrm_user_tmpl: which state a policy takes.
fn template(number: u32, from: IpAddr, to: IpAddr, spi: u32) -> Vec<u8> {
    let mut template = id(to, spi);
    template.extend(family(to).to_ne_bytes());
    template.extend([0; 2]);
    template.extend(bytes_of(from));
    template.extend(number.to_ne_bytes());
    template.extend([XFRM_MODE_TUNNEL, 0, 0, 0]);
    // Any algorithms: the state has its own.
    template.extend([0xff; 12]);
    template
}

/// struct xfrm_selector: packets of IPv4 between these networks.
fn selector((from, from_len): (Ipv4Addr, u8), (to, to_len): (Ipv4Addr, u8)) -> Vec<u8> {
    let mut selector = bytes_of(to.into()).to_vec();
    selector.extend(bytes_of(from.into()));
    // Any ports.
    selector.extend([0; 8]);
    selector.extend(AF_INET.to_ne_bytes());
    selector.extend([to_len, from_len]);
    // Any protocol, interface and user.
    selector.extend([0; 4 + 8]);
    selector
}

/// struct xfrm_id.
fn id(to: IpAddr, spi: u32) -> Vec<u8> {
    let mut id = bytes_of(to).to_vec();
    id.extend(spi.to_be_bytes());
    id.extend([libc_esp(), 0, 0, 0]);
    id
}

/// struct xfrm_lifetime_cfg without limits of bytes, packets and seconds.
fn lifetime() -> [u8; 64] {
    let mut lifetime = [0; 64];
    lifetime[..32].fill(0xff);
    lifetime
}

fn libc_esp() -> u8 {
    u8::try_from(libc::IPPROTO_ESP).expect("a protocol of IP has 8 bits")
}

/// The union xfrm_address_t.
fn bytes_of(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

const fn family(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// Reads one state of a dump; `None` if it is not ours.
pub(super) fn read_state(message: &[u8], number: u32) -> Option<Object> {
    let (info, attributes) = message.split_at_checked(STATE_LEN)?;
    is_ours(attributes, number)?;
    let family = u16::from_ne_bytes(*info.get(STATE_FAMILY_AT..)?.first_chunk()?);
    let to = address(info.get(STATE_DESTINATION_AT..)?, family)?;
    let spi = u32::from_be_bytes(*info.get(STATE_SPI_AT..)?.first_chunk()?);
    let inner_from = Ipv4Addr::from(*info.get(SELECTOR_SOURCE_AT..)?.first_chunk::<4>()?);
    Some(Object::State { spi, to, inner_from })
}

/// Reads one policy of a dump; `None` if it is not ours.
pub(super) fn read_policy(message: &[u8], number: u32) -> Option<Object> {
    let (info, attributes) = message.split_at_checked(POLICY_LEN)?;
    is_ours(attributes, number)?;
    let inner_to = Ipv4Addr::from(*info.first_chunk::<4>()?);
    if info.get(POLICY_DIRECTION_AT) != Some(&XFRM_POLICY_OUT) {
        return Some(Object::In { inner_to });
    }
    let inner_from = Ipv4Addr::from(*info.get(SELECTOR_SOURCE_AT..)?.first_chunk::<4>()?);
    let template = attribute(attributes, XFRMA_TMPL)?;
    let spi = u32::from_be_bytes(*template.get(16..)?.first_chunk()?);
    let family = u16::from_ne_bytes(*template.get(24..)?.first_chunk()?);
    let (from, to) = (address(template.get(28..)?, family)?, address(template, family)?);
    Some(Object::Out { inner_from, inner_to, spi, from, to })
}

fn is_ours(attributes: &[u8], number: u32) -> Option<()> {
    (fixed(attributes, XFRMA_IF_ID).map(u32::from_ne_bytes) == Some(number)).then_some(())
}

fn address(bytes: &[u8], family: u16) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        AF_INET6 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: u32 = 0x8000_0007;

    fn way(to: &str) -> Way {
        let to: IpAddr = to.parse().expect("an address");
        let from = if to.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
        Way {
            from: from.parse().expect("an address"),
            to,
            inner_from: Ipv4Addr::new(240, 0, 0, 1),
            inner_to: Ipv4Addr::new(240, 0, 0, 2),
        }
    }

    #[test]
    fn structures_have_the_kernels_lengths() {
        let any = Ipv4Addr::UNSPECIFIED;
        assert_eq!(selector((any, 0), (any, 0)).len(), 56);
        assert_eq!(id(any.into(), 0).len(), 24);
        assert_eq!(template(1, any.into(), any.into(), 0).len(), 64);
        assert_eq!(delete_state(any.into(), 1).len(), 24);
        assert_eq!(delete_policy_in(1, any).len(), 64 + 8);
        assert_eq!(policy_in(1, any).len(), POLICY_LEN + 68 + 8);
    }

    #[test]
    fn what_is_made_is_what_is_read() {
        let key = Key { key: [0xcc; 36], spi: 0x8000_1234 };
        for to in ["192.0.2.2", "2001:db8::2"] {
            let way = way(to);
            let state = new_state(NUMBER, &way, &key);
            let wanted = Object::State { spi: key.spi, to: way.to, inner_from: way.inner_from };
            assert_eq!(read_state(&state, NUMBER), Some(wanted));
            assert_eq!(read_state(&state, 7), None);
            assert!(state.windows(36).any(|part| part == [0xcc; 36]));
            let policy = policy_out(NUMBER, &way, key.spi);
            let Way { from, to, inner_from, inner_to } = way;
            let wanted = Object::Out { inner_from, inner_to, spi: key.spi, from, to };
            assert_eq!(read_policy(&policy, NUMBER), Some(wanted));
            for len in 0..policy.len() {
                assert_eq!(read_policy(&policy[..len], NUMBER), None, "{len}");
            }
        }
        let own = Ipv4Addr::new(240, 0, 0, 1);
        assert_eq!(read_policy(&policy_in(NUMBER, own), NUMBER), Some(Object::In { inner_to: own }));
    }
}
