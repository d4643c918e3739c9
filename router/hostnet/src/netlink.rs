//! One conversation with rtnetlink: a request goes out, its answers come in, within a deadline.
//!
//! Owns the socket, sequence numbers, acknowledgements and dumps. Requests are built with the types of
//! netlink-packet-route; answers are handed on as bytes, of which the submodules read only the attributes that they
//! need, so that an attribute that a later kernel adds or widens cannot break a router.
//!
//! A socket belongs to the namespace of the thread that opened it, for as long as it lives and whatever thread uses it.

pub(crate) mod address;
pub(crate) mod link;
pub(crate) mod multicast;
pub(crate) mod neighbour;
pub(crate) mod route;

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NlasIterator, parse_i32, parse_u32,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::KernelError;

/// How long the kernel may take to answer one request. It answers in microseconds unless the machine is stuck; removing
/// an interface waits for other CPUs, and can take tens of milliseconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// How often a dump is repeated when the kernel's tables changed under it, or its answers overran the socket. After that
/// the last attempt's answer stands (changed), or the dump fails (overrun).
const DUMP_ATTEMPTS_MAX: u32 = 5;

/// Bytes of one datagram from the kernel; it fills at most 32 KiB per datagram of a dump (net/netlink/af_netlink.c).
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a netlink header, which the kernel repeats in an acknowledgement (struct nlmsghdr).
const HEADER_BYTES: usize = 16;

/// The kernel's words in an extended acknowledgement (include/uapi/linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A socket of rtnetlink in one namespace.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels before 4.12 do not know these two; they explain less, that is all.
        if socket.set_cap_ack(true).and_then(|()| socket.set_ext_ack(true)).is_err() {
            tracing::debug!("this kernel has no extended acknowledgements");
        }
        Ok(Self { socket, sequence: 0, datagram: Vec::with_capacity(DATAGRAM_BYTES_MAX) })
    }

    /// Asks for a change, with the `NLM_F_*` flags beyond request and acknowledgement, and waits until it is done.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), KernelError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.exchange(|sequence| serialize(message, flags, sequence), &mut |_| {})?;
        Ok(())
    }

    /// Asks for many changes at once, each with its flags, and waits until all are done: for each, in order, what the kernel
    /// said against it. Their number is bounded by the room for its answers, see `BATCH_MAX` of the caller.
    pub(crate) fn change_many(
        &mut self,
        changes: impl ExactSizeIterator<Item = (RouteNetlinkMessage, u16)>,
    ) -> Result<Vec<Option<KernelError>>, KernelError> {
        let count = changes.len();
        let first = self.sequence.wrapping_add(1);
        let mut requests = Vec::new();
        for (message, flags) in changes {
            self.sequence = self.sequence.wrapping_add(1);
            requests.extend(serialize(message, NLM_F_REQUEST | NLM_F_ACK | flags, self.sequence));
        }
        let mut answers: Vec<Option<KernelError>> = (0..count).map(|_| None).collect();
        if count == 0 {
            return Ok(answers);
        }
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        retry_interrupted(|| self.socket.send(&requests, 0))?;
        let mut left = count;
        while left > 0 {
            self.receive(deadline)?;
            let mut rest = &self.datagram[..];
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
                let length = (message.length() as usize).next_multiple_of(NLMSG_ALIGNMENT).min(rest.len());
                rest = &rest[length..];
                let place = message.sequence_number().wrapping_sub(first) as usize;
                if message.message_type() != NLMSG_ERROR || place >= count {
                    continue;
                }
                left -= 1;
                answers[place] = read_acknowledgement(message.flags(), message.payload()).err();
            }
        }
        Ok(answers)
    }

    /// Asks for one object. `None` when the kernel answers without one that `decode` understands.
    pub(crate) fn get<T>(
        &mut self,
        message: RouteNetlinkMessage,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, KernelError> {
        let mut found = None;
        let request = |sequence| serialize(message, NLM_F_REQUEST | NLM_F_ACK, sequence);
        self.exchange(request, &mut |payload| found = decode(payload))?;
        Ok(found)
    }

    /// Asks for all objects of a kind. Those that `decode` turns down are left out.
    pub(crate) fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let request = |sequence| serialize(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, sequence);
        self.dump_with(request, decode)
    }

    /// The same for a kind that netlink-packet-route does not know: the request has this type, and `body` behind its header.
    pub(crate) fn dump_bare<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let request = |sequence: u32| {
            let len = u32::try_from(HEADER_BYTES + body.len()).expect("a request has a few bytes");
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            let kind_and_flags = [kind.to_ne_bytes(), flags.to_ne_bytes()].concat();
            [&len.to_ne_bytes()[..], &kind_and_flags, &sequence.to_ne_bytes(), &[0; 4], body].concat()
        };
        self.dump_with(request, decode)
    }

    fn dump_with<T>(
        &mut self,
        request: impl Fn(u32) -> Vec<u8>,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let mut attempt = 1;
        loop {
            let mut found = Vec::new();
            let result = self.exchange(&request, &mut |payload| found.extend(decode(payload)));
            let is_last = attempt == DUMP_ATTEMPTS_MAX;
            match result {
                Ok(Consistency::Whole) => return Ok(found),
                Ok(Consistency::Interrupted) if is_last => return Ok(found),
                Ok(Consistency::Interrupted) => {}
                Err(error) if error.is(Errno::NOBUFS) && !is_last => {}
                Err(error) => return Err(error),
            }
            attempt += 1;
        }
    }

    fn exchange(
        &mut self,
        request: impl FnOnce(u32) -> Vec<u8>,
        on_object: &mut dyn FnMut(&[u8]),
    ) -> Result<Consistency, KernelError> {
        self.sequence = self.sequence.wrapping_add(1);
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        let request = request(self.sequence);
        retry_interrupted(|| self.socket.send(&request, 0))?;
        let mut consistency = Consistency::Whole;
        loop {
            self.receive(deadline)?;
            let progress = read_datagram(&self.datagram, self.sequence, &mut consistency, on_object)?;
            match progress {
                Progress::Ended => return Ok(consistency),
                Progress::More => {}
            }
        }
    }

    /// Puts the next datagram of the kernel into `self.datagram`.
    fn receive(&mut self, deadline: Instant) -> Result<(), KernelError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::TIMEDOUT.into());
            }
            let timeout = Timespec::try_from(left).expect("a few seconds fit a timespec");
            let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut sockets, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            self.datagram.clear();
            match self.socket.recv_from(&mut self.datagram, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok((length, _)) if length > self.datagram.len() => return Err(Errno::MSGSIZE.into()),
                // Only the kernel has port 0; another process may send to this socket, too.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => return Ok(()),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a dump shows the kernel's table of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Whole,
    Interrupted,
}

