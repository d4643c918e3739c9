//! The router of a host: running the `mesh` binary, finding its process, reading its log.
//!
//! Knows of `mesh` only what a user knows: the binary, its two directories, its pid file and its log.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::command::{Cmd, Output};
use crate::host::Host;
use crate::site::lock;
use crate::tools;
use crate::wait::poll_readable;

/// The variable that names the binary under test.
const BINARY_VARIABLE: &str = "MESH_BIN";

/// The setting of `launch` that whoever runs scenarios may choose for all routers.
const DATAPATH_VARIABLE: &str = "MESH_DATAPATH";

/// How long a router may take to end after a signal.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// Runs a program that finds the file in `$0` as `/etc/hosts`.
const MOUNT_NAMES: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

/// So many of the last lines of a log are shown when a lab ends.
const LOG_TAIL_LINES: usize = 40;

impl Host {
    /// Runs `mesh` on this host, with directories of its own, and wants it to succeed.
    ///
    /// # Errors
    /// As [`Cmd::run`], and when the binary is missing.
    pub fn mesh<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.mesh_cmd(args)?.run()
    }

    /// Runs `mesh` on this host and wants it to fail with this status.
    ///
    /// # Errors
    /// When it ends otherwise, or the binary is missing.
    pub fn mesh_fails<A: AsRef<OsStr>>(
        &self,
        status: i32,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        let command = self.mesh_cmd(args)?;
        let title = command.to_string();
        let output = command.outcome()?;
        if output.code() != Some(status) {
            let Output { status: ended, stdout, stderr, .. } = output;
            bail!(
                "{title} should end with status {status}, but: {ended}\nstdout: {stdout}\nstderr: {stderr}"
            );
        }
        Ok(output)
    }

    /// A `mesh` command for this host, to be changed before it is run or spawned.
    ///
    /// The environment names the run and state directories and the host's name as nickname, and leaves addresses to the
    /// user, unless an option gives a range; other `MESH_` variables of the test itself are taken out, and the machine's own
    /// configuration file is not read.
    ///
    /// # Errors
    /// When the binary is missing: it is the file that `MESH_BIN` names, else `mesh` beside the test's
    /// target directory.
    pub fn mesh_cmd<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Cmd> {
        let settings = lock(self.settings()).clone();
        let binary = match settings.binary {
            Some(binary) => binary,
            None => tools::built_binary("mesh", BINARY_VARIABLE, "mesh")?,
        };
        let command = match self.preparations(settings.clocks_ahead).as_slice() {
            [] => self.cmd(&binary),
            [program, arguments @ ..] => self.cmd(program).args(arguments).arg(&binary),
        };
        let inherited = std::env::vars_os().map(|(name, _)| name);
        let is_foreign = |name: &str| name.starts_with("MESH_") && name != DATAPATH_VARIABLE;
        let foreign = inherited.filter(|name| name.to_str().is_some_and(is_foreign));
        let bare = foreign.fold(command.args(args), Cmd::env_remove);
        let own = [
            ("MESH_RUN_DIR", self.run_dir().into_os_string()),
            ("MESH_STATE_DIR", self.state_dir().into_os_string()),
            ("MESH_NICKNAME", self.label().into()),
            ("MESH_IPAM_RANGE", "none".into()),
            ("MESH_CONFIG", "/dev/null".into()),
            (
                "MESH_DOCKER_SOCKET",
                self.docker_socket().map_or_else(|| "none".into(), PathBuf::into_os_string),
            ),
            ("MESH_PODMAN_SOCKET", "none".into()),
        ];
        Ok(own.into_iter().fold(bare, |command, (name, value)| command.env(name, value)))
    }

    /// Makes this host run another `mesh` than the rest of the lab, such as an older version.
    pub fn use_binary(&self, binary: impl Into<PathBuf>) {
        lock(self.settings()).binary = Some(binary.into());
    }

    /// Where the router has its socket and pid file.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.directory().join("run")
    }

    /// Where the router has its identity and log.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.directory().join("state")
    }

    /// Gives the router's state directory a file system of its own, in memory, that holds so many bytes. What lies in the
    /// directory is covered by it.
    ///
    /// # Errors
    /// When the kernel refuses the mount.
    pub fn confine_state(&self, bytes: u64) -> Result<()> {
        let directory = self.state_dir();
        fs::create_dir_all(&directory)?;
        let options = format!("size={bytes},mode=0700");
        Cmd::on_the_machine("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory).run()?;
        Ok(())
    }

    /// Lets nobody write to the file system of [`confine_state`](Self::confine_state), or everybody again. The first only when
    /// no router runs, as the kernel refuses it while a file is open for writing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_state_read_only(&self, read_only: bool) -> Result<()> {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        Cmd::on_the_machine("mount").args(["-o", options]).arg(self.state_dir()).run()?;
        Ok(())
    }

    /// The process id of the running router, from its pid file.
    ///
    /// # Errors
    /// When there is no such file, or no such process on this host.
    pub fn router_pid(&self) -> Result<u32> {
        let path = self.run_dir().join("mesh.pid");
        let text =
            fs::read_to_string(&path).with_context(|| format!("no router runs on {}", self.label()))?;
        let pid = text.trim().parse().with_context(|| format!("{} holds {text:?}", path.display()))?;
        if !self.holds(pid) {
            bail!("the pid file of {} names {pid}, which is no process of that host", self.label());
        }
        Ok(pid)
    }

    /// Sends the router a signal. After one that ends it ([`Signal::KILL`], [`Signal::TERM`],
    /// [`Signal::INT`], [`Signal::QUIT`], [`Signal::ABORT`]) waits until its process is gone.
    ///
    /// # Errors
    /// When no router runs here, or it does not end within 10 seconds.
    pub fn kill_router(&self, signal: Signal) -> Result<()> {
        let pid = self.router_pid()?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a pid is a positive number")?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
        // Asked once more with the process pinned: no other one can have this id any more.
        if self.router_pid()? != pid {
            bail!("the router of {} has changed while it was looked for", self.label());
        }
        pidfd_send_signal(&pidfd, signal)?;
        let ends = [Signal::KILL, Signal::TERM, Signal::INT, Signal::QUIT, Signal::ABORT].contains(&signal);
        if !ends {
            return Ok(());
        }
        // Readable once all threads are gone, and their files with them: nobody is let into a socket any more.
        let [gone] = poll_readable([pidfd.as_fd()], Some(END_DEADLINE))?;
        ensure!(gone, "the router of {} survives {signal:?}", self.label());
        Ok(())
    }

    /// What the router has logged so far; empty when there is no log.
    #[must_use]
    pub fn router_log(&self) -> String {
        read(&self.log_file())
    }

    pub(crate) fn names_file(&self) -> PathBuf {
        self.directory().join("hosts")
    }

    /// The words that stand before the binary where it is to see other clocks or another `/etc/hosts` than the machine.
    /// `ip netns exec` has made a mount namespace, so that what is mounted here is seen by the binary alone.
    fn preparations(&self, clocks_ahead: Duration) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if !clocks_ahead.is_zero() {
            let seconds = clocks_ahead.as_secs();
            let clocks = [format!("--monotonic={seconds}"), format!("--boottime={seconds}")];
            words.extend(["unshare", "--time", "--fork", &clocks[0], &clocks[1]].map(OsString::from));
        }
        let names = self.names_file();
        if names.exists() {
            words.extend(["sh", "-c", MOUNT_NAMES].map(OsString::from));
            words.push(names.into());
        }
        words
    }

    fn log_file(&self) -> PathBuf {
        self.state_dir().join("mesh.log")
    }

    fn directory(&self) -> PathBuf {
        self.site().directory().join(self.label())
    }

    /// Prints the end of the log, for whoever reads the output of a failed test.
    pub(crate) fn print_log_tail(&self) {
        let log = self.router_log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        if !tail.is_empty() {
            eprintln!(
                "--- the last {} lines of the log of {}\n{}",
                tail.len(),
                self.label(),
                tail.join("\n")
            );
        }
    }
}

