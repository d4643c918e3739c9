//! How many instructions frames take on their way through two workers, by callgrind, against what is written down.
//!
//! Owns the counting and the comparison; what is counted are the tests of `io::worker::frames` in mesh-dataplane, on the
//! build that all tests use. Its crates of the path are optimized, with assertions and checks of arithmetic: the figures
//! tell of changes, and not of speed. They depend on the compiler, so that another one's are not compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::stage::workspace_root;

/// What is written down, below the workspace's root.
const BASELINE: &str = "router/dataplane/instructions.txt";

const HEADING: &str = "# Instructions of one round of each test in src/io/worker/frames.rs; see scripts/xtask/src/instructions.rs.
# To write it anew, after a change that is meant or with another compiler: cargo xtask instructions --write";

/// The tests that are counted, and the variable that says how many rounds they have.
const TESTS: &str = "io::worker::frames::";
const ROUNDS_VARIABLE: &str = "MESH_ROUNDS";

/// What the second number of rounds takes more than the first is what so many rounds take.
const ROUNDS: [u64; 2] = [100, 300];

/// So much more than what is written down is a failure; less by so much is said.
const TOLERANCE_PERCENT: u64 = 5;

/// What a round of each test takes, by its name, and what compiled them.
struct Counts {
    compiler: String,
    rounds: BTreeMap<String, u64>,
}

/// Counts, and compares or writes down.
pub(crate) fn run(write: bool) -> Result<ExitCode> {
    let now = Counts::now()?;
    let path = workspace_root().join(BASELINE);
    if write {
        fs::write(&path, now.text()).with_context(|| format!("cannot write {BASELINE}"))?;
        println!("written: {BASELINE}");
        return Ok(ExitCode::SUCCESS);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {BASELINE}"))?;
    let before = Counts::parse(&text).with_context(|| format!("{BASELINE} is damaged"))?;
    if before.compiler != now.compiler {
        println!(
            "not compared: {BASELINE} is of {}, this is {}. With a new compiler: cargo xtask instructions --write",
            before.compiler, now.compiler
        );
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if now.is_within(&before) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Counts {
    fn now() -> Result<Self> {
        let compiler = output(Command::new("rustc").arg("--version"))?.0.trim().to_owned();
        let program = test_program()?;
        let listed = output(Command::new(&program).args(["--list", "--format", "terse", TESTS]))?.0;
        let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        let mut rounds = BTreeMap::new();
        for name in names {
            let [few, many] = ROUNDS.map(|rounds| count(&program, name, rounds));
            let each = many?.saturating_sub(few?) / (ROUNDS[1] - ROUNDS[0]);
            rounds.insert(name.trim_start_matches(TESTS).to_owned(), each);
        }
        ensure!(!rounds.is_empty(), "{program} has no tests named {TESTS}");
        Ok(Self { compiler, rounds })
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADING}\n{}\n", self.compiler);
        for (name, count) in &self.rounds {
            writeln!(text, "{name} {count}").expect("writing to a string does not fail");
        }
        text
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let compiler = lines.next().context("no compiler")?.to_owned();
        let count = |line: &str| -> Result<(String, u64)> {
            let (name, count) = line.split_once(' ').with_context(|| format!("no count in {line:?}"))?;
            Ok((name.to_owned(), count.parse()?))
        };
        Ok(Self { compiler, rounds: lines.map(count).collect::<Result<_>>()? })
    }

    /// Prints both beside each other. False when something takes too much more than before, or has come or gone.
    fn is_within(&self, before: &Self) -> bool {
        let mut is_within = true;
        for (name, now) in &self.rounds {
            let Some(before) = before.rounds.get(name) else {
                println!("{name:<40} {now:>9}  NEW: cargo xtask instructions --write");
                is_within = false;
                continue;
            };
            let word = judge(*before, *now);
            is_within &= word != Verdict::More;
            println!("{name:<40} {now:>9}  before {before:>9}  {}", word.words());
        }
        for name in before.rounds.keys().filter(|name| !self.rounds.contains_key(*name)) {
            println!("{name:<40} is GONE: cargo xtask instructions --write");
            is_within = false;
        }
        is_within
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Alike,
    Less,
    More,
}

impl Verdict {
    const fn words(self) -> &'static str {
        match self {
            Self::Alike => "ok",
            Self::Less => "ok, and less: cargo xtask instructions --write keeps it so",
            Self::More => "MORE; if that is meant: cargo xtask instructions --write",
        }
    }
}

fn judge(before: u64, now: u64) -> Verdict {
    let margin = before * TOLERANCE_PERCENT / 100;
    if now > before + margin {
        Verdict::More
    } else if now < before - margin {
        Verdict::Less
    } else {
        Verdict::Alike
    }
}

/// Builds the unit tests of mesh-dataplane, as the other stages do, and returns where they are.
fn test_program() -> Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build.args(["test", "--locked", "--no-run", "--package", "mesh-dataplane", "--lib"]);
    let (_, said) = output(build.current_dir(workspace_root()))?;
    let line = said.lines().find(|line| line.trim_start().starts_with("Executable"));
    let path = line.and_then(|line| line.split_once('(')?.1.strip_suffix(')'));
    Ok(path.with_context(|| format!("cargo names no program: {said}"))?.to_owned())
}

/// Instructions of one test with so many rounds, from its start to its end.
fn count(program: &str, test: &str, rounds: u64) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", program, "--exact", test])
        .arg("--test-threads=1")
        .env(ROUNDS_VARIABLE, rounds.to_string());
    let (_, said) = output(valgrind.current_dir(workspace_root()))?;
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.with_context(|| format!("valgrind counts nothing: {said}"))
}

/// What a command that must succeed prints, and says on standard error.
fn output(command: &mut Command) -> Result<(String, String)> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if !output.status.success() {
        bail!("{command:?}: {}\n{stdout}{stderr}", output.status);
    }
    Ok((stdout, stderr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_reads_as_it_was() {
        let rounds = [("a_frame".to_owned(), 12), ("frames".to_owned(), 3_456)].into();
        let counts = Counts { compiler: "rustc 1.2.3 (abc 2026-01-01)".to_owned(), rounds };
        let read = Counts::parse(&counts.text()).unwrap();
        assert_eq!((&read.compiler, &read.rounds), (&counts.compiler, &counts.rounds));
        assert!(read.is_within(&counts));
        assert!(Counts::parse("rustc\na_frame").is_err() && Counts::parse("# only this").is_err());
    }

    #[test]
    fn more_than_the_tolerance_fails_and_so_does_what_has_come_or_gone() {
        assert_eq!([judge(1_000, 1_050), judge(1_000, 950)], [Verdict::Alike; 2]);
        assert_eq!((judge(1_000, 1_051), judge(1_000, 949)), (Verdict::More, Verdict::Less));
        let counts = |names: &[&str]| Counts {
            compiler: String::new(),
            rounds: names.iter().map(|name| ((*name).to_owned(), 10)).collect(),
        };
        assert!(counts(&["a", "b"]).is_within(&counts(&["a", "b"])));
        assert!(!counts(&["a", "b"]).is_within(&counts(&["a"])));
        assert!(!counts(&["a"]).is_within(&counts(&["a", "b"])));
    }
}
