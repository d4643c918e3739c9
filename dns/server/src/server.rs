//! The server as a whole: its start, its thread, and its end.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use arc_swap::ArcSwap;
use hickory_proto::rr::rdata::opt::NSIDPayload;
use mesh_names::Snapshot;
use rustix::net::sockopt;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::{net, time};

use crate::config::{Config, Listen, Upstream};
use crate::error::Error;
use crate::limits::{LOOP_TEST_EVERY, RECEIVE_BUFFER_LEN, RESOLV_CONF_POLL};
use crate::resolv_conf::ResolvConf;
use crate::service::Service;
use crate::stats::Stats;
use crate::{tcp, udp};

/// A running name server. It ends when it is stopped or dropped.
///
/// It has a thread of its own, so that a flood of queries costs it no more than one core and the control plane
/// nothing.
pub struct Server {
    service: Arc<Service>,
    addresses: Vec<SocketAddr>,
    /// Dropping it ends the thread.
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Binds what is to be bound and starts answering from `names`, whose newest snapshot counts for each query.
    pub fn start(config: Config, names: Arc<ArcSwap<Snapshot>>) -> Result<Self, Error> {
        let Config { listen, clients, upstream, private, rates, nsid, rng } = config;
        let sockets = listen.into_iter().map(bind).collect::<Result<Vec<_>, Error>>()?;
        if sockets.is_empty() {
            return Err(Error::NoAddress);
        }
        let addresses =
            sockets.iter().map(|(udp, _)| udp.local_addr()).collect::<io::Result<Vec<SocketAddr>>>()?;
        let nsid = NSIDPayload::new(nsid).map_err(|_too_long| Error::Nsid)?;
        let service = Arc::new(Service::new(names, clients, rates, rng, nsid, private));
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listeners = listeners(&runtime, sockets)?;
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (shared, own) = (service.clone(), addresses.clone());
        let thread = thread::Builder::new().name("mesh-dns".to_owned()).spawn(move || {
            runtime.block_on(run(shared, listeners, upstream, own, stopped));
            // Ends all tasks and closes all sockets.
            drop(runtime);
            // An error means that nobody waits for it.
            end.send(()).unwrap_or_default();
        })?;
        Ok(Self { service, addresses, stop, ended, thread })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The upstream servers in use, in the order in which they would be asked now.
    #[must_use]
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.service.forwarder.upstreams().order(std::time::Instant::now())
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.service.stats()
    }

    /// Closes all sockets and ends the thread; queries that wait for others are dropped.
    pub async fn stop(self) {
        drop(self.stop);
        // An error means that the thread has ended already.
        drop(self.ended.await);
        if self.thread.join().is_err() {
            tracing::error!("the name server's thread panicked");
        }
    }
}

/// The two sockets of one place to listen.
fn bind(listen: Listen) -> Result<(UdpSocket, TcpListener), Error> {
    let (udp, tcp) = match listen {
        Listen::Sockets { udp, tcp } => (udp, tcp),
        Listen::Address(address) => bind_both(address).map_err(|source| Error::Bind { address, source })?,
    };
    let address = udp.local_addr()?;
    if address.ip().is_unspecified() {
        return Err(Error::Unspecified(address));
    }
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    // Without CAP_NET_ADMIN the kernel gives what net.core.rmem_max allows.
    if sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER_LEN).is_err() {
        sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER_LEN).map_err(io::Error::from)?;
    }
    Ok((udp, tcp))
}

/// A listener, and a socket at the same address: port 0 means any that is free, the same for both.
fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind(address)?;
    let udp = UdpSocket::bind(tcp.local_addr()?)?;
    Ok((udp, tcp))
}

type Listeners = Vec<(net::UdpSocket, net::TcpListener)>;

fn listeners(runtime: &Runtime, sockets: Vec<(UdpSocket, TcpListener)>) -> io::Result<Listeners> {
    let _guard = runtime.enter();
    let convert = |(udp, tcp)| Ok((net::UdpSocket::from_std(udp)?, net::TcpListener::from_std(tcp)?));
    sockets.into_iter().map(convert).collect()
}

/// Serves until `stopped` or its other end is dropped.
async fn run(
    service: Arc<Service>,
    listeners: Listeners,
    upstream: Upstream,
    own: Vec<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) {
    for (udp, tcp) in listeners {
        tokio::spawn(udp::serve(udp, service.clone()));
        tokio::spawn(tcp::serve(tcp, service.clone()));
    }
    tokio::spawn(keep_upstreams(service, upstream, own));
    drop(stopped.await);
}

/// Keeps the list of upstream servers as its source has it, and tests them.
async fn keep_upstreams(service: Arc<Service>, upstream: Upstream, own: Vec<SocketAddr>) {
    let forwarder = &service.forwarder;
    let mut file = match upstream {
        Upstream::Servers(servers) => {
            forwarder.set_upstreams(&servers, &own);
            None
        }
        Upstream::File { path, behind_stub } => Some(ResolvConf::new(path, behind_stub)),
    };
    let mut test_at = time::Instant::now();
    loop {
        match file.as_mut().and_then(ResolvConf::changed) {
            Some(Ok(servers)) => {
                forwarder.set_upstreams(&servers, &own);
                tracing::info!(servers = ?forwarder.upstreams().addresses(), "upstream name servers");
                test_at = time::Instant::now();
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "upstream name servers cannot be read; those before are kept");
            }
            None => {}
        }
        if test_at <= time::Instant::now() {
            for server in forwarder.upstreams().addresses() {
                let forwarder = forwarder.clone();
                tokio::spawn(async move { forwarder.test(server).await });
            }
            test_at = time::Instant::now() + LOOP_TEST_EVERY;
        }
        time::sleep(RESOLV_CONF_POLL).await;
    }
}
