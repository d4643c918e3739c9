//! Word from the kernel that somebody has changed the tables of nftables.
//!
//! Owns the socket and what is read of its messages (include/uapi/linux/netfilter/nf_tables.h): whose table it was, and
//! who asked for it.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::ruleset::Family;
use crate::netlink::{attribute, text};

/// `NFNLGRP_NFTABLES` of include/uapi/linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;

/// `NFNL_SUBSYS_NFTABLES` of the same, the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;

/// `NFT_MSG_NEWGEN`, the lower byte of the message that ends the changes of one transaction.
const NEW_GENERATION: u16 = 15;

/// The first attribute of every other message is the name of the table that it is about.
const TABLE_NAME: u16 = 1;
const GENERATION_PROCESS_NAME: u16 = 3;

/// Bytes of struct nfgenmsg, before the attributes.
const NFGENMSG_BYTES: usize = 4;

/// Room for the events of replacing a ruleset with all ports that a bridge can have.
const ROOM_BYTES: usize = 4 << 20;

/// Bytes of one datagram of events; longer ones are cut, and taken as a change of everything.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// Datagrams that are read at a time. When there are more, everything may have changed.
const DATAGRAMS_MAX: usize = 65_536;

/// What has happened since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The sockets by which our tables were changed.
    pub(crate) ours: BTreeSet<u32>,
    /// Whether tables of iptables were changed.
    pub(crate) iptables: bool,
    /// Events were lost: anything may have changed.
    pub(crate) lost: bool,
    /// Who made the last change, as far as the kernel tells.
    pub(crate) process: Option<String>,
}

/// A socket that hears of changes.
#[derive(Debug)]
pub(crate) struct Events {
    socket: Socket,
    table: String,
}

impl Events {
    /// Listens in the calling thread's namespace.
    pub(crate) fn open(table: String) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.add_membership(GROUP)?;
        // With less room events may be lost, which is noticed.
        let _more_room = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, ROOM_BYTES);
        Ok(Self { socket, table })
    }

    /// The socket, to wait for.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// All that has happened.
    pub(crate) fn take(&self) -> Changes {
        let mut changes = Changes::default();
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        for _ in 0..DATAGRAMS_MAX {
            datagram.clear();
            match self.socket.recv_from(&mut datagram, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) if length > datagram.len() => changes.lost = true,
                Ok(_) => self.read(&datagram, &mut changes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_overrun) => changes.lost = true,
            }
        }
        changes.lost = true;
        changes
    }

    fn read(&self, datagram: &[u8], changes: &mut Changes) {
        let mut rest = datagram;
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            let length = (message.length() as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[length..];
            let (subsystem, kind) = (message.message_type() >> 8, message.message_type() & 0xff);
            let Some((header, attributes)) = message.payload().split_at_checked(NFGENMSG_BYTES) else {
                continue;
            };
            if subsystem != SUBSYSTEM {
                continue;
            }
            if kind == NEW_GENERATION {
                changes.process = attribute(attributes, GENERATION_PROCESS_NAME).map(text);
                continue;
            }
            let Some(table) = attribute(attributes, TABLE_NAME).map(text) else { continue };
            let family = header[0];
            if table == self.table && Family::BOTH.iter().any(|ours| ours.number() == family) {
                changes.ours.insert(message.port_number());
            }
            changes.iptables |= table == "filter";
        }
    }
}
