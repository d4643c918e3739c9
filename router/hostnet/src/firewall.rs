//! The host's firewall: two tables of nftables of our own, for frames on the bridge and for packets to and through the
//! host.
//!
//! Owns what they are to be, that they are so, and that they become so again within a second after somebody has flushed
//! or removed them. Never alters a table of others, but for what [`iptables`] says. Where `nft` is missing, or the kernel has no nftables, it says so,
//! goes on without, and tries again now and then.
//!
//! The tables outlive the router, as the containers' connections do; [`remove_all`](crate::remove_all) removes them. A
//! router that starts takes over the ports' guards from them.

mod counters;
mod events;
mod iptables;
mod nft;
mod ruleset;
mod walls;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

pub use walls::{Exposure, NODE_LOCAL, PortGuard, SealedTunnel, Tunnel, Wall};

use self::events::{Changes, Events};
use self::nft::Listing;
use self::ruleset::{Ruleset, table_name};
use self::walls::Walls;
use crate::bridge::{self, Bridge};
use crate::error::{HostError, KernelError};
use crate::name::{BridgeName, InterfaceName};
use crate::program::ProgramError;

/// How often the tables are looked at without an event.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// After a repair, the next one waits so long: two programs that undo each other's work must not take a whole CPU.
const REPAIR_PAUSE: Duration = Duration::from_millis(100);

/// How often a change is tried at once when others change our tables at the same time. The watch goes on after that.
const ATTEMPTS_MAX: u32 = 3;

/// Lines in the log about others who change our tables: one in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The host's firewall, until the last of its handles is dropped. The tables stay then.
#[derive(Debug, Clone)]
pub struct Firewall(Arc<Handle>);

/// Whether the firewall stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirewallState {
    /// The kernel has it as it is to be.
    Up,
    /// It does not, for this reason. It is tried again every few seconds.
    Down(String),
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    events: Events,
    stop: OwnedFd,
    inner: Mutex<Inner>,
    queued: Queued,
    fault: Fault,
    /// Held while iptables are looked at and changed.
    iptables: Mutex<()>,
}

/// Changes that wait for the transaction under way: the next one has them all. Each caller waits until its own is done, so
/// that there are no more than callers.
#[derive(Default)]
struct Queued(Mutex<Vec<WallsChange>>);

type WallsChange = Box<dyn FnOnce(&mut Walls) + Send>;

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").finish_non_exhaustive()
    }
}

/// Why it does not stand. Known without the lock that is held while `nft` runs: whoever asks may not wait for it.
#[derive(Debug, Default, Clone)]
struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, fault: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

#[derive(Debug)]
struct Inner {
    table: String,
    walls: Walls,
    /// What the kernel has; `None` when that is not known.
    present: Option<Ruleset>,
    fault: Fault,
    is_closed: bool,
    /// What counters had when they were replaced, and when they were last read.
    drops_before: BTreeMap<Wall, u64>,
    drops_seen: BTreeMap<Wall, u64>,
    complained: Option<Instant>,
}

impl Firewall {
    /// Puts up the firewall in the calling thread's namespace, with the guards of containers that an earlier life of the
    /// router has left. `host_ports` are those of the router itself, TCP and UDP.
    ///
    /// # Errors
    /// [`HostError::Kernel`] when there can be no socket to hear of changes, [`HostError::Thread`]. That `nft` is
    /// missing, or fails, is no error: see [`Firewall::state`].
    pub fn start(bridge: &Bridge, host_ports: BTreeSet<u16>) -> Result<Self, HostError> {
        let opened = |error: KernelError| error.during("open a socket to", "nftables");
        let table = table_name(&bridge.name);
        let events = Events::open(table.clone()).map_err(|error| opened(error.into()))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = stop.map_err(|errno| opened(errno.into()))?;
        let mut walls = Walls::new(bridge, host_ports);
        walls.ports = guards_left(&table, bridge)?;
        let inner = Inner {
            table,
            walls,
            present: None,
            fault: Fault::default(),
            is_closed: false,
            drops_before: BTreeMap::new(),
            drops_seen: BTreeMap::new(),
            complained: None,
        };
        let shared = Arc::new(Shared {
            fault: inner.fault.clone(),
            events,
            stop,
            inner: Mutex::new(inner),
            queued: Queued::default(),
            iptables: Mutex::new(()),
        });
        shared.lock().apply(&shared.events);
        shared.open_iptables();
        let watching = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("mesh-firewall".to_owned())
            .spawn(move || watching.watch())
            .map_err(|source| HostError::Thread { source })?;
        Ok(Self(Arc::new(Handle { shared, thread: Some(thread) })))
    }

