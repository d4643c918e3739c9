//! How much a mesh of two hosts carries, beside the bare wire, the kernel's own VXLAN, and other programs that join hosts.
//!
//! Owns the order of measurements, and what is done where one fails. For each wire all subjects stand at the same time and
//! are measured in turn, round by round, so that whatever else the machine does meets them alike. What is measured is
//! written down at once: a run that was broken off goes on where it stood. A subject whose program is not installed,
//! or does not start, is named.
//!
//! ```text
//! cargo xtask bench [--quick]     or, with more to choose from, as root, when mesh was built:
//! cargo bench -p mesh-netns-tests --bench throughput -- [--quick] [--fresh] [--wire W]... [--only SUBJECT]...
//! ```
#![forbid(unsafe_code)]

mod ground;
mod kernel;
mod measure;
mod mesh;
mod others;
mod report;

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::ground::{Ground, Started, Wire};
use crate::measure::Effort;
use crate::report::{Record, Results};

/// A way to join two hosts.
pub(crate) struct Subject {
    /// What it is called, here and in tables.
    pub(crate) name: &'static str,
    /// The program that it needs, besides those of the lab.
    pub(crate) program: Option<&'static str>,
    /// What it is, and how it is set up, for whoever reads the table.
    pub(crate) about: &'static str,
    /// Sets it up on two hosts.
    pub(crate) start: fn(&Ground) -> Result<Started>,
}

const RECORD: Effort = Effort { rounds: 5, seconds: 5, round_trips: 5_000 };
const QUICK: Effort = Effort { rounds: 1, seconds: 2, round_trips: 1_000 };

/// What the user asks for.
struct Wishes {
    effort: Effort,
    is_fresh: bool,
    wires: BTreeSet<String>,
    subjects: BTreeSet<String>,
}

fn main() -> Result<()> {
    let wishes = Wishes::read(std::env::args().skip(1))?;
    let subjects: Vec<_> = mesh::SUBJECTS
        .iter()
        .chain(kernel::SUBJECTS)
        .chain(others::SUBJECTS)
        .filter(|subject| wishes.subjects.is_empty() || wishes.subjects.contains(subject.name))
        .collect();
    let mut results = Results::open(&wishes.effort, wishes.is_fresh)?;
    for wire in Wire::ALL {
        if wishes.wires.is_empty() || wishes.wires.contains(wire.name()) {
            run(wire, &subjects, &wishes.effort, &mut results)
                .with_context(|| format!("on wire {}", wire.name()))?;
        }
    }
    let table = results.write(&subjects)?;
    println!("\n{table}");
    println!("Written to {}; `--fresh` measures anew.", results.directory().display());
    Ok(())
}

/// Measures what is missing on one wire.
fn run(wire: Wire, subjects: &[&Subject], effort: &Effort, results: &mut Results) -> Result<()> {
    let mut standing = Vec::new();
    for subject in subjects {
        if (1..=effort.rounds).all(|round| results.has(wire, subject.name, round)) {
            continue;
        }
        let missing = subject.program.is_some_and(|program| !ground::is_installed(program));
        let started = if missing {
            Err(anyhow::anyhow!("{} is not installed", subject.program.unwrap_or_default()))
        } else {
            Ground::new(wire).and_then(|ground| Ok(((subject.start)(&ground)?, ground)))
        };
        match started.and_then(|(started, ground)| started.wait().map(|()| (started, ground))) {
            Ok((started, ground)) => standing.push((subject, started, ground)),
            Err(error) => results.absent(subject.name, &format!("{error:#}")),
        }
    }
    for round in 1..=effort.rounds {
        for (subject, started, _) in &standing {
            if results.has(wire, subject.name, round) {
                continue;
            }
            eprintln!("bench: {}, {}, round {round} of {}", wire.name(), subject.name, effort.rounds);
            match measure::all(started, effort) {
                Ok(figures) => results.add(Record { wire, subject: subject.name, round, figures })?,
                Err(error) => results.absent(subject.name, &format!("{error:#}")),
            }
        }
    }
    Ok(())
}

impl Wishes {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut wishes =
            Self { effort: RECORD, is_fresh: false, wires: BTreeSet::new(), subjects: BTreeSet::new() };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => wishes.effort = QUICK,
                "--fresh" => wishes.is_fresh = true,
                "--wire" => wishes.wires.extend([arguments.next().context("--wire names a wire")?]),
                "--only" => wishes.subjects.extend([arguments.next().context("--only names a subject")?]),
                // Cargo's own.
                "--bench" => {}
                other => bail!("{other} is no option of this benchmark"),
            }
        }
        Ok(wishes)
    }
}
