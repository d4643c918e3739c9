//! A neighbour as it is heard: its address, which follows authenticated packets, when it was heard last, and whether
//! frames pass. Owns no key; one link carries many sessions in its life.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_wire::{Moment, PeerId};

use crate::engine::{Direction, PathSize, Places, Traffic};

pub(crate) struct Link {
    peer: PeerId,
    remote: ArcSwap<SocketAddr>,
    /// Nanoseconds since the clock's origin; 0 is never.
    heard_ns: AtomicU64,
    /// When something came from `remote`, of a link with several addresses.
    heard_there_ns: AtomicU64,
    /// The greatest serial number of a session that was heard: an older session moves the address no more.
    heard_serial: AtomicU64,
    /// One of [`PASSED`], [`SEEN`] and [`IDLE`].
    traffic: AtomicU8,
    /// What the path takes; the highest bit says whether that has settled.
    path: AtomicU32,
    passed: [Passed; Direction::ALL.len()],
}

/// What has passed in one direction.
#[derive(Debug, Default)]
struct Passed {
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// In [`Link::path`].
const SETTLED: u32 = 1 << 31;

/// A frame has passed since the prober looked last.
const PASSED: u8 = 0;
/// None has.
const SEEN: u8 = 1;
/// None has for so long that the prober wants to know of the next one at once.
const IDLE: u8 = 2;

/// A neighbour's packets come from another address than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roaming {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

impl Link {
    pub(crate) fn new(peer: PeerId, remote: SocketAddr) -> Self {
        Self {
            peer,
            remote: ArcSwap::from_pointee(canonical(remote)),
            heard_ns: AtomicU64::new(0),
            heard_there_ns: AtomicU64::new(0),
            heard_serial: AtomicU64::new(0),
            traffic: AtomicU8::new(SEEN),
            path: AtomicU32::new(PathSize::UNMEASURED.datagram_len.into()),
            passed: Default::default(),
        }
    }

    /// How long its datagrams may be.
    pub(crate) fn path(&self) -> PathSize {
        let path = self.path.load(Ordering::Relaxed);
        PathSize { datagram_len: path as u16, is_settled: path & SETTLED != 0 }
    }

    pub(crate) fn set_path(&self, PathSize { datagram_len, is_settled }: PathSize) {
        let settled = if is_settled { SETTLED } else { 0 };
        self.path.store(u32::from(datagram_len) | settled, Ordering::Relaxed);
    }

