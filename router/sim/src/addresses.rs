//! Address management in simulated routers: their disks, their clients, and an oracle that knows who was told what.
//!
//! Owns what is on each host's disk, and when: a batch is written after a while, and a router may die before that, or after it
//! and before it hears of it. The rules themselves are those of `mesh-ipam` in the node. Copies and restored states are left to
//! the tests of `mesh-ipam`, since the invariants of this simulator hold for one router an identity.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use mesh_crypto::Rng;
use mesh_ipam::{Answer, Founding, Ident, Refusal, Request, Ticket};
use mesh_node::{AddressOutput, Addresses, Input};
use mesh_wire::{Moment, PeerId};

use crate::faults::{Boot, Crash, Fault};
use crate::invariants::Violation;
use crate::network::below;
use crate::run::{CONVERGED_WITHIN, QUIET_FOR};
use crate::scenario::{Scenario, rng_from};
use crate::tcp::index_below;
use crate::world::{HostId, World};

const RANGES: [&str; 3] = ["10.0.0.0/26", "10.0.0.0/24", "fd00::/120"];

/// Clients want something so often at most.
const WISHES_EVERY: Duration = Duration::from_millis(150);

/// Whoever asks when all is quiet again, and how long it waits: freed addresses may have to cool down.
const FINAL: &str = "final";
const FINAL_WAIT: Duration = Duration::from_secs(70);

/// A disk takes up to this long for a batch.
const DISK_TIME_MAX: Duration = Duration::from_millis(20);

/// A router that died at its disk starts again within this time.
const DEAD_TIME_MAX: Duration = Duration::from_secs(3);

/// The disks and the clients of all hosts.
pub(crate) struct Management {
    range: IpNet,
    /// How many of the hosts take part in the vote for a founder: the members.
    voters: usize,
    disks: Vec<Disk>,
    /// One of so many batches kills its router before it is on disk, and one after that; 0 for none.
    deadly: u64,
    rng: Rng,
    tickets: u64,
    asked: BTreeMap<Ticket, (HostId, Request)>,
    oracle: Oracle,
}

#[derive(Default)]
struct Disk {
    log: Vec<u8>,
    /// Written, and not yet on disk.
    unsynced: Vec<(u64, Vec<u8>)>,
}

/// What clients were told.
#[derive(Debug, Default)]
struct Oracle {
    /// Who has which address, by what was answered.
    holders: BTreeMap<IpAddr, (HostId, Ident)>,
    /// How many addresses were given.
    given: u64,
    /// How many routers died at their disk.
    deaths: u64,
    first_wrong: Option<Wrong>,
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
            Self::Disagreement { one, other } => {
                write!(f, "{one} and {other} know of different owners after quiet")
            }
            Self::Lost { host, owned } => {
                write!(f, "{host} knows reachable owners of {owned} addresses only, after quiet")
            }
        }
    }
}

impl Management {
    pub(crate) fn new(hosts: usize, voters: usize, range: IpNet, seed: u64, deadly: u64) -> Self {
        Self {
            range,
            voters,
            disks: (0..hosts).map(|_| Disk::default()).collect(),
            deadly,
            rng: rng_from(seed ^ 0xadd7),
            tickets: 0,
            asked: BTreeMap::new(),
            oracle: Oracle::default(),
        }
    }

    /// A router has died: what was not on disk is lost, and of the first batch that was not, a part may be there.
    pub(crate) fn crashed(&mut self, host: HostId) {
        let cut = self.rng.u64();
        let disk = &mut self.disks[host.0];
        if let Some((_, bytes)) = std::mem::take(&mut disk.unsynced).first().filter(|_| cut.is_multiple_of(2))
        {
            let len = usize::try_from(cut % bytes.len() as u64).expect("less than a length");
            disk.log.extend_from_slice(&bytes[..len]);
        }
        self.asked.retain(|_, (of, _)| *of != host);
    }

