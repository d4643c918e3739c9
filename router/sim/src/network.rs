//! Where bytes can go between hosts and how long they take. Owns cuts, partitions, loss and latency; knows nothing of
//! connections or routers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mesh_crypto::Rng;

use crate::HostId;

/// TCP port on which every router listens, and UDP port of its sleeve.
pub const PORT: u16 = 6783;

/// First wait before something lost is sent again; each further wait is twice as long (RFC 6298, section 5, with the
/// minimum that kernels use).
pub const RETRANSMIT_MIN: Duration = Duration::from_millis(200);

/// Longest wait before something lost is sent again.
pub const RETRANSMIT_MAX: Duration = Duration::from_secs(10);

/// Most losses by chance of one segment: those behind it make the receiver ask for it, long before timers that back
/// off would.
const LOSSES_MAX: u32 = 3;

/// Latency of a host to itself.
const LOOPBACK: Duration = Duration::from_micros(20);

/// The network between `n` hosts.
pub struct Network {
    size: usize,
    /// One-way base latency of each pair, the same in both directions.
    latency: Vec<Duration>,
    blocked: Vec<bool>,
    powered: Vec<bool>,
    side: Vec<bool>,
    loss_percent: u64,
}

impl Network {
    /// A network without loss, all hosts on, whose pairs have latencies up to `latency_max`.
    #[must_use]
    pub fn new(size: usize, latency_max: Duration, rng: &mut Rng) -> Self {
        let mut latency = vec![LOOPBACK; size * size];
        for a in 0..size {
            for b in 0..a {
                let drawn = LOOPBACK + below(rng, latency_max);
                latency[a * size + b] = drawn;
                latency[b * size + a] = drawn;
            }
        }
        let blocked = vec![false; size * size];
        Self { size, latency, blocked, powered: vec![true; size], side: vec![false; size], loss_percent: 0 }
    }

    /// Whether a packet that is on its way now arrives, loss apart.
    #[must_use]
    pub fn carries(&self, from: HostId, to: HostId) -> bool {
        self.powered[from.0]
            && self.powered[to.0]
            && !self.blocked[from.0 * self.size + to.0]
            && self.side[from.0] == self.side[to.0]
    }

    /// The time of one packet that is not lost.
    pub fn latency(&self, from: HostId, to: HostId, rng: &mut Rng) -> Duration {
        let base = self.latency[from.0 * self.size + to.0];
        base + below(rng, base / 4)
    }

    /// Whether a packet is lost by chance.
    pub fn loses(&self, from: HostId, to: HostId, rng: &mut Rng) -> bool {
        from != to && rng.below(100) < self.loss_percent
    }

    /// The time of a packet that is sent again until it gets through, first after `first_wait`.
    pub fn latency_with_loss(
        &self,
        from: HostId,
        to: HostId,
        first_wait: Duration,
        rng: &mut Rng,
    ) -> Duration {
        let mut total = self.latency(from, to, rng);
        for losses in 0..LOSSES_MAX {
            if !self.loses(from, to, rng) {
                break;
            }
            total += first_wait * 2_u32.pow(losses);
        }
        total
    }

    /// Blocks or opens one direction of a pair.
    pub fn set_blocked(&mut self, from: HostId, to: HostId, blocked: bool) {
        self.blocked[from.0 * self.size + to.0] = blocked;
    }

    /// Parts the hosts in two halves that do not reach each other; equal sides heal.
    pub fn set_sides(&mut self, side: &[bool]) {
        self.side.copy_from_slice(side);
    }

    /// Sets how many packets of a hundred are lost.
    pub const fn set_loss(&mut self, percent: u64) {
        self.loss_percent = percent;
    }

    /// Switches a host on or off.
    pub fn set_powered(&mut self, host: HostId, powered: bool) {
        self.powered[host.0] = powered;
    }

    /// Takes back all cuts, partitions and loss.
    pub fn heal(&mut self) {
        self.blocked.fill(false);
        self.side.fill(false);
        self.loss_percent = 0;
    }

    /// The host at an address, if there is one.
    #[must_use]
    pub fn host_at(&self, address: SocketAddr) -> Option<HostId> {
        (0..self.size).map(HostId).find(|host| ip(*host) == address.ip())
    }
}

/// The address of a host.
#[must_use]
pub fn ip(host: HostId) -> IpAddr {
    let number = u32::try_from(host.0).expect("a simulation has fewer than 2^16 hosts");
    IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 1).to_bits() + number))
}

/// A duration in `0..bound`; zero when that is empty.
pub(crate) fn below(rng: &mut Rng, bound: Duration) -> Duration {
    let micros = u64::try_from(bound.as_micros()).expect("durations here are short");
    Duration::from_micros(rng.below(micros.max(1)))
}
