//! The pair of interfaces that joins a container to the bridge, seen from both ends.
//!
//! Owns the name of the host end, which is computed and not stored: whoever knows the namespace and the interface in it
//! finds the host end again, after a crash, too. Does not make or remove the pair.

use std::fmt::Write as _;

use ipnet::IpNet;

use crate::bridge::{mark, open_host};
use crate::error::HostError;
use crate::mac::{MacAddress, fnv1a_48};
use crate::name::InterfaceName;
use crate::namespace::{Netns, NetnsId};
use crate::netlink::Netlink;
use crate::netlink::link::Link;

const HOST_END_PREFIX: &str = "mv";
const HOST_END_DIGITS: usize = 12;

/// Sockets in both namespaces.
pub(crate) struct Sides {
    pub(crate) host: Netlink,
    pub(crate) inside: Netlink,
}

impl Sides {
    pub(crate) fn open(netns: &Netns) -> Result<Self, HostError> {
        let inside =
            netns.run(Netlink::open)?.map_err(|error| error.during("open a socket to", "rtnetlink"))?;
        Ok(Self { host: open_host()?, inside })
    }
}

/// A pair that joins a container to the host, both ends as they are now.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) host: Link,
    pub(crate) inside: Link,
    /// The address of the inner end.
    pub(crate) mac: MacAddress,
}

/// What is found under the names of a pair.
pub(crate) enum Found {
    /// Both ends, of one pair that is ours.
    Pair(Pair),
    /// Neither end.
    Nothing,
    /// Something of the inner name that is not ours.
    InsideTaken,
    /// Our host end, or another's interface of that name, without the inner end.
    HostTaken(Link),
}

/// Looks for the pair of this namespace and interface.
pub(crate) fn find(
    sides: &mut Sides,
    name: &InterfaceName,
    ifname: &InterfaceName,
) -> Result<Found, HostError> {
    let host = sides.host.link_named(name.as_str()).map_err(|error| error.during("look for", name))?;
    let inside =
        sides.inside.link_named(ifname.as_str()).map_err(|error| error.during("look for", ifname))?;
    Ok(match (host, inside) {
        (Some(host), Some(inside @ Link { mac: Some(mac), .. })) if is_our_pair(&host, &inside) => {
            Found::Pair(Pair { host, inside, mac })
        }
        (_, Some(_)) => Found::InsideTaken,
        (Some(host), None) => Found::HostTaken(host),
        (None, None) => Found::Nothing,
    })
}

/// A host end without a mark is one whose router was killed right after making it; its name is proof enough.
fn is_our_pair(host: &Link, inside: &Link) -> bool {
    let marked = host.alias == mark::CONTAINER || host.alias.is_empty();
    let both_veth = host.kind == "veth" && inside.kind == "veth";
    marked && both_veth && host.peer == Some(inside.index) && inside.peer == Some(host.index)
}

/// Whether an interface without our mark has the name of a host end.
pub(crate) fn is_host_end_name(name: &str) -> bool {
    name.strip_prefix(HOST_END_PREFIX).is_some_and(|digits| {
        digits.len() == HOST_END_DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The name of the host end: `mv` and 48 bits of a hash over namespace and interface. It must not change between
/// versions of the router.
#[must_use]
pub fn host_end_name(netns: NetnsId, ifname: &InterfaceName) -> InterfaceName {
    let (device, inode) = netns.parts();
    let bytes = device.to_be_bytes().into_iter().chain(inode.to_be_bytes()).chain(ifname.as_str().bytes());
    let mut name = HOST_END_PREFIX.to_owned();
    write!(name, "{:012x}", fnv1a_48(bytes)).expect("writing to a string does not fail");
    InterfaceName::derived(name)
}

/// The addresses of the container's interface, but for the link-local one that the kernel gives itself.
pub(crate) fn addresses_of(inside: &mut Netlink, link: &Link) -> Result<Vec<IpNet>, HostError> {
    let all = inside.addresses().map_err(|error| error.during("list the addresses of", &link.name))?;
    let is_here = |entry: &&crate::netlink::address::LinkAddress| entry.link == link.index && entry.is_global;
    let mut addresses: Vec<_> = all.iter().filter(is_here).map(|entry| entry.address).collect();
    addresses.sort_unstable();
    Ok(addresses)
}
