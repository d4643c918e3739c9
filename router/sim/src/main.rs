//! Runs many seeds and prints how each went.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use mesh_sim::{Measurement, Scenario, Sink, measure, run, run_addresses, run_names};

/// Up to so many seeds, each gets a line.
const SHOWN_MAX: u64 = 100;

/// Simulates networks of routers, one for each seed.
#[derive(Parser)]
struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// First seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Routers that belong together
    #[arg(long, default_value_t = 10)]
    nodes: usize,
    /// For how many seconds things break
    #[arg(long, default_value_t = 20)]
    chaos: u64,
    /// Run each seed twice and compare the traces
    #[arg(long)]
    twice: bool,
    /// Print every event
    #[arg(long)]
    verbose: bool,
    /// Instead of seeds with faults: figures of one quiet network of so many routers
    #[arg(long)]
    measure: bool,
    /// With --measure: they join one by one instead of beginning as if they had
    #[arg(long, requires = "measure")]
    joining: bool,
    /// With --measure: for how many seconds bytes are counted; before each change all rest half as long
    #[arg(long, requires = "measure", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    rest: u64,
    /// Routers that manage addresses, whose disks and clients are simulated, too
    #[arg(long, conflicts_with = "measure")]
    addresses: bool,
    /// Routers whose containers have names, compared with a model of what each must answer
    #[arg(long, conflicts_with_all = ["measure", "addresses"])]
    names: bool,
    /// Seeds that run at once
    #[arg(long, default_value_t = 1)]
    jobs: usize,
}

/// What is simulated.
#[derive(Clone, Copy)]
enum Mode {
    Network,
    Addresses,
    Names,
}

/// What came of a seed, in words, and after which time the network had converged, where that is measured.
#[derive(PartialEq, Eq)]
struct Done {
    text: String,
    converged_after: Option<Duration>,
}

/// A seed, what came of it or why it failed, and how long it really took.
type Report = (u64, Result<Done, String>, Duration);

fn main() -> ExitCode {
    let options = Options::parse();
    match &options {
        Options { measure: true, .. } => measured(&options),
        Options { addresses: true, .. } => seeds(&options, Mode::Addresses),
        Options { names: true, .. } => seeds(&options, Mode::Names),
        Options { .. } => seeds(&options, Mode::Network),
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this program is for")]
fn measured(options: &Options) -> ExitCode {
    let Options { nodes: peers, seed, joining, rest, .. } = *options;
    let began = Instant::now();
    let progress = |done: &str| eprintln!("{:.0} s: {done}", began.elapsed().as_secs_f64());
    match measure(&Measurement { peers, seed, joining, rest: Duration::from_secs(rest) }, progress) {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("FAILED {reason}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn seeds(options: &Options, mode: Mode) -> ExitCode {
    let next = AtomicU64::new(options.seed);
    let (done, reports) = mpsc::channel();
    let mut converged = Vec::new();
    let mut failures = 0_u32;
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            let (next, done) = (&next, done.clone());
            scope.spawn(move || run_seeds(options, mode, next, &done));
        }
        drop(done);
        for (seed, outcome, took) in reports {
            match outcome {
                Ok(Done { text, converged_after }) => {
                    if options.seeds <= SHOWN_MAX {
                        println!("seed {seed}: {text}, in {:.2} s", took.as_secs_f64());
                    }
                    converged.extend(converged_after);
                }
                Err(failure) => {
                    println!("FAILED {failure}");
                    failures += 1;
                }
            }
        }
    });
    converged.sort_unstable();
    let at = |index: usize| converged.get(index).copied().unwrap_or(Duration::ZERO).as_secs_f64();
    if let Some(last) = converged.len().checked_sub(1) {
        println!("converged: median {:.2} s, worst {:.2} s", at(converged.len() / 2), at(last));
    }
    println!("{} seeds, {failures} failures", options.seeds);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds until none is left. Each is a world of its own, so that they do not know of each other.
fn run_seeds(options: &Options, mode: Mode, next: &AtomicU64, done: &mpsc::Sender<Report>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= options.seed + options.seeds {
            return;
        }
        let started = Instant::now();
        let outcome = one(options, mode, seed, options.verbose.then(|| Box::new(print_line) as Sink));
        let took = started.elapsed();
        let repeated = if options.twice && one(options, mode, seed, None) != outcome {
            Err(format!("seed {seed}: a second run differs"))
        } else {
            outcome
        };
        if done.send((seed, repeated, took)).is_err() {
            return;
        }
    }
}

fn one(options: &Options, mode: Mode, seed: u64, sink: Option<Sink>) -> Result<Done, String> {
    let chaos = Duration::from_secs(options.chaos);
    match mode {
        Mode::Network => match run(&Scenario::from_seed(seed, options.nodes, chaos), sink) {
            Ok(outcome) => {
                Ok(Done { text: outcome.to_string(), converged_after: Some(outcome.converged_after) })
            }
            Err(failure) => Err(failure.to_string()),
        },
        Mode::Addresses => told(run_addresses(seed, options.nodes, chaos, sink)),
        Mode::Names => told(run_names(seed, options.nodes, chaos, sink)),
    }
}

fn told(outcome: Result<impl ToString, impl ToString>) -> Result<Done, String> {
    let done = |outcome: &dyn ToString| Done { text: outcome.to_string(), converged_after: None };
    outcome.map(|outcome| done(&outcome)).map_err(|failure| failure.to_string())
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn print_line(line: &str) {
    println!("{line}");
}
