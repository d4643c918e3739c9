use proptest::prelude::*;

use super::*;

fn header() -> impl Strategy<Value = Header> {
    let kind = prop_oneof![Just(PacketKind::Sealed), Just(PacketKind::Clear)];
    (kind, any::<u32>(), any::<u64>()).prop_map(|(kind, receiver, counter)| Header {
        kind,
        receiver: ReceiverIndex(receiver),
        counter,
    })
}

fn peer() -> impl Strategy<Value = PeerId> {
    any::<[u8; PeerId::LEN]>().prop_map(PeerId::from_bytes)
}

fn ttl() -> impl Strategy<Value = TimeToLive> {
    (1..=TimeToLive::MAX.links()).prop_map(|links| TimeToLive::new(links).unwrap())
}

fn envelope() -> impl Strategy<Value = Envelope> {
    prop_oneof![
        Just(Envelope::Direct),
        (ttl(), peer(), peer()).prop_map(|(ttl, source, destination)| Envelope::Unicast {
            ttl,
            source,
            destination
        }),
        (ttl(), peer(), any::<u32>(), any::<u32>()).prop_map(|(ttl, source, digest, sequence)| {
            Envelope::Broadcast { ttl, source, digest, sequence }
        }),
    ]
}

/// A message without its borrowed frame.
#[derive(Debug, Clone)]
enum Owned {
    Frame(Envelope, Vec<u8>),
    Probe(Probe),
    Reply(Probe),
    Deaf,
    Part { number: u32, offset: u16, bytes: Vec<u8>, after: u16 },
    SizeProbe { sequence: u32, padding: u16 },
    SizeReply { sequence: u32 },
}

impl Owned {
    fn borrow(&self) -> Message<'_> {
        match self {
            Self::Frame(envelope, frame) => Message::Frame { envelope: *envelope, frame },
            Self::Probe(probe) => Message::Probe(*probe),
            Self::Reply(probe) => Message::ProbeReply(*probe),
            Self::Deaf => Message::Deaf,
            Self::Part { number, offset, bytes, after } => {
                let whole_len = offset + u16::try_from(bytes.len()).unwrap() + after;
                Message::Part(Part { number: *number, whole_len, offset: *offset, bytes })
            }
            Self::SizeProbe { sequence, padding } => {
                Message::SizeProbe { sequence: *sequence, padding: *padding }
            }
            Self::SizeReply { sequence } => Message::SizeReply { sequence: *sequence },
        }
    }
}

fn message() -> impl Strategy<Value = Owned> {
    let frame = prop::collection::vec(any::<u8>(), ETHERNET_HEADER_LEN..200);
    let probe = (any::<u32>(), any::<u64>()).prop_map(|(sequence, sent_ns)| Probe { sequence, sent_ns });
    prop_oneof![
        (envelope(), frame).prop_map(|(envelope, frame)| Owned::Frame(envelope, frame)),
        probe.clone().prop_map(Owned::Probe),
        probe.prop_map(Owned::Reply),
        Just(Owned::Deaf),
        (any::<u32>(), 0..60_000_u16, prop::collection::vec(any::<u8>(), 1..200), 0..5_000_u16)
            .prop_map(|(number, offset, bytes, after)| Owned::Part { number, offset, bytes, after }),
        (any::<u32>(), 0..2_000_u16).prop_map(|(sequence, padding)| Owned::SizeProbe { sequence, padding }),
        any::<u32>().prop_map(|sequence| Owned::SizeReply { sequence }),
    ]
}

