//! The bridge: making it, finding it again, its ports and its MTU.
//!
//! Owns the marks by which a later life of the router knows what is ours. Does not make the ports: the data plane opens
//! the TAP, and `attach` makes the veths.
//!
//! Without a fast path the TAP is an ordinary port, with learning and flooding on: the bridge learns which MACs lie behind
//! it as it does for any port, and unknown and group destinations go to it. [`set_default_uplink`](crate::set_default_uplink)
//! makes it what a fast path needs.

use netlink_packet_route::link::{BridgeStpState, InfoBridge};

use crate::error::{HostError, KernelError};
use crate::expose;
use crate::mac::MacAddress;
use crate::name::{BridgeName, InterfaceName};
use crate::netlink::Netlink;
use crate::netlink::link::{Link, LinkChange};
use crate::sealer::{self, Sealer};
use crate::sysctl::Switch;

/// The smallest MTU of an interface that carries IPv4, in bytes (RFC 791).
pub const MTU_MIN: u32 = 68;

/// Least MTU, in bytes, of an interface on which the kernel runs IPv6 (RFC 8200, section 5).
pub(crate) const IPV6_MTU_MIN: u32 = 1280;

/// The largest MTU of a veth or bridge, in bytes: an IPv4 packet cannot be longer.
pub const MTU_MAX: u32 = 65_535;

/// Groups of which the bridge knows the members.
const GROUPS_MAX: u32 = 65_536;

/// What our interfaces bear in `IFLA_IFALIAS`.
pub(crate) mod mark {
    pub(crate) const BRIDGE: &str = "mesh bridge";
    pub(crate) const CONTAINER: &str = "mesh container";
    pub(crate) const UPLINK: &str = "mesh uplink";
}

/// A bridge that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: BridgeName,
    /// The kernel's number for it, in the host's namespace.
    pub index: u32,
    /// In bytes.
    pub mtu: u32,
    /// Its own address, which it keeps whatever ports come and go.
    pub mac: MacAddress,
}

/// What a port of the bridge leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// The router, and through it the other hosts.
    Uplink,
    /// A container of this host.
    Container,
}

impl PortKind {
    fn mark(self) -> &'static str {
        match self {
            Self::Uplink => mark::UPLINK,
            Self::Container => mark::CONTAINER,
        }
    }
}

/// Makes the bridge, or takes over the one that an earlier life of the router left, with the containers on it; brings it
/// up. `mtu` in bytes goes to the bridge and the ports that it has.
///
/// The bridge has no STP and no forwarding delay, looks who is a member of which group, and keeps IPv6 off, so that the
/// host takes no part in the overlay.
///
/// # Errors
/// [`HostError::NameInUse`] when an interface of this name is not ours; it is left alone. Where there was no bridge, a
/// failure leaves none.
pub fn ensure_bridge(name: &BridgeName, mtu: u32) -> Result<Bridge, HostError> {
    check_mtu(mtu, MTU_MIN)?;
    let mut host = open_host()?;
    let present = host.link_named(name.as_str()).map_err(|error| error.during("look for", name))?;
    match present {
        None => {
            let mac = MacAddress::random_host().map_err(|source| HostError::Random { source })?;
            create(&mut host, name, mtu, (mac, 0))?;
        }
        Some(link) if is_ours(&link, mark::BRIDGE, "bridge") => {
            configure(&mut host, link.index, name.interface())?;
            bring_up(&mut host, link.index, name)?;
            set_mtu_of_all(&mut host, name, link.index, mtu)?;
        }
        Some(link) => {
            return Err(HostError::NameInUse { name: name.interface().clone(), kind: link.kind_shown() });
        }
    }
    find(&mut host, name)
}

/// Whether the bridge is there and up.
///
/// # Errors
/// What the kernel refuses.
pub fn is_standing(bridge: &Bridge) -> Result<bool, HostError> {
    let link = open_host()?.link_named(bridge.name.as_str());
    let link = link.map_err(|error| error.during("look for", &bridge.name))?;
    Ok(link.is_some_and(|link| link.is_up && link.index == bridge.index))
}

