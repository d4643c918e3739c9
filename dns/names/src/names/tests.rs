use proptest::prelude::*;

use super::*;
use crate::{Answer, ChunkError, Code, ContainerId, Data, Kind, Order, Rng};

const NOW: Moment = Moment::ORIGIN;

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; 16])
}

fn zone() -> Zone {
    Zone {
        domain: "mesh.internal".parse().unwrap(),
        ranges: vec!["10.32.0.0/12".parse().unwrap()],
        ttl: 1,
        negative_ttl: 1,
        servers: Vec::new(),
        order: Order::Shuffled,
    }
}

fn names(me: u8, boot: u64) -> Names {
    Names::new(peer(me), BootCount(boot), zone()).unwrap()
}

fn entry(name: &str, address: &str, container: &str) -> Entry {
    let container: ContainerId = container.parse().unwrap();
    Entry::new(name, address.parse().unwrap(), container, None).unwrap()
}

fn numbered(number: u32) -> Entry {
    let address = IpAddr::from(std::net::Ipv4Addr::from(0x0a20_0000 + number));
    let container = format!("container-{number:08}").parse().unwrap();
    Entry::new(&format!("service-{number}.mesh.internal"), address, container, None).unwrap()
}

/// The first chunk of the first peer.
const FIRST: ChunkKey = ChunkKey { origin: PeerId::from_bytes([1; 16]), index: 0 };

/// What `from` has to say since it was asked last, as it travels.
fn news(from: &mut Names) -> Vec<Chunk> {
    let keys = from.take_changed();
    keys.into_iter().map(|key| Chunk::decode(&from.encode(key).unwrap()).unwrap()).collect()
}

fn give(to: &mut Names, chunks: Vec<Chunk>) {
    for chunk in chunks {
        to.merge(chunk, NOW).unwrap();
    }
}

fn reach(who: &mut Names, peers: &[u8]) {
    who.set_reachable(&peers.iter().copied().map(peer).collect(), NOW);
}

/// What is shown of `origin`.
fn seen_of(origin: u8, names: &Names) -> BTreeSet<Entry> {
    names.entries().filter(|owned| owned.origin == peer(origin)).map(|owned| owned.entry.clone()).collect()
}

fn addresses(names: &mut Names, name: &str) -> Vec<String> {
    let found = names.snapshot().addresses(&name.parse().unwrap()).1;
    found.iter().map(IpAddr::to_string).collect()
}

#[test]
fn an_entry_shows_here_at_once_and_elsewhere_with_its_chunk() {
    let (mut a, mut b) = (names(1, 1), names(2, 1));
    reach(&mut b, &[1]);
    assert_eq!(a.add(entry("web.mesh.internal", "10.32.0.1", "c1")), Ok(true));
    assert_eq!(a.add(entry("web.mesh.internal", "10.32.0.1", "c1")), Ok(false));
    assert_eq!(addresses(&mut a, "web.mesh.internal"), ["10.32.0.1"]);
    give(&mut b, news(&mut a));
    assert_eq!(addresses(&mut b, "WEB.mesh.internal."), ["10.32.0.1"]);

    assert_eq!(
        a.remove(&Selection { container: Some("c1".parse().unwrap()), ..Selection::default() }).len(),
        1
    );
    give(&mut b, news(&mut a));
    assert!(
        addresses(&mut b, "web.mesh.internal").is_empty()
            && addresses(&mut a, "web.mesh.internal").is_empty()
    );
}

#[test]
fn a_selection_takes_only_what_matches_in_everything() {
    let mut a = names(1, 1);
    for (name, address, container) in [
        ("web.mesh.internal", "10.32.0.1", "c1"),
        ("web.mesh.internal", "10.32.0.2", "c2"),
        ("api.mesh.internal", "10.32.0.1", "c1"),
    ] {
        a.add(entry(name, address, container)).unwrap();
    }
    let selection = Selection {
        name: Some("web.mesh.internal".parse().unwrap()),
        address: Some("10.32.0.1".parse().unwrap()),
        container: None,
    };
    assert_eq!(a.remove(&selection), [entry("web.mesh.internal", "10.32.0.1", "c1")]);
    assert_eq!(addresses(&mut a, "web.mesh.internal"), ["10.32.0.2"]);
    assert_eq!(addresses(&mut a, "api.mesh.internal"), ["10.32.0.1"]);
    assert_eq!(a.own_at("10.32.0.1".parse().unwrap()).count(), 1);
}

