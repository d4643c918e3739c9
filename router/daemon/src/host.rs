//! Changes to the host's network on behalf of clients, off the shell's thread: those of single containers beside each other,
//! those of all alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_api::{ErrorKind, Failure, NetnsTarget};
use mesh_hostnet::{
    AttachSpec, Attachment, Bridge, Firewall, HostError, InterfaceName, MacAddress, Netns, NetnsRef,
};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use crate::error::failure_of;
use crate::mtu::Mtu;

/// Where a container is now.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) netns: Arc<Netns>,
    /// By which its namespace can be opened again, as long as it is there.
    pub(crate) target: NetnsTarget,
}

/// The interface that a container is to have.
#[derive(Debug)]
pub(crate) struct Interface {
    /// Its name inside.
    pub(crate) ifname: InterfaceName,
    pub(crate) mac: MacAddress,
    pub(crate) addresses: Vec<IpNet>,
    /// Whether it sends IPv4 multicast by it.
    pub(crate) multicast_route: bool,
    /// The address of the host's name server, if it is to reach that.
    pub(crate) node_local: Option<Ipv4Addr>,
}

/// The host's side of the overlay.
#[derive(Clone)]
pub(crate) struct Host {
    bridge: Arc<Bridge>,
    firewall: Firewall,
    mtu: Mtu,
    /// Read while a container's change is under way, written while one of all is. Most of its time a change waits for the
    /// kernel, so that several at once take little longer than one.
    turn: Arc<RwLock<()>>,
}

impl Host {
    pub(crate) fn new(bridge: Bridge, firewall: Firewall, mtu: Mtu) -> Self {
        Self { bridge: Arc::new(bridge), firewall, mtu, turn: Arc::default() }
    }

    /// The bridge that containers are joined to.
    pub(crate) fn bridge(&self) -> Arc<Bridge> {
        Arc::clone(&self.bridge)
    }

    /// Refuses what can be refused before addresses are chosen.
    pub(crate) async fn check(&self, netns: Arc<Netns>, addresses: Vec<IpNet>) -> Result<(), Failure> {
        look(move || mesh_hostnet::check_container(&netns, &addresses)).await
    }

    /// The ports of the bridge that lead to containers.
    pub(crate) async fn ports(&self) -> Result<BTreeSet<String>, Failure> {
        let bridge = Arc::clone(&self.bridge);
        look(move || Ok(mesh_hostnet::attachments(&bridge)?.into_iter().collect())).await
    }

    /// Attaches a container.
    pub(crate) async fn attach(&self, place: Place, interface: Interface) -> Result<Attachment, Failure> {
        let mtu = self.mtu.clone();
        self.change(move |bridge, firewall| {
            let Interface { ifname, mac, addresses, multicast_route, node_local } = interface;
            let spec =
                AttachSpec { ifname, mac: Some(mac), addresses, mtu: mtu.get(), multicast_route, node_local };
            let attached = firewall.attach(bridge, &place.netns, &spec)?;
            mtu.joined(&place.target, attached.interface.as_str());
            Ok(attached)
        })
        .await
    }

    /// Has an interface that an earlier life of this router has attached follow the overlay's MTU.
    pub(crate) async fn adopt(&self, place: Place, ifname: InterfaceName) -> Result<(), Failure> {
        let mtu = self.mtu.clone();
        self.change(move |bridge, _firewall| mtu.adopt(bridge, &place, &ifname)).await
    }

    /// Detaches a container, wholly when no address is named, and returns what was taken from it.
    pub(crate) async fn detach(
        &self,
        netns: Arc<Netns>,
        addresses: Vec<IpNet>,
    ) -> Result<Vec<IpNet>, Failure> {
        self.change(move |bridge, firewall| detach(firewall, bridge, &netns, &addresses)).await
    }

