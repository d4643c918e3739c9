//! Changes to the host's network on behalf of clients: one at a time, off the shell's thread.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_api::{AttachDocument, ErrorKind, Failure, NetnsTarget};
use mesh_hostnet::{AttachSpec, Bridge, Firewall, HostError, InterfaceName, Netns, NetnsRef};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::info;

use crate::error::failure_of;
use crate::mtu::Mtu;

/// The interface that a container is to have.
pub(crate) struct Interface {
    /// Its name inside.
    pub(crate) ifname: String,
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
    /// Held while a change is under way.
    turn: Arc<Mutex<()>>,
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
    pub(crate) async fn check(&self, container: NetnsTarget, addresses: Vec<IpNet>) -> Result<(), Failure> {
        let check = move || {
            let netns = Netns::open(&netns_ref(&container))?;
            mesh_hostnet::check_container(&netns, &addresses)
        };
        match tokio::task::spawn_blocking(check).await {
            Ok(checked) => checked.map_err(|error| failure_of(&error)),
            Err(_panicked) => Err(Failure::new(ErrorKind::Internal, "the container was not looked at")),
        }
    }

    /// Attaches a container.
    pub(crate) async fn attach(
        &self,
        container: NetnsTarget,
        addresses: Vec<IpNet>,
        interface: Interface,
    ) -> Result<AttachDocument, Failure> {
        let mtu = self.mtu.clone();
        self.change(move |bridge, firewall| {
            let Interface { ifname, multicast_route, node_local } = interface;
            let ifname: InterfaceName = ifname.parse().map_err(|error: mesh_hostnet::NameError| {
                Failure::new(ErrorKind::Invalid, error.to_string())
            })?;
            let netns = Netns::open(&netns_ref(&container)).map_err(|error| failure_of(&error))?;
            let spec = AttachSpec { ifname, addresses, mtu: mtu.get(), multicast_route, node_local };
            let attached = firewall.attach(bridge, &netns, &spec).map_err(|error| failure_of(&error))?;
            mtu.joined(&container, attached.interface.as_str());
            info!(%container, interface = %attached.interface, addresses = ?attached.addresses, "attached");
            Ok(AttachDocument {
                container: container.to_string(),
                interface: attached.interface.to_string(),
                mac: attached.mac.to_string(),
                addresses: attached.addresses,
                names: Vec::new(),
            })
        })
        .await
    }

    /// Detaches a container, wholly when no address is named, and returns what was taken from it.
    pub(crate) async fn detach(
        &self,
        container: NetnsTarget,
        addresses: Vec<IpNet>,
    ) -> Result<Vec<IpNet>, Failure> {
        self.change(move |bridge, firewall| {
            let netns = Netns::open(&netns_ref(&container)).map_err(|error| failure_of(&error))?;
            let removed = detach(firewall, bridge, &netns, &addresses).map_err(|error| failure_of(&error))?;
            info!(%container, addresses = ?removed, "detached");
            Ok(removed)
        })
        .await
    }

    /// The addresses that a container has in the network; none when it is not attached, or gone.
    pub(crate) async fn addresses(&self, container: NetnsTarget) -> Vec<IpNet> {
        let look = move |bridge: &Bridge, _: &Firewall| {
            let netns = Netns::open(&netns_ref(&container)).map_err(|error| failure_of(&error))?;
            mesh_hostnet::addresses_of(bridge, &netns).map_err(|error| failure_of(&error))
        };
        self.change(look).await.unwrap_or_default()
    }

    /// Waits for a change under way; none begins while the guard lives.
    pub(crate) async fn finish(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Does a piece of work when its turn has come, off the shell's thread.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Bridge, &Firewall) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let _turn = self.turn.lock().await;
        let (bridge, firewall) = (Arc::clone(&self.bridge), self.firewall.clone());
        let done = tokio::task::spawn_blocking(move || work(&bridge, &firewall)).await;
        done.unwrap_or_else(|_panicked| {
            Err(Failure::new(ErrorKind::Internal, "the change to the host failed"))
        })
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

pub(crate) fn netns_ref(container: &NetnsTarget) -> NetnsRef {
    match container {
        NetnsTarget::Name(name) => NetnsRef::Name(name.as_str().to_owned()),
        NetnsTarget::Path(path) => NetnsRef::Path(path.clone()),
        NetnsTarget::Pid(pid) => NetnsRef::Pid(*pid),
    }
}
