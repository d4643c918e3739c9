//! Space that this peer asks of others, and that others ask of it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use mesh_wire::{Moment, PeerId};

use super::requests::Step;
use super::{Draft, Ipam};
use crate::addr::Addr;
use crate::interface::{Event, Refusal, Request, Waiting};
use crate::limits::{ASK_AGAIN_AFTER, ASK_TIME_MAX, GRANT_FACTOR, GRANT_SHARE};
use crate::map::RUNS_MAX;
use crate::message::{Ask, Denial, Deny, Hint, Message};
use crate::mutant::Mutant;
use crate::range::{Range, count_of};
use crate::view::View;

/// How far asking for one range has come.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    /// Who is asked now, and until when it may answer.
    current: Option<(PeerId, Moment)>,
    denied: BTreeMap<PeerId, Denial>,
    /// When all are asked anew.
    again: Option<Moment>,
    /// Whether a request has looked at it since the last time that all were served.
    pub(super) is_wanted: bool,
}

impl Asking {
    pub(super) fn due(&self) -> Option<Moment> {
        self.current.map(|(_, until)| until).or(self.again)
    }
}

impl Ipam {
    /// Asks for space in a subnet where nothing is left here.
    pub(super) fn ask_for_space(&mut self, hosts: Range, subnet: IpNet, now: Moment) -> Step {
        let same = |request: &Request| matches!(request, Request::Allocate { subnet: other, .. } if *other == subnet);
        let others = self.pending.values().filter(|pending| same(&pending.request)).count();
        self.ask(hosts, others as u64 + 1, now)
    }

    /// Asks for one address that belongs to another peer.
    pub(super) fn ask_for_address(&mut self, addr: Addr, now: Moment) -> Step {
        let within = Range::single(addr);
        let owner = self.state.custody.map().get(addr).map(|rec| rec.owner);
        let denial = self.asks.get(&within).and_then(|asking| asking.denied.get(&owner?).copied());
        if let (Some(owner), Some(Denial::InUse)) = (owner, denial) {
            return Step::Done(Err(Refusal::InUse { address: addr.into(), owner }));
        }
        self.ask(within, 1, now)
    }

    fn ask(&mut self, within: Range, wanted: u64, now: Moment) -> Step {
        let owners = self.owners(within);
        let mut asking = self.asks.remove(&within).unwrap_or_default();
        if asking.again.is_some_and(|at| at <= now) {
            asking = Asking::default();
        }
        if let Some((peer, until)) = asking.current
            && (until <= now || !self.members.contains_key(&peer))
        {
            asking.denied.insert(peer, Denial::NotNow);
            asking.current = None;
        }
        if asking.current.is_none()
            && let Some(peer) = self.next_donor(&owners, &asking)
        {
            self.send(peer, Message::Ask(Ask { within, wanted }));
            asking.current = Some((peer, now + ASK_TIME_MAX));
        }
        let step = match asking.current {
            Some((asked, _)) => Step::Wait(Waiting::Space { asked }),
            None => {
                asking.again = Some(asking.again.unwrap_or(now + ASK_AGAIN_AFTER));
                self.out_of_space(within, &owners, &asking)
            }
        };
        asking.is_wanted = true;
        self.asks.insert(within, asking);
        step
    }

    /// The other peers that own something of `within`, and how much.
    fn owners(&self, within: Range) -> BTreeMap<PeerId, u128> {
        let mut owners = BTreeMap::new();
        for run in self.state.custody.map().runs_within(within).filter(|run| run.rec.owner != self.me()) {
            let sum: &mut u128 = owners.entry(run.rec.owner).or_default();
            *sum = sum.saturating_add(run.range.count());
        }
        owners
    }

    /// The reachable owner that is believed to have most to give, of those that have not been asked.
    fn next_donor(&self, owners: &BTreeMap<PeerId, u128>, asking: &Asking) -> Option<PeerId> {
        let retired = self.state.custody.retired();
        let open = owners.iter().filter(|(peer, _)| {
            self.members.contains_key(peer) && !asking.denied.contains_key(peer) && !retired.contains(peer)
        });
        let free = |(peer, owned): &(&PeerId, &u128)| {
            self.hints.get(peer).map_or(**owned, |hint| u128::from(hint.free).min(**owned))
        };
        open.max_by_key(free).map(|(peer, _)| *peer)
    }

