use proptest::prelude::*;

use mesh_crypto::Rng;
use mesh_wire::control::SignedRecord;

use super::*;
use crate::records::Compared;

fn identity(seed: u8) -> Identity {
    Identity::generate(&mut Rng::from_seed([seed; 32]))
}

fn topology(identity: &Identity) -> Topology {
    Topology::new(identity, BootCount(1), "h".parse().expect("a letter"), 6783, 1)
}

fn link(peer: PeerId) -> LinkRecord {
    LinkRecord {
        distance: 0,
        overlay: 1,
        peer,
        address: "192.0.2.1:6783".parse().expect("a literal"),
        outbound: true,
        established: true,
    }
}

fn own_entry(topology: &Topology) -> Vec<u8> {
    topology.entry(topology.me()).expect("own record").to_vec()
}

fn compare(here: &Topology, there: &Topology) -> Compared {
    let digest = there.store().digest(u64::MAX, false);
    here.store().compare(&digest, |origin| here.reaches(origin))
}

#[test]
fn a_newer_record_replaces_an_older_one_and_never_the_other_way_round() {
    let (a, b) = (identity(1), identity(2));
    let mut there = topology(&b);
    let first = own_entry(&there);
    there.publish(&b, vec![link(a.peer_id())]);
    let second = own_entry(&there);

    let mut here = topology(&a);
    assert_eq!(here.merge(&second), Ok(Merged::Newer(b.peer_id())));
    assert_eq!(here.merge(&first), Ok(Merged::Known(b.peer_id())));
    assert_eq!(here.merge(&second), Ok(Merged::Known(b.peer_id())));
    assert_eq!(here.entry(b.peer_id()), Some(second.as_slice()));
}

#[test]
fn publishing_the_same_links_again_says_nothing_new() {
    let (a, b, c) = (identity(1), identity(2).peer_id(), identity(3).peer_id());
    let mut here = topology(&a);
    assert!(here.publish(&a, vec![link(b), link(c)]));
    assert!(!here.publish(&a, vec![link(c), link(b)]));
    assert_eq!(here.own().version, 2);
}

#[test]
fn a_record_that_its_origin_did_not_sign_is_refused() {
    let (a, b) = (identity(1), identity(2));
    let mut here = topology(&a);
    let there = topology(&b);
    let mut signed = SignedRecord::decode(&own_entry(&there)).expect("own record");
    let mut record = PeerRecord::decode(&signed.body).expect("own record");
    record.version += 1;
    signed.body = record.encode();
    assert_eq!(here.merge(&signed.encode()), Err(MergeError::Forged(b.peer_id())));
    assert_eq!(here.record(b.peer_id()), None);
}

#[test]
fn a_ghost_of_an_earlier_life_is_outrun() {
    let a = identity(1);
    let mut ghost = Topology::new(&a, BootCount(7), "h".parse().expect("a letter"), 6783, 1);
    ghost.publish(&a, vec![link(identity(2).peer_id())]);
    let ghost = own_entry(&ghost);

    let mut here = topology(&a);
    assert_eq!(here.merge(&ghost), Ok(Merged::Ghost(Ghost { boot: BootCount(7), version: 2, nonce: 1 })));
    here.outrun(&a, &Ghost { boot: BootCount(7), version: 2, nonce: 1 });
    assert_eq!(here.merge(&ghost), Ok(Merged::Known(a.peer_id())));
    assert_eq!(here.own().links, vec![]);

    let mut elsewhere = topology(&identity(3));
    elsewhere.merge(&ghost).expect("a genuine record");
    assert_eq!(elsewhere.merge(&own_entry(&here)), Ok(Merged::Newer(a.peer_id())));
}

#[test]
fn two_records_with_one_number_end_as_one_everywhere_and_their_origin_outruns_both() {
    let a = identity(1);
    let (mut first, mut second) = (topology(&a), topology(&a));
    first.publish(&a, vec![link(identity(2).peer_id())]);
    second.publish(&a, vec![link(identity(3).peer_id())]);
    let entries = [own_entry(&first), own_entry(&second)];
    let mut in_order = topology(&identity(8));
    let mut reversed = topology(&identity(9));
    for (forth, back) in entries.iter().zip(entries.iter().rev()) {
        in_order.merge(forth).expect("genuine");
        reversed.merge(back).expect("genuine");
    }
    assert_eq!(in_order.entry(a.peer_id()), reversed.entry(a.peer_id()));
    let lesser = entries.iter().find(|entry| in_order.entry(a.peer_id()) != Some(entry.as_slice()));
    let mut behind = topology(&identity(7));
    behind.merge(lesser.expect("two entries, one kept")).expect("genuine");
    assert_ne!(compare(&behind, &in_order).newer_there, 0, "digests show the difference");

    for (own, other) in [(&mut first, &entries[1]), (&mut second, &entries[0])] {
        let Ok(Merged::Ghost(ghost)) = own.merge(other) else { panic!("not noticed") };
        own.outrun(&a, &ghost);
        assert_eq!(in_order.merge(&own_entry(own)).map(|_| ()), Ok(()));
        assert_eq!(own.merge(other), Ok(Merged::Known(a.peer_id())));
    }
}

