//! A neighbour as it is heard: its address, which follows authenticated packets, and when it was heard last. Owns no
//! key; one link carries many sessions in its life.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_wire::{Moment, PeerId};

pub(crate) struct Link {
    peer: PeerId,
    remote: ArcSwap<SocketAddr>,
    /// Nanoseconds since the clock's origin; 0 is never.
    heard_ns: AtomicU64,
    /// The greatest serial number of a session that was heard: an older session moves the address no more.
    heard_serial: AtomicU64,
}

/// A neighbour's packets come from another address than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roaming {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

impl Link {
    pub(crate) fn new(peer: PeerId, remote: SocketAddr) -> Self {
        let remote = ArcSwap::from_pointee(canonical(remote));
        Self { peer, remote, heard_ns: AtomicU64::new(0), heard_serial: AtomicU64::new(0) }
    }

    pub(crate) const fn peer(&self) -> PeerId {
        self.peer
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        **self.remote.load()
    }

    /// The control plane has named an address.
    pub(crate) fn move_to(&self, remote: SocketAddr) {
        self.remote.store(Arc::new(canonical(remote)));
    }

    /// Notes an authenticated packet, which came `from` there. `is_newest` says that no packet with a greater counter
    /// was heard in its session, whose number is `serial`.
    pub(crate) fn heard(
        &self,
        from: SocketAddr,
        serial: u64,
        is_newest: bool,
        now: Moment,
    ) -> Option<Roaming> {
        let now_ns = u64::try_from(now.since_origin().as_nanos()).expect("a clock runs out after 584 years");
        self.heard_ns.fetch_max(now_ns.max(1), Ordering::Relaxed);
        if !is_newest || self.heard_serial.fetch_max(serial, Ordering::Relaxed) > serial {
            return None;
        }
        let known = self.remote();
        if known == from {
            return None;
        }
        self.remote.store(Arc::new(from));
        Some(Roaming { from: known, to: from })
    }

    pub(crate) fn last_heard(&self) -> Option<Moment> {
        match self.heard_ns.load(Ordering::Relaxed) {
            0 => None,
            ns => Some(Moment::from_origin(Duration::from_nanos(ns))),
        }
    }
}

/// The one form in which an address is kept and compared: IPv4 as IPv4 even if the socket shows it mapped into IPv6,
/// and without IPv6 flow label.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), address) {
        (ip @ IpAddr::V4(_), _) | (ip, SocketAddr::V4(_)) => SocketAddr::new(ip, address.port()),
        (IpAddr::V6(_), SocketAddr::V6(mut v6)) => {
            v6.set_flowinfo(0);
            v6.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_address_follows_the_newest_packet_of_the_newest_session() {
        let [home, away, stray] = ["192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3"].map(address);
        let link = Link::new(PeerId::from_bytes([1; 16]), home);
        assert_eq!(link.heard(home, 1, true, Moment::ORIGIN), None);
        assert_eq!(link.heard(away, 1, true, Moment::ORIGIN), Some(Roaming { from: home, to: away }));
        assert_eq!(link.heard(stray, 1, false, Moment::ORIGIN), None, "a packet overtaken by another");
        assert_eq!(link.heard(away, 2, true, Moment::ORIGIN), None);
        assert_eq!(link.heard(stray, 1, true, Moment::ORIGIN), None, "a packet of the session before");
        assert_eq!(link.remote(), away);
    }

    #[test]
    fn a_mapped_address_is_the_address_that_it_maps() {
        assert_eq!(canonical(address("[::ffff:192.0.2.1]:7")), address("192.0.2.1:7"));
        assert_eq!(canonical(address("192.0.2.1:7")), address("192.0.2.1:7"));
        assert_eq!(canonical(address("[fe80::1%3]:7")), address("[fe80::1%3]:7"));
    }
}
