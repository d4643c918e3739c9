//! VXLAN devices as ports of the bridge, one for each family of underlay addresses, and how uplinks behave as ports.
//!
//! Owns their making and finding again, by mark. Which frames they carry is said in forwarding entries; see
//! [`Fdb`](crate::Fdb).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::link::InfoVxlan;

use crate::bridge::{Bridge, PortKind, find, is_ours, join, mark, open_host};
use crate::error::HostError;
use crate::name::{BridgeName, InterfaceName};
use crate::netlink::link::{Link, UplinkFlags};
use crate::sealer::{Sealer, is_sealed, remove_sealer};

/// A family of underlay addresses. The kernel has a VXLAN device for one of them each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnderlayFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// IPv4 inside of our sealing device: the addresses of [`is_sealed`](crate::is_sealed).
    Sealed,
}

impl UnderlayFamily {
    /// All.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Sealed];

    /// That of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) if is_sealed(address) => Self::Sealed,
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A VXLAN device as it shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanSpec {
    /// The underlay's family.
    pub family: UnderlayFamily,
    /// The network identifier that packets to this host bear.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The address that packets leave from; `None` is what the routes say.
    pub local: Option<IpAddr>,
    /// The only interface that packets leave by, by the kernel's number; the device goes when it goes.
    pub lower: Option<u32>,
}

/// A VXLAN device as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanDevice {
    /// The kernel's number for it.
    pub index: u32,
    /// Its network identifier.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// Its MTU in bytes: the bridge's.
    pub mtu: u32,
    /// Frames that have left by it, and their bytes.
    pub sent: (u64, u64),
    /// Frames that have come by it, and their bytes.
    pub received: (u64, u64),
    /// Whether it is up and a port of the bridge.
    pub is_joined: bool,
}

/// Makes the device and a port of the bridge of it, with learning and flooding off; or takes over the one that is there, if
/// it is as it shall be. One that is not is replaced.
///
/// # Errors
/// [`HostError::Kernel`] when the kernel has no VXLAN, or the port is taken by another's device;
/// [`HostError::NameInUse`].
pub fn ensure_vxlan(bridge: &Bridge, spec: &VxlanSpec) -> Result<VxlanDevice, HostError> {
    let mut host = open_host()?;
    let bridge = find(&mut host, &bridge.name)?;
    let name = bridge.name.vxlan(spec.family);
    let present = host.link_named(name.as_str()).map_err(|error| error.during("look for", &name))?;
    match present {
        Some(link) if is_ours(&link, mark::UPLINK, "vxlan") || is_unfinished(&link) => {
            let fits = link.vxlan.is_some_and(|(vni, port)| (vni, port) == (spec.vni, spec.port));
            // Nothing is asked of the kernel where nothing is to be changed: whoever listens would take it for a change.
            if fits && is_whole(&link, &bridge) {
                return device(&link).ok_or(HostError::PortMissing { port: name });
            }
            if !fits {
                host.remove_link(link.index).map_err(|error| error.during("remove", &name))?;
                host.create_vxlan(&name, options(spec)).map_err(|error| error.during("create", &name))?;
            }
        }
        Some(link) => return Err(HostError::NameInUse { name, kind: link.kind_shown() }),
        None => host.create_vxlan(&name, options(spec)).map_err(|error| error.during("create", &name))?,
    }
    let joined = join(&mut host, &bridge, &name, PortKind::Uplink, bridge.mtu)
        .and_then(|()| host.link_named(name.as_str()).map_err(|error| error.during("look for", &name)));
    let link = match joined {
        Ok(link) => link.ok_or_else(|| HostError::PortMissing { port: name.clone() })?,
        Err(error) => {
            remove_vxlan(&bridge.name, spec.family)?;
            return Err(error);
        }
    };
    host.set_uplink_flags(link.index, UplinkFlags { flood: false })
        .map_err(|error| error.during("set the port flags of", &name))?;
    device(&link)
        .map(|device| VxlanDevice { is_joined: true, ..device })
        .ok_or(HostError::PortMissing { port: name })
}

