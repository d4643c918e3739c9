//! The data plane as the daemon uses it: start, publish, look, stop. Owns the threads' lives; it forwards nothing
//! itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_wire::PeerId;

use crate::engine::{
    CounterSnapshot, Counters, Direction, Duplicates, MacEntry, Plan, Prober, Sizes, Traffic,
};
use crate::io::pcap::{self, PcapError};
use crate::io::tap::{self, TapError};
use crate::io::udp;
use crate::io::uplink::UplinkQueue;
use crate::io::wake::Waker;
use crate::io::worker::Worker;
use crate::pulse::Pulse;
use crate::report::Report;
use crate::shared::{Clock, Macs, Publisher, Shared, Snapshot, lock};
use crate::sightings::Sightings;

/// Most threads of a data plane: each has a queue of the uplink and a socket of its own.
pub const WORKERS_MAX: usize = 64;

/// What a data plane is made of; fixed while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How frames come from the bridge and go to it.
    pub uplink: Uplink,
    /// The address to receive datagrams on; `None` is all of the host's, IPv4 and IPv6.
    pub listen: Option<IpAddr>,
    /// UDP port; 0 is any free one.
    pub port: u16,
    /// Threads, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// MTU of a TAP interface, in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Addresses that each host has for itself: nothing from or to them crosses the network.
    pub node_local: Vec<Ipv4Addr>,
}

/// The interface by which the data plane takes frames from the bridge and gives them to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// A TAP interface of this name, 1 to 15 bytes, that does not exist yet: the data plane makes it.
    Tap(String),
    /// The far end of a veth of this name, which exists: the data plane captures packets on it, with one thread.
    Pcap(String),
}

