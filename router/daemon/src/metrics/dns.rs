//! Metrics of the name servers of this host, all together.

use mesh_dns::{LATENCY_BOUNDS_US, Outcome, Stats};

use crate::metrics::text::{Kind, Text};

/// What the name servers have done, and what they know.
#[derive(Debug)]
pub(crate) struct DnsReadings {
    /// Names, each counted with each of its addresses.
    pub(crate) entries: u64,
    pub(crate) stats: Stats,
}

impl DnsReadings {
    pub(super) fn write(&self, text: &mut Text) {
        let Self { entries, stats } = self;
        text.gauge(
            "mesh_dns_entries",
            "Names of the network, each counted with each of its addresses.",
            [(&[][..], entries)],
        );
        text.family("mesh_dns_queries", Kind::Counter, "Queries by what became of them.");
        for outcome in Outcome::ALL {
            let labels = [("result", outcome.label())];
            text.sample("mesh_dns_queries_total", &labels, stats.outcome(outcome));
        }
        latency(text, stats);
        text.counter(
            "mesh_dns_upstream_failures",
            "Tries at an upstream server that ended without an answer.",
            [(&[][..], stats.upstream_failures)],
        );
        text.counter(
            "mesh_dns_upstream_mismatches",
            "Messages of upstream servers, or in their names, that answer no question of this host.",
            [(&[][..], stats.upstream_mismatches)],
        );
        text.gauge("mesh_dns_connections", "TCP connections of clients.", [(&[][..], stats.connections)]);
        text.gauge(
            "mesh_dns_forwards",
            "Queries that wait for upstream servers.",
            [(&[][..], stats.forwards)],
        );
        text.gauge(
            "mesh_dns_cached",
            "Answers of upstream servers that are kept.",
            [(&[][..], stats.cached)],
        );
    }
}

fn latency(text: &mut Text, stats: &Stats) {
    text.family(
        "mesh_dns_query_seconds",
        Kind::Histogram,
        "Time from reading a query to writing its answer.",
    );
    let bounds = LATENCY_BOUNDS_US.iter().map(|us| seconds(*us).to_string()).chain(["+Inf".to_owned()]);
    let mut count = 0;
    for (bound, in_class) in bounds.zip(stats.latency) {
        count += in_class;
        text.sample("mesh_dns_query_seconds_bucket", &[("le", &bound)], count);
    }
    text.sample("mesh_dns_query_seconds_sum", &[], seconds(stats.latency_sum_us));
    text.sample("mesh_dns_query_seconds_count", &[], count);
}

/// A double holds more than the microseconds of a century exactly.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 microseconds")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
