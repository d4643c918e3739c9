//! Running a program with a deadline and its output captured.
//!
//! Owns the life of one foreground command. Programs that go on beside the test are in
//! [`process`](crate::process). Output goes to unlinked files, not to pipes: a daemon that keeps the
//! command's standard output open cannot make the test wait.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::de::DeserializeOwned;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::tools;
use crate::wait::poll_readable;

/// How long a command may take when the test names no other time.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// So many bytes of each output stream are kept, from its beginning; the rest is left out.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;

/// A command to be run in a namespace of the lab, or on the machine itself.
#[derive(Debug)]
#[must_use = "a command does nothing until it is run or spawned"]
pub struct Cmd {
    namespace: Option<Namespace>,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_removed: Vec<OsString>,
    stdin: Vec<u8>,
    deadline: Duration,
}

impl Cmd {
    /// A command that runs on the machine itself.
    pub(crate) fn on_the_machine(program: impl AsRef<OsStr>) -> Self {
        Self {
            namespace: None,
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            env_removed: Vec::new(),
            stdin: Vec::new(),
            deadline: COMMAND_DEADLINE,
        }
    }

    /// A command that runs in `namespace`.
    pub(crate) fn inside(namespace: &Namespace, program: impl AsRef<OsStr>) -> Self {
        Self { namespace: Some(namespace.clone()), ..Self::on_the_machine(program) }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the command's environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Takes a variable out of the command's environment, be it of the test's own or set before.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(set, _)| set != name.as_ref());
        self.env_removed.push(name.as_ref().to_owned());
        self
    }

    /// What the command reads from its standard input; nothing by default.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long the command may take before it is killed; [`COMMAND_DEADLINE`] by default.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the command to its end and wants it to succeed.
    ///
    /// # Errors
    /// When it cannot be started, is not done in time, or ends with a status other than 0 (a
    /// [`CommandFailed`], which can be downcast). The error tells the command, where it ran, and its output.
    pub fn run(self) -> Result<Output> {
        let namespace = self.namespace.clone();
        let result = self.finish().and_then(|output| match output.success() {
            true => Ok(output),
            false => Err(CommandFailed { output, timed_out: None }.into()),
        });
        if let (Some(namespace), Err(error)) = (namespace, &result) {
            namespace.site().note_failure(error);
        }
        result
    }

    /// Runs the command to its end, whatever its status.
    ///
    /// # Errors
    /// When it cannot be started or is not done in time.
    pub fn outcome(self) -> Result<Output> {
        self.finish()
    }

    /// Starts the command beside the test. It is killed when the returned guard is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(self) -> Result<Process> {
        let title = self.to_string();
        let mut command = self.prepare()?;
        Process::start(&mut command, title, self.namespace.as_ref())
    }

    fn finish(self) -> Result<Output> {
        let (mut stdout, mut stderr) = (scratch_file()?, scratch_file()?);
        let mut command = self.prepare()?;
        command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("cannot start {self}"))?;
        let in_time = wait(&mut child, self.deadline)?;
        let status = match in_time {
            Some(status) => status,
            None => kill(&mut child)?,
        };
        let output = Output {
            command: self.to_string(),
            status,
            stdout: read_all(&mut stdout)?,
            stderr: read_all(&mut stderr)?,
        };
        match in_time {
            Some(_) => Ok(output),
            None => Err(CommandFailed { output, timed_out: Some(self.deadline) }.into()),
        }
    }

    fn prepare(&self) -> Result<Command> {
        let program = match self.program.to_str() {
            Some(name) => tools::locate(name)?.into_os_string(),
            None => self.program.clone(),
        };
        let mut command = match &self.namespace {
            // `ip netns exec` also mounts a /sys that shows the namespace's own interfaces.
            Some(namespace) => {
                let mut command = Command::new(tools::locate("ip")?);
                command.args(["netns", "exec", namespace.name()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(&self.args).stdin(self.stdin_file()?).process_group(0);
        for name in &self.env_removed {
            command.env_remove(name);
        }
        if let Some(namespace) = &self.namespace {
            command.env(crate::sweep::ENVIRONMENT_MARK, namespace.site().id().to_string());
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn stdin_file(&self) -> Result<Stdio> {
        if self.stdin.is_empty() {
            return Ok(Stdio::null());
        }
        let mut file = scratch_file()?;
        file.write_all(&self.stdin)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file.into())
    }
}

/// The command line with where it runs, for messages.
impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}", self.program.to_string_lossy())?;
        for arg in &self.args {
            write!(f, " {}", arg.to_string_lossy())?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, "` in {}", namespace.label()),
            None => f.write_str("`"),
        }
    }
}