    /// Lets only this come out of a port, and only frames of its subnets reach it. To be called before the port is up;
    /// a port without a guard is left open, as for what is plugged in by hand.
    pub fn guard(&self, port: &InterfaceName, guard: PortGuard) {
        let port = port.clone();
        self.change(move |walls| drop(walls.ports.insert(port, guard)));
    }

    /// Forgets a port that is gone.
    pub fn release(&self, port: &InterfaceName) {
        let port = port.clone();
        self.change(move |walls| drop(walls.ports.remove(&port)));
    }

    /// The guards that there are.
    #[must_use]
    pub fn guards(&self) -> BTreeMap<InterfaceName, PortGuard> {
        self.0.shared.lock().walls.ports.clone()
    }

    /// Sets which ports of the bridge lead to other hosts, beside the TAP.
    pub fn set_uplinks(&self, uplinks: impl IntoIterator<Item = InterfaceName>) {
        let uplinks: Vec<_> = uplinks.into_iter().collect();
        self.change(|walls| {
            walls.uplinks = uplinks.into_iter().chain([walls.bridge.tap()]).collect();
        });
    }

    /// Sets from where packets of the kernel's tunnel are taken; with `None` the host has no tunnel.
    pub fn set_tunnel(&self, tunnel: Option<Tunnel>) {
        self.change(move |walls| walls.tunnel = tunnel);
    }

    /// Sets which of the bridge's addresses the overlay may reach.
    pub fn set_exposed(&self, exposed: Vec<Exposure>) {
        self.change(move |walls| walls.exposed = exposed);
        self.0.shared.open_iptables();
    }

    /// Sets where containers reach the host's DNS servers, addresses that each host has for itself.
    pub fn set_name_servers(&self, servers: impl IntoIterator<Item = SocketAddrV4>) {
        let servers = servers.into_iter().collect();
        self.change(move |walls| walls.name_servers = servers);
    }

    /// Whether it stands.
    #[must_use]
    pub fn state(&self) -> FirewallState {
        self.0.shared.fault.get().map_or(FirewallState::Up, FirewallState::Down)
    }

