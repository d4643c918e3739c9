//! Attaching a container: a veth pair from the bridge into its namespace, addresses, and the route for groups.
//!
//! Owns the order of the steps and how each is undone. All that can be refused is refused before the first change; a
//! failure after that is undone, so that a call either does all or leaves no trace. Does not choose addresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::bridge::{self, Bridge, IPV6_MTU_MIN, MTU_MIN, PortKind, check_mtu};
use crate::error::HostError;
use crate::firewall::{Firewall, PortGuard};
use crate::mac::MacAddress;
use crate::name::InterfaceName;
use crate::namespace::Netns;
use crate::netlink::address::LinkAddress;
use crate::netlink::link::{LinkChange, VethPair};
use crate::sysctl::{self, Switch, ipv6_is_on};
use crate::undo::Undo;
use crate::veth::{self, Found, Pair, Sides};

/// How long to wait for the kernel to let frames through a new port, before the addresses are announced. It takes
/// about a millisecond; when it takes longer, the announcement is lost and neighbours ask for themselves.
const FORWARDING_TIME_MAX: Duration = Duration::from_millis(500);
const FORWARDING_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What a container is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachSpec {
    /// The interface's name inside.
    pub ifname: InterfaceName,
    /// Its Ethernet address; a random one when absent. An interface that is there already keeps its own.
    pub mac: Option<MacAddress>,
    /// Its addresses, each with the prefix length of its subnet.
    pub addresses: Vec<IpNet>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether IPv4 multicast is to leave by it, unless the container has a route for that.
    pub multicast_route: bool,
    /// A node-local address that is to be reached by it, unless the container has a route to that.
    pub node_local: Option<Ipv4Addr>,
}

/// What a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name inside.
    pub interface: InterfaceName,
    /// The interface's address inside.
    pub mac: MacAddress,
    /// All addresses that it has now, sorted, without the link-local one that the kernel gives itself.
    pub addresses: Vec<IpNet>,
    /// The name of the port on the bridge.
    pub host_interface: InterfaceName,
}

/// Attaches the container in `netns` to the bridge. A container that is attached by this interface already keeps it, and
/// gets the addresses that it lacks.
///
/// # Errors
/// Refusals: [`HostError::UnusableAddress`], [`HostError::DuplicateAddress`], [`HostError::MtuOutOfRange`],
/// [`HostError::OwnNamespace`], [`HostError::BridgeGone`], [`HostError::InterfaceInUse`],
/// [`HostError::HostInterfaceInUse`], [`HostError::AddressInUse`], [`HostError::Ipv6Off`], [`HostError::PortTaken`].
/// Failures of the kernel are undone, and the host is as it was, unless the error is [`HostError::UndoIncomplete`].
pub fn attach(bridge: &Bridge, netns: &Netns, spec: &AttachSpec) -> Result<Attachment, HostError> {
    attach_watched(None, bridge, netns, spec, &mut |_| Ok(()))
}

impl Firewall {
    /// The same as [`attach`], with a guard on the container's port before it leads anywhere.
    pub fn attach(&self, bridge: &Bridge, netns: &Netns, spec: &AttachSpec) -> Result<Attachment, HostError> {
        attach_watched(Some(self), bridge, netns, spec, &mut |_| Ok(()))
    }
}

/// Checks what can be known before addresses are chosen: that this is a container's namespace, and that it can have these.
///
/// # Errors
/// [`HostError::OwnNamespace`], [`HostError::UnusableAddress`], [`HostError::DuplicateAddress`].
pub fn check_container(netns: &Netns, addresses: &[IpNet]) -> Result<(), HostError> {
    crate::address::check_all(addresses)?;
    if netns.id() == Netns::current()?.id() { Err(HostError::OwnNamespace) } else { Ok(()) }
}

/// The steps of an attachment, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    CreatePair,
    GuardPort,
    JoinBridge,
    PrepareInside,
    AddAddresses,
    BringUp,
    BringUpLoopback,
    AddMulticastRoute,
    AddNodeLocalRoute,
    Announce,
}