    /// What a router starts from.
    pub(crate) fn opened(&mut self, host: HostId, me: PeerId) -> Option<Addresses> {
        if host.0 >= self.voters {
            return None;
        }
        let disk = &mut self.disks[host.0];
        match mesh_ipam::recover(me, None, &disk.log) {
            Ok((state, whole)) => {
                disk.log.truncate(whole);
                let config = mesh_ipam::Config {
                    nickname: host.to_string().parse().expect("a letter and digits"),
                    range: self.range,
                    founding: Founding::Consensus { voters: self.voters },
                };
                Some(Addresses { config, state })
            }
            Err(error) => {
                self.oracle.find(Wrong::Unreadable { host, error });
                None
            }
        }
    }
}

impl Oracle {
    fn find(&mut self, wrong: Wrong) {
        self.first_wrong.get_or_insert(wrong);
    }

    fn told(&mut self, host: HostId, request: &Request, result: Result<Answer, Refusal>) {
        let Some(ident) = ident_of(request) else { return };
        let is_final = ident.as_str() == FINAL;
        match (request, result) {
            (Request::Lookup { .. }, result) => self.looked_up(host, ident, result),
            // Its answer names what the holder has no more.
            (Request::Release { .. }, _) => {}
            (_, Ok(Answer::Addresses(addresses))) => self.given(host, ident, &addresses),
            (_, Ok(Answer::Ready(_) | Answer::Reclaimed { .. } | Answer::HandedOver { .. })) => {}
            (_, Err(Refusal::Exhausted { .. })) => {}
            (_, Err(refusal)) if is_final => self.find(Wrong::Refused { host, refusal }),
            (_, Err(_)) => {}
        }
    }

    fn given(&mut self, host: HostId, ident: &Ident, addresses: &[IpNet]) {
        for address in addresses.iter().map(IpNet::addr) {
            let holder = (host, ident.clone());
            match self.holders.insert(address, holder.clone()) {
                None => self.given += 1,
                Some(before) if before == holder => {}
                Some((first, _)) => self.find(Wrong::Twice { address, first, second: host }),
            }
        }
    }

    /// Whether all that a holder was told is found again.
    fn looked_up(&mut self, host: HostId, ident: &Ident, result: Result<Answer, Refusal>) {
        let found: Vec<IpAddr> = match result {
            Ok(Answer::Addresses(addresses)) => addresses.iter().map(IpNet::addr).collect(),
            Ok(Answer::Ready(_) | Answer::Reclaimed { .. } | Answer::HandedOver { .. }) | Err(_) => {
                Vec::new()
            }
        };
        let holder = (host, ident.clone());
        let told = self.holders.iter().filter(|(_, of)| **of == holder).map(|(address, _)| *address);
        let missing: Option<IpAddr> = told.into_iter().find(|address| !found.contains(address));
        if let Some(address) = missing {
            self.find(Wrong::Forgotten { host, address });
        }
    }
}

/// For whom a request is.
const fn ident_of(request: &Request) -> Option<&Ident> {
    match request {
        Request::Allocate { ident, .. }
        | Request::Claim { ident, .. }
        | Request::Lookup { ident, .. }
        | Request::Release { ident, .. } => Some(ident),
        Request::Prime | Request::Retire { .. } | Request::HandOver => None,
    }
}

impl World {
    /// Lets members manage addresses of `range`, from the next start of each on. The first `voters` hosts are the members. One
    /// batch in `deadly` kills its router before it is on disk, and one after that.
    pub(crate) fn manage_addresses(&mut self, voters: usize, range: IpNet, seed: u64, deadly: u64) {
        self.management = Some(Management::new(self.hosts.len(), voters, range, seed, deadly));
    }

    /// A client of a host's router wants something.
    pub(crate) fn ask_addresses(
        &mut self,
        host: HostId,
        request: Request,
        wait: Duration,
    ) -> Result<(), Violation> {
        let deadline = self.now() + wait;
        let Some(management) = &mut self.management else { return Ok(()) };
        if self.hosts[host.0].life.is_none() {
            return Ok(());
        }
        management.tickets += 1;
        let ticket = Ticket(management.tickets);
        if let Request::Release { ident, .. } = &request {
            // Whoever gives back has stopped using it, and what it was given and has not heard of goes with the rest.
            management.oracle.holders.retain(|_, (of, holder)| !(*of == host && holder == ident));
            management.asked.retain(|_, (of, asked)| *of != host || ident_of(asked) != Some(ident));
        }
        management.asked.insert(ticket, (host, request.clone()));
        self.input(host, Input::Ipam(mesh_ipam::Input::Request { ticket, request, deadline }))
    }

