//! Which flows the kernel shall have: a pure function of what the router knows, with a memory for what it knew.
//!
//! Owns who is behind a MAC, whether a peer's path carries, and how both are remembered while a router is away. Knows no
//! kernel: a [`Place`] is all that a back end is told of a MAC. Reads no clock, holds no lock, does no input or output.
#![forbid(unsafe_code)]

pub mod health;
mod owners;
mod reconciler;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_hostnet::is_sealed;
use mesh_wire::control::VxlanOffer;
use mesh_wire::{MacAddr, Moment, PeerId};

use crate::seal;

pub use health::{DueProbe, PathHealth, PathState, Suspicion, Turn};
pub use owners::Owners;
pub use reconciler::{Change, Counted, Reconciler};

/// A router that is gone may be about to come back, as one that is stopped and launched again does: its flows stay for so
/// long if there is no other way to its containers. Whoever is gone for good is missed by nobody meanwhile.
pub const AWAY_MAX: Duration = Duration::from_secs(30);

/// A path that is not answered any more is left once user space has heard from the peer since, or has another way to it. Where
/// all is silent the router there may be gone, and its kernel go on; that is to show within this time.
pub const USER_SPACE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// A peer that is a neighbour no more, or is not one again yet, may be reached by a relay, and others may say so only because
/// they have not heard that its router was killed, or heard first that it is back. Its kernel goes on meanwhile, and flows to it
/// stay for so long.
pub const HEARSAY_MAX: Duration = Duration::from_secs(3);

/// Most flows. Further MACs have none: their frames are flooded to the TAP, and user space finds their way.
pub const FLOWS_MAX: usize = 65_536;

/// Where frames for a MAC go. Each remote MAC has exactly one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// To the router's own uplink.
    UserSpace,
    /// Straight to the peer's kernel.
    Tunnel(Tunnel),
}

impl Place {
    /// Whether frames are encrypted on their way there by the kernel.
    #[must_use]
    pub const fn is_sealed(self) -> bool {
        match self {
            Self::UserSpace => false,
            Self::Tunnel(tunnel) => is_sealed(tunnel.remote),
        }
    }
}

/// A peer's end of a kernel path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// Its underlay address, or the one inside of the device that seals.
    pub remote: IpAddr,
    /// The UDP port there.
    pub port: u16,
    /// The network identifier that it receives under: 24 bits.
    pub vni: u32,
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {} vni {}", self.remote, self.port, self.vni)
    }
}

/// What two routers have agreed on about the kernel path between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// There is no session at the moment, or the peer has not said anything yet: what held before holds on.
    Unheard,
    /// The same where nothing may travel in clear: only a path that is sealed holds on.
    UnheardSealed,
    /// There is none, and frames must not go that way any more.
    None(Refusal),
    /// Both ends have offered one.
    Both {
        /// Where the peer's underlay address is.
        remote: IpAddr,
        /// What the peer receives.
        theirs: VxlanOffer,
        /// What this router has told the peer to prove itself by.
        our_cookie: u64,
    },
}

/// Why two neighbours have no kernel path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Frames between them are encrypted, which this host's kernel cannot do.
    Encrypted,
    /// Frames between them are encrypted, and there is no firewall that keeps it so.
    Unguarded,
    /// Frames between them are encrypted, and the kernel takes fresh keys only for that.
    Unkeyed,
    /// The peer offers none.
    PeerHasNone,
    /// What seals packets to the peer would have them go in parts.
    Narrow,
    /// The peer's address does not do: it is another peer's, too.
    Address,
    /// This host has no VXLAN device for addresses such as the peer's.
    NoDevice,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encrypted => "frames are encrypted, and neither WireGuard nor ESP seals VXLAN here",
            Self::Unguarded => "frames are encrypted, and no firewall keeps VXLAN within what seals it",
            Self::Unkeyed => "frames are encrypted, and fresh keys for the kernel are on their way",
            Self::PeerHasNone => "the peer has no kernel path",
            Self::Narrow => "the path's MTU is too small for encrypted VXLAN",
            Self::Address => "VXLAN does not reach the peer's address",
            Self::NoDevice => "this host has no VXLAN device that reaches the peer",
        })
    }
}

/// All that the router knows of where frames may go; complete each time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The neighbours, and those that the router has just lost.
    pub neighbours: BTreeMap<PeerId, Agreement>,
    /// The peers to which user space has a way.
    pub reachable: BTreeSet<PeerId>,
    /// Those of them that frames reach by way of another router.
    pub relayed: BTreeSet<PeerId>,
    /// Who has announced a MAC.
    pub announced: Arc<BTreeMap<MacAddr, PeerId>>,
    /// Whose announcements are known, if only that there are none.
    pub announcing: BTreeSet<PeerId>,
    /// Whether frames to routers that are away may go on in clear: not once there is a password.
    pub may_wait: bool,
    /// How frames to a neighbour are sealed, where its agreement is about a sealed path.
    pub seals: BTreeMap<PeerId, seal::Peer>,
    /// The longest packet of a container, in bytes, that is whole on its way to a neighbour once it is sealed. Nobody is
    /// in it whose path has not been measured, or need not be sealed: heartbeats in clear find out by themselves.
    pub room: BTreeMap<PeerId, u32>,
}

/// The model: views in, wanted flows out.
#[derive(Debug, Default)]
pub struct Model {
    view: View,
    owners: Owners,
    health: PathHealth,
    /// Where each peer's frames go now.
    places: BTreeMap<PeerId, Place>,
    /// When user space has last heard from the peers whose paths are not answered any more.
    heard: BTreeMap<PeerId, Moment>,
    /// The peers that are reachable by the word of others alone, and until when flows to them stay.
    hearsay: BTreeMap<PeerId, Moment>,
    /// When the wanted flows were last asked for.
    decided_at: Moment,
    /// Until when the places of an earlier life hold for peers whose paths have not been judged yet.
    settled_at: Moment,
}

