//! Whatever comes, what goes out is a proper answer to it.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use mesh_names::{Entry, Names, Order, Rng, Zone};
use mesh_wire::{BootCount, PeerId};
use proptest::prelude::*;

use super::*;
use crate::limits::{UDP_LEN_MAX, UDP_LEN_PLAIN};
use crate::raw::{self, HEADER_LEN};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn service() -> Service {
    let zone = Zone {
        domain: "mesh.internal".parse().unwrap(),
        ranges: vec!["10.32.0.0/12".parse().unwrap()],
        ttl: 1,
        negative_ttl: 1,
        servers: vec!["169.254.32.53".parse().unwrap()],
        order: Order::Shuffled,
    };
    let mut names = Names::new(PeerId::from_bytes([1; 16]), BootCount(1), zone).unwrap();
    for last in 0..100 {
        let address = IpAddr::from([10, 32, 0, last]);
        let six = std::net::Ipv6Addr::new(0xfd00, 0x12, 0, 0, 0, 0, 0, last.into()).into();
        for address in [address, six] {
            let entry = Entry::new("web.mesh.internal", address, "c".parse().unwrap(), Some(80));
            names.add(entry.unwrap()).unwrap();
        }
    }
    let unlimited = Rates { queries: u32::MAX, same_question: u32::MAX, no_name: u32::MAX };
    let nsid = NSIDPayload::new(b"me".to_vec()).unwrap();
    let names = Arc::new(ArcSwap::new(names.snapshot()));
    Service::new(names, Vec::new(), unlimited, Rng::from_seed([3; 32]), nsid, Vec::new())
}

fn query(name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::from(kind)));
    message.edns = payload.map(|payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns
    });
    message.to_vec().unwrap()
}

fn a_query() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("web.mesh.internal."),
        Just("WEB."),
        Just("nope.mesh.internal."),
        Just("mesh.internal."),
        Just("1.0.32.10.in-addr.arpa."),
        Just("example.com."),
    ];
    let kind = prop_oneof![Just(1), Just(28), Just(12), Just(33), Just(6), Just(2), Just(255), 0..300_u16];
    (name, kind, prop::option::of(any::<u16>())).prop_map(|(name, kind, payload)| query(name, kind, payload))
}

/// A query with a few bytes changed, and cut perhaps.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (a_query(), changes, prop::option::of(any::<prop::sample::Index>())).prop_map(
        |(mut bytes, changes, cut)| {
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn what_goes_out_is_a_proper_answer_of_a_proper_length(bytes in mangled(), over_tcp in any::<bool>()) {
        let transport = if over_tcp { Transport::Tcp } else { Transport::Udp };
        match service().handle(&bytes, CLIENT, transport, Instant::now()) {
            Action::Answer(answer) => {
                prop_assert!(raw::is_response(&answer));
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert_eq!(raw::opcode(&answer), raw::opcode(&bytes));
                if !over_tcp {
                    let asked_plainly = Raw::read(&bytes).is_none_or(|raw| raw.records().is_empty());
                    let max = if asked_plainly { UDP_LEN_PLAIN } else { usize::from(UDP_LEN_MAX) };
                    prop_assert!(answer.len() <= max, "{} bytes", answer.len());
                }
                let Some(raw) = Raw::read(&answer) else {
                    prop_assert_eq!(answer.len(), HEADER_LEN, "an answer without a question is a header");
                    return Ok(());
                };
                let asked = Raw::read(&bytes).expect("a question that is repeated was understood");
                prop_assert_eq!(raw.question(), asked.question(), "to the letter");
                prop_assert!(Message::from_vec(&answer).is_ok());
            }
            Action::Forward(request) => {
                prop_assert!(Raw::read(&bytes).is_some());
                prop_assert!(!request.name.is_within(&"mesh.internal".parse().unwrap()));
            }
            Action::Silence => prop_assert!(bytes.len() < HEADER_LEN || raw::is_response(&bytes)),
        }
    }

    #[test]
    fn garbage_is_told_from_queries(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Action::Answer(answer) = service().handle(&bytes, CLIENT, Transport::Udp, Instant::now()) {
            prop_assert!(answer.len() <= bytes.len().max(UDP_LEN_PLAIN));
        }
    }
}
