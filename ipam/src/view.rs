//! What peers tell each other of custody: a part of the lattice, or all of it. Owns the roster's entries.

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::{Nickname, PeerId};
use minicbor::{Decode, Encode};

use crate::map::Run;

/// Most peers that a network's roster can name, those that were retired among them. One more is not admitted.
pub const ROSTER_MAX: usize = 16_384;

/// What is known of a peer that is, or wants to be, a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Member {
    /// Whether enough members have it in their roster; until then it is a newcomer. It says so itself.
    #[n(0)]
    pub admitted: bool,
    /// Its label. Of several that it had, the greatest.
    #[n(1)]
    pub nickname: Nickname,
}

impl Member {
    /// The least of all labels: that of a peer whose label is not known yet.
    #[must_use]
    pub fn unnamed() -> Nickname {
        "-".parse().expect("a dash is a nickname")
    }

    /// Takes the greater of both for each field, and returns whether that changed anything.
    pub(crate) fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        self.admitted |= other.admitted;
        if self.nickname < other.nickname {
            self.nickname = other.nickname.clone();
        }
        *self != before
    }
}

/// Statements that hold for ever: merging one twice, late or in another order does no harm.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct View {
    /// Records of addresses.
    #[n(0)]
    pub runs: Vec<Run>,
    /// Members and newcomers.
    #[n(1)]
    pub roster: BTreeMap<PeerId, Member>,
    /// Peers that will never act again.
    #[n(2)]
    pub retired: BTreeSet<PeerId>,
}

impl View {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.roster.is_empty() && self.retired.is_empty()
    }

    /// Whether it is within the limits of a message.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.runs.len() <= crate::map::RUNS_MAX
            && self.roster.len() <= ROSTER_MAX
            && self.retired.len() <= ROSTER_MAX
    }
}
