//! The back end for every Linux: a VXLAN device as a port of the bridge, and two static forwarding entries for each remote
//! MAC.
//!
//! One thread owns the devices, the entries and the heartbeats. It is told what the router knows, complete each time
//! ([`FastPath::see`]), and tells what it has found ([`Hooks::tell`]). Neither waits for the other. When it ends, or its
//! process is killed, the kernel goes on with what it has; a later life takes that over.

mod driver;
mod kernel;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mesh_hostnet::{Bridge, BridgeName, HostError, InterfaceName};
use mesh_wire::control::SealOffer;
use mesh_wire::{MacAddr, PeerId};
use rustix::event::{EventfdFlags, eventfd};

use self::driver::Driver;
use crate::model::{Counted, PathState, Place, View};
use crate::seal::{self, Seal};

/// Questions for flows that may wait; one more is answered with nothing.
const ASKS_MAX: usize = 16;

/// How long whoever asks for flows waits.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// What in the kernel carries flows. On the wire there is no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackEnd {
    /// VXLAN devices as ports of the bridge.
    Vxlan,
    /// Open vSwitch's datapath, joined to the bridge by a pair of interfaces.
    Ovs,
}

impl BackEnd {
    /// Its word in logs and documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Ovs => "ovs",
        }
    }
}

/// What a fast path is made of; fixed while it runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// What carries flows.
    pub back_end: BackEnd,
    /// The bridge.
    pub bridge: Bridge,
    /// Its port that leads to user space.
    pub tap: InterfaceName,
    /// The UDP port on which packets in clear are taken.
    pub port: u16,
    /// Whether any may be: there is no password, or somebody whose addresses are trusted.
    pub may_be_clear: bool,
    /// What seals packets to those with whom nothing may travel in clear.
    pub seal: Option<Seal>,
    /// The address on which the router listens; `None` is all of them.
    pub listen: Option<IpAddr>,
    /// The network identifier of packets to this host, if no device of an earlier life has one: 24 bits, drawn at random.
    pub vni: u32,
    /// Whether flows of an earlier life in clear go on until it is known better. Not once there is a password.
    pub adopt: bool,
}

/// Where the kernel takes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The network identifier that they bear.
    pub vni: u32,
    /// The UDP port of those in clear.
    pub clear: Option<u16>,
    /// The UDP port of those that are sealed, and what seals them.
    pub sealed: Option<(u16, SealOffer)>,
}

/// See [`Hooks::guard`].
pub type Guard = Box<dyn FnMut(&BTreeSet<IpAddr>) + Send>;

/// How the thread speaks with the rest of the router. None of these may wait for it.
pub struct Hooks {
    /// Which MACs the data plane has seen behind peers, if that is news.
    pub learnt: Box<dyn FnMut() -> Option<BTreeMap<MacAddr, PeerId>> + Send>,
    /// Asks a neighbour in user space at once: how long ago it was heard from there.
    pub ask: Box<dyn FnMut(PeerId) -> Option<Duration> + Send>,
    /// Lets packets from these addresses in, and from no others; called before the peers there may send any.
    pub guard: Guard,
    /// Whether the firewall that does so stands.
    pub is_guarded: Box<dyn FnMut() -> bool + Send>,
    /// Takes what was found, each time that it has changed.
    pub tell: Box<dyn FnMut(&Heard) + Send>,
}

/// What the thread has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// The MACs on this host's bridge, but for those of peers.
    pub macs: BTreeSet<MacAddr>,
    /// Where the kernel takes packets; `None` while it takes none.
    pub end: Option<End>,
    /// The neighbours whose frames go through the kernel.
    pub carrying: BTreeSet<PeerId>,
    /// How each neighbour's path stands.
    pub paths: BTreeMap<PeerId, PathState>,
    /// How many flows lead into tunnels.
    pub flows: usize,
    /// Why there is no kernel path at all at the moment.
    pub fault: Option<String>,
    /// Why there is none for some addresses, for people.
    pub missing: BTreeSet<String>,
}

