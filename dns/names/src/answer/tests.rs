use std::collections::BTreeMap;

use mesh_wire::{BootCount, Moment, PeerId};
use proptest::prelude::*;

use super::*;
use crate::{Chunk, Entry, Names, Rng};

fn zone(order: Order) -> Zone {
    Zone {
        domain: "mesh.internal".parse().unwrap(),
        ranges: vec!["10.32.0.0/12".parse().unwrap(), "fd00:12::/32".parse().unwrap()],
        ttl: 1,
        negative_ttl: 3,
        servers: vec!["169.254.32.53".parse().unwrap()],
        order,
    }
}

fn names_with(order: Order, entries: &[(&str, &str, Option<u16>)]) -> Names {
    let mut names = Names::new(PeerId::from_bytes([1; 16]), BootCount(1), zone(order)).unwrap();
    for (number, (name, address, port)) in entries.iter().enumerate() {
        let container = format!("c{number}").parse().unwrap();
        names.add(Entry::new(name, address.parse().unwrap(), container, *port).unwrap()).unwrap();
    }
    names
}

fn snapshot(entries: &[(&str, &str, Option<u16>)]) -> Arc<Snapshot> {
    names_with(Order::Shuffled, entries).snapshot()
}

fn ask(snapshot: &Snapshot, name: &str, kind: Kind) -> Answer {
    snapshot.answer(&name.parse().unwrap(), kind, &mut Rng::from_seed([1; 32]))
}

#[track_caller]
fn reply(snapshot: &Snapshot, name: &str, kind: Kind) -> Reply {
    let Answer::Ours(reply) = ask(snapshot, name, kind) else { panic!("{name} is ours") };
    reply
}

#[track_caller]
fn assert_denied(snapshot: &Snapshot, name: &str, kind: Kind, code: Code, apex: &str) {
    let reply = reply(snapshot, name, kind);
    assert_eq!((reply.code, reply.answers.as_slice()), (code, [].as_slice()), "{name} {kind:?}");
    let (owner, soa) = reply.authority.expect("a denial has an SOA");
    assert_eq!((owner.to_string().as_str(), soa.minimum), (apex, 3), "{name} {kind:?}");
}

fn v4(text: &str) -> Data {
    Data::A(text.parse().unwrap())
}

#[test]
fn addresses_of_each_family_come_for_their_type_and_nodata_for_the_other() {
    let names =
        snapshot(&[("web.mesh.internal", "10.32.0.1", None), ("six.mesh.internal", "fd00:12::1", None)]);
    assert_eq!(reply(&names, "WEB.Mesh.internal", Kind::A).answers, [v4("10.32.0.1")]);
    assert_eq!(
        reply(&names, "six.mesh.internal", Kind::Aaaa).answers,
        [Data::Aaaa("fd00:12::1".parse().unwrap())]
    );
    assert_denied(&names, "web.mesh.internal", Kind::Aaaa, Code::Exists, "mesh.internal.");
    assert_denied(&names, "six.mesh.internal", Kind::A, Code::Exists, "mesh.internal.");
    assert_denied(&names, "web.mesh.internal", Kind::Other(16), Code::Exists, "mesh.internal.");
}

#[test]
fn an_unknown_name_does_not_exist_and_an_empty_one_in_between_does() {
    let names = snapshot(&[("a.b.c.mesh.internal", "10.32.0.1", None)]);
    for between in ["b.c.mesh.internal", "c.mesh.internal", "mesh.internal"] {
        assert_denied(&names, between, Kind::A, Code::Exists, "mesh.internal.");
    }
    for unknown in ["x.mesh.internal", "x.a.b.c.mesh.internal", "b.mesh.internal"] {
        assert_denied(&names, unknown, Kind::A, Code::NoSuchName, "mesh.internal.");
    }
}

