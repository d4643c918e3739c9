//! Peers that are gone, and how their space passes on: retirement, the heir's gathering, and this peer's own farewell.

use std::collections::BTreeSet;

use mesh_wire::PeerId;

use super::requests::Step;
use super::{Draft, Ipam};
use crate::custody::Custody;
use crate::founding::Founding;
use crate::interface::{Answer, Event, Refusal, Waiting};
use crate::limits::CALL_FANOUT;
use crate::map::{CustodyMap, Run};
use crate::mutant::Mutant;
use crate::range::count_of;
use crate::state::{Fence, Record};
use crate::view::View;

/// How far this peer's farewell has come.
///
/// ```text
/// giving ──heir tells all, our grants in it──► leaving ──anybody tells all, us retired in it──► gone
/// ```
#[derive(Debug)]
pub(crate) struct Leaving {
    to: Option<PeerId>,
    addresses: u128,
    /// The grants that the heir has not confirmed.
    unconfirmed: Vec<Run>,
    /// Whether somebody is known to know that this peer is retired.
    heard: bool,
}

/// How many addresses `peer` has by record.
pub(super) fn owned_by(custody: &Custody, peer: PeerId) -> u128 {
    let owned = custody.map().iter().filter(|run| run.rec.owner == peer);
    count_of(owned.map(|run| run.range))
}

impl Ipam {
    /// Writes down, and tells everybody, that `peer` is gone for good.
    pub(super) fn declare_retired(&mut self, peer: PeerId) {
        if !self.state.custody.retired().contains(&peer) {
            self.deed(View { retired: BTreeSet::from([peer]), ..View::default() });
            self.drafts.push(Draft::Event(Event::Retired { peer, by: self.me() }));
        }
    }

    /// Takes over from retired peers, where this peer is the heir and all have answered.
    pub(super) fn succeed(&mut self) {
        if self.state.fence().is_some() || self.leaving.is_some() {
            return;
        }
        for gone in self.state.custody.legacies() {
            if let Some(view) = self.state.custody.reclaim(gone, &self.answers) {
                let addresses = count_of(view.runs.iter().map(|run| run.range));
                self.deed(view);
                self.drafts.push(Draft::Event(Event::Reclaimed { from: gone, addresses }));
            }
        }
    }

    /// What the succession of `gone` waits for.
    pub(super) fn waiting_for_heir(&self, gone: PeerId) -> Waiting {
        let custody = &self.state.custody;
        match custody.heir() {
            Some(heir) if heir != self.me() => Waiting::Heir { heir, gone },
            Some(_) | None => Waiting::Answers { missing: custody.unanswered(gone, &self.answers), gone },
        }
    }

    /// Whom this peer must ask for all they know, because something waits for it.
    pub(super) fn wanted_of_others(&self) -> BTreeSet<PeerId> {
        let mut wanted = BTreeSet::new();
        if self.is_copy() {
            return wanted;
        }
        let custody = &self.state.custody;
        let reachable = |peer: &PeerId| self.members.contains_key(peer);
        if self.state.network.is_none() {
            let founded =
                self.members.iter().filter(|(_, neighbour)| matches!(neighbour.network, Some(Some(_))));
            wanted.extend(founded.map(|(peer, _)| *peer).take(CALL_FANOUT));
        } else if !custody.is_admitted(self.me()) && self.state.fence().is_none() {
            wanted.extend(self.possible_vouchers());
        }
        if custody.heir() == Some(self.me()) {
            let missing =
                custody.legacies().into_iter().flat_map(|gone| custody.unanswered(gone, &self.answers));
            wanted.extend(missing.filter(reachable));
        }
        if let Some(leaving) = &self.leaving {
            match leaving.to {
                Some(to) if !leaving.unconfirmed.is_empty() => wanted.extend(Some(to).filter(reachable)),
                Some(_) | None if leaving.heard => {}
                Some(_) | None => {
                    wanted.extend(self.some_of(&self.members.keys().copied().collect::<Vec<_>>()));
                }
            }
        }
        wanted
    }

    /// Some of those whose word may help this newcomer: members that it has not heard as such, and whoever it has not heard
    /// at all.
    fn possible_vouchers(&self) -> Vec<PeerId> {
        let custody = &self.state.custody;
        let helps = |peer: &PeerId| {
            !self.answers.has(*peer) || (custody.is_admitted(*peer) && !self.answers.is_member(*peer))
        };
        let all: Vec<PeerId> = custody
            .living()
            .filter(|p| *p != self.me() && self.members.contains_key(p) && helps(p))
            .collect();
        self.some_of(&all)
    }

