//! How the control plane behaves when there are many: figures, taken from the same nodes in virtual time.
//!
//! They are simulated lightly ([`Scenario::light`]). Hosts join one by one, or begin as if they had joined
//! ([`World::gathered`]). Routes are checked on a sample at the end.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_node::Node;
use mesh_topology::{MergeError, OpenRecord, Record, Verify};
use mesh_wire::Moment;
use mesh_wire::control::{Channel, PeerRecord};

use crate::faults::{Boot, Crash};
use crate::run::Reason;
use crate::scenario::{Scenario, Shape};
use crate::{Fault, HostId, World};

/// All hosts have joined so long after the first at the latest.
const JOINED_WITHIN: Duration = Duration::from_secs(300);

/// A change has reached all so long after at the latest.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// How often it is asked whether all agree.
const ASKED_EVERY: Duration = Duration::from_millis(5);

/// Hosts whose routes are followed to every other.
const SAMPLE: usize = 20;

/// Opens each record once, whoever receives it.
#[derive(Clone, Default)]
pub(crate) struct Memo(Arc<Mutex<HashMap<u64, Arc<Record<PeerRecord>>>>>);

/// Records that are remembered until those that nobody holds any more are dropped.
const REMEMBERED_MAX: usize = 100_000;

impl OpenRecord<PeerRecord> for Memo {
    fn open(&mut self, channel: Channel, entry: &[u8]) -> Result<Arc<Record<PeerRecord>>, MergeError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = entry.last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail));
        if let Some(record) = known.get(&tail).filter(|record| record.entry == entry) {
            return Ok(Arc::clone(record));
        }
        let record = Verify.open(channel, entry)?;
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, record| Arc::strong_count(record) > 1);
        }
        known.insert(tail, Arc::clone(&record));
        Ok(record)
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    /// Hosts.
    pub peers: usize,
    /// Feeds all randomness.
    pub seed: u64,
    /// Whether the hosts join each other one by one: each of them takes in several records of each, and what that costs grows
    /// with the square of their number.
    pub joining: bool,
    /// For how long bytes are counted. Before each change, what the one before it has left open gets half as long.
    pub rest: Duration,
}

/// What was measured. Times are virtual unless said otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Hosts.
    pub peers: usize,
    /// From the first start until all know all; `None` if they began so.
    pub joined: Option<Duration>,
    /// From the first record that names a cut link no longer until all hold all records again.
    pub cut_settled: Duration,
    /// From a stop of one until nobody lists it.
    pub stop_settled: Duration,
    /// From its start until all know it and its links.
    pub start_settled: Duration,
    /// Connections of a peer, on average and at most.
    pub degree: (f64, usize),
    /// Hops of the longest of the routes that were followed.
    pub hops_max: usize,
    /// Bytes of control sessions that a peer writes per second at rest, on average and at most.
    pub control: (u64, u64),
    /// Bytes of probes that a peer sends per second at rest, as UDP payload, on average.
    pub probes: u64,
    /// Real CPU time of one router for one second at rest, with its share of the simulator.
    pub cpu_at_rest: Duration,
    /// Bytes that one router holds for the records of all peers: as they travel, and as they are read.
    pub record_bytes: usize,
    /// Most memory that the process has had, in bytes; records of all routers are shared in it.
    pub memory: u64,
    /// Real time of the whole run.
    pub took: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "peers {}", self.peers)?;
        match self.joined {
            Some(joined) => writeln!(f, "all joined after {:.2} s", joined.as_secs_f64())?,
            None => writeln!(f, "all had joined at the beginning")?,
        }
        writeln!(f, "one link cut: settled after {:.3} s", self.cut_settled.as_secs_f64())?;
        writeln!(f, "one stopped: settled after {:.3} s", self.stop_settled.as_secs_f64())?;
        writeln!(f, "one started: settled after {:.3} s", self.start_settled.as_secs_f64())?;
        writeln!(f, "connections of a peer: {:.1} on average, {} at most", self.degree.0, self.degree.1)?;
        writeln!(f, "longest route {} hops", self.hops_max)?;
        writeln!(
            f,
            "at rest: control {} B/s on average, {} at most; probes {} B/s",
            self.control.0, self.control.1, self.probes
        )?;
        writeln!(f, "at rest: {:.1} us of CPU a second and peer", self.cpu_at_rest.as_secs_f64() * 1e6)?;
        writeln!(f, "records of all: {} kB in each router", self.record_bytes / 1_000)?;
        writeln!(f, "memory {} MB in all, where routers share records", self.memory / 1_000_000)?;
        write!(f, "took {:.0} s", self.took.as_secs_f64())
    }
}

