//! The foundation of the network as seen by one peer: when it may found, and its part in the vote.

use std::collections::BTreeSet;

use mesh_wire::{Moment, PeerId};

use super::{Ipam, spread};
use crate::founding::{Ballot, Charter, Founding, Proposal, Vote};
use crate::interface::Request;
use crate::limits::{FOUND_AFTER, RETRY_AFTER};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::state::Record;

impl Ipam {
    /// Founds the network, or takes the next step towards that, if this peer may and somebody needs it.
    pub(super) fn found(&mut self, now: Moment) {
        if self.state.network.is_some() || self.state.fence().is_some() {
            self.proposal = None;
            return;
        }
        match &self.config.founding {
            Founding::Observer => {}
            Founding::Seeds(seeds) => {
                let charter = Charter { seeds: seeds.clone(), nonce: 0 };
                self.found_by(&charter);
            }
            Founding::Alone | Founding::Told { .. } | Founding::Consensus { .. } => self.propose(now),
        }
    }

    fn found_by(&mut self, charter: &Charter) {
        let (network, view) = charter.found(self.range);
        self.proposal = None;
        self.join(network, &view);
        self.broadcast_view(self.state.custody.view(), true);
    }

    fn needs_network(&self) -> bool {
        self.pending.values().any(|pending| match pending.request {
            Request::Allocate { .. } | Request::Claim { .. } | Request::Prime => true,
            Request::Lookup { .. } | Request::Release { .. } | Request::Retire { .. } | Request::HandOver => {
                false
            }
        })
    }

    /// When a peer that has not said yet whether it has a network need no longer be waited for.
    fn silence_ends(&self) -> Option<Moment> {
        let silent = self.members.values().filter(|neighbour| neighbour.network.is_none());
        silent.map(|neighbour| neighbour.since + FOUND_AFTER).max()
    }

    /// When the next proposal is due, if one is wanted.
    pub(super) fn founding_due(&self) -> Option<Moment> {
        let waits =
            self.state.network.is_none() && self.needs_network() && !self.sees_network() && self.proposes();
        waits.then(|| self.proposal_due.max(self.silence_ends())).flatten()
    }

    /// Whether some other peer has a network, which this one will be told of.
    fn sees_network(&self) -> bool {
        self.members.values().any(|neighbour| matches!(neighbour.network, Some(Some(_))))
    }

    fn proposes(&self) -> bool {
        match self.config.founding {
            Founding::Alone | Founding::Told { .. } | Founding::Consensus { .. } => true,
            Founding::Seeds(_) | Founding::Observer => false,
        }
    }

    /// How many must vote for the same charter.
    pub(super) fn quorum(&self) -> usize {
        if self.mutants.has(Mutant::QuorumOfOne) {
            return 1;
        }
        match &self.config.founding {
            Founding::Told { others } => majority(others + 1),
            Founding::Consensus { voters } => majority(*voters),
            Founding::Alone | Founding::Seeds(_) | Founding::Observer => 1,
        }
    }

    /// Who is asked to vote, beside this peer.
    fn voters(&self) -> BTreeSet<PeerId> {
        let members = self.members.iter();
        match self.config.founding {
            Founding::Told { .. } => {
                members.filter(|(_, n)| n.reachable.told).map(|(peer, _)| *peer).collect()
            }
            Founding::Consensus { .. } => members.map(|(peer, _)| *peer).collect(),
            Founding::Alone | Founding::Seeds(_) | Founding::Observer => BTreeSet::new(),
        }
    }

    fn propose(&mut self, now: Moment) {
        let not_yet = |at: Option<Moment>| at.is_some_and(|at| now < at);
        if !self.needs_network()
            || self.sees_network()
            || not_yet(self.silence_ends())
            || not_yet(self.proposal_due)
        {
            return;
        }
        // Proposals that meet refuse each other; different waits let one of them through.
        let wait = RETRY_AFTER + RETRY_AFTER * u32::try_from(self.rng.below(4)).expect("less than 4");
        self.proposal_due = Some(now + spread(wait, &mut self.rng));
        let promised = self.state.vote.promised.map_or(0, |ballot| ballot.round);
        let ballot = Ballot { round: promised.max(self.round_seen) + 1, proposer: self.me() };
        self.proposal = Some(Proposal::new(ballot));
        for voter in self.voters() {
            self.send(voter, Message::Prepare(ballot));
        }
        if let Some(vote) = self.state.vote.promise(ballot) {
            self.vote(vote);
            let accepted = self.state.vote.accepted.clone();
            self.promised(self.me(), ballot, accepted);
        }
    }

    fn vote(&mut self, vote: Vote) {
        if vote != self.state.vote {
            self.record(Record::Voted(vote));
        }
    }

    /// Whether this peer votes at all.
    fn is_voter(&self) -> bool {
        self.proposes() && self.state.network.is_none() && self.state.fence().is_none()
    }

    pub(super) fn asked_to_promise(&mut self, from: PeerId, ballot: Ballot) {
        if !self.is_voter() {
            return self.hail(from);
        }
        match self.state.vote.promise(ballot) {
            Some(vote) => {
                let accepted = vote.accepted.clone();
                self.vote(vote);
                self.send(from, Message::Promise(ballot, accepted));
            }
            None => self.refuse(from),
        }
    }

    pub(super) fn asked_to_accept(&mut self, from: PeerId, ballot: Ballot, charter: &Charter) {
        if !self.is_voter() {
            return self.hail(from);
        }
        match self.state.vote.accept(ballot, charter) {
            Some(vote) => {
                self.vote(vote);
                self.send(from, Message::Accepted(ballot));
            }
            None => self.refuse(from),
        }
    }

    fn refuse(&mut self, from: PeerId) {
        if let Some(promised) = self.state.vote.promised {
            self.send(from, Message::Refuse(promised));
        }
    }

    pub(super) fn refused(&mut self, promised: Ballot) {
        self.round_seen = self.round_seen.max(promised.round);
    }

    pub(super) fn promised(&mut self, from: PeerId, ballot: Ballot, accepted: Option<(Ballot, Charter)>) {
        let (needed, nonce, counts) = (self.quorum(), self.rng.u64().max(1), self.counts(from));
        let Some(proposal) = self.proposal.as_mut().filter(|p| p.ballot == ballot && counts) else { return };
        proposal.promises.insert(from, accepted);
        if proposal.promises.len() < needed || proposal.charter.is_some() {
            return;
        }
        let mut charter = proposal.choose(nonce);
        if self.mutants.has(Mutant::FoundForAllSeen) {
            charter.seeds.extend(self.lives.keys());
        }
        proposal.charter = Some(charter.clone());
        for voter in self.voters() {
            self.send(voter, Message::Accept(ballot, charter.clone()));
        }
        if let Some(vote) = self.state.vote.accept(ballot, &charter) {
            self.vote(vote);
            self.accepted(self.me(), ballot);
        }
    }

    pub(super) fn accepted(&mut self, from: PeerId, ballot: Ballot) {
        let (needed, counts) = (self.quorum(), self.counts(from));
        let Some(proposal) = self.proposal.as_mut().filter(|p| p.ballot == ballot && counts) else { return };
        let Some(charter) = proposal.charter.clone() else { return };
        proposal.accepts.insert(from);
        if proposal.accepts.len() >= needed {
            self.found_by(&charter);
        }
    }

    fn counts(&self, voter: PeerId) -> bool {
        voter == self.me() || self.voters().contains(&voter)
    }
}

const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}
