//! Removing all that the router made on this host.
//!
//! Owns the list of what that is, by mark. Does not touch files, processes, or what bears no mark of ours.

use crate::bridge::{is_ours, mark, open_host, remove_staging};
use crate::capture::is_near_end;
use crate::error::HostError;
use crate::firewall;
use crate::name::{BridgeName, InterfaceName};
use crate::netlink::Netlink;
use crate::netlink::link::Link;
use crate::patch::is_patch;
use crate::sealer::{self, Sealer};
use crate::veth::is_host_end_name;
use crate::vxlan::{UnderlayFamily, is_unfinished};

/// Removes the bridge, the containers' interfaces on it, its TAP or the veth in its place, its VXLAN and sealing devices and the
/// pair to a datapath when there are any, and the firewall.
/// Goes on past errors.
/// Returns the names of what was removed on the host's side, in that order: containers', TAP, VXLAN, sealing, pair, bridge.
///
/// Interfaces of containers that lost their bridge are removed, too. A bridge of this name that is not ours is left
/// alone, with its ports. Where there is nothing, nothing happens.
///
/// # Errors
/// All that went wrong; the rest has been removed. The call can be repeated.
pub fn remove_all(name: &BridgeName) -> Result<Vec<InterfaceName>, Vec<HostError>> {
    let mut host = open_host().map_err(|error| vec![error])?;
    let links = host.links().map_err(|error| vec![error.during("list", "the host's interfaces")])?;
    let bridge =
        links.iter().find(|link| link.name == name.as_str() && is_ours(link, mark::BRIDGE, "bridge"));
    let bridge_index = bridge.map(|link| link.index);

    let tap = name.tap();
    let veths = links.iter().filter(|link| is_our_host_end(link, bridge_index));
    let is_uplink = |link: &&Link| is_ours(link, mark::UPLINK, "tun") || is_near_end(link);
    let taps = links.iter().filter(|link| link.name == tap.as_str()).filter(is_uplink);
    let tunnels = UnderlayFamily::ALL.map(|family| name.vxlan(family));
    let is_tunnel = |link: &&Link| {
        let is_named = tunnels.iter().any(|tunnel| tunnel.as_str() == link.name);
        is_named && (is_ours(link, mark::UPLINK, "vxlan") || is_unfinished(link))
    };
    let tunnels = links.iter().filter(is_tunnel);
    let is_sealer = |link: &&Link| Sealer::ALL.iter().any(|one| sealer::is_ours_named(link, name, *one));
    let sealing = links.iter().filter(is_sealer);
    let patches = links.iter().filter(|link| link.name == name.patch().as_str() && is_patch(link));
    let mut removal = Removal { host: &mut host, removed: Vec::new(), errors: Vec::new() };
    for link in veths.chain(taps).chain(tunnels).chain(sealing).chain(patches).chain(bridge) {
        removal.remove(link);
    }
    let Removal { mut removed, mut errors, .. } = removal;
    match remove_staging(&mut host, name) {
        Ok(staging) => removed.extend(staging),
        Err(error) => errors.push(error),
    }
    // Last, so that what is still there is still kept apart.
    errors.extend(firewall::remove(name).err());
    if errors.is_empty() { Ok(removed) } else { Err(errors) }
}

struct Removal<'a> {
    host: &'a mut Netlink,
    removed: Vec<InterfaceName>,
    errors: Vec<HostError>,
}

impl Removal<'_> {
    fn remove(&mut self, link: &Link) {
        match self.host.remove_link(link.index) {
            Ok(()) => self.removed.push(InterfaceName::derived(link.name.clone())),
            Err(error) => self.errors.push(error.during("remove", &link.name)),
        }
    }
}

/// A host end on our bridge, or on none. One without a mark, on no bridge and down, is what a router that was killed in
/// the middle of `attach` leaves.
fn is_our_host_end(link: &Link, bridge: Option<u32>) -> bool {
    let belongs = link.master.is_none() || link.master == bridge;
    let unfinished = link.kind == "veth" && link.alias.is_empty() && link.master.is_none() && !link.is_up;
    belongs && is_host_end_name(&link.name) && (is_ours(link, mark::CONTAINER, "veth") || unfinished)
}