/// The flows as they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flows {
    /// One for each remote MAC, by MAC.
    pub flows: Vec<Flow>,
    /// What was done to them.
    pub counted: Counted,
    /// Frames and bytes through the tunnels since their devices were made: out, then in.
    pub passed: [(u64, u64); 2],
    /// Frames that the kernel has found no flow for, where it counts them: each was this process's to send on.
    pub missed: u64,
}

/// One flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Whose frames.
    pub mac: MacAddr,
    /// Who is behind it, as far as is known.
    pub peer: Option<PeerId>,
    /// Where they go; `None` while that is being changed.
    pub place: Option<Place>,
    /// Time since the last one.
    pub idle: Option<Duration>,
    /// Frames and bytes so far, where the kernel counts them for each flow.
    pub passed: Option<(u64, u64)>,
}

/// Why there is no fast path. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel has no VXLAN, or refuses something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Nothing may be sent in clear, and nothing seals.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// No thread, or no means to wake it.
    #[error("cannot start the fast path's thread")]
    Thread(#[source] std::io::Error),
}

/// A running fast path. Dropping it ends the thread; the kernel's tables stay.
#[derive(Debug)]
pub struct FastPath {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// What waits for the thread.
#[derive(Debug)]
struct Mailbox {
    wake: OwnedFd,
    mail: Mutex<Mail>,
}

#[derive(Debug, Default)]
struct Mail {
    /// The newest view; older ones count for nothing.
    view: Option<View>,
    asks: Vec<SyncSender<Flows>>,
    is_over: bool,
}

/// Removes the VXLAN devices of a bridge, and what seals under them. Where there are none, nothing happens.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn remove(bridge: &BridgeName) -> Result<(), HostError> {
    // First, while its device tells that there is something.
    crate::esp::remove_all(bridge)?;
    mesh_hostnet::remove_tunnels(bridge)
}

impl FastPath {
    /// Makes or takes over the devices, in the network namespace of the calling thread, and starts the thread.
    ///
    /// # Errors
    /// A [`StartError`]; devices of ours that were there are gone then.
    pub fn start(config: &Config, hooks: Hooks) -> Result<Self, StartError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|errno| StartError::Thread(errno.into()))?;
        let mailbox = Arc::new(Mailbox { wake, mail: Mutex::default() });
        let driver = Driver::start(config, hooks, Arc::clone(&mailbox)).inspect_err(|_| {
            // What cannot be removed either is told when it is in the way.
            let _removed = match config.back_end {
                BackEnd::Vxlan => remove(&config.bridge.name),
                BackEnd::Ovs => crate::ovs::remove(&config.bridge.name).map(drop),
            };
        })?;
        let thread = thread::Builder::new()
            .name("mesh-fastpath".to_owned())
            .spawn(move || driver.run())
            .map_err(StartError::Thread)?;
        Ok(Self { mailbox, thread: Some(thread) })
    }

    /// Says what the router knows now.
    pub fn see(&self, view: View) {
        self.mailbox.lock().view = Some(view);
        self.mailbox.wake();
    }

    /// The flows, read from the kernel; empty when the thread does not answer in time. May take some milliseconds: not to
    /// be called where nobody may wait.
    #[must_use]
    pub fn flows(&self) -> Flows {
        let (answer, answered) = sync_channel(1);
        {
            let mut mail = self.mailbox.lock();
            if mail.asks.len() >= ASKS_MAX {
                return Flows::default();
            }
            mail.asks.push(answer);
        }
        self.mailbox.wake();
        answered.recv_timeout(ANSWER_TIME_MAX).unwrap_or_default()
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.mailbox.lock().is_over = true;
        self.mailbox.wake();
        if let Some(thread) = self.thread.take() {
            // Whether it panicked changes nothing for whoever is done with it.
            let _ended = thread.join();
        }
    }
}

impl Mailbox {
    // Each change of the mail is one assignment, so that it is valid after a panic elsewhere, too.
    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Only a counter that is at its limit refuses, and then the thread wakes anyway.
        let _woken = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}
