//! The multicast table of bridges: which groups have members behind which ports, and which ports lead to routers of groups.
//!
//! Owns the decoding of `RTM_NEWMDB` (struct br_port_msg, struct br_mdb_entry and `MDBA_*`,
//! include/uapi/linux/if_bridge.h). Does not know which ports are ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::parse_u32;

use super::{Netlink, attributes};
use crate::error::KernelError;

const RTM_GETMDB: u16 = 86;

/// `AF_BRIDGE` of include/linux/socket.h.
const AF_BRIDGE: u8 = 7;

/// Bytes of struct br_port_msg: family and, after padding, the index of the bridge.
const BR_PORT_MSG_BYTES: usize = 8;

const MDBA_MDB: u16 = 1;
const MDBA_ROUTER: u16 = 2;
const MDBA_MDB_ENTRY: u16 = 1;
const MDBA_MDB_ENTRY_INFO: u16 = 1;
const MDBA_ROUTER_PORT: u16 = 1;

/// Where struct br_mdb_entry has the group's address, and behind it the EtherType that tells its family.
const ENTRY_ADDRESS: usize = 8;
const ENTRY_PROTOCOL: usize = ENTRY_ADDRESS + 16;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// What one bridge has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MulticastTable {
    /// Groups, each with a port behind which it has members: the bridge itself, if the host is one.
    pub(crate) members: Vec<(u32, IpAddr)>,
    /// Ports that want the frames of all groups.
    pub(crate) router_ports: Vec<u32>,
}

impl Netlink {
    /// The table of a bridge; empty where it has none.
    pub(crate) fn multicast_table(&mut self, bridge: u32) -> Result<MulticastTable, KernelError> {
        let mut header = [0; BR_PORT_MSG_BYTES];
        header[0] = AF_BRIDGE;
        let parts = self.dump_bare(RTM_GETMDB, &header, |payload| decode(payload, bridge))?;
        let mut table = MulticastTable::default();
        for part in parts {
            table.members.extend(part.members);
            table.router_ports.extend(part.router_ports);
        }
        Ok(table)
    }
}

/// Reads what a message says of this bridge.
fn decode(payload: &[u8], bridge: u32) -> Option<MulticastTable> {
    let (header, rest) = payload.split_at_checked(BR_PORT_MSG_BYTES)?;
    // The kernel tells no family here.
    if parse_u32(&header[4..]).ok()? != bridge {
        return None;
    }
    let nested = |outer, inner| {
        let lists = attributes(rest).filter(move |(kind, _)| *kind == outer);
        lists.flat_map(|(_, list)| attributes(list)).filter(move |(kind, _)| *kind == inner)
    };
    let infos = nested(MDBA_MDB, MDBA_MDB_ENTRY).flat_map(|(_, entry)| attributes(entry));
    let members =
        infos.filter(|(kind, _)| *kind == MDBA_MDB_ENTRY_INFO).filter_map(|(_, info)| member(info)).collect();
    let ports = nested(MDBA_ROUTER, MDBA_ROUTER_PORT);
    let router_ports = ports.filter_map(|(_, port)| parse_u32(port.get(..4)?).ok()).collect();
    Some(MulticastTable { members, router_ports })
}

/// Reads a struct br_mdb_entry; `None` for groups that are none of IP.
fn member(info: &[u8]) -> Option<(u32, IpAddr)> {
    let port = parse_u32(info.get(..4)?).ok()?;
    let address = info.get(ENTRY_ADDRESS..)?;
    let group = match u16::from_be_bytes(*info.get(ENTRY_PROTOCOL..)?.first_chunk()?) {
        ETH_P_IP => IpAddr::from(Ipv4Addr::from(*address.first_chunk::<4>()?)),
        ETH_P_IPV6 => IpAddr::from(Ipv6Addr::from(*address.first_chunk::<16>()?)),
        _ => return None,
    };
    Some((port, group))
}