    /// Up to [`CALL_FANOUT`] of `peers`, each time others, because some may never answer.
    fn some_of(&self, peers: &[PeerId]) -> Vec<PeerId> {
        let skipped = self.calls.wrapping_mul(CALL_FANOUT).checked_rem(peers.len()).unwrap_or(0);
        peers.iter().cycle().skip(skipped).take(CALL_FANOUT.min(peers.len())).copied().collect()
    }

    /// Gives everything away, waits until that is certain, and retires.
    pub(super) fn hand_over(&mut self) -> Step {
        if let Some(fence @ (Fence::Copied | Fence::RolledBack)) = self.state.fence() {
            return Step::Done(Err(Refusal::Fenced(fence)));
        }
        if self.state.network.is_none() {
            return Step::Done(Ok(Answer::HandedOver { to: None, addresses: 0 }));
        }
        if self.leaving.is_none() {
            self.begin_leaving();
        }
        self.leave();
        match &self.leaving {
            Some(Leaving { to: Some(to), unconfirmed, .. }) if !unconfirmed.is_empty() => {
                Step::Wait(Waiting::HandOver { to: *to })
            }
            Some(leaving) if leaving.heard || self.members.is_empty() => {
                Step::Done(Ok(Answer::HandedOver { to: leaving.to, addresses: leaving.addresses }))
            }
            Some(_) | None => Step::Wait(Waiting::Farewell),
        }
    }

    fn begin_leaving(&mut self) {
        let custody = &self.state.custody;
        let may_take = |peer: &PeerId| {
            custody.is_admitted(*peer) && !custody.retired().contains(peer) && *peer != custody.me()
        };
        let to = self.members.keys().copied().find(may_take);
        let active = custody.active();
        let grants: Vec<View> =
            to.iter().flat_map(|to| active.iter().filter_map(|range| custody.grant(range, *to))).collect();
        let unconfirmed: Vec<Run> = grants.iter().flat_map(|view| view.runs.clone()).collect();
        let to = to.filter(|_| !unconfirmed.is_empty());
        let addresses = count_of(unconfirmed.iter().map(|run| run.range));
        let unconfirmed_now =
            if self.mutants.has(Mutant::LeaveWithoutAck) { Vec::new() } else { unconfirmed };
        self.leaving = Some(Leaving { to, addresses, unconfirmed: unconfirmed_now, heard: false });
        let held: Vec<_> = self.state.book.held().map(|(addr, _)| addr).collect();
        held.into_iter().for_each(|addr| self.record(Record::Freed(addr)));
        grants.into_iter().for_each(|view| self.deed(view));
    }

    /// Retires this peer once its heir has confirmed all grants. Alone in its network it stays as it is: there is nobody
    /// who could ever hear of it.
    pub(super) fn leave(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        if leaving.unconfirmed.is_empty() && !self.members.is_empty() {
            self.declare_retired(self.me());
        }
    }

    /// Somebody told all that it knows: notes what that proves for this peer's farewell.
    pub(super) fn note_for_farewell(&mut self, from: PeerId, view: &View) {
        let me = self.me();
        let Some(leaving) = &mut self.leaving else { return };
        leaving.heard |= view.retired.contains(&me);
        if leaving.to == Some(from) {
            let mut theirs = CustodyMap::new();
            view.runs.iter().for_each(|run| drop(theirs.merge(*run)));
            leaving.unconfirmed.retain(|run| !theirs.news(*run).is_empty());
        }
    }

    /// What a request waits for that needs a network.
    pub(super) fn waiting_for_network(&self) -> Waiting {
        let other = self.members.iter().find_map(|(peer, neighbour)| Some((*peer, neighbour.other_range?)));
        if let Some((peer, theirs)) = other {
            return Waiting::Range { peer, theirs, ours: self.range };
        }
        match self.config.founding {
            Founding::Observer => Waiting::Founder,
            Founding::Alone | Founding::Told { .. } | Founding::Consensus { .. } | Founding::Seeds(_) => {
                let votes = self.proposal.as_ref().map_or(0, |p| p.accepts.len().max(p.promises.len()));
                Waiting::Consensus { votes, needed: self.quorum() }
            }
        }
    }

    /// Tells the heir of grants that never became active, which it may take back.
    pub(super) fn report_inactive(&mut self) {
        let heir = self.state.custody.heir();
        if let Some(heir) = heir.filter(|heir| self.members.contains_key(heir))
            && !self.state.custody.inactive().is_empty()
        {
            self.tell_all(heir);
        }
    }
}