    pub(crate) fn address_output(&mut self, host: HostId, output: AddressOutput) {
        let Some(management) = &mut self.management else { return };
        match output {
            AddressOutput::Persist { seq, bytes } => {
                let disk = &mut management.disks[host.0];
                let is_first = disk.unsynced.is_empty();
                disk.unsynced.push((seq, bytes));
                if is_first {
                    let time = below(&mut management.rng, DISK_TIME_MAX);
                    self.push_sync(host, time);
                }
            }
            AddressOutput::Answer { ticket, result } => {
                if let Some((host, request)) = management.asked.remove(&ticket) {
                    management.oracle.told(host, &request, result);
                }
            }
        }
    }

    /// A disk has done what it was given, unless its router dies of it.
    pub(crate) fn synced(&mut self, host: HostId) -> Result<(), Violation> {
        let Some(management) = &mut self.management else { return Ok(()) };
        let fate = if management.deadly == 0 { u64::MAX } else { management.rng.below(management.deadly) };
        let again = below(&mut management.rng, DEAD_TIME_MAX);
        let mut last = None;
        // 0: before; 1: after the write, and before the router hears of it.
        if fate != 0 {
            let disk = &mut management.disks[host.0];
            for (seq, bytes) in disk.unsynced.drain(..) {
                disk.log.extend(bytes);
                last = Some(seq);
            }
        }
        if fate < 2 {
            management.oracle.deaths += 1;
            self.now_let(&Fault::Crash { host, how: Crash::Killed })?;
            self.at(self.now() + again, Fault::Start { host, boot: Boot::Next });
            return Ok(());
        }
        last.map_or(Ok(()), |seq| self.input(host, Input::Ipam(mesh_ipam::Input::Persisted(seq))))
    }

    /// The first thing that never may happen to addresses.
    pub(crate) fn wrong(&self) -> Option<&Wrong> {
        self.management.as_ref()?.oracle.first_wrong.as_ref()
    }

    /// Somebody who was told an address, to give it back.
    pub(crate) fn some_holder(&mut self) -> Option<(HostId, Ident)> {
        let management = self.management.as_mut()?;
        let holders = &management.oracle.holders;
        let nth = usize::try_from(management.rng.below(holders.len().max(1) as u64)).ok()?;
        holders.values().nth(nth).cloned()
    }

    /// Asks for all that was told, and for one address more on each host: all of it must be there, and everybody served.
    fn ask_all_again(&mut self, members: usize) -> Result<(), Violation> {
        let Some(management) = &self.management else { return Ok(()) };
        let range = management.range;
        let holders: BTreeSet<_> = management.oracle.holders.values().cloned().collect();
        for (host, ident) in holders {
            self.ask_addresses(host, Request::Lookup { ident, subnet: None }, FINAL_WAIT)?;
        }
        let ident: Ident = FINAL.parse().expect("a short name");
        for host in (0..members).map(HostId) {
            self.ask_addresses(host, Request::Allocate { ident: ident.clone(), subnet: range }, FINAL_WAIT)?;
        }
        self.run_for(FINAL_WAIT)
    }

    /// What differs between members after quiet, if anything.
    fn address_difference(&self, members: usize) -> Option<Wrong> {
        let range = self.management.as_ref()?.range;
        let all = mesh_ipam::range::Range::from(range).count();
        let mut first: Option<(HostId, BTreeMap<PeerId, u128>)> = None;
        for host in (0..members).map(HostId) {
            let Some(status) = self.node(host).and_then(|node| node.ipam_status(self.now())) else {
                continue;
            };
            let owners: BTreeMap<PeerId, u128> = status.owned.iter().map(|o| (o.peer, o.addresses)).collect();
            let reachable =
                status.owned.iter().filter(|owned| owned.reachable).map(|owned| owned.addresses).sum();
            if status.network.is_none() || reachable != all {
                return Some(Wrong::Lost { host, owned: reachable });
            }
            match &first {
                Some((one, known)) if *known != owners => {
                    return Some(Wrong::Disagreement { one: *one, other: host });
                }
                Some(_) => {}
                None => first = Some((host, owners)),
            }
        }
        None
    }
}

