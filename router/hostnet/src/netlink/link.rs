//! Interfaces: what the kernel says of one, and the requests that make, alter and remove one.
//!
//! Owns the decoding of `RTM_NEWLINK` (struct ifinfomsg and `IFLA_*`, include/uapi/linux/if_link.h), as far as this
//! crate needs it. Does not know which interfaces are ours.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, parse_i32, parse_u32};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    BridgeMulticastRouterType, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, InfoVxlan, InfoXfrm, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rustix::io::Errno;

use super::{Netlink, attribute, attributes, text};
use crate::error::KernelError;
use crate::mac::MacAddress;
use crate::name::InterfaceName;

/// Bytes of struct ifinfomsg, before the attributes.
const IFINFOMSG_BYTES: usize = 16;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// `BR_STATE_FORWARDING` of include/uapi/linux/if_bridge.h.
const BR_STATE_FORWARDING: u8 = 3;

/// An interface, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `veth`, `tun`, …; empty for hardware and loopback.
    pub(crate) kind: String,
    pub(crate) alias: String,
    pub(crate) is_up: bool,
    pub(crate) is_loopback: bool,
    /// In bytes.
    pub(crate) mtu: u32,
    pub(crate) mac: Option<MacAddress>,
    /// The index of the bridge, bond or the like that this is a port of.
    pub(crate) master: Option<u32>,
    /// Of a veth: the index of its other end, in that end's namespace.
    pub(crate) peer: Option<u32>,
    /// Of a VXLAN device: its network identifier and UDP port.
    pub(crate) vxlan: Option<(u32, u16)>,
    /// Of a bridge: whether it looks who is a member of which group.
    pub(crate) is_snooping: bool,
    /// Of a port of a bridge: how it behaves, if it is an uplink.
    pub(crate) uplink: Option<UplinkFlags>,
    /// Frames and bytes that have left by it.
    pub(crate) sent: (u64, u64),
    /// Frames and bytes that have come by it.
    pub(crate) received: (u64, u64),
    /// Whether it is a port of a bridge, and forwards frames by now.
    pub(crate) is_forwarding: bool,
}

impl Link {
    /// The kernel's word for what it is, for people.
    pub(crate) fn kind_shown(&self) -> String {
        if self.kind.is_empty() { "device".to_owned() } else { self.kind.clone() }
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_at_checked(IFINFOMSG_BYTES)?;
        let flags = LinkFlags::from_bits_retain(parse_u32(&header[8..12]).ok()?);
        let mut link = Self {
            index: u32::try_from(parse_i32(&header[4..8]).ok()?).ok()?,
            name: String::new(),
            kind: String::new(),
            alias: String::new(),
            is_up: flags.contains(LinkFlags::Up),
            is_loopback: flags.contains(LinkFlags::Loopback),
            mtu: 0,
            mac: None,
            master: None,
            peer: None,
            vxlan: None,
            is_snooping: false,
            uplink: None,
            sent: (0, 0),
            received: (0, 0),
            is_forwarding: false,
        };
        for (kind, value) in attributes(rest) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_IFALIAS => link.alias = text(value),
                IFLA_MTU => link.mtu = parse_u32(value).ok()?,
                IFLA_ADDRESS => link.mac = value.try_into().ok().map(MacAddress),
                IFLA_MASTER => link.master = parse_u32(value).ok(),
                IFLA_LINK => link.peer = parse_u32(value).ok(),
                IFLA_LINKINFO => link.decode_info(value),
                IFLA_STATS64 => link.decode_stats(value),
                _ => {}
            }
        }
        Some(link)
    }

    fn decode_info(&mut self, info: &[u8]) {
        self.kind = attribute(info, IFLA_INFO_KIND).map(text).unwrap_or_default();
        if self.kind == "vxlan" {
            self.vxlan = attribute(info, IFLA_INFO_DATA).and_then(|data| {
                let vni = parse_u32(attribute(data, IFLA_VXLAN_ID)?).ok()?;
                let port = u16::from_be_bytes(attribute(data, IFLA_VXLAN_PORT)?.try_into().ok()?);
                Some((vni, port))
            });
        }
        if self.kind == "bridge" {
            let snooping =
                attribute(info, IFLA_INFO_DATA).and_then(|data| attribute(data, IFLA_BR_MCAST_SNOOPING));
            self.is_snooping = snooping == Some(&[1]);
        }
        let port_kind = attribute(info, IFLA_INFO_SLAVE_KIND).map(text);
        if port_kind.as_deref() == Some("bridge") {
            let state =
                attribute(info, IFLA_INFO_SLAVE_DATA).and_then(|data| attribute(data, IFLA_BRPORT_STATE));
            self.is_forwarding = state == Some(&[BR_STATE_FORWARDING]);
            self.uplink = attribute(info, IFLA_INFO_SLAVE_DATA).and_then(uplink_flags);
        }
    }
}

