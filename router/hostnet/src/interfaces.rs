//! Which interfaces of a container are ours. Changes nothing.

use crate::bridge::{self, Bridge};
use crate::error::HostError;
use crate::name::InterfaceName;
use crate::namespace::Netns;
use crate::veth::{self, Found, Sides};

/// The interfaces, by their names inside, by which the container in `netns` is attached to the bridge, sorted.
pub fn interfaces_of(bridge: &Bridge, netns: &Netns) -> Result<Vec<InterfaceName>, HostError> {
    let mut sides = Sides::open(netns)?;
    let bridge = bridge::find(&mut sides.host, &bridge.name)?;
    let links =
        sides.inside.links().map_err(|error| error.during("list the interfaces of", "the container"))?;
    let mut ours = Vec::new();
    for link in links.iter().filter(|link| link.kind == "veth") {
        let Ok(ifname) = link.name.parse::<InterfaceName>() else { continue };
        let host_name = veth::host_end_name(netns.id(), &ifname);
        if let Found::Pair(pair) = veth::find(&mut sides, &host_name, &ifname)?
            && pair.host.master == Some(bridge.index)
        {
            ours.push(ifname);
        }
    }
    ours.sort_unstable();
    Ok(ours)
}