#[test]
fn names_of_a_peer_that_is_lost_are_hidden_and_return_with_it() {
    let (mut a, mut b) = (names(1, 1), names(2, 1));
    a.add(entry("web.mesh.internal", "10.32.0.1", "c1")).unwrap();
    give(&mut b, news(&mut a));
    assert!(addresses(&mut b, "web.mesh.internal").is_empty(), "a is not known to be there yet");
    reach(&mut b, &[1]);
    assert_eq!(addresses(&mut b, "web.mesh.internal"), ["10.32.0.1"]);
    reach(&mut b, &[]);
    assert!(addresses(&mut b, "web.mesh.internal").is_empty() && b.entries().next().is_none());

    // News that comes meanwhile is kept for its return.
    a.add(entry("api.mesh.internal", "10.32.0.2", "c2")).unwrap();
    give(&mut b, news(&mut a));
    assert!(addresses(&mut b, "api.mesh.internal").is_empty());
    reach(&mut b, &[1]);
    assert_eq!(addresses(&mut b, "api.mesh.internal"), ["10.32.0.2"]);
}

#[test]
fn a_name_of_two_peers_keeps_the_others_address_when_one_is_lost() {
    let (mut a, mut b, mut c) = (names(1, 1), names(2, 1), names(3, 1));
    reach(&mut c, &[1, 2]);
    a.add(entry("web.mesh.internal", "10.32.0.1", "c1")).unwrap();
    b.add(entry("web.mesh.internal", "10.32.0.2", "c2")).unwrap();
    // The same address twice, as after a move from one host to another.
    b.add(entry("web.mesh.internal", "10.32.0.1", "c1")).unwrap();
    give(&mut c, news(&mut a));
    give(&mut c, news(&mut b));
    assert_eq!(addresses(&mut c, "web.mesh.internal"), ["10.32.0.1", "10.32.0.2"]);
    reach(&mut c, &[1]);
    assert_eq!(addresses(&mut c, "web.mesh.internal"), ["10.32.0.1"]);
    reach(&mut c, &[2]);
    assert_eq!(addresses(&mut c, "web.mesh.internal"), ["10.32.0.1", "10.32.0.2"]);
}

#[test]
fn older_news_changes_nothing() {
    let (mut a, mut b) = (names(1, 1), names(2, 1));
    reach(&mut b, &[1]);
    a.add(entry("web.mesh.internal", "10.32.0.1", "c1")).unwrap();
    let first = news(&mut a);
    a.remove(&Selection::default());
    let second = news(&mut a);
    give(&mut b, second);
    let key = first[0].key();
    assert_eq!(b.merge(first[0].clone(), NOW), Ok(Merged::Known(key)));
    assert!(addresses(&mut b, "web.mesh.internal").is_empty());
}

#[test]
fn a_later_life_replaces_the_set_of_the_earlier_one_though_it_has_counted_less() {
    let (mut first_life, mut b) = (names(1, 1), names(2, 1));
    reach(&mut b, &[1]);
    for number in 0..20 {
        first_life.add(numbered(number)).unwrap();
    }
    give(&mut b, news(&mut first_life));
    let mut second_life = names(1, 2);
    give(&mut b, news(&mut second_life));
    assert_eq!(b.entries().count(), 0, "an empty set is news of a later life");
}

#[test]
fn a_router_outruns_a_ghost_of_itself() {
    let mut ghost = names(1, 5);
    for number in 0..20 {
        ghost.add(numbered(number)).unwrap();
    }
    let mut a = names(1, 1);
    a.add(entry("web.mesh.internal", "10.32.0.1", "c1")).unwrap();
    news(&mut a);
    let ghosts = news(&mut ghost);
    assert_eq!(a.merge(ghosts[0].clone(), NOW), Ok(Merged::Ghost));

    let mut b = names(2, 1);
    reach(&mut b, &[1]);
    give(&mut b, ghosts.clone());
    give(&mut b, news(&mut a));
    assert_eq!(seen_of(1, &b), seen_of(1, &a));
    assert_eq!(a.merge(ghosts[0].clone(), NOW), Ok(Merged::Known(ghosts[0].key())), "it is outrun once");
    let echo = Chunk::decode(&a.encode(ghosts[0].key()).unwrap()).unwrap();
    assert!(!a.is_news(&echo), "its own words are no ghost");
}