    /// Counts `frames` frames, of `len` bytes together.
    pub(crate) fn count(&self, direction: Direction, frames: usize, len: usize) {
        let passed = &self.passed[direction as usize];
        passed.frames.fetch_add(frames as u64, Ordering::Relaxed);
        passed.bytes.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// What has passed since the link was made.
    pub(crate) fn passed(&self, direction: Direction) -> Traffic {
        let Passed { frames, bytes } = &self.passed[direction as usize];
        Traffic { frames: frames.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
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
        places: &Places,
        serial: u64,
        is_newest: bool,
        now: Moment,
    ) -> Option<Roaming> {
        self.heard_ns.fetch_max(nanoseconds(now), Ordering::Relaxed);
        if !is_newest || self.heard_serial.fetch_max(serial, Ordering::Relaxed) > serial {
            return None;
        }
        let heard_there = || moment(self.heard_there_ns.load(Ordering::Relaxed));
        self.goes(from, places, now, || places.follow(from, heard_there(), now))
    }

    /// Notes a reply from there that has brought the link to life.
    pub(crate) fn settle(&self, from: SocketAddr, places: &Places, now: Moment) -> Option<Roaming> {
        self.goes(from, places, now, || places.settle(from))
    }

    /// Makes `to` the link's address, if it is not already and `may` be.
    fn goes(
        &self,
        to: SocketAddr,
        places: &Places,
        now: Moment,
        may: impl FnOnce() -> bool,
    ) -> Option<Roaming> {
        let from = self.remote();
        let moves = to != from;
        if moves && !may() {
            return None;
        }
        if !places.known().is_empty() {
            self.heard_there_ns.store(nanoseconds(now), Ordering::Relaxed);
        }
        if moves {
            self.remote.store(Arc::new(to));
        }
        moves.then_some(Roaming { from, to })
    }

    pub(crate) fn last_heard(&self) -> Option<Moment> {
        moment(self.heard_ns.load(Ordering::Relaxed))
    }

    /// Notes a frame. For nearly all of them it only reads. True if the prober should be run at once.
    pub(crate) fn frame_passes(&self) -> bool {
        self.traffic.load(Ordering::Relaxed) != PASSED && self.traffic.swap(PASSED, Ordering::Relaxed) == IDLE
    }

    /// For the prober: whether a frame has passed since it asked last.
    pub(crate) fn take_passed(&self) -> bool {
        self.traffic.compare_exchange(PASSED, SEEN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// For the prober: the next frame is worth a run.
    pub(crate) fn await_frame(&self) {
        // It fails when a frame has just passed, or when it is awaited already.
        self.traffic.compare_exchange(SEEN, IDLE, Ordering::Relaxed, Ordering::Relaxed).ok();
    }
}

/// At least 1, for 0 is never.
fn nanoseconds(at: Moment) -> u64 {
    let ns = u64::try_from(at.since_origin().as_nanos()).expect("a clock runs out after 584 years");
    ns.max(1)
}

fn moment(ns: u64) -> Option<Moment> {
    (ns != 0).then_some(Moment::from_origin(Duration::from_nanos(ns)))
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

    fn addresses() -> [SocketAddr; 3] {
        ["192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3"].map(address)
    }

    fn link(remote: SocketAddr) -> Link {
        Link::new(PeerId::from_bytes([1; 16]), remote)
    }

    fn at(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn the_address_follows_the_newest_packet_of_the_newest_session() {
        let [home, away, stray] = addresses();
        let link = link(home);
        let roams = Places::new(home, std::iter::empty(), true);
        assert_eq!(link.heard(home, &roams, 1, true, at(0)), None);
        assert_eq!(link.heard(away, &roams, 1, true, at(0)), Some(Roaming { from: home, to: away }));
        assert_eq!(link.heard(stray, &roams, 1, false, at(0)), None, "a packet overtaken by another");
        assert_eq!(link.heard(away, &roams, 2, true, at(0)), None);
        assert_eq!(link.heard(stray, &roams, 1, true, at(0)), None, "a packet of the session before");
        assert_eq!(link.remote(), away);
    }

    #[test]
    fn a_pinned_link_is_moved_by_no_packet_and_by_no_reply() {
        let [home, away, _] = addresses();
        let link = link(home);
        let pinned = Places::new(home, std::iter::empty(), false);
        assert_eq!(link.heard(away, &pinned, 1, true, at(9)), None);
        assert_eq!(link.settle(away, &pinned, at(9)), None);
        assert_eq!((link.remote(), link.last_heard()), (home, Some(at(9))));
    }

    #[test]
    fn of_several_good_ways_the_one_in_use_is_kept() {
        let [home, away, _] = addresses();
        let several = Places::new(home, [away].into_iter(), true);
        let link = link(home);
        assert!(link.heard(away, &several, 1, true, at(0)).is_some(), "nothing came from home yet");
        assert_eq!(link.heard(away, &several, 1, true, at(300)), None);
        assert_eq!(link.heard(home, &several, 1, true, at(799)), None);
        assert!(link.heard(home, &several, 1, true, at(800)).is_some(), "the other has fallen silent");
        assert!(link.settle(away, &several, at(801)).is_some(), "a reply that brings it to life");
        assert_eq!(link.heard(home, &several, 1, true, at(802)), None);
    }

    #[test]
    fn the_first_frame_on_an_idle_link_calls_the_prober_and_the_next_ones_do_not() {
        let link = link(addresses()[0]);
        assert!(!link.frame_passes(), "of a new link the prober has not said that it is idle");
        assert!(link.take_passed() && !link.take_passed());
        link.await_frame();
        assert!(link.frame_passes() && !link.frame_passes());
        link.await_frame();
        assert!(link.take_passed(), "a frame that has just passed is not forgotten");
    }

    #[test]
    fn a_mapped_address_is_the_address_that_it_maps() {
        assert_eq!(canonical(address("[::ffff:192.0.2.1]:7")), address("192.0.2.1:7"));
        assert_eq!(canonical(address("192.0.2.1:7")), address("192.0.2.1:7"));
        assert_eq!(canonical(address("[fe80::1%3]:7")), address("[fe80::1%3]:7"));
    }
}
