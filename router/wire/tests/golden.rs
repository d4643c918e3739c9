//! Every control message and every sleeve packet, byte by byte as PROTOCOL.md writes them down.

#[path = "golden/compare.rs"]
mod compare;

use std::net::SocketAddr;

use compare::Golden;
use mesh_wire::control::{
    AnnouncedMac, BUCKETS, Channel, DataOffer, Digest, DigestRow, EspOffer, Farewell, Gossip, GroupsRecord,
    Hello, LinkRecord, MacsRecord, Mail, MailBody, Message, NamesRecord, PeerRecord, Rekey, Relay,
    SignedRecord, Summary, VxlanOffer, WireguardOffer,
};
use mesh_wire::sleeve::{Envelope, Header, Message as Sleeve, Messages, PacketKind, Part, Probe, TimeToLive};
use mesh_wire::vxlan::{self, Heartbeat, HeartbeatKind};
use mesh_wire::{BootCount, MacAddr, NetworkId, PeerId, ReceiverIndex};

fn peer(byte: u8) -> PeerId {
    PeerId::from_bytes([byte; 16])
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn hello(network: Option<NetworkId>) -> Hello {
    Hello {
        nickname: "host-1".parse().expect("a nickname"),
        boot: BootCount(300),
        port: 6783,
        nonce: 0x0102_0304_0506_0708,
        network,
        trusts: network.is_some(),
    }
}

fn link(peer_byte: u8, at: &str, outbound: bool) -> LinkRecord {
    LinkRecord {
        peer: peer(peer_byte),
        address: address(at),
        outbound,
        established: !outbound,
        distance: 3,
        overlay: 1,
    }
}

fn record() -> PeerRecord {
    PeerRecord {
        key: [0x77; 32],
        boot: BootCount(3),
        version: 9,
        nickname: "host-1".parse().expect("a nickname"),
        port: 6783,
        links: vec![link(0x22, "192.0.2.2:6783", true), link(0x33, "[2001:db8::3]:40000", false)],
        nonce: 5,
    }
}

fn mail(destination: Option<PeerId>) -> Message {
    let (source, boot, channel) = (peer(0x11), BootCount(3), Channel::ADDRESSES);
    let body = MailBody { source, boot, sequence: 300, destination, channel, payload: vec![7; 4] }.encode();
    Message::Mail(Mail { hops: 15, body, signature: [0x55; 64] })
}

fn row() -> DigestRow {
    DigestRow { origin: peer(0x11), boot: BootCount(3), version: 9, tag: 0x0807_0605_0403_0201 }
}

/// Each kind of message, with each of its forms.
fn messages() -> Vec<(&'static str, Message)> {
    let channel = Channel::TOPOLOGY;
    let entries = vec![vec![1, 2, 3].into(), vec![].into()];
    let summary = |buckets| Message::Summary(Summary { channel, root: 0x1122_3344_5566_7788, buckets });
    let relay = |payload| {
        Message::Relay(Relay {
            source: peer(0x11),
            destination: peer(0x22),
            hops: 15,
            stream: 0x1_0000,
            from_initiator: true,
            sequence: 24,
            payload,
        })
    };
    let mut all = vec![
        ("gossip", Message::Gossip(Gossip { channel, entries })),
        (
            "digest",
            Message::Digest(Digest {
                channel: Channel(300),
                rows: vec![row()],
                reply: true,
                buckets: 1 << 63,
            }),
        ),
        ("ping", Message::Ping(23)),
        ("pong", Message::Pong(u64::MAX)),
        ("data offer", Message::DataOffer(DataOffer { epoch: 1, index: ReceiverIndex(0xdead_beef) })),
        ("summary, question", summary(vec![])),
        ("summary, answer", summary((0..BUCKETS as u64).collect())),
        ("observed, IPv4", Message::Observed(address("192.0.2.1:6783"))),
        ("observed, IPv6", Message::Observed(address("[2001:db8::1]:6783"))),
        ("relay", relay(vec![9; 3])),
        ("relay, end", relay(vec![])),
        ("rekey", Message::Rekey(Rekey { epoch: 2, payload: vec![1; 49] })),
        ("candidates", Message::Candidates(vec![address("192.0.2.1:1"), address("[2001:db8::1]:2")])),
        ("candidates, none", Message::Candidates(vec![])),
        ("network", Message::Network(NetworkId::from_bytes([0x99; 16]))),
        (
            "vxlan",
            Message::Vxlan(Some(VxlanOffer {
                port: 6784,
                vni: 0xab_cdef,
                cookie: 0x0102_0304,
                seal: None,
                esp: None,
            })),
        ),
        (
            "vxlan, sealed",
            Message::Vxlan(Some(VxlanOffer {
                port: 6786,
                vni: 0xab_cdef,
                cookie: 0x0102_0304,
                seal: Some(WireguardOffer { key: [0x77; 32], port: 6785 }),
                esp: None,
            })),
        ),
        (
            "vxlan, sealed by esp",
            Message::Vxlan(Some(VxlanOffer {
                port: 6786,
                vni: 0xab_cdef,
                cookie: 0x0102_0304,
                seal: None,
                esp: Some(EspOffer {}),
            })),
        ),
        ("vxlan, none", Message::Vxlan(None)),
        ("mail to one", mail(Some(peer(0x22)))),
        ("mail to all", mail(None)),
    ];
    let farewells = [
        ("bye, stopping", Farewell::Stopping),
        ("bye, duplicate", Farewell::Duplicate),
        ("bye, violation", Farewell::Violation),
        ("bye, cloned", Farewell::Cloned),
        ("bye, enough", Farewell::Enough),
        ("bye, other network", Farewell::OtherNetwork),
        ("bye, not allowed", Farewell::NotAllowed),
        ("bye, secret retired", Farewell::SecretRetired),
        ("bye, idle", Farewell::Idle),
        ("bye, unknown", Farewell::Other(200)),
    ];
    all.extend(farewells.map(|(name, farewell)| (name, Message::Bye(farewell))));
    all
}

#[test]
fn golden_control_messages() {
    let mut golden = Golden::default();
    golden.section("The plaintext of a frame: one byte of kind, then CBOR.");
    for (name, message) in messages() {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(message), "{name}");
        golden.add(name, bytes);
    }
    golden.section("What a handshake carries.");
    for (name, hello) in
        [("hello", hello(None)), ("hello, network", hello(Some(NetworkId::from_bytes([0x99; 16]))))]
    {
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Ok(hello), "{name}");
        golden.add(name, bytes);
    }
    golden.section("Records, and what summaries are made of.");
    golden.add("record", record().encode());
    let signed = SignedRecord { body: record().encode(), signature: [0x55; 64] };
    golden.add("signed record", signed.encode());
    let macs =
        [1, 2].map(|last| AnnouncedMac { mac: MacAddr::from_bytes([2, 0, 0, 0, 0, last]), sequence: 24 });
    let macs = MacsRecord { key: [0x77; 32], boot: BootCount(3), version: 9, macs: macs.to_vec() };
    assert_eq!(MacsRecord::decode(&macs.encode()), Ok(macs.clone()));
    golden.add("record of MACs", macs.encode());
    let groups = [[0x01, 0x00, 0x5e, 1, 1, 1], [0x33, 0x33, 0, 0, 0x12, 0x34]].map(MacAddr::from_bytes);
    let (wants_all, groups) = (false, groups.to_vec());
    let groups = GroupsRecord { key: [0x77; 32], boot: BootCount(3), version: 9, wants_all, groups };
    assert_eq!(GroupsRecord::decode(&groups.encode()), Ok(groups.clone()));
    golden.add("record of groups", groups.encode());

    let names = NamesRecord { key: [0x77; 32], boot: BootCount(3), version: 9, chunk: vec![0x86, 0xff] };
    assert_eq!(NamesRecord::decode(&names.encode()), Ok(names.clone()));
    golden.add("record of names", names.encode());
    golden.add("hash of a row", row().hash().to_be_bytes());
    golden.add("root of empty buckets", Summary::root_of(&[0; BUCKETS]).to_be_bytes());
    golden.add("root of buckets 0 to 63", Summary::root_of(&std::array::from_fn(|n| n as u64)).to_be_bytes());
    golden.check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/control.txt"));
}