/// Brings a bridge up that somebody has taken down, or makes one that was removed again, with its number and its Ethernet
/// address: whoever was bound to it, or knew its address, need not learn another. Its TAP is a port of it again;
/// containers and the bridge's IP addresses are not. `mtu` in bytes.
///
/// # Errors
/// [`HostError::NameInUse`], and what the kernel refuses: another interface may have got the number by now.
pub fn restore_bridge(bridge: &Bridge, mtu: u32) -> Result<(), HostError> {
    let (mut host, name) = (open_host()?, &bridge.name);
    if host.link_named(name.as_str()).map_err(|error| error.during("look for", name))?.is_none() {
        create(&mut host, name, mtu, (bridge.mac, bridge.index))?;
    }
    let bridge = ensure_bridge(name, mtu)?;
    add_port(&bridge, &name.tap(), PortKind::Uplink)
}

/// Makes an interface a port of the bridge: marks it as ours, gives it the bridge's MTU, switches IPv6 off on it, and
/// brings it up. An uplink gets the frames of all groups besides. For a port that is there already it repairs what
/// differs. When it fails, the port may be half set up.
///
/// # Errors
/// [`HostError::PortMissing`], [`HostError::PortTaken`], [`HostError::BridgeGone`].
pub fn add_port(bridge: &Bridge, port: &InterfaceName, kind: PortKind) -> Result<(), HostError> {
    let mut host = open_host()?;
    let bridge = find(&mut host, &bridge.name)?;
    join(&mut host, &bridge, port, kind, bridge.mtu)?;
    if kind != PortKind::Uplink {
        return Ok(());
    }
    let failed = |error: KernelError| error.during("set the port flags of", port);
    let link = host.link_named(port.as_str()).map_err(failed)?;
    let link = link.ok_or_else(|| HostError::PortMissing { port: port.clone() })?;
    host.set_group_flag(link.index, true).map_err(failed)
}

/// The names of the host ends of all containers that are attached to the bridge, sorted.
pub fn attachments(bridge: &Bridge) -> Result<Vec<String>, HostError> {
    let links = open_host()?.links().map_err(|error| error.during("list the ports of", &bridge.name))?;
    let is_attachment =
        |link: &Link| link.master == Some(bridge.index) && is_ours(link, mark::CONTAINER, "veth");
    let mut names: Vec<_> = links.into_iter().filter(is_attachment).map(|link| link.name).collect();
    names.sort_unstable();
    Ok(names)
}

/// Sets the MTU, in bytes, of the bridge and its ports on this host. The interfaces inside containers keep theirs.
pub fn set_mtu(bridge: &Bridge, mtu: u32) -> Result<Bridge, HostError> {
    check_mtu(mtu, MTU_MIN)?;
    let mut host = open_host()?;
    let bridge = find(&mut host, &bridge.name)?;
    set_mtu_of_all(&mut host, &bridge.name, bridge.index, mtu)?;
    find(&mut host, &bridge.name)
}

/// Opens a socket in the calling thread's namespace, the host's.
pub(crate) fn open_host() -> Result<Netlink, HostError> {
    Netlink::open().map_err(|error| error.during("open a socket to", "rtnetlink"))
}

/// The bridge as it is now.
pub(crate) fn find(host: &mut Netlink, name: &BridgeName) -> Result<Bridge, HostError> {
    let link = host.link_named(name.as_str()).map_err(|error| error.during("look for", name))?;
    match link {
        Some(Link { index, mtu, mac: Some(mac), ref alias, ref kind, .. })
            if alias == mark::BRIDGE && kind == "bridge" =>
        {
            Ok(Bridge { name: name.clone(), index, mtu, mac })
        }
        Some(_) | None => Err(HostError::BridgeGone { name: name.clone() }),
    }
}

