//! Whom to dial, and when: the user's targets and the addresses at which other peers are said to listen.
//!
//! Owns the schedule. Opens nothing: [`Connector::due`] says what to dial, and the caller reports what became of it.
//!
//! ```text
//!            due            session with a peer
//!  Waiting ───────► Dialing ───────────────────► Connected(peer)
//!     ▲                │ failed                        │ peer lost
//!     └────────────────┴───────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::Rng;
use mesh_wire::{Moment, PeerId};

use crate::{Backoff, Topology};

/// How long the peer with the greater id leaves the first dial of a discovered address to the other side, which
/// usually learns of it at the same moment: most pairs then dial once.
pub const YIELD: Duration = Duration::from_millis(300);

/// How often a target that turned out to be this router itself is tried again, in case the name moves.
pub const SELF_RETRY: Duration = Duration::from_secs(60);

/// A session that lasted this long was no failed attempt, whatever ended it.
pub const SETTLED: Duration = Duration::from_secs(5);

/// Most discovered addresses that are tried for one peer.
pub const ADDRESSES_PER_PEER_MAX: usize = 8;

/// What to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// As the user named it.
    Named {
        /// Host name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// An address at which others say that `peer` listens.
    Discovered {
        /// The peer expected there.
        peer: PeerId,
        /// Its address.
        address: SocketAddr,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Named { host, port } => write!(f, "{host}:{port}"),
            Self::Discovered { address, .. } => write!(f, "{address}"),
        }
    }
}

/// Where a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetStatus {
    /// To be dialed at this time.
    Waiting(Moment),
    /// Being dialed.
    Dialing,
    /// A session with this peer came of it, and lives.
    Connected(PeerId),
    /// It is this router itself; asked again at this time.
    Itself(Moment),
}

#[derive(Debug)]
struct Entry {
    status: TargetStatus,
    backoff: Backoff,
}

/// The schedule of connection attempts.
#[derive(Debug)]
pub struct Connector {
    me: PeerId,
    discovery: bool,
    targets: BTreeMap<Target, Entry>,
}

impl Connector {
    /// A schedule for the user's `targets`, due at once.
    pub fn new(me: PeerId, discovery: bool, targets: impl IntoIterator<Item = Target>, now: Moment) -> Self {
        let entry =
            |target| (target, Entry { status: TargetStatus::Waiting(now), backoff: Backoff::default() });
        Self { me, discovery, targets: targets.into_iter().map(entry).collect() }
    }

    /// Takes in who is known now: addresses of newly known peers become targets, those of vanished or connected
    /// peers cease to be.
    pub fn discover(&mut self, topology: &Topology, connected: &BTreeSet<PeerId>, now: Moment) {
        if !self.discovery {
            return;
        }
        let wanted = listening_addresses(topology, connected);
        self.targets.retain(|target, entry| match target {
            Target::Named { .. } => true,
            Target::Discovered { .. } => {
                wanted.contains(target)
                    || matches!(entry.status, TargetStatus::Dialing | TargetStatus::Connected(_))
            }
        });
        for target in wanted {
            let Target::Discovered { peer, .. } = &target else { continue };
            let first = if self.me < *peer { now } else { now + YIELD };
            let entry = || Entry { status: TargetStatus::Waiting(first), backoff: Backoff::default() };
            self.targets.entry(target).or_insert_with(entry);
        }
    }

    /// The targets that are due; they count as being dialed from now on. What becomes of each is to be reported by
    /// [`Self::failed`], [`Self::connected`] or [`Self::reached_itself`].
    pub fn due(&mut self, now: Moment) -> Vec<Target> {
        let due = self.targets.iter_mut().filter_map(|(target, entry)| match entry.status {
            TargetStatus::Waiting(at) | TargetStatus::Itself(at) if at <= now => {
                entry.status = TargetStatus::Dialing;
                Some(target.clone())
            }
            TargetStatus::Waiting(_)
            | TargetStatus::Itself(_)
            | TargetStatus::Dialing
            | TargetStatus::Connected(_) => None,
        });
        due.collect()
    }

    /// A dial, or the session that came of it, failed.
    pub fn failed(&mut self, target: &Target, rng: &mut Rng, now: Moment) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.status = TargetStatus::Waiting(entry.backoff.fail(rng, now));
        }
    }

    /// A dial reached this router itself. A discovered address that does so is dropped.
    pub fn reached_itself(&mut self, target: &Target, now: Moment) {
        match target {
            Target::Named { .. } => {
                if let Some(entry) = self.targets.get_mut(target) {
                    entry.status = TargetStatus::Itself(now + SELF_RETRY);
                }
            }
            Target::Discovered { .. } => {
                self.targets.remove(target);
            }
        }
    }

    /// A dial led to a session with `peer`, new or one that existed already.
    pub fn connected(&mut self, target: &Target, peer: PeerId) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.status = TargetStatus::Connected(peer);
        }
    }

    /// The last session with `peer` ended after it had `lasted` that long: what led to it is tried again, soon when
    /// the session was a settled one.
    pub fn lost(&mut self, peer: PeerId, lasted: Duration, rng: &mut Rng, now: Moment) {
        for entry in self.targets.values_mut() {
            if entry.status == TargetStatus::Connected(peer) {
                if lasted >= SETTLED {
                    entry.backoff.succeed();
                }
                entry.status = TargetStatus::Waiting(entry.backoff.fail(rng, now));
            }
        }
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let due = self.targets.values().filter_map(|entry| match entry.status {
            TargetStatus::Waiting(at) | TargetStatus::Itself(at) => Some(at),
            TargetStatus::Dialing | TargetStatus::Connected(_) => None,
        });
        due.min()
    }

    /// All targets with where they stand.
    pub fn targets(&self) -> impl Iterator<Item = (&Target, TargetStatus)> {
        self.targets.iter().map(|(target, entry)| (target, entry.status))
    }
}

/// The addresses at which peers without a connection to this router listen, as their neighbours list them. An
/// address that somebody dialed is taken as it is; of one that dialed in, only the host is known, and the port is
/// the one that the peer says it listens on.
fn listening_addresses(topology: &Topology, connected: &BTreeSet<PeerId>) -> BTreeSet<Target> {
    let mut by_peer: BTreeMap<PeerId, BTreeSet<SocketAddr>> = BTreeMap::new();
    for (lister, record) in topology.records() {
        for link in record.links.iter().filter(|_| lister != topology.me()) {
            let port = topology.record(link.peer).map(|record| record.port);
            let (Some(port), false) = (port, link.peer == topology.me() || connected.contains(&link.peer))
            else {
                continue;
            };
            let port = if link.outbound { link.address.port() } else { port };
            let addresses = by_peer.entry(link.peer).or_default();
            if addresses.len() < ADDRESSES_PER_PEER_MAX && !link.address.ip().is_loopback() {
                addresses.insert(SocketAddr::new(link.address.ip(), port));
            }
        }
    }
    let targets = by_peer.into_iter().flat_map(|(peer, addresses)| {
        addresses.into_iter().map(move |address| Target::Discovered { peer, address })
    });
    targets.collect()
}

#[cfg(test)]
mod tests;
