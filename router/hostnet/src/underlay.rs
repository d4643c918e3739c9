//! The MTU of the network below the overlay, as far as this host's interfaces tell.
//!
//! Owns the choice of interfaces that count. Does not measure paths: that is the data plane's task, and what it measures
//! overrides this first guess.

use std::collections::BTreeSet;

use crate::bridge::{is_marked, open_host};
use crate::error::HostError;
use crate::netlink::link::Link;

/// The MTU in bytes to start from when no interface tells: Ethernet's.
pub const UNDERLAY_MTU_DEFAULT: u32 = 1500;

/// How the bridges of container and machine runtimes are called, by the beginning of their names. A bridge of any other
/// name may well hold the host's own address.
pub(crate) const RUNTIME_BRIDGE_PREFIXES: [&str; 10] =
    ["docker", "br-", "cni", "podman", "nerdctl", "kube-bridge", "virbr", "lxcbr", "lxdbr", "incusbr"];

/// Kinds of interfaces that carry other overlays or nothing at all.
const FOREIGN_OVERLAY_KINDS: [&str; 4] = ["vxlan", "geneve", "dummy", "ifb"];

/// The smallest MTU, in bytes, of the interfaces by which other hosts can be reached, or [`UNDERLAY_MTU_DEFAULT`] when
/// there are none.
///
/// An interface counts when it is up, is not loopback, and has an address of global scope. Ports of bridges, containers'
/// host ends among them, have none. Our own interfaces, the bridges of container runtimes and the devices of
/// other overlays do not count even with an address. Tunnels such as WireGuard do: peers may be behind them.
pub fn underlay_mtu() -> Result<u32, HostError> {
    let mut host = open_host()?;
    let addresses = host.addresses().map_err(|error| error.during("list the addresses of", "the host"))?;
    let links = host.links().map_err(|error| error.during("list", "the host's interfaces"))?;
    let addressed: BTreeSet<_> =
        addresses.iter().filter(|entry| entry.is_global).map(|entry| entry.link).collect();
    let counted = links.iter().filter(|link| addressed.contains(&link.index) && can_reach_hosts(link));
    Ok(counted.map(|link| link.mtu).min().unwrap_or(UNDERLAY_MTU_DEFAULT))
}

fn can_reach_hosts(link: &Link) -> bool {
    let of_runtime =
        link.kind == "bridge" && RUNTIME_BRIDGE_PREFIXES.iter().any(|prefix| link.name.starts_with(prefix));
    let of_other_overlay = FOREIGN_OVERLAY_KINDS.contains(&link.kind.as_str());
    link.is_up && !link.is_loopback && !is_marked(link) && !of_runtime && !of_other_overlay
}
