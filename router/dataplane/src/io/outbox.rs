//! Datagrams on their way out. Owns the buffer in which they are sealed, and joins neighbouring ones of equal length
//! and destination into one send (UDP_SEGMENT), in the order in which they came.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_wire::sleeve::{MessageTooLong, OVERHEAD_LEN_MAX};

use super::udp::UdpQueue;
use crate::engine::{Counters, DropReason};
use crate::shared::Outlet;

/// Bytes that wait at most; when another datagram might not fit, all are sent.
const OUTBOX_LEN: usize = 256 << 10;

/// Room that one datagram may need.
const DATAGRAM_LEN_MAX: usize = (1 << 16) + OVERHEAD_LEN_MAX;

/// Most bytes in one send: what an IPv4 datagram holds (65,535) without its headers, for so the kernel counts a train.
const TRAIN_LEN_MAX: usize = 65_507;

pub(super) struct Outbox {
    socket: Arc<UdpQueue>,
    counters: Arc<Counters>,
    bytes: Vec<u8>,
    train: Option<Train>,
}

/// The datagrams at the end of the buffer that leave with one send.
struct Train {
    destination: SocketAddr,
    start: usize,
    segment_len: usize,
    count: usize,
    /// The last datagram is shorter than the others: the kernel allows that only at the end.
    is_complete: bool,
}

impl Outbox {
    pub(super) fn new(socket: Arc<UdpQueue>, counters: Arc<Counters>) -> Self {
        Self { socket, counters, bytes: Vec::with_capacity(OUTBOX_LEN), train: None }
    }

    /// Seals a packet with the messages that `encode` appends, for the neighbour at `destination`. It leaves with the
    /// next [`flush`](Self::flush) at the latest.
    pub(super) fn push(
        &mut self,
        outlet: &Outlet,
        destination: SocketAddr,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), MessageTooLong>,
    ) -> Result<(), DropReason> {
        let Some(session) = &outlet.session else {
            return Err(DropReason::NoSession);
        };
        if self.bytes.len() + DATAGRAM_LEN_MAX > OUTBOX_LEN {
            self.flush();
        }
        let start = self.bytes.len();
        session.write(encode, &mut self.bytes)?;
        let len = self.bytes.len() - start;
        let segments_max = self.socket.segments_max();
        if let Some(train) =
            self.train.as_mut().filter(|train| train.takes(destination, start, len, segments_max))
        {
            train.count += 1;
            train.is_complete = len < train.segment_len;
            return Ok(());
        }
        self.depart(start);
        self.train = Some(Train { destination, start, segment_len: len, count: 1, is_complete: false });
        Ok(())
    }

    /// Sends by `socket` from now on.
    pub(super) fn use_socket(&mut self, socket: Arc<UdpQueue>) {
        self.socket = socket;
    }

    /// Sends all that waits.
    pub(super) fn flush(&mut self) {
        self.depart(self.bytes.len());
        self.bytes.clear();
    }

    /// Sends the train, which ends at `end` in the buffer.
    fn depart(&mut self, end: usize) {
        let Some(train) = self.train.take() else {
            return;
        };
        let contents = &self.bytes[train.start..end];
        let Err(error) = self.socket.send(train.destination, contents, train.segment_len) else {
            return;
        };
        if train.count == 1 || error.kind() == io::ErrorKind::WouldBlock {
            (0..train.count).for_each(|_| self.counters.dropped(reason(&error)));
            return;
        }
        // The kernel, the device or the path's MTU refused the train; its datagrams may pass one by one.
        for datagram in contents.chunks(train.segment_len) {
            if let Err(error) = self.socket.send(train.destination, datagram, datagram.len()) {
                self.counters.dropped(reason(&error));
            }
        }
    }
}

impl Train {
    fn takes(&self, destination: SocketAddr, start: usize, len: usize, segments_max: usize) -> bool {
        !self.is_complete
            && self.destination == destination
            && len <= self.segment_len
            && self.count < segments_max
            && start + len - self.start <= TRAIN_LEN_MAX
    }
}

fn reason(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DropReason::SocketFull,
        Some(libc::EMSGSIZE) => DropReason::TooLong,
        Some(
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::EAFNOSUPPORT
            | libc::EADDRNOTAVAIL,
        ) => DropReason::Unreachable,
        Some(_) | None => DropReason::SendFailed,
    }
}
