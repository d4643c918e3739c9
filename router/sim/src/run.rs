//! A whole run of a scenario: things break, are repaired, and then everything must come right and fall quiet.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mesh_node::limits::SESSION_SILENCE_MAX;
use mesh_wire::Moment;

use crate::convergence::Difference;
use crate::invariants::{Panic, Violation};
use crate::scenario::{Scenario, Secret};
use crate::trace::Sink;
use crate::world::{Tally, World};

/// All members agree so long after the last fault at the latest. It holds the longest silence before a session is
/// given up (10 s), the longest wait before the next attempt after 20 s of trouble (6 s), and a dial that times out
/// (3 s), and leaves as much again.
pub const CONVERGED_WITHIN: Duration = Duration::from_secs(40);

/// Once they agree, nothing changes for this long.
pub const QUIET_FOR: Duration = Duration::from_secs(30);

/// They have agreed when they have done so for this long: what is under way at a moment of agreement, such as a dial
/// that will turn out to be a second one, shows within it.
pub const SETTLED_FOR: Duration = Duration::from_secs(3);

/// A connection whose retransmissions back off may be given up so long after the last fault, although its path is good
/// again: before that, agreement may be followed by one more change.
const AFTERMATH: Duration = Duration::from_secs(SESSION_SILENCE_MAX.as_secs() + 1);

/// A router tells of a round trip that has become another so long after it has seen that, and a moment more.
const TOLD_LATER: Duration = Duration::from_secs(11);

/// How often it is asked whether all agree.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Hash over all events.
    pub trace: u64,
    /// Events handled.
    pub events: u64,
    /// Virtual time that passed.
    pub lasted: Duration,
    /// From the last fault, or the start, until all agreed.
    pub converged_after: Duration,
    /// Plans that one router made at most, until all agreed.
    pub plans_max: u64,
    /// Control bytes that one router wrote at most, until all agreed.
    pub control_bytes_max: u64,
    /// Control bytes that one router wrote at most while all was quiet, per second.
    pub quiet_bytes_per_second_max: u64,
}

/// Why a run failed; with the seed and the number of routers it can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, {hosts} hosts, at {:.6} s: {fault}", at.since_origin().as_secs_f64())]
pub struct Failure {
    /// The scenario's seed.
    pub seed: u64,
    /// The number of its hosts.
    pub hosts: usize,
    /// When.
    pub at: Moment,
    /// What.
    pub fault: Reason,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "converged after {:.2} s; {} events in {:.1} s; plans {}, bytes {}, quiet {} B/s, trace {:016x}",
            self.converged_after.as_secs_f64(),
            self.events,
            self.lasted.as_secs_f64(),
            self.plans_max,
            self.control_bytes_max,
            self.quiet_bytes_per_second_max,
            self.trace,
        )
    }
}

/// What makes a run fail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Something happened that never may.
    #[error("{0}")]
    Unsafe(#[from] Violation),
    /// The members do not agree in time.
    #[error("not converged within {limit} s: {0}", limit = CONVERGED_WITHIN.as_secs())]
    NotConverged(Difference),
    /// A change does not reach all in time.
    #[error("after {} s there are still {views} views of the topology", within.as_secs())]
    NotSettled {
        /// How many different ones.
        views: usize,
        /// Within which time there should be one.
        within: Duration,
    },
    /// Something changed after all had agreed and nothing broke.
    #[error("not quiet: {0}")]
    NotQuiet(Unrest),
}

/// What is not quiet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unrest {
    /// The members agree no more.
    #[error("{0}")]
    Differs(Difference),
    /// A router made new plans.
    #[error("a router made {0} new plans")]
    Plans(u64),
    /// Members opened new sessions.
    #[error("a router opened {0} new sessions")]
    Sessions(u64),
    /// A router talks more than [`control_bytes_max`] allows.
    #[error("a router wrote {0} control bytes a second")]
    Bytes(u64),
}

