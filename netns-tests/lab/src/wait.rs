//! Waiting for file descriptors, and telling a thread that waits for them to end.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Waits until one of the files can be read or has reached its end, or `at_most` has passed. Says for each
/// file whether that is so. May return early.
pub(crate) fn poll_readable<const N: usize>(
    files: [BorrowedFd<'_>; N],
    at_most: Option<Duration>,
) -> Result<[bool; N]> {
    let mut polled = files.each_ref().map(|file| PollFd::new(file, PollFlags::IN));
    let timeout = at_most.and_then(|time| Timespec::try_from(time).ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => Ok(polled.each_ref().map(|file| !file.revents().is_empty())),
        Err(Errno::INTR) => Ok([false; N]),
        Err(error) => Err(error.into()),
    }
}

/// Held by the owner of a thread. The thread is told to end when this is dropped.
#[derive(Debug)]
pub(crate) struct OnSwitch(
    #[expect(dead_code, reason = "held for its end to be seen on the other side")] PipeWriter,
);

/// Held by the thread: becomes readable when it shall end.
#[derive(Debug)]
pub(crate) struct OffSignal(PipeReader);

impl AsFd for OffSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A switch and its signal.
pub(crate) fn on_switch() -> Result<(OnSwitch, OffSignal)> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe to a thread of the lab")?;
    Ok((OnSwitch(writer), OffSignal(reader)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_is_seen_once_the_switch_is_gone_and_not_before() {
        let (switch, off) = on_switch().unwrap();

        assert_eq!(poll_readable([off.as_fd()], Some(Duration::ZERO)).unwrap(), [false]);
        drop(switch);
        assert_eq!(poll_readable([off.as_fd()], None).unwrap(), [true]);
    }
}
