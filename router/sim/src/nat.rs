//! A NAT with one host behind it, for datagrams: which outside port stands for what, and who may answer.
//!
//! Both kinds let in only what comes from an address and port that the host has sent to (RFC 4787, section 5:
//! address and port-dependent filtering); they differ in the mapping (section 4.1).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_crypto::Rng;
use mesh_wire::Moment;

/// A mapping that nothing has left by for this long is forgotten: the shortest that is usual for UDP.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How a NAT chooses outside ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// One port for the host's socket, whoever it talks to.
    EndpointIndependent,
    /// Another port for each destination: no two peers behind such NATs ever meet.
    AddressAndPortDependent,
}

/// The NAT's table.
pub(crate) struct Nat {
    kind: NatKind,
    outside: IpAddr,
    /// By destination: the outside port, and when something last left for it.
    mappings: BTreeMap<SocketAddr, (u16, Moment)>,
}

impl Nat {
    pub(crate) const fn new(kind: NatKind, outside: IpAddr) -> Self {
        Self { kind, outside, mappings: BTreeMap::new() }
    }

    /// Forgets all mappings; the next ones have other ports.
    pub(crate) fn restart(&mut self, outside: IpAddr) {
        self.outside = outside;
        self.mappings.clear();
    }

    /// A datagram leaves for `to`: the source that it bears outside.
    pub(crate) fn send(&mut self, to: SocketAddr, rng: &mut Rng, now: Moment) -> SocketAddr {
        self.mappings.retain(|_, (_, last)| now.since(*last) < IDLE_MAX);
        let shared = self.mappings.values().map(|(port, _)| *port).next();
        let known = self.mappings.get(&to).map(|(port, _)| *port);
        let port = match self.kind {
            NatKind::EndpointIndependent => shared,
            NatKind::AddressAndPortDependent => known,
        };
        let port = port.unwrap_or_else(|| 1_024 + u16::try_from(rng.below(60_000)).expect("below 2^16"));
        self.mappings.insert(to, (port, now));
        SocketAddr::new(self.outside, port)
    }

    /// Whether a datagram from `source` to the outside `port` reaches the host.
    pub(crate) fn lets_in(&self, source: SocketAddr, port: u16, now: Moment) -> bool {
        self.mappings
            .get(&source)
            .is_some_and(|(mapped, last)| *mapped == port && now.since(*last) < IDLE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 6783))
    }

    #[test]
    fn only_who_was_spoken_to_may_answer_and_only_for_a_while() {
        let mut rng = Rng::from_seed([1; 32]);
        let mut nat = Nat::new(NatKind::EndpointIndependent, at(9).ip());
        let start = Moment::ORIGIN;
        let outside = nat.send(at(1), &mut rng, start);
        assert_eq!(nat.send(at(2), &mut rng, start), outside);
        assert!(nat.lets_in(at(1), outside.port(), start) && nat.lets_in(at(2), outside.port(), start));
        assert!(!nat.lets_in(at(3), outside.port(), start));
        assert!(!nat.lets_in(at(1), outside.port(), start + IDLE_MAX));
    }

    #[test]
    fn a_dependent_mapping_shows_each_destination_another_port() {
        let mut rng = Rng::from_seed([1; 32]);
        let mut nat = Nat::new(NatKind::AddressAndPortDependent, at(9).ip());
        let (one, two) =
            (nat.send(at(1), &mut rng, Moment::ORIGIN), nat.send(at(2), &mut rng, Moment::ORIGIN));
        assert_ne!(one, two);
        assert_eq!(nat.send(at(1), &mut rng, Moment::ORIGIN), one);
        assert!(!nat.lets_in(at(1), two.port(), Moment::ORIGIN));
    }
}
