//! What is said to messages of each form, by the RFCs about messages.

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::fixture::{Fixture, NSID, client, edns_query, query, receive};

/// The bytes of an OPT record without options: version, flags, and the length of the options.
fn opt(version: u8, flags: u16) -> Vec<u8> {
    let [high, low] = flags.to_be_bytes();
    vec![0, 0, 41, 0x10, 0, 0, version, high, low, 0, 0]
}

/// A query for the address of `web` with these bytes as additional records.
fn with_additional(count: u8, additional: &[u8]) -> Vec<u8> {
    let mut bytes = query("web.mesh.internal.", RecordType::A).to_vec().unwrap();
    bytes[11] = count;
    [bytes, additional.to_vec()].concat()
}

#[track_caller]
fn code(fixture: &Fixture, bytes: &[u8]) -> ResponseCode {
    let answer = Message::from_vec(&fixture.exchange(bytes).expect("an answer")).unwrap();
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    answer.metadata.response_code
}

#[test]
fn rfc_1035_an_answer_repeats_the_id_the_question_and_the_wish_for_recursion() {
    let fixture = Fixture::alone();
    for recursion in [true, false] {
        let mut asked = query("web.mesh.internal.", RecordType::A);
        asked.metadata.id = 0xbeef;
        asked.metadata.recursion_desired = recursion;
        asked.metadata.checking_disabled = recursion;
        let answer = fixture.send(&asked);
        assert_eq!((answer.metadata.id, answer.metadata.recursion_desired), (0xbeef, recursion));
        assert_eq!(answer.metadata.checking_disabled, recursion, "RFC 4035, section 3.2.2");
        assert_eq!(answer.queries, asked.queries);
    }
}

#[test]
fn rfc_1035_names_are_compressed() {
    let bytes = fixture_bytes(&query("many.mesh.internal.", RecordType::A));
    // 512 bytes hold 29 records of 16 bytes beside header and question.
    assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 29);
}

fn fixture_bytes(message: &Message) -> Vec<u8> {
    Fixture::alone().exchange(&message.to_vec().unwrap()).expect("an answer")
}

#[test]
fn draft_0x20_the_case_of_the_question_comes_back_to_the_letter() {
    let answer = fixture_bytes(&query("wEb.MeSh.iNtErNaL.", RecordType::A));
    let text = b"\x03wEb\x04MeSh\x08iNtErNaL\x00";
    assert_eq!(&answer[12..12 + text.len()], text);
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.answers[0].name.to_string(), "wEb.MeSh.iNtErNaL.");
}

#[test]
fn a_response_and_what_has_no_header_are_met_with_silence() {
    let fixture = Fixture::alone();
    let client = client(1);
    let mut response = query("web.mesh.internal.", RecordType::A).to_vec().unwrap();
    response[2] |= 0x80;
    client.send_to(&response, fixture.address).unwrap();
    for len in 0..12 {
        client.send_to(&response[..len], fixture.address).unwrap();
    }
    // Datagrams of one socket are handled in turn, so an answer to them would come before this one.
    let mut asked = query("web.mesh.internal.", RecordType::A);
    asked.metadata.id = 1;
    client.send_to(&asked.to_vec().unwrap(), fixture.address).unwrap();
    let first = Message::from_vec(&receive(&client).unwrap()).unwrap();
    assert_eq!((first.metadata.id, first.answers.len()), (1, 1));
}

#[test]
fn rfc_1035_an_unknown_opcode_is_not_implemented() {
    let fixture = Fixture::alone();
    for opcode in 1..16_u8 {
        let mut bytes = query("web.mesh.internal.", RecordType::A).to_vec().unwrap();
        bytes[2] = opcode << 3;
        let answer = fixture.exchange(&bytes).expect("an answer");
        assert_eq!((answer[2] >> 3 & 15, answer[3] & 15, answer.len()), (opcode, 4, 12));
    }
}

