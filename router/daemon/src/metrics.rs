//! Metrics, as Prometheus and everything that speaks OpenMetrics 1.0 read them.
//!
//! Owns their names, labels and the text. The numbers are counted where things happen; here they are only written down.

mod dns;
mod process;
mod text;

use std::collections::BTreeMap;

use mesh_api::{ConnectionDocument, IpamDocument, Overlay};
use mesh_dataplane::engine::{CounterSnapshot, Direction, DropReason, Event, Path};
use mesh_node::Count;
use mesh_wire::control::Channel;

use crate::shell::Shell;

use crate::fastpath::misses;
use crate::firewall::is_loss;
pub(crate) use crate::metrics::dns::DnsReadings;
use crate::metrics::process::Process;
pub(crate) use crate::metrics::text::Format;
use crate::metrics::text::{Kind, Text};

/// What the metrics are made of, taken at one moment.
#[derive(Debug)]
pub(crate) struct Readings {
    pub(crate) me: String,
    pub(crate) peers: u64,
    pub(crate) connections: Vec<ConnectionDocument>,
    pub(crate) ipam: IpamDocument,
    pub(crate) counted: CounterSnapshot,
    /// Flows that the kernel carries.
    pub(crate) flows: usize,
    /// What the firewall has dropped, by reason.
    pub(crate) walls: BTreeMap<&'static str, u64>,
    pub(crate) control: Vec<(Count, u64)>,
    /// Bytes received and sent by channel.
    pub(crate) gossip: Vec<(String, u64, u64)>,
    /// Nothing where no name server runs.
    pub(crate) dns: Option<DnsReadings>,
}

impl Readings {
    /// Reads a node, and takes what is told beside it.
    pub(crate) fn take(
        shell: &Shell,
        connections: Vec<ConnectionDocument>,
        ipam: IpamDocument,
        walls: BTreeMap<&'static str, u64>,
        dns: Option<DnsReadings>,
    ) -> Self {
        let node = shell.node();
        let gossip =
            node.counters().gossip().map(|(channel, bytes)| (name(channel), bytes.received, bytes.sent));
        Self {
            me: node.peer_id().to_string(),
            peers: node.peer_status().len() as u64,
            connections,
            ipam,
            counted: shell.dataplane().counters(),
            flows: shell.lane().carried(),
            walls,
            control: Count::ALL.into_iter().map(|count| (count, node.counters().get(count))).collect(),
            gossip: gossip.collect(),
            dns,
        }
    }

    /// All metrics as text. Reads `/proc` for those of the process.
    pub(crate) fn render(&self, format: Format) -> String {
        let mut text = Text::new(format);
        text.gauge(
            "mesh_build_info",
            "The version that runs here.",
            [(&[("version", env!("CARGO_PKG_VERSION"))][..], 1)],
        );
        text.gauge("mesh_peers", "Peers of the network, this one included.", [(&[][..], self.peers)]);
        self.connections(&mut text);
        self.control(&mut text);
        self.addresses(&mut text);
        self.traffic(&mut text);
        if let Some(dns) = &self.dns {
            dns.write(&mut text);
        }
        if let Some(process) = Process::read() {
            process.write(&mut text);
        }
        text.finish()
    }

    fn connections(&self, text: &mut Text) {
        let mut counts: BTreeMap<[&str; 3], u64> = BTreeMap::new();
        for connection in &self.connections {
            let overlay = connection.overlay.map_or("none", Overlay::as_str);
            let encrypted = match connection.encrypted {
                Some(true) => "yes",
                Some(false) => "no",
                None => "unknown",
            };
            *counts.entry([connection.state.as_str(), overlay, encrypted]).or_default() += 1;
        }
        text.family("mesh_connections", Kind::Gauge, "Connections, and tries at them.");
        for ([state, overlay, encrypted], count) in counts {
            let labels = [("state", state), ("overlay", overlay), ("encrypted", encrypted)];
            text.sample("mesh_connections", &labels, count);
        }
        let closed = self.control.iter().find(|(count, _)| *count == Count::SessionClosed);
        let terminations = closed.map_or(0, |(_, closed)| *closed);
        text.counter("mesh_connection_terminations", "Sessions that have ended.", [(&[][..], terminations)]);
        text.family("mesh_rtt_seconds", Kind::Gauge, "Smoothed round trip to a neighbour.");
        for connection in &self.connections {
            if let (Some(peer), Some(rtt_ms)) = (&connection.peer_id, connection.rtt_ms) {
                let nickname = connection.nickname.as_deref().unwrap_or_default();
                text.sample("mesh_rtt_seconds", &[("peer", peer), ("nickname", nickname)], rtt_ms / 1000.0);
            }
        }
        self.neighbours(text);
    }

