//! Copies of the frames that pass an interface, from a packet socket (packet(7)). Owns the socket; alters nothing. The kernel
//! keeps what is not read yet, up to the socket's buffer, and counts what finds no room there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{HostError, KernelError};
use crate::netlink::link::Link;
use crate::{BridgeName, bridge};

/// All protocols, in the order of bytes of the network.
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

/// Room for frames that are not read yet, in bytes: some milliseconds at 10 Gbit/s.
const BUFFER_LEN: libc::c_int = 8 << 20;

/// A look at one interface.
pub struct Sniffer(OwnedFd);

/// One frame as it passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    /// Bytes that are in the buffer.
    pub len: usize,
    /// Bytes that it had.
    pub original_len: usize,
}

impl Sniffer {
    /// Looks at all that crosses the overlay: at each interface by which frames leave and enter the bridge.
    ///
    /// # Errors
    /// [`HostError`] when there is no such bridge, or this process may not look.
    pub fn uplinks(name: &BridgeName) -> Result<Vec<Self>, HostError> {
        let mut host = bridge::open_host()?;
        let bridge = bridge::find(&mut host, name)?;
        let links = host.links().map_err(|error| error.during("list the ports of", name))?;
        let is_uplink =
            |link: &&Link| link.master == Some(bridge.index) && link.alias == bridge::mark::UPLINK;
        links.iter().filter(is_uplink).map(Self::open).collect()
    }

    /// Looks at all that passes an interface of the host; `None` when there is none of this name.
    ///
    /// # Errors
    /// [`HostError`] when this process may not look.
    pub fn port(name: &str) -> Result<Option<Self>, HostError> {
        let link = bridge::open_host()?.link_named(name).map_err(|error| error.during("look for", name))?;
        link.as_ref().map(Self::open).transpose()
    }

    fn open(link: &Link) -> Result<Self, HostError> {
        let failed = |error| KernelError { error, detail: None }.during("look at", &link.name);
        packet_socket(link.index).map(Self).map_err(failed)
    }

    /// Takes the next frame into `buffer`, as much as fits; `None` when there is none yet.
    ///
    /// # Errors
    /// Of recv(2), as when the interface is gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<Sniffed>> {
        // SAFETY: the pointer is to `buffer.len()` bytes that are ours to write to until the call has returned.
        let length = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC | libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(length) {
            Ok(original_len) => Ok(Some(Sniffed { len: original_len.min(buffer.len()), original_len })),
            Err(_negative) => match io::Error::last_os_error() {
                error if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => {
                    Ok(None)
                }
                error => Err(error),
            },
        }
    }

    /// Frames that found no room since this was asked last.
    #[must_use]
    pub fn take_dropped(&self) -> u64 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = length_of(&stats);
        // SAFETY: both pointers are to values of ours that live until the call has returned, and `len` is the size of the first.
        let done = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if done == 0 { stats.tp_drops.into() } else { 0 }
    }
}

impl AsFd for Sniffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A socket that gets the frames of one interface. It is given no protocol before it is bound, and so none of others.
fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let index =
        libc::c_int::try_from(index).map_err(|_too_great| io::Error::from(io::ErrorKind::InvalidInput))?;
    let room = BUFFER_LEN;
    // SAFETY: the pointer is to an integer that lives until the call has returned, and the length is its size.
    let sized = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const room).cast(),
            length_of(&room),
        )
    };
    if sized < 0 {
        return Err(io::Error::last_os_error());
    }
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ALL_PROTOCOLS,
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to an address of that length that lives until the call has returned.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length_of(&address)) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).expect("an option or address has a few bytes")
}
