//! Runs many seeds and prints how each went.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use mesh_sim::{Failure, Outcome, Scenario, Sink, measure, run, run_addresses};

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
    /// Routers that manage addresses, whose disks and clients are simulated, too
    #[arg(long)]
    addresses: bool,
    /// Seeds that run at once
    #[arg(long, default_value_t = 1)]
    jobs: usize,
}

/// What came of a seed, and how long it really took.
type Done = (u64, Result<Outcome, Failure>, Duration);

fn main() -> ExitCode {
    let options = Options::parse();
    match &options {
        Options { measure: true, .. } => measured(&options),
        Options { addresses: true, .. } => addresses(&options),
        Options { .. } => seeds(&options),
    }
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn measured(options: &Options) -> ExitCode {
    match measure(options.nodes, options.seed) {
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
fn addresses(options: &Options) -> ExitCode {
    let mut failures = 0_u32;
    for seed in options.seed..options.seed + options.seeds {
        match run_addresses(seed, options.nodes, Duration::from_secs(options.chaos)) {
            Ok(outcome) if options.seeds <= SHOWN_MAX => println!("seed {seed}: {outcome}"),
            Ok(_) => {}
            Err(failure) => {
                println!("FAILED {failure}");
                failures += 1;
            }
        }
    }
    println!("{} seeds, {failures} failures", options.seeds);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn seeds(options: &Options) -> ExitCode {
    let next = AtomicU64::new(options.seed);
    let (done, results) = mpsc::channel();
    let mut converged = Vec::new();
    let mut failures = 0_u32;
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            let (next, done) = (&next, done.clone());
            scope.spawn(move || run_seeds(options, next, &done));
        }
        drop(done);
        for (seed, outcome, took) in results {
            match outcome {
                Ok(outcome) => {
                    if options.seeds <= SHOWN_MAX {
                        println!("seed {seed}: {outcome}, in {:.2} s", took.as_secs_f64());
                    }
                    converged.push(outcome.converged_after);
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
    let worst = at(converged.len().saturating_sub(1));
    println!("converged: median {:.2} s, worst {worst:.2} s; {failures} failures", at(converged.len() / 2));
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds until none is left. Each is a world of its own, so that they do not know of each other.
fn run_seeds(options: &Options, next: &AtomicU64, done: &mpsc::Sender<Done>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= options.seed + options.seeds {
            return;
        }
        let scenario = Scenario::from_seed(seed, options.nodes, Duration::from_secs(options.chaos));
        let started = Instant::now();
        let outcome = run(&scenario, options.verbose.then(|| Box::new(print_line) as Sink));
        let took = started.elapsed();
        let repeated = if options.twice && run(&scenario, None) != outcome {
            Err(Failure::differs(&scenario))
        } else {
            outcome
        };
        if done.send((seed, repeated, took)).is_err() {
            return;
        }
    }
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn print_line(line: &str) {
    println!("{line}");
}