#[test]
fn rfc_9619_a_query_has_exactly_one_question() {
    let fixture = Fixture::alone();
    let none = Message::new(1, MessageType::Query, OpCode::Query).to_vec().unwrap();
    assert_eq!(code(&fixture, &none), ResponseCode::FormErr);
    let mut two = query("web.mesh.internal.", RecordType::A);
    two.add_query(query("both.mesh.internal.", RecordType::A).queries[0].clone());
    assert_eq!(code(&fixture, &two.to_vec().unwrap()), ResponseCode::FormErr);
}

#[test]
fn a_query_that_is_cut_anywhere_or_has_a_tail_is_malformed() {
    let fixture = Fixture::alone();
    let whole = edns_query("web.mesh.internal.", RecordType::A, 1232).to_vec().unwrap();
    for len in 12..whole.len() {
        assert_eq!(code(&fixture, &whole[..len]), ResponseCode::FormErr, "{len}");
    }
    assert_eq!(code(&fixture, &[&whole[..], b"tail"].concat()), ResponseCode::FormErr);
}

#[test]
fn rfc_1035_a_question_that_points_into_the_header_is_malformed() {
    let fixture = Fixture::alone();
    for name in [[0xc0, 0x00], [0xc0, 0x0c], [0xc0, 0xff], [0x40, 0x00], [0x80, 0x00]] {
        let head = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let bytes = [&head[..], &name, &[0, 1, 0, 1]].concat();
        assert_eq!(code(&fixture, &bytes), ResponseCode::FormErr, "{name:x?}");
    }
}

#[test]
fn rfc_1035_a_name_of_255_bytes_is_taken_and_a_longer_one_is_malformed() {
    let fixture = Fixture::alone();
    let with_last = |last: usize| {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for len in [63, 63, 63, last] {
            bytes.push(u8::try_from(len).unwrap());
            bytes.extend(std::iter::repeat_n(b'a', len));
        }
        [bytes, vec![0, 0, 1, 0, 1]].concat()
    };
    assert_eq!(code(&fixture, &with_last(61)), ResponseCode::ServFail, "taken, but nobody can be asked");
    assert_eq!(code(&fixture, &with_last(62)), ResponseCode::FormErr);
}

#[test]
fn other_classes_are_refused() {
    let fixture = Fixture::alone();
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::NONE, DNSClass::ANY] {
        let mut asked = query("version.bind.", RecordType::TXT);
        asked.queries[0].query_class = class;
        let answer = fixture.send(&asked);
        assert_eq!((answer.metadata.response_code, answer.queries.len()), (ResponseCode::Refused, 1));
    }
}

#[test]
fn types_that_are_no_question_are_told_so() {
    let fixture = Fixture::alone();
    for (kind, expected) in
        [(41, ResponseCode::FormErr), (250, ResponseCode::NotImp), (253, ResponseCode::NotImp)]
    {
        let asked = query("web.mesh.internal.", RecordType::from(kind));
        assert_eq!(code(&fixture, &asked.to_vec().unwrap()), expected, "{kind}");
    }
    let unknown = fixture.ask("web.mesh.internal.", RecordType::from(1000));
    assert_eq!(
        (unknown.metadata.response_code, unknown.authorities.len()),
        (ResponseCode::NoError, 1),
        "RFC 3597"
    );
}

#[test]
fn rfc_6891_edns_is_answered_if_and_only_if_it_was_asked() {
    let fixture = Fixture::alone();
    assert!(fixture.ask("web.mesh.internal.", RecordType::A).edns.is_none());
    for name in ["web.mesh.internal.", "nope.mesh.internal.", "example.com."] {
        let edns = fixture.send(&edns_query(name, RecordType::A, 4096)).edns.expect("EDNS");
        assert_eq!(
            (edns.version(), edns.max_payload(), edns.options().as_ref().len()),
            (0, 1232, 0),
            "{name}"
        );
    }
}

