//! What users see of address management. Owns the words; decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use mesh_wire::{MacAddr, Moment, NetworkId, Nickname, PeerId};

use crate::book::Ident;
use crate::founding::Founding;
use crate::interface::{Request, Ticket, Waiting};
use crate::ipam::Ipam;
use crate::message::Conflict;
use crate::range::Range;

/// Whether addresses can be had, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// There is a network, and nobody waits.
    Ready,
    /// There is no network, and nobody needs one.
    Idle,
    /// There is no network yet, and too few votes to found it.
    AwaitingConsensus,
    /// There is no network yet, and this peer will not found it.
    Observing,
    /// A request waits for other peers.
    WaitingForSpace,
    /// A request waits for peers that cannot be reached.
    UnreachableOwner,
    /// Nothing is handed out until somebody does something.
    Disabled,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Idle => "idle",
            Self::AwaitingConsensus => "awaiting-consensus",
            Self::Observing => "observing",
            Self::WaitingForSpace => "waiting-for-space",
            Self::UnreachableOwner => "unreachable-owner",
            Self::Disabled => "disabled",
        })
    }
}

/// The state of address management at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The network, once there is one.
    pub network: Option<NetworkId>,
    /// All its addresses.
    pub range: IpNet,
    /// In one word.
    pub readiness: Readiness,
    /// In a sentence; empty when there is nothing to say.
    pub detail: String,
    /// Who owns what, by peer id. Retired peers whose space nobody has taken over yet are among them.
    pub owned: Vec<Owned>,
    /// Requests that wait, the oldest first.
    pub pending: Vec<PendingStatus>,
    /// Addresses that may be in use twice, those that are held here first; of other peers those that they told of.
    pub conflicts: Vec<ConflictStatus>,
}

/// An address that may be in use twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictStatus {
    /// Which.
    pub address: IpAddr,
    /// Who holds it.
    pub ident: Ident,
    /// On which peer.
    pub peer: PeerId,
    /// That peer's label.
    pub nickname: Option<Nickname>,
    /// Who else answered for it on the wire; `None` when it belongs to another peer by record.
    pub seen_at: Option<MacAddr>,
}

/// One peer's part of the range.
#[derive(Debug, Clone, PartialEq)]
pub struct Owned {
    /// Whose.
    pub peer: PeerId,
    /// Its label.
    pub nickname: Option<Nickname>,
    /// How many addresses.
    pub addresses: u128,
    /// The same as a part of the whole, 0 to 1.
    pub share: f64,
    /// How many of them are in use, as the peer last said; `None` when it has not said so in this life of ours.
    pub active: Option<u64>,
    /// Whether messages reach it.
    pub reachable: bool,
    /// Whether it was declared gone for good.
    pub retired: bool,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingStatus {
    /// Its name.
    pub ticket: Ticket,
    /// What it wants.
    pub request: Request,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// How long it will wait at most.
    pub left: Duration,
}

impl Ipam {
    /// What users see.
    #[must_use]
    pub fn status(&self, now: Moment) -> Status {
        let pending: Vec<PendingStatus> = self
            .pending()
            .map(|(ticket, pending)| PendingStatus {
                ticket,
                request: pending.request.clone(),
                waiting: pending.waiting.clone(),
                left: pending.deadline.since(now),
            })
            .collect();
        let (readiness, detail) = self.readiness(&pending);
        Status {
            network: self.network_id(),
            range: self.config().range,
            readiness,
            detail,
            owned: self.owned(),
            pending,
            conflicts: self.conflict_status(),
        }
    }

    fn conflict_status(&self) -> Vec<ConflictStatus> {
        let me = self.state.me();
        let own = self.held_in_conflict().map(|conflict| (me, conflict));
        let others = self.others_in_conflict().map(|(peer, conflict)| (peer, conflict.clone()));
        let status = |(peer, Conflict { address, ident, seen_at })| ConflictStatus {
            address: IpAddr::from(address),
            ident,
            peer,
            nickname: self.nickname_of(peer),
            seen_at,
        };
        own.chain(others).map(status).collect()
    }

    fn readiness(&self, pending: &[PendingStatus]) -> (Readiness, String) {
        if self.disk_failed() {
            return (Readiness::Disabled, crate::interface::Refusal::Disk.to_string());
        }
        if let Some(fence) = self.state.fence() {
            return (Readiness::Disabled, fence.to_string());
        }
        let waiting =
            pending.iter().find_map(|pending| Some((readiness_of(pending.waiting.as_ref()?), pending)));
        if let Some((readiness, PendingStatus { waiting: Some(waiting), .. })) = waiting {
            return (readiness, waiting.to_string());
        }
        if self.state.network.is_some() {
            return (Readiness::Ready, String::new());
        }
        match self.config().founding {
            Founding::Observer => (Readiness::Observing, Waiting::Founder.to_string()),
            Founding::Alone | Founding::Told { .. } | Founding::Consensus { .. } | Founding::Seeds(_) => (
                Readiness::Idle,
                "no address was needed yet: the network is founded with the first".to_owned(),
            ),
        }
    }

    fn owned(&self) -> Vec<Owned> {
        let mut sums: BTreeMap<PeerId, u128> = BTreeMap::new();
        for run in self.state.custody.map().iter() {
            let sum = sums.entry(run.rec.owner).or_default();
            *sum = sum.saturating_add(run.range.count());
        }
        let all = Range::from(self.config().range).count();
        let owned = sums.into_iter().map(|(peer, addresses)| Owned {
            peer,
            nickname: self.nickname_of(peer),
            addresses,
            share: addresses as f64 / all as f64,
            active: self.in_use_at(peer),
            reachable: self.reaches(peer),
            retired: self.state.custody.retired().contains(&peer),
        });
        owned.collect()
    }
}

const fn readiness_of(waiting: &Waiting) -> Readiness {
    match waiting {
        Waiting::Consensus { .. } => Readiness::AwaitingConsensus,
        Waiting::Founder | Waiting::Range { .. } => Readiness::Observing,
        Waiting::Admission { .. }
        | Waiting::Word
        | Waiting::Space { .. }
        | Waiting::Cooling
        | Waiting::HandOver { .. }
        | Waiting::Farewell => Readiness::WaitingForSpace,
        Waiting::Owners { .. } | Waiting::Heir { .. } | Waiting::Answers { .. } => {
            Readiness::UnreachableOwner
        }
    }
}
