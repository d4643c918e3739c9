//! Who was told what, and what of it never may be.
//!
//! Owns the memory of all that clients were told, and the judgement. One identity may be at work twice, or go on from an
//! earlier day: [`Fork`] says exactly which duplicates that excuses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use mesh_ipam::{Answer, Ident, Refusal, Request};
use mesh_wire::{Moment, PeerId};

use crate::world::HostId;

/// Whoever asks when all is quiet again.
pub(super) const FINAL: &str = "final";

/// A client of a router, as long as that router goes on from one state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) host: HostId,
    /// The number of the host's book: another one begins when its disk is lost or put back.
    pub(super) book: u32,
    pub(super) ident: Ident,
}

/// What was told.
#[derive(Debug)]
struct Held {
    by: Holder,
    /// Of which identity.
    from: PeerId,
    since: Moment,
}

/// A state that went on twice: it was copied to a second machine, or put back on its own.
///
/// Both ways go on with what the state owned, and a router that is alone cannot know of the other: that is the limit of any
/// router that hands addresses out offline. So of two holders of one address, one of whom was told by this identity after
/// this moment, nobody is to blame. It excuses nothing else, and nothing after the identity was declared gone for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fork {
    pub(super) peer: PeerId,
    pub(super) at: Moment,
}

/// What clients were told.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    holders: BTreeMap<IpAddr, Held>,
    books: BTreeMap<HostId, u32>,
    pub(super) fork: Option<Fork>,
    /// An identity whose state is lost, and that nobody has taken over from.
    pub(super) lost: Option<PeerId>,
    pub(super) tally: Tally,
    pub(super) first_wrong: Option<Wrong>,
}

/// What happened to addresses and disks in a run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Addresses that were given.
    pub given: u64,
    /// Routers that died at their disk.
    pub deaths: u64,
    /// Disks that were lost.
    pub lost: u64,
    /// Disks that were put back to an earlier day.
    pub put_back: u64,
    /// Disks that a second machine started from.
    pub cloned: u64,
    /// Routers that fenced themselves, so that they had to be reset.
    pub fenced: u64,
    /// Addresses that were given twice by a state that went on twice, before it could know.
    pub excused: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, deaths, lost, put_back, cloned, fenced, excused } = self;
        write!(
            f,
            "{given} addresses given, {deaths} deaths at a disk; disks: {lost} lost, {put_back} put back, {cloned} cloned; \
             {fenced} routers fenced, {excused} duplicates excused"
        )
    }
}

/// What never happens to addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Two holders were told the same address.
    Twice {
        /// Which.
        address: IpAddr,
        /// Where it was given first.
        first: HostId,
        /// And where then.
        second: HostId,
    },
    /// A router does not read what it wrote.
    Unreadable {
        /// Which.
        host: HostId,
        /// What is wrong with it.
        error: mesh_ipam::Corrupt,
    },
    /// A holder has not what it was told.
    Forgotten {
        /// Which.
        host: HostId,
        /// Which address.
        address: IpAddr,
    },
    /// After quiet, an address is refused although there is no want of them.
    Refused {
        /// Which.
        host: HostId,
        /// Why.
        refusal: Refusal,
    },
    /// After quiet, neither of two machines with one identity has fenced itself.
    Unfenced {
        /// One of them.
        one: HostId,
        /// The other.
        other: HostId,
    },
    /// After quiet, hosts know of different owners.
    Disagreement {
        /// One of them.
        one: HostId,
        /// The other.
        other: HostId,
    },
    /// After quiet, addresses have no owner that can be reached.
    Lost {
        /// Which.
        host: HostId,
        /// How many have.
        owned: u128,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice { address, first, second } => {
                write!(f, "{address} was given on {first} and on {second}")
            }
            Self::Unreadable { host, error } => write!(f, "{host} cannot read what it wrote: {error}"),
            Self::Forgotten { host, address } => write!(f, "{host} has forgotten that it gave {address}"),
            Self::Refused { host, refusal } => write!(f, "{host} refuses an address after quiet: {refusal}"),
            Self::Unfenced { one, other } => {
                write!(f, "{one} and {other} have one identity, and neither is fenced after quiet")
            }
            Self::Disagreement { one, other } => {
                write!(f, "{one} and {other} know of different owners after quiet")
            }
            Self::Lost { host, owned } => {
                write!(f, "{host} knows reachable owners of {owned} addresses only, after quiet")
            }
        }
    }
}

impl Oracle {
    pub(super) fn find(&mut self, wrong: Wrong) {
        self.first_wrong.get_or_insert(wrong);
    }

