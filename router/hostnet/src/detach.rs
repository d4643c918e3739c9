//! Detaching a container: single addresses, or its interface with all of them.
//!
//! Owns the rule that the last address takes the interface with it. Leaves alone what is not ours.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::bridge::{self, Bridge, is_ours, mark};
use crate::error::HostError;
use crate::firewall::Firewall;
use crate::name::InterfaceName;
use crate::namespace::Netns;
use crate::netlink::link::Link;
use crate::undo::Undo;
use crate::veth::{self, Found, Pair, Sides};

/// Removes addresses of an attached container; with an empty list all of them. When none is left, the interface goes,
/// and the container is detached. Returns the addresses removed, sorted.
///
/// # Errors
/// [`HostError::NotAttached`]; [`HostError::AddressNotThere`], and then nothing is removed, nor after any other error.
pub fn detach(
    bridge: &Bridge,
    netns: &Netns,
    ifname: &InterfaceName,
    addresses: &[IpNet],
) -> Result<Vec<IpNet>, HostError> {
    detach_with(None, bridge, netns, ifname, addresses)
}

impl Firewall {
    /// The same as [`detach`], with the guard of the port following what the container has left.
    pub fn detach(
        &self,
        bridge: &Bridge,
        netns: &Netns,
        ifname: &InterfaceName,
        addresses: &[IpNet],
    ) -> Result<Vec<IpNet>, HostError> {
        detach_with(Some(self), bridge, netns, ifname, addresses)
    }

    /// Removes the port of a container, and with it the container's end, without a look into the container; the guard of the
    /// port, too, if that has gone already.
    pub fn cut_off(&self, bridge: &Bridge, port: &InterfaceName) -> Result<(), HostError> {
        let mut host = bridge::open_host()?;
        let link = host.link_named(port.as_str()).map_err(|error| error.during("look for", port))?;
        if let Some(link) = link.filter(|link| is_port_of(link, bridge)) {
            host.remove_link(link.index).map_err(|error| error.during("remove", port))?;
        }
        self.release(port);
        Ok(())
    }
}

fn detach_with(
    firewall: Option<&Firewall>,
    bridge: &Bridge,
    netns: &Netns,
    ifname: &InterfaceName,
    addresses: &[IpNet],
) -> Result<Vec<IpNet>, HostError> {
    let mut sides = Sides::open(netns)?;
    let bridge = bridge::find(&mut sides.host, &bridge.name)?;
    let host_name = veth::host_end_name(netns.id(), ifname);
    let pair = match veth::find(&mut sides, &host_name, ifname)? {
        Found::Pair(pair) if is_port_of(&pair.host, &bridge) => pair,
        // The container's end was renamed inside: it can still be taken away as a whole.
        Found::HostTaken(host) if addresses.is_empty() && is_port_of(&host, &bridge) => {
            remove(&mut sides, &host)?;
            release(firewall, &host_name);
            return Ok(Vec::new());
        }
        Found::InsideTaken | Found::Pair(_) | Found::HostTaken(_) | Found::Nothing => {
            return Err(HostError::NotAttached { ifname: ifname.clone() });
        }
    };
    let present: BTreeSet<_> = veth::addresses_of(&mut sides.inside, &pair.inside)?.into_iter().collect();
    let unwanted: BTreeSet<_> = addresses.iter().copied().collect();
    if let Some(&address) = unwanted.difference(&present).next() {
        return Err(HostError::AddressNotThere { address, ifname: ifname.clone() });
    }
    if unwanted.is_empty() || unwanted == present {
        remove(&mut sides, &pair.host)?;
        release(firewall, &host_name);
        return Ok(present.into_iter().collect());
    }
    remove_addresses(&mut sides, &pair, ifname, &unwanted)?;
    if let Some(firewall) = firewall
        && let Some(mut guard) = firewall.guards().remove(&host_name)
    {
        guard.addresses.retain(|address| !unwanted.contains(address));
        firewall.guard(&host_name, guard);
    }
    Ok(unwanted.into_iter().collect())
}

/// The port is gone, and with it all that it could send.
fn release(firewall: Option<&Firewall>, port: &InterfaceName) {
    if let Some(firewall) = firewall {
        firewall.release(port);
    }
}

fn is_port_of(host: &Link, bridge: &Bridge) -> bool {
    is_ours(host, mark::CONTAINER, "veth") && host.master.is_none_or(|master| master == bridge.index)
}

/// Removing one end of a pair removes the other.
fn remove(sides: &mut Sides, host: &Link) -> Result<(), HostError> {
    sides.host.remove_link(host.index).map_err(|error| error.during("remove", &host.name))
}

fn remove_addresses(
    sides: &mut Sides,
    pair: &Pair,
    ifname: &InterfaceName,
    unwanted: &BTreeSet<IpNet>,
) -> Result<(), HostError> {
    let mut undo = Undo::new();
    let index = pair.inside.index;
    for &address in unwanted {
        let removed = sides.inside.remove_address(index, address);
        if let Err(error) = removed {
            return Err(undo.roll_back(sides, error.during("remove an address from", ifname)));
        }
        let name = ifname.clone();
        undo.push(move |sides: &mut Sides| {
            let added = sides.inside.add_address(index, address);
            added.map_err(|error| error.during("give back an address to", &name))
        });
    }
    Ok(())
}