    /// How many frames and packets were dropped, since the router started, for each reason.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<Wall, u64> {
        let mut inner = self.0.shared.lock();
        inner.read_drops();
        let count = |wall: Wall| {
            let of = |drops: &BTreeMap<Wall, u64>| drops.get(&wall).copied().unwrap_or(0);
            (wall, of(&inner.drops_before) + of(&inner.drops_seen))
        };
        Wall::ALL.map(count).into_iter().collect()
    }

    /// The ports of the bridge that have no guard and lead to no other host: what was plugged in by hand.
    pub fn unguarded_ports(&self) -> Result<Vec<String>, HostError> {
        let mut host = bridge::open_host()?;
        let walls = self.0.shared.lock().walls.clone();
        let bridge = bridge::find(&mut host, &walls.bridge)?;
        let links = host.links().map_err(|error| error.during("list the ports of", &bridge.name))?;
        let is_known = |name: &str| {
            let is = |port: &InterfaceName| port.as_str() == name;
            walls.ports.keys().any(is) || walls.uplinks.iter().any(is)
        };
        let mut names: Vec<_> = links
            .into_iter()
            .filter(|link| link.master == Some(bridge.index) && !is_known(&link.name))
            .map(|link| link.name)
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Changes nothing any more, so that somebody can remove the tables.
    pub fn close(&self) {
        let shared = &self.0.shared;
        shared.lock().is_closed = true;
        // What is under way has ended when it is our turn.
        let _turn = shared.iptables.lock().unwrap_or_else(PoisonError::into_inner);
    }

    /// A transaction takes the kernel milliseconds, most of which it waits: whoever comes meanwhile shares the next one.
    fn change(&self, change: impl FnOnce(&mut Walls) + Send + 'static) {
        let shared = &self.0.shared;
        shared.queued.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(change));
        shared.lock().apply(&shared.events);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The counter of a fresh eventfd has room for a one.
        let _woken = rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Whether it panicked changes nothing for whoever is done with it.
            let _ended = thread.join();
        }
    }
}

/// Removes our tables, if they are there, and our rules in those of iptables.
pub(crate) fn remove(bridge: &BridgeName) -> Result<(), HostError> {
    iptables::remove(bridge);
    let table = table_name(bridge);
    match nft::apply(&ruleset::removal(&table)) {
        // Without the program there is nothing that it made.
        Ok(()) | Err(ProgramError::Absent) => Ok(()),
        Err(source) => {
            Err(HostError::Program { action: "remove the firewall's tables", program: "nft", source })
        }
    }
}

/// The guards in the tables that an earlier life has left, of those ports that are still there.
fn guards_left(table: &str, bridge: &Bridge) -> Result<BTreeMap<InterfaceName, PortGuard>, HostError> {
    // Without tables there are no guards; other failures show when the tables are written.
    let Ok(listing) = Listing::of(table) else { return Ok(BTreeMap::new()) };
    let ports = bridge::attachments(bridge)?;
    let is_there = |port: &InterfaceName| ports.iter().any(|there| there == port.as_str());
    Ok(listing.ports.into_iter().filter(|(port, _)| is_there(port)).collect())
}

impl Shared {
    /// With all changes that were asked for, in order.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = std::mem::take(&mut *self.queued.0.lock().unwrap_or_else(PoisonError::into_inner));
        queued.into_iter().for_each(|change| change(&mut inner.walls));
        inner
    }

    fn open_iptables(&self) {
        let _turn = self.iptables.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = self.lock();
        if inner.is_closed {
            return;
        }
        let walls = inner.walls.clone();
        drop(inner);
        iptables::ensure(&walls);
    }

    /// Waits for changes by others, and undoes what they did to our tables.
    fn watch(&self) {
        let mut looked = Instant::now();
        loop {
            let woken = match self.wait(CHECK_INTERVAL.saturating_sub(looked.elapsed()), true) {
                Ok(woken) => woken,
                Err(errno) => {
                    tracing::error!(%errno, "changes of the firewall are no longer noticed");
                    return;
                }
            };
            if matches!(woken, Woken::Stop) {
                return;
            }
            let mut inner = self.lock();
            // What we change ourselves is taken from the socket before the lock is free again.
            let changes = self.events.take();
            if !changes.ours.is_empty() {
                inner.complain(&changes);
                inner.present = None;
            }
            let is_late = looked.elapsed() >= CHECK_INTERVAL;
            if is_late || changes.lost {
                looked = Instant::now();
                inner.check();
            }
            inner.apply(&self.events);
            drop(inner);
            if is_late || changes.lost || changes.iptables {
                self.open_iptables();
            }
            if matches!(self.wait(REPAIR_PAUSE, false), Ok(Woken::Stop)) {
                return;
            }
        }
    }

    fn wait(&self, limit: Duration, for_events: bool) -> Result<Woken, Errno> {
        let limit = Timespec::try_from(limit).expect("seconds fit a timespec");
        let mut both =
            [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(self.events.socket(), PollFlags::IN)];
        let awaited = if for_events { &mut both[..] } else { &mut both[..1] };
        match poll(awaited, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => Ok(Woken::Late),
            Ok(_) if !both[0].revents().is_empty() => Ok(Woken::Stop),
            Ok(_) => Ok(Woken::Events),
            Err(errno) => Err(errno),
        }
    }
}

