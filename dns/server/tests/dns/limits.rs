//! Floods, garbage and strangers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use mesh_dns::{Error, Listen, Outcome, Rng, Server, Upstream, limits};

use crate::fixture::{Fixture, PATIENCE, addresses, client, config, eventually, query, receive};

fn nobody() -> Upstream {
    Upstream::Servers(Vec::new())
}

#[test]
fn equal_questions_in_great_number_are_sent_to_tcp_and_never_grow() {
    let fixture = Fixture::alone();
    let greedy = client(2);
    let asked = query("many.mesh.internal.", RecordType::A).to_vec().unwrap();
    let mut slowed = 0;
    let many = limits::SAME_QUESTION_PER_SECOND + 300;
    for _ in 0..many {
        greedy.send_to(&asked, fixture.address).unwrap();
        let answer = receive(&greedy).expect("nothing is dropped");
        let message = Message::from_vec(&answer).unwrap();
        if message.answers.is_empty() {
            assert!(message.metadata.truncation && answer.len() <= asked.len());
            slowed += 1;
        }
    }
    // While they were sent, some of the share came anew.
    assert!(slowed > 0 && slowed <= 300, "{slowed}");
    assert_eq!(fixture.server.stats().outcome(Outcome::Slowed), slowed);
    let all = fixture.send_tcp(&query("many.mesh.internal.", RecordType::A));
    assert_eq!(all.answers.len(), 50, "TCP is not slowed");
}

#[test]
fn a_flood_of_one_client_leaves_others_their_answers() {
    let fixture = Fixture::alone();
    let stop = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let (stop, address) = (stop.clone(), fixture.address);
        move || {
            let socket = client(2);
            let asked: Vec<Vec<u8>> = (0..1000)
                .map(|n| query(&format!("n{n}.mesh.internal."), RecordType::A).to_vec().unwrap())
                .collect();
            // At most fifty thousand a second: not more than a server without optimisation can throw away.
            for asked in asked.chunks(50).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                for asked in asked {
                    // A full buffer is what a flood wants.
                    drop(socket.send_to(asked, address));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    // As a resolver does, it asks again when it hears nothing: the kernel may have dropped its question with the flood.
    let asker = client(1);
    asker.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let asked = query("web.mesh.internal.", RecordType::A).to_vec().unwrap();
    for _ in 0..100 {
        let answered = (0..25).any(|_| {
            asker.send_to(&asked, fixture.address).unwrap();
            receive(&asker).is_some()
        });
        assert!(answered);
    }
    eventually("the flood is dropped", || fixture.server.stats().outcome(Outcome::Dropped) > 0);
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
}

#[test]
fn garbage_is_survived_and_counted() {
    let fixture = Fixture::alone();
    let socket = client(2);
    let mut rng = Rng::from_seed([9; 32]);
    let good = query("web.mesh.internal.", RecordType::A).to_vec().unwrap();
    let mut sent = 0_u32;
    for round in 0..4_000_u32 {
        let mut bytes = if round % 2 == 0 { good.clone() } else { vec![0; 1 + (round % 700) as usize] };
        if round % 2 == 0 {
            for _ in 0..1 + round % 4 {
                let at = usize::try_from(rng.below(good.len() as u64)).unwrap();
                bytes[at] = rng.u32().to_be_bytes()[0];
            }
        } else {
            rng.fill(&mut bytes);
        }
        sent += u32::from(socket.send_to(&bytes, fixture.address).is_ok());
    }
    // Longer than any query may be.
    socket.send_to(&vec![0; limits::QUERY_LEN_MAX + 100], fixture.address).unwrap();
    fixture.assert_alive();
    let stats = fixture.server.stats();
    assert!(
        stats.outcome(Outcome::Malformed) > 100 && stats.outcome(Outcome::Ignored) > 100,
        "{sent}: {stats:?}"
    );
}

#[test]
fn strangers_are_not_served() {
    let mut config = config(nobody());
    config.clients = vec!["127.0.0.0/24".parse().unwrap()];
    let fixture = Fixture::start(config);
    let asked = query("web.mesh.internal.", RecordType::A).to_vec().unwrap();
    let stranger = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, 1), 0)).unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stranger.send_to(&asked, fixture.address).unwrap();
    fixture.assert_alive();
    assert!(receive(&stranger).is_none());
    assert_eq!(fixture.server.stats().outcome(Outcome::Ignored), 1);
}

