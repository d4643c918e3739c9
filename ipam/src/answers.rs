//! What the others have said of all that they know: the answers on which admission and reclaiming rest.
//!
//! Owns no durable state: after a restart a peer asks anew. An answer does not age, because what it rests on (rosters and
//! retired peers) only grows.

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::PeerId;

use crate::map::{CustodyMap, Run};
use crate::range::Range;
use crate::view::View;

/// Whole views received from other peers that had me in their roster.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct Answers {
    heard: BTreeMap<PeerId, Answer>,
    /// Grants that their owners report as never activated. They never will be: their donors are retired.
    forfeits: CustodyMap,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
struct Answer {
    admitted: bool,
    retired: BTreeSet<PeerId>,
}

impl Answers {
    /// Notes that `from` holds all that `view` says, and has not activated `inactive`. What does not list me proves
    /// nothing, and is left out.
    pub fn note(&mut self, me: PeerId, from: PeerId, view: &View, inactive: &[Range]) {
        if !view.roster.contains_key(&me) {
            return;
        }
        let answer = self.heard.entry(from).or_default();
        answer.admitted |= view.roster.get(&from).is_some_and(|member| member.admitted);
        answer.retired.extend(&view.retired);
        for run in view.runs.iter().filter(|run| run.rec.owner == from) {
            for range in inactive.iter().filter_map(|range| range.intersection(run.range)) {
                self.forfeits.merge(Run { range, rec: run.rec });
            }
        }
    }

    /// Whether `peer` has answered at all.
    #[must_use]
    pub fn has(&self, peer: PeerId) -> bool {
        self.heard.contains_key(&peer)
    }

    /// Whether `peer` has answered, as a member.
    #[must_use]
    pub fn is_member(&self, peer: PeerId) -> bool {
        self.heard.get(&peer).is_some_and(|answer| answer.admitted)
    }

    /// Whether `peer` has answered, knowing that `gone` is retired.
    #[must_use]
    pub fn knows_retired(&self, peer: PeerId, gone: PeerId) -> bool {
        self.heard.get(&peer).is_some_and(|answer| answer.retired.contains(&gone))
    }

    /// Grants that were never activated.
    #[must_use]
    pub const fn forfeits(&self) -> &CustodyMap {
        &self.forfeits
    }
}
