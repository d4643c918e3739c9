//! How a network begins: its id, the first division of its range, and the vote on who is in it.
//!
//! Single-decree Paxos (Lamport, "Paxos Made Simple", section 2.3) over peer ids. Each peer is an acceptor whose state is
//! on disk before it answers, so no restart can make it vote twice. The decided value is all that the division needs, so
//! whoever learns it computes the same network.

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::{NetworkId, PeerId};
use minicbor::{Decode, Encode};

use crate::checksum::fnv128;
use crate::epoch::{Epoch, Rec};
use crate::map::Run;
use crate::range::Range;
use crate::view::{Member, View};

/// Most peers among which a range is divided when a network is founded; further ones ask for space.
pub const SEEDS_MAX: usize = 64;

/// Who may found the network of this peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Founding {
    /// This peer, when it first needs an address: it was told of no others.
    Alone,
    /// A majority of this peer and those that it was told of.
    Told {
        /// How many others, itself not counted.
        others: usize,
    },
    /// A majority of this many peers, whoever they are.
    Consensus {
        /// How many, itself counted.
        voters: usize,
    },
    /// These peers, without a word: each of them, and all others that are told the same, compute the same division.
    Seeds(BTreeSet<PeerId>),
    /// Others; this peer neither founds nor votes.
    Observer,
}

/// A founded network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Network {
    /// Its id.
    #[n(0)]
    pub id: NetworkId,
    /// All its addresses.
    #[n(1)]
    pub range: Range,
}

/// What a network is founded on: the value that is voted on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Charter {
    /// The first members, among whom the range is divided, in order.
    #[n(0)]
    pub seeds: BTreeSet<PeerId>,
    /// Random; 0 when the seeds were named by the operator.
    #[n(1)]
    pub nonce: u64,
}

impl Charter {
    /// The network of this charter over `range`, and what its members know from the start.
    #[must_use]
    pub fn found(&self, range: Range) -> (Network, View) {
        let mut text = b"mesh network v1\0".to_vec();
        minicbor::encode((range, self), &mut text).expect("writing to a Vec cannot fail");
        let id = NetworkId::from_bytes(fnv128(&text).to_be_bytes());
        let seeds: Vec<PeerId> = self.seeds.iter().copied().collect();
        let mut runs = Vec::new();
        divide(range, &seeds, &mut runs);
        let member = |peer: &PeerId| (*peer, Member { admitted: true, nickname: Member::unnamed() });
        let roster = self.seeds.iter().map(member).collect();
        (Network { id, range }, View { runs, roster, retired: BTreeSet::new() })
    }
}

/// Halves range and peers until each peer has one part, aligned when the range is.
fn divide(range: Range, peers: &[PeerId], runs: &mut Vec<Run>) {
    let Some(first) = peers.first() else { return };
    let halves = Range::new(
        range.first(),
        crate::addr::Addr(range.first().0 + (range.last().0 - range.first().0) / 2),
    );
    let lower = halves.filter(|lower| peers.len() > 1 && lower.last() < range.last());
    let Some((lower, start)) = lower.and_then(|lower| Some((lower, lower.last().next()?))) else {
        runs.push(Run { range, rec: Rec { epoch: Epoch::FIRST, owner: *first, donor: *first } });
        return;
    };
    let (left, right) = peers.split_at(peers.len() / 2);
    divide(lower, left, runs);
    divide(Range::new(start, range.last()).expect("the upper half is not empty"), right, runs);
}

/// Numbers a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Ballot {
    /// Counts up.
    #[n(0)]
    pub round: u64,
    /// Whose it is.
    #[n(1)]
    pub proposer: PeerId,
}

/// What this peer has bound itself to as an acceptor.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Vote {
    /// Proposals below this one are refused.
    #[n(0)]
    pub promised: Option<Ballot>,
    /// The last charter it voted for.
    #[n(1)]
    pub accepted: Option<(Ballot, Charter)>,
}

