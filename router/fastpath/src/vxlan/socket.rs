//! How heartbeats leave and come: a UDP socket that writes VXLAN packets by hand, and a packet socket on the VXLAN device
//! that hears those which the device has taken.
//!
//! A heartbeat leaves with "don't fragment" and whatever the kernel believes of the path's MTU, so that one that is
//! answered has shown that a frame of its size passes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use mesh_hostnet::UnderlayFamily;
use mesh_wire::vxlan::{ETHERTYPE, HEARTBEAT_LEN};

/// `IP_PMTUDISC_PROBE` and `IPV6_PMTUDISC_PROBE` of include/uapi/linux/in.h and in6.h.
const PMTUDISC_PROBE: libc::c_int = 3;

/// Sends the heartbeats of one family of underlay addresses.
#[derive(Debug)]
pub(super) struct Mouth(UdpSocket);

impl Mouth {
    /// Heartbeats leave from `local`, or from where the routes say; by this interface, or any.
    pub(super) fn open(
        family: UnderlayFamily,
        local: Option<IpAddr>,
        device: Option<u32>,
    ) -> io::Result<Self> {
        let any = match family {
            UnderlayFamily::V4 | UnderlayFamily::Sealed => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            UnderlayFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind(SocketAddr::new(local.unwrap_or(any), 0))?;
        socket.set_nonblocking(true)?;
        let (level, option) = match family {
            UnderlayFamily::V4 | UnderlayFamily::Sealed => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            UnderlayFamily::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        set_option(&socket, level, option, PMTUDISC_PROBE)?;
        if let Some(device) = device {
            let device = libc::c_int::try_from(device).map_err(|_too_great| io::ErrorKind::InvalidInput)?;
            set_option(&socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, device)?;
        }
        Ok(Self(socket))
    }

    /// Sends one packet. That it does not leave is found out by its not being answered.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send_to(packet, to).map(drop)
    }
}

fn set_option(
    socket: &UdpSocket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).expect("an integer has a few bytes");
    // SAFETY: the descriptor is open while `socket` lives, and the pointer is to `len` bytes that live until the call
    // has returned; the kernel only reads them.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Hears the heartbeats that one VXLAN device takes.
#[derive(Debug)]
pub(super) struct Ear(OwnedFd);

impl Ear {
    /// Listens on the device of this number.
    pub(super) fn open(device: u32) -> io::Result<Self> {
        let protocol = ETHERTYPE.to_be();
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the call takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has made the descriptor, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let device = libc::c_int::try_from(device).map_err(|_too_great| io::ErrorKind::InvalidInput)?;
        let family = libc::c_ushort::try_from(libc::AF_PACKET).expect("a small number");
        let address = libc::sockaddr_ll {
            sll_family: family,
            sll_protocol: protocol,
            sll_ifindex: device,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = libc::socklen_t::try_from(size_of_val(&address)).expect("an address has a few bytes");
        // SAFETY: the descriptor is open, and the pointer is to `len` bytes that live until the call has returned; the
        // kernel only reads them.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        if bound == 0 { Ok(Self(socket)) } else { Err(io::Error::last_os_error()) }
    }

    /// The start of the next heartbeat's payload; `None` when no more wait.
    pub(super) fn hear(&self, buffer: &mut [u8; HEARTBEAT_LEN]) -> io::Result<Option<usize>> {
        match rustix::net::recv(&self.0, &mut buffer[..], rustix::net::RecvFlags::empty()) {
            Ok((_, len)) => Ok(Some(len.min(HEARTBEAT_LEN))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(rustix::io::Errno::INTR) => Ok(Some(0)),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