/// Whether an interface bears any of our marks.
pub(crate) fn is_marked(link: &Link) -> bool {
    [mark::BRIDGE, mark::CONTAINER, mark::UPLINK].contains(&link.alias.as_str())
}

/// Whether an interface bears this mark, and is of the kind that we would have made.
pub(crate) fn is_ours(link: &Link, mark: &str, kind: &str) -> bool {
    link.alias == mark && link.kind == kind
}

pub(crate) fn check_mtu(mtu: u32, min: u32) -> Result<(), HostError> {
    if (min..=MTU_MAX).contains(&mtu) {
        Ok(())
    } else {
        Err(HostError::MtuOutOfRange { mtu, min, max: MTU_MAX })
    }
}

/// See [`add_port`], of which this is the inside.
pub(crate) fn join(
    host: &mut Netlink,
    bridge: &Bridge,
    port: &InterfaceName,
    kind: PortKind,
    mtu: u32,
) -> Result<(), HostError> {
    let link = host.link_named(port.as_str()).map_err(|error| error.during("look for", port))?;
    let link = link.ok_or_else(|| HostError::PortMissing { port: port.clone() })?;
    if link.master.is_some_and(|master| master != bridge.index) {
        return Err(HostError::PortTaken { port: port.clone() });
    }
    Switch::Ipv6Off.turn_on(port)?;
    let change = LinkChange {
        mtu: Some(mtu),
        alias: Some(kind.mark()),
        master: Some(bridge.index),
        is_up: Some(true),
        ..LinkChange::default()
    };
    host.change_link(link.index, &change)
        .map_err(|error| error.during("make a port of the bridge of", port))?;
    let flagged = match kind {
        PortKind::Uplink => host.isolate(link.index),
        PortKind::Container => host.set_group_flag(link.index, false),
    };
    flagged.map_err(|error| error.during("set the port flags of", port))
}

/// Makes the bridge under a passing name, and gives it its own only once it bears our mark: the kernel has no request
/// that does both, and a router killed in between would leave a bridge that the next one takes for a stranger's.
///
/// With a number of 0 the kernel chooses one.
fn create(
    host: &mut Netlink,
    name: &BridgeName,
    mtu: u32,
    (mac, index): (MacAddress, u32),
) -> Result<(), HostError> {
    let staging = name.staging();
    remove_staging(host, name)?;
    host.create_bridge(&staging, mac, index).map_err(|error| error.during("create the bridge", name))?;
    let link = host.link_named(staging.as_str()).map_err(|error| error.during("look for", &staging))?;
    let index = link.ok_or_else(|| HostError::BridgeGone { name: name.clone() })?.index;
    let Err(cause) = finish(host, index, name, mtu) else { return Ok(()) };
    match host.remove_link(index) {
        Ok(()) => Err(cause),
        Err(error) => Err(HostError::UndoIncomplete {
            cause: Box::new(cause),
            left: vec![error.during("remove the unfinished bridge", name)],
        }),
    }
}

/// Makes of a bridge with the passing name ours.
fn finish(host: &mut Netlink, index: u32, name: &BridgeName, mtu: u32) -> Result<(), HostError> {
    let mark = LinkChange { alias: Some(mark::BRIDGE), mtu: Some(mtu), ..LinkChange::default() };
    host.change_link(index, &mark).map_err(|error| error.during("mark the bridge", name))?;
    configure(host, index, &name.staging())?;
    let rename = LinkChange { name: Some(name.interface()), ..LinkChange::default() };
    host.change_link(index, &rename).map_err(|error| error.during("name the bridge", name))?;
    bring_up(host, index, name)
}

fn bring_up(host: &mut Netlink, index: u32, name: &BridgeName) -> Result<(), HostError> {
    let up = LinkChange { is_up: Some(true), ..LinkChange::default() };
    host.change_link(index, &up).map_err(|error| error.during("bring up", name))
}

