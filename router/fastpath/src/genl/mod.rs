//! Generic netlink: what is said to a family of the kernel's, and sockets on which the kernel speaks up by itself.
//!
//! Owns the header of families (struct genlmsghdr). Does not know what is said.

mod attributes;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use mesh_hostnet::KernelError;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_GENERIC;
use rustix::io::Errno;

pub(crate) use self::attributes::{Attributes, attribute, attributes, fixed};
use crate::netlink::{DATAGRAM_BYTES_MAX, NLM_F_ACK, NLM_F_DUMP, Netlink, messages, take};

/// Bytes of upcalls that may wait at one port; the kernel drops the frames of further ones, and counts them as lost.
const UPCALL_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of struct genlmsghdr.
const GENERIC_HEADER_LEN: usize = 4;

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
pub(crate) struct Genl(Netlink);

impl Genl {
    pub(crate) fn open() -> Result<Self, KernelError> {
        Netlink::open(NETLINK_GENERIC).map(Self)
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
        let bodies: Vec<_> = requests.iter().map(|request| encode(family, request)).collect();
        self.0.change_many(family.id, &bodies)
    }

    /// Asks for something of which nobody has to know whether it is done.
    pub(crate) fn tell(&mut self, family: Family, request: &Request) -> io::Result<()> {
        self.0.tell(family.id, &encode(family, request))
    }

    fn exchange(
        &mut self,
        family: Family,
        request: &Request,
        flags: u16,
        on_object: &mut dyn FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        self.0.exchange((family.id, flags), &encode(family, request), &mut |payload| {
            on_object(payload.get(GENERIC_HEADER_LEN..).unwrap_or_default());
        })
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

/// The headers of a family and of its own, and attributes.
fn encode(family: Family, request: &Request) -> Vec<u8> {
    let Request { command, header, attributes } = request;
    let mut body = vec![*command, family.version, 0, 0];
    body.extend(header.iter().flat_map(|header| header.to_ne_bytes()));
    body.extend(attributes.as_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_two_headers_and_attributes() {
        let attributes = Attributes::default().with(1, b"dp0\0");
        let request = Request { command: 1, header: Some(8), attributes };
        let mut wanted = vec![1, 2, 0, 0];
        wanted.extend(8_u32.to_ne_bytes());
        wanted.extend([8_u16, 1].map(u16::to_ne_bytes).concat());
        wanted.extend(b"dp0\0");
        assert_eq!(encode(Family { id: 0x1c, version: 2 }, &request), wanted);
    }
}