/// See [`attach`]. Before each step `watch` is asked, and may fail in its place.
fn attach_watched(
    firewall: Option<&Firewall>,
    bridge: &Bridge,
    netns: &Netns,
    spec: &AttachSpec,
    watch: &mut dyn FnMut(Step) -> Result<(), HostError>,
) -> Result<Attachment, HostError> {
    check(spec)?;
    check_container(netns, &spec.addresses)?;
    let mut sides = Sides::open(netns)?;
    let plan = plan(&mut sides, bridge, netns, spec)?;
    let mut work = Work { firewall, netns, spec, plan: &plan, sides: &mut sides, undo: Undo::new() };
    match work.carry_out(watch) {
        Ok(attachment) => Ok(attachment),
        Err(cause) => {
            let Work { sides, undo, .. } = work;
            Err(undo.roll_back(sides, cause))
        }
    }
}

/// Checks what needs no look at the host.
fn check(spec: &AttachSpec) -> Result<(), HostError> {
    crate::address::check_all(&spec.addresses)?;
    let has_ipv6 = spec.addresses.iter().any(|address| matches!(address, IpNet::V6(_)));
    check_mtu(spec.mtu, if has_ipv6 { IPV6_MTU_MIN } else { MTU_MIN })
}

/// What is to be done, found out before anything is.
struct Plan {
    bridge: Bridge,
    host_name: InterfaceName,
    present: Option<Pair>,
    missing: Vec<IpNet>,
    route_missing: bool,
    node_local_missing: Option<Ipv4Addr>,
    /// The index of `lo`, when it is down.
    loopback_down: Option<u32>,
}

fn plan(sides: &mut Sides, bridge: &Bridge, netns: &Netns, spec: &AttachSpec) -> Result<Plan, HostError> {
    let bridge = bridge::find(&mut sides.host, &bridge.name)?;
    let host_name = veth::host_end_name(netns.id(), &spec.ifname);
    let present = match veth::find(sides, &host_name, &spec.ifname)? {
        Found::Pair(pair) if pair.host.master.is_some_and(|master| master != bridge.index) => {
            return Err(HostError::PortTaken { port: host_name });
        }
        Found::Pair(pair) => Some(pair),
        Found::Nothing => None,
        Found::InsideTaken => return Err(HostError::InterfaceInUse { ifname: spec.ifname.clone() }),
        Found::HostTaken(_) => return Err(HostError::HostInterfaceInUse { name: host_name }),
    };
    let links = sides.inside.links().map_err(|error| error.during("list the interfaces of", netns.id()))?;
    let addresses =
        sides.inside.addresses().map_err(|error| error.during("list the addresses of", netns.id()))?;
    let own_index = present.as_ref().map(|pair| pair.inside.index);
    let name_of = |index| links.iter().find(|link| link.index == index).map_or("", |link| link.name.as_str());
    let missing = missing_addresses(&spec.addresses, &addresses, own_index, name_of)?;
    check_ipv6(netns, spec, present.is_some())?;
    let is_own_ipv6 = |entry: &LinkAddress| {
        Some(entry.link) == own_index && entry.is_global && matches!(entry.address, IpNet::V6(_))
    };
    if addresses.iter().any(is_own_ipv6) {
        // Below this the kernel ends IPv6 on the interface, and the addresses that it has would be lost.
        check_mtu(spec.mtu, IPV6_MTU_MIN)?;
    }
    let routed = !spec.multicast_route
        || sides
            .inside
            .has_multicast_route()
            .map_err(|error| error.during("list the routes of", netns.id()))?;
    let node_local_missing = match spec.node_local {
        Some(address) => {
            let routed = sides.inside.has_host_route(address);
            let routed = routed.map_err(|error| error.during("list the routes of", netns.id()))?;
            (!routed).then_some(address)
        }
        None => None,
    };
    let loopback_down = links.iter().find(|link| link.is_loopback && !link.is_up).map(|link| link.index);
    let route_missing = !routed;
    Ok(Plan { bridge, host_name, present, missing, route_missing, node_local_missing, loopback_down })
}

