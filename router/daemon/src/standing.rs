//! The bridge stays, whatever somebody does to it by hand.
//!
//! Owns how often it is looked at, and the order in which it is made again: the bridge, the addresses that name servers are
//! asked at, the host's own. Containers follow by `containers`, VXLAN devices by the fast path.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, warn};

use crate::expose::Exposed;
use crate::host::Host;

/// How often it is looked for the bridge.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the bridge, until the future is dropped. What cannot be repaired is told once.
pub(crate) async fn keep_bridge(host: Host, node_local: Vec<Ipv4Addr>, exposed: Exposed) {
    let mut was_in_vain = false;
    loop {
        sleep(LOOK_INTERVAL).await;
        match host.restore(&node_local).await {
            Ok(false) => was_in_vain = false,
            Ok(true) => {
                exposed.again().await;
                warn!("somebody has taken the bridge down or away; it is there again");
            }
            Err(error) if was_in_vain => debug!(%error, "the bridge is still not what it is to be"),
            Err(error) => {
                warn!(%error, "somebody has taken the bridge down or away, and it cannot be put back: restart the router");
                was_in_vain = true;
            }
        }
    }
}