#[test]
fn golden_sleeve_packets() {
    let mut golden = Golden::default();
    golden.section("Headers.");
    for (name, kind) in [("sealed", PacketKind::Sealed), ("clear", PacketKind::Clear)] {
        let header = Header { kind, receiver: ReceiverIndex(0xdead_beef), counter: 0x0102_0304_0506_0708 };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        golden.add(name, header.encode());
    }
    golden.section("Messages of a body.");
    let frame: Vec<u8> = (0..20).collect();
    let ttl = TimeToLive::MAX;
    let (source, destination) = (peer(0x11), peer(0x22));
    let probe = Probe { sequence: 0x0102_0304, sent_ns: 0x1112_1314_1516_1718 };
    let broadcast = Envelope::Broadcast { ttl, source, digest: 0xaabb_ccdd, sequence: 0x0102_0304 };
    for (name, message) in [
        ("frame", Sleeve::Frame { envelope: Envelope::Direct, frame: &frame }),
        (
            "relayed unicast",
            Sleeve::Frame { envelope: Envelope::Unicast { ttl, source, destination }, frame: &frame },
        ),
        ("relayed broadcast", Sleeve::Frame { envelope: broadcast, frame: &frame }),
        ("probe", Sleeve::Probe(probe)),
        ("probe reply", Sleeve::ProbeReply(probe)),
        ("deaf", Sleeve::Deaf),
        ("part", Sleeve::Part(Part { number: 0x0102_0304, whole_len: 1500, offset: 1480, bytes: &frame })),
        ("size probe", Sleeve::SizeProbe { sequence: 0x0102_0304, padding: 3 }),
        ("size reply", Sleeve::SizeReply { sequence: 0x0102_0304 }),
    ] {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).expect("a short frame");
        assert!(Messages::new(&bytes).eq([Ok(message)]), "{name}");
        golden.add(name, bytes);
    }
    golden.check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sleeve.txt"));
}

#[test]
fn golden_heartbeats() {
    let mut golden = Golden::default();
    golden.section("Heartbeats, from the VXLAN header on.");
    for (name, kind) in [("question", HeartbeatKind::Question), ("answer", HeartbeatKind::Answer)] {
        let heartbeat = Heartbeat { kind, cookie: 0x0102_0304_0506_0708, number: 9 };
        let bytes = heartbeat.encode(0xab_cdef, 60);
        assert_eq!(Heartbeat::decode(&bytes[vxlan::PAYLOAD_AT..]), Some(heartbeat), "{name}");
        golden.add(name, bytes);
    }
    golden.check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/vxlan.txt"));
}
