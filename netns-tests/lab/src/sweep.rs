//! Taking a lab away: its processes, its namespaces, its directory.
//!
//! Works from the lab's id alone, because it also runs for labs whose process was killed. All of it may run
//! several times and from several processes at once.

use std::collections::BTreeSet;
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::id::LabId;
use crate::namespace::NAMESPACES;

/// Each program that a lab starts has this variable with the lab's id in its environment, and hands it on:
/// by it a process is found that went to a namespace without a name.
pub(crate) const ENVIRONMENT_MARK: &str = "MESH_LAB_ID";

/// How long killed processes may take to disappear.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Takes away all that the lab made.
///
/// # Errors
/// When something is left, with what it is.
pub(crate) fn remove(id: LabId) -> Result<()> {
    kill_processes(id);
    for namespace in namespaces(id) {
        delete_namespace(&namespace);
    }
    remove_control_groups(id);
    let directory = id.directory();
    unmount_within(&directory);
    if let Err(error) = fs::remove_dir_all(&directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("lab: cannot remove {}: {error}", directory.display());
    }
    let left = leftovers(id);
    if !left.is_empty() {
        bail!("the lab {id} leaves behind {}", left.join(", "));
    }
    Ok(())
}

/// Takes away the labs of processes that have ended without doing so.
pub(crate) fn remove_abandoned() {
    let temporary = std::env::temp_dir();
    let named = names_in(&temporary).into_iter().chain(names_in(Path::new(NAMESPACES)));
    let mut seen = BTreeSet::new();
    for id in named.filter_map(|name| LabId::of_name(&name)) {
        if seen.insert(id.to_string())
            && !id.owner_lives()
            && let Err(error) = remove(id)
        {
            eprintln!("lab: {error:#}");
        }
    }
}

/// All that is there of a lab, in words; empty when it is gone.
pub(crate) fn leftovers(id: LabId) -> Vec<String> {
    let processes = processes(id).into_iter().map(|pid| format!("process {pid}"));
    let namespaces = namespaces(id).into_iter().map(|path| format!("namespace {}", path.display()));
    let directory = Some(id.directory()).filter(|path| path.exists());
    let groups = control_groups(id).into_iter().map(|path| format!("control group {}", path.display()));
    processes
        .chain(namespaces)
        .chain(groups)
        .chain(directory.map(|path| format!("directory {}", path.display())))
        .collect()
}

/// Asks all programs of the lab to end, and waits for them for a while.
pub(crate) fn stop_processes(id: LabId, grace: Duration) {
    signal_all(id, Signal::TERM);
    let until = Instant::now() + grace;
    while !processes(id).is_empty() && Instant::now() < until {
        sleep(Duration::from_millis(10));
    }
}

/// The programs that are in the lab's namespaces, or have its mark.
pub(crate) fn processes(id: LabId) -> Vec<u32> {
    let members = Members::of(id);
    running().into_iter().filter(|pid| members.have(*pid)).collect()
}

/// All processes of the machine but this one.
pub(crate) fn running() -> Vec<u32> {
    let own = std::process::id();
    let all = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    all.filter(|pid| *pid != own).collect()
}

/// Tells by what a process is known as one of the lab's.
struct Members {
    homes: BTreeSet<(u64, u64)>,
    mark: String,
}

impl Members {
    fn of(id: LabId) -> Self {
        let homes = namespaces(id).iter().filter_map(|path| identity(path)).collect();
        Self { homes, mark: format!("{ENVIRONMENT_MARK}={id}") }
    }

    /// Zombies are nobody's: they are gone from their namespace and have no environment.
    fn have(&self, pid: u32) -> bool {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let at_home = || identity(&process.join("ns/net")).is_some_and(|home| self.homes.contains(&home));
        let marked = || {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes())
        };
        at_home() || marked()
    }
}

/// Kills again and again, as a process may have forked between the look and the signal.
fn kill_processes(id: LabId) {
    let until = Instant::now() + KILL_DEADLINE;
    while signal_all(id, Signal::KILL) > 0 && Instant::now() < until {
        sleep(Duration::from_millis(5));
    }
}

/// Signals all programs of the lab, and tells how many there were.
fn signal_all(id: LabId, signal: Signal) -> usize {
    let members = Members::of(id);
    let found = processes(id);
    for pid in &found {
        signal_member(&members, *pid, signal);
    }
    found.len()
}

/// The file descriptor pins the process: if it still belongs to the lab after that, no other one can have
/// taken over its id.
fn signal_member(members: &Members, pid: u32, signal: Signal) {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty()) else { return };
    if members.have(pid)
        && let Err(error) = pidfd_send_signal(pidfd, signal)
        && error != rustix::io::Errno::SRCH
    {
        eprintln!("lab: cannot signal process {pid}: {error}");
    }
}

fn namespaces(id: LabId) -> Vec<PathBuf> {
    let prefix = id.namespace_prefix();
    let names = names_in(Path::new(NAMESPACES)).into_iter().filter(|name| name.starts_with(&prefix));
    names.map(|name| Path::new(NAMESPACES).join(name)).collect()
}

/// Does what `ip netns delete` does. Fails in silence when another process was faster; what is left in the
/// end is found by [`leftovers`].
fn delete_namespace(path: &Path) {
    unmount(path, UnmountFlags::DETACH).ok();
    fs::remove_file(path).ok();
}

/// Takes away file systems that were mounted in a directory: the fifth field of each line (proc_pid_mountinfo(5)).
fn unmount_within(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for point in points.filter(|point| point.starts_with(directory)) {
        unmount(point, UnmountFlags::DETACH).ok();
    }
}

/// The control groups of containers that a runtime ran in the lab: below each hierarchy, or the only one.
fn control_groups(id: LabId) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = names_in(root).into_iter().map(|name| root.join(name)).chain([root.to_owned()]);
    hierarchies.map(|hierarchy| hierarchy.join(id.mark())).filter(|group| group.is_dir()).collect()
}

/// Again and again, as a group is busy until the last of its processes is taken apart.
fn remove_control_groups(id: LabId) {
    let until = Instant::now() + KILL_DEADLINE;
    loop {
        control_groups(id).iter().for_each(|group| remove_control_group(group));
        if control_groups(id).is_empty() || Instant::now() > until {
            return;
        }
        sleep(Duration::from_millis(5));
    }
}

/// Removes a control group with those in it. One that has processes stays, and is found by [`leftovers`].
fn remove_control_group(group: &Path) {
    for name in names_in(group) {
        let inner = group.join(name);
        if inner.is_dir() {
            remove_control_group(&inner);
        }
    }
    fs::remove_dir(group).ok();
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|file| (file.st_dev(), file.st_ino())).ok()
}

/// The names of a directory's entries; none if it cannot be read.
fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
