//! Running a program of the system: input in, output out, within a deadline.
//!
//! Owns the process from its start to its end, and leaves none behind. Input and outputs lie in memory files, so that no
//! pipe can fill up while nobody reads it. The program runs in the calling thread's network namespace.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a program may take. They take milliseconds; `iptables` may wait for a lock that another one holds.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Of what a program says about its failure, this many bytes are kept.
const COMPLAINT_BYTES_MAX: u64 = 2_000;

/// Of what a program prints, this many bytes are read: the listing of a table with all ports that a bridge can have
/// (1,023) takes less.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no such program on this host.
    #[error("it is not installed")]
    Absent,
    /// It could not be started or waited for.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It did not end in time, and was killed.
    #[error("it did not end within {} s", TIME_MAX.as_secs())]
    Late,
    /// It ended with a failure.
    #[error("it ended with {status}: {said}")]
    Failed {
        /// Its exit status.
        status: ExitStatus,
        /// The program's own words.
        said: String,
    },
}

/// Runs a program to its end, and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> Result<Vec<u8>, ProgramError> {
    let (stdin, mut stdout, mut stderr) = (memory_file()?, memory_file()?, memory_file()?);
    (&stdin).write_all(input.as_bytes())?;
    (&stdin).rewind()?;
    let child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ProgramError::Absent),
        Err(error) => return Err(error.into()),
    };
    let status = wait(child)?;
    if status.success() {
        Ok(content(&mut stdout, OUTPUT_BYTES_MAX)?)
    } else {
        let said = content(&mut stderr, COMPLAINT_BYTES_MAX)?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Err(ProgramError::Failed { status, said })
    }
}

fn memory_file() -> io::Result<File> {
    Ok(memfd_create("mesh", MemfdFlags::CLOEXEC)?.into())
}

fn content(file: &mut File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn wait(mut child: Child) -> Result<ExitStatus, ProgramError> {
    match ends_in_time(&child) {
        Ok(true) => Ok(child.wait()?),
        outcome => {
            // It may have ended this moment; it is waited for in any case.
            let _killed = child.kill();
            child.wait()?;
            outcome?;
            Err(ProgramError::Late)
        }
    }
}

fn ends_in_time(child: &Child) -> io::Result<bool> {
    let pid = Pid::from_child(child);
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("seconds fit a timespec");
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_input_and_takes_output() {
        assert_eq!(run("cat", &[], "some words").unwrap(), b"some words");
    }

    #[test]
    fn says_what_the_program_said_when_it_fails() {
        let error = run("sh", &["-c", "echo no such thing >&2; exit 3"], "").unwrap_err();
        let ProgramError::Failed { status, said } = error else { panic!("{error}") };
        assert_eq!((status.code(), said.as_str()), (Some(3), "no such thing"));
    }

    #[test]
    fn says_when_the_program_is_not_there() {
        assert!(matches!(run("mesh-no-such-program", &[], ""), Err(ProgramError::Absent)));
    }
}
