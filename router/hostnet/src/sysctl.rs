//! The sysctls of our own interfaces.
//!
//! Owns reading and writing below `conf` and `neigh` of /proc/sys/net/ipv4 and /proc/sys/net/ipv6. The kernel resolves these paths
//! by the network namespace of the thread that opens them (`net_ctl_root` in net/sysctl_net.c), so a caller that means
//! a container's namespace enters it first. Never writes a sysctl that is not an interface's own.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::error::HostError;
use crate::name::InterfaceName;

/// A switch of one interface that we turn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    /// No IPv6 on this interface: no link-local address, no router solicitation, nothing received.
    Ipv6Off,
    /// Announce addresses by gratuitous ARP when the interface comes up or its MAC is set.
    ArpNotify,
    /// The same for IPv6, by unsolicited neighbour advertisements.
    NdiscNotify,
    /// Removing one IPv4 address must not remove the others of its subnet with it.
    PromoteSecondaries,
}

impl Switch {
    /// Turns it on for one interface of the calling thread's namespace. A kernel without IPv6, or an interface on which
    /// it does not run, has no such IPv6 switch: then there is nothing to do.
    pub(crate) fn turn_on(self, interface: &InterfaceName) -> Result<(), HostError> {
        let path = match self {
            Self::Ipv6Off => conf("ipv6", interface.as_str(), "disable_ipv6"),
            Self::ArpNotify => conf("ipv4", interface.as_str(), "arp_notify"),
            Self::NdiscNotify => conf("ipv6", interface.as_str(), "ndisc_notify"),
            Self::PromoteSecondaries => conf("ipv4", interface.as_str(), "promote_secondaries"),
        };
        set(path, "1")
    }
}

/// Lets an interface of the calling thread's namespace take packets whose sender the host has a route to by another
/// interface, where it would drop them (`rp_filter` 1, RFC 3704 section 2.2). The greater of the interface's value and that
/// for all counts, so that 2 here makes a strict host loose on this interface alone.
pub(crate) fn loosen_reverse_path(interface: &InterfaceName) -> Result<(), HostError> {
    let strict = |interface: &str| {
        fs::read_to_string(conf("ipv4", interface, "rp_filter")).is_ok_and(|value| value.trim() == "1")
    };
    if !strict("all") && !strict(interface.as_str()) {
        return Ok(());
    }
    let path = conf("ipv4", interface.as_str(), "rp_filter");
    fs::write(&path, "2").map_err(|source| HostError::Sysctl { path, source })
}

/// Has an interface heed no router advertisements (RFC 4861, section 4.2): in the overlay nobody is a router, and whoever says so
/// would get what leaves it. Without IPv6 there is nothing to do.
pub(crate) fn heed_no_routers(interface: &InterfaceName) -> Result<(), HostError> {
    set(conf("ipv6", interface.as_str(), "accept_ra"), "0")
}

/// Makes an interface ask again soon for a neighbour whose address may be at another container by now: after 2.5 to 7.5
/// seconds in place of 15 to 45, with one second less of patience, and by broadcast after one question in vain.
pub(crate) fn distrust_neighbours(interface: &InterfaceName) -> Result<(), HostError> {
    for family in ["ipv4", "ipv6"] {
        for (key, value) in
            [("base_reachable_time_ms", "5000"), ("delay_first_probe_time", "2"), ("ucast_solicit", "1")]
        {
            set(["/proc/sys/net", family, "neigh", interface.as_str(), key].iter().collect(), value)?;
        }
    }
    Ok(())
}

/// Writes a value, unless it is there already: a read-only /proc, as in an unprivileged container, is no obstacle then. Nor
/// is a switch that this kernel, or this interface, does not have.
fn set(path: PathBuf, value: &str) -> Result<(), HostError> {
    let result = match fs::read_to_string(&path) {
        Ok(present) if present.trim() == value => Ok(()),
        Ok(_) => fs::write(&path, value),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(|source| HostError::Sysctl { path, source })
}

/// Whether IPv6 can be used, in the calling thread's namespace, on `interface`, or with `None` on one that is yet to be
/// made.
pub(crate) fn ipv6_is_on(interface: Option<&InterfaceName>) -> Result<bool, HostError> {
    let path = conf("ipv6", interface.map_or("default", InterfaceName::as_str), "disable_ipv6");
    match fs::read_to_string(&path) {
        Ok(value) => Ok(value.trim() == "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(HostError::Sysctl { path, source }),
    }
}

fn conf(family: &str, interface: &str, key: &str) -> PathBuf {
    ["/proc/sys/net", family, "conf", interface, key].iter().collect()
}
