use proptest::prelude::*;

use mesh_crypto::Rng;

use super::*;

const CHANNEL: Channel = Channel(77);
const LIMITS: Limits = Limits { records_max: 8, entry_len_max: 1_000, len_max: 2_000 };

fn identity(seed: u8) -> Identity {
    Identity::generate(&mut Rng::from_seed([seed; 32]))
}

/// The body of a record that says `content` beyond its header.
fn body(key: [u8; 32], version: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x84, 0x58, 32];
    bytes.extend(key);
    // Boot count 1, then the version as one byte.
    bytes.extend([1, 0x18, u8::try_from(version).expect("a small version"), 0x58]);
    bytes.push(u8::try_from(content.len()).expect("a short content"));
    bytes.extend(content);
    bytes
}

fn signed(identity: &Identity, version: u64, content: &[u8]) -> Vec<u8> {
    let key = *identity.public_key().as_bytes();
    let header = RecordHeader { key, boot: BootCount(1), version };
    Record::sign(identity, CHANNEL, &header, body(key, version, content), ()).entry
}

/// Opens entries by their looks alone, so that tests can make tags that collide.
struct Believe;

impl OpenRecord<()> for Believe {
    fn open(&mut self, _channel: Channel, entry: &[u8]) -> Result<Arc<Record<()>>, MergeError> {
        Ok(Arc::new(Record { row: peek(entry)?, content: (), entry: entry.to_vec() }))
    }
}

#[test]
fn the_example_bodies_begin_with_the_header() {
    let key = [7; 32];
    let header = RecordHeader::decode(&body(key, 200, b"beyond")).expect("well-formed");
    assert_eq!(header, RecordHeader { key, boot: BootCount(1), version: 200 });
}

#[test]
fn a_signature_covers_the_channel_and_the_body_as_the_protocol_says() {
    let origin = identity(1);
    let entry = SignedRecord::decode(&signed(&origin, 30, b"content")).expect("well-formed");
    let message = [&[0, 77], entry.body.as_slice()].concat();
    let signature = Signature::from_bytes(entry.signature);
    assert_eq!(origin.public_key().verify("mesh record v1", &message, &signature), Ok(()));
}

#[test]
fn a_record_of_one_channel_is_none_of_another() {
    let origin = identity(1);
    let entry = signed(&origin, 30, b"");
    let mut other = Records::<()>::new(Channel(78), LIMITS);
    assert_eq!(other.merge(&entry, &mut Verify), Err(MergeError::Forged(origin.peer_id())));
    let mut right = Records::<()>::new(CHANNEL, LIMITS);
    assert_eq!(right.merge(&entry, &mut Verify), Ok(Merged::Newer(origin.peer_id())));
}

#[test]
fn what_does_not_fit_is_refused_and_what_replaces_is_weighed_against_what_it_replaces() {
    let mut records = Records::<()>::new(CHANNEL, Limits { len_max: 600, ..LIMITS });
    let origin = identity(1);
    records.merge(&signed(&origin, 30, &[0; 200]), &mut Verify).expect("room for 350 bytes");
    assert_eq!(
        records.merge(&signed(&identity(2), 30, &[0; 200]), &mut Verify),
        Err(MergeError::Full(CHANNEL))
    );
    records.merge(&signed(&origin, 31, &[0; 220]), &mut Verify).expect("the old one makes room");
    assert!(matches!(
        Records::<()>::new(CHANNEL, Limits { entry_len_max: 300, ..LIMITS })
            .merge(&signed(&origin, 30, &[0; 200]), &mut Verify),
        Err(MergeError::TooLong { max: 300, .. })
    ));
    let mut few = Records::<()>::new(CHANNEL, Limits { records_max: 1, ..LIMITS });
    few.merge(&signed(&origin, 30, b""), &mut Verify).expect("the first");
    assert_eq!(few.merge(&signed(&identity(2), 30, b""), &mut Verify), Err(MergeError::Full(CHANNEL)));
    few.retain(|_| false);
    few.merge(&signed(&identity(2), 30, b""), &mut Verify).expect("room again");
}

#[test]
fn summaries_name_the_buckets_that_differ() {
    let (mut here, mut there) = (Records::<()>::new(CHANNEL, LIMITS), Records::<()>::new(CHANNEL, LIMITS));
    for seed in 1..5 {
        let entry = signed(&identity(seed), 30, b"");
        here.merge(&entry, &mut Verify).expect("genuine");
        there.merge(&entry, &mut Verify).expect("genuine");
    }
    assert_eq!(here.differing(&there.summary()), 0);
    there.merge(&signed(&identity(2), 31, b""), &mut Verify).expect("genuine");
    let bucket = 1 << DigestRow::bucket(identity(2).peer_id());
    assert_eq!(here.differing(&there.summary()), u64::MAX, "a root alone says only that something differs");
    assert_eq!(here.differing(&there.summary_in_full()), bucket);
    let digest = there.digest(bucket, true);
    assert!(digest.rows.len() < there.len(), "one bucket is not all");
    let compared = here.compare(&digest, |_| true);
    assert_eq!(compared, Compared { newer_here: vec![], newer_there: bucket });
    let back = there.compare(&here.digest(bucket, false), |_| true);
    assert_eq!(back, Compared { newer_here: vec![identity(2).peer_id()], newer_there: 0 });
}

/// Entries of few origins and numbers: many bear the same number, and some even the same tag.
fn collisions() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let entry = (0..3u8, 30..32u64, 0..2u8, 0..2u8).prop_map(|(origin, version, tag, content)| {
        let mut signature = [0; 64];
        signature[7] = tag;
        SignedRecord { body: body([origin; 32], version, &[content]), signature }.encode()
    });
    proptest::collection::vec(entry, 0..12)
}

fn merged(entries: &[Vec<u8>]) -> Records<()> {
    let mut records = Records::new(CHANNEL, LIMITS);
    for entry in entries {
        records.merge(entry, &mut Believe).expect("well-formed");
    }
    records
}

fn held(records: &Records<()>) -> Vec<Vec<u8>> {
    records.iter().map(|record| record.entry.clone()).collect()
}

proptest! {
    /// In whatever order, however often: the same records are held, also where numbers and tags collide.
    #[test]
    fn merging_is_commutative_associative_and_idempotent((forth, back) in collisions().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))) {
        let once = merged(&forth);
        let again: Vec<_> = back.iter().chain(&forth).cloned().collect();
        prop_assert_eq!(held(&once), held(&merged(&back)));
        prop_assert_eq!(held(&once), held(&merged(&again)));
        // What one has merged is merged into what another has.
        let (left, right) = forth.split_at(forth.len() / 2);
        let of_both: Vec<_> = right.iter().cloned().chain(held(&merged(left))).collect();
        prop_assert_eq!(held(&once), held(&merged(&of_both)));
    }

    /// The hashes that are kept are those that a fresh store of the same records has.
    #[test]
    fn the_buckets_follow_each_change(entries in collisions(), gone in 0..3u8) {
        let mut records = merged(&entries);
        let gone = PublicKey::from_bytes([gone; 32]).peer_id();
        records.retain(|origin| origin != gone);
        let fresh = merged(&held(&records));
        prop_assert_eq!(records.summary_in_full(), fresh.summary_in_full());
        prop_assert_eq!(records.len, fresh.len);
    }

    #[test]
    fn no_bytes_make_a_merge_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut records = Records::<()>::new(CHANNEL, LIMITS);
        prop_assert!(records.merge(&bytes, &mut Verify).is_err());
    }
}