#[test]
fn a_name_in_between_goes_with_the_last_one_below_it() {
    let mut names = names_with(
        Order::Shuffled,
        &[
            ("a.b.mesh.internal", "10.32.0.1", None),
            ("a.b.mesh.internal", "10.32.0.2", None),
            ("c.b.mesh.internal", "10.32.0.3", None),
        ],
    );
    for (address, code) in
        [("10.32.0.1", Code::Exists), ("10.32.0.3", Code::Exists), ("10.32.0.2", Code::NoSuchName)]
    {
        let address = Some(address.parse().unwrap());
        names.remove(&crate::Selection { address, ..crate::Selection::default() });
        assert_denied(&names.snapshot(), "b.mesh.internal", Kind::A, code, "mesh.internal.");
    }
}

#[test]
fn reverse_zones_answer_pointers_and_deny_with_their_own_apex() {
    let names = snapshot(&[
        ("web.mesh.internal", "10.33.0.5", None),
        ("www.mesh.internal", "10.33.0.5", None),
        ("six.mesh.internal", "fd00:12::1", None),
        ("out.mesh.internal", "192.0.2.1", None),
    ]);
    let mut pointers = reply(&names, "5.0.33.10.in-addr.arpa", Kind::Ptr).answers;
    pointers.sort();
    let expected = ["web.mesh.internal", "www.mesh.internal"].map(|name| Data::Ptr(name.parse().unwrap()));
    assert_eq!(pointers, expected);
    assert_denied(&names, "5.0.33.10.in-addr.arpa", Kind::A, Code::Exists, "33.10.in-addr.arpa.");
    assert_denied(&names, "0.33.10.in-addr.arpa", Kind::Ptr, Code::Exists, "33.10.in-addr.arpa.");
    assert_denied(&names, "6.0.33.10.in-addr.arpa", Kind::Ptr, Code::NoSuchName, "33.10.in-addr.arpa.");
    assert_denied(&names, "1.0.34.10.in-addr.arpa", Kind::Ptr, Code::NoSuchName, "34.10.in-addr.arpa.");
    let six = format!("1.{}2.1.0.0.0.0.d.f.ip6.arpa", "0.".repeat(23));
    assert_eq!(reply(&names, &six, Kind::Ptr).answers, [Data::Ptr("six.mesh.internal".parse().unwrap())]);
    assert_eq!(ask(&names, "1.2.0.192.in-addr.arpa", Kind::Ptr), Answer::NotOurs);
    assert_eq!(ask(&names, "10.in-addr.arpa", Kind::Ns), Answer::NotOurs);
}

#[test]
fn each_apex_has_its_soa_and_ns_and_nothing_below_does() {
    let names = snapshot(&[("web.mesh.internal", "10.32.0.1", None)]);
    for apex in ["mesh.internal", "32.10.in-addr.arpa", "47.10.in-addr.arpa"] {
        let server: Name = "ns.mesh.internal".parse().unwrap();
        let soa = Soa { server: server.clone(), serial: 1, minimum: 3 };
        assert_eq!(reply(&names, apex, Kind::Soa).answers, [Data::Soa(soa)]);
        let ns = reply(&names, apex, Kind::Ns);
        assert_eq!(ns.answers, [Data::Ns(server.clone())]);
        assert_eq!(ns.additional, [(server, v4("169.254.32.53"))]);
    }
    assert_denied(&names, "web.mesh.internal", Kind::Soa, Code::Exists, "mesh.internal.");
    assert_denied(&names, "web.mesh.internal", Kind::Ns, Code::Exists, "mesh.internal.");
    assert_eq!(reply(&names, "ns.mesh.internal", Kind::A).answers, [v4("169.254.32.53")]);
}

#[test]
fn the_serial_rises_with_each_change() {
    let mut names = names_with(Order::Shuffled, &[]);
    let serial = |snapshot: &Snapshot| match reply(snapshot, "mesh.internal", Kind::Soa).answers.as_slice() {
        [Data::Soa(soa)] => soa.serial,
        other => panic!("{other:?}"),
    };
    let first = serial(&names.snapshot());
    names
        .add(Entry::new("a.mesh.internal", "10.32.0.1".parse().unwrap(), "c".parse().unwrap(), None).unwrap())
        .unwrap();
    assert_eq!(serial(&names.snapshot()), first + 1);
}

