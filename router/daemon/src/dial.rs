//! Dialing: from a target to a connection, in a bounded time. Owns no retry; the node says when to dial again.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use mesh_node::{ConnectionId, DialFailure, Input};
use mesh_topology::Target;
use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::pipe::{Inputs, Pipe, local_address};

/// Time to resolve a name, and to connect to one address.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// Addresses of one name that are tried.
const ADDRESSES_TRIED_MAX: usize = 8;

/// While an address does not answer, the next one is tried beside it after this time (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Names that are looked up at a time. A look-up blocks a thread of the pool on which the host's network is changed, too,
/// for as long as the system's resolver pleases; so there are few. More wait, and fail when their time is over.
const LOOKUPS_MAX: usize = 16;

/// What all dials have in common.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    /// Dials go out from here, if it is the address of an interface, and to its family.
    listen: Option<IpAddr>,
    inputs: Inputs,
    lookups: Arc<Semaphore>,
}

impl Dialer {
    pub(crate) fn new(listen: Option<IpAddr>, inputs: Inputs) -> Self {
        Self { listen, inputs, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// Dials `target` and reports once: `Dialed` with the pipe, or `DialFailed`. It takes no longer than resolving,
    /// starting all addresses and waiting for the last of them: 10 s.
    pub(crate) fn dial(&self, id: ConnectionId, target: Target) {
        let dialer = self.clone();
        tokio::spawn(async move {
            let connected = dialer.connect(target).await;
            // Nobody listens any more when the router stops.
            let Ok(place) = dialer.inputs.reserve().await else { return };
            match connected {
                Ok((stream, remote)) => {
                    let local = local_address(&stream);
                    let pipe = Pipe::start(id, stream, dialer.inputs.clone(), None);
                    place.send((Input::Dialed { id, local, remote }, Some(pipe)));
                }
                Err(failure) => place.send((Input::DialFailed { id, failure }, None)),
            }
        });
    }

    async fn connect(&self, target: Target) -> Result<(TcpStream, SocketAddr), DialFailure> {
        let addresses = match target {
            Target::Discovered { address, .. } => vec![address],
            Target::Named { host, port } => {
                let resolved = timeout(RESOLVE_TIME_MAX, self.resolve(host, port)).await;
                resolved.unwrap_or(Err(DialFailure::NameServerSilent))?
            }
        };
        let of_family = addresses.into_iter().filter(|address| can_reach(self.listen, address.ip()));
        first_to_answer(of_family.take(ADDRESSES_TRIED_MAX), self.listen).await
    }

    /// The addresses of a host, in the system's order; one at least.
    async fn resolve(&self, host: String, port: u16) -> Result<Vec<SocketAddr>, DialFailure> {
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let place = Arc::clone(&self.lookups).acquire_owned().await;
        let lookup = move || {
            // Held until the resolver comes back, whoever has given up on it meanwhile.
            let _place = place;
            (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
        };
        match spawn_blocking(lookup).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_) | Err(_)) | Err(_) => Err(DialFailure::Unresolvable),
        }
    }
}

/// Whether a socket that listens on `listen` can exchange packets with `address`. One on `::` does IPv4 too.
fn can_reach(listen: Option<IpAddr>, address: IpAddr) -> bool {
    match listen {
        None => true,
        Some(IpAddr::V4(_)) => address.is_ipv4(),
        Some(IpAddr::V6(listen)) => address.is_ipv6() || listen.is_unspecified(),
    }
}

/// Tries all addresses in their order, the next one as soon as one has failed or has been silent for a moment. The first
/// connection wins; the failure told is that of the attempt that ended last.
async fn first_to_answer(
    mut addresses: impl Iterator<Item = SocketAddr>,
    listen: Option<IpAddr>,
) -> Result<(TcpStream, SocketAddr), DialFailure> {
    let mut attempts = JoinSet::new();
    let mut failure = DialFailure::OtherFamily;
    loop {
        let next = addresses.next();
        let is_last = next.is_none();
        if let Some(address) = next {
            attempts.spawn(attempt(address, listen));
        }
        let patience = if is_last { CONNECT_TIME_MAX } else { NEXT_ADDRESS_AFTER };
        match timeout(patience, attempts.join_next()).await {
            Ok(Some(Ok(Ok(connected)))) => return Ok(connected),
            Ok(Some(Ok(Err(failed)))) => failure = failed,
            Ok(None) => return Err(failure),
            Ok(Some(Err(_panicked))) => {}
            // Each attempt ends by itself; when it is the last one's turn to be waited for, it is waited for again.
            Err(_elapsed) => {}
        }
    }
}

