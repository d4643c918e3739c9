//! A whole machine on a host of the lab: a clean Debian with systemd as its first process.
//!
//! Owns the machine's process, namespaces and files. It is in the host's network namespace and in namespaces of its own
//! otherwise; what it writes stays in memory, and goes with its first process. Of the kernel it can change nothing but its
//! network. `scripts/machine` makes the image that all machines share.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::command::{Cmd, Output};
use crate::eventually::eventually;
use crate::host::Host;
use crate::process::Process;
use crate::tools;

/// How long a machine may take until systemd has started all that starts at boot.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

/// What the first process does before it becomes systemd: image, directory, control group and name are its arguments.
const BOOT: &str = include_str!("machine/boot.sh");

/// What starts the first process, and another one when the machine reboots: [`BOOT`] and its arguments are the arguments.
const POWER: &str = include_str!("machine/power.sh");

/// The environment of commands, as a login of root has it.
const ENVIRONMENT: [&str; 4] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "TERM=dumb",
];

/// A running machine. It ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    host: Host,
    /// systemd, as this machine's kernel numbers it.
    init: u32,
    /// What starts it, and starts it again.
    process: Process,
}

impl Machine {
    /// Why no machine can run here; `None` when one can.
    #[must_use]
    pub fn missing() -> Option<String> {
        if image().is_none_or(|image| !image.is_dir()) {
            return Some("there is no image of a clean Debian: run scripts/machine".to_owned());
        }
        control_groups().is_none().then(|| "no control groups of version 2 are mounted".to_owned())
    }

    /// Boots a machine on `host`, under the host's name.
    ///
    /// # Errors
    /// When systemd does not come up in time.
    pub fn boot(host: &Host) -> Result<Self> {
        let image = image().context("scripts/machine makes the image")?;
        let directory = host.site().directory().join(host.label()).join("machine");
        fs::create_dir_all(&directory)?;
        let groups = control_groups().context("control groups of version 2")?;
        let group = groups.join(host.site().id().mark()).join(host.label());
        fs::create_dir_all(&group)?;
        let mut command = Command::new(tools::locate("nsenter")?);
        command
            .arg(format!("--net={}", host.path().display()))
            .args(["sh", "-ec", r#"echo $$ >"$4/cgroup.procs"; exec unshare -m sh -ec "$0" power "$@""#])
            .arg(POWER)
            .arg(BOOT)
            .args([&image, &directory, &group])
            .arg(host.label())
            .stdin(Stdio::null())
            .process_group(0);
        let mut process = Process::start(&mut command, "a machine".to_owned(), Some(host))?;
        let init = first_process(&mut process, None)?;
        let machine = Self { host: host.clone(), init, process };
        machine.wait_until_it_is_up()?;
        Ok(machine)
    }

    /// Reboots it, as `systemctl reboot` does: its files stay, its memory and its network go, but for the cable.
    ///
    /// # Errors
    /// When systemd does not end, or does not come up again in time.
    pub fn reboot(&mut self) -> Result<()> {
        // It may be gone before it answers.
        drop(self.cmd("systemctl").args(["--no-block", "reboot"]).outcome()?);
        self.init = first_process(&mut self.process, Some(self.init))?;
        self.wait_until_it_is_up()
    }

    fn wait_until_it_is_up(&self) -> Result<()> {
        eventually(BOOT_DEADLINE, || {
            let state = self.cmd("systemctl").arg("is-system-running").outcome()?.stdout;
            // Degraded is a machine where a unit has failed: that of a clean image is none of ours.
            ensure!(
                ["running", "degraded"].contains(&state.trim()),
                "{} is {}",
                self.host.label(),
                state.trim()
            );
            Ok(())
        })
    }

    /// The host that it runs on.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// A command in the machine, as root in its home directory would run it.
    pub fn cmd(&self, program: impl AsRef<OsStr>) -> Cmd {
        Cmd::on_the_machine("nsenter")
            .args(["-a", "-t", &self.init.to_string(), "env", "-i", "-C", "/root"])
            .args(ENVIRONMENT)
            .arg(program)
    }

    /// Runs a line of shell in the machine, and wants it to succeed.
    ///
    /// # Errors
    /// As [`Cmd::run`].
    pub fn sh(&self, line: &str) -> Result<Output> {
        self.cmd("sh").args(["-c", line]).run()
    }

    /// Where this machine's files are for the test: an absolute path in it, as the test has to say it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(path.trim_start_matches('/'))
    }
}

/// Waits for a machine's systemd, another one than `before`.
fn first_process(process: &mut Process, before: Option<u32>) -> Result<u32> {
    eventually(BOOT_DEADLINE, || {
        if !process.is_running() {
            return Ok(Err(anyhow!("the machine does not boot: {}", process.stderr().trim())));
        }
        let child = |parent: u32| -> Result<u32> {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
            children.trim().parse().context("not forked yet")
        };
        let init = child(child(process.pid())?)?;
        ensure!(Some(init) != before, "not ended yet");
        ensure!(fs::read_to_string(format!("/proc/{init}/comm"))?.trim() == "systemd", "not booted yet");
        Ok(Ok(init))
    })?
}

/// Where `scripts/machine` leaves the image of the release that runs here.
fn image() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")))?;
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(cache.join("mesh-machine").join(name.trim_matches('"')))
}

/// Where control groups of version 2 are mounted, alone or beside those of version 1.
fn control_groups() -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(PathBuf::from)
        .into_iter()
        .find(|root| root.join("cgroup.procs").exists() && root.join("cgroup.controllers").exists())
}
