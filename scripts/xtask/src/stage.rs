//! Runs stages one after the other, times them, and sums up.
//!
//! Owns what a stage is and how its result reads. Which stages there are stands in `stages`.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// One program to run at the workspace's root, under a name.
pub(crate) struct Stage {
    name: &'static str,
    action: Action,
}

enum Action {
    Run { program: String, arguments: Vec<String>, environment: Vec<(&'static str, String)> },
    Skip { reason: &'static str },
}

/// Whether the stages after a failed one still run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    Stop,
    Continue,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped(&'static str),
}

impl Stage {
    /// `program` with `arguments`, given as one string and split at spaces.
    pub(crate) fn new(name: &'static str, program: impl Into<String>, arguments: &str) -> Self {
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Self { name, action: Action::Run { program: program.into(), arguments, environment: Vec::new() } }
    }

    /// This cargo, with `arguments` split at spaces.
    pub(crate) fn cargo(name: &'static str, arguments: &str) -> Self {
        Self::new(name, std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), arguments)
    }

    /// A stage that cannot run on this machine. It is shown, so that nobody takes it for a passed one.
    pub(crate) fn skip(name: &'static str, reason: &'static str) -> Self {
        Self { name, action: Action::Skip { reason } }
    }

    /// Appends arguments that may hold spaces.
    pub(crate) fn args(mut self, more: impl IntoIterator<Item = String>) -> Self {
        if let Action::Run { arguments, .. } = &mut self.action {
            arguments.extend(more);
        }
        self
    }

    /// Adds an environment variable.
    pub(crate) fn env(mut self, key: &'static str, value: impl Into<String>) -> Self {
        if let Action::Run { environment, .. } = &mut self.action {
            environment.push((key, value.into()));
        }
        self
    }

    fn run(&self) -> Result<Outcome> {
        match &self.action {
            Action::Skip { reason } => {
                println!("\n==> {}: skipped, {reason}", self.name);
                Ok(Outcome::Skipped(reason))
            }
            Action::Run { program, arguments, environment } => {
                let shown = if program.ends_with("cargo") { "cargo" } else { program };
                println!("\n==> {}: {shown} {}", self.name, arguments.join(" "));
                let status = Command::new(program)
                    .args(arguments)
                    .envs(environment.iter().map(|(key, value)| (key, value)))
                    .current_dir(workspace_root())
                    .stdin(Stdio::null())
                    .status()
                    .with_context(|| format!("cannot start {program}"))?;
                Ok(if status.success() { Outcome::Passed } else { Outcome::Failed })
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("ok"),
            Self::Failed => f.write_str("FAILED"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

/// Runs `stages` in order and prints a table of them. The exit code tells whether all that ran have passed.
pub(crate) fn run(stages: Vec<Stage>, on_failure: OnFailure) -> Result<ExitCode> {
    let mut done: Vec<(&'static str, Duration, Outcome)> = Vec::new();
    for stage in stages {
        let start = Instant::now();
        let outcome = stage.run()?;
        let took = start.elapsed();
        if !matches!(outcome, Outcome::Skipped(_)) {
            println!("==> {}: {outcome} after {:.1} s", stage.name, took.as_secs_f64());
        }
        done.push((stage.name, took, outcome));
        if outcome == Outcome::Failed && on_failure == OnFailure::Stop {
            break;
        }
    }
    if done.len() > 1 {
        println!();
        for (name, took, outcome) in &done {
            println!("{name:<14} {:>8.1} s  {outcome}", took.as_secs_f64());
        }
        let total: Duration = done.iter().map(|(_, took, _)| *took).sum();
        println!("{:<14} {:>8.1} s", "total", total.as_secs_f64());
    }
    let failed = done.iter().any(|(_, _, outcome)| *outcome == Outcome::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The directory of the workspace's Cargo.toml.
pub(crate) fn workspace_root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root.pop();
    root
}
