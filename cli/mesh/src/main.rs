//! The command line of `mesh`.
//!
//! Owns the commands, their options, what they print, and the exit status. A command either becomes the router
//! (`launch`, which hands over to `mesh-daemon`) or asks the running one over its control socket; it decides nothing
//! itself.
#![forbid(unsafe_code)]

mod address;
mod args;
mod capture;
mod config;
mod control;
mod dns;
mod doctor;
mod expose;
mod ipam;
mod launch;
mod man;
mod output;
mod overlaps;
mod problems;
mod process;
mod report;
mod secret;
mod status;
mod table;
mod top;
mod usage;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;
use mesh_api::Failure;

use crate::args::{Cli, Command, ConfigArgs, ConfigCommand, IpamArgs, SecretArgs, SecretCommand};
use crate::dns::DnsArgs;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let matches = config::grammar().try_get_matches_from(&arguments);
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error, &arguments),
    };
    let output = cli.output;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::report(&failure, output);
            ExitCode::from(failure.kind.exit_status())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let output = cli.output;
    match cli.command {
        Command::Launch(_) => launch::launch(output),
        Command::Stop(args) => control::stop(&args.router, output),
        Command::Reset(args) => control::reset(&args, output),
        Command::Connect(args) => control::connect_to(&args, output),
        Command::Forget(args) => control::forget(&args, output),
        Command::Attach(args) => control::attach(&args, output),
        Command::Detach(args) => control::detach(&args, output),
        Command::Ps(args) => control::ps(&args, output),
        Command::Dns(DnsArgs { command }) => dns::dns(&command, output),
        Command::Expose(args) => expose::expose(&args, output),
        Command::Hide(args) => expose::hide(&args, output),
        Command::Ipam(IpamArgs { command }) => ipam::ipam(&command, output),
        Command::Prime(args) => ipam::prime(&args, output),
        Command::Rmpeer(args) => ipam::rmpeer(&args, output),
        Command::Status(args) => status::status(&args, output),
        Command::Report(args) => report::report(&args.router),
        Command::Capture(args) => capture::capture(&args),
        Command::Top(args) => top::top(&args.router),
        Command::Doctor(args) => doctor::doctor(&args, output),
        Command::Man { directory } => man::man(&directory, output),
        Command::Secret(SecretArgs { command: SecretCommand::Generate }) => secret::generate(output),
        Command::Config(ConfigArgs { command: ConfigCommand::Check { file } }) => {
            config::check(file.as_deref(), output)
        }
        Command::Completion { shell } => usage::completion(shell, output),
        Command::Version => usage::version(output),
    }
}