/// How a port behaves as an uplink; `None` if it is none: something is learnt from it, or it is not apart from others.
fn uplink_flags(data: &[u8]) -> Option<UplinkFlags> {
    let flag = |kind| attribute(data, kind).map(|value| value != [0]);
    if flag(IFLA_BRPORT_LEARNING)? || !flag(IFLA_BRPORT_ISOLATED)? {
        return None;
    }
    let [unicast, groups, broadcast] =
        [IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD].map(flag);
    let flood = unicast?;
    ([groups, broadcast] == [Some(flood); 2]).then_some(UplinkFlags { flood })
}

impl Link {
    /// The first four numbers of struct rtnl_link_stats64.
    fn decode_stats(&mut self, stats: &[u8]) {
        let number = |at: usize| {
            let bytes = stats.get(at * 8..at * 8 + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        self.received = (number(0), number(2));
        self.sent = (number(1), number(3));
    }
}

/// How an uplink behaves as a port. In any case nothing is learnt from it, and no frame goes from one uplink to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UplinkFlags {
    /// Whether groups and MACs without an entry go there.
    pub(crate) flood: bool,
}

/// What to alter of an interface; `None` leaves it. All in one request, in this order.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkChange<'a> {
    pub(crate) mac: Option<MacAddress>,
    pub(crate) mtu: Option<u32>,
    pub(crate) name: Option<&'a InterfaceName>,
    pub(crate) alias: Option<&'a str>,
    /// The index of the bridge to become a port of; 0 to leave any.
    pub(crate) master: Option<u32>,
    pub(crate) is_up: Option<bool>,
}

/// A pair of virtual interfaces to make: one end here, the other in another namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VethPair<'a> {
    pub(crate) name: &'a InterfaceName,
    pub(crate) mac: MacAddress,
    pub(crate) peer_name: &'a InterfaceName,
    pub(crate) peer_mac: MacAddress,
    pub(crate) peer_netns: BorrowedFd<'a>,
    pub(crate) mtu: u32,
}

