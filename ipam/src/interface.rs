//! What goes into the address machine and what comes out: plain data. Owns no behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use mesh_wire::{MacAddr, Moment, NetworkId, Nickname, PeerId};

use crate::book::Ident;
use crate::founding::Founding;
use crate::message::DecodeError;
use crate::range::Range;
use crate::state::Fence;

/// So many owners are named when there is no address left; `mesh status ipam` has them all.
const OWNERS_SHOWN_MAX: usize = 8;

/// What the machine is made of, beside its durable state.
#[derive(Debug, Clone)]
pub struct Config {
    /// This peer's label.
    pub nickname: Nickname,
    /// All addresses of the network.
    pub range: IpNet,
    /// Who may found it.
    pub founding: Founding,
}

/// Names a request; chosen by the shell, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A peer that messages reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    /// Its label.
    pub nickname: Nickname,
    /// Whether the user named it as a target: only then does it vote when the founders are those that were told.
    pub told: bool,
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// An address in a subnet, the same again if the holder has one.
    Allocate {
        /// For whom.
        ident: Ident,
        /// Where.
        subnet: IpNet,
    },
    /// This very address, which is asked of its owner if need be.
    Claim {
        /// For whom.
        ident: Ident,
        /// Which, with the length of its subnet's prefix.
        address: IpNet,
    },
    /// The addresses of a holder.
    Lookup {
        /// Whose.
        ident: Ident,
        /// Only those in this subnet.
        subnet: Option<IpNet>,
    },
    /// Give addresses back.
    Release {
        /// Whose.
        ident: Ident,
        /// Only those in this subnet.
        subnet: Option<IpNet>,
    },
    /// Wait until the network exists.
    Prime,
    /// Take over from a peer that is gone for good.
    Retire {
        /// Which.
        peer: PeerId,
    },
    /// Give all space to another peer, and leave the network for good. Whatever is still held is released.
    HandOver,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A client wants something.
    Request {
        /// Its name.
        ticket: Ticket,
        /// What.
        request: Request,
        /// When its client gives up; then it is answered with the reason why it took so long.
        deadline: Moment,
    },
    /// The client went away; it gets no answer.
    Cancel {
        /// Its name.
        ticket: Ticket,
    },
    /// A peer said something.
    Received {
        /// Who, as authenticated by the session.
        from: PeerId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Two routers are at work with the identity of this peer, which may be this one: its sessions show it.
    Copied {
        /// Whose.
        peer: PeerId,
    },
    /// Somebody was asked for on the wire who uses an address that was just handed out: a hint, and no proof.
    Probed {
        /// Which.
        address: IpAddr,
        /// Who answered beside its holder.
        answered: MacAddr,
    },
    /// All peers that messages reach now, complete each time, this one left out.
    Members(BTreeMap<PeerId, Reachable>),
    /// This batch, and all before it, are on disk.
    Persisted(u64),
    /// This batch did not get to disk, and nothing will.
    PersistFailed(u64),
    /// [`Ipam::poll_timeout`](crate::Ipam::poll_timeout) has passed.
    Timeout,
}

/// What the shell shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Append to the log, bring it to disk, and answer with [`Input::Persisted`]. Several may be brought to disk at once,
    /// and answered by the last.
    Persist {
        /// Number of the batch.
        seq: u64,
        /// What to append.
        bytes: Vec<u8>,
    },
    /// Send to one peer.
    Send {
        /// To whom.
        peer: PeerId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send to all reachable peers.
    Broadcast {
        /// What.
        bytes: Vec<u8>,
    },
    /// Answer a client.
    Answer {
        /// Which.
        ticket: Ticket,
        /// What.
        result: Result<Answer, Refusal>,
    },
    /// Something that an operator may want to read in the log.
    Event(Event),
}

/// A request was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The addresses concerned, each with the length of its subnet's prefix.
    Addresses(Vec<IpNet>),
    /// The network exists.
    Ready(NetworkId),
    /// A retired peer's addresses have other owners.
    Reclaimed {
        /// How many it had when it was retired.
        addresses: u128,
    },
    /// This peer has left the network.
    HandedOver {
        /// Who has its addresses; nobody if there were none to give, or nobody to give them to.
        to: Option<PeerId>,
        /// How many.
        addresses: u128,
    },
}

