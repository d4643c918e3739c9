//! Raw frames from and to an interface: packet(7) sockets and the ethtool switches that go with them.
//!
//! Owns all `unsafe` code of the crate. Everything acts on the network namespace of the calling thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

/// No frame is longer: super-frames carry at most 64 KiB of payload.
pub(crate) const FRAME_BYTES_MAX: usize = 66 * 1024;

/// The switches that make a device cut super-frames and complete checksums before it sends a frame, from
/// `linux/ethtool.h`: transmit checksums, TCP segmentation, generic segmentation.
const OFFLOAD_SWITCHES: [u32; 3] = [0x17, 0x1f, 0x24];

/// Whether a socket also sees the frames that this machine sends out of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnFrames {
    Seen,
    Ignored,
}

/// What was read from a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) length: usize,
    /// Whether the frame left by the interface; it came in otherwise.
    pub(crate) outgoing: bool,
}

/// A non-blocking socket that sees all frames of one interface.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens the socket; from the return on no frame is missed as long as `buffer_bytes` are enough.
    pub(crate) fn open(interface: &str, own: OwnFrames, buffer_bytes: usize) -> Result<Self> {
        let open = || -> io::Result<Self> {
            // Of protocol 0, it sees nothing before it is bound: else frames of other interfaces come in.
            let fd = socket(libc::AF_PACKET, libc::SOCK_RAW)?;
            if own == OwnFrames::Ignored {
                set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
            }
            set_socket_recv_buffer_size_force(&fd, buffer_bytes)?;
            let index = rustix::net::netdevice::name_to_index(&fd, interface)?;
            bind(fd.as_fd(), index)?;
            Ok(Self { fd })
        };
        open().with_context(|| format!("cannot open a packet socket on {interface}"))
    }

    /// Reads the next frame; `None` when there is none now.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        // SAFETY: all-zero bytes are a valid sockaddr_ll, which has integer fields only.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut from_length = socklen::<libc::sockaddr_ll>();
        // SAFETY: buffer and address are valid for writes of the lengths given with them, and the kernel
        // writes no more than those.
        let count = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut from_length,
            )
        };
        match usize::try_from(count) {
            Ok(length) => Ok(Some(Received { length, outgoing: from.sll_pkttype == libc::PACKET_OUTGOING })),
            Err(_negative) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Sends a frame out of the interface.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of one slice, which outlives the call.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// How many frames were lost since the last call because the socket's buffer was full.
    pub(crate) fn take_lost(&self) -> io::Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = socklen::<libc::tpacket_stats>();
        // SAFETY: the struct is the one that the option is documented to fill, and its length is given.
        let status = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        check(status)?;
        Ok(statistics.tp_drops)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes an interface send frames of its MTU only, with complete checksums: what a wire carries.
pub(crate) fn switch_offloads_off(interface: &str) -> Result<()> {
    let switch_all = || -> io::Result<()> {
        let control = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
        OFFLOAD_SWITCHES.iter().try_for_each(|switch| ethtool_set(control.as_fd(), interface, *switch, 0))
    };
    switch_all().with_context(|| format!("cannot switch off the offloads of {interface}"))
}

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

fn ethtool_set(control: BorrowedFd<'_>, interface: &str, command: u32, value: u32) -> io::Result<()> {
    let mut setting = EthtoolValue { command, value };
    // SAFETY: all-zero bytes are a valid ifreq: an empty name and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut setting).cast();
    // SAFETY: the request is complete, its name ends with a zero, and `setting` outlives the call.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })
}

fn socket(family: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(fd: BorrowedFd<'_>, interface_index: u32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll, which has integer fields only.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("a small constant");
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).expect("a small constant").to_be();
    address.sll_ifindex = interface_index.cast_signed();
    // SAFETY: the address is complete and its length is given.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), socklen::<libc::sockaddr_ll>()) })
}

fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option takes an int, whose address and length are given.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), socklen::<libc::c_int>())
    })
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a small struct")
}
