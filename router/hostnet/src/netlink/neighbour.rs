//! Forwarding entries of bridges and VXLAN devices: what the kernel says of them, and the requests that change them.
//!
//! Owns the encoding of `RTM_NEWNEIGH` and its relatives in the bridge family (struct ndmsg and `NDA_*`,
//! include/uapi/linux/neighbour.h). Does not know which entries are ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use mesh_wire::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, parse_u32};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Netlink, attributes};
use crate::error::KernelError;
use crate::fdb::{FdbChange, FdbEntry, FdbPlace};

/// Bytes of struct ndmsg, before the attributes.
const NDMSG_BYTES: usize = 12;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NDA_PORT: u16 = 6;
const NDA_VNI: u16 = 7;
const NDA_MASTER: u16 = 9;

const NTF_SELF: u8 = 0x02;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// An entry that neither ages nor is learnt over: the bridge looks at the first bit, VXLAN at the second.
const STATIC: NeighbourState = NeighbourState::Other(NUD_NOARP | 0x02);

/// `AF_BRIDGE` of include/linux/socket.h.
const AF_BRIDGE: u8 = 7;

/// Ticks a second in struct nda_cacheinfo: `USER_HZ`, the same on all architectures that Linux still has.
const TICKS_PER_SECOND: u32 = 100;

impl Netlink {
    /// The entries of a bridge, and those of the VXLAN devices that are its ports.
    pub(crate) fn forwarding_entries(&mut self, bridge: u32) -> Result<Vec<FdbEntry>, KernelError> {
        let mut query = NeighbourMessage::default();
        query.header.family = AddressFamily::Bridge;
        query.attributes.push(NeighbourAttribute::Controller(bridge));
        self.dump(&Message::GetNeighbour(query), decode)
    }

    /// Makes changes in order, and tells for each what the kernel said.
    pub(crate) fn change_entries(
        &mut self,
        changes: &[FdbChange],
    ) -> Result<Vec<Option<KernelError>>, KernelError> {
        self.change_many(changes.iter().map(request))
    }
}

fn request(change: &FdbChange) -> (Message, u16) {
    const MAKE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
    let (mac, device, flags) = match change {
        FdbChange::Point { mac, port } | FdbChange::Unpoint { mac, port } => {
            (mac, port, NeighbourFlags::Controller)
        }
        FdbChange::Tunnel { mac, device, .. } | FdbChange::Untunnel { mac, device, .. } => {
            (mac, device, NeighbourFlags::Own)
        }
    };
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = *device;
    message.header.flags = flags;
    message.header.state = STATIC;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.as_bytes().to_vec()));
    match change {
        FdbChange::Point { .. } => (Message::NewNeighbour(message), MAKE),
        FdbChange::Unpoint { .. } => (Message::DelNeighbour(message), 0),
        FdbChange::Tunnel { remote, port, vni, .. } => {
            message.attributes.extend(ends(*remote, *port, *vni));
            (Message::NewNeighbour(message), MAKE)
        }
        FdbChange::Untunnel { remote, port, vni, .. } => {
            message.attributes.extend(ends(*remote, *port, *vni));
            (Message::DelNeighbour(message), 0)
        }
    }
}

fn ends(remote: IpAddr, port: u16, vni: u32) -> [NeighbourAttribute; 3] {
    let remote = match remote {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    [NeighbourAttribute::Destination(remote), NeighbourAttribute::Port(port), NeighbourAttribute::Vni(vni)]
}

/// Reads an entry of the bridge family; `None` for entries of others, and for those without a MAC.
pub(crate) fn decode(payload: &[u8]) -> Option<FdbEntry> {
    let (header, rest) = payload.split_at_checked(NDMSG_BYTES)?;
    if header[0] != AF_BRIDGE {
        return None;
    }
    let device = parse_u32(&header[4..8]).ok()?;
    let state = u16::from_ne_bytes([header[8], header[9]]);
    let (mut mac, mut remote, mut port, mut vni, mut idle, mut master) = (None, None, 0, 0, None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            NDA_LLADDR => mac = value.try_into().ok().map(MacAddr::from_bytes),
            NDA_DST => remote = address(value),
            NDA_PORT => port = u16::from_be_bytes(value.try_into().ok()?),
            NDA_VNI => vni = parse_u32(value).ok()?,
            NDA_MASTER => master = parse_u32(value).ok(),
            NDA_CACHEINFO => idle = value.get(4..8).and_then(|used| parse_u32(used).ok()).map(ticks),
            _ => {}
        }
    }
    let place = if header[10] & NTF_SELF != 0 && master.is_none() {
        FdbPlace::Device { remote, port, vni }
    } else {
        FdbPlace::Bridge
    };
    let (is_static, is_own) = (state & NUD_NOARP != 0, state & NUD_PERMANENT != 0);
    Some(FdbEntry { mac: mac?, device, place, is_static, is_own, idle })
}

fn ticks(ticks: u32) -> Duration {
    Duration::from_millis(u64::from(ticks) * u64::from(1_000 / TICKS_PER_SECOND))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}
