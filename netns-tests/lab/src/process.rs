//! A program that runs beside the test, and ends with it at the latest.
//!
//! Owns one child process and the two files that its output goes to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{self, CommandFailed, Output};
use crate::namespace::Namespace;

/// How long a just started program may take to arrive in its namespace.
const ENTRY_DEADLINE: Duration = Duration::from_secs(2);

/// A running program. Dropping it kills the program, if it still runs, with its process group.
#[derive(Debug)]
#[must_use = "the program is killed when this guard is dropped"]
pub struct Process {
    child: Child,
    title: String,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn start(command: &mut Command, title: String, inside: Option<&Namespace>) -> Result<Self> {
        let Some(namespace) = inside else { bail!("{title} is to run beside the test, but in no namespace") };
        let base = namespace.site().next_output_file(namespace.label());
        let (stdout, stderr) = (base.with_extension("stdout"), base.with_extension("stderr"));
        command.stdout(create(&stdout)?).stderr(create(&stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {title}"))?;
        let mut process = Self { child, title, stdout, stderr, ended: None };
        process.wait_for_entry(namespace)?;
        Ok(process)
    }

    /// Its process id. Once it has ended, the id may become another's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.ended.is_none() && matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            bail!("{} has ended and can take no signal", self.title);
        }
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal {}", self.title))
    }

    /// Waits until it ends by itself, and gives what it has left, whatever its status.
    ///
    /// # Errors
    /// When it has not ended within `within`; it is killed then.
    pub fn wait(mut self, within: Duration) -> Result<Output> {
        let in_time = match self.ended {
            Some(status) => Some(status),
            None => command::wait(&mut self.child, within)?,
        };
        let (status, timed_out) = match in_time {
            Some(status) => (status, None),
            None => (command::kill(&mut self.child)?, Some(within)),
        };
        self.ended = Some(status);
        let output = Output::new(self.title.clone(), status, self.stdout(), self.stderr());
        match timed_out {
            None => Ok(output),
            Some(_) => Err(CommandFailed { output, timed_out }.into()),
        }
    }

    /// Asks it to end with SIGTERM, and waits for that as [`wait`](Self::wait) does.
    ///
    /// # Errors
    /// When it has ended before, or does not end within `within`.
    pub fn stop(mut self, within: Duration) -> Result<Output> {
        self.signal(Signal::TERM)?;
        self.wait(within)
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// `ip netns exec` enters the namespace after it was started: until then the process id names a process
    /// of the machine's own namespace.
    fn wait_for_entry(&mut self, namespace: &Namespace) -> Result<()> {
        let until = Instant::now() + ENTRY_DEADLINE;
        while self.is_running() && !namespace.holds(self.pid()) {
            if Instant::now() > until {
                bail!("{} did not enter its namespace within {ENTRY_DEADLINE:?}", self.title);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none()
            && let Err(error) = command::kill(&mut self.child)
        {
            eprintln!("lab: cannot kill {}: {error:#}", self.title);
        }
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Empty when the lab, and its files with it, is gone.
fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
