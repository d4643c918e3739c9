//! Dumb pipes: TCP connections as bytes in and bytes out. Owns sockets and their tasks; knows nothing of what the
//! bytes mean.
//!
//! Each connection has a reading task, which ends with the connection, and a writing task, which ends when the
//! [`Pipe`] is dropped and what was queued is sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use mesh_node::{ConnectionId, DialFailure, Input};
use mesh_topology::Target;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::debug;

/// Writes that may wait in one connection. A peer that lets more pile up is disconnected.
const WRITES_QUEUED_MAX: usize = 1024;

/// Size of a read, in bytes.
const READ_LEN: usize = 64 * 1024;

/// A write that makes no progress for so long ends the connection.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);

/// After the last write the other side has so long to read it and close, before the socket goes.
const LINGER: Duration = Duration::from_secs(1);

/// Time to resolve a name, and to connect to one address.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// Addresses of one name that are tried.
const ADDRESSES_TRIED_MAX: usize = 4;

/// Connections that the kernel holds for us to accept.
const BACKLOG: i32 = 256;

/// Accepted connections per second, and how many may come at once.
const ACCEPTS_PER_SECOND: u32 = 50;
const ACCEPT_BURST: u32 = 200;

/// The sending end of a connection. Dropping it closes the connection once what was written is sent.
pub(crate) struct Pipe {
    writes: mpsc::Sender<Vec<u8>>,
}

/// Where the tasks report.
pub(crate) type Inputs = mpsc::Sender<(Input, Option<Pipe>)>;

impl Pipe {
    /// Queues bytes. False when the other side has let too much pile up, or is gone.
    pub(crate) fn write(&self, bytes: Vec<u8>) -> bool {
        self.writes.try_send(bytes).is_ok()
    }

    /// Starts the tasks of a connection. The caller holds a place in `inputs` and announces the connection there
    /// before it yields, so that the announcement comes before the first bytes.
    fn start(id: ConnectionId, stream: TcpStream, inputs: Inputs) -> Self {
        // Control messages are small and wait for nothing: without delay they leave at once. If the option cannot be
        // set, they are merely slower.
        let _set = stream.set_nodelay(true);
        let (writes, queue) = mpsc::channel(WRITES_QUEUED_MAX);
        let (read, write) = stream.into_split();
        let reader = tokio::spawn(read_all(id, read, inputs)).abort_handle();
        tokio::spawn(write_all(write, queue, reader));
        Self { writes }
    }
}

async fn read_all(id: ConnectionId, mut read: OwnedReadHalf, inputs: Inputs) {
    let mut buffer = vec![0; READ_LEN];
    loop {
        let input = match read.read(&mut buffer).await {
            Ok(0) | Err(_) => Input::Closed { id },
            Ok(length) => Input::Received { id, bytes: buffer[..length].to_vec() },
        };
        let last = matches!(input, Input::Closed { .. });
        if inputs.send((input, None)).await.is_err() || last {
            return;
        }
    }
}

async fn write_all(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>, reader: AbortHandle) {
    while let Some(bytes) = queue.recv().await {
        if !matches!(timeout(WRITE_TIME_MAX, write.write_all(&bytes)).await, Ok(Ok(()))) {
            break;
        }
    }
    // A socket closed with unread bytes is reset, and the reset overtakes what was written last. So the reader goes on
    // until the other side has closed too, or the time is over. An error means that it has.
    let _shut = write.shutdown().await;
    sleep(LINGER).await;
    reader.abort();
}

/// Dials `target` and reports once: `Dialed` with the pipe, or `DialFailed`.
pub(crate) fn dial(id: ConnectionId, target: Target, inputs: Inputs) {
    tokio::spawn(async move {
        let connected = connect(&target).await;
        // Nobody listens any more when the router stops.
        let Ok(place) = inputs.reserve().await else { return };
        match connected {
            Ok((stream, remote)) => {
                let local = local_address(&stream);
                let pipe = Pipe::start(id, stream, inputs.clone());
                place.send((Input::Dialed { id, local, remote }, Some(pipe)));
            }
            Err(failure) => place.send((Input::DialFailed { id, failure }, None)),
        }
    });
}

async fn connect(target: &Target) -> Result<(TcpStream, SocketAddr), DialFailure> {
    let addresses: Vec<SocketAddr> = match target {
        Target::Discovered { address, .. } => vec![*address],
        Target::Named { host, port } => {
            let resolved = timeout(RESOLVE_TIME_MAX, tokio::net::lookup_host((host.as_str(), *port))).await;
            match resolved {
                Ok(Ok(addresses)) => addresses.take(ADDRESSES_TRIED_MAX).collect(),
                Ok(Err(_)) | Err(_) => Vec::new(),
            }
        }
    };
    let mut failure = DialFailure::Unresolvable;
    for address in addresses {
        match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) => failure = dial_failure(&error),
            Err(_elapsed) => failure = DialFailure::TimedOut,
        }
    }
    Err(failure)
}

/// This end of `stream`, or the unspecified address if the connection has broken already.
fn local_address(stream: &TcpStream) -> SocketAddr {
    let unknown = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    stream.local_addr().map_or(unknown, |local| SocketAddr::new(local.ip().to_canonical(), local.port()))
}

fn dial_failure(error: &io::Error) -> DialFailure {
    let known = [
        (io::ErrorKind::ConnectionRefused, DialFailure::Refused),
        (io::ErrorKind::HostUnreachable, DialFailure::Unreachable),
        (io::ErrorKind::NetworkUnreachable, DialFailure::Unreachable),
        (io::ErrorKind::TimedOut, DialFailure::TimedOut),
    ];
    let found = known.into_iter().find(|(of_system, _)| *of_system == error.kind());
    found.map_or_else(|| DialFailure::System(error.kind()), |(_, failure)| failure)
}

/// Binds the control port: on `address`, or else on all addresses of both families, or of IPv4 where IPv6 is off.
pub(crate) fn listen(address: Option<IpAddr>, port: u16) -> io::Result<std::net::TcpListener> {
    match address {
        Some(address) => bind(SocketAddr::new(address, port)),
        None => match bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
            }
            done => done,
        },
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections until the shell goes, at a bounded rate; those above it wait in the kernel's backlog.
pub(crate) async fn accept_all(listener: TcpListener, inputs: Inputs) {
    let mut number = 0;
    let mut burst = ACCEPT_BURST;
    let mut last_refill = tokio::time::Instant::now();
    loop {
        let earned = (last_refill.elapsed().as_millis() * u128::from(ACCEPTS_PER_SECOND) / 1000).min(200);
        if earned > 0 {
            burst = ACCEPT_BURST.min(burst + u32::try_from(earned).unwrap_or(ACCEPT_BURST));
            last_refill = tokio::time::Instant::now();
        }
        if burst == 0 {
            sleep(Duration::from_millis(1000) / ACCEPTS_PER_SECOND).await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, remote)) => {
                burst -= 1;
                let id = ConnectionId::Accepted(number);
                number += 1;
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                let Ok(place) = inputs.reserve().await else { return };
                let local = local_address(&stream);
                let pipe = Pipe::start(id, stream, inputs.clone());
                place.send((Input::Accepted { id, local, remote }, Some(pipe)));
            }
            Err(error) => {
                // Out of descriptors or memory for now: others may be closed meanwhile.
                debug!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
