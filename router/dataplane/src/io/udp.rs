//! The sleeve's UDP sockets, one for each thread on one port. Owns their options and the batches in and out; what is
//! in the datagrams is nobody's matter here.
#![allow(unsafe_code, reason = "IPV6_DONTFRAG has no safe wrapper")]

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use arc_swap::ArcSwap;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::{Domain, Protocol, Socket, Type};

use crate::shared::canonical;

/// Size asked for a socket's buffers, each way, in bytes: 20 ms of 1.6 Gbit/s. When one is full the kernel drops what
/// comes in, and refuses what goes out.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// Room for one receive: the longest datagram, or a train of shorter ones.
const RECEIVE_LEN: usize = 1 << 16;

/// One socket.
pub(crate) struct UdpQueue {
    socket: Socket,
    /// Replaced when it has given up trains though the kernel has not.
    state: ArcSwap<UdpSocketState>,
    local: SocketAddr,
    family: Family,
    sharing: Sharing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// IPv6, and IPv4 by mapped addresses.
    Dual,
    V4,
    V6,
}

/// Whether a socket takes a port that another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Never,
    WithOurs,
}

/// Opens `queues` sockets on `port` (0: any free one) of `address`, or of all addresses of the host. Without IPv6 in
/// the kernel, all means all IPv4 addresses.
///
/// They belong to the network namespace of the calling thread.
pub(crate) fn open(address: Option<IpAddr>, port: u16, queues: usize) -> io::Result<Vec<UdpQueue>> {
    let mut first = match address {
        Some(IpAddr::V4(ip)) => UdpQueue::bind(SocketAddr::new(ip.into(), port), Family::V4, Sharing::Never)?,
        Some(IpAddr::V6(ip)) => UdpQueue::bind(SocketAddr::new(ip.into(), port), Family::V6, Sharing::Never)?,
        None => open_everywhere(port)?,
    };
    if queues > 1 {
        // Only now: a port that is shared from the start would be taken together with another router's.
        first.share()?;
    }
    let (local, family) = (first.local, first.family);
    let others = (1..queues).map(|_| UdpQueue::bind(local, family, Sharing::WithOurs));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn open_everywhere(port: u16) -> io::Result<UdpQueue> {
    let dual =
        UdpQueue::bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), Family::Dual, Sharing::Never);
    match dual {
        // EAFNOSUPPORT: IPv6 is not in the kernel. EADDRNOTAVAIL: it is switched off (ipv6.disable_ipv6).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            UdpQueue::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), Family::V4, Sharing::Never)
        }
        Ok(_) | Err(_) => dual,
    }
}