/// Most control bytes that a router of a quiet network writes per second: for each neighbour a ping and a pong of 21
/// bytes every three seconds, a digest of 28 bytes a peer every ten seconds and perhaps an answer to one, and for each
/// host that cannot join, attempts at it.
#[must_use]
pub fn control_bytes_max(scenario: &Scenario) -> u64 {
    let outside = scenario.hosts.iter().filter(|host| host.secret != Secret::Right || host.is_closed());
    let talks: usize = scenario.hosts.iter().map(|host| host.talks_to.len()).sum();
    64 + (24 * scenario.hosts.len() + 256 * outside.count() + 256 * talks) as u64
}

/// Runs a scenario to its end. Lines of the trace go to `sink`.
///
/// # Errors
/// The first thing that went wrong.
pub fn run(scenario: &Scenario, sink: Option<Sink>) -> Result<Outcome, Failure> {
    let mut world = World::new(scenario, sink);
    let outcome = caught(|| phases(&mut world, scenario));
    let (seed, hosts, at) = (scenario.seed, scenario.hosts.len(), world.now());
    outcome.map_err(|fault| Failure { seed, hosts, at, fault })
}

/// Does something, and takes a panic for the violation that it is.
pub(crate) fn caught<T, E: From<Violation>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        let text = text.unwrap_or("without words").to_owned();
        Err(Violation::Panic(Panic { text }).into())
    })
}

fn phases(world: &mut World, scenario: &Scenario) -> Result<Outcome, Reason> {
    let last_fault = scenario.faults.last().map_or(Duration::ZERO, |(at, _)| *at);
    world.run_until(Moment::ORIGIN + last_fault.max(scenario.start_within))?;
    let converged_after = converge(world, scenario)?;
    world.follow_routes(scenario.hosts.len())?;
    world.run_for(TOLD_LATER)?;
    let before: Vec<Tally> = world.hosts.iter().map(|host| host.tally).collect();
    world.run_for(QUIET_FOR)?;
    let quiet_bytes_per_second_max = quiet(world, scenario, &before)?;
    Ok(Outcome {
        trace: world.trace().hash(),
        events: world.events(),
        lasted: world.now().since_origin(),
        converged_after,
        plans_max: before.iter().map(|tally| tally.plans).max().unwrap_or(0),
        control_bytes_max: before.iter().map(|tally| tally.control_bytes).max().unwrap_or(0),
        quiet_bytes_per_second_max,
    })
}

/// Runs until the members have agreed for [`SETTLED_FOR`]. Returns from when on they did, counted from now.
fn converge(world: &mut World, scenario: &Scenario) -> Result<Duration, Reason> {
    let calm = world.now();
    let aftermath = if scenario.faults.is_empty() { Duration::ZERO } else { AFTERMATH };
    let mut agreed_since = None;
    loop {
        let now = world.now();
        match world.difference(scenario) {
            None if now.since(*agreed_since.get_or_insert(now)) >= SETTLED_FOR
                && now.since(calm) >= aftermath =>
            {
                break;
            }
            None => {}
            Some(difference) if now.since(calm) >= CONVERGED_WITHIN => {
                return Err(Reason::NotConverged(difference));
            }
            Some(_) => agreed_since = None,
        }
        world.run_for(ASKED_EVERY)?;
    }
    Ok(agreed_since.map_or(Duration::ZERO, |since| since.since(calm)))
}

fn quiet(world: &World, scenario: &Scenario, before: &[Tally]) -> Result<u64, Reason> {
    if let Some(difference) = world.difference(scenario) {
        return Err(Reason::NotQuiet(Unrest::Differs(difference)));
    }
    let change = |count: fn(&Tally) -> u64| {
        let each = world.hosts.iter().zip(before).map(|(host, before)| count(&host.tally) - count(before));
        each.max().unwrap_or(0)
    };
    let bytes = change(|tally| tally.control_bytes) / QUIET_FOR.as_secs();
    match (change(|tally| tally.plans), change(|tally| tally.sessions)) {
        (0, 0) if bytes <= control_bytes_max(scenario) => Ok(bytes),
        (0, 0) => Err(Reason::NotQuiet(Unrest::Bytes(bytes))),
        (0, sessions) => Err(Reason::NotQuiet(Unrest::Sessions(sessions))),
        (plans, _) => Err(Reason::NotQuiet(Unrest::Plans(plans))),
    }
}