/// Starts the hosts, cuts a link, lets one host stop and start again, and then all rest. Tells `progress` what is done, so that
/// something is known of a run that is broken off.
///
/// # Errors
/// What went wrong.
pub fn measure(asked: &Measurement, progress: impl Fn(&str)) -> Result<Figures, Reason> {
    let Measurement { peers, seed, joining, rest } = *asked;
    let began = Instant::now();
    let mut scenario = Scenario::quiet(seed, peers, Shape::Random);
    scenario.light = true;
    scenario.latency_max = Duration::from_millis(30);
    let (mut world, joined) =
        if joining { join(&mut scenario)? } else { (World::gathered(&scenario)?, None) };
    let settled = |what: &str, after: Duration| {
        progress(&format!("{what}: settled after {:.3} s", after.as_secs_f64()));
    };
    progress(&format!("all have joined; memory {} MB", memory_max() / 1_000_000));
    world.run_for(rest / 2)?;
    agree(&mut world, peers)?;

    let one = HostId(peers / 2);
    let cut_settled = cut_one_link(&mut world, one, peers)?;
    settled("one link cut", cut_settled);
    world.run_for(rest / 2)?;
    world.now_let(&Fault::Crash { host: one, how: Crash::Stopped })?;
    let stop_settled = agree(&mut world, peers - 1)?;
    settled("one stopped", stop_settled);
    world.run_for(rest / 2)?;
    world.now_let(&Fault::Start { host: one, boot: Boot::Next })?;
    let start_settled = agree(&mut world, peers)?;
    settled("one started", start_settled);
    world.run_for(rest / 2)?;

    let before: Vec<_> = world.hosts.iter().map(|host| host.tally).collect();
    let rest_began = Instant::now();
    world.run_for(rest)?;
    let cpu_at_rest = rest_began.elapsed().div_f64(peers as f64 * rest.as_secs_f64());
    let per_second = |bytes: u64| bytes / rest.as_secs();
    progress("all have rested");
    let control: Vec<_> = world
        .hosts
        .iter()
        .zip(&before)
        .map(|(host, before)| per_second(host.tally.control_bytes - before.control_bytes))
        .collect();
    let sent = world.hosts.iter().zip(&before);
    let probes: u64 = sent.map(|(host, before)| host.tally.probe_bytes - before.probe_bytes).sum();
    let degrees: Vec<_> = world.hosts.iter().map(|host| host.degree()).collect();
    Ok(Figures {
        peers,
        joined,
        cut_settled,
        stop_settled,
        start_settled,
        degree: (degrees.iter().sum::<usize>() as f64 / peers as f64, degrees.into_iter().max().unwrap_or(0)),
        hops_max: world.follow_routes(SAMPLE)?,
        control: (control.iter().sum::<u64>() / peers as u64, control.into_iter().max().unwrap_or(0)),
        probes: per_second(probes) / peers as u64,
        cpu_at_rest,
        record_bytes: world.node(one).map_or(0, |node| node.topology_bytes()),
        memory: memory_max(),
        took: began.elapsed(),
    })
}

/// Starts the hosts one after the other.
fn join(scenario: &mut Scenario) -> Result<(World, Option<Duration>), Reason> {
    scenario.start_within =
        Duration::from_millis(10) * u32::try_from(scenario.hosts.len()).unwrap_or(u32::MAX);
    let mut world = World::new(scenario, None);
    world.run_until(Moment::ORIGIN + scenario.start_within)?;
    let settled = settle(&mut world, scenario, JOINED_WITHIN)?;
    Ok((world, Some(settled + scenario.start_within)))
}

/// `VmHWM` of proc(5), in bytes; 0 where there is none.
fn memory_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.map_or(0, |kilobytes| kilobytes * 1_024)
}

/// Cuts a link of `one`, and opens it again when all know.
fn cut_one_link(world: &mut World, one: HostId, peers: usize) -> Result<Duration, Reason> {
    let own = |world: &World| world.node(one).map(|node| node.own_record().version);
    let before = own(world);
    let other = world.neighbour_of(one);
    for (from, to) in [(one, other), (other, one)] {
        world.now_let(&Fault::Block { from, to })?;
    }
    let began = world.now();
    while own(world) == before {
        if world.now().since(began) > SETTLED_WITHIN {
            return Err(Reason::NotSettled { views: 1, within: SETTLED_WITHIN });
        }
        world.run_for(ASKED_EVERY)?;
    }
    let settled = agree(world, peers)?;
    for (from, to) in [(one, other), (other, one)] {
        world.now_let(&Fault::Unblock { from, to })?;
    }
    Ok(settled)
}

/// Runs until all hold the same records of so many peers. Returns how long it took.
fn agree(world: &mut World, peers: usize) -> Result<Duration, Reason> {
    let began = world.now();
    loop {
        let view = |node: &Node| (node.topology_root(), node.peer_count());
        let first = world.nodes().next().map_or((0, peers), view);
        if first.1 == peers && world.nodes().all(|node| view(node) == first) {
            return Ok(world.now().since(began));
        }
        if world.now().since(began) > SETTLED_WITHIN {
            let roots: BTreeSet<_> = world.nodes().map(Node::topology_root).collect();
            return Err(Reason::NotSettled { views: roots.len(), within: SETTLED_WITHIN });
        }
        world.run_for(ASKED_EVERY)?;
    }
}

/// Runs until nothing is missing. Returns how long it took.
fn settle(world: &mut World, scenario: &Scenario, limit: Duration) -> Result<Duration, Reason> {
    let began = world.now();
    while let Some(difference) = world.difference(scenario) {
        if world.now().since(began) > limit {
            return Err(Reason::NotConverged(difference));
        }
        world.run_for(ASKED_EVERY)?;
    }
    Ok(world.now().since(began))
}