#[test]
fn a_service_is_answered_where_a_port_was_given() {
    let names = snapshot(&[
        ("web.mesh.internal", "10.32.0.1", Some(8080)),
        ("web.mesh.internal", "10.32.0.2", Some(8080)),
        ("web.mesh.internal", "10.32.0.3", Some(9090)),
        ("bare.mesh.internal", "10.32.0.4", None),
    ]);
    let target: Name = "web.mesh.internal".parse().unwrap();
    let mut found = reply(&names, "web.mesh.internal", Kind::Srv);
    found.answers.sort();
    let expected = [8080, 9090].map(|port| Data::Srv { port, target: target.clone() });
    assert_eq!(found.answers, expected);
    assert_eq!(found.additional.len(), 3);
    assert_denied(&names, "bare.mesh.internal", Kind::Srv, Code::Exists, "mesh.internal.");
}

#[test]
fn anything_is_answered_shortly_and_a_transfer_refused() {
    let names = snapshot(&[("web.mesh.internal", "10.32.0.1", None)]);
    assert_eq!(reply(&names, "web.mesh.internal", Kind::Any).answers, [Data::Hinfo]);
    assert_denied(&names, "nope.mesh.internal", Kind::Any, Code::NoSuchName, "mesh.internal.");
    assert_eq!(ask(&names, "mesh.internal", Kind::Transfer), Answer::Refused);
    assert_eq!(ask(&names, "example.com", Kind::Transfer), Answer::NotOurs);
}

#[test]
fn one_label_is_completed_with_the_domain_when_that_exists() {
    let names = snapshot(&[("web.mesh.internal", "10.32.0.1", None)]);
    assert_eq!(reply(&names, "WEB", Kind::A).answers, [v4("10.32.0.1")]);
    assert_denied(&names, "web", Kind::Aaaa, Code::Exists, "mesh.internal.");
    for (name, kind) in [("com", Kind::A), ("web", Kind::Ns), ("web", Kind::Other(43)), (".", Kind::Ns)] {
        assert_eq!(ask(&names, name, kind), Answer::NotOurs, "{name} {kind:?}");
    }
}

#[test]
fn labels_with_odd_bytes_are_just_unknown() {
    let names = snapshot(&[("web.mesh.internal", "10.32.0.1", None)]);
    let odd = Name::from_labels([b"we\0b.".as_slice(), b"mesh".as_slice(), b"internal".as_slice()]).unwrap();
    let Answer::Ours(reply) = names.answer(&odd, Kind::A, &mut Rng::from_seed([1; 32])) else {
        panic!("ours")
    };
    assert_eq!(reply.code, Code::NoSuchName);
}

#[test]
fn addresses_are_shuffled_evenly_and_many_are_cut() {
    let addresses: Vec<String> = (0..3).map(|n| format!("10.32.0.{n}")).collect();
    let entries: Vec<_> = addresses.iter().map(|a| ("web.mesh.internal", a.as_str(), None)).collect();
    let names = snapshot(&entries);
    let mut rng = Rng::from_seed([3; 32]);
    let mut first: BTreeMap<Data, u32> = BTreeMap::new();
    for _ in 0..3_000 {
        let Answer::Ours(reply) = names.answer(&"web.mesh.internal".parse().unwrap(), Kind::A, &mut rng)
        else {
            panic!("ours");
        };
        assert_eq!(reply.answers.len(), 3);
        *first.entry(reply.answers[0].clone()).or_default() += 1;
    }
    assert!(first.len() == 3 && first.values().all(|count| (850..1150).contains(count)), "{first:?}");

    let addresses: Vec<String> = (0..200).map(|n| format!("10.32.1.{n}")).collect();
    let entries: Vec<_> = addresses.iter().map(|a| ("web.mesh.internal", a.as_str(), None)).collect();
    assert_eq!(reply(&snapshot(&entries), "web.mesh.internal", Kind::A).answers.len(), ANSWERS_MAX);
}

