//! A named network namespace, and ways to do things inside it.
//!
//! Owns creating the namespace; [`sweep`](crate::sweep) deletes it, since that must also work for a lab
//! whose process is gone.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{Cmd, Output};
use crate::process::Process;
use crate::site::Site;
use crate::state::NetworkState;
use crate::sweep;

/// Where `ip netns` keeps namespaces by name.
pub(crate) const NAMESPACES: &str = "/run/netns";

/// A network namespace with a name that `ip netns` and `netns:NAME` know.
///
/// Hosts, containers and NAT routers are each one of these, and have all of its methods.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: Arc<str>,
    label: Arc<str>,
    site: Arc<Site>,
}

impl Namespace {
    /// Makes the namespace `label` of the lab, with loopback up and without duplicate address detection, so
    /// that IPv6 addresses can be used at once.
    pub(crate) fn create(site: &Arc<Site>, label: &str) -> Result<Self> {
        let name: Arc<str> = format!("{}{label}", site.id().namespace_prefix()).into();
        let namespace = Self { name, label: label.into(), site: Arc::clone(site) };
        {
            let _alone = alone()?;
            Cmd::on_the_machine("ip").args(["netns", "add", namespace.name()]).run()?;
        }
        for interfaces in ["all", "default"] {
            namespace.set_sysctl(&format!("net.ipv6.conf.{interfaces}.accept_dad"), "0")?;
        }
        namespace.ip_batch("link set lo up\n")?;
        Ok(namespace)
    }

    /// The full name, unique on this machine.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name within the lab, as tests and messages use it.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NAMESPACES).join(self.name())
    }

    /// How `mesh` names this namespace: `netns:NAME`.
    #[must_use]
    pub fn spec(&self) -> String {
        format!("netns:{}", self.name)
    }

    /// A command that will run in here.
    pub fn cmd(&self, program: impl AsRef<OsStr>) -> Cmd {
        Cmd::inside(self, program)
    }

    /// Runs a command in here and wants it to succeed: `run(["ip", "link", "show"])`.
    ///
    /// # Errors
    /// As [`Cmd::run`], and when `command` is empty.
    pub fn run<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Result<Output> {
        self.split(command)?.run()
    }

    /// Starts a command in here that goes on beside the test.
    ///
    /// # Errors
    /// As [`Cmd::spawn`], and when `command` is empty.
    pub fn spawn<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Result<Process> {
        self.split(command)?.spawn()
    }

    fn split<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Result<Cmd> {
        let mut words = command.into_iter();
        let Some(program) = words.next() else { bail!("an empty command cannot be run in {}", self.label) };
        Ok(self.cmd(program).args(words))
    }

    /// Calls `inside` on a thread of its own that is in this namespace, and gives what it returns. Sockets
    /// opened there belong to the namespace for good, on whatever thread they are used later.
    ///
    /// Only the network is the namespace's: `/sys` and `/proc/self/net` are still the test's own, while
    /// `/proc/sys/net` and `/proc/thread-self/net` are the namespace's.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `inside` does.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("the namespace {} is gone", self.label))?;
        let outcome = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map(|()| inside())
            });
            thread.join()
        });
        match outcome {
            Ok(entered) => entered.with_context(|| format!("cannot enter the namespace {}", self.label)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The value of a kernel setting below `net`, such as `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name)?;
        let value = self.enter(|| fs::read_to_string(&path))?;
        Ok(value.with_context(|| format!("cannot read {name} in {}", self.label))?.trim_end().to_owned())
    }

    /// Changes a kernel setting below `net`. A dot inside an interface's name is written as `/`.
    ///
    /// # Errors
    /// When there is no such setting or the kernel does not take the value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name)?;
        let written = self.enter(|| fs::write(&path, value))?;
        written.with_context(|| format!("cannot set {name} to {value} in {}", self.label))
    }

    /// A picture of all that `mesh` may change in here, to be compared with a later one.
    ///
    /// # Errors
    /// When one of `ip` and `nft` fails.
    pub fn network_state(&self) -> Result<NetworkState> {
        NetworkState::of(self)
    }

    /// The programs that are in here now, by process id.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        sweep::running().into_iter().filter(|pid| self.holds(*pid)).collect()
    }

    /// Runs several `ip` commands, one a line, in one process.
    pub(crate) fn ip_batch(&self, lines: &str) -> Result<Output> {
        Cmd::on_the_machine("ip")
            .args(["-n", self.name(), "-batch", "-"])
            .stdin(lines)
            .run()
            .with_context(|| format!("in {}: {}", self.label, lines.trim().replace('\n', "; ")))
    }

    /// Whether the process is in this namespace.
    pub(crate) fn holds(&self, pid: u32) -> bool {
        let identity = |path: PathBuf| fs::metadata(path).map(|file| (file.st_dev(), file.st_ino())).ok();
        let own = identity(self.path());
        own.is_some() && own == identity(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    pub(crate) const fn site(&self) -> &Arc<Site> {
        &self.site
    }
}

/// Lets one lab at a time make or delete a namespace: the first `ip netns add` on a machine also mounts
/// [`NAMESPACES`], and two of them at once can hide each other's result. The lock is on `/run` itself, so
/// that no lock file is left; `ip` has a lock of its own on the directory below.
pub(crate) fn alone() -> Result<File> {
    let run = File::open("/run").context("cannot open /run")?;
    flock(&run, FlockOperation::LockExclusive).context("cannot lock /run")?;
    Ok(run)
}

fn sysctl_path(name: &str) -> Result<PathBuf> {
    if !name.starts_with("net.") || name.contains("..") {
        bail!("{name} is not a setting of a network namespace");
    }
    // sysctl(8) swaps the two signs, so that `net.ipv4.conf.eth0/1.forwarding` names the interface eth0.1.
    let swapped = |sign| match sign {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    Ok(PathBuf::from("/proc/sys").join(name.chars().map(swapped).collect::<String>()))
}
