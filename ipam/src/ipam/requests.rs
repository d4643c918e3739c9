//! What clients want, and how far that has come. Each request ends: with an answer, or at its deadline with the reason.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_wire::{Moment, PeerId};

use super::{Ipam, succession};
use crate::addr::Addr;
use crate::book::{Holding, Ident};
use crate::interface::{Answer, Refusal, Request, Ticket, Waiting};
use crate::limits::PENDING_MAX;
use crate::mutant::Mutant;
use crate::range::Range;
use crate::state::Record;

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) deadline: Moment,
    /// What it waited for when it was last looked at.
    pub(crate) waiting: Option<Waiting>,
    /// How many addresses a retired peer had at first.
    retired: Option<u128>,
}

/// How far a request has come.
pub(super) enum Step {
    Done(Result<Answer, Refusal>),
    Wait(Waiting),
}

impl Step {
    fn refused(refusal: Refusal) -> Self {
        Self::Done(Err(refusal))
    }
}

impl Ipam {
    pub(super) fn request(&mut self, ticket: Ticket, request: Request, deadline: Moment) {
        if self.disk_failed() {
            return self.answer(ticket, Err(Refusal::Disk));
        }
        if self.pending.len() >= PENDING_MAX {
            return self.answer(ticket, Err(Refusal::Busy));
        }
        self.pending.insert(ticket, Pending { request, deadline, waiting: None, retired: None });
    }

    /// Looks at every request, in the order of their tickets.
    pub(super) fn serve(&mut self, now: Moment) {
        self.asks.values_mut().for_each(|asking| asking.is_wanted = false);
        for ticket in self.pending.keys().copied().collect::<Vec<_>>() {
            let Some(mut pending) = self.pending.remove(&ticket) else { continue };
            match self.step(&mut pending, now) {
                Step::Done(result) => self.answer(ticket, result),
                Step::Wait(waiting) if now >= pending.deadline && !self.mutants.has(Mutant::NoDeadline) => {
                    self.answer(ticket, Err(Refusal::TimedOut(waiting)));
                }
                Step::Wait(waiting) => {
                    pending.waiting = Some(waiting);
                    self.pending.insert(ticket, pending);
                }
            }
        }
        self.asks.retain(|_, asking| asking.is_wanted);
    }

    fn step(&mut self, pending: &mut Pending, now: Moment) -> Step {
        match &pending.request {
            Request::Allocate { ident, subnet } => self.allocate(ident, *subnet, now),
            Request::Claim { ident, address } => self.claim(ident, *address, now),
            Request::Lookup { ident, subnet } => self.lookup(ident, *subnet),
            Request::Release { ident, subnet } => self.release(ident, *subnet, now),
            Request::Prime => match self.network_id() {
                Some(network) => Step::Done(Ok(Answer::Ready(network))),
                None => Step::Wait(self.waiting_for_network()),
            },
            Request::Retire { peer } => {
                let (peer, before) = (*peer, pending.retired);
                let (step, had) = self.retire(peer, before);
                pending.retired = had;
                step
            }
            Request::HandOver => self.hand_over(),
        }
    }

    fn allocate(&mut self, ident: &Ident, subnet: IpNet, now: Moment) -> Step {
        let hosts =
            if self.mutants.has(Mutant::HandOutEdges) { subnet.into() } else { Range::hosts_of(subnet) };
        if !self.range.covers(subnet.into()) {
            return Step::refused(Refusal::OutsideRange(subnet.into(), self.range));
        }
        let existing = self.state.book.of(ident).find(|(addr, _)| hosts.contains(*addr));
        if let Some((addr, _)) = existing {
            return granted(addr, subnet.prefix_len());
        }
        if let Some(step) = self.barred() {
            return step;
        }
        let picked = self.state.book.pick(ident, hosts, |addr| self.has_cooled(addr));
        let Some(addr) = picked else {
            if self.state.book.is_full() {
                return Step::refused(Refusal::HostFull);
            }
            return self.ask_for_space(hosts, subnet, now);
        };
        self.hold(addr, ident, subnet.prefix_len())
    }

