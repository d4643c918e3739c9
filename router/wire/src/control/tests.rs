use proptest::prelude::*;

use super::*;

fn peer(n: u8) -> PeerId {
    PeerId::from_bytes([n; 16])
}

fn record() -> PeerRecord {
    PeerRecord {
        key: [7; 32],
        boot: BootCount(3),
        version: 9,
        nickname: "h1".parse().expect("two letters"),
        port: 6783,
        links: vec![LinkRecord {
            peer: peer(2),
            address: "[2001:db8::2]:6783".parse().expect("a literal"),
            outbound: true,
            established: false,
            distance: 5,
            overlay: 1,
        }],
        nonce: 11,
    }
}

#[test]
fn each_message_comes_back_as_it_was() {
    for message in [
        Message::Gossip(Gossip {
            channel: Channel::TOPOLOGY,
            entries: vec![vec![1, 2, 3].into(), vec![].into()],
        }),
        Message::Digest(Digest {
            channel: Channel(77),
            rows: vec![DigestRow { origin: peer(1), boot: BootCount(u64::MAX), version: 0, tag: 7 }],
            reply: true,
            buckets: 1 << 63,
        }),
        Message::Summary(Summary { channel: Channel::TOPOLOGY, root: 3, buckets: vec![] }),
        Message::Summary(Summary { channel: Channel::TOPOLOGY, root: 3, buckets: vec![9; BUCKETS] }),
        Message::Rekey(Rekey { epoch: 4, payload: vec![1; 48] }),
        Message::Observed("192.0.2.1:6783".parse().expect("a literal")),
        Message::Candidates(vec!["[2001:db8::2]:6783".parse().expect("a literal")]),
        Message::Relay(Relay {
            source: peer(1),
            destination: peer(2),
            hops: 15,
            stream: 3,
            from_initiator: true,
            sequence: 0,
            payload: vec![1, 2],
        }),
        Message::Network(NetworkId::from_bytes([5; 16])),
        Message::Ping(0),
        Message::Pong(u64::MAX),
        Message::DataOffer(DataOffer { epoch: 1, index: ReceiverIndex(0xdead_beef) }),
        Message::Bye(Farewell::Stopping),
        Message::Bye(Farewell::Other(200)),
    ] {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}

#[test]
fn a_record_has_the_bytes_that_the_protocol_writes_down() {
    let bytes = record().encode();
    let mut expected = vec![0x87, 0x58, 32];
    expected.extend([7; 32]);
    expected.extend([0x03, 0x09, 0x62, b'h', b'1', 0x19, 0x1a, 0x7f, 0x81, 0x86, 0x50]);
    expected.extend([2; 16]);
    // A socket address: [1 = IPv6, [address, port]].
    expected.extend([0x82, 0x01, 0x82, 0x50, 0x20, 0x01, 0x0d, 0xb8]);
    expected.extend([0; 11]);
    expected.extend([0x02, 0x19, 0x1a, 0x7f, 0xf5, 0xf4, 5, 1, 11]);
    assert_eq!(bytes, expected);
    assert_eq!(PeerRecord::decode(&bytes), Ok(record()));
}

#[test]
fn a_field_appended_by_a_newer_router_is_passed_over() {
    let mut bytes = Hello {
        nickname: "a".parse().expect("a letter"),
        boot: BootCount(1),
        port: 1,
        nonce: 5,
        network: None,
        trusts: false,
    }
    .encode();
    assert_eq!(bytes[0], 0x86);
    bytes[0] = 0x87;
    bytes.push(0xf6);
    assert_eq!(Hello::decode(&bytes).map(|hello| hello.port), Ok(1));
}

#[test]
fn an_unknown_kind_is_named_and_no_error() {
    assert_eq!(Message::decode(&[250, 1, 2, 3]), Ok(Message::Unknown(250)));
}

#[test]
fn what_is_malformed_is_refused_by_name() {
    assert_eq!(Message::decode(&[]), Err(DecodeError::Empty));
    assert_eq!(Message::decode(&[KIND_PING]), Err(DecodeError::Body { kind: KIND_PING }));
    assert_eq!(Message::decode(&[KIND_PING, 1, 1]), Err(DecodeError::Trailing { kind: KIND_PING }));
    let many = Gossip { channel: Channel(1), entries: vec![Vec::new().into(); GOSSIP_ENTRIES_MAX + 1] };
    assert_eq!(
        Message::decode(&Message::Gossip(many).encode()),
        Err(DecodeError::TooMany { kind: KIND_GOSSIP })
    );
}

#[test]
fn a_claimed_length_beyond_the_input_allocates_nothing() {
    // An array that says it has 2^63 entries.
    let bytes = [KIND_GOSSIP, 0x82, 0x01, 0x9b, 0x80, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(Message::decode(&bytes), Err(DecodeError::Body { kind: KIND_GOSSIP }));
}

proptest! {
    #[test]
    fn no_input_makes_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _outcome = Message::decode(&bytes);
        let _outcome = Hello::decode(&bytes);
        let _outcome = PeerRecord::decode(&bytes);
        let _outcome = SignedRecord::decode(&bytes);
    }

    #[test]
    fn a_flipped_byte_never_panics_and_never_passes_as_longer(at in 0usize..120, value: u8) {
        let mut bytes = record().encode();
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(record) = PeerRecord::decode(&bytes) {
            prop_assert!(record.links.len() <= LINKS_MAX);
        }
    }
}