    /// What passed each neighbour by sleeve, since its link was made.
    fn neighbours(&self, text: &mut Text) {
        let counted: Vec<_> = self
            .connections
            .iter()
            .filter_map(|one| Some((one.peer_id.as_deref()?, one, one.received?, one.sent?)))
            .flat_map(|(peer, one, received, sent)| {
                let nickname = one.nickname.as_deref().unwrap_or_default();
                [("in", received), ("out", sent)].map(|(direction, passed)| {
                    ([("peer", peer), ("nickname", nickname), ("direction", direction)], passed)
                })
            })
            .collect();
        text.family("mesh_neighbour_frames", Kind::Counter, "Frames from and to a neighbour, by sleeve.");
        for (labels, passed) in &counted {
            text.sample("mesh_neighbour_frames_total", labels, passed.frames);
        }
        text.family("mesh_neighbour_bytes", Kind::Counter, "Their bytes, Ethernet header included.");
        for (labels, passed) in &counted {
            text.sample("mesh_neighbour_bytes_total", labels, passed.bytes);
        }
    }

    fn control(&self, text: &mut Text) {
        text.family(
            "mesh_control_events",
            Kind::Counter,
            "What the control plane has counted, refusals among it.",
        );
        for (count, times) in &self.control {
            text.sample("mesh_control_events_total", &[("event", count.name())], times);
        }
        text.family("mesh_gossip_bytes", Kind::Counter, "Bytes of gossip over control sessions.");
        for (channel, received, sent) in &self.gossip {
            for (direction, bytes) in [("in", received), ("out", sent)] {
                text.sample(
                    "mesh_gossip_bytes_total",
                    &[("channel", channel), ("direction", direction)],
                    bytes,
                );
            }
        }
    }

    fn addresses(&self, text: &mut Text) {
        let own = self.ipam.owned.iter().find(|owner| owner.peer_id == self.me);
        let (owned, active) = own.map_or((0, 0), |own| (own.addresses, own.active.unwrap_or(0)));
        text.gauge(
            "mesh_ipam_addresses",
            "Addresses that this router owns: in use, or free to be given.",
            [(&[("state", "active")][..], active), (&[("state", "free")], owned.saturating_sub(active))],
        );
        let lost = self.ipam.owned.iter().filter(|owner| !owner.reachable && !owner.retired);
        let lost = lost.fold(0u64, |sum, owner| sum.saturating_add(owner.addresses));
        text.gauge(
            "mesh_ipam_unreachable_addresses",
            "Addresses whose owners cannot be reached.",
            [(&[][..], lost)],
        );
        let pending = self.ipam.pending.len() as u64;
        text.gauge("mesh_ipam_pending", "Requests for addresses that wait.", [(&[][..], pending)]);
    }

    fn traffic(&self, text: &mut Text) {
        let passed = Path::ALL.into_iter().flat_map(|path| Direction::ALL.map(|direction| (path, direction)));
        let labels =
            |(path, direction): (Path, Direction)| [("path", path.name()), ("direction", direction.name())];
        text.family("mesh_frames", Kind::Counter, "Frames by path, into the router and out of it.");
        for way in passed.clone() {
            text.sample("mesh_frames_total", &labels(way), self.counted.traffic(way.0, way.1).frames);
        }
        text.family("mesh_bytes", Kind::Counter, "Their bytes, Ethernet header included.");
        for way in passed {
            text.sample("mesh_bytes_total", &labels(way), self.counted.traffic(way.0, way.1).bytes);
        }
        text.gauge("mesh_flows", "Flows that the kernel carries.", [(&[][..], self.flows as u64)]);
        let misses = misses(&self.counted);
        text.family("mesh_flow_misses", Kind::Counter, "Frames to other hosts that user space carried.");
        text.sample("mesh_flow_misses_total", &[], misses);
        text.family("mesh_drops", Kind::Counter, "Frames and datagrams that went no further.");
        for reason in DropReason::ALL {
            text.sample("mesh_drops_total", &[("reason", reason.name())], self.counted.drops(reason));
        }
        for (reason, count) in self.walls.iter().filter(|(reason, _)| is_loss(reason)) {
            text.sample("mesh_drops_total", &[("reason", reason)], *count);
        }
        text.family("mesh_dataplane_events", Kind::Counter, "What else the data plane has counted.");
        for event in Event::ALL {
            text.sample(
                "mesh_dataplane_events_total",
                &[("event", event.name())],
                self.counted.events(event),
            );
        }
        for (event, count) in self.walls.iter().filter(|(event, _)| !is_loss(event)) {
            text.sample("mesh_dataplane_events_total", &[("event", event)], *count);
        }
    }
}

