//! What peers tell each other of custody: a part of the lattice, or all of it. Owns the roster's entries.

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::{Nickname, PeerId};
use minicbor::{Decode, Encode};

use crate::map::Run;

/// Most peers that a network's roster can name, those that were retired among them. One more is not admitted.
pub const ROSTER_MAX: usize = 16_384;

/// Most runs, members and retired peers together in one part of a view: so many, each as long as it can be, and as many ranges
/// beside them, stay below half of what one message may have.
pub const PART_ENTRIES_MAX: usize = 2_048;

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

    /// The same in parts of at most [`PART_ENTRIES_MAX`] entries, of which none says nothing. Merged in any order, and however
    /// often, they lead to what the whole leads to.
    #[must_use]
    pub fn parts(self) -> Vec<Self> {
        if self.entries() <= PART_ENTRIES_MAX {
            return if self.is_empty() { Vec::new() } else { vec![self] };
        }
        let runs = self.runs.into_iter().map(|run| Self { runs: vec![run], ..Self::default() });
        let roster = self.roster.into_iter().map(|m| Self { roster: BTreeMap::from([m]), ..Self::default() });
        let retired =
            self.retired.into_iter().map(|p| Self { retired: BTreeSet::from([p]), ..Self::default() });
        let mut parts: Vec<Self> = Vec::new();
        for entry in runs.chain(roster).chain(retired) {
            match parts.last_mut().filter(|part| part.entries() < PART_ENTRIES_MAX) {
                Some(part) => part.append(entry),
                None => parts.push(entry),
            }
        }
        parts
    }

    /// Says what `other` says, too.
    pub fn append(&mut self, other: Self) {
        self.runs.extend(other.runs);
        for (peer, member) in other.roster {
            self.roster.entry(peer).or_insert_with(|| member.clone()).merge(&member);
        }
        self.retired.extend(other.retired);
    }

    fn entries(&self) -> usize {
        self.runs.len() + self.roster.len() + self.retired.len()
    }

    /// Whether it is within the limits of a message.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.runs.len() <= crate::map::RUNS_MAX
            && self.roster.len() <= ROSTER_MAX
            && self.retired.len() <= ROSTER_MAX
    }
}