proptest! {
    #[test]
    fn a_header_survives_the_wire(header in header()) {
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn messages_survive_the_wire_in_order(messages in prop::collection::vec(message(), 0..8)) {
        let mut body = Vec::new();
        for message in &messages {
            let before = body.len();
            message.borrow().encode(&mut body).unwrap();
            prop_assert_eq!(body.len() - before, message.borrow().encoded_len());
        }
        let decoded: Result<Vec<_>, _> = Messages::new(&body).collect();
        prop_assert_eq!(decoded.unwrap(), messages.iter().map(Owned::borrow).collect::<Vec<_>>());
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_always_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _outcome = Header::decode(&bytes).is_ok();
        prop_assert!(Messages::new(&bytes).count() <= bytes.len());
    }

    #[test]
    fn a_cut_body_yields_no_message_that_was_not_sent(messages in prop::collection::vec(message(), 1..4), cut in any::<prop::sample::Index>()) {
        let mut body = Vec::new();
        for message in &messages {
            message.borrow().encode(&mut body).unwrap();
        }
        let cut = &body[..cut.index(body.len())];
        let good: Vec<_> = Messages::new(cut).filter_map(Result::ok).collect();
        prop_assert!(good.len() < messages.len());
        prop_assert_eq!(good, messages.iter().map(Owned::borrow).take(Messages::new(cut).flatten().count()).collect::<Vec<_>>());
    }
}

#[test]
fn the_header_has_the_layout_of_the_protocol() {
    let header = Header { kind: PacketKind::Clear, receiver: ReceiverIndex(0x0102_0304), counter: 5 };
    assert_eq!(header.encode(), [2, 1, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
}

#[test]
fn a_relayed_unicast_has_the_layout_of_the_protocol() {
    let envelope = Envelope::Unicast {
        ttl: TimeToLive::MAX,
        source: PeerId::from_bytes([0xaa; 16]),
        destination: PeerId::from_bytes([0xbb; 16]),
    };
    let mut body = Vec::new();
    Message::Frame { envelope, frame: &[7; 14] }.encode(&mut body).unwrap();
    let expected = [&[2, 0, 47, 15][..], &[0xaa; 16], &[0xbb; 16], &[7; 14]].concat();
    assert_eq!(body, expected);
    assert_eq!(OVERHEAD_LEN_MAX, 68);
}

#[test]
fn a_relayed_broadcast_has_the_layout_of_the_protocol() {
    let envelope = Envelope::Broadcast {
        ttl: TimeToLive::new(3).unwrap(),
        source: PeerId::from_bytes([0xaa; 16]),
        digest: 0x0102_0304,
        sequence: 0x0506_0708,
    };
    let mut body = Vec::new();
    Message::Frame { envelope, frame: &[9; 14] }.encode(&mut body).unwrap();
    let expected = [&[3, 0, 39, 3][..], &[0xaa; 16], &[1, 2, 3, 4, 5, 6, 7, 8], &[9; 14]].concat();
    assert_eq!(body, expected);
}

#[test]
fn headers_of_others_are_refused_by_name() {
    let good = Header { kind: PacketKind::Sealed, receiver: ReceiverIndex(1), counter: 1 }.encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good;
        bytes[at] = byte;
        Header::decode(&bytes)
    };
    assert_eq!(with(0, 9), Err(HeaderError::UnknownType(9)));
    assert_eq!(with(1, 2), Err(HeaderError::Version(2)));
    assert_eq!(with(3, 1), Err(HeaderError::Reserved(1)));
    assert_eq!(Header::decode(&good[..15]), Err(HeaderError::TooShort(15)));
}

#[test]
fn unknown_kinds_and_bad_payloads_are_skipped_and_a_cut_ends_the_body() {
    let mut body = vec![99, 0, 2, 1, 2]; // unknown kind
    body.extend([KIND_FRAME, 0, 1, 0]); // a frame shorter than its header
    body.extend([KIND_PROBE, 0, 13]); // a probe with a byte too many
    body.extend([0; 13]);
    body.extend([KIND_DEAF, 0, 1, 0]); // what says nothing more, and more
    body.extend([KIND_PART, 0, 8, 0, 0, 0, 1, 0, 5, 0, 5]); // a part without bytes
    body.extend([KIND_PART, 0, 9, 0, 0, 0, 1, 0, 5, 0, 5, 0]); // one that passes the end of its whole
    body.extend([KIND_SIZE_REPLY, 0, 5, 0, 0, 0, 0, 0]); // a reply with a byte too many
    Message::Probe(Probe { sequence: 1, sent_ns: 2 }).encode(&mut body).unwrap();
    body.extend([KIND_PROBE, 0, 12, 1]);
    let decoded: Vec<_> = Messages::new(&body).collect();
    assert_eq!(
        decoded,
        [
            Err(MessageError::UnknownKind(99)),
            Err(MessageError::Payload(KIND_FRAME)),
            Err(MessageError::Payload(KIND_PROBE)),
            Err(MessageError::Payload(KIND_DEAF)),
            Err(MessageError::Payload(KIND_PART)),
            Err(MessageError::Payload(KIND_PART)),
            Err(MessageError::Payload(KIND_SIZE_REPLY)),
            Ok(Message::Probe(Probe { sequence: 1, sent_ns: 2 })),
            Err(MessageError::Truncated),
        ]
    );
}

#[test]
fn a_time_to_live_outside_its_range_is_malformed() {
    for ttl in [0, 16, 255] {
        let payload = [&[ttl][..], &[0; UNICAST_HEADER_LEN - 1], &[0; 14]].concat();
        assert_eq!(Message::decode(KIND_UNICAST, &payload), Err(MessageError::Payload(KIND_UNICAST)));
        let payload = [&[ttl][..], &[0; BROADCAST_HEADER_LEN - 1], &[0; 14]].concat();
        assert_eq!(Message::decode(KIND_BROADCAST, &payload), Err(MessageError::Payload(KIND_BROADCAST)));
    }
}

#[test]
fn a_frame_too_long_for_its_length_field_is_refused_and_writes_nothing() {
    let mut body = Vec::new();
    let frame = vec![0; 65_536];
    let message = Message::Frame { envelope: Envelope::Direct, frame: &frame };
    assert_eq!(message.encode(&mut body), Err(MessageTooLong(65_536)));
    assert!(body.is_empty());
}