/// What a command that ran to its end has left.
#[derive(Debug, Clone)]
pub struct Output {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, with invalid UTF-8 replaced.
    pub stdout: String,
    /// Its standard error, with invalid UTF-8 replaced.
    pub stderr: String,
}

impl Output {
    pub(crate) const fn new(command: String, status: ExitStatus, stdout: String, stderr: String) -> Self {
        Self { command, status, stdout, stderr }
    }

    /// Whether its exit status is 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its exit status; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its standard output, parsed as one JSON document.
    ///
    /// # Errors
    /// When it is not that; the error shows the output.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("{} printed other JSON than expected:\n{}", self.command, self.stdout))
    }
}

/// A command ended badly, or did not end in time.
#[derive(Debug)]
pub struct CommandFailed {
    /// What it left.
    pub output: Output,
    /// The deadline, when it was killed for not being done by then.
    pub timed_out: Option<Duration>,
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output { command, status, stdout, stderr } = &self.output;
        match (self.timed_out, status.code(), status.signal()) {
            (Some(deadline), _, _) => write!(f, "{command} was not done after {deadline:?}")?,
            (None, Some(code), _) => write!(f, "{command} ended with status {code}")?,
            (None, None, signal) => {
                write!(f, "{command} was ended by signal {}", signal.unwrap_or_default())?;
            }
        }
        for (name, text) in [("stdout", stdout), ("stderr", stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n{name}: {}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for CommandFailed {}

/// Waits for the end of a child, at most until `deadline` has passed.
pub(crate) fn wait(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    // A child that was reaped by an earlier look has no process any more for a descriptor to name.
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let until = Instant::now() + deadline;
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        poll_readable([pidfd.as_fd()], Some(left))?;
    }
}

/// Kills a child with all of its process group, and reaps it.
pub(crate) fn kill(child: &mut Child) -> Result<ExitStatus> {
    // The child is not reaped yet, so its id is still its own. It may have ended by itself: no error.
    let pid = Pid::from_child(child);
    if child.try_wait()?.is_none() {
        kill_process_group(pid, Signal::KILL).or_else(|errno| match errno {
            rustix::io::Errno::SRCH => Ok(()),
            other => Err(other),
        })?;
    }
    Ok(child.wait()?)
}

fn scratch_file() -> Result<File> {
    tempfile::tempfile().context("cannot make a temporary file for a command's output")
}

fn read_all(file: &mut File) -> Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Cmd {
        Cmd::on_the_machine("sh").args(["-c", script])
    }

    #[test]
    fn gives_status_and_both_outputs() {
        let output = shell("cat; echo oops >&2; exit 3").stdin("hello").outcome().unwrap();

        assert_eq!(
            (output.code(), output.stdout.as_str(), output.stderr.as_str()),
            (Some(3), "hello", "oops\n")
        );
    }

    #[test]
    fn a_failure_shows_command_status_and_stderr() {
        let error = shell("echo oops >&2; exit 3").run().unwrap_err();

        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("status 3") && text.contains("oops"), "{text}");
        assert_eq!(error.downcast_ref::<CommandFailed>().unwrap().output.code(), Some(3));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_at_its_deadline() {
        let start = Instant::now();
        let error = shell("sleep 60").deadline(Duration::from_millis(100)).run().unwrap_err();

        assert!(error.to_string().contains("was not done after 100ms"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_background_child_that_keeps_the_output_open_does_not_hold_up_the_caller() {
        let start = Instant::now();
        let output = shell("sleep 3 & echo done").run().unwrap();

        assert_eq!(output.stdout, "done\n");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
