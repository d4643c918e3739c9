//! The laws of the lattice, against a naive array, and of messages. Few ids, few epochs and few addresses, so that records collide.

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::{NetworkId, PeerId};
use proptest::prelude::*;

use crate::addr::Addr;
use crate::custody::{Custody, Shift};
use crate::epoch::{Epoch, Rec};
use crate::ipam::telling::{Unfinished, parts};
use crate::map::{CustodyMap, Run};
use crate::message::{
    DecodeError, Denial, Deny, Envelope, Hint, MESSAGE_LEN_MAX, Message, Part, Tell, VERSION,
};
use crate::mutant::{Mutant, Mutants};
use crate::range::Range;
use crate::state::Life;
use crate::view::{Member, PART_ENTRIES_MAX, View};

const ADDRESSES: u8 = 8;

type Naive = [Option<Rec>; ADDRESSES as usize];

pub(super) fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; PeerId::LEN])
}

fn rec() -> impl Strategy<Value = Rec> {
    (0..2_u32, 1..3_u64, 0..3_u8, 0..3_u8).prop_map(|(generation, number, owner, donor)| Rec {
        epoch: Epoch { generation, number },
        owner: peer(owner),
        donor: peer(donor),
    })
}

fn run() -> impl Strategy<Value = Run> {
    (0..ADDRESSES, 0..ADDRESSES, rec()).prop_map(|(a, b, rec)| Run {
        range: Range::new(Addr(a.min(b).into()), Addr(a.max(b).into())).unwrap(),
        rec,
    })
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    prop::collection::vec(run(), 0..6)
}

fn view() -> impl Strategy<Value = View> {
    let member = any::<bool>().prop_map(|admitted| Member { admitted, nickname: "n".parse().unwrap() });
    let roster = prop::collection::btree_map((0..4_u8).prop_map(peer), member, 0..4);
    let retired = prop::collection::btree_set((0..4_u8).prop_map(peer), 0..3);
    (runs(), roster, retired).prop_map(|(runs, roster, retired)| View { runs, roster, retired })
}

fn naive(runs: &[Run]) -> Naive {
    let mut array = Naive::default();
    for run in runs {
        for addr in run.range.first().0..=run.range.last().0 {
            let cell = &mut array[usize::try_from(addr).unwrap()];
            *cell = (*cell).max(Some(run.rec));
        }
    }
    array
}

fn map_of(runs: &[Run]) -> CustodyMap {
    let mut map = CustodyMap::new();
    runs.iter().for_each(|run| drop(map.merge(*run)));
    map
}

fn array_of(map: &CustodyMap) -> Naive {
    std::array::from_fn(|addr| map.get(Addr(addr as u128)))
}

fn learned(views: &[&View]) -> Custody {
    let mut custody = Custody::new(peer(0), Mutants::default());
    views.iter().for_each(|view| drop(custody.learn(view)));
    custody
}

/// The part of custody that is shared: which of one's own grants are active depends on the order of news.
fn shared(custody: &Custody) -> (View, BTreeMap<PeerId, Member>, BTreeSet<PeerId>) {
    (custody.view(), custody.roster().clone(), custody.retired().clone())
}

proptest! {
    #[test]
    fn a_map_equals_the_naive_array(runs in runs()) {
        prop_assert_eq!(array_of(&map_of(&runs)), naive(&runs));
    }

    #[test]
    fn runs_are_as_few_as_can_be(runs in runs()) {
        let map = map_of(&runs);
        let all: Vec<Run> = map.iter().collect();
        for two in all.windows(2) {
            let touch = two[0].range.last().next() == Some(two[1].range.first());
            prop_assert!(two[0].range.last() < two[1].range.first());
            prop_assert!(!touch || two[0].rec != two[1].rec);
        }
        prop_assert_eq!(map.len(), all.len());
    }

    #[test]
    fn changes_say_exactly_what_a_merge_changed(runs in runs(), run in run()) {
        let mut map = map_of(&runs);
        let before = array_of(&map);
        let changes = map.merge(run);
        let after = array_of(&map);
        for addr in 0..u128::from(ADDRESSES) {
            let at = usize::try_from(addr).unwrap();
            let change = changes.iter().find(|change| change.range.contains(Addr(addr)));
            prop_assert_eq!(change.is_some(), before[at] != after[at]);
            if let Some(change) = change {
                prop_assert_eq!((change.old, Some(change.new)), (before[at], after[at]));
            }
        }
    }

    #[test]
    fn merge_is_commutative(a in view(), b in view()) {
        prop_assert_eq!(shared(&learned(&[&a, &b])), shared(&learned(&[&b, &a])));
    }

    #[test]
    fn merge_is_associative(a in view(), b in view(), c in view()) {
        let ab = learned(&[&a, &b]).view();
        let bc = learned(&[&b, &c]).view();
        prop_assert_eq!(shared(&learned(&[&ab, &c])), shared(&learned(&[&a, &bc])));
    }

    #[test]
    fn merge_is_idempotent_and_inflationary(a in view(), b in view()) {
        let once = learned(&[&a, &b]);
        let mut twice = once.clone();
        let shift = twice.learn(&b);
        prop_assert_eq!(&once, &twice);
        prop_assert!(shift.is_empty());
        let before = learned(&[&a]);
        for addr in (0..u128::from(ADDRESSES)).map(Addr) {
            prop_assert!(before.map().get(addr) <= once.map().get(addr));
        }
        prop_assert!(once.retired().is_superset(before.retired()));
    }

    #[test]
    fn news_is_what_learning_changes(a in view(), b in view()) {
        let mut custody = learned(&[&a]);
        let news = custody.news(&b);
        let mut by_news = custody.clone();
        by_news.learn(&news);
        let before = custody.clone();
        custody.learn(&b);
        prop_assert_eq!(&by_news, &custody);
        prop_assert_eq!(news.is_empty(), before.view() == custody.view());
        prop_assert!(custody.news(&b).is_empty());
    }

    #[test]
    fn active_addresses_are_mine_and_follow_the_shifts(views in prop::collection::vec(view(), 1..5)) {
        let mut custody = Custody::new(peer(0), Mutants::default());
        let mut active = crate::range::RangeSet::new();
        for view in &views {
            for shift in custody.learn(view) {
                match shift {
                    Shift::Gained(range) => active.insert(range),
                    Shift::Lost(range) => active.remove(range),
                }
            }
            prop_assert_eq!(&active, &custody.active());
            for addr in (0..u128::from(ADDRESSES)).map(Addr) {
                prop_assert_eq!(active.contains(addr), custody.is_active(addr));
            }
        }
    }
}

