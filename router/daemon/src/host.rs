//! Changes to the host's network on behalf of clients: one at a time, off the shell's thread.

use std::sync::Arc;

use ipnet::IpNet;
use mesh_api::{AttachDocument, DetachDocument, ErrorKind, Failure, NetnsTarget, Response};
use mesh_hostnet::{AttachSpec, Bridge, HostError, InterfaceName, Netns, NetnsRef};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::info;

use crate::control::Answer;
use crate::error::failure_of;

/// The host's side of the overlay.
#[derive(Clone)]
pub(crate) struct Host {
    bridge: Arc<Bridge>,
    mtu: u32,
    /// Held while a change is under way.
    turn: Arc<Mutex<()>>,
}

impl Host {
    pub(crate) fn new(bridge: Bridge, mtu: u32) -> Self {
        Self { bridge: Arc::new(bridge), mtu, turn: Arc::default() }
    }

    /// Attaches a container and answers.
    pub(crate) fn attach(
        &self,
        container: NetnsTarget,
        addresses: Vec<IpNet>,
        ifname: String,
        multicast_route: bool,
        answer: Answer,
    ) {
        let mtu = self.mtu;
        self.change(answer, move |bridge| {
            let ifname: InterfaceName = ifname.parse().map_err(|error: mesh_hostnet::NameError| {
                Failure::new(ErrorKind::Invalid, error.to_string())
            })?;
            if addresses.is_empty() {
                return Err(Failure::new(ErrorKind::Unsupported, "an address is needed")
                    .with_hint("this version does not choose addresses: give one, as in 10.32.0.1/12"));
            }
            let netns = Netns::open(&netns_ref(&container)).map_err(|error| failure_of(&error))?;
            let spec = AttachSpec { ifname, addresses, mtu, multicast_route };
            let attached = mesh_hostnet::attach(bridge, &netns, &spec).map_err(|error| failure_of(&error))?;
            info!(%container, interface = %attached.interface, addresses = ?attached.addresses, "attached");
            Ok(Response::document(&AttachDocument {
                container: container.to_string(),
                interface: attached.interface.to_string(),
                mac: attached.mac.to_string(),
                addresses: attached.addresses,
                names: Vec::new(),
            }))
        });
    }

    /// Detaches a container, wholly or some addresses of it, and answers.
    pub(crate) fn detach(&self, container: NetnsTarget, addresses: Vec<IpNet>, answer: Answer) {
        self.change(answer, move |bridge| {
            let netns = Netns::open(&netns_ref(&container)).map_err(|error| failure_of(&error))?;
            let removed = detach(bridge, &netns, &addresses).map_err(|error| failure_of(&error))?;
            info!(%container, addresses = ?removed, "detached");
            let document = DetachDocument { container: container.to_string(), addresses: removed };
            Ok(Response::document(&document))
        });
    }

    /// Waits for a change under way; none begins while the guard lives.
    pub(crate) async fn finish(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    fn change(
        &self,
        answer: Answer,
        work: impl FnOnce(&Bridge) -> Result<Response, Failure> + Send + 'static,
    ) {
        let Self { bridge, turn, .. } = self.clone();
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            let done = tokio::task::spawn_blocking(move || work(&bridge)).await;
            answer.send(match done {
                Ok(Ok(response)) => response,
                Ok(Err(failure)) => failure.into(),
                Err(_panicked) => Failure::new(ErrorKind::Internal, "the change to the host failed").into(),
            });
        });
    }
}

/// Detaches from whichever of our interfaces the container has.
fn detach(bridge: &Bridge, netns: &Netns, addresses: &[IpNet]) -> Result<Vec<IpNet>, HostError> {
    let interfaces = mesh_hostnet::interfaces_of(bridge, netns)?;
    let mut removed = Vec::new();
    if addresses.is_empty() {
        for interface in &interfaces {
            removed.extend(mesh_hostnet::detach(bridge, netns, interface, &[])?);
        }
        if interfaces.is_empty() {
            return Err(HostError::NothingAttached);
        }
    }
    for address in addresses {
        let done =
            interfaces.iter().map(|interface| mesh_hostnet::detach(bridge, netns, interface, &[*address]));
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

fn netns_ref(container: &NetnsTarget) -> NetnsRef {
    match container {
        NetnsTarget::Name(name) => NetnsRef::Name(name.as_str().to_owned()),
        NetnsTarget::Path(path) => NetnsRef::Path(path.clone()),
        NetnsTarget::Pid(pid) => NetnsRef::Pid(*pid),
    }
}
