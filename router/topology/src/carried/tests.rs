use mesh_crypto::{Identity, Rng};
use mesh_wire::BootCount;
use mesh_wire::control::RecordHeader;

use super::*;
use crate::records::Record;

fn identity(seed: u8) -> Identity {
    Identity::generate(&mut Rng::from_seed([seed; 32]))
}

/// A record with a fourth field, of which this version knows nothing.
fn entry(identity: &Identity, channel: Channel, content: &[u8]) -> Vec<u8> {
    let key = *identity.public_key().as_bytes();
    let length = u16::try_from(content.len()).expect("less than 64 KiB");
    let mut body = vec![0x84, 0x58, 32];
    body.extend(key);
    body.extend([1, 1, 0x59]);
    body.extend(length.to_be_bytes());
    body.extend(content);
    let header = RecordHeader { key, boot: BootCount(1), version: 1 };
    Record::sign(identity, channel, &header, body, ()).entry
}

#[test]
fn records_of_unknown_channels_are_handed_on_as_they_came() {
    let mut carried = Carried::default();
    let (origin, channel) = (identity(1), Channel(900));
    let entry = entry(&origin, channel, b"from the future");
    assert_eq!(carried.merge(channel, &entry), Ok(Merged::Newer(origin.peer_id())));
    assert_eq!(carried.merge(channel, &entry), Ok(Merged::Known(origin.peer_id())));
    let records = carried.get(channel).expect("there is one");
    assert_eq!(records.get(origin.peer_id()).map(|record| record.entry.clone()), Some(entry));
}

#[test]
fn channels_records_and_bytes_are_bounded() {
    let origin = identity(1);
    let mut carried = Carried::default();
    for channel in (0..16).map(Channel) {
        carried.merge(channel, &entry(&origin, channel, b"")).expect("room");
    }
    let one_more = Channel(16);
    assert_eq!(carried.merge(one_more, &entry(&origin, one_more, b"")), Err(MergeError::TooManyChannels));
    let long = entry(&origin, Channel(0), &[0; 65_500]);
    assert!(matches!(carried.merge(Channel(0), &long), Err(MergeError::TooLong { .. })));
    let refused = (1..=100)
        .find_map(|seed| carried.merge(Channel(0), &entry(&identity(seed), Channel(0), &[0; 60_000])).err());
    assert_eq!(refused, Some(MergeError::Full(Channel(0))));
}

#[test]
fn a_channel_ends_with_its_last_record() {
    let mut carried = Carried::default();
    carried.merge(Channel(5), &entry(&identity(1), Channel(5), b"")).expect("genuine");
    carried.retain(|_| false);
    assert_eq!(carried.channels().len(), 0);
}

#[test]
fn what_is_refused_makes_no_channel() {
    let mut carried = Carried::default();
    assert!(carried.merge(Channel(5), b"nonsense").is_err());
    assert!(carried.get(Channel(5)).is_none());
}
