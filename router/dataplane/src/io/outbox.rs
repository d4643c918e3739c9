//! Packets on their way out. Owns the buffer in which they are sealed: messages for one neighbour that wait together share a
//! packet while the path takes it, and neighbouring packets of equal length and destination leave with one send
//! (UDP_SEGMENT), in the order in which they came.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_wire::sleeve::{MessageTooLong, OVERHEAD_LEN_MAX};

use super::udp::UdpQueue;
use crate::engine::{Counters, DropReason};
use crate::shared::{OpenPacket, Outlet, SendSession};

/// Bytes that wait at most; when another packet might not fit, all are sent.
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
    packet: Option<Packet>,
    /// Where a train was longer than the interface takes, since this was asked last.
    refused: Option<SocketAddr>,
}

/// The packet at the end of the buffer, which takes further messages.
struct Packet {
    session: Arc<SendSession>,
    destination: SocketAddr,
    open: OpenPacket,
    /// Where its messages have to end.
    end_max: usize,
}

/// The datagrams before it that leave with one send.
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
        let bytes = Vec::with_capacity(OUTBOX_LEN);
        Self { socket, counters, bytes, train: None, packet: None, refused: None }
    }

    /// Takes a message of `len` bytes, which `encode` appends, for the neighbour at `destination`. It leaves with the next
    /// [`flush`](Self::flush) at the latest.
    pub(super) fn push(
        &mut self,
        outlet: &Outlet,
        destination: SocketAddr,
        len: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), MessageTooLong>,
    ) -> Result<(), DropReason> {
        let Some(session) = &outlet.session else {
            return Err(DropReason::NoSession);
        };
        let end = self.bytes.len() + len;
        let has_room = self.packet.as_ref().is_some_and(|packet| {
            packet.destination == destination
                && Arc::ptr_eq(&packet.session, session)
                && end <= packet.end_max
        });
        if has_room {
            // Where there is room for it by its length, there is room in its length field.
            return encode(&mut self.bytes).map_err(|MessageTooLong(_)| DropReason::TooLong);
        }
        self.close();
        if self.bytes.len() + DATAGRAM_LEN_MAX > OUTBOX_LEN {
            self.flush();
        }
        let open = session.begin(&mut self.bytes)?;
        if encode(&mut self.bytes).is_err() {
            self.bytes.truncate(open.start);
            return Err(DropReason::TooLong);
        }
        let end_max = open.start + outlet.body_end_max();
        self.packet = Some(Packet { session: Arc::clone(session), destination, open, end_max });
        Ok(())
    }

    /// Sends a packet with one message of its own, unfragmented, past all that waits.
    ///
    /// # Errors
    /// What the kernel says: `EMSGSIZE` when the interface does not take it.
    pub(super) fn send_whole(
        &mut self,
        outlet: &Outlet,
        destination: SocketAddr,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), MessageTooLong>,
    ) -> io::Result<()> {
        self.flush();
        let Some(session) = &outlet.session else { return Ok(()) };
        if let Err(reason) = session.write(encode, &mut self.bytes) {
            self.counters.dropped(reason);
            return Ok(());
        }
        let sent = self.socket.send_whole(destination, &self.bytes);
        self.bytes.clear();
        sent
    }

    /// Sends by `socket` from now on.
    pub(super) fn use_socket(&mut self, socket: Arc<UdpQueue>) {
        self.socket = socket;
    }

    /// Sends all that waits.
    pub(super) fn flush(&mut self) {
        self.close();
        self.depart(self.bytes.len());
        self.bytes.clear();
    }

    /// Where datagrams have turned out to be longer than the interface takes, since this was asked last.
    pub(super) const fn take_refused(&mut self) -> Option<SocketAddr> {
        self.refused.take()
    }

    /// Ends the packet, and makes it part of a train.
    fn close(&mut self) {
        let Some(Packet { session, destination, open, .. }) = self.packet.take() else { return };
        let start = open.start;
        session.seal(open, &mut self.bytes);
        let len = self.bytes.len() - start;
        let segments_max = self.socket.segments_max();
        if let Some(train) =
            self.train.as_mut().filter(|train| train.takes(destination, start, len, segments_max))
        {
            train.count += 1;
            train.is_complete = len < train.segment_len;
            return;
        }
        self.depart(start);
        self.train = Some(Train { destination, start, segment_len: len, count: 1, is_complete: false });
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
        if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL)) {
            self.refused = Some(train.destination);
            self.socket.retry_trains();
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
