//! Where `mesh capture` looks. The router itself has no part in it: packet sockets on the interfaces see what the data plane and
//! the kernel's paths carry alike, and cost nothing when nobody looks.

use mesh_api::NetnsTarget;
use mesh_hostnet::Sniffer;

use crate::host::netns_ref;
use crate::{BridgeName, Error};

/// Looks at the interfaces by which frames leave and enter the bridge.
///
/// # Errors
/// When there is no such bridge of a router's, or this process may not look.
pub fn sniff_uplinks(bridge: &BridgeName) -> Result<Vec<Sniffer>, Error> {
    Ok(Sniffer::uplinks(bridge)?)
}

/// Looks at a container's interface in the network; `None` when it has none.
///
/// # Errors
/// When there is no such container, or this process may not look.
pub fn sniff_container(container: &NetnsTarget, ifname: &str) -> Result<Option<Sniffer>, Error> {
    let Ok(ifname) = ifname.parse() else { return Ok(None) };
    Ok(Sniffer::container(&netns_ref(container), &ifname)?)
}