/// Those of `wanted` that are not on our interface yet; an error when one is elsewhere, or otherwise.
fn missing_addresses<'a>(
    wanted: &[IpNet],
    present: &[LinkAddress],
    own_index: Option<u32>,
    name_of: impl Fn(u32) -> &'a str,
) -> Result<Vec<IpNet>, HostError> {
    let mut missing = Vec::new();
    for &address in wanted {
        match present.iter().find(|entry| entry.address.addr() == address.addr()) {
            None => missing.push(address),
            Some(entry) if Some(entry.link) == own_index && entry.address == address => {}
            Some(entry) => {
                let interface = name_of(entry.link).to_owned();
                return Err(HostError::AddressInUse { address, present: entry.address, interface });
            }
        }
    }
    Ok(missing)
}

fn check_ipv6(netns: &Netns, spec: &AttachSpec, interface_exists: bool) -> Result<(), HostError> {
    let Some(&address) = spec.addresses.iter().find(|address| matches!(address, IpNet::V6(_))) else {
        return Ok(());
    };
    let interface = interface_exists.then_some(&spec.ifname);
    if netns.run(|| ipv6_is_on(interface))?? { Ok(()) } else { Err(HostError::Ipv6Off { address }) }
}

/// An attachment under way.
struct Work<'a> {
    firewall: Option<&'a Firewall>,
    netns: &'a Netns,
    spec: &'a AttachSpec,
    plan: &'a Plan,
    sides: &'a mut Sides,
    undo: Undo<Sides>,
}

