//! All that outlives a crash, and the records by which it changes.
//!
//! Owns what a log record means: [`State::apply`] is the only way in which durable state changes, in the running machine
//! as in recovery, so that both come to the same. Owns no bytes of files (`log`) and no decision.

use std::collections::BTreeMap;
use std::fmt;

use mesh_wire::PeerId;
use minicbor::{Decode, Encode};

use crate::addr::Addr;
use crate::book::{Book, Holding};
use crate::custody::{Custody, Shift};
use crate::founding::{Network, Vote};
use crate::mutant::{Mutant, Mutants};
use crate::range::Range;
use crate::view::View;

/// One life of a peer, from the start of its router to the end. Its log positions tell lives apart: those of one identity
/// follow each other without overlap, unless its state was copied or put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Life {
    /// Random.
    #[n(0)]
    pub incarnation: u64,
    /// The position of the log at its start.
    #[n(1)]
    pub born: u64,
    /// The greatest position that it was heard to speak at.
    #[n(2)]
    pub seq: u64,
}

impl Life {
    /// Whether both cannot be lives of one undivided state.
    #[must_use]
    pub const fn clashes(&self, other: &Self) -> bool {
        self.incarnation != other.incarnation && self.born < other.seq && other.born < self.seq
    }
}

/// Why this identity hands out nothing any more. Containers keep their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Fence {
    /// Another router runs with a copy of this state, or this state is an old copy.
    #[n(0)]
    Copied,
    /// This peer did what its state does not know of: the state was put back to an earlier day.
    #[n(1)]
    RolledBack,
    /// An operator declared this peer gone for good.
    #[n(2)]
    Retired,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copied => {
                "another router runs, or ran, with a copy of this router's state: \
                 stop it, reset this router, and retire its old identity with `mesh rmpeer`"
            }
            Self::RolledBack => {
                "this router's state was put back to an earlier day: \
                 reset it, and retire its old identity with `mesh rmpeer`"
            }
            Self::Retired => {
                "this router was declared gone for good with `mesh rmpeer`: reset it to join anew"
            }
        })
    }
}

/// One change of durable state.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Record {
    /// A life began.
    #[n(0)]
    Started(#[n(0)] u64),
    /// This peer belongs to a network from now on.
    #[n(1)]
    Joined(#[n(0)] Network),
    /// News of custody, others' or its own.
    #[n(2)]
    Learnt(#[n(0)] View),
    /// An address was given to somebody.
    #[n(3)]
    Held(#[n(0)] Addr, #[n(1)] Holding),
    /// An address was given back.
    #[n(4)]
    Freed(#[n(0)] Addr),
    /// A vote for a founder.
    #[n(5)]
    Voted(#[n(0)] Vote),
    /// This identity hands out nothing any more.
    #[n(6)]
    Fenced(#[n(0)] Fence),
    /// How far another peer was heard to be.
    #[n(7)]
    Heard(#[n(0)] PeerId, #[n(1)] Life),
}

/// The durable state of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) me: PeerId,
    /// How many batches of records it has taken; the position of the log.
    pub(crate) seq: u64,
    pub(crate) network: Option<Network>,
    pub(crate) custody: Custody,
    pub(crate) book: Book,
    pub(crate) vote: Vote,
    pub(crate) fence: Option<Fence>,
    /// The last life of each other peer.
    pub(crate) lives: BTreeMap<PeerId, Life>,
}

impl State {
    /// The state of a peer that has never run.
    #[must_use]
    pub fn new(me: PeerId) -> Self {
        Self::with_mutants(me, Mutants::default())
    }

    /// The same, with a deliberate mistake.
    #[must_use]
    pub fn with_mutants(me: PeerId, mutants: Mutants) -> Self {
        Self {
            me,
            seq: 0,
            network: None,
            custody: Custody::new(me, mutants),
            book: Book::default(),
            vote: Vote::default(),
            fence: None,
            lives: BTreeMap::new(),
        }
    }

    /// Whose state it is.
    #[must_use]
    pub const fn me(&self) -> PeerId {
        self.me
    }

    /// All addresses of the network that it belongs to, if it belongs to one.
    #[must_use]
    pub fn range(&self) -> Option<Range> {
        self.network.map(|network| network.range)
    }

    /// The position of the log.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Applies one record, and returns the held addresses that this peer lost by it.
    pub fn apply(&mut self, record: &Record) -> Vec<Addr> {
        match record {
            Record::Started(_) => {}
            Record::Joined(network) => self.network = Some(*network),
            Record::Learnt(view) => {
                let mut shifts = self.custody.learn(view);
                if self.custody.mutants().has(Mutant::KeepIdleOnLoss) {
                    shifts.retain(|shift| matches!(shift, Shift::Gained(_)));
                }
                return shifts.into_iter().flat_map(|shift| self.book.shift(shift)).collect();
            }
            Record::Held(addr, holding) => self.book.hold(*addr, holding.clone()),
            Record::Freed(addr) => self.book.free(*addr, self.custody.is_active(*addr)),
            Record::Voted(vote) => self.vote = vote.clone(),
            Record::Fenced(fence) => self.fence = Some(*fence),
            Record::Heard(peer, life) => drop(self.lives.insert(*peer, *life)),
        }
        Vec::new()
    }

    /// Why nothing is handed out, if so.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.fence.or_else(|| self.custody.retired().contains(&self.me).then_some(Fence::Retired))
    }
}

/// What [`State::check_invariants`] found broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// S5: an idle address may not be handed out.
    #[error("{0} is idle here and owned by another peer")]
    IdleNotActive(Range),
    /// S2, S5: an address is idle and held at once, or idle and cooling.
    #[error("{0} is idle and in use at once")]
    IdleInUse(Addr),
    /// An address that may be handed out is in no list.
    #[error("{0} of {1} addresses are accounted for")]
    Lost(u128, u128),
    /// S7: an address outside the network's range has an owner, or there is no network.
    #[error("{0} has an owner and lies outside the network")]
    Outside(Range),
    /// Two holders' lists differ from the addresses' list.
    #[error("the lists of addresses and of their holders differ")]
    Index,
}

impl State {
    /// Checks what one peer can see of the invariants: S5, S7, and that no address is lost or counted twice.
    ///
    /// # Errors
    /// The first that is broken. It is a bug, and nothing more should be handed out.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        let active = self.custody.active();
        for range in self.book.idle().iter() {
            if !self.custody.owns(range) {
                return Err(Violation::IdleNotActive(range));
            }
        }
        let mut in_use = self.book.held().chain(self.book.freed());
        if let Some((addr, _)) = in_use.find(|(addr, _)| self.book.idle().contains(*addr)) {
            return Err(Violation::IdleInUse(addr));
        }
        let held = self.book.held().filter(|(addr, _)| active.contains(*addr)).count();
        let accounted = self.book.idle().count() + held as u128 + self.book.freed().count() as u128;
        if accounted != active.count() {
            return Err(Violation::Lost(accounted, active.count()));
        }
        let inside = |range: Range| self.network.is_some_and(|network| network.range.covers(range));
        if let Some(run) = self.custody.map().iter().find(|run| !inside(run.range)) {
            return Err(Violation::Outside(run.range));
        }
        let indexed =
            self.book.held().all(|(addr, holding)| self.book.of(&holding.ident).any(|(a, _)| a == addr));
        if indexed { Ok(()) } else { Err(Violation::Index) }
    }
}
