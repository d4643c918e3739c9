//! Names of others, and what upstream servers may do about them.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, Record, RecordType};
use mesh_dns::{Outcome, limits};

use crate::fixture::{Fixture, PATIENCE, addresses, client, edns_query, eventually, query, receive};
use crate::upstream::{Seen, Upstream, Way, answer, name_of};

const WEB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

/// A SERVFAIL comes by then.
const FAILURE_TIME_MAX: Duration = Duration::from_secs(4);

fn response(seen: &Seen, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(&answer(&seen.bytes, WEB)).unwrap();
    change(&mut message);
    message.to_vec().unwrap()
}

#[test]
fn a_query_and_its_answer_pass_byte_for_byte_but_for_the_id() {
    let upstream = Upstream::start(|seen| {
        // A type and an option that nobody knows, and an owner that is written out though it could be a pointer.
        let mut bytes = seen.bytes.clone();
        bytes[2] |= 0x80;
        bytes[7] = 1;
        let question_end = bytes.windows(2).position(|two| two == [0xff, 0x01]).unwrap() + 4;
        let opt = bytes.split_off(question_end);
        bytes.extend_from_slice(b"\x07eXample\x03com\x00\xff\x01\x00\x01\x00\x00\x00\x3c\x00\x05bytes");
        vec![[bytes, opt].concat()]
    });
    let fixture = Fixture::asking(&[upstream.address]);
    let mut asked = edns_query("eXample.com.", RecordType::from(0xff01), 1400);
    asked.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(65_001, b"option".to_vec()));
    let sent = asked.to_vec().unwrap();
    let came = fixture.exchange(&sent).expect("an answer");
    let seen = upstream.seen("example.com.").remove(0).bytes;
    assert_eq!(seen[2..], sent[2..]);
    assert_eq!(came[..2], sent[..2]);
    assert!(came.windows(5).any(|five| five == b"bytes") && came.windows(6).any(|six| six == b"option"));
    assert_eq!(fixture.server.stats().outcome(Outcome::Forwarded), 1);
}

#[test]
fn ids_and_ports_are_drawn_anew_for_each_query() {
    let upstream = Upstream::answering(WEB);
    let fixture = Fixture::asking(&[upstream.address]);
    for number in 0..40 {
        assert_eq!(
            addresses(&fixture.ask(&format!("n{number}.example.com."), RecordType::A)),
            ["192.0.2.80"]
        );
    }
    let seen = upstream.seen("example.com.");
    let ids: BTreeSet<[u8; 2]> = seen.iter().map(|seen| [seen.bytes[0], seen.bytes[1]]).collect();
    let ports: BTreeSet<u16> = seen.iter().map(|seen| seen.from.port()).collect();
    assert!(
        seen.len() == 40 && ids.len() >= 39 && ports.len() >= 30,
        "{} ids, {} ports",
        ids.len(),
        ports.len()
    );
}

#[test]
fn an_answer_that_belongs_to_another_question_is_not_taken() {
    let upstream = Upstream::start(|seen| {
        let forged = |change: &dyn Fn(&mut Message)| {
            response(seen, |message| {
                message.answers[0].data = RData::A("198.51.100.66".parse::<Ipv4Addr>().unwrap().into());
                change(message);
            })
        };
        let other = query("other.example.com.", RecordType::A).queries[0].clone();
        let upper = query("WWW.EXAMPLE.COM.", RecordType::A).queries[0].clone();
        vec![
            forged(&|message| message.metadata.id = message.metadata.id.wrapping_add(1)),
            forged(&|message| message.queries[0] = other.clone()),
            forged(&|message| message.queries[0] = upper.clone()),
            forged(&|message| message.metadata.message_type = MessageType::Query),
            b"garbage".to_vec(),
            answer(&seen.bytes, WEB),
        ]
    });
    let fixture = Fixture::asking(&[upstream.address]);
    let answer = fixture.ask("www.example.com.", RecordType::A);
    assert_eq!(addresses(&answer), ["192.0.2.80"]);
    assert!(fixture.server.stats().upstream_mismatches >= 5);
}