/// Why a wait ended.
enum Woken {
    Stop,
    Events,
    Late,
}

impl Inner {
    /// Makes the kernel's tables what they are to be, in one transaction.
    fn apply(&mut self, events: &Events) {
        for _ in 0..ATTEMPTS_MAX {
            if self.is_closed {
                return;
            }
            let wanted = Ruleset::of(&self.walls);
            if self.present.as_ref() == Some(&wanted) {
                return;
            }
            let result = self.write(&wanted);
            self.present = result.is_ok().then_some(wanted);
            self.note(result);
            // Our own events come before the program has ended. Those of others in between are among them.
            let changes = events.take();
            if changes.ours.len() <= 1 && !changes.lost {
                return;
            }
            self.check();
        }
    }

    fn write(&mut self, wanted: &Ruleset) -> Result<(), ProgramError> {
        let change = self.present.as_ref().and_then(|present| wanted.change_from(present));
        if let Some(script) = change {
            match nft::apply(&script) {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!(%error, "the firewall is not as it was: it is written anew"),
            }
        }
        self.read_drops();
        nft::apply(&wanted.replace())?;
        for (wall, count) in std::mem::take(&mut self.drops_seen) {
            *self.drops_before.entry(wall).or_default() += count;
        }
        Ok(())
    }

    fn note(&self, result: Result<(), ProgramError>) {
        let fault = result.err().map(|source| {
            HostError::Program { action: "put up the firewall", program: "nft", source }.to_string()
        });
        match (&self.fault.get(), &fault) {
            (None, Some(error)) => {
                tracing::warn!(error, "there is no firewall: containers are not kept apart");
            }
            (Some(_), None) => tracing::info!("the firewall is up"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.fault.set(fault);
    }

    /// Compares the kernel's tables with what they are to be, by numbers.
    fn check(&mut self) {
        self.forget_ports_that_are_gone();
        let Some(present) = &self.present else { return };
        match Listing::of(&self.table) {
            Ok(listing) if (listing.rules, listing.elements) == present.size() => self.read_drops(),
            Ok(_) | Err(ProgramError::Failed { .. }) => self.present = None,
            Err(error) => tracing::debug!(%error, "the firewall cannot be looked at"),
        }
    }

    /// A container that ends takes its port with it, and tells nobody.
    fn forget_ports_that_are_gone(&mut self) {
        let listed = bridge::open_host()
            .and_then(|mut host| host.links().map_err(|error| error.during("list", "the host's interfaces")));
        match listed {
            Ok(links) => {
                let names: BTreeSet<_> = links.iter().map(|link| link.name.as_str()).collect();
                self.walls.ports.retain(|port, _| names.contains(port.as_str()));
            }
            Err(error) => tracing::debug!(%error, "guards of ports that are gone are kept"),
        }
    }

    fn read_drops(&mut self) {
        let drops = counters::read(&self.table);
        // Where there are no tables, what was seen last stands.
        if !drops.is_empty() {
            self.drops_seen = drops;
        }
    }

    fn complain(&mut self, changes: &Changes) {
        let now = Instant::now();
        if self.complained.is_none_or(|last| now.duration_since(last) >= COMPLAINT_INTERVAL) {
            let by = changes.process.as_deref().unwrap_or("unknown");
            tracing::warn!(
                by,
                table = self.table,
                "somebody changed the firewall's tables; they are restored"
            );
            self.complained = Some(now);
        }
    }
}
