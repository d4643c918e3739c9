//! Whom to dial, and when: the user's targets and the addresses at which wanted peers are said to listen.
//!
//! Owns the schedule. Opens nothing: [`Connector::due`] says what to dial, and the caller reports what became of it.
//!
//! ```text
//!            due            session with a peer
//!  Waiting ───────► Dialing ───────────────────► Connected(peer)
//!     ▲                │ failed                        │ peer lost      │ enough
//!     ├────────────────┴───────────────────────────────┘                ▼
//!     └────────────────────────────────────────────────────────── Enough(peer)
//!                       nobody else reaches the peer
//! ```

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::Rng;
use mesh_wire::{Moment, PeerId};

use crate::{Backoff, Formation, Topology};

/// How long the peer with the greater id leaves the first dial to the other side where both want it: both usually
/// learn of each other at the same moment, and most pairs then dial once.
pub const YIELD: Duration = Duration::from_millis(300);

/// How often a target that turned out to be this router itself is tried again, in case the name moves.
pub const SELF_RETRY: Duration = Duration::from_secs(60);

/// A session that lasted this long was no failed attempt, whatever ended it.
pub const SETTLED: Duration = Duration::from_secs(5);

/// Most targets that the user may name.
pub const NAMED_MAX: usize = 1_024;

/// An address at which a peer was before this router moved is tried this long.
pub const REVISITED_FOR: Duration = Duration::from_secs(60);

/// Most discovered addresses that are tried for one peer. Those that somebody dialed come first.
pub const ADDRESSES_PER_PEER_MAX: usize = 8;

/// News of a peer hurries each of its targets at most this often.
pub const NEWS_EVERY: Duration = Duration::from_secs(5);

/// What is hurried is dialed within this time, at random, so that a whole network does not dial in step.
pub const HURRIED_WITHIN: Duration = Duration::from_millis(200);

/// A peer that has enough connections, but that this router wants, is left alone for this long: the two may have seen
/// different peers, and agree by then. It is tried again at the first change of the topology after that.
pub const WANTED_REST: Duration = Duration::from_secs(300);

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
    /// This peer was there, and one of the two had connections enough. It is left alone as long as others reach it.
    Enough(PeerId),
}

/// The user named more than [`NAMED_MAX`] targets. None of them was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {NAMED_MAX} targets")]
pub struct TooManyTargets;

#[derive(Debug)]
struct Entry {
    status: TargetStatus,
    backoff: Backoff,
    /// Who was found there last, or is expected there.
    peer: Option<PeerId>,
    /// When news of the peer last made it due.
    hurried: Option<Moment>,
    /// Until then it is tried though nobody tells of it.
    kept_until: Option<Moment>,
}

/// The schedule of connection attempts. Its memory grows with what is dialed, not with the network.
#[derive(Debug)]
pub struct Connector {
    me: PeerId,
    discovery: bool,
    connection_limit: usize,
    targets: BTreeMap<Target, Entry>,
    /// Whom this router chooses, as of `members`.
    wanted: BTreeSet<PeerId>,
    /// [`Topology::members`] when `wanted` were chosen.
    members: Option<u64>,
    /// Peers with whom one of the two had connections enough, and since when. Only peers that others reach.
    resting: BTreeMap<PeerId, Moment>,
}

impl Connector {
    /// A schedule for the user's `targets`, due at once; what passes [`NAMED_MAX`] is left out. With `discovery`, peers
    /// that the topology knows are dialed too: all while a router may have `connection_limit` connections with others
    /// and there are no more peers, and else those that [`Formation`] chooses.
    pub fn new(
        me: PeerId,
        discovery: bool,
        connection_limit: usize,
        targets: impl IntoIterator<Item = Target>,
        now: Moment,
    ) -> Self {
        let targets = targets.into_iter().take(NAMED_MAX).map(|target| (target, Entry::due_at(now, None)));
        Self {
            me,
            discovery,
            connection_limit,
            targets: targets.collect(),
            wanted: BTreeSet::new(),
            members: None,
            resting: BTreeMap::new(),
        }
    }

    /// The user names targets, in addition to those named before, or in their place. One that is known already is
    /// dialed at once, if it waits.
    ///
    /// # Errors
    /// If there would be too many. Nothing was changed.
    pub fn connect(
        &mut self,
        targets: impl IntoIterator<Item = Target>,
        replace: bool,
        now: Moment,
    ) -> Result<(), TooManyTargets> {
        let targets: BTreeSet<_> = targets.into_iter().collect();
        let stay = self.named().filter(|target| !replace && !targets.contains(target)).count();
        if stay + targets.len() > NAMED_MAX {
            return Err(TooManyTargets);
        }
        if replace {
            self.targets.retain(|target, _| !target.is_named() || targets.contains(target));
        }
        for target in targets {
            let entry = self.targets.entry(target).or_insert_with(|| Entry::due_at(now, None));
            match entry.status {
                TargetStatus::Waiting(_) | TargetStatus::Itself(_) | TargetStatus::Enough(_) => {
                    *entry = Entry::due_at(now, entry.peer);
                }
                TargetStatus::Dialing | TargetStatus::Connected(_) => {}
            }
        }
        Ok(())
    }