#[test]
fn local_addresses_come_first_if_asked_for() {
    let mut here = names_with(Order::LocalFirst, &[("web.mesh.internal", "10.32.0.9", None)]);
    let other = PeerId::from_bytes([2; 16]);
    let mut there = Names::new(other, BootCount(1), zone(Order::LocalFirst)).unwrap();
    for last in [1, 2, 9, 200] {
        let address = format!("10.32.0.{last}").parse().unwrap();
        there.add(Entry::new("web.mesh.internal", address, "c".parse().unwrap(), None).unwrap()).unwrap();
    }
    here.set_reachable(&BTreeSet::from([other]), Moment::ORIGIN);
    for key in there.take_changed() {
        here.merge(Chunk::decode(&there.encode(key).unwrap()).unwrap(), Moment::ORIGIN).unwrap();
    }
    let names = here.snapshot();
    let mut rng = Rng::from_seed([4; 32]);
    for _ in 0..50 {
        let Answer::Ours(reply) = names.answer(&"web".parse().unwrap(), Kind::A, &mut rng) else {
            panic!("ours")
        };
        assert_eq!((reply.answers.len(), &reply.answers[0]), (4, &v4("10.32.0.9")));
    }
}

/// A few labels, so that names meet above and below each other.
fn name_text() -> impl Strategy<Value = String> {
    let label = prop_oneof![Just("a"), Just("b"), Just("c")];
    prop::collection::vec(label, 1..4).prop_map(|labels| format!("{}.mesh.internal", labels.join(".")))
}

/// What a reader of the RFCs would find in a list of all entries.
fn naive(entries: &[(String, Ipv4Addr)], name: &str) -> (Code, BTreeSet<Ipv4Addr>) {
    let below = format!(".{name}");
    let exists = entries.iter().any(|(bearer, _)| bearer == name || bearer.ends_with(&below));
    let addresses =
        entries.iter().filter(|(bearer, _)| bearer == name).map(|(_, address)| *address).collect();
    (if exists { Code::Exists } else { Code::NoSuchName }, addresses)
}

proptest! {
    #[test]
    fn answers_are_those_of_a_naive_reader(
        entries in prop::collection::vec((name_text(), 0_u8..4), 0..12),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        asked in prop::collection::vec(name_text(), 1..8),
    ) {
        let mut names = names_with(Order::Shuffled, &[]);
        let mut model: Vec<(String, Ipv4Addr)> = Vec::new();
        for (name, last) in &entries {
            let address = Ipv4Addr::new(10, 32, 0, *last);
            names.add(Entry::new(name, address.into(), "c".parse().unwrap(), None).unwrap()).unwrap();
            model.push((name.clone(), address));
        }
        for index in removed.iter().filter(|_| !entries.is_empty()) {
            let (name, last) = index.get(&entries).clone();
            let address = Ipv4Addr::new(10, 32, 0, last);
            let selection = crate::Selection {
                name: Some(name.parse().unwrap()),
                address: Some(address.into()),
                container: None,
            };
            names.remove(&selection);
            model.retain(|(bearer, at)| (bearer, *at) != (&name, address));
        }
        let snapshot = names.snapshot();
        for name in &asked {
            let reply = reply(&snapshot, name, Kind::A);
            let (code, addresses) = naive(&model, name);
            prop_assert_eq!(reply.code, code, "{}", name);
            let given: BTreeSet<_> = reply.answers.iter().cloned().collect();
            prop_assert_eq!(given.len(), reply.answers.len(), "no address twice");
            prop_assert_eq!(given, addresses.into_iter().map(Data::A).collect::<BTreeSet<_>>());
            prop_assert_eq!(reply.authority.is_some(), reply.answers.is_empty());
        }
    }
}
