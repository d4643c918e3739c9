//! The host's own addresses, and word of each change of them.
//!
//! Owns the choice of addresses that other hosts may find this one at, and the thread that waits for the kernel's
//! events. An event says only that something changed: what is told comes from a dump, so that events lost to a full
//! socket, or cut off by a burst, cost nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::bridge::{is_marked, open_host};
use crate::error::{HostError, KernelError};
use crate::netlink::Netlink;

/// The groups of rtnetlink that say when an interface or an address changes (`RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`,
/// `RTNLGRP_IPV6_IFADDR` of include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 3] = [1, 5, 9];

/// Changes come in bursts: what follows the first within this time is looked at together with it.
const SETTLE: Duration = Duration::from_millis(50);

/// When the kernel's tables cannot be read, they are tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Events that are taken from the socket before one look at the tables; further ones cause another look.
const EVENTS_PER_LOOK_MAX: u32 = 4096;

/// Tells of the host's addresses until it is dropped.
#[derive(Debug)]
pub struct AddressWatch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl AddressWatch {
    /// Watches the calling thread's namespace. `tell` is called once before this returns, and then, on a thread of the
    /// watch's own, after each change, with all unicast addresses of the host, sorted. Left out are those of interfaces
    /// that are down, of our own bridge and its ports, loopback and IPv6 link-local ones, and those that the kernel
    /// does not use yet because it still looks for duplicates.
    ///
    /// `tell` must not block for long: dropping the watch waits for it.
    ///
    /// # Errors
    /// [`HostError::Kernel`] when rtnetlink refuses, [`HostError::Thread`] when there can be no further thread.
    pub fn start(mut tell: impl FnMut(Vec<IpAddr>) + Send + 'static) -> Result<Self, HostError> {
        let opened = |error: KernelError| error.during("open a socket to", "rtnetlink");
        // Subscribed first and looked up then: no change can fall between the two.
        let events = subscribe().map_err(|error| opened(error.into()))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(stop.map_err(|errno| opened(errno.into()))?);
        let mut host = open_host()?;
        let told = addresses(&mut host).map_err(|error| error.during("list the addresses of", "the host"))?;
        tell(told.iter().copied().collect());
        let watching = Watching { events, host, told, stop: Arc::clone(&stop) };
        let thread = thread::Builder::new()
            .name("mesh-addresses".to_owned())
            .spawn(move || watching.run(tell))
            .map_err(|source| HostError::Thread { source })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        // The counter of a fresh eventfd has room for a one.
        let _woken = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Whether it panicked changes nothing for whoever is done with it.
            let _ended = thread.join();
        }
    }
}

/// What the thread has.
struct Watching {
    events: Socket,
    host: Netlink,
    told: BTreeSet<IpAddr>,
    stop: Arc<OwnedFd>,
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Stop,
    Events,
    Late,
}

impl Watching {
    fn run(mut self, mut tell: impl FnMut(Vec<IpAddr>)) {
        let mut limit = None;
        loop {
            match self.wait(limit) {
                Ok(Woken::Stop) => return,
                Ok(Woken::Late | Woken::Events) => {}
                Err(errno) => {
                    tracing::error!(%errno, "changes of the host's addresses are no longer noticed");
                    return;
                }
            }
            // The socket is not looked at meanwhile; what comes waits in it, or overruns it, which is an event too.
            if self.stopped_within(SETTLE) {
                return;
            }
            self.drain();
            limit = match addresses(&mut self.host) {
                Ok(now) if now == self.told => None,
                Ok(now) => {
                    tell(now.iter().copied().collect());
                    self.told = now;
                    None
                }
                Err(error) => {
                    let error = error.during("list the addresses of", "the host");
                    tracing::warn!(%error, "the host's addresses cannot be read");
                    Some(RETRY)
                }
            };
        }
    }

    fn wait(&self, limit: Option<Duration>) -> Result<Woken, Errno> {
        let limit = limit.map(|limit| Timespec::try_from(limit).expect("a second fits a timespec"));
        loop {
            let mut both = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.events, PollFlags::IN)];
            match poll(&mut both, limit.as_ref()) {
                Ok(0) => return Ok(Woken::Late),
                Ok(_) if !both[0].revents().is_empty() => return Ok(Woken::Stop),
                Ok(_) => return Ok(Woken::Events),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn stopped_within(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).expect("some milliseconds fit a timespec");
        let mut stop = [PollFd::new(&self.stop, PollFlags::IN)];
        // An interruption shortens the wait, no more.
        matches!(poll(&mut stop, Some(&time)), Ok(1..))
    }

    /// Takes what waits in the socket. An overrun (`ENOBUFS`) is taken like an event: the look that follows shows all.
    fn drain(&self) {
        let mut byte = [0_u8; 1];
        for _ in 0..EVENTS_PER_LOOK_MAX {
            match self.events.recv(&mut &mut byte[..], libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

/// The addresses at which other hosts may find this one.
fn addresses(host: &mut Netlink) -> Result<BTreeSet<IpAddr>, KernelError> {
    let links = host.links()?;
    let counted: BTreeSet<_> =
        links.iter().filter(|link| link.is_up && !is_marked(link)).map(|link| link.index).collect();
    let of_use = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let all = host.addresses()?.into_iter().filter(|entry| entry.is_usable && counted.contains(&entry.link));
    Ok(all.map(|entry| entry.address.addr()).filter(of_use).collect())
}