impl Model {
    /// Takes over the flows of an earlier life: until their owners are known they go on, for [`AWAY_MAX`] at most.
    pub fn adopt(&mut self, flows: &BTreeMap<MacAddr, Place>, now: Moment) {
        self.owners.adopt(flows, now);
        self.settled_at = now + AWAY_MAX;
    }

    /// Takes in what the router knows now.
    pub fn see(&mut self, view: View, now: Moment) {
        self.health.agree(&view.neighbours, now);
        self.owners.announce(&view, now);
        let is_heard = |peer: &PeerId| {
            let agreement = view.neighbours.get(peer);
            matches!(agreement, Some(Agreement::Both { .. } | Agreement::None(_)))
        };
        let hearsay = view.reachable.iter().filter(|peer| !is_heard(peer));
        let until = |peer| self.hearsay.get(peer).copied().unwrap_or(now + HEARSAY_MAX);
        self.hearsay = hearsay.map(|peer| (*peer, until(peer))).collect();
        if !view.may_wait {
            let places = &self.places;
            self.owners.forget_clear(|peer| places.get(&peer).is_some_and(|place| place.is_sealed()));
        }
        self.view = view;
    }

    /// Takes in which MACs the data plane has seen behind peers. Announcements count for more.
    pub fn learn(&mut self, learnt: &BTreeMap<MacAddr, PeerId>, in_use: impl Fn(MacAddr) -> bool) {
        self.owners.learn(learnt, in_use);
    }

    /// The neighbours whose frames still take a path that is not answered: whether user space hears from them decides.
    pub fn doubted(&self, now: Moment) -> impl Iterator<Item = PeerId> {
        let held = move |(peer, place): (&PeerId, &Place)| self.is_held(*peer, *place, now).then_some(*peer);
        self.places.iter().filter_map(held)
    }

    /// User space has heard from a peer at that moment.
    pub fn heard(&mut self, peer: PeerId, at: Moment) {
        self.heard.insert(peer, at);
    }

    /// Whether a silent path is not left yet.
    fn is_held(&self, peer: PeerId, before: Place, now: Moment) -> bool {
        let Some(PathState::Suspended { since, .. }) = self.health.state(peer) else { return false };
        let is_direct = self.view.neighbours.contains_key(&peer) && !self.view.relayed.contains(&peer);
        let is_taken = self.health.tunnel(peer).is_some_and(|end| before == Place::Tunnel(end));
        let passes = self.heard.get(&peer).is_some_and(|heard| *heard >= since);
        is_direct && is_taken && !passes && now < since + USER_SPACE_SILENCE_MAX
    }

    /// The judge of paths, to be fed with answers and asked for probes.
    pub const fn health(&mut self) -> &mut PathHealth {
        &mut self.health
    }

    /// The same, to look at.
    #[must_use]
    pub const fn paths(&self) -> &PathHealth {
        &self.health
    }

    /// Who is behind the MACs.
    #[must_use]
    pub const fn owners(&self) -> &Owners {
        &self.owners
    }

    /// The flows that the kernel shall have now.
    ///
    /// A path that carries is used, whatever the control session does: what judges it is its own probes. One that does not
    /// is left to user space, if that has a way that passes. If it has none either, the peer is away, and things stay as they are; so
    /// do they where an earlier life has left flows and nothing is known of their paths yet.
    pub fn wanted(&mut self, now: Moment) -> BTreeMap<MacAddr, Place> {
        self.owners.expire(now);
        self.decided_at = now;
        let health = &self.health;
        self.heard.retain(|peer, _| matches!(health.state(*peer), Some(PathState::Suspended { .. })));
        let mut places = BTreeMap::new();
        for peer in self.owners.peers() {
            let before = self.places.get(&peer).copied().or_else(|| self.owners.inherited(peer));
            let before = before.unwrap_or(Place::UserSpace);
            let may_wait = self.view.may_wait || before.is_sealed();
            let is_away = !self.view.reachable.contains(&peer) && may_wait;
            // Whoever comes back with the end that it had has carried frames all the time.
            let is_as_before = self.health.tunnel(peer).is_some_and(|end| before == Place::Tunnel(end));
            let is_unsettled = (now < self.settled_at || is_as_before) && may_wait;
            let is_hearsay = self.hearsay.get(&peer).is_some_and(|until| now < *until) && may_wait;
            let is_away = is_away || is_hearsay;
            let place = match self.health.state(peer) {
                Some(PathState::Carrying { tunnel, .. }) => Place::Tunnel(tunnel),
                Some(PathState::Suspended { .. }) if is_away || self.is_held(peer, before, now) => before,
                Some(PathState::Untried) | None if is_away || is_unsettled => before,
                Some(PathState::Refused(_) | PathState::Suspended { .. } | PathState::Untried) | None => {
                    Place::UserSpace
                }
            };
            places.insert(peer, place);
        }
        self.places = places;
        let owned = self.owners.iter().filter_map(|(mac, peer)| Some((mac, *self.places.get(&peer)?)));
        self.owners.adopted().chain(owned).take(FLOWS_MAX).collect()
    }

    /// When something changes by itself: a probe is due, a path is given up, or a router that is away is forgotten.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.poll_change().into_iter().chain(self.health.poll_timeout()).min()
    }

    /// When the wanted flows change by themselves.
    #[must_use]
    pub fn poll_change(&self) -> Option<Moment> {
        let hearsay = self.hearsay.values().copied().filter(|until| *until > self.decided_at);
        hearsay.chain(self.owners.poll_timeout()).min()
    }
}

#[cfg(test)]
mod tests;
