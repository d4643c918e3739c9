//! Addresses that each host has for itself, the same on all of them: on the bridge of the host, and a route to them in the
//! containers that are attached. Owns no service at these addresses, and does not keep them from the overlay: the data
//! plane does.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::bridge::{self, Bridge, open_host};
use crate::error::HostError;
use crate::netlink::Netlink;
use crate::sysctl::loosen_reverse_path;

/// Where an address of this host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPlace {
    /// The name of the interface.
    pub interface: String,
    /// The networks that this interface has addresses in, with the address itself.
    pub networks: Vec<IpNet>,
}

/// Puts a node-local address on the bridge, if it is not there. No other host learns of it, and no address of the host's
/// own is preferred less: it is of the link's scope.
///
/// The host has no route to the containers, and is to have none. So that queries from them are not taken for forged, the
/// bridge's reverse path filter is loosened where it is strict; answers leave by the bridge, to which whoever
/// answers binds its sockets.
///
/// # Errors
/// [`HostError::BridgeGone`], and what the kernel refuses.
pub fn add_node_local(bridge: &Bridge, address: Ipv4Addr) -> Result<(), HostError> {
    let mut host = open_host()?;
    let bridge = bridge::find(&mut host, &bridge.name)?;
    loosen_reverse_path(bridge.name.interface())?;
    let present = host.addresses().map_err(|error| error.during("list the addresses of", &bridge.name))?;
    let is_there = |entry: &crate::netlink::address::LinkAddress| {
        entry.link == bridge.index && entry.address.addr() == IpAddr::V4(address)
    };
    if present.iter().any(is_there) {
        return Ok(());
    }
    let added = host.add_link_scope_address(bridge.index, Ipv4Net::from(address));
    added.map_err(|error| error.during("add an address to", &bridge.name))
}

/// The interface of this host that has an address; `None` where none has.
///
/// # Errors
/// What the kernel refuses.
pub fn place_of(address: IpAddr) -> Result<Option<AddressPlace>, HostError> {
    find_place(|entry, _| entry == address)
}

/// The first IPv4 address of an interface, with its place; `None` where there is no such interface, or it has none.
///
/// # Errors
/// What the kernel refuses.
pub fn ipv4_of(interface: &str) -> Result<Option<(Ipv4Addr, AddressPlace)>, HostError> {
    let place = find_place(|entry, name| entry.is_ipv4() && name == interface)?;
    let first = place.as_ref().and_then(|place| {
        place.networks.iter().find_map(|net| match net {
            IpNet::V4(v4) => Some(v4.addr()),
            IpNet::V6(_) => None,
        })
    });
    Ok(first.zip(place))
}

fn find_place(is_meant: impl Fn(IpAddr, &str) -> bool) -> Result<Option<AddressPlace>, HostError> {
    let mut host: Netlink = open_host()?;
    let addresses = host.addresses().map_err(|error| error.during("list the addresses of", "the host"))?;
    let links = host.links().map_err(|error| error.during("list", "the host's interfaces"))?;
    let name_of = |index| links.iter().find(|link| link.index == index).map_or("", |link| link.name.as_str());
    let found = addresses.iter().find(|entry| is_meant(entry.address.addr(), name_of(entry.link)));
    Ok(found.map(|found| AddressPlace {
        interface: name_of(found.link).to_owned(),
        networks: addresses
            .iter()
            .filter(|entry| entry.link == found.link)
            .map(|entry| entry.address)
            .collect(),
    }))
}
