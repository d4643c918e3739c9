//! The watcher beside each lab: a process of its own that outlives the test, whatever happens to the test.
//!
//! It holds the reading end of a pipe whose writing end only the test has. When the test ends, be it by
//! SIGKILL, the kernel closes the pipe; the watcher then takes away what is left of the lab, and ends.

use std::io::{PipeWriter, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::id::LabId;
use crate::{command, sweep, tools};

/// The name of the watcher's binary.
const BINARY: &str = "mesh-lab-reaper";

/// How long the watcher may take to end after its lab.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// The test's side of the watcher.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Child,
    alive: Option<PipeWriter>,
}

impl Reaper {
    /// Starts the watcher of a lab.
    pub(crate) fn watch(id: LabId) -> Result<Self> {
        let binary = tools::built_binary(BINARY, "MESH_LAB_REAPER", "mesh-lab")?;
        let (reader, writer) = std::io::pipe().context("cannot make the pipe to the lab's watcher")?;
        // A process group of its own, so that a signal to the test's group leaves it alone.
        let mut command = Command::new(&binary);
        command.arg(id.to_string()).stdin(reader).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.current_dir("/").process_group(0).spawn();
        let child = child.with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { child, alive: Some(writer) })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.alive.take());
        match command::wait(&mut self.child, END_DEADLINE) {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                eprintln!("lab: the watcher does not end and is killed");
                command::kill(&mut self.child).ok();
            }
        }
    }
}

/// What the watcher's binary does: waits for the end of standard input, and takes away the lab named by its
/// argument.
///
/// # Errors
/// When the argument is not a lab's id, or something of the lab is left.
#[doc(hidden)]
pub fn main(mut args: impl Iterator<Item = String>) -> Result<()> {
    let id: LabId = args.nth(1).context("usage: mesh-lab-reaper LAB-ID < PIPE")?.parse()?;
    let mut ignored = [0; 64];
    // An error of the pipe means the same as its end.
    while matches!(std::io::stdin().read(&mut ignored), Ok(count) if count > 0) {}
    sweep::remove(id)
}
