//! The bridge's uplink: a TAP interface of the data plane's own, or the veth that stands in for it where there is no TUN.
//! Owns that veth's life.

use mesh_api::Capture;
use mesh_hostnet::BridgeName;
use tracing::warn;

use crate::{Config, Error};

/// The uplink as it was prepared. Dropping it removes the veth, if that is what it is; a TAP goes with the data plane.
pub(crate) struct Uplink {
    bridge: BridgeName,
    capture: Capture,
}

impl Uplink {
    /// Makes the veth if one is wanted; what a killed router has left of one goes in either case. `mtu` is the bridge's.
    pub(crate) fn prepare(config: &Config, mtu: u32) -> Result<Self, Error> {
        let (bridge, capture) = (config.bridge.clone(), config.capture);
        match capture {
            Capture::Tap => mesh_hostnet::remove_capture_pair(&bridge)?,
            Capture::Pcap => drop(mesh_hostnet::make_capture_pair(&bridge, mtu)?),
        }
        Ok(Self { bridge, capture })
    }

    /// As the data plane is told.
    pub(crate) fn for_dataplane(&self) -> mesh_dataplane::Uplink {
        match self.capture {
            Capture::Tap => mesh_dataplane::Uplink::Tap(self.bridge.tap().to_string()),
            Capture::Pcap => mesh_dataplane::Uplink::Pcap(self.bridge.capture().to_string()),
        }
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        if self.capture == Capture::Pcap
            && let Err(error) = mesh_hostnet::remove_capture_pair(&self.bridge)
        {
            warn!(%error, "the uplink could not be removed");
        }
    }
}
