//! Looks whether somebody else uses the addresses that containers have just got. It is a hint for people: containers do
//! not wait for it, and nothing is taken from anybody.
//!
//! Owns the queue of addresses to be asked for. What is asked on the wire, and for how long, is `mesh-hostnet`'s; what was
//! seen is shown by `mesh-ipam`.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_hostnet::{Bridge, Probe};
use mesh_wire::MacAddr;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::desk::Desk;

/// Addresses that wait to be asked for. Further ones are not asked for.
const PROBES_QUEUED_MAX: usize = 1024;

/// Addresses that are asked for together, in one go.
const PROBES_AT_ONCE_MAX: usize = 64;

/// Takes addresses to be asked for.
#[derive(Clone)]
pub(crate) struct Prober(mpsc::Sender<Probe>);

impl Prober {
    /// Starts the task that asks, one go after the other. It ends with the last of its clones.
    pub(crate) fn start(bridge: Arc<Bridge>, desk: Desk) -> Self {
        let (probes, mut queue) = mpsc::channel(PROBES_QUEUED_MAX);
        tokio::spawn(async move {
            let mut probes = Vec::new();
            while queue.recv_many(&mut probes, PROBES_AT_ONCE_MAX).await > 0 {
                ask(&bridge, &desk, std::mem::take(&mut probes)).await;
            }
        });
        Self(probes)
    }

    /// Lets an address be asked for, that the interface `mac` has got.
    pub(crate) fn ask(&self, address: IpAddr, mac: &str) {
        let Ok(mac) = mac.parse::<MacAddr>() else { return };
        let own = mesh_hostnet::MacAddress(*mac.as_bytes());
        if self.0.try_send(Probe { address, own }).is_err() {
            debug!(%address, "too many addresses wait to be asked for");
        }
    }
}

async fn ask(bridge: &Arc<Bridge>, desk: &Desk, probes: Vec<Probe>) {
    let bridge = Arc::clone(bridge);
    match tokio::task::spawn_blocking(move || mesh_hostnet::probe(&bridge, &probes)).await {
        Ok(Ok(seen)) => {
            for (address, mac) in seen {
                desk.probed(address, MacAddr::from_bytes(mac.0)).await;
            }
        }
        Ok(Err(error)) => warn!(%error, "nobody can be asked whether new addresses are in use already"),
        Err(panicked) => warn!(%panicked, "nobody was asked whether new addresses are in use already"),
    }
}
