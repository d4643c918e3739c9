//! How labs are told apart: the identity of a lab and the names derived from it.
//!
//! Owns the naming scheme of namespaces and directories, and the question whether the process that made a
//! lab still lives. Does not create or delete anything.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};

/// Every namespace and directory of every lab starts with this mark.
const MARK: &str = "mesh-lab-";

/// The identity of one lab: which process made it, and the how-manieth lab of that process it is.
///
/// A process is known by its id *and* its start time, since ids are used again. Written as
/// `PID-START-SERIAL`, with the start time in hexadecimal clock ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LabId {
    pid: u32,
    started_ticks: u64,
    serial: u32,
}

impl LabId {
    /// The identity of the `serial`-th lab of this process.
    pub(crate) fn of_this_process(serial: u32) -> Result<Self> {
        let pid = std::process::id();
        let started_ticks = start_of(pid).context("cannot read the start time of this process from /proc")?;
        Ok(Self { pid, started_ticks, serial })
    }

    /// Whether the process that made the lab is still running.
    pub(crate) fn owner_lives(self) -> bool {
        start_of(self.pid) == Some(self.started_ticks)
    }

    /// What the names of all namespaces of this lab begin with.
    pub(crate) fn namespace_prefix(self) -> String {
        format!("{MARK}{self}-")
    }

    /// Where the lab keeps its files.
    pub(crate) fn directory(self) -> PathBuf {
        std::env::temp_dir().join(self.mark())
    }

    /// What its control groups are called.
    pub(crate) fn mark(self) -> String {
        format!("{MARK}{self}")
    }

    /// The lab to which a namespace or directory of this name belongs; `None` if it is no lab's.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(MARK)?;
        let end = rest.match_indices('-').nth(2).map_or(rest.len(), |(at, _)| at);
        rest[..end].parse().ok()
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}-{}", self.pid, self.started_ticks, self.serial)
    }
}

impl FromStr for LabId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || anyhow!("{text:?} is not a lab id (PID-START-SERIAL)");
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or_else(malformed);
        let id = Self {
            pid: next()?.parse()?,
            started_ticks: u64::from_str_radix(next()?, 16)?,
            serial: next()?.parse()?,
        };
        match parts.next() {
            None => Ok(id),
            Some(_) => Err(malformed()),
        }
    }
}

/// Checks a name that a test gives to a host, container or router: it becomes part of a namespace's name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fits = (1..=15).contains(&name.len());
    let clean = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if fits && clean {
        return Ok(());
    }
    Err(anyhow!("{name:?} is no name for a lab's host or container: use 1 to 15 of a-z and 0-9"))
}

/// The start time of a process in clock ticks since boot: field 22 of `/proc/PID/stat`, see proc(5).
/// A zombie counts as gone.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, field 2, may hold spaces and brackets: fields are counted from the last one.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_from_the_names_that_it_gives() {
        let id = LabId { pid: 4711, started_ticks: 0xbeef, serial: 3 };

        assert_eq!(LabId::of_name(&format!("{}a-c1", id.namespace_prefix())), Some(id));
        assert_eq!(LabId::of_name(id.directory().file_name().unwrap().to_str().unwrap()), Some(id));
        assert_eq!(id.to_string().parse::<LabId>().unwrap(), id);
    }

    #[test]
    fn is_not_seen_in_the_names_of_others() {
        for name in ["web", "mesh-lab-", "mesh-lab-1-2", "mesh-lab-x-2-3-a", "mesh-laboratory-1-2-3"] {
            assert_eq!(LabId::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn knows_that_this_process_lives_and_an_earlier_one_of_the_same_pid_does_not() {
        let id = LabId::of_this_process(1).unwrap();

        assert!(id.owner_lives());
        assert!(!LabId { started_ticks: id.started_ticks - 1, ..id }.owner_lives());
    }

    #[test]
    fn names_with_other_signs_are_refused() {
        for name in ["", "A", "a-b", "a/b", "..", "sixteencharacter"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("host1").is_ok());
    }
}
