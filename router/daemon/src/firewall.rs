//! The firewall as this router wants it, and what it tells of it.
//!
//! Owns which ports are the router's own. The rules are `mesh-hostnet`'s.

use mesh_hostnet::{Bridge, Firewall};

use crate::{Config, Error};

/// Puts up the firewall: no container reaches the router's own ports, TCP or UDP.
pub(crate) fn start(config: &Config, bridge: &Bridge) -> Result<Firewall, Error> {
    let tunnel_port = config.port.checked_add(1);
    let http_port = config.http.map(|http| http.address.port());
    let host_ports = [config.port].into_iter().chain(tunnel_port).chain(http_port).collect();
    Firewall::start(bridge, host_ports).map_err(Error::Host)
}