/// What a request waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Enough votes for a founder.
    Consensus {
        /// How many there are.
        votes: usize,
        /// How many there must be.
        needed: usize,
    },
    /// Somebody else who founds the network.
    Founder,
    /// A network that this peer can join: the one that there is has another range.
    Range {
        /// A peer of it.
        peer: PeerId,
        /// Its range.
        theirs: Range,
        /// This peer's range.
        ours: Range,
    },
    /// Members who write this peer down before it may hold space.
    Admission {
        /// Who has not. Two members are enough; if there are no two, all must.
        silent: BTreeSet<PeerId>,
    },
    /// The word of anybody that this peer's state is not behind theirs, as it has just started.
    Word,
    /// A grant from a peer that was asked.
    Space {
        /// Who.
        asked: PeerId,
    },
    /// Addresses that were freed lately, here or elsewhere.
    Cooling,
    /// Owners of the space that is asked for, none of whom can be reached.
    Owners {
        /// Who.
        peers: BTreeSet<PeerId>,
    },
    /// The peer that takes over from a retired one.
    Heir {
        /// Who.
        heir: PeerId,
        /// The retired peer.
        gone: PeerId,
    },
    /// What others know of a retired peer's space.
    Answers {
        /// Who has not answered; the first that can be retired, too, if it is gone as well.
        missing: BTreeSet<PeerId>,
        /// The retired peer.
        gone: PeerId,
    },
    /// The word of a peer that it has taken over this one's space.
    HandOver {
        /// Who.
        to: PeerId,
    },
    /// The word of anybody that it knows that this peer has left.
    Farewell,
}

fn list(peers: &BTreeSet<PeerId>) -> String {
    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Who has how many, in words; of many owners the first few.
fn shares(owners: &[(PeerId, Option<Nickname>, u128)]) -> String {
    let share = |(peer, nickname, count): &(PeerId, Option<Nickname>, u128)| match nickname {
        Some(nickname) => format!("{nickname} has {count}"),
        None => format!("{peer} has {count}"),
    };
    let mut shares: Vec<String> = owners.iter().take(OWNERS_SHOWN_MAX).map(share).collect();
    if let Some(more @ 1..) = owners.len().checked_sub(OWNERS_SHOWN_MAX) {
        shares.push(format!("{more} others have the rest"));
    }
    shares.join(", ")
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consensus { votes, needed } => {
                write!(f, "waiting for a majority to found the network: {votes} of {needed} votes")
            }
            Self::Founder => {
                f.write_str("this router is an observer: waiting for others to found the network")
            }
            Self::Range { peer, theirs, ours } => write!(
                f,
                "the network of {peer} has the address range {theirs}, this router {ours}: all must have the same"
            ),
            Self::Admission { silent } => write!(
                f,
                "waiting for members to write this router down; not heard: {}; retire those that are gone for good with \
                 `mesh rmpeer`",
                list(silent)
            ),
            Self::Word => f.write_str("waiting for the word of another router, as this one has just started"),
            Self::Space { asked } => write!(f, "waiting for space from {asked}"),
            Self::Cooling => f.write_str("waiting for addresses that were freed less than a minute ago"),
            Self::Owners { peers } => write!(
                f,
                "all free addresses there belong to peers that cannot be reached: {}; retire those that are gone for \
                 good with `mesh rmpeer`",
                list(peers)
            ),
            Self::Heir { heir, gone } => write!(f, "waiting for {heir} to take over from {gone}"),
            Self::Answers { missing, gone } => write!(
                f,
                "the space of {gone} cannot be taken over before these have answered: {}; retire those that are gone, \
                 too",
                list(missing)
            ),
            Self::HandOver { to } => write!(f, "waiting for {to} to take over this router's space"),
            Self::Farewell => f.write_str("waiting for another router to learn that this one leaves"),
        }
    }
}

