//! Connections of others before they have proven who they are.

use super::*;
use crate::counters::Count;
use crate::limits::{HALF_OPEN_STRANGERS_MAX, UNAUTHENTICATED_LEN_MAX};

impl Net {
    fn knock(&mut self, number: u64, remote: SocketAddr) {
        let id = ConnectionId::Accepted(number);
        self.input(0, Input::Accepted { id, local: address(0), remote });
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.input(0, Input::Received { id: ConnectionId::Accepted(number), bytes: bytes.to_vec() });
    }

    fn tally(&self, count: Count) -> u64 {
        self.nodes[0].counters().get(count)
    }
}

fn stranger(n: u64) -> SocketAddr {
    let [.., a, b] = n.to_be_bytes();
    SocketAddr::from(([198, 51, a, b], 5))
}

#[test]
fn one_that_sends_something_else_is_closed_at_its_first_wrong_byte() {
    let mut net = Net::new(vec![config(1, None, vec![])]);
    net.knock(0, stranger(1));
    net.bytes(0, b"GET / HTTP/1.1\r\n\r\n");
    assert!(net.nodes[0].connections.keys().next().is_none());
    assert_eq!(net.tally(Count::HandshakeNotMesh), 1);
}

#[test]
fn one_of_a_later_version_alone_is_refused_with_both_versions() {
    let mut net = Net::new(vec![config(1, None, vec![])]);
    net.knock(0, stranger(1));
    net.bytes(0, b"MESH\x02\x03\0\0\0\0\0\0\0\0\0\0");
    assert!(net.nodes[0].connections.keys().next().is_none());
    let told = net.events[0].iter().find_map(|event| {
        let Event::Refused { cause, .. } = event else { return None };
        Some(cause.to_string())
    });
    let reason = "the protocol versions do not meet: this router speaks 1, the other 2 to 3";
    assert_eq!(told.as_deref(), Some(reason));
}

#[test]
fn one_that_says_nothing_is_closed_when_its_time_is_over() {
    let mut net = Net::new(vec![config(1, None, vec![])]);
    net.knock(0, stranger(1));
    net.run(HANDSHAKE_TIME_MAX);
    assert!(net.nodes[0].connections.keys().next().is_none());
    assert_eq!(net.tally(Count::HandshakeTimedOut), 1);
}

#[test]
fn one_that_sends_too_much_is_closed() {
    let mut net = Net::new(vec![config(1, None, vec![])]);
    net.knock(0, stranger(1));
    net.bytes(0, b"MESH\x01\x01\0\0\0\0\0\0\0\0\0\0");
    net.bytes(0, &[1, 0x10, 0]);
    for _ in 0..UNAUTHENTICATED_LEN_MAX / 1_000 {
        net.bytes(0, &[0; 1_000]);
        assert!(net.nodes[0].connections.keys().next().is_some());
    }
    net.bytes(0, &[0; 90]);
    assert!(net.nodes[0].connections.keys().next().is_none());
    assert_eq!(net.tally(Count::HandshakeTooLong), 1);
}

#[test]
fn one_host_has_few_places_and_a_crowd_leaves_half_of_them_to_known_hosts() {
    let known = Target::Named { host: "203.0.113.7".to_owned(), port: 6783 };
    let mut net = Net::new(vec![config(1, None, vec![known])]);
    net.run(secs(1));
    for number in 0..1_000 {
        net.knock(number, stranger(1));
    }
    assert_eq!((net.tally(Count::Accepted), net.tally(Count::RefusedBySource)), (10, 990));
    for number in 1_000..2_000 {
        net.knock(number, stranger(number));
    }
    let waiting = |net: &Net| net.nodes[0].connections.values().filter(|c| c.is_half_open()).count();
    assert_eq!(waiting(&net), HALF_OPEN_STRANGERS_MAX);
    assert!(net.tally(Count::RefusedHalfOpen) > 0);
    net.knock(2_000, SocketAddr::from(([203, 0, 113, 7], 5)));
    assert_eq!(waiting(&net), HALF_OPEN_STRANGERS_MAX + 1);
    assert!(waiting(&net) < HALF_OPEN_MAX);
    let refused = net.events[0].iter().filter(|event| matches!(event, Event::Refused { .. })).count();
    assert!(refused <= crate::limits::REFUSALS_KEPT_MAX, "{refused} lines in the log");
}

#[test]
fn a_crowd_that_goes_away_at_once_is_slowed_down() {
    let mut net = Net::new(vec![config(1, None, vec![])]);
    for number in 0..5_000 {
        net.knock(number, stranger(number));
        net.input(0, Input::Closed { id: ConnectionId::Accepted(number) });
    }
    assert_eq!(net.tally(Count::Accepted), 200);
    assert_eq!(net.tally(Count::RefusedByRate), 4_800);
}
