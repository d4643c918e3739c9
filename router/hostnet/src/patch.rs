//! The pair of interfaces that joins the bridge to a switch of another kind: one end is an uplink of the bridge, the other
//! is for whoever owns the switch.
//!
//! Owns their making and finding again, by mark. Does not know the switch.

use std::os::fd::AsFd;

use crate::bridge::{Bridge, MTU_MAX, PortKind, find, is_ours, join, mark, open_host};
use crate::error::HostError;
use crate::mac::MacAddress;
use crate::name::{BridgeName, InterfaceName};
use crate::namespace::Netns;
use crate::netlink::Netlink;
use crate::netlink::link::{Link, LinkChange, UplinkFlags, VethPair};
use crate::sysctl::Switch;

/// The pair, as seen from the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// The kernel's number for the end that is the bridge's port.
    pub index: u32,
    /// That end's MTU in bytes: the bridge's. The far end takes anything.
    pub mtu: u32,
}

/// Makes the pair, with learning and flooding off at the bridge; or takes over the one that is there, and repairs what
/// differs.
///
/// # Errors
/// [`HostError::Kernel`], [`HostError::NameInUse`].
pub fn ensure_patch(bridge: &Bridge) -> Result<Patch, HostError> {
    let mut host = open_host()?;
    let bridge = find(&mut host, &bridge.name)?;
    let (name, far) = (bridge.name.patch(), bridge.name.patch_far());
    match look(&mut host, &name)? {
        Some(link) if is_patch(&link) => {
            let other = look(&mut host, &far)?.filter(|other| link.peer == Some(other.index));
            // Nothing is asked of the kernel where nothing is to be changed: whoever listens would take it for a change.
            if other.as_ref().is_some_and(|other| other.is_up) && is_whole(&link, &bridge) {
                return Ok(Patch { index: link.index, mtu: link.mtu });
            }
            if other.is_none() {
                host.remove_link(link.index).map_err(|error| error.during("remove", &name))?;
                create(&mut host, &name, &far)?;
            }
        }
        Some(link) => return Err(HostError::NameInUse { name, kind: link.kind_shown() }),
        None => create(&mut host, &name, &far)?,
    }
    set_up(&mut host, &bridge).inspect_err(|_| {
        // What cannot be removed either is told when it is in the way.
        let _removed = remove_patch(&bridge.name);
    })
}

/// The end that is the bridge's port, if there is a pair that is ours.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn find_patch(bridge: &BridgeName) -> Result<Option<Patch>, HostError> {
    let link = look(&mut open_host()?, &bridge.patch())?.filter(is_patch);
    Ok(link.map(|Link { index, mtu, .. }| Patch { index, mtu }))
}

/// Removes the pair. Where there is none, nothing happens.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn remove_patch(bridge: &BridgeName) -> Result<(), HostError> {
    let (mut host, name) = (open_host()?, bridge.patch());
    match look(&mut host, &name)? {
        Some(link) if is_patch(&link) => {
            host.remove_link(link.index).map_err(|error| error.during("remove", &name))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether an interface of the name is ours. A router that was killed in between leaves one without a mark, on no bridge
/// and down.
pub(crate) fn is_patch(link: &Link) -> bool {
    let is_unfinished = link.kind == "veth" && link.alias.is_empty() && link.master.is_none() && !link.is_up;
    is_ours(link, mark::UPLINK, "veth") || is_unfinished
}

fn look(host: &mut Netlink, name: &InterfaceName) -> Result<Option<Link>, HostError> {
    host.link_named(name.as_str()).map_err(|error| error.during("look for", name))
}

fn is_whole(link: &Link, bridge: &Bridge) -> bool {
    let is_joined = link.is_up && link.master == Some(bridge.index) && link.alias == mark::UPLINK;
    is_joined && link.mtu == bridge.mtu && link.uplink == Some(UplinkFlags { flood: false })
}

fn create(host: &mut Netlink, name: &InterfaceName, far: &InterfaceName) -> Result<(), HostError> {
    let random = || MacAddress::random_host().map_err(|source| HostError::Random { source });
    let here = Netns::current()?;
    let pair = VethPair {
        name,
        mac: random()?,
        peer_name: far,
        peer_mac: random()?,
        peer_netns: here.as_fd(),
        mtu: MTU_MAX,
    };
    host.create_veth(pair).map_err(|error| error.during("create the veth pair", name))
}

fn set_up(host: &mut Netlink, bridge: &Bridge) -> Result<Patch, HostError> {
    let (name, far) = (bridge.name.patch(), bridge.name.patch_far());
    let missing = |port: &InterfaceName| HostError::PortMissing { port: port.clone() };
    let other = look(host, &far)?.ok_or_else(|| missing(&far))?;
    // What it would say by itself would be heard in the network.
    Switch::Ipv6Off.turn_on(&far)?;
    let up = LinkChange { is_up: Some(true), ..LinkChange::default() };
    host.change_link(other.index, &up).map_err(|error| error.during("bring up", &far))?;
    join(host, bridge, &name, PortKind::Uplink, bridge.mtu)?;
    let link = look(host, &name)?.ok_or_else(|| missing(&name))?;
    host.set_uplink_flags(link.index, UplinkFlags { flood: false })
        .map_err(|error| error.during("set the port flags of", &name))?;
    Ok(Patch { index: link.index, mtu: link.mtu })
}
