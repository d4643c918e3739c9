//! Runs many seeds and prints how each went.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use mesh_sim::{Scenario, Sink, run};

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
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn main() -> ExitCode {
    let options = Options::parse();
    let mut converged = Vec::new();
    let mut failures = 0_u32;
    for seed in options.seed..options.seed + options.seeds {
        let scenario = Scenario::from_seed(seed, options.nodes, Duration::from_secs(options.chaos));
        let sink = options.verbose.then(|| Box::new(|line: &str| println!("{line}")) as Sink);
        let started = Instant::now();
        let outcome = run(&scenario, sink);
        let took = started.elapsed();
        match &outcome {
            Ok(outcome) => {
                println!(
                    "seed {seed}: converged after {:.2} s; {} events, {:.1} s in {:.2} s; plans {}, bytes {}, \
                     quiet {} B/s, trace {:016x}",
                    outcome.converged_after.as_secs_f64(),
                    outcome.events,
                    outcome.lasted.as_secs_f64(),
                    took.as_secs_f64(),
                    outcome.plans_max,
                    outcome.control_bytes_max,
                    outcome.quiet_bytes_per_second_max,
                    outcome.trace,
                );
                converged.push(outcome.converged_after);
            }
            Err(failure) => {
                println!("FAILED {failure}");
                failures += 1;
            }
        }
        if options.twice && run(&scenario, None) != outcome {
            println!("FAILED seed {seed}: a second run differs");
            failures += 1;
        }
    }
    converged.sort_unstable();
    let at = |index: usize| converged.get(index).copied().unwrap_or(Duration::ZERO).as_secs_f64();
    let worst = at(converged.len().saturating_sub(1));
    println!("converged: median {:.2} s, worst {worst:.2} s; {failures} failures", at(converged.len() / 2));
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
