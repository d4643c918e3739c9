//! The overlay's MTU: what containers and bridge have at first, and how they follow the paths to the neighbours.
//!
//! They follow the path that takes most. Each neighbour measures its own direction of the same path, so that nobody sends
//! a container more than it takes; paths that take less are the data plane's matter, which tells senders so, packet by
//! packet. The least of all paths would make every container pay for the worst neighbour, and those whose paths are better
//! would go on sending them more than their interfaces let in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_api::NetnsTarget;
use mesh_dataplane::engine::MTU_RESERVE;
use mesh_dataplane::{Dataplane, LinkState};
use mesh_hostnet::{Bridge, HostError, InterfaceName, Netns};
use tracing::{debug, info, warn};

use crate::host::{Host, Place, netns_ref};
use crate::{Error, MtuSetting};

/// The least MTU that is chosen: what IPv6 needs (RFC 8200, section 5). What a path does not take of it goes in parts.
const AUTO_MIN: u32 = 1280;

/// Interfaces of containers that follow; those past so many keep the MTU that they were given.
const FOLLOWERS_MAX: usize = 4096;

/// The overlay's MTU, in bytes, and who has it.
#[derive(Clone, Default)]
pub(crate) struct Mtu(Arc<Inner>);

#[derive(Default)]
struct Inner {
    current: AtomicU32,
    /// What the bridge has; it follows a little later.
    applied: AtomicU32,
    /// The interfaces that were attached, or found attached, in this life of the router, by container.
    followers: Mutex<BTreeMap<Follower, NetnsTarget>>,
}

/// A container and its interface, as the user names them.
type Follower = (String, String);

/// What it is before any path is known: as given, or what the host's interfaces allow.
///
/// # Errors
/// When the interfaces cannot be listed.
pub(crate) fn at_first(setting: MtuSetting) -> Result<u32, Error> {
    match setting {
        MtuSetting::Fixed(mtu) => Ok(mtu),
        MtuSetting::Auto => {
            let reserve = u32::try_from(MTU_RESERVE).unwrap_or(u32::MAX);
            Ok(mesh_hostnet::underlay_mtu()?.saturating_sub(reserve).max(AUTO_MIN))
        }
    }
}

/// The longest packet of a container, in bytes, that passes whole to a neighbour once the kernel has sealed it; `None` until
/// the path is known. What WireGuard adds over IPv4 is what is set aside for sleeve; IPv6's header is longer.
pub(crate) fn sealed_room(link: &LinkState) -> Option<u32> {
    const IPV6_SURPLUS: u32 = 20;
    let surplus = if link.remote.is_ipv6() { IPV6_SURPLUS } else { 0 };
    Some(link.mtu?.saturating_sub(surplus))
}

/// What it should be now; `None` to leave it. Where the kernel seals frames, its packets have to be whole, too.
pub(crate) fn wanted(setting: MtuSetting, dataplane: &Dataplane, is_sealed: bool) -> Option<u32> {
    match setting {
        MtuSetting::Fixed(_) => None,
        MtuSetting::Auto => {
            let room = |link: &LinkState| if is_sealed { sealed_room(link) } else { link.mtu };
            let best = dataplane.links().iter().filter_map(room).max()?;
            Some(best.clamp(AUTO_MIN, mesh_hostnet::MTU_MAX))
        }
    }
}

impl Mtu {
    pub(crate) fn new(mtu: u32) -> Self {
        let this = Self::default();
        this.0.current.store(mtu, Ordering::Relaxed);
        this.0.applied.store(mtu, Ordering::Relaxed);
        this
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.current.load(Ordering::Relaxed)
    }

    /// A container was attached, and its interface follows from now on.
    pub(crate) fn joined(&self, container: &NetnsTarget, ifname: &str) {
        let mut followers = self.0.followers.lock().unwrap_or_else(PoisonError::into_inner);
        if followers.len() < FOLLOWERS_MAX {
            followers.insert((container.to_string(), ifname.to_owned()), container.clone());
        }
    }

    /// A container was found attached, and its interface gets the MTU and follows from now on.
    ///
    /// # Errors
    /// As [`mesh_hostnet::set_container_mtu`].
    pub(crate) fn adopt(
        &self,
        bridge: &Bridge,
        place: &Place,
        ifname: &InterfaceName,
    ) -> Result<(), HostError> {
        self.joined(&place.target, ifname.as_str());
        mesh_hostnet::set_container_mtu(bridge, &place.netns, ifname, self.get())
    }

    /// Changes it, off the shell's thread and in turn with other changes. What goes wrong is logged: frames that are too
    /// long then are answered by the data plane.
    pub(crate) fn follow(&self, host: &Host, wanted: u32) {
        if self.0.current.swap(wanted, Ordering::Relaxed) == wanted {
            return;
        }
        let (this, host) = (self.clone(), host.clone());
        tokio::spawn(async move {
            let done = host.change_all(move |bridge| this.apply(bridge));
            if let Err(failure) = done.await {
                warn!(error = failure.message, "the overlay's MTU has not changed everywhere");
            }
        });
    }

    /// Nobody may send what a port does not take: ports are the first to grow and the last to shrink.
    fn apply(&self, bridge: &Bridge) {
        let mtu = self.get();
        let is_raised = mtu > self.0.applied.swap(mtu, Ordering::Relaxed);
        let set_ports = || {
            if let Err(error) = mesh_hostnet::set_mtu(bridge, mtu) {
                warn!(%error, mtu, "the bridge's MTU has not changed");
            }
        };
        if is_raised {
            set_ports();
        }
        let followers = self.0.followers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (follower, container) in followers {
            if let Err(error) = set_container_mtu(bridge, &container, &follower.1, mtu) {
                debug!(%container, %error, "the container follows no more");
                self.0.followers.lock().unwrap_or_else(PoisonError::into_inner).remove(&follower);
            }
        }
        if !is_raised {
            set_ports();
        }
        info!(mtu, "the overlay has another MTU");
    }
}

fn set_container_mtu(
    bridge: &Bridge,
    container: &NetnsTarget,
    ifname: &str,
    mtu: u32,
) -> Result<(), HostError> {
    let Ok(ifname) = ifname.parse::<InterfaceName>() else { return Err(HostError::NothingAttached) };
    mesh_hostnet::set_container_mtu(bridge, &Netns::open(&netns_ref(container))?, &ifname, mtu)
}