#[test]
fn under_a_rain_of_forged_answers_the_question_goes_over_tcp() {
    let upstream = Upstream::start(|seen| match seen.way {
        Way::Udp => (0..40).map(|n| response(seen, |message| message.metadata.id ^= n + 1)).collect(),
        Way::Tcp => vec![answer(&seen.bytes, WEB)],
    });
    let fixture = Fixture::asking(&[upstream.address]);
    assert_eq!(addresses(&fixture.ask("www.example.com.", RecordType::A)), ["192.0.2.80"]);
}

#[test]
fn a_truncated_answer_is_fetched_over_tcp_and_cut_for_the_client() {
    let upstream = Upstream::start(|seen| match seen.way {
        Way::Udp => vec![response(seen, |message| {
            message.metadata.truncation = true;
            message.answers.clear();
        })],
        Way::Tcp => vec![response(seen, |message| {
            let record = message.answers[0].clone();
            message.answers = (0..60)
                .map(|last| {
                    let data = RData::A(Ipv4Addr::new(192, 0, 2, last).into());
                    Record::from_rdata(record.name.clone(), 60, data)
                })
                .collect();
        })],
    });
    let fixture = Fixture::asking(&[upstream.address]);
    let small = fixture.send(&edns_query("www.example.com.", RecordType::A, 512));
    assert!(small.metadata.truncation && small.answers.is_empty());
    let all = fixture.send_tcp(&edns_query("www.example.com.", RecordType::A, 512));
    assert_eq!((all.answers.len(), all.metadata.truncation), (60, false));
    let large = fixture.send(&edns_query("www.example.com.", RecordType::A, 4096));
    assert_eq!((large.answers.len(), large.metadata.truncation), (60, false));
}

#[test]
fn a_dead_upstream_is_told_within_four_seconds_and_holds_up_no_name_of_ours() {
    let upstream = Upstream::silent();
    let fixture = Fixture::asking(&[upstream.address]);
    let waiting = client(1);
    let started = Instant::now();
    waiting
        .send_to(&edns_query("www.example.com.", RecordType::A, 1232).to_vec().unwrap(), fixture.address)
        .unwrap();
    while started.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        fixture.assert_alive();
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    let failure = Message::from_vec(&receive(&waiting).expect("an answer")).unwrap();
    assert!(started.elapsed() < FAILURE_TIME_MAX, "{:?}", started.elapsed());
    assert_eq!(
        (failure.metadata.response_code, failure.metadata.authoritative),
        (ResponseCode::ServFail, false)
    );
    assert!(failure.edns.is_some() && failure.queries.len() == 1);
}

