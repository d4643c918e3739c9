//! Address management in simulated routers: their disks, their clients, and an oracle that knows who was told what.
//!
//! Owns what is on each host's disk, and when: a batch is written after a while, and a router may die before that, or after it
//! and before it hears of it. Disks are lost, put back and copied, too. The rules themselves are those of `mesh-ipam` in the node.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use mesh_crypto::Rng;
use mesh_ipam::{Founding, Ident, Request, Ticket};
use mesh_node::{AddressOutput, Addresses, Input};
use mesh_wire::{Moment, PeerId};

use crate::faults::{Boot, Crash, Fault};
use crate::invariants::Violation;
use crate::network::below;
use crate::run::{CONVERGED_WITHIN, QUIET_FOR, caught};
use crate::scenario::{Scenario, rng_from};
use crate::tcp::index_below;
use crate::trace::Sink;
use crate::world::{HostId, World};

mod disks;
mod oracle;

use disks::Harms;
use oracle::{FINAL, Oracle, ident_of};
pub use oracle::{Tally as AddressTally, Wrong};

const RANGES: [&str; 3] = ["10.0.0.0/26", "10.0.0.0/24", "fd00::/120"];

/// Clients want something so often at most.
const WISHES_EVERY: Duration = Duration::from_millis(150);

/// How long whoever asks when all is quiet again waits: freed addresses may have to cool down.
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
    /// Those of the hosts that manage addresses.
    disks: BTreeMap<HostId, Disk>,
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