#[test]
fn a_large_set_is_cut_and_shown_only_when_all_of_it_is_there() {
    let (mut a, mut b) = (names(1, 1), names(2, 1));
    reach(&mut b, &[1]);
    for number in 0..100 {
        a.add(numbered(number)).unwrap();
    }
    give(&mut b, news(&mut a));
    let small = seen_of(1, &b);
    assert_eq!(small.len(), 100);

    for number in 100..u32::try_from(ORIGIN_ENTRIES_MAX).unwrap() {
        a.add(numbered(number)).unwrap();
    }
    assert_eq!(a.add(numbered(99_999)), Err(AddError::Full));
    let mut large = news(&mut a);
    assert!(large.len() > 4, "{} chunks", large.len());
    let longest = large.iter().map(|chunk| chunk.encode().len()).max().unwrap();
    assert!(longest <= crate::CHUNK_LEN_MAX, "{longest} bytes");
    let last = large.pop().unwrap();
    give(&mut b, large);
    assert_eq!(seen_of(1, &b), small, "half of the larger set is not shown");
    give(&mut b, vec![last]);
    assert_eq!(seen_of(1, &b).len(), ORIGIN_ENTRIES_MAX);

    a.add(entry("one-more.mesh.internal", "10.32.0.1", "c1")).unwrap_err();
    a.remove(&Selection { name: Some(numbered(7).name().clone()), ..Selection::default() });
    let change = news(&mut a);
    assert_eq!(change.len(), 1, "a change sends one chunk");
    give(&mut b, change);
    assert_eq!(seen_of(1, &b).len(), ORIGIN_ENTRIES_MAX - 1);
}

#[test]
fn a_set_that_shrinks_is_never_shown_half() {
    let (mut a, mut b) = (names(1, 1), names(2, 1));
    reach(&mut b, &[1]);
    for number in 0..5_000 {
        a.add(numbered(number)).unwrap();
    }
    give(&mut b, news(&mut a));
    let keep = numbered(3);
    let all: Vec<Entry> = seen_of(1, &a).into_iter().filter(|entry| *entry != keep).collect();
    for entry in &all {
        a.remove(&Selection { name: Some(entry.name().clone()), ..Selection::default() });
    }
    let shrunk = news(&mut a);
    assert_eq!(shrunk.len(), 1, "a small set is one chunk again");
    give(&mut b, shrunk);
    assert_eq!(seen_of(1, &b), BTreeSet::from([keep]));
    assert_eq!(b.number(ChunkKey { origin: peer(1), index: 1 }), None, "what a store may drop is told");
    assert!(b.number(ChunkKey { origin: peer(1), index: 0 }).is_some());
}

#[test]
fn many_entries_of_one_name_stay_in_one_chunk_and_are_refused_when_it_is_full() {
    let mut a = names(1, 1);
    let mut added = 0_u32;
    loop {
        let address = IpAddr::from(std::net::Ipv4Addr::from(0x0a20_0000 + added));
        let one = Entry::new("web.mesh.internal", address, "c".repeat(100).parse().unwrap(), None).unwrap();
        if a.add(one).is_err() {
            break;
        }
        added += 1;
    }
    assert!((300..1_000).contains(&added), "{added}");
    for chunk in news(&mut a) {
        assert!(chunk.encode().len() <= crate::CHUNK_LEN_MAX);
    }
}

#[test]
fn a_digest_repairs_what_was_lost_and_offers_nothing_that_is_out_of_reach() {
    let (mut a, mut b, mut c) = (names(1, 1), names(2, 1), names(3, 1));
    reach(&mut b, &[1, 3]);
    reach(&mut c, &[1, 2]);
    for number in 0..3_000 {
        a.add(numbered(number)).unwrap();
    }
    give(&mut b, news(&mut a));
    let comparison = b.compare(&c.digest());
    assert!(comparison.newer_here.iter().any(|key| key.origin == peer(1)) && comparison.newer_there);
    // b relays what it was given; a's own bytes stand for its store here.
    for key in comparison.newer_here.iter().filter(|key| key.origin == peer(1)) {
        give(&mut c, vec![Chunk::decode(&a.encode(*key).unwrap()).unwrap()]);
    }
    assert_eq!(seen_of(1, &c), seen_of(1, &a));
    give(&mut c, news(&mut b));
    give(&mut b, news(&mut c));
    assert_eq!(b.compare(&c.digest()), Comparison { newer_here: Vec::new(), newer_there: false });

    let d = names(4, 1);
    reach(&mut b, &[3]);
    assert!(!b.compare(&d.digest()).newer_here.iter().any(|key| key.origin == peer(1)));
}