enum Progress {
    More,
    Ended,
}

/// Reads the answers in one datagram. Those to other requests, which timed out, are passed over.
fn read_datagram(
    datagram: &[u8],
    sequence: u32,
    consistency: &mut Consistency,
    on_object: &mut dyn FnMut(&[u8]),
) -> Result<Progress, KernelError> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
        let length = (message.length() as usize).next_multiple_of(NLMSG_ALIGNMENT).min(rest.len());
        rest = &rest[length..];
        if message.sequence_number() != sequence {
            continue;
        }
        if message.flags() & NLM_F_DUMP_INTR != 0 {
            *consistency = Consistency::Interrupted;
        }
        match message.message_type() {
            NLMSG_ERROR => return read_acknowledgement(message.flags(), message.payload()),
            NLMSG_DONE => return read_end_of_dump(message.payload()),
            NLMSG_OVERRUN => return Err(Errno::NOBUFS.into()),
            _ => on_object(message.payload()),
        }
    }
    Ok(Progress::More)
}

/// Messages of a datagram begin at multiples of this many bytes.
const NLMSG_ALIGNMENT: usize = 4;

fn read_acknowledgement(flags: u16, payload: &[u8]) -> Result<Progress, KernelError> {
    let code = payload.get(..4).and_then(|code| parse_i32(code).ok());
    match code {
        None => Err(malformed("an acknowledgement without a code")),
        Some(0) => Ok(Progress::Ended),
        Some(code) => Err(KernelError {
            error: io::Error::from_raw_os_error(code.saturating_abs()),
            detail: kernel_words(flags, &payload[4..]),
        }),
    }
}

/// The message in an extended acknowledgement: after the header of our request, and after the rest of the request
/// unless the kernel says that it left that out.
fn kernel_words(flags: u16, after_code: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request_bytes =
        if flags & NLM_F_CAPPED != 0 { HEADER_BYTES } else { parse_u32(after_code.get(..4)?).ok()? as usize };
    let attributes = after_code.get(request_bytes.next_multiple_of(NLMSG_ALIGNMENT)..)?;
    let words = attribute(attributes, NLMSGERR_ATTR_MSG)?;
    Some(text(words))
}

fn read_end_of_dump(payload: &[u8]) -> Result<Progress, KernelError> {
    match payload.get(..4).and_then(|code| parse_i32(code).ok()) {
        None | Some(0..) => Ok(Progress::Ended),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_abs()).into()),
    }
}

/// The attributes in `bytes`, as (type, value), up to the first that is broken.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..length)?))
    })
}

/// The value of the first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|&(found, _)| found == kind).map(|(_, value)| value)
}

/// A zero-terminated text of the kernel. Names and aliases are bytes to it; what is not UTF-8 is replaced.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn serialize(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> KernelError {
    io::Error::new(io::ErrorKind::InvalidData, error).into()
}

#[cfg(test)]
mod tests;
