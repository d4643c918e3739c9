//! What a developer of `mesh` runs: `cargo xtask check`, `ci`, `sim`, `model`, `bench`.
//!
//! Owns the list of stages and their order. The rules of the house that no compiler checks (who may depend on whom,
//! what a pure crate may name, how files look) are tests of this crate, in `tests/house`.
#![forbid(unsafe_code)]

mod instructions;
mod stage;
mod stages;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::stage::OnFailure;

#[derive(Parser)]
#[command(about = "Checks, tests and measures mesh", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Before a commit: format, clippy, docs, and the tests that need no router on a network; stops at the first failure
    Check,
    /// All of it: `check`, licences and bans, simulation, release build, namespaces; runs on after a failure
    Ci,
    /// Only whole routers in network namespaces, as root
    Netns {
        /// Run each test so many times in a row, and none twice because it failed: whether it is reliable
        #[arg(long, value_name = "N")]
        repeat: Option<u32>,
        /// Further arguments of cargo nextest, such as a part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filter: Vec<String>,
    },
    /// Scenarios in a virtual machine with Debian's kernel, which is older than most and has openvswitch, WireGuard and ESP
    Vm {
        /// Parts of names of scenarios; those that `ci` runs when left out
        filter: Vec<String>,
        /// The package of the kernel
        #[arg(long, value_name = "PACKAGE")]
        kernel: Option<String>,
        /// A module that the kernel shall not have, such as wireguard: then ESP seals
        #[arg(long, value_name = "MODULE")]
        without: Vec<String>,
    },
    /// Simulated routers in virtual time, from seeds
    Sim(SimArguments),
    /// Every state that a few peers with a few addresses can reach, and random histories of more of them
    Model {
        /// How many histories of each kind [default: 100000]
        #[arg(long, value_name = "N")]
        histories: Option<u64>,
        /// Steps of each of the seven models that have no end [default: 12000000, some ten million states in all]
        #[arg(long, value_name = "N")]
        steps: Option<u64>,
    },
    /// Looks for inputs that a decoder or a router does not survive, guided by coverage; keeps those that reach something new
    Fuzz {
        /// What to feed; all targets in turn when left out
        target: Option<String>,
        /// For how long, in seconds, each target
        #[arg(long, value_name = "S", default_value_t = 60)]
        seconds: u32,
    },
    /// Instructions of frames on their way, counted by valgrind, against what is written down
    Instructions {
        /// Write down what they are now
        #[arg(long)]
        write: bool,
    },
    /// Throughput and round trip of a mesh of two hosts in namespaces, beside the bare wire between them
    Bench {
        /// Shorter runs, for a look rather than a record
        #[arg(long)]
        quick: bool,
    },
}

/// Passed on to the simulator as they are; left out, its own defaults hold.
#[derive(clap::Args)]
struct SimArguments {
    /// How many seeds to run
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed; with `--seeds 1` the only one, so that a failure can be replayed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Routers in each run
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// Figures of one quiet network of that size, in place of seeds with faults
    #[arg(long)]
    measure: bool,
    /// Routers that manage addresses, with clients, and disks that fail, are lost, put back and copied
    #[arg(long, conflicts_with = "measure")]
    addresses: bool,
    /// Routers whose containers have names, against a model of what each must answer
    #[arg(long, conflicts_with_all = ["measure", "addresses"])]
    names: bool,
}

fn main() -> Result<ExitCode> {
    let (stages, on_failure) = match Arguments::parse().task {
        Task::Check => (stages::check(), OnFailure::Stop),
        Task::Ci => (stages::ci(), OnFailure::Continue),
        Task::Netns { repeat, filter } => (stages::netns(repeat, filter), OnFailure::Stop),
        Task::Vm { filter, kernel, without } => {
            (vec![stages::debug_build(), stages::vm(filter, kernel.as_deref(), &without)], OnFailure::Stop)
        }
        Task::Sim(SimArguments { seeds, seed, nodes, measure, addresses, names }) => {
            let options = [("--seeds", seeds), ("--seed", seed), ("--nodes", nodes.map(u64::from))];
            let modes = [(measure, "--measure"), (addresses, "--addresses"), (names, "--names")];
            let mode = modes.into_iter().find_map(|(is_on, mode)| is_on.then_some(mode));
            (vec![stages::sim(options, mode)], OnFailure::Stop)
        }
        Task::Model { histories, steps } => (vec![stages::model(histories, steps)], OnFailure::Stop),
        Task::Fuzz { target, seconds } => (stages::fuzz(target.as_deref(), seconds), OnFailure::Continue),
        Task::Instructions { write } => return instructions::run(write),
        Task::Bench { quick } => (stages::bench(quick), OnFailure::Stop),
    };
    stage::run(stages, on_failure)
}
