//! `mesh doctor`: whether this host is fit for a router, and its router well. It changes nothing, and needs no router.
//!
//! Owns the order of the checks and how they are told. What each looks at is its own module's.

mod files;
mod host;
mod kernel;
mod network;
mod peers;
mod ports;
mod router;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_api::{Client, Command, ErrorKind, Failure, StatusDocument, TargetDocument};
use mesh_daemon::{Config, PeerTarget, Peers};
use serde::Serialize;

use crate::args::{DoctorArgs, Output, RouterArgs};
use crate::config::Call;
use crate::doctor::files::Files;
use crate::table::{Cell, Table, Tone};
use crate::{launch, output};

/// A router that is asked by a check answers within this time, or counts as stuck.
const ROUTER_TIME_MAX: Duration = Duration::from_secs(5);

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// As it should be.
    Ok,
    /// A router works, but less well than it could, or soon no longer.
    Warn,
    /// A router does not work, or not with somebody whom it should reach.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    result: Outcome,
    message: String,
    /// What to do about it.
    remedy: Option<String>,
}

/// What the checks know beforehand.
struct Facts {
    files: Files,
    /// The settings of the configuration file and the environment, unless they are wrong.
    config: Option<Config>,
    /// What the router says, if one runs.
    router: Option<RouterFacts>,
    /// Peers that should be reached.
    targets: BTreeSet<PeerTarget>,
    deadline: Instant,
}

/// What a running router says of itself.
struct RouterFacts {
    args: RouterArgs,
    status: StatusDocument,
}

#[derive(Serialize)]
struct DoctorDocument<'a> {
    healthy: bool,
    checks: &'a [Finding],
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, result: Outcome::Ok, message: message.into(), remedy: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, result: Outcome::Warn, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, result: Outcome::Fail, message: message.into(), remedy: Some(remedy.into()) }
    }
}

impl RouterFacts {
    /// Asks the router, if there is one.
    fn ask(args: &RouterArgs) -> Result<Option<Self>, Failure> {
        let patience = args.timeout.timeout.min(ROUTER_TIME_MAX);
        let answer =
            Client::connect(&args.run_dir.run_dir, patience).and_then(|client| client.call(Command::Status));
        match answer.map_err(Failure::from) {
            Ok(status) => Ok(Some(Self { args: args.clone(), status })),
            Err(failure) if failure.kind == ErrorKind::NotRunning => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// One more question to it; what it does not answer is not known.
    fn call<T: serde::de::DeserializeOwned>(&self, command: Command) -> Option<T> {
        Client::connect(&self.args.run_dir.run_dir, ROUTER_TIME_MAX)
            .and_then(|client| client.call(command))
            .ok()
    }
}

/// Looks at everything and prints what it found. Fails when a check does.
pub(crate) fn doctor(args: &DoctorArgs, output: Output) -> Result<(), Failure> {
    let findings = examine(args)?;
    let failed = findings.iter().filter(|finding| finding.result == Outcome::Fail).count();
    match output {
        Output::Human => output::print(&render(&findings, output::colour()))?,
        Output::Json => output::print_json(&DoctorDocument { healthy: failed == 0, checks: &findings })?,
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::new(ErrorKind::Refused, "one check failed")),
        many => Err(Failure::new(ErrorKind::Refused, format!("{many} checks failed"))),
    }
}

fn examine(args: &DoctorArgs) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let deadline = Instant::now() + args.router.timeout.timeout;
    let config = match config(args.config.clone()) {
        Ok(config) => {
            findings
                .push(Finding::ok("configuration", "the settings of the file and the environment are good"));
            Some(config)
        }
        Err(failure) => {
            let message = failure.message.replace('\n', "; ");
            findings.push(Finding::fail("configuration", message, "'mesh config check' tells more"));
            None
        }
    };
    let router = match RouterFacts::ask(&args.router) {
        Ok(router) => router,
        Err(failure) => {
            findings.push(Finding::fail("router", failure.message, failure.hint.unwrap_or_default()));
            None
        }
    };
    let targets = targets(&args.peers, config.as_ref(), router.as_ref())?;
    let facts = Facts { files: Files::of_this_host(), config, router, targets, deadline };
    for check in [kernel::check, host::check, ports::check, network::check, router::check, peers::check] {
        findings.extend(check(&facts));
    }
    Ok(findings)
}

/// The settings with which `mesh launch` would start a router here.
fn config(file: Option<PathBuf>) -> Result<Config, Failure> {
    let file = file.map(|file| ["--config".into(), file.into_os_string()]);
    let words = ["mesh", "launch"].into_iter().map(OsString::from).chain(file.into_iter().flatten());
    launch::config(Call { words: words.collect(), ..Call::of_process()? })
}

/// Whom this host should reach: those that the user names, or those of the router and of the file.
fn targets(
    named: &[String],
    config: Option<&Config>,
    router: Option<&RouterFacts>,
) -> Result<BTreeSet<PeerTarget>, Failure> {
    let parse = |text: &String| {
        let wrong =
            |error| Failure::new(ErrorKind::Usage, format!("PEER '{}': {error}", text.escape_debug()));
        text.parse::<PeerTarget>().map_err(wrong)
    };
    if !named.is_empty() {
        return named.iter().map(parse).collect();
    }
    let of_file = config.into_iter().flat_map(|config| match &config.peers {
        Peers::Named(peers) => peers.clone(),
        Peers::Resumed => Vec::new(),
    });
    let told: Vec<TargetDocument> =
        router.and_then(|router| router.call(Command::Targets)).unwrap_or_default();
    let of_router = told.iter().filter_map(|target| target.target.parse().ok());
    Ok(of_file.chain(of_router).collect())
}

fn render(findings: &[Finding], colour: bool) -> String {
    let mut table = Table::new(["CHECK", "RESULT", "WHAT"]);
    for Finding { check, result, message, remedy } in findings {
        let cell = match result {
            Outcome::Ok => Cell::toned("ok", Tone::Good),
            Outcome::Warn => Cell::toned("warn", Tone::Waiting),
            Outcome::Fail => Cell::toned("fail", Tone::Bad),
        };
        table.push([Cell::new(check), cell, Cell::new(message)]);
        if let Some(remedy) = remedy.as_ref().filter(|remedy| !remedy.is_empty()) {
            table.push([Cell::empty(), Cell::empty(), Cell::new(format!("-> {remedy}"))]);
        }
    }
    table.render(colour)
}