    /// The user wants these targets dialed no more. Connections stay.
    pub fn forget<'a>(&mut self, targets: impl IntoIterator<Item = &'a Target>) {
        for target in targets {
            self.targets.remove(target);
        }
    }

    /// The user's targets.
    pub fn named(&self) -> impl Iterator<Item = &Target> {
        self.targets.keys().filter(|target| target.is_named())
    }

    /// Takes in who is known now: addresses of wanted peers become targets, those of vanished, connected or unwanted
    /// peers cease to be.
    pub fn discover(&mut self, topology: &Topology, connected: &BTreeSet<PeerId>, now: Moment) {
        self.choose(topology);
        self.rest(topology, connected, now);
        let peers =
            self.wanted.iter().filter(|peer| !connected.contains(peer) && !self.resting.contains_key(peer));
        let sought: BTreeSet<_> = peers
            .flat_map(|peer| {
                let targets = listening_addresses(topology, *peer).into_iter();
                targets.map(|address| Target::Discovered { peer: *peer, address })
            })
            .collect();
        self.targets.retain(|target, entry| {
            target.is_named() || entry.is_kept(connected, now) || sought.contains(target)
        });
        // It names all peers, and is most often not needed.
        let formation = LazyCell::new(|| self.formation(topology));
        let me = self.me;
        let mut added = Vec::new();
        for target in sought.into_iter().filter(|target| !self.targets.contains_key(target)) {
            let Target::Discovered { peer, .. } = target else { continue };
            let yields = me > peer && formation.chooses(peer, me);
            let entry = Entry::due_at(if yields { now + YIELD } else { now }, Some(peer));
            added.push((target, entry));
        }
        self.targets.extend(added);
    }

    /// Whether there are so many connections that [`Self::surplus`] may name some.
    #[must_use]
    pub fn has_too_many(&self, topology: &Topology, connections: usize) -> bool {
        connections > Formation::links_max(topology.records().len(), self.connection_limit)
    }

    /// The neighbours that this router shall let go, since it has more than it may: say goodbye to some, and tell
    /// [`Self::enough`].
    #[must_use]
    pub fn surplus(&self, topology: &Topology, connected: &BTreeSet<PeerId>) -> Vec<PeerId> {
        if !self.has_too_many(topology, connected.len()) {
            return Vec::new();
        }
        self.formation(topology).surplus(topology, connected)
    }

    /// Something was heard of a peer that has no session with this router: it may be back, or elsewhere. What leads to
    /// it is dialed soon.
    pub fn news(&mut self, peer: PeerId, rng: &mut Rng, now: Moment) {
        for entry in self.targets.values_mut().filter(|entry| entry.peer == Some(peer)) {
            let is_fresh = entry.hurried.is_none_or(|at| now.since(at) >= NEWS_EVERY);
            if is_fresh && entry.hurry(rng, now) {
                entry.hurried = Some(now);
            }
        }
    }

    /// This router's own addresses have changed: whatever failed before may succeed now.
    pub fn hurry(&mut self, rng: &mut Rng, now: Moment) {
        for entry in self.targets.values_mut() {
            if entry.hurry(rng, now) {
                entry.backoff.succeed();
            }
        }
    }

    /// This router has moved, and `peer`, which had dialed it, may not find it any more: the peer's `address` is dialed for
    /// [`REVISITED_FOR`], though nobody may tell of it.
    pub fn revisit(&mut self, peer: PeerId, address: SocketAddr, now: Moment) {
        if self.discovery {
            let target = Target::Discovered { peer, address };
            let entry = self.targets.entry(target).or_insert_with(|| Entry::due_at(now, Some(peer)));
            entry.kept_until = Some(now + REVISITED_FOR);
        }
    }

    /// The targets that are due; they count as being dialed from now on. What becomes of each is to be reported by
    /// [`Self::failed`], [`Self::connected`] or [`Self::reached_itself`].
    pub fn due(&mut self, now: Moment) -> Vec<Target> {
        let due = self.targets.iter_mut().filter(|(_, entry)| entry.due().is_some_and(|at| at <= now));
        due.map(|(target, entry)| {
            entry.status = TargetStatus::Dialing;
            target.clone()
        })
        .collect()
    }

    /// A dial, or the session that came of it, failed.
    pub fn failed(&mut self, target: &Target, rng: &mut Rng, now: Moment) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.status = TargetStatus::Waiting(entry.backoff.fail(rng, now));
        }
    }

    /// A dial reached this router itself.
    pub fn reached_itself(&mut self, target: &Target, now: Moment) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.status = TargetStatus::Itself(now + SELF_RETRY);
        }
    }

    /// A dial led to a session with `peer`, new or one that existed already.
    pub fn connected(&mut self, target: &Target, peer: PeerId) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.status = TargetStatus::Connected(peer);
            entry.peer = Some(peer);
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

    /// The last session with `peer` ended since one of the two has connections enough: in place of [`Self::lost`], on
    /// both ends. What led to it rests as long as others reach the peer.
    pub fn enough(&mut self, peer: PeerId, now: Moment) {
        self.resting.insert(peer, now);
        self.targets.retain(|target, entry| {
            let led_there = entry.status == TargetStatus::Connected(peer);
            if led_there {
                entry.backoff.succeed();
                entry.status = TargetStatus::Enough(peer);
            }
            target.is_named() || !led_there
        });
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.targets.values().filter_map(Entry::due).min()
    }

    /// All targets with where they stand.
    pub fn targets(&self) -> impl Iterator<Item = (&Target, TargetStatus)> {
        self.targets.iter().map(|(target, entry)| (target, entry.status))
    }

    /// Chooses anew if others are known than before. Who is wanted now and was not is left alone no longer.
    fn choose(&mut self, topology: &Topology) {
        if self.members == Some(topology.members()) {
            return;
        }
        self.members = Some(topology.members());
        if self.discovery {
            let wanted = self.formation(topology).choices(self.me);
            self.resting.retain(|peer, _| self.wanted.contains(peer) || !wanted.contains(peer));
            self.wanted = wanted;
        }
    }

    /// Who shall be connected with whom, of those who are known now.
    fn formation(&self, topology: &Topology) -> Formation {
        Formation::new(topology.records().map(|(peer, _)| peer), self.connection_limit)
    }

    /// Ends the rest of peers that nobody else reaches, or that are connected again, or that this router has wanted for
    /// long; their targets follow.
    fn rest(&mut self, topology: &Topology, connected: &BTreeSet<PeerId>, now: Moment) {
        self.resting.retain(|peer, since| {
            let is_overdue = self.wanted.contains(peer) && now.since(*since) >= WANTED_REST;
            topology.reaches(*peer) && !connected.contains(peer) && !is_overdue
        });
        for entry in self.targets.values_mut() {
            if let TargetStatus::Enough(peer) = entry.status {
                if connected.contains(&peer) {
                    entry.status = TargetStatus::Connected(peer);
                } else if !self.resting.contains_key(&peer) {
                    entry.status = TargetStatus::Waiting(now);
                }
            }
        }
    }
}