/// Why a request was refused. Nothing was changed by it, but for what a `HandOver` or `Retire` had already said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its time is over.
    #[error("timed out: {0}")]
    TimedOut(Waiting),
    /// This identity hands out nothing any more.
    #[error("{0}")]
    Fenced(Fence),
    /// The disk failed; the router must start anew.
    #[error("the state could not be written to disk: no addresses until the router is started anew")]
    Disk,
    /// The subnet or address does not lie in the network's range.
    #[error("{0} does not lie in the network's range {1}")]
    OutsideRange(Range, Range),
    /// The first and last address of a subnet are not handed out.
    #[error("{0} names the subnet or its broadcast")]
    Edge(IpAddr),
    /// Somebody else on this host has the address.
    #[error("{0} is held by {1}")]
    Held(IpAddr, Ident),
    /// The address is in use on another host.
    #[error("{address} is in use on {owner}")]
    InUse {
        /// Which.
        address: IpAddr,
        /// Where.
        owner: PeerId,
    },
    /// All addresses are in use, and all their owners have said so.
    #[error("no address left in {within}; {}", shares(owners))]
    Exhausted {
        /// Where.
        within: Range,
        /// Who has how many of them, whoever has most first.
        owners: Vec<(PeerId, Option<Nickname>, u128)>,
    },
    /// Too many addresses on one host.
    #[error("this host has {max} addresses already", max = crate::book::ENTRIES_MAX)]
    HostFull,
    /// The holder has no such address.
    #[error("{0} has no address there")]
    Unknown(Ident),
    /// No such peer was ever in the network.
    #[error("{0} is no peer of this network")]
    UnknownPeer(PeerId),
    /// The peer lives.
    #[error("{0} can be reached: reset it there, or stop it, before it is retired")]
    StillReachable(PeerId),
    /// A router does not retire itself.
    #[error("that is this router: `mesh reset` gives its space away")]
    Oneself,
    /// Too many requests wait.
    #[error("more than {max} requests wait", max = crate::limits::PENDING_MAX)]
    Busy,
}

/// What an operator may want to read in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The network of this peer was founded, or found.
    Joined(NetworkId),
    /// This peer may hold space from now on.
    Admitted,
    /// A held address has another owner by record: it may be in use twice. It stays with its holder, and is never handed
    /// out here again.
    Conflict {
        /// Which.
        address: IpAddr,
        /// Who has it here.
        ident: Ident,
    },
    /// Somebody else uses an address that was handed out here. It stays with its holder.
    Squatted {
        /// Which.
        address: IpAddr,
        /// Who has it here.
        ident: Ident,
        /// Who answered for it on the wire.
        seen_at: MacAddr,
    },
    /// A peer was declared gone for good.
    Retired {
        /// Which.
        peer: PeerId,
        /// Who said so, as far as this peer knows.
        by: PeerId,
    },
    /// A grant went out.
    Granted {
        /// What.
        range: Range,
        /// To whom.
        to: PeerId,
    },
    /// Space of a retired peer came to this one.
    Reclaimed {
        /// From whom.
        from: PeerId,
        /// How many addresses.
        addresses: u128,
    },
    /// This identity hands out nothing any more.
    Fenced(Fence),
    /// A peer is of another network. The two cannot be joined.
    OtherNetwork {
        /// Who.
        peer: PeerId,
        /// Its network.
        theirs: NetworkId,
        /// This peer's network.
        ours: NetworkId,
    },
    /// A peer has another range.
    OtherRange {
        /// Who.
        peer: PeerId,
        /// Its range.
        theirs: Range,
        /// This peer's range.
        ours: Range,
    },
    /// Two routers run as the same peer.
    Clones {
        /// Which.
        peer: PeerId,
    },
    /// A peer's message was left out.
    MessageRefused {
        /// Who sent it.
        peer: PeerId,
        /// Why.
        error: DecodeError,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(network) => write!(f, "this router belongs to network {network}"),
            Self::Admitted => f.write_str("this router may hold addresses"),
            Self::Conflict { address, ident } => {
                write!(f, "{address}, held by {ident}, belongs to another router: it may be in use twice")
            }
            Self::Squatted { address, ident, seen_at } => {
                write!(f, "{address}, given to {ident}, is used by another, at {seen_at}")
            }
            Self::Retired { peer, by } => write!(f, "{peer} was declared gone for good, says {by}"),
            Self::Granted { range, to } => write!(f, "gave {range} to {to}"),
            Self::Reclaimed { from, addresses } => write!(f, "took {addresses} addresses over from {from}"),
            Self::Fenced(fence) => write!(f, "no more addresses from this router: {fence}"),
            Self::OtherNetwork { peer, theirs, ours } => write!(
                f,
                "{peer} is of network {theirs}, this router of network {ours}; networks that were founded apart cannot be \
                 joined: run `mesh reset` on the hosts of the smaller one, and launch them anew with a host of the other"
            ),
            Self::OtherRange { peer, theirs, ours } => {
                write!(
                    f,
                    "{peer} has the address range {theirs}, this router {ours}: launch both with the same"
                )
            }
            Self::Clones { peer } => write!(f, "two routers run as {peer}, from copies of one state"),
            Self::MessageRefused { peer, error } => write!(f, "a message of {peer} was left out: {error}"),
        }
    }
}
