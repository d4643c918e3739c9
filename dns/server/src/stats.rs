//! What the server has done, as numbers: counted here, named and published by others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Answered with records of ours.
    Answered,
    /// The name is ours and has no such records.
    NoData,
    /// The name would be ours and does not exist.
    NoSuchName,
    /// Answered by an upstream server.
    Forwarded,
    /// Answered from the cache.
    Cached,
    /// An upstream server put the name on an address that it may not; the addresses were withheld.
    Rebinding,
    /// No upstream server has answered, or none may be asked.
    ServerFailure,
    /// A class or type that is not served.
    Refused,
    /// A kind of message that is not implemented.
    NotImplemented,
    /// No proper query.
    Malformed,
    /// An EDNS version that is not known.
    BadVersion,
    /// More than its share: the client was told to come over TCP.
    Slowed,
    /// More than its share: dropped, or a connection refused.
    Dropped,
    /// Not answered because it is no query at all, or comes from elsewhere.
    Ignored,
}

impl Outcome {
    /// All of them, in the order of [`Stats::outcomes`].
    pub const ALL: [Self; 14] = [
        Self::Answered,
        Self::NoData,
        Self::NoSuchName,
        Self::Forwarded,
        Self::Cached,
        Self::Rebinding,
        Self::ServerFailure,
        Self::Refused,
        Self::NotImplemented,
        Self::Malformed,
        Self::BadVersion,
        Self::Slowed,
        Self::Dropped,
        Self::Ignored,
    ];

    /// The word for it in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "nodata",
            Self::NoSuchName => "nxdomain",
            Self::Forwarded => "forwarded",
            Self::Cached => "cached",
            Self::Rebinding => "rebinding",
            Self::ServerFailure => "servfail",
            Self::Refused => "refused",
            Self::NotImplemented => "notimp",
            Self::Malformed => "malformed",
            Self::BadVersion => "badvers",
            Self::Slowed => "slowed",
            Self::Dropped => "dropped",
            Self::Ignored => "ignored",
        }
    }
}

/// Upper bounds of the classes of [`Stats::latency`], in microseconds; a last class has no bound.
pub const LATENCY_BOUNDS_US: [u64; 10] =
    [50, 100, 250, 500, 1_000, 5_000, 25_000, 100_000, 1_000_000, 4_000_000];

/// Counters at one moment. All but the gauges only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// How queries ended, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Answers by the time from reading the query to writing the answer: one class for each of [`LATENCY_BOUNDS_US`],
    /// and one for more.
    pub latency: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// The sum of these times, in microseconds.
    pub latency_sum_us: u64,
    /// Datagrams and frames that an upstream server sent, or somebody in its name, and that answer no question of ours.
    pub upstream_mismatches: u64,
    /// Tries that ended without an answer.
    pub upstream_failures: u64,
    /// Gauge: TCP connections of clients.
    pub connections: u64,
    /// Gauge: queries that wait for upstream servers.
    pub forwards: u64,
    /// Gauge: answers in the cache.
    pub cached: u64,
}

impl Stats {
    /// How many queries ended so.
    #[must_use]
    pub const fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// What two servers have done together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            outcomes: std::array::from_fn(|at| self.outcomes[at] + other.outcomes[at]),
            latency: std::array::from_fn(|at| self.latency[at] + other.latency[at]),
            latency_sum_us: self.latency_sum_us + other.latency_sum_us,
            upstream_mismatches: self.upstream_mismatches + other.upstream_mismatches,
            upstream_failures: self.upstream_failures + other.upstream_failures,
            connections: self.connections + other.connections,
            forwards: self.forwards + other.forwards,
            cached: self.cached + other.cached,
        }
    }
}

/// Where the server counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    latency: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    latency_sum_us: AtomicU64,
    pub(crate) upstream_mismatches: AtomicU64,
    pub(crate) upstream_failures: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answered_after(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let class = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.latency[class].fetch_add(1, Ordering::Relaxed);
        self.latency_sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The counters; the gauges are left at 0.
    pub(crate) fn read(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            outcomes: std::array::from_fn(|at| load(&self.outcomes[at])),
            latency: std::array::from_fn(|at| load(&self.latency[at])),
            latency_sum_us: load(&self.latency_sum_us),
            upstream_mismatches: load(&self.upstream_mismatches),
            upstream_failures: load(&self.upstream_failures),
            ..Stats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_where_it_is_read() {
        let counters = Counters::default();
        for (times, outcome) in Outcome::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.count(outcome));
        }
        let stats = counters.read();
        for (times, outcome) in (0_u64..).zip(Outcome::ALL) {
            assert_eq!(stats.outcome(outcome), times, "{}", outcome.label());
        }
    }

    #[test]
    fn a_time_falls_into_the_class_whose_bound_it_does_not_exceed() {
        let counters = Counters::default();
        for us in [0, 50, 51, 4_000_000, 4_000_001] {
            counters.answered_after(Duration::from_micros(us));
        }
        let stats = counters.read();
        assert_eq!(stats.latency, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(stats.latency_sum_us, 8_000_102);
    }
}
