//! Where bytes can go between hosts and how long they take. Owns addresses, NATs, cuts, partitions, loss and latency;
//! knows nothing of connections or routers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mesh_crypto::Rng;
use mesh_wire::Moment;

use crate::HostId;
use crate::nat::{Nat, NatKind};

/// TCP port on which every router listens, and UDP port of its sleeve.
pub const PORT: u16 = 6783;

/// First wait before something lost is sent again; each further wait is twice as long (RFC 6298, section 5, with the
/// minimum that kernels use).
pub const RETRANSMIT_MIN: Duration = Duration::from_millis(200);

/// Longest wait before something lost is sent again: the shell asks the kernel for as much.
pub const RETRANSMIT_MAX: Duration = Duration::from_secs(2);

/// Most losses by chance of one segment: those behind it make the receiver ask for it, long before timers that back
/// off would.
const LOSSES_MAX: u32 = 3;

/// Latency of a host to itself.
const LOOPBACK: Duration = Duration::from_micros(20);

/// The network between `n` hosts.
pub struct Network {
    /// Draws the latency of each pair.
    seed: u64,
    latency_max: Duration,
    places: Vec<Place>,
    holders: BTreeMap<IpAddr, HostId>,
    blocked: BTreeSet<(HostId, HostId)>,
    loss_percent: u64,
    duplicate_percent: u64,
}

/// Where a host is.
struct Place {
    /// Its own address, and the one that others see, which is its NAT's if it has one.
    own: IpAddr,
    outside: IpAddr,
    nat: Option<Nat>,
    powered: bool,
    side: bool,
    moves: u32,
}

impl Network {
    /// A network without loss, all hosts on, whose pairs have latencies up to `latency_max`.
    #[must_use]
    pub fn new(nats: &[Option<NatKind>], latency_max: Duration, rng: &mut Rng) -> Self {
        let mut network = Self {
            seed: rng.u64(),
            latency_max,
            places: Vec::new(),
            holders: BTreeMap::new(),
            blocked: BTreeSet::new(),
            loss_percent: 0,
            duplicate_percent: 0,
        };
        nats.iter().for_each(|nat| network.add_host(*nat, false));
        network
    }

    /// Adds a host on a side, the next in order.
    pub fn add_host(&mut self, nat: Option<NatKind>, side: bool) {
        let host = HostId(self.places.len());
        let (own, outside) = addresses(host, 0, nat.is_some());
        self.holders.insert(outside, host);
        let nat = nat.map(|kind| Nat::new(kind, outside));
        self.places.push(Place { own, outside, nat, powered: true, side, moves: 0 });
    }

    /// Whether a packet that is on its way now arrives, loss apart.
    #[must_use]
    pub fn carries(&self, from: HostId, to: HostId) -> bool {
        let (a, b) = (&self.places[from.0], &self.places[to.0]);
        a.powered && b.powered && a.side == b.side && !self.blocked.contains(&(from, to))
    }

    /// The time of one packet that is not lost.
    pub fn latency(&self, from: HostId, to: HostId, rng: &mut Rng) -> Duration {
        let base = self.base_latency(from, to);
        base + below(rng, base / 4)
    }

    /// The round trip of a pair, jitter apart.
    pub(crate) fn round_trip(&self, a: HostId, b: HostId) -> Duration {
        self.base_latency(a, b) * 2
    }

    /// The latency of a pair, the same in both directions, jitter apart.
    fn base_latency(&self, a: HostId, b: HostId) -> Duration {
        if a == b {
            return LOOPBACK;
        }
        let pair = (a.0.min(b.0) as u64) << 32 | a.0.max(b.0) as u64;
        // The last step of splitmix64: any pair's latency without a table of all pairs.
        let mut drawn = (self.seed ^ pair).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn ^= drawn >> 31;
        let max = u64::try_from(self.latency_max.as_micros()).expect("latencies are short");
        LOOPBACK + Duration::from_micros(drawn % max.max(1))
    }

    /// Whether a packet is lost by chance.
    pub fn loses(&self, from: HostId, to: HostId, rng: &mut Rng) -> bool {
        from != to && rng.below(100) < self.loss_percent
    }