impl Target {
    const fn is_named(&self) -> bool {
        matches!(self, Self::Named { .. })
    }
}

impl Entry {
    fn due_at(at: Moment, peer: Option<PeerId>) -> Self {
        Self {
            status: TargetStatus::Waiting(at),
            backoff: Backoff::default(),
            peer,
            hurried: None,
            kept_until: None,
        }
    }

    const fn due(&self) -> Option<Moment> {
        match self.status {
            TargetStatus::Waiting(at) | TargetStatus::Itself(at) => Some(at),
            TargetStatus::Dialing | TargetStatus::Connected(_) | TargetStatus::Enough(_) => None,
        }
    }

    /// Whether it stays even if nobody tells of it.
    fn is_kept(&self, connected: &BTreeSet<PeerId>, now: Moment) -> bool {
        let is_in_use = matches!(self.status, TargetStatus::Dialing | TargetStatus::Connected(_));
        let is_missed = self.peer.is_some_and(|peer| !connected.contains(&peer));
        is_in_use || (is_missed && self.kept_until.is_some_and(|until| until > now))
    }

    /// Makes it due soon, if it waits for a later time. Returns whether it did.
    fn hurry(&mut self, rng: &mut Rng, now: Moment) -> bool {
        let waits = self.due().is_some_and(|at| at > now + HURRIED_WITHIN);
        if waits {
            let spread_ms = u64::try_from(HURRIED_WITHIN.as_millis()).unwrap_or(u64::MAX);
            self.status = TargetStatus::Waiting(now + Duration::from_millis(rng.below(spread_ms)));
        }
        waits
    }
}

/// The addresses at which `peer` listens, as those say with whom it says that it is connected. An address that somebody
/// dialed is taken as it is; of one that dialed in, only the host is known, and the port is the one that the peer says
/// it listens on. Costs in proportion to the peer's connections.
fn listening_addresses(topology: &Topology, peer: PeerId) -> Vec<SocketAddr> {
    let Some(record) = topology.record(peer) else { return Vec::new() };
    let neighbours = record.links.iter().filter_map(|link| topology.record(link.peer));
    let seen = neighbours.filter_map(|neighbour| {
        // Links stand in order of their peers.
        let at = neighbour.links.binary_search_by_key(&peer, |link| link.peer).ok()?;
        neighbour.links.get(at)
    });
    let ranked: BTreeSet<_> = seen
        .filter(|link| !link.address.ip().is_loopback())
        .map(|link| {
            let port = if link.outbound { link.address.port() } else { record.port };
            (!link.outbound, SocketAddr::new(link.address.ip(), port))
        })
        .collect();
    let mut addresses = Vec::new();
    for (_, address) in ranked {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_PER_PEER_MAX {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