impl Vote {
    /// The vote after a promise to `ballot`, unless a greater one was promised.
    #[must_use]
    pub fn promise(&self, ballot: Ballot) -> Option<Self> {
        (self.promised.is_none_or(|promised| promised <= ballot))
            .then(|| Self { promised: Some(ballot), accepted: self.accepted.clone() })
    }

    /// The vote after accepting `charter` under `ballot`, unless a greater one was promised.
    #[must_use]
    pub fn accept(&self, ballot: Ballot, charter: &Charter) -> Option<Self> {
        (self.promised.is_none_or(|promised| promised <= ballot))
            .then(|| Self { promised: Some(ballot), accepted: Some((ballot, charter.clone())) })
    }
}

/// An attempt of this peer to have a charter decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Its number.
    pub ballot: Ballot,
    /// Who promised, and what each had accepted before.
    pub promises: BTreeMap<PeerId, Option<(Ballot, Charter)>>,
    /// What is proposed, once enough have promised.
    pub charter: Option<Charter>,
    /// Who accepted it.
    pub accepts: BTreeSet<PeerId>,
}

impl Proposal {
    /// An attempt that nobody knows of yet.
    #[must_use]
    pub const fn new(ballot: Ballot) -> Self {
        Self { ballot, promises: BTreeMap::new(), charter: None, accepts: BTreeSet::new() }
    }

    /// What must be proposed after these promises: the charter accepted under the greatest ballot, or a new one for all
    /// that promised.
    #[must_use]
    pub fn choose(&self, nonce: u64) -> Charter {
        let accepted = self.promises.values().flatten().max_by_key(|(ballot, _)| *ballot);
        accepted.map_or_else(
            || {
                let others = self.promises.keys().filter(|peer| **peer != self.ballot.proposer);
                let others = others.take(SEEDS_MAX - 1).copied();
                Charter { seeds: others.chain([self.ballot.proposer]).collect(), nonce }
            },
            |(_, charter)| charter.clone(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u8) -> BTreeSet<PeerId> {
        (0..count).map(|n| PeerId::from_bytes([n; 16])).collect()
    }

    fn range(text: &str) -> Range {
        text.parse::<ipnet::IpNet>().unwrap().into()
    }

    #[test]
    fn a_division_covers_the_range_without_overlap() {
        for count in 1..9 {
            for net in ["10.0.0.0/24", "10.0.0.0/30", "10.0.0.0/32", "fd00::/64"] {
                let (_, view) = Charter { seeds: peers(count), nonce: 0 }.found(range(net));
                assert_eq!(view.runs.first().unwrap().range.first(), range(net).first());
                assert_eq!(view.runs.last().unwrap().range.last(), range(net).last());
                let next = |run: &Run| run.range.last().next().unwrap();
                assert!(
                    view.runs.windows(2).all(|two| next(&two[0]) == two[1].range.first()),
                    "{net} {count}"
                );
            }
        }
    }

    #[test]
    fn networks_differ_in_id_when_they_differ_in_anything() {
        let id = |count, nonce, net| Charter { seeds: peers(count), nonce }.found(range(net)).0.id;
        let first = id(2, 0, "10.0.0.0/24");
        assert_eq!(first, id(2, 0, "10.0.0.0/24"));
        for other in [id(3, 0, "10.0.0.0/24"), id(2, 1, "10.0.0.0/24"), id(2, 0, "10.0.0.0/25")] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn an_acceptor_refuses_what_lies_below_its_promise() {
        let ballot = |round| Ballot { round, proposer: PeerId::from_bytes([0; 16]) };
        let charter = Charter { seeds: peers(1), nonce: 1 };
        let vote = Vote::default().promise(ballot(2)).unwrap();
        assert_eq!(vote.promise(ballot(1)), None);
        assert_eq!(vote.accept(ballot(1), &charter), None);
        assert_eq!(vote.accept(ballot(2), &charter).unwrap().accepted, Some((ballot(2), charter)));
    }
}