#[test]
fn rfc_6891_an_unknown_version_is_bad_and_unknown_flags_and_options_are_passed_over() {
    let fixture = Fixture::alone();
    // The codec reads 16 as BADSIG, which has the same number.
    assert_eq!(u16::from(code(&fixture, &with_additional(1, &opt(1, 0)))), u16::from(ResponseCode::BADVERS));
    let answer = Message::from_vec(&fixture.exchange(&with_additional(1, &opt(1, 0))).unwrap()).unwrap();
    assert_eq!(answer.edns.expect("EDNS").version(), 0);
    assert_eq!(code(&fixture, &with_additional(1, &opt(0, 0x0080))), ResponseCode::NoError);
    let mut asked = edns_query("web.mesh.internal.", RecordType::A, 1232);
    asked.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(100, b"what".to_vec()));
    let answer = fixture.send(&asked);
    assert_eq!((answer.answers.len(), answer.edns.unwrap().options().as_ref().len()), (1, 0));
}

#[test]
fn rfc_6891_two_opt_records_or_an_unrooted_one_are_malformed() {
    let fixture = Fixture::alone();
    let two = [opt(0, 0), opt(0, 0)].concat();
    assert_eq!(code(&fixture, &with_additional(2, &two)), ResponseCode::FormErr);
}

#[test]
fn rfc_3225_the_dnssec_flag_comes_back() {
    let fixture = Fixture::alone();
    for flag in [true, false] {
        let mut asked = edns_query("web.mesh.internal.", RecordType::A, 1232);
        asked.edns.as_mut().unwrap().set_dnssec_ok(flag);
        assert_eq!(fixture.send(&asked).edns.unwrap().flags().dnssec_ok, flag);
    }
}

#[test]
fn rfc_5001_who_this_is_is_told_to_who_asks() {
    let fixture = Fixture::alone();
    let mut asked = edns_query("web.mesh.internal.", RecordType::A, 1232);
    asked
        .edns
        .as_mut()
        .unwrap()
        .options_mut()
        .insert(EdnsOption::NSID(Vec::new().as_slice().try_into().unwrap()));
    let edns = fixture.send(&asked).edns.unwrap();
    let Some(EdnsOption::NSID(nsid)) = edns.option(EdnsCode::NSID) else { panic!("an NSID") };
    assert_eq!(nsid.as_ref(), NSID);
}

#[test]
fn rfc_6891_an_answer_keeps_the_clients_size_between_512_and_1232() {
    let fixture = Fixture::alone();
    for (payload, max) in [(0, 512), (100, 512), (700, 700), (1232, 1232), (4096, 1232), (65_535, 1232)] {
        let asked = edns_query("many.mesh.internal.", RecordType::AAAA, payload);
        let bytes = fixture.exchange(&asked.to_vec().unwrap()).expect("an answer");
        let message = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= max && bytes.len() > max - 28, "{payload}: {}", bytes.len());
        assert!(message.metadata.truncation && message.edns.is_some());
    }
    let plain = fixture.exchange(&query("many.mesh.internal.", RecordType::A).to_vec().unwrap()).unwrap();
    assert!(plain.len() <= 512 && Message::from_vec(&plain).unwrap().metadata.truncation);
}

#[test]
fn rfc_2181_what_is_beside_the_answer_is_left_out_before_it_is_truncated() {
    let fixture = Fixture::alone();
    let whole = fixture.send_tcp(&query("many.mesh.internal.", RecordType::SRV));
    assert_eq!((whole.answers.len(), whole.additionals.len()), (1, 100));
    let plain = fixture.ask("many.mesh.internal.", RecordType::SRV);
    assert_eq!((plain.answers.len(), plain.additionals.len(), plain.metadata.truncation), (1, 0, false));
}

#[test]
fn rfc_7766_tcp_gives_all_of_it() {
    let answer = Fixture::alone().send_tcp(&query("many.mesh.internal.", RecordType::A));
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (50, false));
}