    /// Whether a packet arrives twice.
    pub fn duplicates(&self, rng: &mut Rng) -> bool {
        self.duplicate_percent > 0 && rng.below(100) < self.duplicate_percent
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

    /// The address that a host has itself.
    #[must_use]
    pub fn own_address(&self, host: HostId) -> IpAddr {
        self.places[host.0].own
    }

    /// The address from which others see its connections come.
    #[must_use]
    pub fn outside_address(&self, host: HostId) -> IpAddr {
        self.places[host.0].outside
    }

    /// Whether others can open connections to it, firewalls apart.
    #[must_use]
    pub fn is_behind_nat(&self, host: HostId) -> bool {
        self.places[host.0].nat.is_some()
    }

    /// The host that others see at an address, if there is one.
    #[must_use]
    pub fn host_at(&self, address: SocketAddr) -> Option<HostId> {
        self.holders.get(&address.ip()).copied()
    }

    /// A datagram leaves `from` for `to`: the source that the world sees.
    pub fn send(&mut self, from: HostId, to: SocketAddr, rng: &mut Rng, now: Moment) -> SocketAddr {
        let place = &mut self.places[from.0];
        match &mut place.nat {
            Some(nat) => nat.send(to, rng, now),
            None => SocketAddr::new(place.own, PORT),
        }
    }

    /// Who gets a datagram that arrives at `to`.
    pub fn receive(&mut self, source: SocketAddr, to: SocketAddr, now: Moment) -> Option<HostId> {
        let host = self.host_at(to)?;
        let lets_in = match &mut self.places[host.0].nat {
            Some(nat) => nat.lets_in(source, to.port(), now),
            None => to.port() == PORT,
        };
        lets_in.then_some(host)
    }

    /// Gives a host another address, and its NAT one too.
    pub fn move_host(&mut self, host: HostId) {
        let place = &mut self.places[host.0];
        place.moves += 1;
        self.holders.remove(&place.outside);
        (place.own, place.outside) = addresses(host, place.moves, place.nat.is_some());
        if let Some(nat) = &mut place.nat {
            nat.restart(place.outside);
        }
        self.holders.insert(place.outside, host);
    }

    /// The host's NAT forgets all that it knew.
    pub fn forget_mappings(&mut self, host: HostId) {
        let place = &mut self.places[host.0];
        if let Some(nat) = &mut place.nat {
            nat.restart(place.outside);
        }
    }

    /// Blocks or opens one direction of a pair.
    pub fn set_blocked(&mut self, from: HostId, to: HostId, blocked: bool) {
        if blocked {
            self.blocked.insert((from, to));
        } else {
            self.blocked.remove(&(from, to));
        }
    }

    /// Parts the hosts in two halves that do not reach each other; equal sides heal.
    pub fn set_sides(&mut self, sides: &[bool]) {
        for (place, side) in self.places.iter_mut().zip(sides) {
            place.side = *side;
        }
    }

    /// Sets how many packets of a hundred are lost.
    pub const fn set_loss(&mut self, percent: u64) {
        self.loss_percent = percent;
    }

    /// Sets how many datagrams of a hundred arrive twice.
    pub const fn set_duplicates(&mut self, percent: u64) {
        self.duplicate_percent = percent;
    }

    /// Switches a host on or off.
    pub fn set_powered(&mut self, host: HostId, powered: bool) {
        self.places[host.0].powered = powered;
    }

    /// Takes back all cuts, partitions, loss and duplicates.
    pub fn heal(&mut self) {
        self.blocked.clear();
        for place in &mut self.places {
            place.side = false;
        }
        self.loss_percent = 0;
        self.duplicate_percent = 0;
    }
}

/// A host's own address and the one that others see, after it has moved so many times.
fn addresses(host: HostId, moves: u32, behind_nat: bool) -> (IpAddr, IpAddr) {
    let number = u32::try_from(host.0).expect("a simulation has fewer than 2^16 hosts") + (moves << 16);
    let at = |base: Ipv4Addr| IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() + number));
    let outside = at(Ipv4Addr::new(20, 1, 0, 1));
    if behind_nat { (at(Ipv4Addr::new(10, 1, 0, 1)), outside) } else { (outside, outside) }
}

/// A duration in `0..bound`; zero when that is empty.
pub(crate) fn below(rng: &mut Rng, bound: Duration) -> Duration {
    let micros = u64::try_from(bound.as_micros()).expect("durations here are short");
    Duration::from_micros(rng.below(micros.max(1)))
}