#[test]
fn a_hidden_set_is_forgotten_with_its_peer_and_when_room_is_needed() {
    let (mut a, mut b) = (names(1, 1), names(2, 1));
    reach(&mut b, &[1]);
    a.add(numbered(1)).unwrap();
    give(&mut b, news(&mut a));
    reach(&mut b, &[]);
    let key = ChunkKey { origin: peer(1), index: 0 };
    b.retain(|origin| origin == peer(1));
    assert!(b.number(key).is_some());
    b.retain(|_| false);
    assert!(b.number(key).is_none());

    for origin in 10..19 {
        let mut full = names(origin, 1);
        for number in 0..u32::try_from(ORIGIN_ENTRIES_MAX).unwrap() {
            full.add(numbered(number)).unwrap();
        }
        if origin == 10 {
            reach(&mut b, &[]);
        }
        give(&mut b, news(&mut full));
    }
    assert_eq!(b.load.entries, OTHERS_ENTRIES_MAX);
    b.set_reachable(&(11..19).map(peer).collect(), NOW);
    give(
        &mut b,
        news(&mut {
            a.add(numbered(2)).unwrap();
            a
        }),
    );
    assert!(b.number(ChunkKey { origin: peer(10), index: 0 }).is_none(), "the hidden set made room");
    reach(&mut b, &[1, 11, 12, 13, 14, 15, 16, 17, 18]);

    let mut more = names(30, 1);
    for number in 0..u32::try_from(ORIGIN_ENTRIES_MAX).unwrap() {
        more.add(numbered(number)).unwrap();
    }
    let refused = news(&mut more).into_iter().map(|chunk| b.merge(chunk, NOW)).filter(Result::is_err).count();
    assert!(refused > 0 && b.load.entries <= OTHERS_ENTRIES_MAX);
    assert_eq!(b.add(numbered(1)), Ok(true), "room is kept for a router's own names");
}

#[test]
fn empty_chunks_do_not_fill_digests() {
    let refused_of = |b: &mut Names, origin| {
        let layout = crate::chunk::Layout { boot: BootCount(1), since: 1, depth: crate::DEPTH_MAX };
        let empty = |index| Chunk::new(peer(origin), layout, index, 1, BTreeSet::new());
        (0..1 << crate::DEPTH_MAX).filter(|index| b.merge(empty(*index), NOW).is_err()).count()
    };
    let (mut b, mut c) = (names(2, 1), names(2, 1));
    c.set_reachable(&(3..=255).map(peer).collect(), NOW);
    let hidden: usize = (3..=255).map(|origin| refused_of(&mut b, origin)).sum();
    let shown: usize = (3..=255).map(|origin| refused_of(&mut c, origin)).sum();
    assert_eq!(hidden, 0, "those that nobody can reach make room");
    assert_eq!(shown, 253 * (1 << crate::DEPTH_MAX) - CHUNKS_MAX);
    assert!(b.digest().len() <= CHUNKS_MAX + 1 && c.digest().len() <= CHUNKS_MAX + 1);
}

#[test]
fn a_snapshot_does_not_change_and_is_the_same_until_something_does() {
    let mut a = names(1, 1);
    a.add(entry("web.mesh.internal", "10.32.0.1", "c1")).unwrap();
    let (first, again) = (a.snapshot(), a.snapshot());
    assert!(Arc::ptr_eq(&first, &again));
    a.remove(&Selection::default());
    assert_eq!(first.addresses(&"web.mesh.internal".parse().unwrap()).1.len(), 1);
    assert!(addresses(&mut a, "web.mesh.internal").is_empty());
}