impl UdpQueue {
    fn bind(local: SocketAddr, family: Family, sharing: Sharing) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        match family {
            Family::Dual => socket.set_only_v6(false)?,
            Family::V6 => socket.set_only_v6(true)?,
            Family::V4 => {}
        }
        socket.set_reuse_port(sharing == Sharing::WithOurs)?;
        enlarge_buffers(&socket)?;
        socket.bind(&local.into())?;
        let state = ArcSwap::from_pointee(UdpSocketState::new(UdpSockRef::from(&socket))?);
        allow_fragments(&socket, family)?;
        let local = socket.local_addr()?.as_socket();
        let local = local.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(Self { socket, state, local, family, sharing })
    }

    fn share(&mut self) -> io::Result<()> {
        self.sharing = Sharing::WithOurs;
        self.socket.set_reuse_port(true)
    }

    /// A socket to take this one's place, on the same port.
    pub(crate) fn reopen(&self) -> io::Result<Self> {
        // So that the port is never free for another. It fails where there is no socket any more, nor a hold on a port.
        self.socket.set_reuse_port(true).ok();
        let mut new = Self::bind(self.local, self.family, Sharing::WithOurs)?;
        new.sharing = self.sharing;
        new.socket.set_reuse_port(new.sharing == Sharing::WithOurs)?;
        Ok(new)
    }

    /// The port that the socket is bound to.
    pub(crate) const fn port(&self) -> u16 {
        self.local.port()
    }

    /// The most datagrams that one [`send`](Self::send) can carry at the moment.
    pub(crate) fn segments_max(&self) -> usize {
        self.state.load().max_gso_segments()
    }

    /// Has trains tried again, which quinn-udp ends for good when one is refused: here that was because the interface had become
    /// narrower than the datagrams.
    pub(crate) fn retry_trains(&self) {
        if let Ok(state) = UdpSocketState::new(UdpSockRef::from(&self.socket))
            && allow_fragments(&self.socket, self.family).is_ok()
        {
            self.state.store(Arc::new(state));
        }
    }

    /// Sends one datagram to `destination` that nobody may fragment, nor this host.
    ///
    /// # Errors
    /// `EMSGSIZE` when the interface does not take it.
    pub(crate) fn send_whole(&self, destination: SocketAddr, contents: &[u8]) -> io::Result<()> {
        // The socket is this thread's own, and the kernel heeds the option while it is in the call.
        self.discover(Ipv4PathMtuDiscovery::PROBE, Ipv6PathMtuDiscovery::PROBE)?;
        let sent = self.send(destination, contents, contents.len());
        self.discover(Ipv4PathMtuDiscovery::OMIT, Ipv6PathMtuDiscovery::OMIT)?;
        sent
    }

    fn discover(&self, v4: Ipv4PathMtuDiscovery, v6: Ipv6PathMtuDiscovery) -> io::Result<()> {
        discover(&self.socket, self.family, v4, v6)
    }

    /// Sends `contents` to `destination`: one datagram, or several of `segment_len` of which the last may be shorter.
    ///
    /// # Errors
    /// `WouldBlock` when the socket's buffer is full. All or nothing was sent.
    pub(crate) fn send(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_len: usize,
    ) -> io::Result<()> {
        let destination = self.address_for_socket(destination)?;
        let segment_size = (segment_len < contents.len()).then_some(segment_len);
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        self.state.load().try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    fn address_for_socket(&self, destination: SocketAddr) -> io::Result<SocketAddr> {
        match (self.family, destination) {
            (Family::V4, SocketAddr::V4(_)) | (Family::V6 | Family::Dual, SocketAddr::V6(_)) => {
                Ok(destination)
            }
            (Family::Dual, SocketAddr::V4(v4)) => {
                Ok(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into())
            }
            (Family::V4, SocketAddr::V6(_)) | (Family::V6, SocketAddr::V4(_)) => {
                Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
            }
        }
    }
}

impl AsFd for UdpQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Root may pass the limits `net.core.rmem_max` and `net.core.wmem_max`; others get what is allowed.
fn enlarge_buffers(socket: &Socket) -> io::Result<()> {
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER_LEN).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER_LEN).is_err() {
        socket.set_send_buffer_size(SOCKET_BUFFER_LEN)?;
    }
    Ok(())
}

/// The size of UDP payload that the host's routes to `destination` take, as far as the kernel knows.
pub(crate) fn route_datagram_len(destination: SocketAddr) -> Option<u16> {
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // It sends nothing.
    socket.connect(destination).ok()?;
    let (mtu, headers_len) = match destination {
        SocketAddr::V4(_) => (sockopt::ip_mtu(&socket).ok()?, 28),
        SocketAddr::V6(_) => (sockopt::ipv6_mtu(&socket).ok()?, 48),
    };
    Some(u16::try_from(mtu).unwrap_or(u16::MAX).saturating_sub(headers_len))
}

fn discover(
    socket: &Socket,
    family: Family,
    v4: Ipv4PathMtuDiscovery,
    v6: Ipv6PathMtuDiscovery,
) -> io::Result<()> {
    if family != Family::V6 {
        sockopt::set_ip_mtu_discover(socket, v4)?;
    }
    if family != Family::V4 {
        sockopt::set_ipv6_mtu_discover(socket, v6)?;
    }
    Ok(())
}

/// Switches the kernel's own path MTU discovery off, which believes ICMP: the data plane measures. Until it has, a datagram
/// that is longer than an interface's MTU arrives in fragments rather than not at all.
fn allow_fragments(socket: &Socket, family: Family) -> io::Result<()> {
    discover(socket, family, Ipv4PathMtuDiscovery::OMIT, Ipv6PathMtuDiscovery::OMIT)?;
    if family == Family::V4 {
        return Ok(());
    }
    let off: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of_val(&off)).expect("an int is short");
    // SAFETY: the option is an int; pointer and length are those of a live one, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_DONTFRAG,
            (&raw const off).cast(),
            len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where datagrams land, a batch at a time.
