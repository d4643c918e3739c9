//! Waiting for processes, with a deadline.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Waits until the process has ended. Returns whether it has, or the system's refusal to watch it.
pub(crate) fn wait_for_end(pid: Pid, deadline: Instant) -> rustix::io::Result<bool> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => readable(&process, deadline),
        Err(Errno::SRCH) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Waits until a read of `fd` would not block; for a process's descriptor, until it has ended (pidfd_open(2)).
/// Returns whether it is so before the deadline.
pub(crate) fn readable(fd: &impl AsFd, deadline: Instant) -> rustix::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_too_long| Errno::INVAL)?;
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            // A signal that comes again and again still leaves less time at each turn.
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits until a read of any of these would not block, or the deadline.
pub(crate) fn any_readable(fds: &[impl AsFd], deadline: Instant) -> rustix::io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(|_too_long| Errno::INVAL)?;
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_end_is_seen_and_a_deadline_kept() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert_eq!(wait_for_end(pid, Instant::now() + Duration::from_millis(20)), Ok(false));
        child.kill().unwrap();
        assert_eq!(wait_for_end(pid, Instant::now() + Duration::from_secs(10)), Ok(true));
        child.wait().unwrap();
        assert_eq!(wait_for_end(pid, Instant::now()), Ok(true));
    }
}
