//! The counters of our tables, read from the kernel: they are asked for by each `status`, for which starting a program
//! would take too long.
//!
//! Owns the request for all objects of a table (`NFT_MSG_GETOBJ`, include/uapi/linux/netfilter/nf_tables.h) and what is
//! read of the answers.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::ruleset::Family;
use super::walls::Wall;
use crate::netlink::{attribute, text};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETOBJ`.
const GET_OBJECTS: u16 = 10 << 8 | 19;

const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_DATA: u16 = 4;
const COUNTER_PACKETS: u16 = 2;

const HEADER_BYTES: usize = 16;
const NFGENMSG_BYTES: usize = 4;

/// Bytes of one datagram of a dump, and how many of them there are at most: our counters fill one.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
const DATAGRAMS_MAX: usize = 64;

/// How many packets each of our counters has counted; nothing when there are none, or the kernel does not tell.
pub(crate) fn read(table: &str) -> BTreeMap<Wall, u64> {
    let mut drops = BTreeMap::new();
    for family in Family::BOTH {
        if let Err(error) = read_family(table, family, &mut drops) {
            tracing::debug!(%error, "the firewall's counters cannot be read");
        }
    }
    drops
}

fn read_family(table: &str, family: Family, drops: &mut BTreeMap<Wall, u64>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(table, family), 0)?;
    let mut datagram = Vec::with_capacity(DATAGRAM_BYTES_MAX);
    for _ in 0..DATAGRAMS_MAX {
        datagram.clear();
        // The kernel answers while it takes the request, and makes the next part of a dump while one is read: what is
        // not there now does not come.
        socket.recv(&mut datagram, libc::MSG_DONTWAIT)?;
        let mut rest = &datagram[..];
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            let length = (message.length() as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[length..];
            match message.message_type() {
                NLMSG_DONE | NLMSG_ERROR => return Ok(()),
                _ => drops.extend(counter(message.payload())),
            }
        }
    }
    Ok(())
}

/// A netlink header, struct nfgenmsg, and the table's name as the one attribute.
fn request(table: &str, family: Family) -> Vec<u8> {
    let name_bytes = table.len() + 1;
    let attribute_bytes = 4 + name_bytes;
    let bytes = HEADER_BYTES + NFGENMSG_BYTES + attribute_bytes.next_multiple_of(4);
    let short = |length: usize| u16::try_from(length).expect("a table's name is short").to_ne_bytes();
    let mut request = Vec::with_capacity(bytes);
    request.extend(u32::try_from(bytes).expect("a table's name is short").to_ne_bytes());
    request.extend(GET_OBJECTS.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // The sequence number and the sender's port, which the kernel knows.
    request.extend([0; 8]);
    request.extend([family.number(), 0, 0, 0]);
    request.extend(short(attribute_bytes));
    request.extend(OBJECT_TABLE.to_ne_bytes());
    request.extend(table.as_bytes());
    request.resize(bytes, 0);
    request
}

fn counter(payload: &[u8]) -> Option<(Wall, u64)> {
    let attributes = payload.get(NFGENMSG_BYTES..)?;
    let name = attribute(attributes, OBJECT_NAME).map(text)?;
    let wall = Wall::ALL.into_iter().find(|wall| wall.name() == name)?;
    let packets = attribute(attribute(attributes, OBJECT_DATA)?, COUNTER_PACKETS)?;
    Some((wall, u64::from_be_bytes(packets.try_into().ok()?)))
}
