//! The host's own part in the overlay: addresses on the bridge, and what the kernel needs to pass packets on.
//!
//! Owns the bridge's addresses that the user asked for, and the switches that go with them. Which packets pass is the
//! firewall's; which addresses, and when, is decided elsewhere.
//!
//! The host's IPv4 forwarding is one switch for all interfaces. It is turned on when there is something to forward, and
//! whoever did so learns whether it was off, to turn it off again. IPv6 forwarding stays as it is: turned on, it would
//! make the host deaf to the advertisements of its own routers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::address;
use crate::bridge::{self, Bridge, open_host};
use crate::error::HostError;
use crate::name::InterfaceName;
use crate::netlink::Netlink;
use crate::undo::Undo;

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Gives the bridge these addresses, beside those that it has. Either all are there then, or none has been added.
///
/// # Errors
/// [`HostError::UnusableAddress`], [`HostError::DuplicateAddress`], [`HostError::BridgeGone`], [`HostError::AddressInUse`]
/// when the host has one of them otherwise, [`HostError::Kernel`].
pub fn expose(bridge: &Bridge, addresses: &[IpNet]) -> Result<(), HostError> {
    address::check_all(addresses)?;
    let mut host = open_host()?;
    let bridge = bridge::find(&mut host, &bridge.name)?;
    let listed = |error: crate::error::KernelError| error.during("list the addresses of", "the host");
    let present = host.addresses().map_err(listed)?;
    let mut missing = Vec::new();
    for &address in addresses {
        match present.iter().find(|entry| entry.address.addr() == address.addr()) {
            None => missing.push(address),
            Some(entry) if entry.link == bridge.index && entry.address == address => {}
            Some(entry) => {
                let link = host.link_at(entry.link).map_err(listed)?;
                let interface = link.map(|link| link.name).unwrap_or_default();
                return Err(HostError::AddressInUse { address, present: entry.address, interface });
            }
        }
    }
    if addresses.iter().any(|address| address.addr().is_ipv6()) {
        write_for(bridge.name.interface(), "disable_ipv6", "0")?;
    }
    let mut undo = Undo::new();
    for address in missing {
        let index = bridge.index;
        if let Err(error) = host.add_address(index, address) {
            return Err(undo.roll_back(&mut host, error.during("add an address to", &bridge.name)));
        }
        let name = bridge.name.clone();
        undo.push(move |host: &mut Netlink| {
            host.remove_address(index, address).map_err(|error| error.during("remove an address from", &name))
        });
    }
    Ok(())
}

/// Takes these addresses from the bridge; those that it does not have are no error.
pub fn hide(bridge: &Bridge, addresses: &[IpNet]) -> Result<(), HostError> {
    let mut host = open_host()?;
    let bridge = bridge::find(&mut host, &bridge.name)?;
    for &address in addresses {
        host.remove_address(bridge.index, address)
            .map_err(|error| error.during("remove an address from", &bridge.name))?;
    }
    let left = host.addresses().map_err(|error| error.during("list the addresses of", &bridge.name))?;
    let has_ipv6 = left
        .iter()
        .any(|entry| entry.link == bridge.index && entry.is_global && entry.address.addr().is_ipv6());
    if has_ipv6 { Ok(()) } else { write_for(bridge.name.interface(), "disable_ipv6", "1") }
}

/// Whether the host forwards IPv4 packets between its interfaces.
pub fn forwards() -> Result<bool, HostError> {
    let path = Path::new(FORWARDING);
    let value =
        fs::read_to_string(path).map_err(|source| HostError::Sysctl { path: path.to_owned(), source })?;
    Ok(value.trim() != "0")
}

/// Turns the host's IPv4 forwarding on or off.
pub fn set_forwarding(on: bool) -> Result<(), HostError> {
    if forwards()? == on {
        return Ok(());
    }
    write(PathBuf::from(FORWARDING), if on { "1" } else { "0" })
}

/// Whenever the bridge gets IPv6, it believes no router: whoever is on it could claim to be one.
pub(crate) fn trust_no_router(interface: &InterfaceName) -> Result<(), HostError> {
    ["accept_ra", "autoconf"].into_iter().try_for_each(|key| write_for(interface, key, "0"))
}

fn write_for(interface: &InterfaceName, key: &str, value: &str) -> Result<(), HostError> {
    let path: PathBuf = ["/proc/sys/net/ipv6/conf", interface.as_str(), key].iter().collect();
    match fs::read_to_string(&path) {
        Ok(present) if present.trim() == value => Ok(()),
        Ok(_) => write(path, value),
        // A kernel without IPv6 refuses its addresses later, with a better reason.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(HostError::Sysctl { path, source }),
    }
}

fn write(path: PathBuf, value: &str) -> Result<(), HostError> {
    fs::write(&path, value).map_err(|source| HostError::Sysctl { path, source })
}