    fn claim(&mut self, ident: &Ident, address: IpNet, now: Moment) -> Step {
        let addr = Addr::from(address.addr());
        if !self.range.contains(addr) {
            return Step::refused(Refusal::OutsideRange(Range::single(addr), self.range));
        }
        if !Range::hosts_of(address).contains(addr) {
            return Step::refused(Refusal::Edge(address.addr()));
        }
        match self.state.book.holding(addr) {
            Some(holding) if holding.ident == *ident => return granted(addr, address.prefix_len()),
            Some(holding) => return Step::refused(Refusal::Held(address.addr(), holding.ident.clone())),
            None => {}
        }
        if let Some(step) = self.barred() {
            return step;
        }
        if !self.state.custody.is_active(addr) {
            return self.ask_for_address(addr, now);
        }
        let was_its_own = self.state.book.freed_by(addr) == Some(ident);
        if !was_its_own && !self.has_cooled(addr) {
            return Step::Wait(Waiting::Cooling);
        }
        self.hold(addr, ident, address.prefix_len())
    }

    fn hold(&mut self, addr: Addr, ident: &Ident, len: u8) -> Step {
        if self.state.book.is_full() && self.state.book.freed_by(addr).is_none() {
            return Step::refused(Refusal::HostFull);
        }
        self.record(Record::Held(addr, Holding { ident: ident.clone(), len }));
        granted(addr, len)
    }

    /// Why no address may be given out now, whichever.
    fn barred(&self) -> Option<Step> {
        if let Some(fence) = self.state.fence()
            && !(self.mutants.has(Mutant::IgnoreRetirement) && fence == crate::state::Fence::Retired)
        {
            return Some(Step::refused(Refusal::Fenced(fence)));
        }
        if self.leaving.is_some() {
            return Some(Step::Wait(Waiting::Farewell));
        }
        if self.state.network.is_none() {
            return Some(Step::Wait(self.waiting_for_network()));
        }
        if !self.state.custody.is_member() {
            let silent = self.state.custody.silent(&self.answers);
            return Some(Step::Wait(Waiting::Admission { silent }));
        }
        if self.listens_until.is_some() {
            return Some(Step::Wait(Waiting::Word));
        }
        None
    }

    fn lookup(&self, ident: &Ident, subnet: Option<IpNet>) -> Step {
        let addresses = self.addresses(ident, subnet);
        if addresses.is_empty() {
            return Step::refused(Refusal::Unknown(ident.clone()));
        }
        Step::Done(Ok(Answer::Addresses(
            addresses.into_iter().map(|(addr, len)| with_len(addr, len)).collect(),
        )))
    }

    fn release(&mut self, ident: &Ident, subnet: Option<IpNet>, now: Moment) -> Step {
        let found = self.lookup(ident, subnet);
        for (addr, _) in self.addresses(ident, subnet) {
            self.free(addr, now);
        }
        found
    }

    pub(super) fn free(&mut self, addr: Addr, now: Moment) {
        self.record(Record::Freed(addr));
        self.cooling.insert(addr, now);
    }

    fn addresses(&self, ident: &Ident, subnet: Option<IpNet>) -> Vec<(Addr, u8)> {
        let within = subnet.map(Range::from);
        let wanted = |addr: &Addr| within.is_none_or(|within| within.contains(*addr));
        self.state.book.of(ident).filter(|(addr, _)| wanted(addr)).map(|(addr, h)| (addr, h.len)).collect()
    }

    fn retire(&mut self, peer: PeerId, had: Option<u128>) -> (Step, Option<u128>) {
        if peer == self.me() {
            return (Step::refused(Refusal::Oneself), had);
        }
        if !self.state.custody.roster().contains_key(&peer) {
            return (Step::refused(Refusal::UnknownPeer(peer)), had);
        }
        if had.is_none() && self.members.contains_key(&peer) && !self.state.custody.retired().contains(&peer)
        {
            return (Step::refused(Refusal::StillReachable(peer)), had);
        }
        let has = succession::owned_by(&self.state.custody, peer);
        let had = had.unwrap_or(has);
        self.declare_retired(peer);
        self.succeed();
        if succession::owned_by(&self.state.custody, peer) == 0 {
            return (Step::Done(Ok(Answer::Reclaimed { addresses: had })), Some(had));
        }
        (Step::Wait(self.waiting_for_heir(peer)), Some(had))
    }
}

fn granted(addr: Addr, len: u8) -> Step {
    Step::Done(Ok(Answer::Addresses(vec![with_len(addr, len)])))
}

fn with_len(addr: Addr, len: u8) -> IpNet {
    let address = IpAddr::from(addr);
    IpNet::new(address, len).unwrap_or_else(|_too_long| address.into())
}
