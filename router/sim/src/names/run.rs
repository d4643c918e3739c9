//! A whole run with names: containers come, go and are renamed while routers and the network break; whenever it falls quiet,
//! healed or with parts still missing, every router must answer as the model does.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mesh_crypto::Rng;
use mesh_names::{ContainerId, Entry};
use mesh_wire::{BootCount, Moment};

use super::WrongName;
use crate::faults::{Boot, Crash, Fault};
use crate::invariants::Violation;
use crate::network::below;
use crate::run::{CONVERGED_WITHIN, caught};
use crate::scenario::{Scenario, Shape, rng_from};
use crate::tcp::index_below;
use crate::trace::{Sink, Trace};
use crate::world::{HostId, World};

/// Times of quiet in a run.
const ROUNDS: u32 = 3;

/// Something changes so often at most.
const CHANGES_EVERY: Duration = Duration::from_millis(200);

/// How often it is looked whether all answer right.
const LOOKED_EVERY: Duration = Duration::from_millis(500);

/// Once all answer right, they go on doing so for this long at least.
const STAYS_FOR: Duration = Duration::from_secs(5);

/// Packets of a hundred that are lost at most.
const LOSS_MAX: u64 = 20;

/// How far clocks jump.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Containers share so many names, and so many addresses of each host.
const NAMES: usize = 60;
const ADDRESSES: usize = 20;

/// Connections that a router wants at most: so few that most peers are reached through others.
const CONNECTION_LIMIT: usize = 6;

/// What happened in a run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct NameTally {
    /// Times that a container's names changed.
    pub changes: u64,
    /// Routers that ended.
    pub crashes: u64,
    /// Times that the network was cut in two.
    pub partitions: u64,
    /// Clocks that jumped by a day.
    pub jumps: u64,
    /// Names that were visible everywhere at the end.
    pub names: usize,
}

/// How a run with names went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameOutcome {
    /// What happened.
    pub tally: NameTally,
    /// The longest time from the last fault until all answered right.
    pub slowest: Duration,
    /// Hash over all events.
    pub trace: u64,
}

impl fmt::Display for NameOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NameTally { changes, crashes, partitions, jumps, names } = self.tally;
        write!(
            f,
            "{names} entries after {changes} changes, {crashes} crashes, {partitions} partitions, {jumps} days; right after \
             {:.1} s at most, trace {:016x}",
            self.slowest.as_secs_f64(),
            self.trace
        )
    }
}

/// Why a run with names failed; the seed repeats it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFailure {
    /// A router does not answer as it should, although all has been quiet long enough.
    #[error("seed {seed}, at {:.3} s: {wrong}", at.since_origin().as_secs_f64())]
    Wrong {
        /// The seed.
        seed: u64,
        /// When.
        at: Moment,
        /// How.
        wrong: Box<WrongName>,
    },
    /// Something that never may happen.
    #[error("seed {0}: {1}")]
    Unsafe(u64, Violation),
}

/// What ends a run before its time.
#[derive(Debug)]
enum Stop {
    Wrong(WrongName),
    Unsafe(Violation),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Unsafe(violation)
    }
}

/// Runs so many routers whose containers' names change while things break, for `chaos` in all.
///
/// # Errors
/// The first answer that is not the model's although all has been quiet for [`CONVERGED_WITHIN`], and whatever else never may
/// happen.
pub fn run_names(
    seed: u64,
    nodes: usize,
    chaos: Duration,
    sink: Option<Sink>,
) -> Result<NameOutcome, NameFailure> {
    let mut rng = rng_from(seed ^ 0x0a3e5);
    let mut scenario = Scenario::quiet(seed, nodes, Shape::Everybody);
    scenario.latency_max = [1, 5, 20, 100].map(Duration::from_millis)[index_below(&mut rng, 4)];
    scenario.start_within = [0, 500, 5_000].map(Duration::from_millis)[index_below(&mut rng, 3)];
    scenario.hosts.iter_mut().for_each(|host| host.connection_limit = CONNECTION_LIMIT);
    scenario.light = true;
    let mut world = World::new(&scenario, None);
    world.trace = Trace::new(sink);
    let mut run = Run { world, rng, containers: 0, tally: NameTally::default() };
    let outcome = caught(|| run.rounds(chaos));
    let (at, trace) = (run.world.now(), run.world.trace().hash());
    match outcome {
        Ok(slowest) => Ok(NameOutcome { tally: run.tally, slowest, trace }),
        Err(Stop::Wrong(wrong)) => Err(NameFailure::Wrong { seed, at, wrong: Box::new(wrong) }),
        Err(Stop::Unsafe(violation)) => Err(NameFailure::Unsafe(seed, violation)),
    }
}

struct Run {
    world: World,
    rng: Rng,
    containers: u64,
    tally: NameTally,
}