pub(crate) struct ReceiveBuffer {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

impl ReceiveBuffer {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; RECEIVE_LEN * BATCH_SIZE], meta: [RecvMeta::default(); BATCH_SIZE] }
    }

    /// Receives at most one batch and gives each datagram, with its sender, to `take`. False when there was none.
    ///
    /// # Errors
    /// As the kernel says; `WouldBlock` is none.
    pub(crate) fn receive<'b>(
        &'b mut self,
        queue: &UdpQueue,
        mut take: impl FnMut(SocketAddr, &'b mut [u8]),
    ) -> io::Result<bool> {
        let mut places = self.bytes.chunks_exact_mut(RECEIVE_LEN);
        let mut slices: [_; BATCH_SIZE] = std::array::from_fn(|_| {
            IoSliceMut::new(places.next().expect("the buffer has a place for each of a batch"))
        });
        let socket = UdpSockRef::from(&queue.socket);
        let count = match queue.state.load().recv(socket, &mut slices, &mut self.meta) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        for (place, meta) in self.bytes.chunks_exact_mut(RECEIVE_LEN).zip(&self.meta[..count]) {
            let train = &mut place[..meta.len.min(RECEIVE_LEN)];
            let from = canonical(meta.addr);
            if train.is_empty() {
                take(from, &mut []);
            }
            // The kernel joins datagrams of equal length from one sender (UDP_GRO); here they part again.
            train.chunks_mut(meta.stride.max(1)).for_each(|datagram| take(from, datagram));
        }
        Ok(count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive_all(queue: &UdpQueue, wanted: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut buffer = ReceiveBuffer::new();
        let mut received = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while received.len() < wanted {
            assert!(std::time::Instant::now() < deadline, "{} of {wanted} came", received.len());
            buffer.receive(queue, |from, datagram| received.push((from, datagram.to_vec()))).unwrap();
            std::thread::yield_now();
        }
        received
    }

    #[test]
    fn a_train_of_datagrams_arrives_as_the_datagrams_it_was_made_of() {
        let loopback = Some(Ipv4Addr::LOCALHOST.into());
        let [a, b] = [(); 2].map(|()| open(loopback, 0, 1).unwrap().remove(0));
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), b.port());
        let contents: Vec<u8> = (0..250).collect();
        a.send(to, &contents, 100).unwrap();
        let datagrams: Vec<_> = receive_all(&b, 3).into_iter().map(|(_, datagram)| datagram).collect();
        assert_eq!(datagrams, [&contents[..100], &contents[100..200], &contents[200..]]);
    }

    #[test]
    fn a_socket_for_all_addresses_speaks_both_families_and_shows_plain_addresses() {
        let everywhere = open(None, 0, 1).unwrap().remove(0);
        for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let other = open(Some(loopback), 0, 1).unwrap().remove(0);
            other.send(SocketAddr::new(loopback, everywhere.port()), b"hello", 5).unwrap();
            let (from, datagram) = receive_all(&everywhere, 1).remove(0);
            assert_eq!((from, datagram), (SocketAddr::new(loopback, other.port()), b"hello".to_vec()));
            everywhere.send(from, b"", 1).unwrap();
            assert_eq!(receive_all(&other, 1)[0].1, b"");
        }
    }

    #[test]
    fn a_socket_opened_anew_takes_the_port_over_and_shares_it_as_before() {
        let loopback = Some(Ipv4Addr::LOCALHOST.into());
        let other = open(loopback, 0, 1).unwrap().remove(0);
        for queues in [1, 2] {
            let mut sockets = open(loopback, 0, queues).unwrap();
            let port = sockets[0].port();
            sockets.truncate(1);
            sockets[0] = sockets[0].reopen().unwrap();
            other.send(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), b"hello", 5).unwrap();
            assert_eq!(receive_all(&sockets[0], 1)[0].1, b"hello");
            assert_eq!(open(loopback, port, 1).err().unwrap().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(sockets[0].socket.reuse_port().unwrap(), queues == 2);
        }
    }

    #[test]
    fn sockets_of_one_router_share_its_port_and_a_port_in_use_is_refused() {
        let loopback = Some(Ipv4Addr::LOCALHOST.into());
        let shared = open(loopback, 0, 3).unwrap();
        let port = shared[0].port();
        assert!(shared.iter().all(|queue| queue.port() == port));
        for queues in [1, 2] {
            let error = open(loopback, port, queues).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
    }
}