async fn attempt(
    address: SocketAddr,
    listen: Option<IpAddr>,
) -> Result<(TcpStream, SocketAddr), DialFailure> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let open = || {
        let socket = socket?;
        if let Some(source) = listen.filter(|source| !source.is_unspecified()) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        Ok(socket)
    };
    let socket = open().map_err(|error| dial_failure(&error))?;
    match timeout(CONNECT_TIME_MAX, socket.connect(address)).await {
        Ok(Ok(stream)) => Ok((stream, address)),
        Ok(Err(error)) => Err(dial_failure(&error)),
        Err(_elapsed) => Err(DialFailure::TimedOut),
    }
}

fn dial_failure(error: &io::Error) -> DialFailure {
    let known = [
        (io::ErrorKind::ConnectionRefused, DialFailure::Refused),
        (io::ErrorKind::HostUnreachable, DialFailure::Unreachable),
        (io::ErrorKind::NetworkUnreachable, DialFailure::Unreachable),
        (io::ErrorKind::TimedOut, DialFailure::TimedOut),
    ];
    if Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT) {
        // IPv6 was switched off when this host booted, so that the router listens on IPv4 alone.
        return DialFailure::OtherFamily;
    }
    let found = known.into_iter().find(|(of_system, _)| *of_system == error.kind());
    found.map_or_else(|| DialFailure::System(error.kind()), |(_, failure)| failure)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Instant;

    use tokio::sync::mpsc;

    use super::*;

    fn dialer(listen: Option<&str>) -> Dialer {
        let listen = listen.map(|listen| listen.parse().expect("an address"));
        Dialer::new(listen, mpsc::channel(1).0)
    }

    fn listener(last: u8) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).expect("loopback");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_nothing_and_one_that_is_silent_little() {
        let (gone, refusing) = listener(1);
        drop(gone);
        let (_listener, answering) = listener(2);
        // A listener whose backlog is full lets what comes next wait.
        let silent =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
        silent.listen(0).expect("a listener");
        let address = silent.local_addr().expect("bound").as_socket().expect("an IP address");
        let _fills_it = std::net::TcpStream::connect(address).expect("room for one");
        let since = Instant::now();
        let connected = first_to_answer([refusing, address, answering].into_iter(), None).await;
        assert_eq!(connected.map(|(_, remote)| remote).ok(), Some(answering));
        assert!(since.elapsed() < CONNECT_TIME_MAX, "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn when_all_addresses_fail_the_last_failure_is_told() {
        let (gone, refusing) = listener(1);
        drop(gone);
        let failed = first_to_answer([refusing, refusing].into_iter(), None).await;
        assert_eq!(failed.map(|_| ()), Err(DialFailure::Refused));
    }

    #[tokio::test]
    async fn a_dial_goes_out_from_the_address_that_is_listened_on() {
        let (listener, answering) = listener(2);
        let target = Target::Named { host: answering.ip().to_string(), port: answering.port() };
        let _stream = dialer(Some("127.0.0.3")).connect(target).await.expect("connected");
        let (_accepted, remote) = listener.accept().expect("accepted");
        assert_eq!(remote.ip().to_string(), "127.0.0.3");
    }

    #[tokio::test]
    async fn an_address_of_the_other_family_is_not_tried() {
        let (_listener, answering) = listener(1);
        let target = Target::Named { host: answering.ip().to_string(), port: answering.port() };
        let failed = dialer(Some("::1")).connect(target).await;
        assert_eq!(failed.map(|_| ()), Err(DialFailure::OtherFamily));
        for (listen, address, can) in [
            ("::", "192.0.2.1", true),
            ("0.0.0.0", "2001:db8::1", false),
            ("0.0.0.0", "192.0.2.1", true),
            ("2001:db8::2", "2001:db8::1", true),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(can_reach(Some(parse(listen)), parse(address)), can, "{listen} {address}");
        }
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_from_an_address_without_an_answer() {
        let target = Target::Named { host: "no-such-host.invalid".to_owned(), port: 1 };
        assert_eq!(dialer(None).connect(target).await.map(|_| ()), Err(DialFailure::Unresolvable));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_whose_turn_does_not_come_fails_in_time_and_an_address_needs_no_turn() {
        let dialer = dialer(None);
        let _all = dialer.lookups.acquire_many(LOOKUPS_MAX as u32).await.expect("all turns are free");
        let named = Target::Named { host: "some-host.invalid".to_owned(), port: 1 };
        let failed = dialer.connect(named).await;
        assert_eq!(failed.map(|_| ()), Err(DialFailure::NameServerSilent));
        assert_eq!(dialer.resolve("::1".to_owned(), 1).await.map(|addresses| addresses.len()), Ok(1));
    }
}
