//! The host's own addresses, and word of each change of them.
//!
//! Owns the choice of addresses that other hosts may find this one at, and the thread that waits for the kernel's
//! events. An event says only that something changed: what is told comes from a dump, so that events lost to a full
//! socket, or cut off by a burst, cost nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::bridge::{is_marked, open_host};
use crate::error::{HostError, KernelError};
use crate::events::{Events, Waiting, Woken};
use crate::netlink::Netlink;

/// The groups of rtnetlink that say when an interface or an address changes (`RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`,
/// `RTNLGRP_IPV6_IFADDR` of include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 3] = [1, 5, 9];

/// Changes come in bursts: what follows the first within this time is looked at together with it.
const SETTLE: Duration = Duration::from_millis(50);

/// When the kernel's tables cannot be read, they are tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Tells of the host's addresses until it is dropped.
#[derive(Debug)]
pub struct AddressWatch {
    _waiting: Waiting,
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
        // Subscribed first and looked up then: no change can fall between the two.
        let events = Events::subscribe(&GROUPS)?;
        let mut host = open_host()?;
        let told = addresses(&mut host).map_err(|error| error.during("list the addresses of", "the host"))?;
        tell(told.iter().copied().collect());
        let watching = Watching { host, told };
        let waiting = events.wait_on_thread("mesh-addresses", move |events| watching.run(&events, tell))?;
        Ok(Self { _waiting: waiting })
    }
}

/// What the thread has.
struct Watching {
    host: Netlink,
    told: BTreeSet<IpAddr>,
}

impl Watching {
    fn run(mut self, events: &Events, mut tell: impl FnMut(Vec<IpAddr>)) {
        let mut limit = None;
        loop {
            match events.wait(limit) {
                Ok(Woken::Stop) => return,
                Ok(Woken::Late | Woken::Events) => {}
                Err(errno) => {
                    tracing::error!(%errno, "changes of the host's addresses are no longer noticed");
                    return;
                }
            }
            // The socket is not looked at meanwhile; what comes waits in it, or overruns it, which is an event too.
            if events.stopped_within(SETTLE) {
                return;
            }
            // An event says only that something changed, and so does the loss of some.
            let _whole_or_not = events.drain(|_, _| {});
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
