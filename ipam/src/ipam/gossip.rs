//! What peers say and what is said to them: hails, calls, whole views and news.

use std::collections::BTreeMap;

use mesh_wire::{Moment, NetworkId, PeerId};

use super::{Draft, Ipam, Neighbour, telling};
use crate::checksum::fnv128;
use crate::founding::Network;
use crate::interface::{Event, Reachable};
use crate::message::{Envelope, Hail, Message, Tell};
use crate::mutant::Mutant;
use crate::range::Range;
use crate::state::{Fence, Life};
use crate::view::View;

impl Ipam {
    /// The peers that can be reached have changed.
    pub(super) fn members(&mut self, members: BTreeMap<PeerId, Reachable>, now: Moment) {
        let me = self.me();
        let mut before = std::mem::take(&mut self.members);
        for (peer, reachable) in members.into_iter().filter(|(peer, _)| *peer != me) {
            let known = before.remove(&peer);
            if known.is_none() {
                self.hail(peer);
            }
            let neighbour = known.map_or_else(
                || Neighbour {
                    reachable: reachable.clone(),
                    since: now,
                    network: None,
                    other_range: None,
                    reported: false,
                },
                |neighbour| Neighbour { reachable: reachable.clone(), ..neighbour },
            );
            self.members.insert(peer, neighbour);
        }
        self.hints.retain(|peer, _| self.members.contains_key(peer));
        self.conflicts.retain(|peer, _| self.members.contains_key(peer));
        self.unfinished.retain(|peer| self.members.contains_key(&peer));
    }

    pub(super) fn hail(&mut self, peer: PeerId) {
        let yours = self.lives.get(&peer).copied();
        self.hail_with(peer, yours);
    }

    fn hail_with(&mut self, peer: PeerId, yours: Option<Life>) {
        let hail = self.hail_for(yours);
        self.send(peer, Message::Hail(hail));
    }

    /// Where this peer stands, for one of which it knows this life, or for all.
    pub(super) fn hail_for(&mut self, yours: Option<Life>) -> Hail {
        let conflicts = self.own_conflicts.clone();
        Hail { sum: self.sum(), hint: self.own_hint(), yours, conflicts }
    }

    /// A hash of all that is shared.
    fn sum(&mut self) -> u64 {
        let custody = &self.state.custody;
        *self.sum.get_or_insert_with(|| {
            let bytes = minicbor::to_vec(custody.view()).expect("writing to a Vec cannot fail");
            u64::try_from(fnv128(&bytes) >> 64).expect("the upper half of 128 bits")
        })
    }