/// Lines that tell of a bug: of level ERROR, or a panic. Each with the name of its file.
pub(crate) fn alarming_lines(files: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(std::env::temp_dir()).unwrap_or(file).display().to_string();
        let text = read(file);
        found.extend(text.lines().filter(|line| is_alarming(line)).map(|line| format!("{name}: {line}")));
    }
    found
}

/// The log of a router on this host, whether or not there is one.
pub(crate) fn log_file(host: &Host) -> PathBuf {
    host.log_file()
}

/// Understands both formats of `--log-format`. In text the level is the first or second word, and may be
/// coloured.
fn is_alarming(line: &str) -> bool {
    let level =
        |word: &str| word.trim_start_matches(|sign: char| !sign.is_ascii_uppercase()).starts_with("ERROR");
    let in_text = line.split_whitespace().take(2).any(level);
    let in_json = line.contains(r#""level":"ERROR""#);
    in_text || in_json || line.contains("panicked at")
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_alarm_in_every_format() {
        for line in [
            "2026-01-02T03:04:05.678901Z ERROR mesh_daemon: the socket is gone",
            "\u{1b}[2m2026-01-02T03:04:05Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m mesh: x",
            r#"{"timestamp":"2026","level":"ERROR","fields":{"message":"x"}}"#,
            "thread 'main' (7) panicked at src/main.rs:3:5:",
        ] {
            assert!(is_alarming(line), "{line}");
        }
    }

    #[test]
    fn other_levels_do_not_alarm_even_if_they_speak_of_errors() {
        for line in [
            "2026-01-02T03:04:05Z  WARN mesh_daemon: ERROR in the peer's greeting",
            r#"{"level":"INFO","fields":{"message":"ERROR"}}"#,
            "error: no router runs here",
            "",
        ] {
            assert!(!is_alarming(line), "{line}");
        }
    }
}
