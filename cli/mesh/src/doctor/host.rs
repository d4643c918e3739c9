//! What the host's settings must allow: files, clock, directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};

use crate::doctor::{Facts, Finding};

/// Open files that a router of some hundred connections and clients may need.
const OPEN_FILES_MIN: u64 = 1024;

/// No clock that is right shows less: the first day of 2026, in seconds of Unix time.
const CLOCK_MIN: Duration = Duration::from_secs(1_767_225_600);

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![open_files(), clock(SystemTime::now())];
    if let Some(config) = &facts.config {
        findings.extend(
            [("run directory", &config.run_dir), ("state directory", &config.state_dir)]
                .map(|(name, path)| directory(name, path)),
        );
    }
    findings
}

fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < OPEN_FILES_MIN => Finding::warn(
            "files",
            format!("at most {limit} files may be open, and each connection is one"),
            format!("ulimit -Hn {OPEN_FILES_MIN}, or LimitNOFILE= of the service"),
        ),
        Some(limit) => Finding::ok("files", format!("{limit} files may be open")),
        None => Finding::ok("files", "any number of files may be open"),
    }
}

/// Nothing between routers is ordered by it; but logs are read by it.
fn clock(now: SystemTime) -> Finding {
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since >= CLOCK_MIN => Finding::ok("clock", "the date is plausible"),
        Ok(_) | Err(_) => Finding::warn(
            "clock",
            "the date lies in the past, so logs cannot be compared",
            "timedatectl set-ntp true",
        ),
    }
}

fn directory(name: &'static str, path: &Path) -> Finding {
    let Ok(metadata) = fs::metadata(path) else {
        return Finding::ok(name, format!("{} is made at the first launch", path.display()));
    };
    let (mode, owner) = (metadata.permissions().mode() & 0o7777, metadata.uid());
    if !metadata.is_dir() {
        return Finding::fail(
            name,
            format!("{} is no directory", path.display()),
            "remove it, or name another",
        );
    }
    if owner != 0 || mode & 0o077 != 0 {
        let message =
            format!("{} (owner {owner}, mode {mode:04o}) is open to others than root", path.display());
        return Finding::warn(name, message, format!("chown root: {0}; chmod 700 {0}", path.display()));
    }
    Finding::ok(name, format!("{} belongs to root alone", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn a_clock_before_the_program_is_not_right() {
        assert_eq!(clock(SystemTime::UNIX_EPOCH).result, Outcome::Warn);
        assert_eq!(clock(SystemTime::UNIX_EPOCH + CLOCK_MIN).result, Outcome::Ok);
    }

    #[test]
    fn a_directory_that_others_can_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(directory("run directory", &dir.path().join("missing")).result, Outcome::Ok);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(directory("run directory", dir.path()).result, Outcome::Warn);
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(directory("run directory", &dir.path().join("file")).result, Outcome::Fail);
    }
}
