//! The wait for rtnetlink's word that something has changed. Owns the socket that hears it, the thread that waits, and that
//! thread's end. What has changed is for whoever waits.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::error::{HostError, KernelError};

/// Events that are taken from the socket before one look at the tables; further ones cause another look.
const EVENTS_PER_LOOK_MAX: u32 = 4096;

/// Bytes of one datagram of events.
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;

/// The events of some groups of rtnetlink in one namespace.
pub(crate) struct Events {
    socket: Socket,
    stop: Arc<OwnedFd>,
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    Stop,
    Events,
    Late,
}

/// What waited in the socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    Whole,
    /// Some events were lost: there were too many.
    Overrun,
}

impl Events {
    /// Listens to these groups (`RTNLGRP_*` of include/uapi/linux/rtnetlink.h) in the calling thread's namespace.
    pub(crate) fn subscribe(groups: &[u32]) -> Result<Self, HostError> {
        let opened = |error: KernelError| error.during("open a socket to", "rtnetlink");
        let listen = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            groups.iter().try_for_each(|group| socket.add_membership(*group))?;
            Ok(socket)
        };
        let socket = listen().map_err(|error| opened(error.into()))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self { socket, stop: Arc::new(stop.map_err(|errno| opened(errno.into()))?) })
    }

    /// Starts the thread that waits for these events: it runs until it is told to stop.
    pub(crate) fn wait_on_thread(
        self,
        name: &str,
        run: impl FnOnce(Self) + Send + 'static,
    ) -> Result<Waiting, HostError> {
        let stop = Arc::clone(&self.stop);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(self))
            .map_err(|source| HostError::Thread { source })?;
        Ok(Waiting { stop, thread: Some(thread) })
    }

    /// Waits for an event, for `limit` at most.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> Result<Woken, Errno> {
        let limit = limit.map(|limit| Timespec::try_from(limit).expect("a minute fits a timespec"));
        loop {
            let mut both = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut both, limit.as_ref()) {
                Ok(0) => return Ok(Woken::Late),
                Ok(_) if !both[0].revents().is_empty() => return Ok(Woken::Stop),
                Ok(_) => return Ok(Woken::Events),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Waits whatever comes, which stays in the socket, or overruns it. True when it is time to stop.
    pub(crate) fn stopped_within(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).expect("some milliseconds fit a timespec");
        let mut stop = [PollFd::new(&self.stop, PollFlags::IN)];
        // An interruption shortens the wait, no more.
        matches!(poll(&mut stop, Some(&time)), Ok(1..))
    }

    /// Takes what waits in the socket, and tells of each event with its type and what follows its header.
    pub(crate) fn drain(&self, mut tell: impl FnMut(u16, &[u8])) -> Drained {
        let mut drained = Drained::Whole;
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        for _ in 0..EVENTS_PER_LOOK_MAX {
            datagram.clear();
            match self.socket.recv_from(&mut datagram, libc::MSG_DONTWAIT) {
                // Only the kernel has port 0.
                Ok((_, sender)) if sender.port_number() == 0 => {
                    let mut rest = &datagram[..];
                    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
                        tell(message.message_type(), message.payload());
                        let length = (message.length() as usize).next_multiple_of(4).clamp(4, rest.len());
                        rest = &rest[length..];
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_overrun) => drained = Drained::Overrun,
            }
        }
        drained
    }
}

/// A thread that waits for events; dropping this ends it, and waits until it has.
#[derive(Debug)]
pub(crate) struct Waiting {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // The counter of a fresh eventfd has room for a one.
        let _woken = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Whether it panicked changes nothing for whoever is done with it.
            let _ended = thread.join();
        }
    }
}