#[test]
fn without_upstream_servers_or_with_closed_ports_the_failure_comes_at_once() {
    let nobody = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    for servers in [vec![], vec![nobody]] {
        let fixture = Fixture::asking(&servers);
        let started = Instant::now();
        let answer = fixture.ask("www.example.com.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

#[test]
fn the_next_server_is_asked_when_one_is_silent_and_then_first() {
    let (dead, alive) = (Upstream::silent(), Upstream::answering(WEB));
    let fixture = Fixture::asking(&[dead.address, alive.address]);
    assert_eq!(addresses(&fixture.ask("a.example.com.", RecordType::A)), ["192.0.2.80"]);
    assert_eq!(fixture.server.upstreams(), [alive.address, dead.address]);
    let started = Instant::now();
    assert_eq!(addresses(&fixture.ask("b.example.com.", RecordType::A)), ["192.0.2.80"]);
    assert!(started.elapsed() < limits::TRY_TIME);
    assert_eq!(dead.seen("example.com.").len(), 1);
}

#[test]
fn the_next_server_is_asked_when_one_fails_and_the_failure_is_passed_on_when_all_do() {
    let failing = || {
        Upstream::start(|seen| {
            vec![response(seen, |message| {
                message.answers.clear();
                message.metadata.response_code = ResponseCode::ServFail;
            })]
        })
    };
    let (first, second, alive) = (failing(), failing(), Upstream::answering(WEB));
    let fixture = Fixture::asking(&[first.address, alive.address]);
    assert_eq!(addresses(&fixture.ask("www.example.com.", RecordType::A)), ["192.0.2.80"]);

    let fixture = Fixture::asking(&[first.address, second.address]);
    let answer = fixture.ask("all.example.com.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!((first.seen("all.example.com.").len(), second.seen("all.example.com.").len()), (1, 1));
}

#[test]
fn a_denial_is_an_answer_and_no_other_server_is_asked() {
    let denying = Upstream::start(|seen| {
        vec![response(seen, |message| {
            message.answers.clear();
            message.metadata.response_code = ResponseCode::NXDomain;
        })]
    });
    let other = Upstream::answering(WEB);
    let fixture = Fixture::asking(&[denying.address, other.address]);
    let answer = fixture.ask("www.example.com.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(other.seen("example.com.").is_empty());
}

#[test]
fn equal_questions_in_flight_are_one_and_each_client_gets_its_own_case_and_id() {
    let upstream = Upstream::start(|seen| {
        std::thread::sleep(Duration::from_millis(300));
        vec![answer(&seen.bytes, WEB)]
    });
    let fixture = Fixture::asking(&[upstream.address]);
    let clients: Vec<_> = (0..20).map(|_| client(1)).collect();
    for (number, client) in (0_u16..).zip(&clients) {
        let name = if number % 2 == 0 { "www.example.com." } else { "WWW.Example.com." };
        let mut asked = query(name, RecordType::A);
        asked.metadata.id = number;
        client.send_to(&asked.to_vec().unwrap(), fixture.address).unwrap();
    }
    for (number, client) in (0_u16..).zip(&clients) {
        let answer = Message::from_vec(&receive(client).expect("an answer")).unwrap();
        let name = if number % 2 == 0 { "www.example.com." } else { "WWW.Example.com." };
        assert_eq!((answer.metadata.id, answer.queries[0].name().to_string().as_str()), (number, name));
        assert_eq!(addresses(&answer), ["192.0.2.80"]);
    }
    assert_eq!(upstream.seen("example.com.").len(), 1);
}

#[test]
fn an_answer_is_kept_and_given_again_without_asking() {
    let upstream = Upstream::answering(WEB);
    let fixture = Fixture::asking(&[upstream.address]);
    for _ in 0..5 {
        assert_eq!(addresses(&fixture.ask("www.example.com.", RecordType::A)), ["192.0.2.80"]);
        assert_eq!(addresses(&fixture.send_tcp(&query("WWW.example.com.", RecordType::A))), ["192.0.2.80"]);
    }
    assert_eq!(upstream.seen("example.com.").len(), 1);
    let stats = fixture.server.stats();
    assert_eq!((stats.outcome(Outcome::Cached), stats.cached), (9, 1));
    // Another type and other flags are other questions.
    fixture.ask("www.example.com.", RecordType::AAAA);
    fixture.send(&edns_query("www.example.com.", RecordType::A, 1232));
    assert_eq!(upstream.seen("example.com.").len(), 3);
}

#[test]
fn names_of_ours_never_leave() {
    let upstream = Upstream::answering(WEB);
    let fixture = Fixture::asking(&[upstream.address]);
    for name in ["web.mesh.internal.", "nope.mesh.internal.", "9.9.40.10.in-addr.arpa."] {
        fixture.ask(name, RecordType::A);
    }
    assert!(upstream.seen("mesh.internal.").is_empty() && upstream.seen("10.in-addr.arpa.").is_empty());
    fixture.ask("unknown.", RecordType::A);
    assert_eq!(upstream.seen("unknown.").len(), 1, "one label that nobody here has may be a domain");
}

#[test]
fn an_upstream_name_may_not_lead_into_the_overlay() {
    let upstream = Upstream::start(|seen| {
        let inside = if name_of(&seen.bytes).starts_with("evil.") { [10, 32, 0, 1] } else { [10, 99, 0, 1] };
        vec![response(seen, |message| {
            let name = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(name, 60, RData::A(Ipv4Addr::from(inside).into())));
        })]
    });
    let fixture = Fixture::asking(&[upstream.address]);
    let evil = fixture.send(&edns_query("evil.example.com.", RecordType::A, 1232));
    assert_eq!((evil.metadata.response_code, evil.answers.len()), (ResponseCode::NoError, 0));
    assert!(evil.edns.is_some());
    assert_eq!(fixture.ask("good.example.com.", RecordType::A).answers.len(), 2);
    assert_eq!(fixture.server.stats().outcome(Outcome::Rebinding), 1);
}

#[test]
fn the_server_does_not_ask_itself() {
    let socket = || {
        let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let udp = std::net::UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
        (tcp.local_addr().unwrap(), mesh_dns::Listen::Sockets { udp, tcp })
    };
    let (own, listen) = socket();
    let mut config = crate::fixture::config(mesh_dns::Upstream::Servers(vec![own]));
    config.listen = vec![listen];
    let fixture = Fixture::start(config);
    let answer = fixture.ask("www.example.com.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(fixture.server.upstreams().is_empty());
}

/// A stub that sends everything to `target`, as one does whose upstream server we are.
fn stub(target: std::sync::Arc<std::sync::OnceLock<SocketAddr>>) -> Upstream {
    Upstream::hearing_all(move |seen| {
        let Some(target) = target.get() else { return Vec::new() };
        let socket = client(1);
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.send_to(&seen.bytes, target).unwrap();
        receive(&socket).into_iter().collect()
    })
}

#[test]
fn a_stub_that_comes_back_to_us_is_found_out_and_left_alone() {
    let target = std::sync::Arc::new(std::sync::OnceLock::new());
    let (stub, alive) = (stub(target.clone()), Upstream::answering(WEB));
    // The stub learns where we are before it is named in the file, so that the first test already comes back.
    let folder = tempfile::tempdir().unwrap();
    let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let udp = std::net::UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
    target.set(tcp.local_addr().unwrap()).unwrap();
    let mut config = crate::fixture::config(mesh_dns::Upstream::Servers(vec![stub.address, alive.address]));
    config.listen = vec![mesh_dns::Listen::Sockets { udp, tcp }];
    let fixture = Fixture::start(config);
    eventually("the stub is left out", || fixture.server.upstreams() == [alive.address]);
    assert_eq!(addresses(&fixture.ask("www.example.com.", RecordType::A)), ["192.0.2.80"]);
    assert!(stub.seen("example.com.").is_empty());
    drop(folder);
}

#[test]
fn servers_follow_the_file_when_it_is_replaced() {
    // The file names addresses without ports, so no server of a test can be asked by it: the list itself is looked at.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 127.0.0.77\n").unwrap();
    let behind_stub = folder.path().join("none");
    let fixture = Fixture::with_upstream(mesh_dns::Upstream::File { path: path.clone(), behind_stub });
    let listed = |texts: &[&str]| {
        let servers: Vec<SocketAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
        fixture.server.upstreams() == servers
    };
    eventually("the file is read", || listed(&["127.0.0.77:53"]));
    let next = folder.path().join("next");
    std::fs::write(&next, "nameserver 127.0.0.78\nnameserver 127.0.0.79\n").unwrap();
    std::fs::rename(&next, &path).unwrap();
    eventually("the file is read again", || listed(&["127.0.0.78:53", "127.0.0.79:53"]));
    std::fs::remove_file(&path).unwrap();
    fixture.assert_alive();
    assert!(listed(&["127.0.0.78:53", "127.0.0.79:53"]), "what was read before is kept");
}

#[test]
fn one_client_that_waits_for_many_answers_leaves_room_for_others() {
    let upstream = Upstream::start(|seen| {
        if name_of(&seen.bytes).starts_with("slow") { Vec::new() } else { vec![answer(&seen.bytes, WEB)] }
    });
    let fixture = Fixture::asking(&[upstream.address]);
    let greedy = client(2);
    let started = Instant::now();
    for number in 0..200 {
        let asked = query(&format!("slow{number}.example.com."), RecordType::A);
        greedy.send_to(&asked.to_vec().unwrap(), fixture.address).unwrap();
    }
    for _ in 0..200 - limits::FORWARDS_EACH_MAX {
        let answer = Message::from_vec(&receive(&greedy).expect("an answer")).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "those above the limit fail at once");
    assert_eq!(addresses(&fixture.ask("quick.example.com.", RecordType::A)), ["192.0.2.80"]);
    for _ in 0..limits::FORWARDS_EACH_MAX {
        assert!(receive(&greedy).is_some());
    }
    assert!(started.elapsed() < FAILURE_TIME_MAX && PATIENCE > FAILURE_TIME_MAX);
    assert_eq!(fixture.server.stats().forwards, 0);
}