/// The device of this family, if there is one that is ours.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn find_vxlan(bridge: &BridgeName, family: UnderlayFamily) -> Result<Option<VxlanDevice>, HostError> {
    let name = bridge.vxlan(family);
    let mut host = open_host()?;
    let link = host.link_named(name.as_str()).map_err(|error| error.during("look for", &name))?;
    Ok(link.filter(|link| is_ours(link, mark::UPLINK, "vxlan")).and_then(|link| device(&link)))
}

/// Removes our VXLAN devices of all families, and the sealing devices under one of them.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn remove_tunnels(bridge: &BridgeName) -> Result<(), HostError> {
    UnderlayFamily::ALL.into_iter().try_for_each(|family| remove_vxlan(bridge, family))?;
    Sealer::ALL.into_iter().try_for_each(|sealer| remove_sealer(bridge, sealer))
}

/// Makes of the TAP the uplink for all that no forwarding entry leads elsewhere: nothing is learnt from it, and nothing goes
/// from it to another uplink or back. Returns the kernel's number for it.
///
/// # Errors
/// [`HostError::PortMissing`], [`HostError::Kernel`].
pub fn set_default_uplink(port: &InterfaceName) -> Result<u32, HostError> {
    let mut host = open_host()?;
    let link = host.link_named(port.as_str()).map_err(|error| error.during("look for", port))?;
    let link = link.ok_or_else(|| HostError::PortMissing { port: port.clone() })?;
    let wanted = UplinkFlags { flood: true };
    if link.uplink != Some(wanted) {
        host.set_uplink_flags(link.index, wanted)
            .map_err(|error| error.during("set the port flags of", port))?;
    }
    Ok(link.index)
}

/// Removes our VXLAN device of this family, with all its forwarding entries. Where there is none, nothing happens.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn remove_vxlan(bridge: &BridgeName, family: UnderlayFamily) -> Result<(), HostError> {
    let name = bridge.vxlan(family);
    let mut host = open_host()?;
    match host.link_named(name.as_str()).map_err(|error| error.during("look for", &name))? {
        Some(link) if is_ours(&link, mark::UPLINK, "vxlan") || is_unfinished(&link) => {
            host.remove_link(link.index).map_err(|error| error.during("remove", &name))
        }
        Some(_) | None => Ok(()),
    }
}

/// What a router that was killed while it made one leaves: without a mark, on no bridge, and down.
pub(crate) fn is_unfinished(link: &Link) -> bool {
    link.kind == "vxlan" && link.alias.is_empty() && link.master.is_none() && !link.is_up
}

fn is_whole(link: &Link, bridge: &Bridge) -> bool {
    let is_joined = link.is_up && link.master == Some(bridge.index) && link.alias == mark::UPLINK;
    is_joined && link.mtu == bridge.mtu && link.uplink == Some(UplinkFlags { flood: false })
}

fn device(link: &Link) -> Option<VxlanDevice> {
    let (vni, port) = link.vxlan?;
    let is_joined = link.is_up && link.master.is_some();
    Some(VxlanDevice {
        index: link.index,
        vni,
        port,
        mtu: link.mtu,
        sent: link.sent,
        received: link.received,
        is_joined,
    })
}

fn options(spec: &VxlanSpec) -> Vec<InfoVxlan> {
    let mut options = vec![
        InfoVxlan::Id(spec.vni),
        InfoVxlan::Port(spec.port),
        InfoVxlan::Learning(false),
        InfoVxlan::Ttl(64),
    ];
    options.push(match (spec.family, spec.local) {
        (_, Some(IpAddr::V4(local))) => InfoVxlan::Local(local),
        (_, Some(IpAddr::V6(local))) => InfoVxlan::Local6(local),
        (UnderlayFamily::V4 | UnderlayFamily::Sealed, None) => InfoVxlan::Local(Ipv4Addr::UNSPECIFIED),
        // Without an address the kernel makes a device for IPv4.
        (UnderlayFamily::V6, None) => InfoVxlan::Local6(Ipv6Addr::UNSPECIFIED),
    });
    options.extend(spec.lower.map(InfoVxlan::Link));
    options
}
