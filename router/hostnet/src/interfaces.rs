//! Which interfaces of a container are ours. Changes nothing.

use ipnet::IpNet;

use crate::bridge::{self, Bridge};
use crate::error::HostError;
use crate::name::InterfaceName;
use crate::namespace::Netns;
use crate::veth::{self, Found, Pair, Sides};

/// Whether the calling thread's namespace has an interface of this name.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn has_interface(name: &InterfaceName) -> Result<bool, HostError> {
    let link = bridge::open_host()?.link_named(name.as_str());
    Ok(link.map_err(|error| error.during("look for", name))?.is_some())
}

/// The interfaces, by their names inside, by which the container in `netns` is attached to the bridge, sorted.
pub fn interfaces_of(bridge: &Bridge, netns: &Netns) -> Result<Vec<InterfaceName>, HostError> {
    let pairs = pairs(&mut Sides::open(netns)?, bridge, netns)?;
    Ok(pairs.into_iter().map(|(ifname, _)| ifname).collect())
}

/// All addresses of the interfaces by which the container in `netns` is attached to the bridge, sorted, without the
/// link-local ones that the kernel gives itself.
pub fn addresses_of(bridge: &Bridge, netns: &Netns) -> Result<Vec<IpNet>, HostError> {
    let mut sides = Sides::open(netns)?;
    let mut addresses = Vec::new();
    for (_, pair) in pairs(&mut sides, bridge, netns)? {
        addresses.extend(veth::addresses_of(&mut sides.inside, &pair.inside)?);
    }
    addresses.sort_unstable();
    Ok(addresses)
}

fn pairs(sides: &mut Sides, bridge: &Bridge, netns: &Netns) -> Result<Vec<(InterfaceName, Pair)>, HostError> {
    let bridge = bridge::find(&mut sides.host, &bridge.name)?;
    let links =
        sides.inside.links().map_err(|error| error.during("list the interfaces of", "the container"))?;
    let mut ours = Vec::new();
    for link in links.iter().filter(|link| link.kind == "veth") {
        let Ok(ifname) = link.name.parse::<InterfaceName>() else { continue };
        let host_name = veth::host_end_name(netns.id(), &ifname);
        if let Found::Pair(pair) = veth::find(sides, &host_name, &ifname)?
            && pair.host.master == Some(bridge.index)
        {
            ours.push((ifname, pair));
        }
    }
    ours.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(ours)
}