#[test]
fn a_server_listens_on_several_addresses_but_not_on_all() {
    let mut several = config(nobody());
    several.listen.push(Listen::Address(SocketAddr::from(([127, 0, 0, 9], 0))));
    let fixture = Fixture::start(several);
    let address = fixture.server.addresses()[1];
    let other = Fixture { address, ..fixture };
    assert_eq!(addresses(&other.ask("web.mesh.internal.", RecordType::A)), ["10.32.0.1"]);

    let names = || Arc::new(arc_swap::ArcSwap::new(empty_snapshot()));
    let mut all = config(nobody());
    all.listen = vec![Listen::Address(SocketAddr::from(([0, 0, 0, 0], 0)))];
    assert!(matches!(Server::start(all, names()), Err(Error::Unspecified(_))));
    let mut none = config(nobody());
    none.listen.clear();
    assert!(matches!(Server::start(none, names()), Err(Error::NoAddress)));
    let mut taken = config(nobody());
    taken.listen = vec![Listen::Address(other.server.addresses()[0])];
    assert!(matches!(Server::start(taken, names()), Err(Error::Bind { .. })));
}

#[test]
fn a_server_listens_and_asks_over_ipv6_too() {
    let Ok(upstream) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let mut six = config(Upstream::Servers(vec![upstream.local_addr().unwrap()]));
    six.listen = vec![Listen::Address("[::1]:0".parse().unwrap())];
    six.clients = vec!["::1/128".parse().unwrap()];
    let fixture = Fixture::start(six);
    let client = UdpSocket::bind("[::1]:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = |name| client.send_to(&query(name, RecordType::A).to_vec().unwrap(), fixture.address).unwrap();
    ask("web.mesh.internal.");
    assert_eq!(addresses(&Message::from_vec(&receive(&client).unwrap()).unwrap()), ["10.32.0.1"]);
    ask("www.example.com.");
    let mut buffer = [0; 512];
    let asked_for = |buffer: &[u8]| crate::upstream::name_of(buffer) == "www.example.com.";
    let asked = (0..2).any(|_| upstream.recv(&mut buffer).is_ok_and(|len| asked_for(&buffer[..len])));
    assert!(asked, "beside a test question");
}

fn empty_snapshot() -> Arc<mesh_dns::Snapshot> {
    let zone = mesh_names::Zone {
        domain: "mesh.internal".parse().unwrap(),
        ranges: Vec::new(),
        ttl: 1,
        negative_ttl: 1,
        servers: Vec::new(),
        order: mesh_names::Order::LocalFirst,
    };
    let peer = mesh_wire::PeerId::from_bytes([1; 16]);
    mesh_names::Names::new(peer, mesh_wire::BootCount(1), zone).unwrap().snapshot()
}

#[test]
fn a_stopped_server_has_left_its_address() {
    let fixture = Fixture::alone();
    let silent = crate::upstream::Upstream::silent();
    drop(silent);
    let held = fixture.connect_from(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(fixture.server.stop());
    UdpSocket::bind(fixture.address).unwrap();
    drop(held);
    // The closed connection may still linger in the kernel, which is no listener.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.set_reuse_address(true).unwrap();
    listener.bind(&fixture.address.into()).unwrap();
    let listener: TcpListener = listener.into();
    drop(listener);
}

#[test]
fn times_are_counted_for_every_answer() {
    let fixture = Fixture::alone();
    for _ in 0..5 {
        fixture.assert_alive();
    }
    // An answer is on its way before its time is counted.
    eventually("all are counted", || fixture.server.stats().latency.iter().sum::<u64>() == 5);
    assert_eq!(fixture.server.stats().outcome(Outcome::Answered), 5);
}