/// How a run with addresses went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressOutcome {
    /// Addresses that were given.
    pub given: u64,
    /// Routers that died at their disk.
    pub deaths: u64,
}

impl fmt::Display for AddressOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} addresses given, {} deaths at a disk", self.given, self.deaths)
    }
}

/// Why a run with addresses failed; the seed repeats it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressFailure {
    /// Something that never may happen to addresses.
    #[error("seed {seed}, at {:.3} s: {wrong}", at.since_origin().as_secs_f64())]
    Wrong {
        /// The seed.
        seed: u64,
        /// When it was noticed.
        at: Moment,
        /// What.
        wrong: Box<Wrong>,
    },
    /// Something else that never may happen.
    #[error("seed {0}: {1}")]
    Unsafe(u64, Violation),
}

/// Runs the scenario of a seed with address management on all members, whose clients ask, claim and give back while things
/// break, disks among them; then everything is repaired, and nothing may be missing.
///
/// # Errors
/// The first thing that never may happen.
pub fn run_addresses(seed: u64, nodes: usize, chaos: Duration) -> Result<AddressOutcome, AddressFailure> {
    let failed = |violation| AddressFailure::Unsafe(seed, violation);
    let mut scenario = Scenario::from_seed(seed, nodes, chaos);
    for (_, fault) in &mut scenario.faults {
        if let Fault::Start { boot, .. } = fault {
            *boot = Boot::Next;
        }
    }
    let mut world = World::new(&scenario, None);
    let mut rng = rng_from(seed ^ 0xc11e);
    let range = RANGES[index_below(&mut rng, RANGES.len())].parse().expect("a range");
    let deadly = [0, 12, 60][index_below(&mut rng, 3)];
    world.manage_addresses(nodes, range, seed, deadly);
    let check = |world: &World| match world.wrong() {
        Some(wrong) => Err(AddressFailure::Wrong { seed, at: world.now(), wrong: Box::new(wrong.clone()) }),
        None => Ok(()),
    };
    let mut clients = 0;
    while world.now() < Moment::ORIGIN + chaos {
        let host = HostId(index_below(&mut rng, nodes));
        let request = wish(&mut world, &mut rng, range, &mut clients);
        if let Some((host, request)) = request.map(|(of, request)| (of.unwrap_or(host), request)) {
            world.ask_addresses(host, request, Duration::from_secs(3)).map_err(failed)?;
        }
        world.run_for(below(&mut rng, WISHES_EVERY)).map_err(failed)?;
        check(&world)?;
    }
    if let Some(management) = &mut world.management {
        management.deadly = 0;
    }
    world.run_for(CONVERGED_WITHIN + QUIET_FOR).map_err(failed)?;
    world.ask_all_again(nodes).map_err(failed)?;
    check(&world)?;
    world.run_for(QUIET_FOR).map_err(failed)?;
    if let Some(wrong) = world.address_difference(nodes) {
        return Err(AddressFailure::Wrong { seed, at: world.now(), wrong: Box::new(wrong) });
    }
    let oracle = world.management.map(|management| management.oracle).unwrap_or_default();
    Ok(AddressOutcome { given: oracle.given, deaths: oracle.deaths })
}

/// What a client wants next, and on which host if not on any.
fn wish(
    world: &mut World,
    rng: &mut Rng,
    range: IpNet,
    clients: &mut u64,
) -> Option<(Option<HostId>, Request)> {
    *clients += 1;
    let ident: Ident = format!("c{clients}").parse().expect("a short name");
    match rng.below(100) {
        0..50 => Some((None, Request::Allocate { ident, subnet: range })),
        50..60 => {
            let nth = index_below(rng, 60);
            let address = IpNet::new(range.hosts().nth(nth)?, range.prefix_len()).ok()?;
            Some((None, Request::Claim { ident, address }))
        }
        60..75 => {
            let (host, ident) = world.some_holder()?;
            Some((Some(host), Request::Release { ident, subnet: None }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
