//! Forwarding entries: the bridge's, which name a port for a MAC, and the VXLAN devices', which name a peer's address.
//!
//! Owns the words for them, the socket that changes many at once, and the one that hears of changes by others. Does not
//! know which entries there should be.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mesh_wire::MacAddr;
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::bridge::{Bridge, open_host};
use crate::error::{HostError, KernelError};
use crate::netlink::{Netlink, neighbour};

/// Changes that go to the kernel in one system call. It takes its lock for each of them anew, so that others get their turn
/// in between; what bounds the number is the room for its answers.
const BATCH_MAX: usize = 128;

/// Datagrams of events that are read before whoever reads does something else.
const EVENTS_PER_READ_MAX: u32 = 4_096;

/// Bytes of one datagram of events.
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;

/// Bytes of events that may wait; more are lost, which the reader is told.
const EVENTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The groups of rtnetlink that tell of interfaces and of forwarding entries (`RTNLGRP_LINK`, `RTNLGRP_NEIGH` of
/// include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 2] = [1, 3];

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// Whose frames.
    pub mac: MacAddr,
    /// Of a bridge's entry, the port; of a device's, the device. The kernel's number.
    pub device: u32,
    /// Which table it stands in, and what it says.
    pub place: FdbPlace,
    /// Whether somebody has put it there; the bridge has learnt it otherwise.
    pub is_static: bool,
    /// Whether it is an address of the port or of the bridge itself.
    pub is_own: bool,
    /// Time since a frame took it.
    pub idle: Option<Duration>,
}

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdbPlace {
    /// Which port of the bridge.
    Bridge,
    /// Which peer of a VXLAN device.
    Device {
        /// The peer's underlay address; none for what is no tunnel's.
        remote: Option<IpAddr>,
        /// UDP port; 0 is the device's.
        port: u16,
        /// Network identifier; 0 is the device's.
        vni: u32,
    },
}

/// One change of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdbChange {
    /// Frames for the MAC leave the bridge by this port, whichever it was before.
    Point {
        /// Whose frames.
        mac: MacAddr,
        /// The port.
        port: u32,
    },
    /// They no longer do.
    Unpoint {
        /// Whose frames.
        mac: MacAddr,
        /// The port that they leave by now.
        port: u32,
    },
    /// Frames for the MAC that leave by a VXLAN device go to this peer, whichever it was before.
    Tunnel {
        /// Whose frames.
        mac: MacAddr,
        /// The device.
        device: u32,
        /// The peer's underlay address.
        remote: IpAddr,
        /// Its UDP port.
        port: u16,
        /// Its network identifier.
        vni: u32,
    },
    /// They no longer do.
    Untunnel {
        /// Whose frames.
        mac: MacAddr,
        /// The device.
        device: u32,
        /// The peer's underlay address.
        remote: IpAddr,
        /// Its UDP port.
        port: u16,
        /// Its network identifier.
        vni: u32,
    },
}

/// Reads and changes forwarding entries, in the namespace of the thread that opened it.
pub struct Fdb {
    host: Netlink,
}

impl Fdb {
    /// Opens a socket for them.
    ///
    /// # Errors
    /// [`HostError::Kernel`].
    pub fn open() -> Result<Self, HostError> {
        Ok(Self { host: open_host()? })
    }

    /// All entries of the bridge, and of the VXLAN devices among its ports.
    ///
    /// # Errors
    /// [`HostError::Kernel`].
    pub fn entries(&mut self, bridge: &Bridge) -> Result<Vec<FdbEntry>, HostError> {
        let entries = self.host.forwarding_entries(bridge.index);
        entries.map_err(|error| error.during("list the forwarding entries of", &bridge.name))
    }

    /// Makes changes in order. For each tells what the kernel said: `None` when it is done.
    ///
    /// # Errors
    /// [`HostError::Kernel`] when the kernel does not answer at all: some may be done then.
    pub fn change(&mut self, changes: &[FdbChange]) -> Result<Vec<Option<KernelError>>, HostError> {
        let mut answers = Vec::with_capacity(changes.len());
        for some in changes.chunks(BATCH_MAX) {
            let done = self.host.change_entries(some);
            answers.extend(done.map_err(|error| error.during("change", "forwarding entries"))?);
        }
        Ok(answers)
    }
}

/// Hears of each change of an interface or a forwarding entry, whoever makes it.
#[derive(Debug)]
pub struct FdbWatch {
    events: Socket,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdbEvent {
    /// There is an entry, new or altered.
    Put(FdbEntry),
    /// It is gone.
    Gone(FdbEntry),
    /// Some interface was made, altered or removed.
    Link,
    /// Some events were lost: there were too many.
    Lost,
}

impl FdbWatch {
    /// Listens in the calling thread's namespace.
    ///
    /// # Errors
    /// [`HostError::Kernel`].
    pub fn open() -> Result<Self, HostError> {
        let listen = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            socket.set_rx_buf_sz(EVENTS_BYTES_MAX)?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            Ok(socket)
        };
        let events = listen().map_err(|error| KernelError::from(error).during("listen to", "rtnetlink"))?;
        Ok(Self { events })
    }

    /// Reads what waits, and does not wait for more.
    pub fn drain(&self, mut on_event: impl FnMut(FdbEvent)) {
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        for _ in 0..EVENTS_PER_READ_MAX {
            datagram.clear();
            match self.events.recv_from(&mut datagram, libc::MSG_DONTWAIT) {
                // Only the kernel has port 0.
                Ok((_, sender)) if sender.port_number() == 0 => read(&datagram, &mut on_event),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_overrun) => on_event(FdbEvent::Lost),
            }
        }
    }
}

impl AsFd for FdbWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn read(datagram: &[u8], on_event: &mut impl FnMut(FdbEvent)) {
    let mut rest = datagram;
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        let entry = || neighbour::decode(message.payload());
        let event = match message.message_type() {
            RTM_NEWLINK | RTM_DELLINK => Some(FdbEvent::Link),
            RTM_NEWNEIGH => entry().map(FdbEvent::Put),
            RTM_DELNEIGH => entry().map(FdbEvent::Gone),
            _ => None,
        };
        event.into_iter().for_each(&mut *on_event);
        let length = (message.length() as usize).next_multiple_of(4).clamp(4, rest.len());
        rest = &rest[length..];
    }
}
