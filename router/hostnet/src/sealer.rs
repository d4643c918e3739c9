//! The device that seals what one kernel sends to another, by WireGuard or by ESP: the link, its address, its MTU.
//!
//! Owns its making and finding again, by mark. Keys and peers are set by whoever runs the fast path, in the words of
//! WireGuard's and IPsec's own kinds of netlink.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::bridge::{Bridge, find, is_ours, mark, open_host};
use crate::error::HostError;
use crate::name::BridgeName;
use crate::netlink::Netlink;
use crate::netlink::link::{Link, LinkChange};
use crate::sysctl::{Switch, loosen_reverse_path};

/// The addresses that hosts have inside of the device, and nowhere else: a half of what is reserved for ever (RFC 1112,
/// section 4), so that no other network of the host is hidden by it.
pub const SEALED_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 5);

/// What a frame grows by inside of the device: IPv4, UDP, VXLAN and Ethernet, in bytes.
const VXLAN_OVERHEAD: u32 = 20 + 8 + 8 + 14;

/// What seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sealer {
    /// A WireGuard device.
    Wireguard,
    /// An interface of IPsec's (`xfrm`), whose packets only the policies with its number see.
    Esp,
}

impl Sealer {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Wireguard, Self::Esp];

    /// The kernel's word for such a device.
    const fn kind(self) -> &'static str {
        match self {
            Self::Wireguard => "wireguard",
            Self::Esp => "xfrm",
        }
    }
}

/// The device as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealerLink {
    /// The kernel's number for it.
    pub index: u32,
    /// Whether it was made just now: a WireGuard device without a key, and with no peers.
    pub is_new: bool,
}

/// The number that the policies and states of ESP bear which belong to the device of this bridge: the same in each life of
/// the router, and another for each bridge. A hash (FNV-1a), whose highest bit keeps away from what people number by hand.
#[must_use]
pub fn esp_interface_id(bridge: &BridgeName) -> u32 {
    let hash = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    bridge.as_str().bytes().fold(0x811c_9dc5, hash) | 1 << 31
}

/// Whether an address is one of those inside of our device.
#[must_use]
pub const fn is_sealed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] & 0xf8 == SEALED_NET.addr().octets()[0],
        IpAddr::V6(_) => false,
    }
}

/// Makes the device, with this address in [`SEALED_NET`], or takes over the one that is there. One with another address is
/// replaced: it is of another identity.
///
/// # Errors
/// [`HostError::Kernel`] when the kernel has no such devices; [`HostError::NameInUse`]. A failure leaves no new device.
pub fn ensure_sealer(bridge: &Bridge, sealer: Sealer, address: Ipv4Addr) -> Result<SealerLink, HostError> {
    let mut host = open_host()?;
    let bridge = find(&mut host, &bridge.name)?;
    let name = bridge.name.sealer(sealer);
    let address = Ipv4Net::new_assert(address, SEALED_NET.prefix_len());
    let looked = host.link_named(name.as_str()).map_err(|error| error.during("look for", &name))?;
    if let Some(link) = looked {
        if !is_ours_named(&link, &bridge.name, sealer) {
            return Err(HostError::NameInUse { name, kind: link.kind_shown() });
        }
        if has_address(&mut host, &link, address)? {
            // Nothing is asked of the kernel where nothing is to be changed: whoever listens would take it for a change.
            if !link.is_up || link.mtu != mtu(bridge.mtu) {
                set_up(&mut host, &link, &bridge)?;
            }
            return Ok(SealerLink { index: link.index, is_new: false });
        }
        host.remove_link(link.index).map_err(|error| error.during("remove", &name))?;
    }
    let created = match sealer {
        Sealer::Wireguard => host.create_wireguard(&name),
        Sealer::Esp => host.create_xfrm(&name, esp_interface_id(&bridge.name)),
    };
    created.map_err(|error| error.during("create", &name))?;
    let made = finish(&mut host, &bridge, sealer, address);
    if made.is_err() {
        remove_sealer(&bridge.name, sealer)?;
    }
    made
}

/// Removes our device, and with it the VXLAN device on top. Where there is none, nothing happens.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn remove_sealer(bridge: &BridgeName, sealer: Sealer) -> Result<(), HostError> {
    let name = bridge.sealer(sealer);
    let mut host = open_host()?;
    match host.link_named(name.as_str()).map_err(|error| error.during("look for", &name))? {
        Some(link) if is_ours_named(&link, bridge, sealer) => {
            host.remove_link(link.index).map_err(|error| error.during("remove", &name))
        }
        Some(_) | None => Ok(()),
    }
}

/// The MTU, in bytes, of the device under a bridge with this one. WireGuard fills packets up to a multiple of 16 bytes, but
/// not beyond it; ESP adds less than WireGuard.
pub(crate) const fn mtu(bridge: u32) -> u32 {
    bridge + VXLAN_OVERHEAD
}

/// Whether this is the device of that bridge: with our mark, or without any and down, as a router leaves it that was
/// killed while it made one.
pub(crate) fn is_ours_named(link: &Link, bridge: &BridgeName, sealer: Sealer) -> bool {
    let is_unfinished = link.kind == sealer.kind() && link.alias.is_empty() && !link.is_up;
    link.name == bridge.sealer(sealer).as_str()
        && (is_ours(link, mark::UPLINK, sealer.kind()) || is_unfinished)
}

fn finish(
    host: &mut Netlink,
    bridge: &Bridge,
    sealer: Sealer,
    address: Ipv4Net,
) -> Result<SealerLink, HostError> {
    let name = bridge.name.sealer(sealer);
    let link = host.link_named(name.as_str()).map_err(|error| error.during("look for", &name))?;
    let link = link.ok_or_else(|| HostError::PortMissing { port: name.clone() })?;
    Switch::Ipv6Off.turn_on(&name)?;
    loosen_reverse_path(&name)?;
    let added = host.add_address(link.index, IpNet::V4(address));
    added.map_err(|error| error.during("give an address to", &name))?;
    set_up(host, &link, bridge)?;
    Ok(SealerLink { index: link.index, is_new: true })
}

fn set_up(host: &mut Netlink, link: &Link, bridge: &Bridge) -> Result<(), HostError> {
    let change = LinkChange {
        mtu: Some(mtu(bridge.mtu)),
        alias: Some(mark::UPLINK),
        is_up: Some(true),
        ..LinkChange::default()
    };
    host.change_link(link.index, &change).map_err(|error| error.during("bring up", &link.name))
}

fn has_address(host: &mut Netlink, link: &Link, address: Ipv4Net) -> Result<bool, HostError> {
    let all = host.addresses().map_err(|error| error.during("list the addresses of", &link.name))?;
    Ok(all.iter().any(|entry| entry.link == link.index && entry.address == IpNet::V4(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_told_from_all_others() {
        for (text, is_inside) in [
            ("239.255.255.255", false),
            ("240.0.0.0", true),
            ("247.255.255.255", true),
            ("248.0.0.0", false),
            ("255.255.255.255", false),
            ("10.0.0.1", false),
            ("f000::1", false),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(is_sealed(address), is_inside, "{text}");
            let is_within = matches!(address, IpAddr::V4(v4) if SEALED_NET.contains(&v4));
            assert_eq!(is_within, is_inside, "{text}");
        }
    }
}
