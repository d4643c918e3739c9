//! Connections: many at a time, slow ones, broken ones.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use mesh_dns::{Outcome, limits};

use crate::fixture::{Fixture, addresses, config, eventually, query, read_frame, write_frame};
use crate::upstream::{Upstream, answer, name_of};

fn frame(name: &str, id: u16) -> Vec<u8> {
    let mut asked = query(name, RecordType::A);
    asked.metadata.id = id;
    let bytes = asked.to_vec().unwrap();
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

#[test]
fn rfc_7766_many_queries_of_one_connection_are_answered_though_they_come_at_once_or_in_pieces() {
    let fixture = Fixture::alone();
    let mut stream = fixture.connect_from(1);
    let all: Vec<u8> = (0..200).flat_map(|id| frame("web.mesh.internal.", id)).collect();
    stream.write_all(&all).unwrap();
    for id in 0..200 {
        let answer = Message::from_vec(&read_frame(&mut stream).expect("an answer")).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (id, 1));
    }
    for byte in frame("web.mesh.internal.", 7) {
        stream.write_all(&[byte]).unwrap();
    }
    assert!(read_frame(&mut stream).is_some());
}

#[test]
fn rfc_7766_a_slow_answer_does_not_hold_up_the_next() {
    let upstream = Upstream::start(|seen| {
        if name_of(&seen.bytes).starts_with("slow") {
            std::thread::sleep(Duration::from_millis(300));
        }
        vec![answer(&seen.bytes, Ipv4Addr::new(192, 0, 2, 80))]
    });
    let fixture = Fixture::asking(&[upstream.address]);
    let mut stream = fixture.connect_from(1);
    stream.write_all(&[frame("slow.example.com.", 1), frame("web.mesh.internal.", 2)].concat()).unwrap();
    let ids: Vec<u16> = (0..2)
        .map(|_| Message::from_vec(&read_frame(&mut stream).expect("an answer")).unwrap().metadata.id)
        .collect();
    assert_eq!(ids, [2, 1]);
}

#[test]
fn a_client_that_has_said_all_still_hears_the_answers() {
    let upstream = Upstream::answering(Ipv4Addr::new(192, 0, 2, 80));
    let fixture = Fixture::asking(&[upstream.address]);
    let mut stream = fixture.connect_from(1);
    let all: Vec<u8> = (0..100).flat_map(|id| frame(&format!("n{id}.example.com."), id)).collect();
    stream.write_all(&all).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = 0;
    while let Some(message) = read_frame(&mut stream) {
        assert_eq!(addresses(&Message::from_vec(&message).unwrap()), ["192.0.2.80"]);
        answers += 1;
    }
    assert_eq!(answers, 100);
}

#[test]
fn a_query_that_is_reset_at_any_byte_leaves_nothing_behind() {
    let fixture = Fixture::alone();
    let whole = frame("web.mesh.internal.", 1);
    for len in 0..=whole.len() {
        for linger in [Some(Duration::ZERO), None] {
            let mut stream = fixture.connect_from(1);
            // Closing with a linger time of zero sends RST.
            socket2::SockRef::from(&stream).set_linger(linger).unwrap();
            stream.write_all(&whole[..len]).unwrap();
            drop(stream);
        }
    }
    eventually("all connections are gone", || fixture.server.stats().connections == 0);
    fixture.assert_alive();
}

#[test]
fn lengths_that_are_no_querys_end_the_connection() {
    let fixture = Fixture::alone();
    for prefix in [[0, 0], [0, 11], [0xff, 0xff], [0x10, 0x01]] {
        let mut stream = fixture.connect_from(1);
        // Enough for each of these lengths but the great ones, which are not waited for.
        stream.write_all(&prefix).unwrap();
        stream.write_all(&[0; 11]).unwrap();
        let mut rest = Vec::new();
        // The end, or a reset for what was not read.
        drop(stream.read_to_end(&mut rest));
        assert!(rest.is_empty(), "{prefix:?}: {rest:?}");
    }
    eventually("all connections are gone", || fixture.server.stats().connections == 0);
}

#[test]
fn a_thousand_slow_connections_cost_a_bounded_number_and_others_are_answered() {
    let fixture = Fixture::alone();
    let started = Instant::now();
    let mut held = Vec::new();
    for number in 0..1_000_u32 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let client = SocketAddr::from(([127, 0, 1, u8::try_from(number % 250).unwrap() + 1], 0));
        socket.bind(&client.into()).unwrap();
        socket.connect(&fixture.address.into()).unwrap();
        let mut stream: std::net::TcpStream = socket.into();
        // A length without a query. A connection that was refused already may be reset.
        drop(stream.write_all(&[0]));
        held.push(stream);
    }
    let busy = usize::try_from(fixture.server.stats().connections).unwrap();
    assert!(busy <= limits::CONNECTIONS_MAX, "{busy}");
    for _ in 0..50 {
        let asked = Instant::now();
        fixture.assert_alive();
        assert!(asked.elapsed() < Duration::from_millis(500));
    }
    assert!(fixture.server.stats().outcome(Outcome::Dropped) >= 500);
    eventually("idle connections are closed", || fixture.server.stats().connections == 0);
    assert!(started.elapsed() >= limits::CONNECTION_IDLE);
    let answer = fixture.send_tcp(&query("web.mesh.internal.", RecordType::A));
    assert_eq!(addresses(&answer), ["10.32.0.1"]);
}

#[test]
fn one_client_has_few_connections_and_others_have_theirs() {
    let fixture = Fixture::alone();
    let greedy: Vec<_> = (0..20).map(|_| fixture.connect_from(2)).collect();
    eventually("the limit is met", || {
        fixture.server.stats().connections == u64::try_from(limits::CONNECTIONS_EACH_MAX).unwrap()
    });
    let mut other = fixture.connect_from(3);
    write_frame(&mut other, &query("web.mesh.internal.", RecordType::A).to_vec().unwrap());
    assert!(read_frame(&mut other).is_some());
    drop(greedy);
    eventually("the greedy one has gone", || fixture.server.stats().connections <= 1);
}

#[test]
fn a_client_that_takes_no_answers_is_cut_off() {
    let mut config = config(mesh_dns::Upstream::Servers(Vec::new()));
    config.rates.queries = u32::MAX;
    let fixture = Fixture::start(config);
    let mut stream = fixture.connect_from(1);
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let queries: Vec<u8> = (0..100).flat_map(|id| frame("many.mesh.internal.", id)).collect();
    // Answers are twenty times as long as queries and fill all buffers long before the last query is read.
    let rounds = limits::CONNECTION_BYTES_MAX / queries.len();
    (0..rounds).take_while(|_| stream.write_all(&queries).is_ok()).for_each(drop);
    eventually("the connection is closed", || fixture.server.stats().connections == 0);
    let answered = fixture.server.stats().latency.iter().sum::<u64>();
    assert!(answered < u64::try_from(rounds * 100).unwrap() / 2, "{answered}");
    fixture.assert_alive();
}
