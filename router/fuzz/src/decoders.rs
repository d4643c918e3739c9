//! Decoders: whatever they accept, they encode again to something that they accept as the same.

use mesh_crypto::{Identity, Rng};
use mesh_topology::Topology;
use mesh_wire::BootCount;
use mesh_wire::control::{Hello, Message, PeerRecord, RecordHeader, SignedRecord};
use mesh_wire::ethernet::Frame;
use mesh_wire::sleeve::{Header, Messages};

pub(crate) fn control_message(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
}

pub(crate) fn record(bytes: &[u8]) {
    if let Ok(record) = PeerRecord::decode(bytes) {
        let header = RecordHeader::decode(bytes).expect("what is a record has its header");
        assert_eq!((header.key, header.boot, header.version), (record.key, record.boot, record.version));
        assert_eq!(PeerRecord::decode(&record.encode()), Ok(record));
    }
    if let Ok(signed) = SignedRecord::decode(bytes) {
        assert_eq!(SignedRecord::decode(&signed.encode()), Ok(signed));
    }
    let identity = Identity::generate(&mut Rng::from_seed([1; 32]));
    let mut topology = Topology::new(&identity, BootCount(1), "h1".parse().expect("a nickname"), 1, 1);
    assert!(topology.merge(bytes).is_err(), "nobody can guess a signature");
    assert_eq!(topology.records().count(), 1);
}

pub(crate) fn sleeve_packet(bytes: &[u8]) {
    if let Ok(header) = Header::decode(bytes) {
        assert_eq!(Header::decode(&header.encode()).as_ref(), Ok(&header));
    }
    let mut again = Vec::new();
    for message in Messages::new(bytes).take(bytes.len() + 1).flatten() {
        message.encode(&mut again).expect("it was no longer than a message may be");
        let body = std::mem::take(&mut again);
        assert_eq!(Messages::new(&body).next(), Some(Ok(message)));
    }
}

pub(crate) fn ethernet(bytes: &[u8]) {
    if let Ok(frame) = Frame::parse(bytes) {
        let _seen =
            (frame.destination(), frame.source(), frame.vlan(), frame.ether_type(), frame.payload().len());
    }
}
