//! What is said about names of ours.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use crate::fixture::{Fixture, addresses, query};

/// The code, the SOA's owner and the number of answers.
fn shape(message: &Message) -> (ResponseCode, Option<String>, usize) {
    let soa = message.authorities.iter().find(|record| record.record_type() == RecordType::SOA);
    (message.metadata.response_code, soa.map(|record| record.name.to_string()), message.answers.len())
}

#[test]
fn rfc_1035_an_address_is_answered_with_authority_and_a_short_life() {
    let fixture = Fixture::alone();
    let answer = fixture.ask("web.mesh.internal.", RecordType::A);
    assert_eq!(addresses(&answer), ["10.32.0.1"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert!(
        answer.metadata.recursion_desired && !answer.metadata.truncation && !answer.metadata.authentic_data
    );
    assert_eq!(answer.answers[0].ttl, 1);
    assert_eq!(answer.metadata.id, 4711);
}

#[test]
fn rfc_2181_records_of_one_name_have_one_time_to_live() {
    let answer = Fixture::alone().send_tcp(&query("many.mesh.internal.", RecordType::A));
    assert_eq!(answer.answers.len(), 50);
    assert!(answer.answers.iter().all(|record| record.ttl == 1));
}

#[test]
fn rfc_2308_a_denial_has_an_soa_whose_time_to_live_is_its_minimum() {
    let fixture = Fixture::alone();
    for (name, kind) in [("nope.mesh.internal.", RecordType::A), ("web.mesh.internal.", RecordType::TXT)] {
        let answer = fixture.ask(name, kind);
        assert!(answer.metadata.authoritative && answer.answers.is_empty());
        let RData::SOA(soa) = &answer.authorities[0].data else { panic!("an SOA") };
        assert_eq!((answer.authorities[0].ttl, soa.minimum), (2, 2));
        assert_eq!(soa.mname.to_string(), "ns.mesh.internal.");
        assert_eq!(soa.rname.to_string(), "hostmaster.mesh.internal.");
    }
}

#[test]
fn rfc_4074_a_name_without_ipv6_exists_all_the_same() {
    let fixture = Fixture::alone();
    let apex = Some("mesh.internal.".to_owned());
    let none = fixture.ask("web.mesh.internal.", RecordType::AAAA);
    assert_eq!(shape(&none), (ResponseCode::NoError, apex.clone(), 0));
    let unknown = fixture.ask("nope.mesh.internal.", RecordType::AAAA);
    assert_eq!(shape(&unknown), (ResponseCode::NXDomain, apex, 0));
    assert_eq!(addresses(&fixture.ask("both.mesh.internal.", RecordType::AAAA)), ["fd00:12::2"]);
    assert_eq!(addresses(&fixture.ask("both.mesh.internal.", RecordType::A)), ["10.32.0.2"]);
}

#[test]
fn rfc_8020_a_name_above_another_exists() {
    let fixture = Fixture::alone();
    for name in ["deep.name.mesh.internal.", "name.mesh.internal.", "mesh.internal."] {
        assert_eq!(fixture.ask(name, RecordType::A).metadata.response_code, ResponseCode::NoError, "{name}");
    }
    let below = fixture.ask("x.a.deep.name.mesh.internal.", RecordType::A);
    assert_eq!(below.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn rfc_8482_anything_is_answered_with_one_small_record() {
    let fixture = Fixture::alone();
    let answer = fixture.ask("many.mesh.internal.", RecordType::ANY);
    let RData::HINFO(hinfo) = &answer.answers[0].data else { panic!("an HINFO") };
    assert_eq!((answer.answers.len(), &*hinfo.cpu), (1, b"RFC8482".as_slice()));
    assert_eq!(
        fixture.ask("nope.mesh.internal.", RecordType::ANY).metadata.response_code,
        ResponseCode::NXDomain
    );
}

#[test]
fn each_zone_has_its_soa_and_its_server_with_an_address() {
    let fixture = Fixture::alone();
    for apex in ["mesh.internal.", "32.10.in-addr.arpa.", "47.10.in-addr.arpa."] {
        let soa = fixture.ask(apex, RecordType::SOA);
        assert_eq!(soa.answers[0].record_type(), RecordType::SOA, "{apex}");
        let ns = fixture.ask(apex, RecordType::NS);
        let RData::NS(server) = &ns.answers[0].data else { panic!("an NS") };
        assert_eq!(server.0.to_string(), "ns.mesh.internal.");
        assert_eq!(ns.additionals[0].data.ip_addr(), Some("169.254.32.53".parse().unwrap()));
    }
}

#[test]
fn an_address_is_led_back_to_its_names_and_unknown_ones_are_denied_in_their_zone() {
    let fixture = Fixture::alone();
    let answer = fixture.ask("1.0.32.10.in-addr.arpa.", RecordType::PTR);
    let RData::PTR(name) = &answer.answers[0].data else { panic!("a PTR") };
    assert_eq!((name.0.to_string(), answer.metadata.authoritative), ("web.mesh.internal.".to_owned(), true));
    let unknown = fixture.ask("9.9.40.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(shape(&unknown), (ResponseCode::NXDomain, Some("40.10.in-addr.arpa.".to_owned()), 0));
    let other = fixture.ask("1.0.32.10.in-addr.arpa.", RecordType::TXT);
    assert_eq!(shape(&other), (ResponseCode::NoError, Some("32.10.in-addr.arpa.".to_owned()), 0));
}

#[test]
fn a_service_is_answered_with_its_port_and_address() {
    let answer = Fixture::alone().ask("web.mesh.internal.", RecordType::SRV);
    let RData::SRV(service) = &answer.answers[0].data else { panic!("an SRV") };
    assert_eq!((service.port, service.target.to_string()), (8080, "web.mesh.internal.".to_owned()));
    assert_eq!(answer.additionals[0].data.ip_addr(), Some("10.32.0.1".parse().unwrap()));
}

#[test]
fn one_label_is_completed_and_keeps_its_owner() {
    let answer = Fixture::alone().ask("Web.", RecordType::A);
    assert_eq!(addresses(&answer), ["10.32.0.1"]);
    assert_eq!(answer.answers[0].name.to_string(), "Web.");
}

#[test]
fn a_zone_is_not_handed_out() {
    let fixture = Fixture::alone();
    for (name, kind) in [
        ("mesh.internal.", RecordType::AXFR),
        ("mesh.internal.", RecordType::IXFR),
        ("example.com.", RecordType::AXFR),
    ] {
        assert_eq!(fixture.send_tcp(&query(name, kind)).metadata.response_code, ResponseCode::Refused);
    }
}

#[test]
fn answers_follow_the_newest_snapshot() {
    let config = crate::fixture::config(mesh_dns::Upstream::Servers(Vec::new()));
    let zone = mesh_names::Zone {
        domain: "mesh.internal".parse().unwrap(),
        ranges: Vec::new(),
        ttl: 1,
        negative_ttl: 1,
        servers: Vec::new(),
        order: mesh_names::Order::Shuffled,
    };
    let peer = mesh_wire::PeerId::from_bytes([1; 16]);
    let mut names = mesh_names::Names::new(peer, mesh_wire::BootCount(1), zone).unwrap();
    let published = std::sync::Arc::new(arc_swap::ArcSwap::new(names.snapshot()));
    let server = mesh_dns::Server::start(config, published.clone()).unwrap();
    let address = server.addresses()[0];
    let fixture = Fixture { server, address };
    assert_eq!(
        fixture.ask("new.mesh.internal.", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    let entry =
        mesh_names::Entry::new("new.mesh.internal", "10.32.0.9".parse().unwrap(), "c".parse().unwrap(), None);
    names.add(entry.unwrap()).unwrap();
    published.store(names.snapshot());
    assert_eq!(addresses(&fixture.ask("new.mesh.internal.", RecordType::A)), ["10.32.0.9"]);
}
