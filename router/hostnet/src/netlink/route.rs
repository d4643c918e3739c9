//! Routes: which there are, and the one that we may add in a container, for IPv4 multicast.
//!
//! Owns the question whether there is that one, and the requests that add and remove it. It also goes with its interface, as all
//! routes do.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, parse_ip, parse_u32};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Netlink, attribute};
use crate::error::KernelError;

/// All IPv4 groups (RFC 5771): 224.0.0.0/4.
const GROUPS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 0);
const GROUPS_PREFIX_LENGTH: u8 = 4;

/// Bytes of struct rtmsg, before the attributes.
const RTMSG_BYTES: usize = 12;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;

/// `RTN_UNICAST` of include/uapi/linux/rtnetlink.h: an ordinary route, neither the host's own address nor a broadcast.
const RTN_UNICAST: u8 = 1;

impl Netlink {
    /// Whether the main table has a route for all IPv4 groups, by whatever interface.
    pub(crate) fn has_multicast_route(&mut self) -> Result<bool, KernelError> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let found =
            self.dump(&Message::GetRoute(query), |payload| is_multicast_route(payload).then_some(()))?;
        Ok(!found.is_empty())
    }

    /// The destinations of all ordinary routes, of both families and in all tables, each with the index of its interface
    /// if it has one.
    pub(crate) fn unicast_routes(&mut self) -> Result<Vec<(IpNet, Option<u32>)>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            routes.extend(self.dump(&Message::GetRoute(query), unicast_route)?);
        }
        Ok(routes)
    }

    /// Sends IPv4 multicast by this interface, which has to be up.
    pub(crate) fn add_multicast_route(&mut self, link: u32) -> Result<(), KernelError> {
        self.change(
            Message::NewRoute(link_route(link, GROUPS, GROUPS_PREFIX_LENGTH)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Whether the main table has a route to this address alone.
    pub(crate) fn has_host_route(&mut self, to: Ipv4Addr) -> Result<bool, KernelError> {
        let wanted = IpNet::from(IpAddr::V4(to));
        Ok(self.unicast_routes()?.iter().any(|(destination, _)| *destination == wanted))
    }

    /// Sends what is for this address by this interface, which has to be up.
    pub(crate) fn add_host_route(&mut self, link: u32, to: Ipv4Addr) -> Result<(), KernelError> {
        self.change(Message::NewRoute(link_route(link, to, 32)), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Undoes [`Self::add_host_route`].
    pub(crate) fn remove_host_route(&mut self, link: u32, to: Ipv4Addr) -> Result<(), KernelError> {
        self.change(Message::DelRoute(link_route(link, to, 32)), 0)
    }

    /// Undoes [`Self::add_multicast_route`].
    pub(crate) fn remove_multicast_route(&mut self, link: u32) -> Result<(), KernelError> {
        self.change(Message::DelRoute(link_route(link, GROUPS, GROUPS_PREFIX_LENGTH)), 0)
    }
}

fn link_route(link: u32, destination: Ipv4Addr, prefix_length: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix_length;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Destination(RouteAddress::Inet(destination)), RouteAttribute::Oif(link)];
    message
}

fn unicast_route(payload: &[u8]) -> Option<(IpNet, Option<u32>)> {
    let (header, rest) = payload.split_at_checked(RTMSG_BYTES)?;
    // A default route has no destination; nobody asks for those.
    let destination = parse_ip(attribute(rest, RTA_DST)?).ok()?;
    let interface = attribute(rest, RTA_OIF).and_then(|index| parse_u32(index).ok());
    (header[7] == RTN_UNICAST)
        .then(|| IpNet::new(destination, header[1]).ok())
        .flatten()
        .map(|destination| (destination, interface))
}

fn is_multicast_route(payload: &[u8]) -> bool {
    let Some((header, rest)) = payload.split_at_checked(RTMSG_BYTES) else { return false };
    let table = attribute(rest, RTA_TABLE)
        .and_then(|table| parse_u32(table).ok())
        .unwrap_or_else(|| header[4].into());
    header[1] == GROUPS_PREFIX_LENGTH
        && table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && attribute(rest, RTA_DST) == Some(&GROUPS.octets())
}