#[test]
fn keeping_ones_own_at_a_tie_is_no_lattice() {
    let view = |owner| {
        let rec = Rec { epoch: Epoch::FIRST, owner: peer(owner), donor: peer(owner) };
        View { runs: vec![Run { range: Range::single(Addr(0)), rec }], ..View::default() }
    };
    let learned = |mutants, order: [u8; 2]| {
        let mut custody = Custody::new(peer(0), mutants);
        order.into_iter().for_each(|owner| drop(custody.learn(&view(owner))));
        custody.view()
    };
    let tie = Mutants::only(Mutant::TieKeepsMine);
    assert_ne!(learned(tie, [1, 2]), learned(tie, [2, 1]), "the mistake is found");
    assert_eq!(learned(Mutants::default(), [1, 2]), learned(Mutants::default(), [2, 1]));
}

proptest! {
    #[test]
    fn whatever_is_read_as_a_message_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), plain in any::<bool>()) {
        if plain {
            bytes.splice(0..bytes.len().min(2), [0x84, 1]);
        }
        drop(Envelope::decode(&bytes));
    }

    #[test]
    fn a_message_survives_the_way_to_bytes_and_back_and_no_part_of_it_is_one(view in view(), whole in any::<bool>(), cut in any::<prop::sample::Index>()) {
        let part = whole.then_some(Part { number: 7, index: 2, count: 3 });
        let range = Range::new(Addr(0), Addr(7)).unwrap();
        let tell = Tell { range, part, view, inactive: vec![range], hint: Hint { free: 1, held: 2 } };
        let life = Life { incarnation: u64::MAX, born: 3, seq: 4 };
        let network = Some(NetworkId::from_bytes([9; 16]));
        let envelope = Envelope { version: VERSION, life, network, message: Message::Tell(tell) };
        let bytes = envelope.encode();
        prop_assert_eq!(Envelope::decode(&bytes), Ok(envelope));
        prop_assert!(Envelope::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

/// A view of so many runs, members and retired peers; all owners are among the members.
fn large_view(runs: u128, members: u16, retired: u16, rng: &mut mesh_crypto::Rng) -> View {
    let id = |n: u16| {
        let mut bytes = [0xff; PeerId::LEN];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(bytes)
    };
    let mut draw = |below: u64| u16::try_from(rng.below(below)).unwrap();
    let run = |n: u128| {
        let epoch = Epoch { generation: u32::MAX, number: u64::MAX - u64::from(draw(3)) };
        let rec = Rec { epoch, owner: id(draw(members.into())), donor: id(draw(members.into())) };
        // The longest form: IPv6, in places that overlap.
        Run { range: Range::new(Addr(u128::MAX - 3 * n - 4), Addr(u128::MAX - 3 * n)).unwrap(), rec }
    };
    let nickname: mesh_wire::Nickname = "n".repeat(64).parse().unwrap();
    let member = |n| (id(n), Member { admitted: n % 2 == 0, nickname: nickname.clone() });
    View {
        runs: (0..runs).map(run).collect(),
        roster: (0..members).map(member).collect(),
        retired: (0..retired).map(id).collect(),
    }
}

#[test]
fn a_view_in_parts_says_what_the_whole_says_in_any_order_and_each_fits_into_a_message() {
    let mut rng = mesh_crypto::Rng::from_seed([5; 32]);
    for (runs, members, retired) in
        [(0, 1, 0), (2_047, 1, 0), (2_048, 1, 1), (6_000, 3_000, 500), (9, 5_000, 5_000)]
    {
        let view = large_view(runs, members, retired, &mut rng);
        let mut whole = Custody::new(peer(1), Mutants::default());
        drop(whole.learn(&view));
        let mut parts = view.parts();
        assert!(
            parts
                .iter()
                .all(|part| part.runs.len() + part.roster.len() + part.retired.len() <= PART_ENTRIES_MAX)
        );
        // Each twice, in disorder.
        parts.extend(parts.clone());
        let mut merged = Custody::new(peer(1), Mutants::default());
        while !parts.is_empty() {
            let at = usize::try_from(rng.below(parts.len() as u64)).unwrap();
            let part = parts.swap_remove(at);
            let inactive = vec![Range::new(Addr(u128::MAX - 1), Addr(u128::MAX)).unwrap(); PART_ENTRIES_MAX];
            let part_of = Some(Part { number: u64::MAX, index: 0, count: u16::MAX });
            let hint = Hint { free: u64::MAX, held: u64::MAX };
            let tell = Tell { range: inactive[0], part: part_of, view: part.clone(), inactive, hint };
            let life = Life { incarnation: u64::MAX, born: u64::MAX, seq: u64::MAX };
            let network = Some(NetworkId::from_bytes([9; 16]));
            let len =
                Envelope { version: VERSION, life, network, message: Message::Tell(tell) }.encode().len();
            assert!(len < MESSAGE_LEN_MAX, "{len} bytes");
            drop(merged.learn(&part));
        }
        assert_eq!(merged.view(), whole.view());
    }
}

proptest! {
    #[test]
    fn a_telling_is_complete_when_its_last_part_has_come_in_whatever_order(order in Just((0..5_usize).collect::<Vec<_>>()).prop_shuffle(), repeated in 0..5_usize) {
        let mut rng = mesh_crypto::Rng::from_seed([6; 32]);
        let view = large_view(4_000, 3_000, 2_100, &mut rng);
        let inactive = vec![Range::single(Addr(1)), Range::single(Addr(2))];
        let tells: Vec<Tell> = parts(view.clone(), &inactive, Some(3))
            .into_iter()
            .map(|(part, view, inactive)| Tell { range: inactive.first().copied().unwrap_or(Range::single(Addr(0))), part, view, inactive, hint: Hint { free: 0, held: 0 } })
            .collect();
        prop_assert_eq!(tells.len(), order.len());
        let life = Life { incarnation: 1, born: 1, seq: 1 };
        let mut unfinished = Unfinished::default();
        // The beginning of an earlier telling, and of one in another life, do not count.
        let older = Tell { part: Some(Part { number: 2, index: 0, count: 5 }), ..tells[0].clone() };
        prop_assert!(unfinished.complete(peer(1), life, older).is_none());
        let another = Life { incarnation: 2, ..life };
        prop_assert!(unfinished.complete(peer(1), another, tells[1].clone()).is_none());
        let mut complete = None;
        for (at, index) in order.iter().enumerate() {
            prop_assert!(complete.is_none());
            complete = unfinished.complete(peer(1), life, tells[*index].clone());
            if at < 4 && at == repeated {
                prop_assert!(unfinished.complete(peer(1), life, tells[*index].clone()).is_none());
            }
        }
        let complete = complete.expect("all are there");
        prop_assert_eq!(complete.inactive, inactive);
        let learned = |view: &View| {
            let mut custody = Custody::new(peer(1), Mutants::default());
            drop(custody.learn(view));
            custody.view()
        };
        prop_assert_eq!(learned(&complete.view), learned(&view));
    }
}

#[test]
fn messages_look_as_format_md_says() {
    let life = Life { incarnation: 1, born: 2, seq: 3 };
    let bytes = |message| Envelope { version: VERSION, life, network: None, message }.encode();
    let head = [0x84, 1, 0x83, 1, 2, 3, 0xf6, 0x82];
    assert_eq!(bytes(Message::Call), [&head[..], &[1, 0x80]].concat());
    assert_eq!(bytes(Message::Copied), [&head[..], &[10, 0x80]].concat());
    let within = Range::single("10.0.0.1".parse::<std::net::IpAddr>().unwrap().into());
    let deny = Deny { within, cause: Denial::Cooling };
    let addr = [0x44, 10, 0, 0, 1];
    assert_eq!(bytes(Message::Deny(deny)), [&head[..], &[4, 0x81, 0x82, 0x82], &addr, &addr, &[1]].concat());
}

#[test]
fn a_message_of_another_version_says_so() {
    let mut bytes = minicbor::to_vec((VERSION + 1, "whatever", "follows", "there")).unwrap();
    assert_eq!(Envelope::decode(&bytes), Err(DecodeError::Version(VERSION + 1)));
    bytes.resize(MESSAGE_LEN_MAX + 1, 0);
    assert_eq!(Envelope::decode(&bytes), Err(DecodeError::TooLong(bytes.len())));
}