/// Removes what a router that was killed in [`create`] has left: a bridge of the passing name, which nobody else uses.
pub(crate) fn remove_staging(
    host: &mut Netlink,
    name: &BridgeName,
) -> Result<Option<InterfaceName>, HostError> {
    let staging = name.staging();
    let link = host.link_named(staging.as_str()).map_err(|error| error.during("look for", &staging))?;
    match link {
        Some(link) if link.kind == "bridge" && (link.alias.is_empty() || link.alias == mark::BRIDGE) => {
            host.remove_link(link.index).map_err(|error| error.during("remove", &staging))?;
            Ok(Some(staging))
        }
        Some(_) | None => Ok(None),
    }
}

/// Sets all that makes the bridge a plain hub of containers. `name` is the one that it bears now.
fn configure(host: &mut Netlink, index: u32, name: &InterfaceName) -> Result<(), HostError> {
    // With STP on, the kernel refuses a forwarding delay below 2 s; so STP goes off in a request of its own.
    let first = vec![InfoBridge::StpState(BridgeStpState::Disabled)];
    // Filters for forwarded IP packets do not apply within the bridge. These three have a say only where the sysctls
    // net.bridge.bridge-nf-call-* are off: those, being everybody's, are left alone.
    let then = vec![
        InfoBridge::ForwardDelay(0),
        InfoBridge::MulticastSnooping(true),
        // With one group more the kernel would stop to snoop. Each container of IPv6 is a member of two or three.
        InfoBridge::MulticastHashMax(GROUPS_MAX),
        InfoBridge::NfCallIpTables(false),
        InfoBridge::NfCallIp6Tables(false),
        InfoBridge::NfCallArpTables(false),
    ];
    for options in [first, then] {
        host.configure_bridge(index, options).map_err(|error| error.during("configure the bridge", name))?;
    }
    expose::trust_no_router(name)?;
    Switch::Ipv6Off.turn_on(name)
}

/// Ports first: a bridge whose MTU nobody has set takes the smallest of its ports'.
fn set_mtu_of_all(host: &mut Netlink, name: &BridgeName, index: u32, mtu: u32) -> Result<(), HostError> {
    let links = host.links().map_err(|error| error.during("list the ports of", name))?;
    let is_port = |link: &&Link| {
        link.master == Some(index) && (link.alias == mark::CONTAINER || link.alias == mark::UPLINK)
    };
    let ports = links.iter().filter(is_port);
    let bridge = links.iter().filter(|link| link.index == index);
    // No VXLAN device takes more than what is under it.
    let tunnel_mtu = sealer::mtu(mtu);
    let is_tunnel = |link: &&Link| Sealer::ALL.iter().any(|one| sealer::is_ours_named(link, name, *one));
    for link in links.iter().filter(is_tunnel).filter(|link| link.mtu < tunnel_mtu) {
        let change = LinkChange { mtu: Some(tunnel_mtu), ..LinkChange::default() };
        host.change_link(link.index, &change).map_err(|error| error.during("set the MTU of", &link.name))?;
    }
    for link in ports.chain(bridge).filter(|link| link.mtu != mtu) {
        let change = LinkChange { mtu: Some(mtu), ..LinkChange::default() };
        host.change_link(link.index, &change).map_err(|error| error.during("set the MTU of", &link.name))?;
        // An interface that becomes wide enough for IPv6 has it anew, with the settings that all have at first
        // (addrconf_notify in net/ipv6/addrconf.c).
        if link.mtu < IPV6_MTU_MIN
            && let Ok(interface) = link.name.parse()
        {
            expose::trust_no_router(&interface)?;
            Switch::Ipv6Off.turn_on(&interface)?;
        }
    }
    for link in links.iter().filter(is_tunnel).filter(|link| link.mtu > tunnel_mtu) {
        let change = LinkChange { mtu: Some(tunnel_mtu), ..LinkChange::default() };
        host.change_link(link.index, &change).map_err(|error| error.during("set the MTU of", &link.name))?;
    }
    Ok(())
}
