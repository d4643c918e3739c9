//! Dumb pipes: TCP connections as bytes in and bytes out. Owns sockets and their tasks; knows nothing of what the
//! bytes mean.
//!
//! Each connection has a reading task, which ends with the connection, and a writing task, which ends when the
//! [`Pipe`] is dropped and what was queued is sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_node::limits::SESSION_SILENCE_MAX;
use mesh_node::{ConnectionId, Input};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, trace};

/// Writes that may wait in one connection. A peer that lets more pile up is disconnected.
const WRITES_QUEUED_MAX: usize = 1024;

/// Size of a read, in bytes.
const READ_LEN: usize = 64 * 1024;

/// A write that makes no progress for so long ends the connection.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);

/// After the last write the other side has so long to read it and close, before the socket goes.
const LINGER: Duration = Duration::from_secs(1);

/// Connections that the kernel holds for us to accept.
const BACKLOG: i32 = 256;

/// Accepted connections at a time, beside as many as the router wants of its peers. The node limits how many strangers
/// there are and how fast they come; this keeps descriptors for everything else whatever it decides. More wait in the
/// backlog.
const ACCEPTED_SPARE: usize = 512;

/// What was sent and not acknowledged for so long ends the connection, as silence does.
const UNACKNOWLEDGED_TIME_MAX: Duration = SESSION_SILENCE_MAX;

/// Longest time between two retransmissions, so that a path that is whole again is used at once.
const RETRANSMIT_WITHIN: Duration = Duration::from_secs(1);

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
    /// before it yields, so that the announcement comes before the first bytes. `place` is held as long as the socket is.
    pub(crate) fn start(
        id: ConnectionId,
        stream: TcpStream,
        inputs: Inputs,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        set_options(&stream);
        let (writes, queue) = mpsc::channel(WRITES_QUEUED_MAX);
        let (read, write) = stream.into_split();
        let reader = tokio::spawn(read_all(id, read, inputs)).abort_handle();
        tokio::spawn(write_all(write, queue, reader, place));
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

async fn write_all(
    mut write: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
    reader: AbortHandle,
    _place: Option<OwnedSemaphorePermit>,
) {
    let mut has_written = false;
    while let Some(bytes) = queue.recv().await {
        has_written = true;
        if !matches!(timeout(WRITE_TIME_MAX, write.write_all(&bytes)).await, Ok(Ok(()))) {
            break;
        }
    }
    // A socket closed with unread bytes is reset, and the reset overtakes what was written last. So the reader goes on
    // until the other side has closed too, or the time is over. An error means that it has. Whoever was told nothing, as
    // strangers above a limit are, is owed no patience.
    if has_written {
        let _shut = write.shutdown().await;
        sleep(LINGER).await;
    }
    reader.abort();
}

/// Sets what suits small messages that wait for nothing. Where an option cannot be set, the connection is slower to send
/// or to notice, no more.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let results = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX)),
        mesh_hostnet::set_tcp_rto_max(stream, RETRANSMIT_WITHIN),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        trace!(%error, "an option of a connection was not set");
    }
}

/// This end of `stream`, or the unspecified address if the connection has broken already.
pub(crate) fn local_address(stream: &TcpStream) -> SocketAddr {
    let unknown = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    stream.local_addr().map_or(unknown, |local| SocketAddr::new(local.ip().to_canonical(), local.port()))
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

/// Accepts connections until the shell goes, at most `connection_limit` and [`ACCEPTED_SPARE`] at a time.
pub(crate) async fn accept_all(listener: TcpListener, connection_limit: usize, inputs: Inputs) {
    let places = Arc::new(Semaphore::new(connection_limit + ACCEPTED_SPARE));
    let mut number = 0;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, remote)) => {
                let id = ConnectionId::Accepted(number);
                number += 1;
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                let Ok(input) = inputs.reserve().await else { return };
                let local = local_address(&stream);
                let pipe = Pipe::start(id, stream, inputs.clone(), Some(place));
                input.send((Input::Accepted { id, local, remote }, Some(pipe)));
            }
            Err(error) => {
                // Out of descriptors or memory for now: others may be closed meanwhile.
                debug!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
