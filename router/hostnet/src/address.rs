//! Which addresses an interface of a container can have.
//!
//! Owns the check of one address and of a set of them, before anything is changed. Does not know which addresses are
//! taken in a namespace or in the network.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::HostError;

/// Why an address cannot be that of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFault {
    /// `0.0.0.0/8` or `::`: no host's address (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.2).
    Unspecified,
    /// `127.0.0.0/8` or `::1`.
    Loopback,
    /// `224.0.0.0/4` or `ff00::/8`.
    Multicast,
    /// The last address of its IPv4 subnet, or `255.255.255.255`.
    Broadcast,
    /// The first address of its subnet: the subnet itself, or in IPv6 any of its routers (RFC 4291 section 2.6.1).
    Network,
    /// A prefix of length 0, which would draw all traffic of the container into the network.
    EverythingOnLink,
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "it is the unspecified address",
            Self::Loopback => "it is a loopback address",
            Self::Multicast => "it is a multicast address",
            Self::Broadcast => "it is a broadcast address",
            Self::Network => "it is the address of the subnet itself",
            Self::EverythingOnLink => "its prefix length is 0",
        })
    }
}

/// Checks that each of these addresses can be a container's, and that no two are equal.
pub(crate) fn check_all(addresses: &[IpNet]) -> Result<(), HostError> {
    let mut seen = BTreeSet::new();
    for &address in addresses {
        if let Some(fault) = fault(address) {
            return Err(HostError::UnusableAddress { address, fault });
        }
        if !seen.insert(address.addr()) {
            return Err(HostError::DuplicateAddress { address });
        }
    }
    Ok(())
}

fn fault(net: IpNet) -> Option<AddressFault> {
    let address = net.addr();
    if is_unspecified(address) {
        return Some(AddressFault::Unspecified);
    }
    if address.is_loopback() {
        return Some(AddressFault::Loopback);
    }
    if address.is_multicast() {
        return Some(AddressFault::Multicast);
    }
    if net.prefix_len() == 0 {
        return Some(AddressFault::EverythingOnLink);
    }
    // Subnets of one or two addresses have neither a network nor a broadcast address (RFC 3021, RFC 6164).
    let point_to_point = net.max_prefix_len() - net.prefix_len() < 2;
    if !point_to_point && address == net.network() {
        return Some(AddressFault::Network);
    }
    let is_broadcast = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || (!point_to_point && address == net.broadcast()),
        IpAddr::V6(_) => false,
    };
    is_broadcast.then_some(AddressFault::Broadcast)
}

fn is_unspecified(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(text: &str) -> Option<AddressFault> {
        fault(text.parse().unwrap())
    }

    #[test]
    fn takes_ordinary_addresses() {
        for text in [
            "10.32.0.1/12",
            "192.168.1.7/32",
            "10.0.0.0/31",
            "10.0.0.1/31",
            "fd00::1/64",
            "fd00::/127",
            "fd00::ffff:ffff:ffff:ffff/64",
        ] {
            assert_eq!(fault_of(text), None, "{text}");
        }
    }

    #[test]
    fn refuses_addresses_that_are_no_hosts() {
        for (text, expected) in [
            ("0.0.0.0/0", AddressFault::Unspecified),
            ("0.1.2.3/8", AddressFault::Unspecified),
            ("::/64", AddressFault::Unspecified),
            ("127.0.0.1/8", AddressFault::Loopback),
            ("::1/128", AddressFault::Loopback),
            ("224.0.0.1/24", AddressFault::Multicast),
            ("ff02::1/64", AddressFault::Multicast),
            ("10.0.0.255/24", AddressFault::Broadcast),
            ("255.255.255.255/32", AddressFault::Broadcast),
            ("10.0.0.0/24", AddressFault::Network),
            ("fd00::/64", AddressFault::Network),
            ("10.0.0.1/0", AddressFault::EverythingOnLink),
        ] {
            assert_eq!(fault_of(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn refuses_an_address_given_twice_whatever_its_prefix() {
        let twice = ["10.0.0.1/24".parse().unwrap(), "10.0.0.1/16".parse().unwrap()];
        assert!(
            matches!(check_all(&twice), Err(HostError::DuplicateAddress { address }) if address == twice[1])
        );
    }
}