    pub(super) fn received(&mut self, from: PeerId, bytes: &[u8]) {
        let Some(neighbour) = self.members.get_mut(&from) else { return };
        let envelope = match Envelope::decode(bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                if !std::mem::replace(&mut neighbour.reported, true) {
                    self.drafts.push(Draft::Event(Event::MessageRefused { peer: from, error }));
                }
                return;
            }
        };
        neighbour.network = Some(envelope.network);
        if let Message::Hail(hail) = &envelope.message {
            self.told_of_own_life(hail.yours);
        }
        let is_new_life =
            self.lives.get(&from).is_none_or(|life| life.incarnation != envelope.life.incarnation);
        if !self.is_current(from, envelope.life) || !self.is_compatible(from, &envelope) {
            return;
        }
        if is_new_life && matches!(envelope.message, Message::Hail(_)) {
            // It may wait to hear whether its state is the last; and this peer may not have noticed that it was away.
            self.hail(from);
        }
        match envelope.message {
            Message::Hail(hail) => self.hailed(from, hail, envelope.network.is_some()),
            Message::Call => self.called(from),
            Message::Tell(tell) => {
                if let Some(tell) = self.unfinished.complete(from, envelope.life, tell) {
                    self.told(from, tell, envelope.network);
                }
            }
            Message::Ask(ask) => self.asked(from, ask),
            Message::Deny(deny) => self.denied(from, deny),
            Message::Prepare(ballot) => self.asked_to_promise(from, ballot),
            Message::Promise(ballot, accepted) => self.promised(from, ballot, accepted),
            Message::Accept(ballot, charter) => self.asked_to_accept(from, ballot, &charter),
            Message::Accepted(ballot) => self.accepted(from, ballot),
            Message::Refuse(ballot) => self.refused(ballot),
            Message::Copied => self.copied(self.me()),
        }
    }

    /// Whether the speaker is the latest life of its identity. If two lives went on from one position of the log, there
    /// are two copies of one state; each is told of the other, and neither is listened to.
    fn is_current(&mut self, from: PeerId, life: Life) -> bool {
        let known = self.lives.get(&from).copied().unwrap_or(life);
        let clash = self.clashes.get(&from).copied().filter(|clash| clash.clashes(&life));
        if let Some(clash) = clash {
            self.hail_with(from, Some(clash));
            return false;
        }
        if known.incarnation == life.incarnation
            || life.born >= known.seq
            || self.mutants.has(Mutant::IgnoreClones)
        {
            let seq = if known.incarnation == life.incarnation { known.seq.max(life.seq) } else { life.seq };
            self.lives.insert(from, Life { seq, ..life });
            return true;
        }
        self.hail_with(from, Some(known));
        if life.clashes(&known) {
            self.clashes.insert(from, life);
            self.drafts.push(Draft::Event(Event::Clones { peer: from }));
        }
        false
    }

    /// Another peer has heard of a life of this peer that is not this one, and that had got further than where this
    /// one began.
    fn told_of_own_life(&mut self, other: Option<Life>) {
        let Some(other) = other else { return };
        let is_another = other.incarnation != self.life.incarnation && other.seq > self.life.born;
        if is_another && !self.mutants.has(Mutant::IgnoreClones) {
            self.fence(Fence::Copied);
        }
    }

    /// Two routers are at work as `peer`. It is told, because only the one that came second knows by itself.
    pub(super) fn copied(&mut self, peer: PeerId) {
        if peer != self.me() {
            self.send(peer, Message::Copied);
        } else if !self.mutants.has(Mutant::IgnoreClones) {
            self.fence(Fence::Copied);
        }
    }

    /// Whether both peers are of one network, or one of them is of none yet.
    fn is_compatible(&mut self, from: PeerId, envelope: &Envelope) -> bool {
        let (Some(theirs), Some(ours)) = (envelope.network, self.network_id()) else { return true };
        if theirs == ours || self.mutants.has(Mutant::MergeNetworks) {
            return true;
        }
        self.report(from, Event::OtherNetwork { peer: from, theirs, ours });
        false
    }

    fn report(&mut self, peer: PeerId, event: Event) {
        if let Some(neighbour) = self.members.get_mut(&peer)
            && !std::mem::replace(&mut neighbour.reported, true)
        {
            self.drafts.push(Draft::Event(event));
        }
    }

    fn hailed(&mut self, from: PeerId, hail: Hail, has_network: bool) {
        self.hints.insert(from, hail.hint);
        self.conflicts.insert(from, hail.conflicts);
        if self.state.network.is_none() || self.is_copy() {
            return;
        }
        if hail.sum == self.sum() {
            self.listens_until = None;
            return;
        }
        if has_network {
            self.send(from, Message::Call);
        } else {
            // It learns from the envelope that there is a network, and calls.
            self.hail(from);
        }
    }

    /// Somebody wants to know all that this peer knows. It is written down first, so that nobody who asks this peer
    /// later can overlook it.
    fn called(&mut self, from: PeerId) {
        let nickname = self.members.get(&from).map(|neighbour| neighbour.reachable.nickname.clone());
        if let Some(nickname) = nickname
            && self.state.network.is_some()
            && !self.mutants.has(Mutant::AnswerWithoutRoster)
            && let Some(view) = self.state.custody.enrol(from, &nickname)
        {
            self.learn(&view);
        }
        self.tell_all(from);
    }

    /// Whether this state is known to be one of several, or not the last. Such a peer asks nobody, and tells nothing.
    pub(super) fn is_copy(&self) -> bool {
        matches!(self.state.fence(), Some(Fence::Copied | Fence::RolledBack))
    }

    /// What this peer says of `view`, which is all that it knows if `whole`. Nothing, when its state is a copy or too old: what
    /// it would leave out could be taken for not being there.
    pub(super) fn tell(&mut self, view: View, whole: bool) -> Vec<Message> {
        let Some(network) = self.state.network else { return Vec::new() };
        if self.is_copy() {
            return Vec::new();
        }
        self.tellings += u64::from(whole);
        let inactive: Vec<Range> = self.state.custody.inactive().iter().collect();
        let hint = self.own_hint();
        telling::parts(view, &inactive, whole.then_some(self.tellings))
            .into_iter()
            .map(|(part, view, inactive)| {
                Message::Tell(Tell { range: network.range, part, view, inactive, hint })
            })
            .collect()
    }

    /// Tells one peer all that this one knows.
    pub(super) fn tell_all(&mut self, peer: PeerId) {
        for message in self.tell(self.state.custody.view(), true) {
            self.send(peer, message);
        }
    }

    fn told(&mut self, from: PeerId, tell: Tell, network: Option<NetworkId>) {
        let Some(id) = network else { return };
        if !tell.view.is_bounded() {
            return;
        }
        if tell.range != self.range || tell.view.runs.iter().any(|run| !self.range.covers(run.range)) {
            if let Some(neighbour) = self.members.get_mut(&from) {
                neighbour.other_range = Some(tell.range);
            }
            return self.report(from, Event::OtherRange { peer: from, theirs: tell.range, ours: self.range });
        }
        self.hints.insert(from, tell.hint);
        self.note_grant(from, &tell.view);
        let is_new = self.state.network.is_none();
        if is_new && tell.part.is_none() {
            // It is news of a network that this peer does not know yet; it will call for all of it.
            return;
        }
        if let Some(neighbour) = self.members.get_mut(&from) {
            neighbour.other_range = None;
        }
        for peer in tell.view.retired.difference(self.state.custody.retired()) {
            self.drafts.push(Draft::Event(Event::Retired { peer: *peer, by: from }));
        }
        let inactive_before = self.state.custody.inactive().clone();
        let forgotten = self.state.custody.reveals_forgotten_deeds(&tell.view, is_new);
        if forgotten && !self.mutants.has(Mutant::IgnoreRollback) {
            self.fence(Fence::RolledBack);
        }
        if is_new {
            self.join(Network { id, range: self.range }, &tell.view);
        } else {
            let mut view = tell.view.clone();
            if self.mutants.has(Mutant::VouchWithoutRetired) {
                view.retired.clear();
            }
            self.learn(&view);
        }
        if tell.part.is_some() {
            self.listens_until = None;
            self.answers.note(self.me(), from, &tell.view, &tell.inactive);
            self.note_for_farewell(from, &tell.view);
        }
        if *self.state.custody.inactive() != inactive_before {
            self.report_inactive();
        }
    }
}
