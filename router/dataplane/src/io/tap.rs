//! A TAP interface with several queues (kernel: Documentation/networking/tuntap.rst). Owns its creation and the
//! framing on its file descriptors; it disappears with the last of them, also when the process is killed.
#![allow(unsafe_code, reason = "TUNSETIFF and its relatives have no safe wrapper")]

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::uplink::Captured;
use crate::engine::Injection;
use crate::engine::merge::{MERGED_FRAMES_MAX, SuperFrames};
use crate::engine::offload::{OFFLOAD_LEN, Offload};

/// Longest name of an interface, in bytes: IFNAMSIZ without the final zero.
pub(crate) const INTERFACE_NAME_LEN_MAX: usize = libc::IFNAMSIZ - 1;

/// What the kernel may leave to the reader, and does if the sender left it to the kernel: checksums, and TCP frames of
/// up to 64 KiB.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// The same for UDP; Linux 6.2 and later.
const UDP_OFFLOADS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Why there is no TAP interface. Nothing was created.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is empty, too long, or has characters that the kernel refuses.
    #[error(
        "{0:?} cannot name an interface: 1 to {INTERFACE_NAME_LEN_MAX} bytes without '/', ':', '%' and white space"
    )]
    Name(String),
    /// The kernel has no TUN/TAP driver, or the container hides it.
    #[error("there is no /dev/net/tun")]
    NoDevice(#[source] io::Error),
    /// Making interfaces needs root or CAP_NET_ADMIN.
    #[error("no permission to make a TAP interface")]
    NotPermitted(#[source] io::Error),
    /// There is an interface of that name.
    #[error("interface {0} exists already")]
    NameInUse(String),
    /// The interface does not take this MTU.
    #[error("interface {name} does not take an MTU of {mtu} bytes")]
    Mtu {
        /// Its name.
        name: String,
        /// The MTU asked for.
        mtu: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("the TAP interface cannot be made")]
    Other(#[source] io::Error),
}

/// One queue of a TAP interface.
pub(crate) struct TapQueue {
    file: OwnedFd,
    takes: SuperFrames,
}

/// Makes the interface `name` with `queues` queues; it is down at first.
///
/// It belongs to the network namespace of the calling thread.
pub(crate) fn create(name: &str, queues: usize, mtu: u32) -> Result<Vec<TapQueue>, TapError> {
    check_name(name)?;
    let queues: Vec<_> = (0..queues).map(|number| open_queue(name, number == 0)).collect::<Result<_, _>>()?;
    set_mtu(name, mtu).map_err(|source| TapError::Mtu { name: name.to_owned(), mtu, source })?;
    Ok(queues)
}

/// The kernel's own rule (`dev_valid_name`), and no '%', which it would take for a pattern.
fn check_name(name: &str) -> Result<(), TapError> {
    let is_valid = (1..=INTERFACE_NAME_LEN_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.chars().all(|c| !c.is_whitespace() && !matches!(c, '/' | ':' | '%' | '\0'));
    if is_valid { Ok(()) } else { Err(TapError::Name(name.to_owned())) }
}

fn open_queue(name: &str, is_first: bool) -> Result<TapQueue, TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => TapError::NoDevice(error.into()),
        Errno::ACCESS | Errno::PERM => TapError::NotPermitted(error.into()),
        _ => TapError::Other(error.into()),
    })?;
    // IFF_TUN_EXCL makes the kernel refuse an interface that exists, even a TAP interface that it could join.
    let exclusive = if is_first { libc::IFF_TUN_EXCL } else { 0 };
    let mode = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR | exclusive;
    // The flags are defined as int and stored in a short; 0x8000 (IFF_TUN_EXCL) is its sign bit.
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = mode as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, and keeps no pointer to it.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }).map_err(
        |error| {
            match error.raw_os_error() {
                Some(libc::EPERM) => TapError::NotPermitted(error),
                // EINVAL is how the kernel refuses to join an interface of another kind.
                Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => TapError::NameInUse(name.to_owned()),
                Some(_) | None => TapError::Other(error),
            }
        },
    )?;
    let takes = set_framing(&file).map_err(TapError::Other)?;
    Ok(TapQueue { file, takes })
}

/// Sets the header's length, and offers the kernel to cut and finish frames in its place. Tells which super-frames it takes
/// in turn: a kernel that makes those of UDP reads them as well.
fn set_framing(file: &OwnedFd) -> io::Result<SuperFrames> {
    let len = libc::c_int::try_from(OFFLOAD_LEN).expect("10 is an int");
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })?;
    match offer(file, OFFLOADS | UDP_OFFLOADS) {
        Ok(()) => Ok(SuperFrames::TcpAndUdp),
        Err(_) => offer(file, OFFLOADS).map(|()| SuperFrames::Tcp),
    }
}

fn offer(file: &OwnedFd, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

fn set_mtu(name: &str, mtu: u32) -> io::Result<()> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_mtu = libc::c_int::try_from(mtu).unwrap_or(libc::c_int::MAX);
    // Any socket serves to address an interface of this namespace; one that needs no port and no IPv6.
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("0.0.0.0", 0)))?;
    // SAFETY: SIOCSIFMTU reads one ifreq, which `request` is.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw const request) })
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is bytes, integers and unions of those; all zero is a valid value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(INTERFACE_NAME_LEN_MAX).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl TapQueue {
    /// One over something else that keeps the borders of messages.
    #[cfg(test)]
    pub(super) const fn over(messages: OwnedFd) -> Self {
        Self { file: messages, takes: SuperFrames::TcpAndUdp }
    }

    /// Which super-frames can be written.
    pub(super) const fn takes(&self) -> SuperFrames {
        self.takes
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Captured> {
        let mut header = [0; OFFLOAD_LEN];
        let len =
            rustix::io::readv(&self.file, &mut [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)])?;
        Ok(Captured { len: len.saturating_sub(OFFLOAD_LEN), offload: Offload::decode(header) })
    }

    pub(super) fn write(&self, injection: &Injection<'_>) -> io::Result<()> {
        let header = injection.offload.encode();
        let mut slices = [IoSlice::new(&[]); 2 + MERGED_FRAMES_MAX];
        let parts = [&header, injection.head].into_iter().chain(injection.payloads.iter().copied());
        slices.iter_mut().zip(parts).for_each(|(slice, part)| *slice = IoSlice::new(part));
        rustix::io::writev(&self.file, &slices[..2 + injection.payloads.len()])?;
        Ok(())
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_or_expand_are_refused_first() {
        for name in ["", "a-name-too-long-", "a/b", "a b", "tap%d", "..", "a:b", "a\0b"] {
            assert!(matches!(check_name(name), Err(TapError::Name(_))), "{name:?}");
        }
        check_name("mesh0-tap").unwrap();
        check_name("exactly15bytes-").unwrap();
    }
}
