//! Options of sockets for which no crate has a type. Owns no socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// `TCP_RTO_MAX_MS` of include/uapi/linux/tcp.h, since Linux 6.15.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Bounds the time between two retransmissions of a TCP connection, which else doubles up to two minutes: over a path
/// that is whole again, what waits leaves within `limit`. The kernel takes whole milliseconds from one second on.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] or `ENOPROTOOPT` before Linux 6.15, `EINVAL` for a time out of bounds.
pub fn set_tcp_rto_max(socket: &impl AsFd, limit: Duration) -> io::Result<()> {
    let limit_ms = libc::c_int::try_from(limit.as_millis())
        .map_err(|_too_great| io::Error::from(io::ErrorKind::InvalidInput))?;
    let len = libc::socklen_t::try_from(size_of_val(&limit_ms)).expect("an integer has a few bytes");
    // SAFETY: the descriptor is open while it is borrowed, and the pointer is to `len` bytes that live until the call
    // has returned; the kernel only reads them.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const limit_ms).cast(),
            len,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernel_takes_a_second_and_refuses_less() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        match set_tcp_rto_max(&socket, Duration::from_secs(1)) {
            Ok(()) => assert!(set_tcp_rto_max(&socket, Duration::from_millis(1)).is_err()),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT), "{error}"),
        }
    }
}