    /// Takes a container out of the network by its port on the bridge, without a look into the container.
    pub(crate) async fn cut_off(&self, port: InterfaceName) -> Result<(), Failure> {
        self.change(move |bridge, firewall| firewall.cut_off(bridge, &port)).await
    }

    /// Waits for changes under way; none begins while the guard lives.
    pub(crate) async fn finish(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.turn).write_owned().await
    }

    /// Does what concerns all containers when no other change is under way.
    pub(crate) async fn change_all(
        &self,
        work: impl FnOnce(&Bridge) + Send + 'static,
    ) -> Result<(), Failure> {
        let (turn, bridge) = (self.finish().await, self.bridge());
        look(move || {
            let _turn = turn;
            work(&bridge);
            Ok(())
        })
        .await
    }

    /// Makes the bridge again what it is to be, with these node-local addresses, if somebody has taken it down or away.
    /// Returns whether that was so.
    pub(crate) async fn restore(&self, node_local: &[Ipv4Addr]) -> Result<bool, Failure> {
        let bridge = self.bridge();
        if look(move || mesh_hostnet::is_standing(&bridge)).await? {
            return Ok(false);
        }
        let (turn, bridge, mtu) = (self.finish().await, self.bridge(), self.mtu.get());
        let node_local = node_local.to_vec();
        look(move || {
            let _turn = turn;
            mesh_hostnet::restore_bridge(&bridge, mtu)?;
            node_local.iter().try_for_each(|address| mesh_hostnet::add_node_local(&bridge, *address))?;
            Ok(true)
        })
        .await
    }

    /// Does what concerns one container, whose turn the caller has.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Bridge, &Firewall) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = Arc::clone(&self.turn).read_owned().await;
        let (bridge, firewall) = (Arc::clone(&self.bridge), self.firewall.clone());
        // Whoever asked may go away meanwhile; the turn ends with the work.
        look(move || {
            let _turn = turn;
            work(&bridge, &firewall)
        })
        .await
    }
}

/// Opens a network namespace.
pub(crate) async fn open(target: NetnsTarget) -> Result<Result<Place, HostError>, Failure> {
    look(move || {
        let netns = Netns::open(&netns_ref(&target));
        Ok(netns.map(|netns| Place { netns: Arc::new(netns), target }))
    })
    .await
}

pub(crate) fn netns_ref(container: &NetnsTarget) -> NetnsRef {
    match container {
        NetnsTarget::Name(name) => NetnsRef::Name(name.as_str().to_owned()),
        NetnsTarget::Path(path) => NetnsRef::Path(path.clone()),
        NetnsTarget::Pid(pid) => NetnsRef::Pid(*pid),
    }
}

/// Does what may take its time.
pub(crate) async fn look<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| failure_of(&error)),
        Err(_panicked) => {
            Err(Failure::new(ErrorKind::Internal, "the host's network was not looked at or changed"))
        }
    }
}

/// Detaches from whichever of our interfaces the container has.
fn detach(
    firewall: &Firewall,
    bridge: &Bridge,
    netns: &Netns,
    addresses: &[IpNet],
) -> Result<Vec<IpNet>, HostError> {
    let interfaces = mesh_hostnet::interfaces_of(bridge, netns)?;
    let mut removed = Vec::new();
    if addresses.is_empty() {
        for interface in &interfaces {
            removed.extend(firewall.detach(bridge, netns, interface, &[])?);
        }
        if interfaces.is_empty() {
            return Err(HostError::NothingAttached);
        }
    }
    for address in addresses {
        let done = interfaces.iter().map(|interface| firewall.detach(bridge, netns, interface, &[*address]));
        // Which interface bears the address only the attempt shows; the last refusal speaks for all.
        let mut outcome = Err(HostError::NothingAttached);
        for attempt in done {
            outcome = attempt;
            if !matches!(outcome, Err(HostError::AddressNotThere { .. })) {
                break;
            }
        }
        removed.extend(outcome?);
    }
    Ok(removed)
}