    /// A client's answer, from the router of a host with this identity.
    pub(super) fn told(
        &mut self,
        (host, from): (HostId, PeerId),
        request: &Request,
        result: Result<Answer, Refusal>,
        now: Moment,
    ) {
        if let (Request::Retire { peer }, Ok(_)) = (request, &result) {
            // Whoever else knew of its last grants has answered: the next disk may be lost.
            self.lost = self.lost.filter(|lost| lost != peer);
        }
        let Some(ident) = ident_of(request) else { return };
        let is_final = ident.as_str() == FINAL;
        match (request, result) {
            (Request::Lookup { .. }, result) => self.looked_up(host, ident, result),
            // Its answer names what the holder has no more.
            (Request::Release { .. }, _) => {}
            (_, Ok(Answer::Addresses(addresses))) => {
                let by = Holder { host, book: self.book(host), ident: ident.clone() };
                addresses.iter().for_each(|address| self.given(address.addr(), &by, from, now));
            }
            (_, Ok(Answer::Ready(_) | Answer::Reclaimed { .. } | Answer::HandedOver { .. })) => {}
            (_, Err(Refusal::Exhausted { .. })) => {}
            (_, Err(refusal)) if is_final => self.find(Wrong::Refused { host, refusal }),
            (_, Err(_)) => {}
        }
    }

    fn given(&mut self, address: IpAddr, by: &Holder, from: PeerId, now: Moment) {
        let forked =
            |peer: PeerId, since: Moment| self.fork.is_some_and(|fork| fork.peer == peer && fork.at < since);
        match self.holders.get(&address) {
            Some(held) if held.by == *by => return,
            Some(held) if forked(held.from, held.since) || forked(from, now) => self.tally.excused += 1,
            Some(held) => {
                let (first, second) = (held.by.host, by.host);
                self.find(Wrong::Twice { address, first, second });
            }
            None => self.tally.given += 1,
        }
        self.holders.insert(address, Held { by: by.clone(), from, since: now });
    }

    /// Whether all that a holder was told is found again.
    fn looked_up(&mut self, host: HostId, ident: &Ident, result: Result<Answer, Refusal>) {
        let found: Vec<IpAddr> = match result {
            Ok(Answer::Addresses(addresses)) => addresses.iter().map(IpNet::addr).collect(),
            Ok(Answer::Ready(_) | Answer::Reclaimed { .. } | Answer::HandedOver { .. }) | Err(_) => {
                Vec::new()
            }
        };
        let holder = Holder { host, book: self.book(host), ident: ident.clone() };
        let mut told = self.holders.iter().filter(|(_, held)| held.by == holder).map(|(address, _)| *address);
        if let Some(address) = told.find(|address| !found.contains(address)) {
            self.find(Wrong::Forgotten { host, address });
        }
    }

    fn book(&self, host: HostId) -> u32 {
        self.books.get(&host).copied().unwrap_or(0)
    }

    /// All clients that a running router may know.
    pub(super) fn clients(&self) -> BTreeSet<(HostId, Ident)> {
        let present = self.holders.values().map(|held| &held.by).filter(|by| by.book == self.book(by.host));
        present.map(|by| (by.host, by.ident.clone())).collect()
    }

    /// A client has stopped using what it has.
    pub(super) fn released(&mut self, host: HostId, ident: &Ident) {
        let holder = Holder { host, book: self.book(host), ident: ident.clone() };
        self.holders.retain(|_, held| held.by != holder);
    }

    /// A host goes on from another state, which knows what clients had been told until `known`, if anything. The others'
    /// containers run on, with addresses that nobody remembers.
    pub(super) fn begin_book(&mut self, host: HostId, known: Option<Moment>) {
        let (before, book) = (self.book(host), self.book(host) + 1);
        self.books.insert(host, book);
        for held in self.holders.values_mut() {
            if held.by.host == host
                && held.by.book == before
                && known.is_some_and(|known| held.since <= known)
            {
                held.by.book = book;
            }
        }
    }

    /// All containers of a host are gone.
    pub(super) fn emptied(&mut self, host: HostId) {
        self.holders.retain(|_, held| held.by.host != host);
    }

    /// An identity was declared gone for good, and with it whatever it had given.
    pub(super) fn retired(&mut self, peer: PeerId) {
        self.holders.retain(|_, held| held.from != peer);
        self.fork = self.fork.filter(|fork| fork.peer != peer);
    }
}

/// For whom a request is.
pub(super) const fn ident_of(request: &Request) -> Option<&Ident> {
    match request {
        Request::Allocate { ident, .. }
        | Request::Claim { ident, .. }
        | Request::Lookup { ident, .. }
        | Request::Release { ident, .. } => Some(ident),
        Request::Prime | Request::Retire { .. } | Request::HandOver => None,
    }
}