/// What people call a channel.
fn name(channel: Channel) -> String {
    match channel {
        Channel::TOPOLOGY => "topology".to_owned(),
        Channel::ADDRESSES => "ipam".to_owned(),
        Channel::MACS => "macs".to_owned(),
        Channel::GROUPS => "groups".to_owned(),
        Channel(number) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::{ConnectionState, IpamState, OwnedDocument};
    use mesh_dns::{Outcome, Stats};
    use mesh_hostnet::Wall;

    use super::*;

    fn readings() -> Readings {
        let owner = |peer_id: &str, addresses, reachable| OwnedDocument {
            peer_id: peer_id.to_owned(),
            nickname: None,
            addresses,
            share: 0.5,
            active: Some(2),
            reachable,
            retired: false,
        };
        let connection = ConnectionDocument {
            peer_id: Some("b2".to_owned()),
            nickname: Some("a \"b\\\n".to_owned()),
            address: None,
            outbound: true,
            state: ConnectionState::Established,
            overlay: Some(Overlay::Sleeve),
            encrypted: Some(true),
            mtu: None,
            rtt_ms: Some(1.5),
            loss: None,
            info: None,
            received: None,
            sent: None,
        };
        let mut dns = Stats { latency_sum_us: 5_000_120, ..Stats::default() };
        dns.outcomes[Outcome::Cached as usize] = 8;
        (dns.latency[1], dns.latency[10]) = (2, 1);
        Readings {
            me: "a1".to_owned(),
            peers: 2,
            connections: vec![connection],
            ipam: IpamDocument {
                range: None,
                default_subnet: None,
                network_id: None,
                state: IpamState::Ready,
                detail: String::new(),
                owned: vec![owner("a1", 10, true), owner("c3", 7, false)],
                pending: vec![],
                conflicts: vec![],
            },
            counted: CounterSnapshot::default(),
            flows: 4,
            walls: BTreeMap::from([("source-mac", 2)]),
            control: vec![(Count::SessionClosed, 3)],
            gossip: vec![("topology".to_owned(), 5, 6)],
            dns: Some(DnsReadings { entries: 3, stats: dns }),
        }
    }

    #[test]
    fn every_name_of_the_contract_that_has_a_source_is_there() {
        let text = readings().render(Format::OpenMetrics);
        for line in [
            "mesh_connections{state=\"established\",overlay=\"sleeve\",encrypted=\"yes\"} 1",
            "mesh_connection_terminations_total 3",
            "mesh_peers 2",
            "mesh_ipam_addresses{state=\"active\"} 2",
            "mesh_ipam_addresses{state=\"free\"} 8",
            "mesh_ipam_unreachable_addresses 7",
            "mesh_ipam_pending 0",
            "mesh_frames_total{path=\"sleeve\",direction=\"out\"} 0",
            "mesh_bytes_total{path=\"bridge\",direction=\"in\"} 0",
            "mesh_drops_total{reason=\"no_route\"} 0",
            "mesh_gossip_bytes_total{channel=\"topology\",direction=\"out\"} 6",
            "mesh_dns_entries 3",
            "mesh_dns_queries_total{result=\"cached\"} 8",
            "mesh_dns_queries_total{result=\"slowed\"} 0",
            "mesh_dns_query_seconds_bucket{le=\"0.00005\"} 0",
            "mesh_dns_query_seconds_bucket{le=\"4\"} 2",
            "mesh_dns_query_seconds_bucket{le=\"+Inf\"} 3",
            "mesh_dns_query_seconds_count 3",
            "mesh_dns_query_seconds_sum 5.00012",
            "mesh_rtt_seconds{peer=\"b2\",nickname=\"a \\\"b\\\\\\n\"} 0.0015",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(
            text.contains("\nprocess_resident_memory_bytes ")
                && text.contains("\nprocess_cpu_seconds_total ")
        );
    }

    #[test]
    fn each_reason_of_a_drop_and_each_event_has_a_sample_of_its_own_also_before_it_happens() {
        let walls = Wall::ALL.map(|wall| (wall.name(), 0)).into();
        let text = Readings { walls, ..readings() }.render(Format::OpenMetrics);
        let (losses, copies): (Vec<_>, Vec<_>) =
            Wall::ALL.map(Wall::name).into_iter().partition(|reason| is_loss(reason));
        let drops = DropReason::ALL.map(DropReason::name).into_iter().chain(losses);
        let drops = drops.map(|reason| format!("mesh_drops_total{{reason=\"{reason}\"}} 0"));
        let events = Event::ALL.map(Event::name).into_iter().chain(copies);
        let events = events.map(|event| format!("mesh_dataplane_events_total{{event=\"{event}\"}} 0"));
        for line in drops.chain(events) {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}");
        }
    }

    #[test]
    fn openmetrics_names_families_without_total_and_ends_in_eof_and_prometheus_does_neither() {
        let text = readings().render(Format::OpenMetrics);
        assert!(text.contains("# TYPE mesh_frames counter\n") && text.ends_with("\n# EOF\n"), "{text}");
        let text = readings().render(Format::Prometheus);
        assert!(text.contains("# TYPE mesh_frames_total counter\n") && !text.contains("# EOF"), "{text}");
    }
}