impl Netlink {
    /// All interfaces of the namespace.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, KernelError> {
        self.dump(&Message::GetLink(LinkMessage::default()), Link::decode)
    }

    /// The interface of this name, or one that has it as an alternative name.
    pub(crate) fn link_named(&mut self, name: &str) -> Result<Option<Link>, KernelError> {
        let mut query = LinkMessage::default();
        query.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link(query)
    }

    /// The interface of this index.
    pub(crate) fn link_at(&mut self, index: u32) -> Result<Option<Link>, KernelError> {
        self.link(at(index))
    }

    fn link(&mut self, query: LinkMessage) -> Result<Option<Link>, KernelError> {
        match self.get(Message::GetLink(query), Link::decode) {
            Err(error) if error.is(Errno::NODEV) => Ok(None),
            result => result,
        }
    }

    /// Makes a bridge that is down; `index` 0 leaves its number to the kernel.
    pub(crate) fn create_bridge(
        &mut self,
        name: &InterfaceName,
        mac: MacAddress,
        index: u32,
    ) -> Result<(), KernelError> {
        let mut message = at(index);
        message.attributes = vec![
            LinkAttribute::IfName(name.as_str().to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.change(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets options of a bridge.
    pub(crate) fn configure_bridge(
        &mut self,
        index: u32,
        options: Vec<InfoBridge>,
    ) -> Result<(), KernelError> {
        let mut message = at(index);
        let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(options))];
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.change(Message::NewLink(message), 0)
    }

    /// Makes a VXLAN device that is down.
    pub(crate) fn create_vxlan(
        &mut self,
        name: &InterfaceName,
        options: Vec<InfoVxlan>,
    ) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(options))];
        message.attributes =
            vec![LinkAttribute::IfName(name.as_str().to_owned()), LinkAttribute::LinkInfo(info)];
        self.change(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a WireGuard device that is down and has no key.
    pub(crate) fn create_wireguard(&mut self, name: &InterfaceName) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.as_str().to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
        ];
        self.change(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes an interface of IPsec's that is down; policies and states with this number are its own.
    pub(crate) fn create_xfrm(&mut self, name: &InterfaceName, number: u32) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        let data = InfoData::Xfrm(vec![InfoXfrm::IfId(number)]);
        message.attributes = vec![
            LinkAttribute::IfName(name.as_str().to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Xfrm), LinkInfo::Data(data)]),
        ];
        self.change(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes an uplink of a port of a bridge.
    pub(crate) fn set_uplink_flags(
        &mut self,
        index: u32,
        UplinkFlags { flood }: UplinkFlags,
    ) -> Result<(), KernelError> {
        let flags = vec![
            InfoBridgePort::Learning(false),
            InfoBridgePort::UnicastFlood(flood),
            InfoBridgePort::MulticastFlood(flood),
            InfoBridgePort::BroadcastFlood(flood),
            InfoBridgePort::Isolated(true),
        ];
        let mut message = at(index);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(flags)),
        ]));
        self.change(Message::NewLink(message), 0)
    }

    /// Has a port of a bridge give no frame to other such ports, nor, whatever somebody sets, back to itself.
    pub(crate) fn isolate(&mut self, index: u32) -> Result<(), KernelError> {
        let mut message = at(index);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
        ]));
        self.change(Message::NewLink(message), 0)
    }

    /// Sets how a port of a bridge deals with groups: whether it gets the frames of all, whoever is a member of which; if not,
    /// whether one leave is enough, because there is no other member behind it.
    pub(crate) fn set_group_flag(&mut self, index: u32, gets_all: bool) -> Result<(), KernelError> {
        let flag = if gets_all {
            InfoBridgePort::MulticastRouter(BridgeMulticastRouterType::Permanent)
        } else {
            InfoBridgePort::FastLeave(true)
        };
        let mut message = at(index);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![flag])),
        ]));
        self.change(Message::NewLink(message), 0)
    }

    /// Makes a pair of veths, both down; the far end is born in its namespace, under its final name.
    pub(crate) fn create_veth(&mut self, pair: VethPair<'_>) -> Result<(), KernelError> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(pair.peer_name.as_str().to_owned()),
            LinkAttribute::Address(pair.peer_mac.0.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::NetNsFd(pair.peer_netns.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(pair.name.as_str().to_owned()),
            LinkAttribute::Address(pair.mac.0.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.change(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Alters an interface.
    pub(crate) fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), KernelError> {
        let mut message = at(index);
        message.attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        message.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.as_str().to_owned())));
        message.attributes.extend(change.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        message.attributes.extend(change.master.map(LinkAttribute::Controller));
        if let Some(is_up) = change.is_up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if is_up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        self.change(Message::SetLink(message), 0)
    }

    /// Removes an interface. It is no error when there is none of this index.
    pub(crate) fn remove_link(&mut self, index: u32) -> Result<(), KernelError> {
        match self.change(Message::DelLink(at(index)), 0) {
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            result => result,
        }
    }
}

fn at(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}
