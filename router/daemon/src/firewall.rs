//! The firewall as this router wants it, and what it tells of it.
//!
//! Owns which ports are the router's own. The rules are `mesh-hostnet`'s.

use std::collections::BTreeMap;

use mesh_api::{ExposedDocument, FirewallDocument};
use mesh_hostnet::{Bridge, Firewall, FirewallState, Wall};
use tracing::debug;

use crate::{Config, Error};

/// Puts up the firewall: no container reaches the router's own ports, TCP or UDP.
pub(crate) fn start(config: &Config, bridge: &Bridge) -> Result<Firewall, Error> {
    let tunnel_port = config.port.checked_add(1);
    let http_port = config.http.map(|http| http.address.port());
    let host_ports = [config.port].into_iter().chain(tunnel_port).chain(http_port).collect();
    Firewall::start(bridge, host_ports).map_err(Error::Host)
}

/// What `status` tells of it.
pub(crate) fn document(firewall: &Firewall, exposed: Vec<ExposedDocument>) -> FirewallDocument {
    let detail = match firewall.state() {
        FirewallState::Up => None,
        FirewallState::Down(why) => Some(why),
    };
    let unguarded_ports = firewall.unguarded_ports().unwrap_or_else(|error| {
        debug!(%error, "the ports of the bridge cannot be listed");
        Vec::new()
    });
    FirewallDocument {
        up: detail.is_none(),
        detail,
        guarded_ports: firewall.guards().len() as u64,
        unguarded_ports,
        exposed,
    }
}

/// How many frames and packets it has dropped, by the names of the reasons.
pub(crate) fn drops(firewall: &Firewall) -> BTreeMap<&'static str, u64> {
    firewall.drops().into_iter().map(|(wall, count)| (wall.name(), count)).collect()
}

/// Whether somebody misses what was dropped for this reason: nobody does the host's own copy of what was for everybody, which
/// counts as an event.
pub(crate) fn is_loss(reason: &str) -> bool {
    reason != Wall::HostGroup.name()
}
