//! Whether the host itself has routes to addresses that the network is to have. Changes nothing.

use std::fmt;

use ipnet::IpNet;

use crate::bridge::{is_marked, open_host};
use crate::error::HostError;

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads.
    pub destination: IpNet,
    /// By which interface; empty where it leads by several, or by none.
    pub interface: String,
}

impl fmt::Display for HostRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interface.is_empty() {
            write!(f, "{}", self.destination)
        } else {
            write!(f, "{} dev {}", self.destination, self.interface)
        }
    }
}

/// A route of the host that leads to addresses of `range`, if there is one. Default routes lead anywhere and do not count,
/// nor do routes by interfaces of ours.
pub fn route_into(range: IpNet) -> Result<Option<HostRoute>, HostError> {
    let mut host = open_host()?;
    let routes = host.unicast_routes().map_err(|error| error.during("list the routes of", "the host"))?;
    let overlaps = |net: IpNet| net.prefix_len() > 0 && (net.contains(&range) || range.contains(&net));
    let candidates: Vec<_> = routes.into_iter().filter(|(destination, _)| overlaps(*destination)).collect();
    if candidates.is_empty() {
        return Ok(None);
    }
    let links = host.links().map_err(|error| error.during("list", "the host's interfaces"))?;
    let of = |index: Option<u32>| links.iter().find(|link| Some(link.index) == index);
    let found = candidates.into_iter().find(|(_, interface)| !of(*interface).is_some_and(is_marked));
    Ok(found.map(|(destination, interface)| {
        let interface = of(interface).map_or_else(String::new, |link| link.name.clone());
        HostRoute { destination, interface }
    }))
}