#[test]
fn names_outside_the_domain_travel_but_are_not_answered() {
    let (mut a, mut b) = (names(1, 1), names(2, 1));
    reach(&mut b, &[1]);
    a.add(entry("www.example.com", "10.32.0.1", "c1")).unwrap();
    give(&mut b, news(&mut a));
    assert_eq!(seen_of(1, &b).len(), 1);
    let mut rng = Rng::from_seed([0; 32]);
    let snapshot = b.snapshot();
    assert_eq!(snapshot.answer(&"www.example.com".parse().unwrap(), Kind::A, &mut rng), Answer::NotOurs);
    let Answer::Ours(reply) =
        snapshot.answer(&"1.0.32.10.in-addr.arpa".parse().unwrap(), Kind::Ptr, &mut rng)
    else {
        panic!("a range of ours");
    };
    assert_eq!(reply.code, Code::NoSuchName);
}

#[test]
fn bytes_that_are_no_chunk_are_told_apart() {
    let mut a = names(1, 1);
    a.add(numbered(1)).unwrap();
    let good = a.encode(FIRST).unwrap();
    for len in 0..good.len() {
        assert_eq!(Chunk::decode(&good[..len]), Err(ChunkError::Malformed), "{len}");
    }
    assert_eq!(Chunk::decode(&[&good[..], &[0]].concat()), Err(ChunkError::Malformed));
    assert_eq!(Chunk::decode(&vec![0; 70_000]), Err(ChunkError::TooLong(70_000)));

    let of = |boot, since, depth, index, version, entries: &[u32]| {
        let layout = crate::chunk::Layout { boot: BootCount(boot), since, depth };
        let entries = entries.iter().map(|number| numbered(*number)).collect();
        Chunk::decode(&Chunk::new(peer(1), layout, index, version, entries).encode())
            .map(|chunk| chunk.key().index)
    };
    let right = crate::chunk::index_of(&numbered(1), 2);
    assert_eq!(of(1, 1, 2, right, 1, &[1]), Ok(right));
    assert_eq!(of(1, 1, 2, right ^ 1, 1, &[1]), Err(ChunkError::Inconsistent), "an entry in another's place");
    assert_eq!(of(1, 1, 2, 4, 1, &[]), Err(ChunkError::Inconsistent), "a chunk beyond the last");
    assert_eq!(of(1, 2, 0, 0, 1, &[]), Err(ChunkError::Inconsistent), "a chunk older than its layout");
    assert_eq!(of(1, 1, crate::DEPTH_MAX + 1, 0, 1, &[]), Err(ChunkError::Inconsistent), "too many chunks");
}

/// How many entries a step adds or takes.
const BLOCK: u32 = 45;

/// An edit of an origin's set, or its restart.
#[derive(Debug, Clone)]
enum Step {
    Add(u32),
    Remove(u32),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0_u32..30).prop_map(Step::Add),
        8 => (0_u32..30).prop_map(Step::Remove),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

/// Every chunk that the origin ever sent while it went through `steps`, and its last set. Four steps fill a chunk,
/// so that layouts of different depth meet.
fn history(steps: &[Step]) -> (Vec<Chunk>, BTreeSet<Entry>) {
    let mut boot = 1;
    let mut origin = names(1, boot);
    let mut sent = Vec::new();
    for step in steps {
        match step {
            Step::Add(number) => {
                for one in block(*number) {
                    origin.add(one).unwrap();
                }
            }
            Step::Remove(number) => {
                for one in block(*number) {
                    let name = Some(one.name().clone());
                    origin.remove(&Selection { name, ..Selection::default() });
                }
            }
            Step::Restart => {
                boot += 1;
                origin = names(1, boot);
            }
        }
        sent.extend(news(&mut origin));
    }
    let last = origin.own.entries().cloned().collect();
    (sent, last)
}

/// Some long entries.
fn block(number: u32) -> impl Iterator<Item = Entry> {
    (number * BLOCK..(number + 1) * BLOCK).map(bulky)
}

fn bulky(number: u32) -> Entry {
    let label = "x".repeat(50);
    let name = format!("s{number}.{label}.{label}.{label}.mesh.internal");
    let address = IpAddr::from(std::net::Ipv4Addr::from(0x0a20_0000 + number));
    Entry::new(&name, address, "c".repeat(120).parse().unwrap(), None).unwrap()
}

