//! Netlink: requests to a part of the kernel and their answers, within a deadline.
//!
//! Owns sockets, the header of messages and sequence numbers (struct nlmsghdr). Does not know what is said.

use std::io;
use std::time::{Duration, Instant};

use mesh_hostnet::{HostError, KernelError};
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long the kernel may take to answer one request. To load modules for it and have them test themselves, as those of
/// ciphers do, takes the longest: some seconds on a slow CPU.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes of one datagram from the kernel; an upcall bears a whole frame.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 128 * 1024;

/// Requests that go to the kernel before their answers are read: what bounds the number is the room for them.
const BATCH_MAX: usize = 128;

/// Bytes of struct nlmsghdr.
const HEADER_LEN: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

/// A socket for requests, in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Netlink {
    pub(crate) fn open(protocol: isize) -> Result<Self, KernelError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, datagram: Vec::with_capacity(DATAGRAM_BYTES_MAX) })
    }

    /// Asks once, for one object or all of a kind, or for something to be done; `flags` say which.
    pub(crate) fn exchange(
        &mut self,
        (kind, flags): (u16, u16),
        body: &[u8],
        on_object: &mut dyn FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        self.sequence = self.sequence.wrapping_add(1);
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        self.socket.send(&encode(kind, flags, self.sequence, body), 0)?;
        loop {
            self.receive(deadline)?;
            for message in messages(&self.datagram).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => return acknowledged(message.payload),
                    _ => on_object(message.payload),
                }
            }
        }
    }

    /// Asks for many changes of one kind: for each, in order, what the kernel said against it.
    pub(crate) fn change_many(
        &mut self,
        kind: u16,
        bodies: &[Vec<u8>],
    ) -> Result<Vec<Option<KernelError>>, KernelError> {
        let mut answers = Vec::with_capacity(bodies.len());
        for some in bodies.chunks(BATCH_MAX) {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            for body in some {
                self.sequence = self.sequence.wrapping_add(1);
                bytes.extend(encode(kind, NLM_F_ACK | NLM_F_CREATE, self.sequence, body));
            }
            let mut said: Vec<Option<Option<KernelError>>> = some.iter().map(|_| None).collect();
            let deadline = Instant::now() + ANSWER_TIME_MAX;
            self.socket.send(&bytes, 0)?;
            while said.iter().any(Option::is_none) {
                self.receive(deadline)?;
                for message in messages(&self.datagram) {
                    let at = message.sequence.wrapping_sub(first) as usize;
                    if let (NLMSG_ERROR, Some(place)) = (message.kind, said.get_mut(at)) {
                        *place = Some(acknowledged(message.payload).err());
                    }
                }
            }
            answers.extend(said.into_iter().flatten());
        }
        Ok(answers)
    }

    /// Asks for something of which nobody has to know whether it is done.
    pub(crate) fn tell(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&encode(kind, 0, self.sequence, body), 0)?;
        // What the kernel has against it must not fill the socket.
        let _refused = take(&self.socket, &mut self.datagram);
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<(), KernelError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::TIMEDOUT.into());
            }
            let timeout = Timespec::try_from(left).expect("a few seconds fit a timespec");
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            if take(&self.socket, &mut self.datagram)? {
                return Ok(());
            }
        }
    }
}

/// Says what was tried when something happened.
pub(crate) fn during(
    action: &'static str,
    object: impl std::fmt::Display,
) -> impl FnOnce(KernelError) -> HostError {
    move |source| HostError::Kernel { action, interface: object.to_string(), source }
}

/// Reads a datagram of the kernel's, if one waits.
pub(crate) fn take(socket: &Socket, datagram: &mut Vec<u8>) -> Result<bool, KernelError> {
    datagram.clear();
    match socket.recv_from(datagram, libc::MSG_DONTWAIT) {
        // Only the kernel has port 0; another process may send to this socket, too.
        Ok((_, sender)) => Ok(sender.port_number() == 0),
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) struct Message<'d> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'d [u8],
}

/// The messages in a datagram, up to the first that is broken.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header: &[u8; HEADER_LEN] = rest.first_chunk()?;
        let [a, b, c, d, e, f, _, _, g, h, i, j, ..] = *header;
        let len = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let payload = rest.get(HEADER_LEN..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        let (kind, sequence) = (u16::from_ne_bytes([e, f]), u32::from_ne_bytes([g, h, i, j]));
        Some(Message { kind, sequence, payload })
    })
}

/// What an acknowledgement, or the end of a dump, says.
fn acknowledged(payload: &[u8]) -> Result<(), KernelError> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        None | Some(0..) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_abs()).into()),
    }
}

fn encode(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN + body.len()).expect("a request has a frame at most");
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend([kind, NLM_F_REQUEST | flags].map(u16::to_ne_bytes).concat());
    bytes.extend([sequence, 0].map(u32::to_ne_bytes).concat());
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_header_and_a_body_and_is_read_as_one() {
        let bytes = encode(0x1c, NLM_F_ACK, 7, b"body");
        let wanted = [
            &20_u32.to_ne_bytes()[..],
            &[0x1c_u16, 5].map(u16::to_ne_bytes).concat(),
            &[7_u32, 0].map(u32::to_ne_bytes).concat(),
            b"body",
        ];
        assert_eq!(bytes, wanted.concat());
        let read: Vec<_> = messages(&bytes).map(|message| (message.kind, message.sequence)).collect();
        assert_eq!(read, [(0x1c, 7)]);
        assert_eq!(messages(&bytes[..19]).count(), 0);
    }

    #[test]
    fn an_acknowledgement_bears_an_errno() {
        assert!(acknowledged(&0_i32.to_ne_bytes()).is_ok());
        let error = acknowledged(&(-19_i32).to_ne_bytes()).unwrap_err();
        assert!(error.is_absence(), "{error}");
    }
}