impl Run {
    /// Returns the longest time that it took until all answered right.
    fn rounds(&mut self, chaos: Duration) -> Result<Duration, Stop> {
        let mut slowest = Duration::ZERO;
        for round in 1..=ROUNDS {
            let end = self.world.now() + chaos / ROUNDS;
            while self.world.now() < end {
                self.step()?;
                let pause = below(&mut self.rng, CHANGES_EVERY);
                self.world.run_for(pause)?;
            }
            // What is left broken at the end of a round stays so while all is quiet, but for the last.
            if round == ROUNDS || self.rng.below(2) == 0 {
                self.world.now_let(&Fault::Calm)?;
            } else {
                self.world.now_let(&Fault::Loss(0))?;
            }
            slowest = slowest.max(self.settle()?);
        }
        self.tally.names = self.world.naming.shown(|_| true).len();
        Ok(slowest)
    }

    /// Waits until all answer right, and wants them to stay so.
    fn settle(&mut self) -> Result<Duration, Stop> {
        let quiet = self.world.now();
        while let Some(wrong) = self.world.entry_difference() {
            if self.world.now().since(quiet) >= CONVERGED_WITHIN {
                return Err(Stop::Wrong(wrong));
            }
            self.world.run_for(LOOKED_EVERY)?;
        }
        let took = self.world.now().since(quiet);
        self.world.run_for(STAYS_FOR)?;
        let wrong = self.world.entry_difference().or_else(|| self.world.answer_difference(&mut self.rng));
        wrong.map_or(Ok(took), |wrong| Err(Stop::Wrong(wrong)))
    }

    /// One change of the world.
    fn step(&mut self) -> Result<(), Violation> {
        let host = HostId(index_below(&mut self.rng, self.world.hosts.len()));
        match self.rng.below(100) {
            0..85 => self.rename(host),
            85..88 => {
                let how = [Crash::Stopped, Crash::Killed, Crash::PowerCut][index_below(&mut self.rng, 3)];
                self.tally.crashes += u64::from(self.world.node(host).is_some());
                self.world.now_let(&Fault::Crash { host, how })
            }
            88..92 => {
                let down =
                    (0..self.world.hosts.len()).map(HostId).find(|host| self.world.node(*host).is_none());
                let restored = Boot::Restored(BootCount(1));
                let boot = if self.rng.below(8) == 0 { restored } else { Boot::Next };
                down.map_or(Ok(()), |host| self.world.now_let(&Fault::Start { host, boot }))
            }
            92..94 => {
                let sides = (0..self.world.hosts.len()).map(|_| self.rng.below(2) == 0).collect();
                self.tally.partitions += 1;
                self.world.now_let(&Fault::Partition(sides))
            }
            94 => self.world.now_let(&Fault::Partition(vec![false; self.world.hosts.len()])),
            95..97 => {
                let percent = self.rng.below(LOSS_MAX + 1);
                self.world.now_let(&Fault::Loss(percent))
            }
            97 => {
                let length = below(&mut self.rng, Duration::from_secs(5));
                self.world.now_let(&Fault::Pause { host, length })
            }
            _ => {
                self.tally.jumps += 1;
                self.world.now_let(&Fault::ClockJump { host, by: DAY })
            }
        }
    }

    /// A container of a host comes, goes, or gets another name or loses one.
    fn rename(&mut self, host: HostId) -> Result<(), Violation> {
        if self.world.node(host).is_none() {
            return Ok(());
        }
        self.tally.changes += 1;
        let present = self.world.naming.containers(host);
        let some = (!present.is_empty()).then(|| present[index_below(&mut self.rng, present.len())].clone());
        let (container, entries) = match (self.rng.below(10), some) {
            (0..3, Some(container)) => (container, BTreeSet::new()),
            (3..6, Some(container)) => {
                let mut entries = self.world.naming.of(host, &container);
                if self.rng.below(2) == 0 {
                    entries.pop_first();
                } else {
                    entries.insert(self.entry(host, &container));
                }
                (container, entries)
            }
            (_, _) => {
                self.containers += 1;
                let container: ContainerId = format!("c{}", self.containers).parse().expect("a short id");
                let count = 1 + self.rng.below(3);
                let entries = (0..count).map(|_| self.entry(host, &container)).collect();
                (container, entries)
            }
        };
        self.world.name(host, container, entries)
    }

    /// An entry of names that others have, too; some lie below others.
    fn entry(&mut self, host: HostId, container: &ContainerId) -> Entry {
        let number = index_below(&mut self.rng, NAMES);
        let name = if number.is_multiple_of(5) {
            format!("n{number}.n1.mesh.internal")
        } else {
            format!("n{number}.mesh.internal")
        };
        let at = u8::try_from(1 + index_below(&mut self.rng, ADDRESSES)).expect("few");
        let host = u8::try_from(host.0).expect("fewer than 256 hosts have names");
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, host, at));
        let port = (self.rng.below(4) == 0).then_some(8000 + u16::from(at));
        Entry::new(&name, address, container.clone(), port).expect("it is well-formed")
    }
}
