//! Addresses of interfaces.
//!
//! Owns the decoding of `RTM_NEWADDR` (struct ifaddrmsg and `IFA_*`, include/uapi/linux/if_addr.h), as far as this crate
//! needs it, and the two requests that add and remove one.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, parse_ip, parse_u32};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use rustix::io::Errno;

use super::{Netlink, attribute};
use crate::error::KernelError;

/// Bytes of struct ifaddrmsg, before the attributes.
const IFADDRMSG_BYTES: usize = 8;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RT_SCOPE_UNIVERSE: u8 = 0;

/// Flags of an IPv6 address that may be somebody else's too: `IFA_F_DADFAILED` and `IFA_F_TENTATIVE`.
const IFA_FLAGS_UNUSABLE: u8 = 0x08 | 0x40;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    /// The index of the interface.
    pub(crate) link: u32,
    pub(crate) address: IpNet,
    /// Valid beyond its link and host.
    pub(crate) is_global: bool,
    /// Whether the kernel uses it: in IPv6, once nobody else was found to have it.
    pub(crate) is_usable: bool,
}

impl LinkAddress {
    fn decode(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_at_checked(IFADDRMSG_BYTES)?;
        // On a point-to-point interface IFA_ADDRESS is the other end's; IFA_LOCAL, when present, is always our own.
        let local = attribute(rest, IFA_LOCAL).or_else(|| attribute(rest, IFA_ADDRESS))?;
        Some(Self {
            link: parse_u32(&header[4..8]).ok()?,
            address: IpNet::new(parse_ip(local).ok()?, header[1]).ok()?,
            is_global: header[3] == RT_SCOPE_UNIVERSE,
            is_usable: header[2] & IFA_FLAGS_UNUSABLE == 0,
        })
    }
}

impl Netlink {
    /// All addresses of the namespace, of both families.
    pub(crate) fn addresses(&mut self) -> Result<Vec<LinkAddress>, KernelError> {
        self.dump(&Message::GetAddress(AddressMessage::default()), LinkAddress::decode)
    }

    /// Adds an address, in IPv6 without duplicate address detection: the address is ours alone, and of use at once.
    pub(crate) fn add_address(&mut self, link: u32, address: IpNet) -> Result<(), KernelError> {
        let mut message = address_message(link, address);
        match address {
            IpNet::V4(v4) if v4.prefix_len() < 31 => {
                message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
        }
        self.change(Message::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds an IPv4 address that the host does not choose for what leaves the link.
    pub(crate) fn add_link_scope_address(&mut self, link: u32, address: Ipv4Net) -> Result<(), KernelError> {
        let mut message = address_message(link, address.into());
        message.header.scope = AddressScope::Link;
        self.change(Message::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes an address. It is no error when it is not there.
    pub(crate) fn remove_address(&mut self, link: u32, address: IpNet) -> Result<(), KernelError> {
        match self.change(Message::DelAddress(address_message(link, address)), 0) {
            Err(error) if error.is(Errno::ADDRNOTAVAIL) => Ok(()),
            result => result,
        }
    }
}

fn address_message(link: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address.addr() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix_len();
    message.header.index = link;
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}
