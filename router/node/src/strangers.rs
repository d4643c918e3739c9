//! Who may begin a handshake: limits on connections that others open, before anything is known of them but their
//! address. Owns the rates, and bounds its own memory; the connections are the node's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mesh_wire::Moment;
use mesh_wire::control::Farewell;

use crate::bucket::Bucket;
use crate::connection::CloseCause;
use crate::counters::Count;
use crate::limits::{ACCEPT_PACE, HALF_OPEN_MAX, HALF_OPEN_STRANGERS_MAX, SOURCE_PACE, SOURCES_MAX};
use crate::node::Node;

/// The rates at which connections came lately.
///
/// A source is an IPv4 address, or the first 64 bits of an IPv6 address, all of which one host may use. Sources that
/// this router knows, because it dials them or because peers are said to be there, draw on an allowance of their own:
/// a crowd of strangers does not keep them out.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    strangers: Bucket,
    known: Bucket,
    /// Sources that have used some of their allowance. [`ACCEPT_PACE`] keeps them few: a source enters only with a
    /// token of those buckets, and leaves when its own is full again.
    sources: BTreeMap<IpAddr, Bucket>,
}

/// Whether a source is one that this router knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquaintance {
    Known,
    Stranger,
}

/// Why a connection is closed before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// Too many come from all sides.
    ByRate,
    /// Too many come from there.
    BySource,
    /// Too many have not completed their handshake.
    HalfOpen,
}

impl Strangers {
    /// Lets a connection from `source` in, when there are `half_open` others in the handshake.
    pub(crate) fn admit(
        &mut self,
        source: IpAddr,
        acquaintance: Acquaintance,
        half_open: usize,
        now: Moment,
    ) -> Result<(), TurnedAway> {
        let (mut all, half_open_max) = match acquaintance {
            Acquaintance::Known => (self.known, HALF_OPEN_MAX),
            Acquaintance::Stranger => (self.strangers, HALF_OPEN_STRANGERS_MAX),
        };
        if half_open >= half_open_max {
            return Err(TurnedAway::HalfOpen);
        }
        let source = prefix(source);
        let mut own = self.sources.get(&source).copied().unwrap_or_default();
        // In this order, a source that is over its allowance takes nothing from the others.
        if !own.take(SOURCE_PACE, now) {
            return Err(TurnedAway::BySource);
        }
        if !all.take(ACCEPT_PACE, now) || !self.has_room(source, now) {
            return Err(TurnedAway::ByRate);
        }
        match acquaintance {
            Acquaintance::Known => self.known = all,
            Acquaintance::Stranger => self.strangers = all,
        }
        self.sources.insert(source, own);
        Ok(())
    }

    fn has_room(&mut self, source: IpAddr, now: Moment) -> bool {
        if self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
        }
        self.sources.len() < SOURCES_MAX || self.sources.contains_key(&source)
    }
}

impl Node {
    /// Lets somebody begin a handshake, or says why not.
    pub(crate) fn admit(&mut self, remote: SocketAddr, now: Moment) -> Result<(), CloseCause> {
        if self.fenced {
            return Err(CloseCause::Farewell(Farewell::Cloned));
        }
        let half_open = self.connections.values().filter(|connection| connection.is_half_open()).count();
        let source = remote.ip();
        let mut verdict = self.strangers.admit(source, Acquaintance::Stranger, half_open, now);
        let is_crowded = matches!(verdict, Err(TurnedAway::ByRate | TurnedAway::HalfOpen));
        if is_crowded && self.knows(source) {
            verdict = self.strangers.admit(source, Acquaintance::Known, half_open, now);
        }
        let (count, cause) = match verdict {
            Ok(()) => {
                self.counters.count(Count::Accepted);
                return Ok(());
            }
            Err(TurnedAway::ByRate) => (Count::RefusedByRate, CloseCause::TooManyAttempts),
            Err(TurnedAway::BySource) => (Count::RefusedBySource, CloseCause::TooManyAttempts),
            Err(TurnedAway::HalfOpen) => (Count::RefusedHalfOpen, CloseCause::TooManyHalfOpen),
        };
        self.counters.count(count);
        Err(cause)
    }
}

/// The part of an address that stands for one source.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Moment = Moment::ORIGIN;

    fn host(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    fn admitted(strangers: &mut Strangers, sources: impl Iterator<Item = IpAddr>, now: Moment) -> usize {
        sources.filter(|from| strangers.admit(*from, Acquaintance::Stranger, 0, now).is_ok()).count()
    }

    #[test]
    fn one_source_gets_its_burst_and_leaves_the_others_theirs() {
        let mut strangers = Strangers::default();
        assert_eq!(admitted(&mut strangers, (0..10_000).map(|_| host(1)), START), 10);
        assert_eq!(strangers.admit(host(1), Acquaintance::Stranger, 0, START), Err(TurnedAway::BySource));
        assert_eq!(admitted(&mut strangers, (2..50).map(host), START), 48);
        let later = START + Duration::from_secs(1);
        assert_eq!(admitted(&mut strangers, (0..100).map(|_| host(1)), later), 5);
    }

    #[test]
    fn one_host_with_many_ipv6_addresses_is_one_source() {
        let mut strangers = Strangers::default();
        let address = |n: u32| IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(n)));
        assert_eq!(admitted(&mut strangers, (0..1_000).map(address), START), 10);
        let other: IpAddr = "2001:db8:0:1::1".parse().expect("a literal");
        assert!(strangers.admit(other, Acquaintance::Stranger, 0, START).is_ok());
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("a literal");
        assert_eq!(admitted(&mut strangers, [mapped, host(1)].into_iter().cycle().take(40), START), 10);
    }

    #[test]
    fn a_crowd_is_slowed_down_and_does_not_keep_known_hosts_out() {
        let mut strangers = Strangers::default();
        assert_eq!(admitted(&mut strangers, (0..10_000).map(host), START), 200);
        assert_eq!(strangers.admit(host(9_999), Acquaintance::Stranger, 0, START), Err(TurnedAway::ByRate));
        assert!(strangers.admit(host(9_999), Acquaintance::Known, 0, START).is_ok());
        let later = START + Duration::from_secs(2);
        assert_eq!(admitted(&mut strangers, (10_000..20_000).map(host), later), 100);
    }

    #[test]
    fn half_of_the_places_are_kept_for_known_hosts() {
        let mut strangers = Strangers::default();
        let full = Err(TurnedAway::HalfOpen);
        assert_eq!(strangers.admit(host(1), Acquaintance::Stranger, HALF_OPEN_STRANGERS_MAX, START), full);
        assert!(strangers.admit(host(1), Acquaintance::Known, HALF_OPEN_STRANGERS_MAX, START).is_ok());
        assert_eq!(strangers.admit(host(1), Acquaintance::Known, HALF_OPEN_MAX, START), full);
    }

    #[test]
    fn memory_stays_bounded_whatever_comes_and_is_given_back() {
        let mut strangers = Strangers::default();
        for second in 0..60_u32 {
            let now = START + Duration::from_secs(u64::from(second));
            for n in 0..2_000 {
                let source = host(second * 10_000 + n);
                let _turned_away = strangers.admit(source, Acquaintance::Stranger, 0, now);
                let _turned_away = strangers.admit(source, Acquaintance::Known, 0, now);
            }
            assert!(strangers.sources.len() <= SOURCES_MAX);
        }
        let later = START + Duration::from_secs(100);
        assert_eq!(admitted(&mut strangers, (0..200).map(host), later), 200);
    }
}