    /// Nobody is left to be asked: what to wait for, if that helps.
    fn out_of_space(&self, within: Range, owners: &BTreeMap<PeerId, u128>, asking: &Asking) -> Step {
        let retired = self.state.custody.retired();
        if let Some(gone) = owners.keys().find(|peer| retired.contains(peer)) {
            return Step::Wait(self.waiting_for_heir(*gone));
        }
        let silent = owners.keys().filter(|peer| !self.members.contains_key(peer)).copied();
        let silent: BTreeSet<PeerId> = silent.collect();
        if !silent.is_empty() {
            return Step::Wait(Waiting::Owners { peers: silent });
        }
        if self.state.book.cools(within, |addr| self.has_cooled(addr)) {
            return Step::Wait(Waiting::Cooling);
        }
        let busy =
            asking.denied.iter().find(|(_, denial)| matches!(denial, Denial::NotNow | Denial::NotMine));
        if let Some((asked, _)) = busy {
            return Step::Wait(Waiting::Space { asked: *asked });
        }
        if asking.denied.values().any(|denial| *denial == Denial::Cooling) {
            return Step::Wait(Waiting::Cooling);
        }
        Step::Done(Err(self.exhausted(within)))
    }

    /// That nothing is left of `within`, and who has it.
    fn exhausted(&self, within: Range) -> Refusal {
        let mut owners = self.owners(within);
        let own = self.state.custody.map().runs_within(within).filter(|run| run.rec.owner == self.me());
        owners.insert(self.me(), count_of(own.map(|run| run.range)));
        let mut owners: Vec<_> = owners
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(peer, count)| (peer, self.nickname_of(peer), count))
            .collect();
        owners.sort_by_key(|(peer, _, count)| (std::cmp::Reverse(*count), *peer));
        Refusal::Exhausted { within, owners }
    }

    /// Whoever was asked has given: what is still missing may be asked for at once.
    pub(super) fn note_grant(&mut self, from: PeerId, view: &View) {
        if view.runs.iter().any(|run| run.rec.donor == from && run.rec.owner == self.state.me) {
            self.asks.retain(|_, asking| asking.current.is_none_or(|(peer, _)| peer != from));
        }
    }

    pub(super) fn denied(&mut self, from: PeerId, deny: Deny) {
        let Some(asking) = self.asks.get_mut(&deny.within) else { return };
        if asking.current.is_some_and(|(peer, _)| peer == from) {
            asking.current = None;
            asking.denied.insert(from, deny.cause);
        }
    }

    /// Somebody asks for space: gives a block, or says why not.
    pub(super) fn asked(&mut self, from: PeerId, ask: Ask) {
        match self.choose_block(from, ask) {
            Ok(block) => self.give(block, from),
            Err(cause) => self.send(from, Message::Deny(Deny { within: ask.within, cause })),
        }
    }

    fn give(&mut self, block: Range, to: PeerId) {
        if let Some(view) = self.state.custody.grant(block, to) {
            self.deed(view);
            self.drafts.push(Draft::Event(Event::Granted { range: block, to }));
        }
    }

    fn choose_block(&self, from: PeerId, ask: Ask) -> Result<Range, Denial> {
        let custody = &self.state.custody;
        let may_take = custody.is_admitted(from) && !custody.retired().contains(&from);
        let may_give = custody.is_member() && self.state.fence().is_none() && self.leaving.is_none();
        // A grant may split one run into three.
        if !may_take || !may_give || custody.map().len() + 2 > RUNS_MAX / 2 {
            return Err(Denial::NotNow);
        }
        if !custody.map().runs_within(ask.within).any(|run| run.rec.owner == self.me()) {
            return Err(Denial::NotMine);
        }
        let has_cooled = |addr| self.has_cooled(addr);
        let mut spare = self.state.book.spare(ask.within, has_cooled);
        if self.mutants.has(Mutant::GrantHeld) {
            spare = custody.active().within(ask.within).collect();
        }
        let free = spare.count();
        let wanted = u128::from(ask.wanted.saturating_mul(GRANT_FACTOR)).max(free / GRANT_SHARE);
        let most = wanted.min((free / 2).max(1));
        let blocks = spare.iter().filter_map(|range| range.aligned_block(most));
        let cools = self.state.book.cools(ask.within, has_cooled);
        blocks.max_by_key(|block| block.count()).ok_or(if cools { Denial::Cooling } else { Denial::InUse })
    }

    /// How full this peer is.
    pub(super) fn own_hint(&self) -> Hint {
        let free = u64::try_from(self.state.book.idle().count()).unwrap_or(u64::MAX);
        Hint { free, held: self.state.book.held().count() as u64 }
    }
}