impl Management {
    pub(crate) fn new(voters: usize, range: IpNet, seed: u64, deadly: u64) -> Self {
        Self {
            range,
            voters,
            disks: (0..voters).map(|host| (HostId(host), Disk::default())).collect(),
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
        self.asked.retain(|_, (of, _)| *of != host);
        let Some(disk) = self.disks.get_mut(&host) else { return };
        if let Some((_, bytes)) = std::mem::take(&mut disk.unsynced).first().filter(|_| cut.is_multiple_of(2))
        {
            let len = usize::try_from(cut % bytes.len() as u64).expect("less than a length");
            disk.log.extend_from_slice(&bytes[..len]);
        }
    }

    /// What a router starts from.
    pub(crate) fn opened(&mut self, host: HostId, me: PeerId) -> Option<Addresses> {
        let disk = self.disks.get_mut(&host)?;
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

impl World {
    /// Lets members manage addresses of `range`, from the next start of each on. The first `voters` hosts are the members. One
    /// batch in `deadly` kills its router before it is on disk, and one after that.
    pub(crate) fn manage_addresses(&mut self, voters: usize, range: IpNet, seed: u64, deadly: u64) {
        self.management = Some(Management::new(voters, range, seed, deadly));
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
            management.oracle.released(host, ident);
            management.asked.retain(|_, (of, asked)| *of != host || ident_of(asked) != Some(ident));
        }
        if let Request::Retire { peer } = &request {
            management.oracle.retired(*peer);
        }
        management.asked.insert(ticket, (host, request.clone()));
        self.input(host, Input::Ipam(mesh_ipam::Input::Request { ticket, request, deadline }))
    }

    pub(crate) fn address_output(&mut self, host: HostId, output: AddressOutput) {
        let (now, peer) = (self.now(), self.peer(host));
        if let AddressOutput::Answer { ticket, result } = &output {
            self.trace.record(now, format_args!("{host} answers {ticket:?} {result:?}"), &[]);
        }
        let Some(management) = &mut self.management else { return };
        match output {
            AddressOutput::Persist { seq, bytes } => {
                let Some(disk) = management.disks.get_mut(&host) else { return };
                let is_first = disk.unsynced.is_empty();
                disk.unsynced.push((seq, bytes));
                if is_first {
                    let time = below(&mut management.rng, DISK_TIME_MAX);
                    self.push_sync(host, time);
                }
            }
            AddressOutput::Answer { ticket, result } => {
                if let Some((host, request)) = management.asked.remove(&ticket) {
                    management.oracle.told((host, peer), &request, result, now);
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
        if let Some(disk) = management.disks.get_mut(&host).filter(|_| fate != 0) {
            for (seq, bytes) in disk.unsynced.drain(..) {
                disk.log.extend(bytes);
                last = Some(seq);
            }
        }
        if fate < 2 {
            management.oracle.tally.deaths += 1;
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
    fn some_client(&mut self) -> Option<(HostId, Ident)> {
        let management = self.management.as_mut()?;
        let clients = management.oracle.clients();
        let nth = usize::try_from(management.rng.below(clients.len().max(1) as u64)).ok()?;
        clients.into_iter().nth(nth)
    }

    fn oracle(&mut self) -> &mut Oracle {
        &mut self.management.as_mut().expect("addresses are managed in this world").oracle
    }

    /// All hosts whose routers manage addresses.
    fn managed(&self) -> Vec<HostId> {
        self.management.iter().flat_map(|management| management.disks.keys().copied()).collect()
    }

    /// Asks for all that was told, and for one address more on each host: all of it must be there, and everybody served.
    fn ask_all_again(&mut self) -> Result<(), Violation> {
        let Some(management) = &self.management else { return Ok(()) };
        let range = management.range;
        for (host, ident) in management.oracle.clients() {
            self.ask_addresses(host, Request::Lookup { ident, subnet: None }, FINAL_WAIT)?;
        }
        let ident: Ident = FINAL.parse().expect("a short name");
        for host in self.managed() {
            self.ask_addresses(host, Request::Allocate { ident: ident.clone(), subnet: range }, FINAL_WAIT)?;
        }
        self.run_for(FINAL_WAIT)
    }

    /// What differs between routers after quiet, if anything.
    fn address_difference(&self) -> Option<Wrong> {
        let range = self.management.as_ref()?.range;
        let all = mesh_ipam::range::Range::from(range).count();
        let mut first: Option<(HostId, BTreeMap<PeerId, u128>)> = None;
        for host in self.managed() {
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
    /// What happened to addresses and disks.
    pub tally: AddressTally,
    /// Hash over all events.
    pub trace: u64,
}

impl fmt::Display for AddressOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, trace {:016x}", self.tally, self.trace)
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
/// break, disks among them; then everything is repaired, an operator makes good what routers cannot, and nothing may be
/// missing. Lines of the trace go to `sink`.
///
/// # Errors
/// The first thing that never may happen.
pub fn run_addresses(
    seed: u64,
    nodes: usize,
    chaos: Duration,
    sink: Option<Sink>,
) -> Result<AddressOutcome, AddressFailure> {
    let mut scenario = Scenario::from_seed(seed, nodes, chaos);
    for (_, fault) in &mut scenario.faults {
        if let Fault::Start { boot, .. } = fault {
            *boot = Boot::Next;
        }
    }
    let mut world = World::new(&scenario, sink);
    match caught(|| address_phases(&mut world, seed, nodes, chaos)).map_err(|reason| (world.now(), reason)) {
        Ok(()) => {
            let tally = world.oracle().tally;
            Ok(AddressOutcome { tally, trace: world.trace().hash() })
        }
        Err((at, Stop::Wrong(wrong))) => Err(AddressFailure::Wrong { seed, at, wrong: Box::new(wrong) }),
        Err((_, Stop::Unsafe(violation))) => Err(AddressFailure::Unsafe(seed, violation)),
    }
}

/// What ends a run before its time.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("{0}")]
    Wrong(Wrong),
    #[error("{0}")]
    Unsafe(#[from] Violation),
}

fn address_phases(world: &mut World, seed: u64, nodes: usize, chaos: Duration) -> Result<(), Stop> {
    let mut rng = rng_from(seed ^ 0xc11e);
    let range = RANGES[index_below(&mut rng, RANGES.len())].parse().expect("a range");
    let deadly = [0, 12, 60][index_below(&mut rng, 3)];
    world.manage_addresses(nodes, range, seed, deadly);
    let mut harms = Harms::draw(&mut rng);
    let check = |world: &World| world.wrong().map_or(Ok(()), |wrong| Err(Stop::Wrong(wrong.clone())));
    let mut clients = 0;
    while world.now() < Moment::ORIGIN + chaos {
        let hosts = world.managed();
        let host = hosts[index_below(&mut rng, hosts.len())];
        let request = wish(world, &mut rng, range, &mut clients);
        if let Some((host, request)) = request.map(|(of, request)| (of.unwrap_or(host), request)) {
            world.ask_addresses(host, request, Duration::from_secs(3))?;
        }
        world.harm(&mut harms, &mut rng, nodes)?;
        world.run_for(below(&mut rng, WISHES_EVERY))?;
        check(world)?;
    }
    if let Some(management) = &mut world.management {
        management.deadly = 0;
    }
    world.run_for(CONVERGED_WITHIN + QUIET_FOR)?;
    world.make_good(&harms, nodes)?;
    world.ask_all_again()?;
    check(world)?;
    world.run_for(QUIET_FOR)?;
    world.address_difference().map_or(Ok(()), |wrong| Err(Stop::Wrong(wrong)))
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
            let (host, ident) = world.some_client()?;
            Some((Some(host), Request::Release { ident, subnet: None }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
