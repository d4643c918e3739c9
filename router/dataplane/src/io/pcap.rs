//! Packet capture on the far end of a veth whose near end is a port of the bridge, for hosts without TUN. Owns the capture
//! handle. The veth is made by whoever starts the data plane, in such a way that each frame comes whole, as on a wire.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pcap::{Active, Capture, Direction, Error};
use rustix::io::fcntl_dupfd_cloexec;

use super::uplink::Captured;
use crate::engine::offload::Offload;

/// Longest frame: what a veth with an MTU of 65,535 carries, with a VLAN tag.
const FRAME_LEN_MAX: i32 = 65_535 + 18;

/// Bytes of frames that may wait to be read; more are dropped by the kernel.
const WAITING_LEN_MAX: i32 = 8 << 20;

/// Why frames cannot be captured on an interface.
#[derive(Debug, thiserror::Error)]
#[error("frames cannot be captured on interface {name}")]
pub struct PcapError {
    /// The interface.
    name: String,
    /// What libpcap said.
    source: Error,
}

/// A capture on one interface, of what comes in by it. libpcap wants its handle for itself, also for sending.
pub(crate) struct PcapQueue {
    capture: RefCell<Capture<Active>>,
    /// The capture's socket, to wait for it while the cell is free.
    socket: OwnedFd,
}

/// Starts to capture on the interface `name`, of the calling thread's network namespace.
pub(crate) fn open(name: &str) -> Result<PcapQueue, PcapError> {
    let start = || {
        let inactive = Capture::from_device(name)?
            .snaplen(FRAME_LEN_MAX)
            .buffer_size(WAITING_LEN_MAX)
            // For containers' MACs, which are none of the veth's.
            .promisc(true)
            .immediate_mode(true);
        let active = inactive.open()?;
        // What is injected leaves by the same interface, and is not to be captured again.
        active.direction(Direction::In)?;
        active.setnonblock()
    };
    let capture = start().map_err(|source| PcapError { name: name.to_owned(), source })?;
    let socket = fcntl_dupfd_cloexec(&capture, 0).map_err(|errno| PcapError {
        name: name.to_owned(),
        source: Error::IoError(io::Error::from(errno).kind()),
    })?;
    Ok(PcapQueue { capture: RefCell::new(capture), socket })
}

impl PcapQueue {
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Captured> {
        let mut capture = self.capture.borrow_mut();
        let packet = match capture.next_packet() {
            Ok(packet) => packet,
            Err(Error::TimeoutExpired) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => return Err(io::Error::other(error)),
        };
        let len = packet.data.len().min(buffer.len());
        buffer[..len].copy_from_slice(&packet.data[..len]);
        Ok(Captured { len, offload: Ok(Offload::Nothing) })
    }

    pub(super) fn write(&self, frame: &[u8]) -> io::Result<()> {
        self.capture.borrow_mut().sendpacket(frame).map_err(io::Error::other)
    }
}

impl AsFd for PcapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