/// Why no data plane was started. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The number of threads is out of range.
    #[error("{0} data plane threads: there can be 1 to {WORKERS_MAX}")]
    Workers(usize),
    /// There is no TAP interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// There is no packet capture.
    #[error(transparent)]
    Pcap(#[from] PcapError),
    /// The UDP socket cannot be had: the port is in use, or the address is none of this host's.
    #[error("cannot receive datagrams on UDP port {port}")]
    Bind {
        /// The port asked for.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread, or no means to wake it.
    #[error("cannot start the data plane's threads")]
    Thread(#[source] io::Error),
}

/// A neighbour's link as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// The neighbour.
    pub peer: PeerId,
    /// Where its datagrams are sent.
    pub remote: SocketAddr,
    /// Whether probes are answered.
    pub is_alive: bool,
    /// Round-trip time, smoothed; `None` while the link is not alive.
    pub rtt: Option<Duration>,
    /// Share of the last probes to which no reply came, in parts per million; `None` while the link is not alive.
    pub loss_ppm: Option<u32>,
    /// Time since the last authenticated packet; `None` if there was none yet.
    pub heard_ago: Option<Duration>,
    /// Longest IP packet, in bytes, that the path to the neighbour takes in one datagram, whatever way frames are wrapped;
    /// `None` until that is measured.
    pub mtu: Option<u32>,
    /// Frames from the neighbour.
    pub received: Traffic,
    /// Frames to the neighbour.
    pub sent: Traffic,
}

/// A running data plane. Dropping it stops it as [`stop`](Self::stop) does.
pub struct Dataplane {
    shared: Arc<Shared>,
    publisher: Mutex<Publisher>,
    counters: Vec<Arc<Counters>>,
    threads: Vec<JoinHandle<()>>,
    port: u16,
}

impl Dataplane {
    /// Makes the TAP interface and the sockets, in the network namespace of the calling thread, and starts the
    /// threads. Frames cross from the first [`publish`](Self::publish) on.
    ///
    /// `reports` is called by the threads: it must neither wait nor call this object, and returns false when its
    /// queue is full. See [`Report`] for what becomes of a report then.
    ///
    /// # Errors
    /// A [`StartError`]; nothing is left behind.
    pub fn start(
        config: Config,
        reports: impl Fn(Report) -> bool + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let Config { uplink, listen, port, workers, mtu, node_local } = config;
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(StartError::Workers(workers));
        }
        let sockets = udp::open(listen, port, workers).map_err(|source| StartError::Bind { port, source })?;
        let port = sockets[0].port();
        let queues: Vec<_> = match uplink {
            Uplink::Tap(name) => {
                tap::create(&name, workers, mtu)?.into_iter().map(UplinkQueue::Tap).collect()
            }
            Uplink::Pcap(_) if workers != 1 => return Err(StartError::Workers(workers)),
            Uplink::Pcap(name) => vec![UplinkQueue::Pcap(pcap::open(&name)?)],
        };
        let wakers =
            (0..workers).map(|_| Waker::new()).collect::<Result<_, _>>().map_err(StartError::Thread)?;
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            snapshot: ArcSwap::from_pointee(Snapshot::before_the_first_plan()),
            macs: Macs::new(),
            node_local,
            duplicates: Duplicates::default(),
            prober: Mutex::new(Prober::default()),
            sizes: Mutex::new(Sizes::default()),
            prober_is_wanted: AtomicBool::new(false),
            reports: Box::new(reports),
            is_stopping: AtomicBool::new(false),
            wakers,
        });
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(Counters::default())).collect();
        // From here on, an early return drops what has been started, and so stops it.
        let mut dataplane = Self { shared, publisher: Mutex::default(), counters, threads: Vec::new(), port };
        for (number, (queue, socket)) in queues.into_iter().zip(sockets).enumerate() {
            let counters = Arc::clone(&dataplane.counters[number]);
            let worker = Worker::new(number, Arc::clone(&dataplane.shared), queue, socket, counters);
            let thread = std::thread::Builder::new().name(format!("mesh-data-{number}"));
            dataplane.threads.push(thread.spawn(move || worker.run()).map_err(StartError::Thread)?);
        }
        Ok(dataplane)
    }

    /// The UDP port in use.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Makes `plan` the one in force. Threads take it up with their next batch; frames in between follow the plan
    /// before. Sessions, windows and learnt addresses that the plan keeps go on as they are.
    ///
    /// A plan whose receiving sessions for a neighbour have none in common with the plan before says that the
    /// connection is a new one: its link must prove itself again. When a key is changed, the old epoch must stay
    /// for a while, so that nothing is lost.
    pub fn publish(&self, plan: Plan) {
        let mut publisher = lock(&self.publisher);
        let publication = publisher.publish(plan);
        let snapshot = Arc::new(publication.snapshot);
        self.shared.snapshot.store(Arc::clone(&snapshot));
        {
            let mut prober = lock(&self.shared.prober);
            let now = self.shared.clock.now();
            let links = snapshot.outlets().iter();
            prober.set_links(links.map(|outlet| (outlet.link.peer(), outlet.places.known().to_vec())), now);
            publication.restarted.iter().for_each(|peer| prober.restart(*peer, now));
            prober.doubt(&publication.in_doubt, now);
        }
        lock(&self.shared.sizes).retain(|peer| snapshot.tables.link(peer).is_some());
        self.shared.macs.retain_peers(|peer| snapshot.tables.knows(peer));
        self.shared.want_prober();
        publisher.sweep();
    }

    /// The MAC table, by MAC.
    #[must_use]
    pub fn macs(&self) -> Vec<MacEntry> {
        self.shared.macs.entries(self.shared.clock.now())
    }

    /// The MAC table for whoever follows its changes.
    #[must_use]
    pub fn sightings(&self) -> Sightings {
        Sightings::new(Arc::clone(&self.shared))
    }

    /// A view of the links for another thread; it may outlive this handle.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        Pulse::new(Arc::clone(&self.shared))
    }

    /// The links of the plan in force, in its order.
    #[must_use]
    pub fn links(&self) -> Vec<LinkState> {
        let snapshot = self.shared.snapshot.load();
        let prober = lock(&self.shared.prober);
        let now = self.shared.clock.now();
        let state = |outlet: &crate::shared::Outlet| {
            let link = &outlet.link;
            LinkState {
                peer: link.peer(),
                remote: link.remote(),
                is_alive: prober.is_alive(link.peer()),
                rtt: prober.rtt(link.peer()),
                loss_ppm: prober.loss_ppm(link.peer()),
                heard_ago: link.last_heard().map(|at| now.since(at)),
                mtu: outlet.mtu().and_then(|mtu| u32::try_from(mtu).ok()),
                received: link.passed(Direction::In),
                sent: link.passed(Direction::Out),
            }
        };
        snapshot.outlets().iter().map(state).collect()
    }

    /// The counters of all threads since the start.
    #[must_use]
    pub fn counters(&self) -> CounterSnapshot {
        let mut sum = CounterSnapshot::default();
        self.counters.iter().for_each(|counters| sum.add(counters));
        sum
    }

    /// Ends the threads and waits for them, some milliseconds. Then the sockets are closed and the TAP interface is
    /// gone.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has reported it, and holds nothing any more.
            thread.join().ok();
        }
    }
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane")
            .field("port", &self.port)
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}
