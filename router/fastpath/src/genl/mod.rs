//! Generic netlink: requests to a family of the kernel's and their answers, within a deadline; and sockets on which the
//! kernel speaks up by itself.
//!
//! Owns sockets, headers and sequence numbers (struct nlmsghdr and struct genlmsghdr). Does not know what is said.

mod attributes;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use mesh_hostnet::KernelError;
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

pub(crate) use self::attributes::{Attributes, attribute, attributes, fixed};

/// How long the kernel may take to answer one request. To load a module for it takes the longest.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes of one datagram from the kernel; an upcall bears a whole frame.
const DATAGRAM_BYTES_MAX: usize = 128 * 1024;

/// Bytes of upcalls that may wait at one port; the kernel drops the frames of further ones, and counts them as lost.
const UPCALL_BYTES_MAX: usize = 1024 * 1024;

/// Requests that go to the kernel before their answers are read: what bounds the number is the room for them.
const BATCH_MAX: usize = 128;

/// Bytes of struct nlmsghdr and of struct genlmsghdr.
const HEADER_LEN: usize = 16;
const GENERIC_HEADER_LEN: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;

/// The family that knows the others (include/uapi/linux/genetlink.h).
const CONTROLLER: Family = Family { id: 16, version: 2 };
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Whom a request goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    id: u16,
    version: u8,
}

/// What is asked of a family: its own header, if it has one, and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) command: u8,
    pub(crate) header: Option<u32>,
    pub(crate) attributes: Attributes,
}

/// A socket for requests, in the namespace of the thread that opened it.
pub(crate) struct Genl {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Genl {
    pub(crate) fn open() -> Result<Self, KernelError> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, datagram: Vec::with_capacity(DATAGRAM_BYTES_MAX) })
    }

    /// Looks a family up; the kernel loads the module for it if it can.
    pub(crate) fn family(&mut self, name: &str, version: u8) -> Result<Family, KernelError> {
        let name = [name.as_bytes(), b"\0"].concat();
        let attributes = Attributes::default().with(CTRL_ATTR_FAMILY_NAME, &name);
        let request = Request { command: CTRL_CMD_GETFAMILY, header: None, attributes };
        let mut id = None;
        let said = self.exchange(CONTROLLER, &request, NLM_F_ACK, &mut |body| {
            id = fixed(body, CTRL_ATTR_FAMILY_ID).map(u16::from_ne_bytes);
        });
        said.map_err(|error| match error.is_absence() {
            true => KernelError { detail: Some("its module is not there".to_owned()), ..error },
            false => error,
        })?;
        let id = id.ok_or_else(|| KernelError::from(Errno::NOENT))?;
        Ok(Family { id, version })
    }

    /// Asks for one object, or for nothing but that something be done.
    pub(crate) fn ask(
        &mut self,
        family: Family,
        request: &Request,
        on_object: &mut dyn FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        self.exchange(family, request, NLM_F_ACK, on_object)
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(
        &mut self,
        family: Family,
        request: &Request,
        on_object: &mut dyn FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        self.exchange(family, request, NLM_F_DUMP, on_object)
    }

    /// Asks for many changes: for each, in order, what the kernel said against it.
    pub(crate) fn change_many(
        &mut self,
        family: Family,
        requests: &[Request],
    ) -> Result<Vec<Option<KernelError>>, KernelError> {
        let mut answers = Vec::with_capacity(requests.len());
        for some in requests.chunks(BATCH_MAX) {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            for request in some {
                self.sequence = self.sequence.wrapping_add(1);
                bytes.extend(encode(family, request, NLM_F_ACK | NLM_F_CREATE, self.sequence));
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
    pub(crate) fn tell(&mut self, family: Family, request: &Request) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&encode(family, request, 0, self.sequence), 0)?;
        // What the kernel has against it must not fill the socket.
        let _refused = take(&self.socket, &mut self.datagram);
        Ok(())
    }

    fn exchange(
        &mut self,
        family: Family,
        request: &Request,
        flags: u16,
        on_object: &mut dyn FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        self.sequence = self.sequence.wrapping_add(1);
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        self.socket.send(&encode(family, request, flags, self.sequence), 0)?;
        loop {
            self.receive(deadline)?;
            for message in messages(&self.datagram).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => return acknowledged(message.payload),
                    _ => on_object(message.payload.get(GENERIC_HEADER_LEN..).unwrap_or_default()),
                }
            }
        }
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

/// A socket of one port of a datapath, on which the kernel tells of frames that it has no flow for.
pub(crate) struct Upcalls {
    socket: Socket,
    port: u32,
    datagram: Vec<u8>,
}

impl Upcalls {
    pub(crate) fn open() -> Result<Self, KernelError> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        let address = socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(UPCALL_BYTES_MAX)?;
        let datagram = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        Ok(Self { socket, port: address.port_number(), datagram })
    }

    /// What the kernel calls this socket by.
    pub(crate) const fn port(&self) -> u32 {
        self.port
    }

    /// Reads one upcall, if any waits: its command, and its body behind the generic header.
    pub(crate) fn next(&mut self) -> Option<(u8, &[u8])> {
        // An error tells that upcalls were lost, and frames with them: senders repeat what matters to them.
        take(&self.socket, &mut self.datagram).ok().filter(|is_there| *is_there)?;
        let payload = messages(&self.datagram).next()?.payload;
        Some((*payload.first()?, payload.get(GENERIC_HEADER_LEN..)?))
    }
}

impl AsFd for Upcalls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads a datagram of the kernel's, if one waits.
fn take(socket: &Socket, datagram: &mut Vec<u8>) -> Result<bool, KernelError> {
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

struct Message<'d> {
    kind: u16,
    sequence: u32,
    payload: &'d [u8],
}

/// The messages in a datagram, up to the first that is broken.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
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

fn encode(family: Family, request: &Request, flags: u16, sequence: u32) -> Vec<u8> {
    let Request { command, header, attributes } = request;
    let mut bytes = vec![0; HEADER_LEN];
    bytes.extend([*command, family.version, 0, 0]);
    bytes.extend(header.iter().flat_map(|header| header.to_ne_bytes()));
    bytes.extend(attributes.as_bytes());
    let len = u32::try_from(bytes.len()).expect("a request has a frame at most");
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes[4..6].copy_from_slice(&family.id.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_two_headers_the_familys_own_and_attributes() {
        let attributes = Attributes::default().with(1, b"dp0\0");
        let request = Request { command: 1, header: Some(8), attributes };
        let bytes = encode(Family { id: 0x1c, version: 2 }, &request, NLM_F_ACK, 7);
        let mut wanted = 32_u32.to_ne_bytes().to_vec();
        wanted.extend([0x1c_u16, 5].map(u16::to_ne_bytes).concat());
        wanted.extend([7_u32, 0].map(u32::to_ne_bytes).concat());
        wanted.extend([1, 2, 0, 0]);
        wanted.extend(8_u32.to_ne_bytes());
        wanted.extend([8_u16, 1].map(u16::to_ne_bytes).concat());
        wanted.extend(b"dp0\0");
        assert_eq!(bytes, wanted);
        let read: Vec<_> = messages(&bytes).map(|message| (message.kind, message.sequence)).collect();
        assert_eq!(read, [(0x1c, 7)]);
        assert_eq!(messages(&bytes[..31]).count(), 0);
    }

    #[test]
    fn an_acknowledgement_bears_an_errno() {
        assert!(acknowledged(&0_i32.to_ne_bytes()).is_ok());
        let error = acknowledged(&(-19_i32).to_ne_bytes()).unwrap_err();
        assert!(error.is_absence(), "{error}");
    }
}