impl Work<'_> {
    fn carry_out(
        &mut self,
        watch: &mut dyn FnMut(Step) -> Result<(), HostError>,
    ) -> Result<Attachment, HostError> {
        let (spec, plan) = (self.spec, self.plan);
        watch(Step::CreatePair)?;
        let pair = match &plan.present {
            Some(pair) => pair.clone(),
            None => self.create_pair()?,
        };
        watch(Step::GuardPort)?;
        self.guard_port(&pair)?;
        watch(Step::JoinBridge)?;
        self.join_bridge(&pair)?;
        watch(Step::PrepareInside)?;
        self.prepare_inside(&pair)?;
        for &address in &plan.missing {
            watch(Step::AddAddresses)?;
            self.add_address(&pair, address)?;
        }
        watch(Step::BringUp)?;
        self.bring_up(&pair)?;
        if let Some(index) = plan.loopback_down {
            watch(Step::BringUpLoopback)?;
            self.bring_up_loopback(index)?;
        }
        if plan.route_missing {
            watch(Step::AddMulticastRoute)?;
            self.add_multicast_route(&pair)?;
        }
        if let Some(address) = plan.node_local_missing {
            watch(Step::AddNodeLocalRoute)?;
            self.add_node_local_route(&pair, address)?;
        }
        watch(Step::Announce)?;
        if !plan.missing.is_empty() {
            self.announce(&pair)?;
        }
        let addresses = veth::addresses_of(&mut self.sides.inside, &pair.inside)?;
        Ok(Attachment {
            interface: spec.ifname.clone(),
            mac: pair.mac,
            addresses,
            host_interface: plan.host_name.clone(),
        })
    }

    fn create_pair(&mut self) -> Result<Pair, HostError> {
        let name = &self.plan.host_name;
        let random = || MacAddress::random().map_err(|source| HostError::Random { source });
        let pair = VethPair {
            name,
            mac: random()?,
            peer_name: &self.spec.ifname,
            peer_mac: self.spec.mac.map_or_else(random, Ok)?,
            peer_netns: self.netns.as_fd(),
            mtu: self.spec.mtu,
        };
        self.sides.host.create_veth(pair).map_err(|error| error.during("create the veth pair", name))?;
        let removed = name.clone();
        self.undo.push(move |sides: &mut Sides| remove_host_end(sides, &removed));
        match veth::find(self.sides, name, &self.spec.ifname)? {
            Found::Pair(pair) => Ok(pair),
            // Somebody else has taken it away, or renamed an end, in this very moment.
            Found::Nothing | Found::InsideTaken | Found::HostTaken(_) => {
                Err(HostError::HostInterfaceInUse { name: name.clone() })
            }
        }
    }

    /// Lets the container send from what it is given now, and was given before. What else it has it gave itself, unless
    /// nobody knows what it was given.
    fn guard_port(&mut self, pair: &Pair) -> Result<(), HostError> {
        let Some(firewall) = self.firewall else { return Ok(()) };
        let (firewall, port) = (firewall.clone(), self.plan.host_name.clone());
        let before = firewall.guards().remove(&port);
        let mut addresses: BTreeSet<_> = match &before {
            Some(before) => before.addresses.clone(),
            None => veth::addresses_of(&mut self.sides.inside, &pair.inside)?.into_iter().collect(),
        };
        addresses.extend(&self.spec.addresses);
        let guard = PortGuard { mac: pair.mac, addresses };
        if before.as_ref() == Some(&guard) {
            return Ok(());
        }
        firewall.guard(&port, guard);
        self.undo.push(move |_| {
            match before {
                Some(before) => firewall.guard(&port, before),
                None => firewall.release(&port),
            }
            Ok(())
        });
        Ok(())
    }

    fn join_bridge(&mut self, pair: &Pair) -> Result<(), HostError> {
        let Plan { bridge, host_name, .. } = self.plan;
        if self.plan.present.is_some() {
            let before = pair.host.clone();
            self.undo.push(move |sides: &mut Sides| {
                let back = LinkChange {
                    mtu: Some(before.mtu),
                    alias: Some(&before.alias),
                    master: Some(before.master.unwrap_or(0)),
                    is_up: Some(before.is_up),
                    ..LinkChange::default()
                };
                sides
                    .host
                    .change_link(before.index, &back)
                    .map_err(|error| error.during("restore", &before.name))
            });
        }
        bridge::join(&mut self.sides.host, bridge, host_name, PortKind::Container, self.spec.mtu)
    }

    fn prepare_inside(&mut self, pair: &Pair) -> Result<(), HostError> {
        let ifname = &self.spec.ifname;
        self.netns.run(|| {
            let switches = [Switch::ArpNotify, Switch::NdiscNotify, Switch::PromoteSecondaries];
            switches.into_iter().try_for_each(|switch| switch.turn_on(ifname))?;
            sysctl::heed_no_routers(ifname)?;
            sysctl::distrust_neighbours(ifname)
        })??;
        if pair.inside.mtu == self.spec.mtu {
            return Ok(());
        }
        let (name, index, mtu) = (ifname.clone(), pair.inside.index, pair.inside.mtu);
        self.undo.push(move |sides| {
            let change = LinkChange { mtu: Some(mtu), ..LinkChange::default() };
            sides
                .inside
                .change_link(index, &change)
                .map_err(|error| error.during("restore the MTU of", &name))
        });
        let change = LinkChange { mtu: Some(self.spec.mtu), ..LinkChange::default() };
        self.sides.inside.change_link(index, &change).map_err(|error| error.during("set the MTU of", ifname))
    }

    fn add_address(&mut self, pair: &Pair, address: IpNet) -> Result<(), HostError> {
        let index = pair.inside.index;
        let added = self.sides.inside.add_address(index, address);
        added.map_err(|error| error.during("add an address to", &self.spec.ifname))?;
        let name = self.spec.ifname.clone();
        self.undo.push(move |sides: &mut Sides| {
            let removed = sides.inside.remove_address(index, address);
            removed.map_err(|error| error.during("remove an address from", &name))
        });
        Ok(())
    }

    fn bring_up(&mut self, pair: &Pair) -> Result<(), HostError> {
        if pair.inside.is_up {
            return Ok(());
        }
        let change = LinkChange { is_up: Some(true), ..LinkChange::default() };
        let up = self.sides.inside.change_link(pair.inside.index, &change);
        up.map_err(|error| error.during("bring up", &self.spec.ifname))?;
        let (name, index) = (self.spec.ifname.clone(), pair.inside.index);
        self.undo.push(move |sides| {
            let down = LinkChange { is_up: Some(false), ..LinkChange::default() };
            sides.inside.change_link(index, &down).map_err(|error| error.during("take down", &name))
        });
        Ok(())
    }

    fn bring_up_loopback(&mut self, index: u32) -> Result<(), HostError> {
        let change = LinkChange { is_up: Some(true), ..LinkChange::default() };
        let up = self.sides.inside.change_link(index, &change);
        up.map_err(|error| error.during("bring up", "the container's lo"))?;
        self.undo.push(move |sides: &mut Sides| {
            let down = LinkChange { is_up: Some(false), ..LinkChange::default() };
            sides
                .inside
                .change_link(index, &down)
                .map_err(|error| error.during("take down", "the container's lo"))
        });
        Ok(())
    }

    fn add_multicast_route(&mut self, pair: &Pair) -> Result<(), HostError> {
        let index = pair.inside.index;
        let added = self.sides.inside.add_multicast_route(index);
        added.map_err(|error| error.during("add the multicast route by", &self.spec.ifname))?;
        let name = self.spec.ifname.clone();
        self.undo.push(move |sides: &mut Sides| {
            let removed = sides.inside.remove_multicast_route(index);
            removed.map_err(|error| error.during("remove the multicast route by", &name))
        });
        Ok(())
    }

    fn add_node_local_route(&mut self, pair: &Pair, address: Ipv4Addr) -> Result<(), HostError> {
        let index = pair.inside.index;
        let added = self.sides.inside.add_host_route(index, address);
        added.map_err(|error| error.during("add the route to the name server by", &self.spec.ifname))?;
        let name = self.spec.ifname.clone();
        self.undo.push(move |sides: &mut Sides| {
            let removed = sides.inside.remove_host_route(index, address);
            removed.map_err(|error| error.during("remove the route to the name server by", &name))
        });
        Ok(())
    }

    /// Tells the neighbours which MAC has the addresses now, so that none goes on with that of an earlier container.
    ///
    /// The kernel announces when an interface comes up, but then the bridge does not pass frames of the new port yet.
    /// Setting the MAC, to the one that it is, makes the kernel announce again (`inetdev_event`, `ndisc_netdev_event`).
    fn announce(&mut self, pair: &Pair) -> Result<(), HostError> {
        let deadline = Instant::now() + FORWARDING_TIME_MAX;
        let port = pair.host.index;
        let looked = |error: crate::error::KernelError| error.during("look for", &self.plan.host_name);
        while !self.sides.host.link_at(port).map_err(looked)?.is_some_and(|link| link.is_forwarding) {
            if Instant::now() >= deadline {
                tracing::debug!(port = %self.plan.host_name, "the port does not forward yet; addresses are not announced");
                return Ok(());
            }
            thread::sleep(FORWARDING_POLL_INTERVAL);
        }
        let change = LinkChange { mac: Some(pair.mac), ..LinkChange::default() };
        let set = self.sides.inside.change_link(pair.inside.index, &change);
        set.map_err(|error| error.during("announce the addresses of", &self.spec.ifname))
    }
}

/// Removing one end of a pair removes the other, with its addresses and routes.
fn remove_host_end(sides: &mut Sides, name: &InterfaceName) -> Result<(), HostError> {
    let link = sides.host.link_named(name.as_str()).map_err(|error| error.during("look for", name))?;
    match link {
        Some(link) => sides.host.remove_link(link.index).map_err(|error| error.during("remove", name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