/// Everything that can be seen of `names`, answers included.
fn view(names: &mut Names) -> (Vec<DigestRow>, BTreeSet<Entry>, Vec<Vec<IpAddr>>) {
    let theirs = |row: &DigestRow| row.key.origin == peer(1);
    let digest = names.digest().into_iter().filter(theirs).collect();
    let snapshot = names.snapshot();
    let answers = (0..30 * BLOCK).map(|number| snapshot.addresses(bulky(number).name()).1).collect();
    (digest, seen_of(1, names), answers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Commutative, associative, idempotent: whatever arrives in whatever order, and however often, the last set shows.
    #[test]
    fn merging_ends_in_the_last_set_whatever_the_order(
        steps in steps(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        flips in prop::collection::vec(any::<bool>(), 8),
    ) {
        let (sent, last) = history(&steps);
        let mut in_order = names(2, 1);
        let mut shuffled = names(2, 1);
        reach(&mut in_order, &[1]);
        for chunk in &sent {
            in_order.merge(chunk.clone(), NOW).unwrap();
        }
        for (index, flip) in order.iter().zip(flips.iter().cycle()) {
            shuffled.merge(index.get(&sent).clone(), NOW).unwrap();
            reach(&mut shuffled, if *flip { &[1] } else { &[] });
        }
        for chunk in sent.iter().rev().chain(&sent) {
            shuffled.merge(chunk.clone(), NOW).unwrap();
        }
        reach(&mut shuffled, &[1]);
        prop_assert_eq!(&seen_of(1, &in_order), &last);
        prop_assert_eq!(view(&mut in_order), view(&mut shuffled));
        prop_assert_eq!(in_order.load, shuffled.load);
        prop_assert_eq!(in_order.load.entries, last.len());
    }

    /// Nothing is shown that the origin never had at one time, but chunk by chunk of one layout.
    #[test]
    fn a_name_is_never_torn(steps in steps(), cut in any::<prop::sample::Index>()) {
        let (sent, _) = history(&steps);
        let mut here = names(2, 1);
        reach(&mut here, &[1]);
        for chunk in &sent[..cut.index(sent.len())] {
            here.merge(chunk.clone(), NOW).unwrap();
            let shown = here.others[&peer(1)].shown().map(Chunk::entry_count).sum::<usize>();
            prop_assert_eq!(seen_of(1, &here).len(), shown);
        }
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Chunk::decode(&bytes).is_err() || !bytes.is_empty());
    }

    /// A number may be written longer than need be, and a name in capitals: what is read is written in one way.
    #[test]
    fn a_chunk_with_a_changed_byte_is_refused_or_read_alike_by_all(position in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut a = names(1, 1);
        for number in 0..5 {
            a.add(numbered(number)).unwrap();
        }
        let mut bytes = a.encode(FIRST).unwrap();
        let at = position.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(chunk) = Chunk::decode(&bytes) {
            prop_assert_eq!(Chunk::decode(&chunk.encode()), Ok(chunk));
        }
    }

    /// The index, kept by adding and taking out, equals one that is built anew.
    #[test]
    fn answers_follow_the_sets(steps in steps()) {
        let mut a = names(1, 1);
        let mut naive: BTreeSet<Entry> = BTreeSet::new();
        for step in &steps {
            match step {
                Step::Add(number) => {
                    a.add(numbered(*number)).unwrap();
                    naive.insert(numbered(*number));
                }
                Step::Remove(number) => {
                    a.remove(&Selection { address: Some(numbered(*number).address()), ..Selection::default() });
                    naive.remove(&numbered(*number));
                }
                Step::Restart => {}
            }
            let snapshot = a.snapshot();
            let mut rng = Rng::from_seed([0; 32]);
            for number in 0..30 {
                let one = numbered(number);
                let expected = naive.contains(&one);
                prop_assert_eq!(snapshot.addresses(one.name()).1.len(), usize::from(expected));
                let (reverse, _) = a.zone.reverse(one.address()).unwrap();
                let Answer::Ours(reply) = snapshot.answer(&reverse, Kind::Ptr, &mut rng) else { panic!("ours") };
                let pointer = reply.answers.contains(&Data::Ptr(one.name().clone()));
                prop_assert_eq!(pointer, expected);
            }
        }
    }
}
