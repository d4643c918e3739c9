//! Where `mesh capture` looks. The router itself has no part in it: packet sockets on the interfaces see what the data plane and
//! the kernel's paths carry alike, and cost nothing when nobody looks.

use mesh_hostnet::Sniffer;

use crate::{BridgeName, Error};

/// Looks at the interfaces by which frames leave and enter the bridge.
///
/// # Errors
/// When there is no such bridge of a router's, or this process may not look.
pub fn sniff_uplinks(bridge: &BridgeName) -> Result<Vec<Sniffer>, Error> {
    Ok(Sniffer::uplinks(bridge)?)
}

/// Looks at one port of the bridge; `None` when there is no such interface.
///
/// # Errors
/// When this process may not look.
pub fn sniff_port(port: &str) -> Result<Option<Sniffer>, Error> {
    Ok(Sniffer::port(port)?)
}