#[test]
fn whom_lists_of_connections_reach_is_reachable_and_who_is_forgotten_is_unknown() {
    let (a, b, c) = (identity(1), identity(2), identity(3));
    let (mut here, mut of_b, of_c) = (topology(&a), topology(&b), topology(&c));
    of_b.publish(&b, vec![link(c.peer_id())]);
    here.publish(&a, vec![link(b.peer_id())]);
    here.merge(&own_entry(&of_b)).expect("genuine");
    here.merge(&own_entry(&of_c)).expect("genuine");
    assert_eq!(*here.cut_off(), BTreeSet::new());
    assert!(here.reaches(c.peer_id()) && !here.reaches(identity(4).peer_id()));

    here.publish(&a, vec![]);
    assert_eq!(*here.cut_off(), BTreeSet::from([b.peer_id(), c.peer_id()]));
    here.forget(&BTreeSet::from([a.peer_id(), b.peer_id(), c.peer_id()]));
    assert_eq!(here.records().map(|(peer, _)| peer).collect::<Vec<_>>(), vec![a.peer_id()]);
}

#[test]
fn what_is_about_to_be_forgotten_is_not_handed_on() {
    let (a, b, c) = (identity(1), identity(2), identity(3));
    let (mut here, there) = (topology(&a), topology(&b));
    here.merge(&own_entry(&topology(&c))).expect("genuine");
    assert_eq!(compare(&here, &there).newer_here, vec![a.peer_id()]);
}

#[test]
fn who_is_known_has_a_number_that_changes_with_it() {
    let (a, b) = (identity(1), identity(2));
    let (mut here, mut there) = (topology(&a), topology(&b));
    let alone = here.members();
    here.merge(&own_entry(&there)).expect("genuine");
    let both = here.members();
    assert_ne!(both, alone);
    there.publish(&b, vec![link(a.peer_id())]);
    here.merge(&own_entry(&there)).expect("genuine");
    assert_eq!(here.members(), both);
    here.forget(&BTreeSet::from([b.peer_id()]));
    assert_ne!(here.members(), both);
}

#[test]
fn comparing_digests_finds_what_each_side_lacks() {
    let (a, b) = (identity(1), identity(2));
    let (mut here, mut there) = (topology(&a), topology(&b));
    here.publish(&a, vec![link(b.peer_id())]);
    let bucket = |identity: &Identity| 1 << DigestRow::bucket(identity.peer_id());
    let compared = compare(&here, &there);
    assert_eq!(compared, Compared { newer_here: vec![a.peer_id()], newer_there: bucket(&b) });
    here.merge(&own_entry(&there)).expect("genuine");
    there.merge(&own_entry(&here)).expect("genuine");
    assert_eq!(compare(&here, &there), Compared { newer_here: vec![], newer_there: 0 });
    there.publish(&b, vec![link(a.peer_id())]);
    assert_eq!(compare(&here, &there), Compared { newer_here: vec![], newer_there: bucket(&b) });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Merge is a maximum: any order, any repetition, gives the same state.
    #[test]
    fn the_order_in_which_records_come_does_not_matter(order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(), again in proptest::collection::vec(0..12usize, 0..8)) {
        let origins = [identity(1), identity(2), identity(3)];
        let mut entries = Vec::new();
        for origin in &origins {
            let mut topology = topology(origin);
            for n in 0..4u8 {
                topology.publish(origin, vec![link(PeerId::from_bytes([n; 16]))]);
                entries.push(own_entry(&topology));
            }
        }
        let mut in_order = topology(&identity(9));
        let mut shuffled = topology(&identity(9));
        for entry in &entries {
            in_order.merge(entry).expect("genuine");
        }
        for at in order.iter().chain(&again) {
            shuffled.merge(&entries[*at]).expect("genuine");
        }
        prop_assert_eq!(in_order.store().summary_in_full(), shuffled.store().summary_in_full());
        for origin in &origins {
            prop_assert_eq!(in_order.entry(origin.peer_id()), shuffled.entry(origin.peer_id()));
        }
    }

    /// What is carried on from change to change is what a search from scratch finds.
    #[test]
    fn whom_lists_reach_is_carried_on_rightly(changes in proptest::collection::vec((0..6usize, proptest::collection::vec(0..6usize, 0..4)), 1..40)) {
        let identities: Vec<_> = (0..6).map(identity).collect();
        let mut topologies: Vec<_> = identities.iter().map(topology).collect();
        for (at, neighbours) in changes {
            let links = neighbours.iter().map(|n| link(identities[*n].peer_id())).collect();
            topologies[at].publish(&identities[at], links);
            let entry = own_entry(&topologies[at]);
            let here = &mut topologies[0];
            here.merge(&entry).expect("genuine");
            prop_assert_eq!(here.reached(), &Reach::search(&here.records, here.me));
            if at == 5 {
                let gone: BTreeSet<_> = here.cut_off().iter().copied().take(neighbours.len()).collect();
                here.forget(&gone);
                prop_assert_eq!(here.reached(), &Reach::search(&here.records, here.me));
            }
        }
    }

    #[test]
    fn no_entry_makes_a_merge_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut here = topology(&identity(1));
        let _outcome = here.merge(&bytes);
        prop_assert_eq!(here.records().count(), 1);
    }
}
