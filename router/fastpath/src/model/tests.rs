//! The model beside a naive one, and its promises in order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use mesh_wire::control::VxlanOffer;
use mesh_wire::{MacAddr, Moment, PeerId};
use proptest::prelude::*;

use super::*;

const A: PeerId = PeerId::from_bytes([1; 16]);
const B: PeerId = PeerId::from_bytes([2; 16]);

fn mac(number: u8) -> MacAddr {
    MacAddr::from_bytes([2, 0, 0, 0, 0, number])
}

fn at(ms: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(ms))
}

fn tunnel(last: u8) -> Tunnel {
    Tunnel { remote: IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), port: 6784, vni: 7 }
}

fn agreed(last: u8, our_cookie: u64) -> Agreement {
    let Tunnel { remote, port, vni } = tunnel(last);
    Agreement::Both {
        remote,
        theirs: VxlanOffer { port, vni, cookie: 90, seal: None, esp: None },
        our_cookie,
    }
}

/// What is known while both peers are there, and each has announced a MAC.
fn whole() -> View {
    View {
        neighbours: BTreeMap::from([(A, agreed(1, 11)), (B, agreed(2, 12))]),
        reachable: [A, B].into(),
        relayed: BTreeSet::new(),
        announced: Arc::new(BTreeMap::from([(mac(1), A), (mac(2), B)])),
        announcing: [A, B].into(),
        seals: BTreeMap::new(),
        room: BTreeMap::new(),
        may_wait: true,
    }
}

/// The same tunnel, inside of what seals.
fn sealed(last: u8, our_cookie: u64) -> Agreement {
    let Tunnel { port, vni, .. } = tunnel(last);
    let remote = IpAddr::V4(Ipv4Addr::new(240, 0, 0, last));
    Agreement::Both {
        remote,
        theirs: VxlanOffer { port, vni, cookie: 90, seal: None, esp: None },
        our_cookie,
    }
}

#[test]
fn a_silent_path_is_left_once_user_space_hears_from_the_peer_or_has_had_its_time() {
    for heard in [true, false] {
        let mut model = Model::default();
        model.see(whole(), at(0));
        run(&mut model, 0, 1_000, &[11, 12]);
        let place = model.wanted(at(1_000))[&mac(1)];
        assert_ne!(place, Place::UserSpace);
        model.heard(A, at(1_000));
        run(&mut model, 1_000, 7_000, &[12]);
        let Some(PathState::Suspended { since, .. }) = model.paths().state(A) else { panic!("it carries") };
        let at_last = since + USER_SPACE_SILENCE_MAX;
        // What was heard before the silence began proves nothing.
        assert_eq!(model.wanted(since)[&mac(1)], place);
        assert_eq!(model.doubted(since).collect::<Vec<_>>(), [A]);
        if heard {
            model.heard(A, since + Duration::from_millis(10));
            assert_eq!(model.wanted(since + Duration::from_millis(10))[&mac(1)], Place::UserSpace);
        } else {
            assert_eq!(model.wanted(at_last - Duration::from_millis(1))[&mac(1)], place);
            assert_eq!(model.wanted(at_last)[&mac(1)], Place::UserSpace);
        }
        assert_eq!(model.doubted(at_last).count(), 0);
    }
}

#[test]
fn a_silent_path_is_left_at_once_for_a_relay() {
    let mut model = Model::default();
    model.see(whole(), at(0));
    run(&mut model, 0, 1_000, &[11, 12]);
    assert_ne!(model.wanted(at(1_000))[&mac(1)], Place::UserSpace);
    run(&mut model, 1_000, 7_000, &[12]);
    let Some(PathState::Suspended { since, .. }) = model.paths().state(A) else { panic!("it carries") };
    assert_ne!(model.wanted(since)[&mac(1)], Place::UserSpace);
    model.see(View { relayed: [A].into(), ..whole() }, since);
    assert_eq!(model.wanted(since)[&mac(1)], Place::UserSpace);
    assert_eq!(model.doubted(since).count(), 0);
}

#[test]
fn a_clear_path_ends_where_nothing_may_travel_in_clear_and_a_sealed_one_holds_on() {
    for (first, holds) in [(agreed(1, 11), false), (sealed(1, 11), true)] {
        let mut model = Model::default();
        let mut view = whole();
        view.neighbours.insert(A, first);
        view.may_wait = holds;
        model.see(view.clone(), at(0));
        run(&mut model, 0, 1_000, &[11]);
        assert_ne!(model.wanted(at(1_000))[&mac(1)], Place::UserSpace);
        view.neighbours.insert(A, Agreement::UnheardSealed);
        view.may_wait = false;
        model.see(view.clone(), at(1_000));
        assert_eq!(model.wanted(at(1_000))[&mac(1)] != Place::UserSpace, holds);
        // Whoever is away keeps its flows for a while, if they are sealed.
        view.neighbours.remove(&A);
        view.reachable.remove(&A);
        view.announcing.remove(&A);
        view.announced = Arc::new(BTreeMap::from([(mac(2), B)]));
        model.see(view, at(1_100));
        run(&mut model, 1_100, 5_000, &[]);
        assert_eq!(model.wanted(at(5_000)).contains_key(&mac(1)), holds);
    }
}

/// Runs the model's clock from one moment to another; the peers with these cookies answer.
fn run(model: &mut Model, from: u64, to: u64, answering: &[u64]) {
    for ms in (from..=to).step_by(20) {
        model.health().handle_timeout(at(ms));
        while let Some(probe) = model.health().poll_probe(at(ms)) {
            let our_cookie = if probe.peer == A { 11 } else { 12 };
            if answering.contains(&our_cookie) {
                model.health().answered(our_cookie, probe.number, at(ms + 1));
            }
        }
    }
}

fn carrying() -> Model {
    let mut model = Model::default();
    model.see(whole(), at(0));
    model.health().set_busy(|_| true, at(0));
    run(&mut model, 0, 100, &[11, 12]);
    let both = BTreeMap::from([(mac(1), Place::Tunnel(tunnel(1))), (mac(2), Place::Tunnel(tunnel(2)))]);
    assert_eq!(model.wanted(at(100)), both);
    model
}

#[test]
fn frames_go_through_user_space_until_a_path_is_answered() {
    let mut model = Model::default();
    model.see(whole(), at(0));
    let wanted = BTreeMap::from([(mac(1), Place::UserSpace), (mac(2), Place::UserSpace)]);
    assert_eq!(model.wanted(at(0)), wanted);
    run(&mut model, 0, 20, &[12]);
    let wanted = BTreeMap::from([(mac(1), Place::UserSpace), (mac(2), Place::Tunnel(tunnel(2)))]);
    assert_eq!(model.wanted(at(20)), wanted);
}

#[test]
fn a_path_that_falls_silent_is_left_within_two_seconds_and_taken_again_soon_after_it_is_back() {
    let mut model = carrying();
    run(&mut model, 120, 1_700, &[12]);
    model.heard(A, at(1_700));
    assert_eq!(model.wanted(at(1_700))[&mac(1)], Place::UserSpace);
    assert_eq!(model.wanted(at(1_700))[&mac(2)], Place::Tunnel(tunnel(2)));
    run(&mut model, 1_720, 11_000, &[12]);
    assert_eq!(model.wanted(at(11_000))[&mac(1)], Place::UserSpace);
    run(&mut model, 11_020, 13_500, &[11, 12]);
    assert_eq!(model.wanted(at(13_500))[&mac(1)], Place::Tunnel(tunnel(1)));
}

#[test]
fn a_path_that_flaps_has_to_prove_itself_longer_each_time() {
    let mut model = carrying();
    let mut now = 120;
    let mut proofs = Vec::new();
    for _ in 0..4 {
        let down = now;
        run(&mut model, down, down + 3_000, &[12]);
        let mut up = down + 3_020;
        while !matches!(model.paths().state(A), Some(PathState::Carrying { .. })) {
            run(&mut model, up, up, &[11, 12]);
            up += 20;
        }
        proofs.push(up - down - 3_000);
        now = up;
    }
    assert!(proofs.windows(2).all(|two| two[1] > two[0]), "{proofs:?}");
}

#[test]
fn a_router_that_is_away_keeps_its_flows_for_a_while_and_not_for_ever() {
    let mut model = carrying();
    let mut gone = whole();
    gone.neighbours.remove(&A);
    gone.reachable.remove(&A);
    Arc::make_mut(&mut gone.announced).remove(&mac(1));
    gone.announcing.remove(&A);
    model.see(gone.clone(), at(120));
    run(&mut model, 120, 3_000, &[12]);
    assert_eq!(model.wanted(at(3_000))[&mac(1)], Place::Tunnel(tunnel(1)), "nobody else has a way to it");
    assert!(!model.wanted(at(30_200)).contains_key(&mac(1)));

    let mut model = carrying();
    model.see(View { may_wait: false, ..gone.clone() }, at(120));
    assert!(!model.wanted(at(120)).contains_key(&mac(1)), "there is a password by now");

    // The container has been started elsewhere meanwhile.
    let mut model = carrying();
    Arc::make_mut(&mut gone.announced).insert(mac(1), B);
    model.see(gone, at(120));
    assert_eq!(model.wanted(at(120))[&mac(1)], Place::Tunnel(tunnel(2)));
}

#[test]
fn what_a_peer_no_longer_announces_is_withdrawn_at_once() {
    let mut model = carrying();
    let mut fewer = whole();
    Arc::make_mut(&mut fewer.announced).remove(&mac(1));
    model.see(fewer, at(120));
    assert_eq!(model.wanted(at(120)).keys().copied().collect::<Vec<_>>(), [mac(2)]);
}

#[test]
fn a_path_that_is_refused_is_left_at_once() {
    let mut model = carrying();
    let mut encrypted = whole();
    encrypted.neighbours.insert(A, Agreement::None(Refusal::Encrypted));
    model.see(encrypted, at(120));
    assert_eq!(model.wanted(at(120))[&mac(1)], Place::UserSpace);
}

#[test]
fn a_dead_path_with_a_way_round_it_is_left_to_user_space() {
    let mut model = carrying();
    let mut gone = whole();
    gone.neighbours.remove(&A);
    model.see(gone, at(120));
    assert_eq!(model.wanted(at(120))[&mac(1)], Place::Tunnel(tunnel(1)), "its probes are still answered");
    run(&mut model, 120, 3_200, &[12]);
    assert_eq!(model.wanted(at(3_119))[&mac(1)], Place::Tunnel(tunnel(1)), "its router may have been killed");
    assert_eq!(model.wanted(at(3_120))[&mac(1)], Place::UserSpace, "a relay takes over");
}

#[test]
fn a_silent_path_of_a_router_that_was_away_is_not_left_when_it_is_back() {
    let mut model = carrying();
    let mut gone = whole();
    gone.reachable.remove(&A);
    model.see(gone, at(120));
    run(&mut model, 120, 6_000, &[12]);
    assert!(matches!(model.paths().state(A), Some(PathState::Suspended { .. })));
    assert_eq!(model.wanted(at(6_000))[&mac(1)], Place::Tunnel(tunnel(1)));
    let mut back = whole();
    back.neighbours.insert(A, agreed(1, 13));
    model.see(back, at(6_000));
    assert_eq!(model.wanted(at(6_000))[&mac(1)], Place::Tunnel(tunnel(1)));
    run(&mut model, 6_000, 9_000, &[12]);
    model.heard(A, at(9_000));
    assert_eq!(model.wanted(at(9_000))[&mac(1)], Place::UserSpace, "its kernel has gone on to be silent");
}

#[test]
fn a_router_that_is_killed_and_comes_back_is_believed_rather_than_those_who_speak_of_it() {
    let mut model = carrying();
    let mut gone = whole();
    gone.neighbours.remove(&A);
    gone.relayed.insert(A);
    model.see(gone.clone(), at(120));
    run(&mut model, 120, 2_000, &[12]);
    let before = Place::Tunnel(tunnel(1));
    assert_eq!(model.wanted(at(2_000))[&mac(1)], before, "others do not know it yet");
    let away = View { reachable: [B].into(), announcing: [B].into(), ..gone.clone() };
    model.see(away, at(2_000));
    assert_eq!(model.wanted(at(9_000))[&mac(1)], before, "now they do");
    model.see(gone.clone(), at(9_000));
    assert_eq!(model.wanted(at(9_500))[&mac(1)], before, "others have a session with it already");
    let unheard = Agreement::Unheard;
    gone.neighbours.insert(A, unheard);
    model.see(gone, at(9_500));
    assert_eq!(model.wanted(at(10_000))[&mac(1)], before);
    model.see(whole(), at(10_000));
    assert_eq!(model.wanted(at(14_000))[&mac(1)], before, "its end is the one that it had");
    assert_eq!(model.poll_change(), None);
}

#[test]
fn a_later_life_takes_over_the_flows_of_the_one_before_without_a_gap() {
    let left = carrying().wanted(at(100));
    let mut model = Model::default();
    model.adopt(&left, at(0));
    assert_eq!(model.wanted(at(1)), left);
    let mut view = whole();
    view.neighbours.insert(A, Agreement::Unheard);
    view.neighbours.remove(&B);
    model.see(view, at(10));
    assert_eq!(model.wanted(at(10)), left, "their paths have not been judged yet");
    model.see(whole(), at(20));
    run(&mut model, 20, 100, &[11, 12]);
    assert_eq!(model.wanted(at(100)), left);

    // Nobody has heard of them any more.
    let mut model = Model::default();
    model.adopt(&left, at(0));
    assert_eq!(model.wanted(at(29_000)), left);
    assert_eq!(model.wanted(at(30_000)), BTreeMap::new());
}

#[test]
fn small_packets_that_pass_where_large_ones_do_not_tell_a_narrow_path() {
    let mut model = Model::default();
    model.see(whole(), at(0));
    for ms in (0..8_000).step_by(20) {
        model.health().handle_timeout(at(ms));
        while let Some(probe) = model.health().poll_probe(at(ms)) {
            if !probe.is_full {
                model.health().answered(11, probe.number, at(ms + 1));
            }
        }
    }
    let state = model.paths().state(A);
    assert!(matches!(state, Some(PathState::Suspended { why: Suspicion::Narrow, .. })), "{state:?}");
    let state = model.paths().state(B);
    assert!(matches!(state, Some(PathState::Suspended { why: Suspicion::Silent, .. })), "{state:?}");
}

#[test]
fn idle_paths_are_asked_seldom_and_a_lost_answer_soon_again() {
    let mut model = Model::default();
    model.see(whole(), at(0));
    let mut sent = 0;
    for ms in (0..60_000).step_by(20) {
        model.health().handle_timeout(at(ms));
        while let Some(probe) = model.health().poll_probe(at(ms)) {
            sent += 1;
            let our_cookie = if probe.peer == A { 11 } else { 12 };
            model.health().answered(our_cookie, probe.number, at(ms + 1));
        }
    }
    assert!((20..=28).contains(&sent), "{sent} probes in a minute");
    run(&mut model, 60_020, 67_000, &[]);
    assert!(matches!(model.paths().state(A), Some(PathState::Suspended { .. })));
}

#[test]
fn what_the_kernel_has_used_outlives_the_data_planes_memory() {
    let mut owners = Owners::default();
    let seen = BTreeMap::from([(mac(1), A), (mac(2), A)]);
    owners.learn(&seen, |_| false);
    owners.learn(&BTreeMap::new(), |used| used == mac(1));
    assert_eq!(owners.iter().collect::<Vec<_>>(), [(mac(1), A)]);
    owners.learn(&BTreeMap::new(), |_| false);
    assert_eq!(owners.iter().count(), 0);
}

/// A kernel that refuses some changes, and that somebody else disturbs.
#[derive(Debug, Default)]
struct Kernel(BTreeMap<MacAddr, Option<Place>>);

impl Kernel {
    fn apply(&mut self, change: &Change) {
        match *change {
            Change::Install { mac, to } => assert_eq!(self.0.insert(mac, Some(to)), None),
            Change::Replace { mac, from, to } => assert_eq!(self.0.insert(mac, Some(to)), Some(from)),
            Change::Withdraw { mac, from } => assert_eq!(self.0.remove(&mac), Some(from)),
        }
    }
}

fn some_place() -> impl Strategy<Value = Place> {
    prop_oneof![Just(Place::UserSpace), (0..3_u8).prop_map(|last| Place::Tunnel(tunnel(last)))]
}

fn some_flows() -> impl Strategy<Value = BTreeMap<MacAddr, Place>> {
    prop::collection::btree_map((0..12_u8).prop_map(mac), some_place(), 0..12)
}

proptest! {
    #[test]
    fn each_step_changes_what_differs_and_nothing_else(steps in prop::collection::vec(some_flows(), 1..8)) {
        let (mut reconciler, mut kernel) = (Reconciler::default(), Kernel::default());
        for wanted in steps {
            let differing = (0..12).map(mac).filter(|mac| {
                kernel.0.get(mac).copied().flatten() != wanted.get(mac).copied()
            }).count();
            reconciler.want(wanted.clone());
            let changes = reconciler.changes(usize::MAX);
            prop_assert_eq!(changes.len(), differing);
            for change in &changes {
                kernel.apply(change);
                reconciler.done(change, true, at(0));
            }
            let whole: BTreeMap<_, _> = wanted.into_iter().map(|(mac, place)| (mac, Some(place))).collect();
            prop_assert_eq!(&kernel.0, &whole);
            prop_assert!(reconciler.changes(1).is_empty());
        }
    }

    #[test]
    fn after_any_disturbance_a_look_at_the_tables_is_enough(
        first in some_flows(),
        refused in prop::collection::vec(any::<bool>(), 24),
        disturbed in prop::collection::btree_map((0..16_u8).prop_map(mac), prop::option::of(some_place()), 0..8),
        second in some_flows(),
    ) {
        let (mut reconciler, mut kernel) = (Reconciler::default(), Kernel::default());
        for wanted in [first, second.clone()] {
            reconciler.want(wanted);
            for (change, refuse) in reconciler.changes(usize::MAX).iter().zip(&refused) {
                if !refuse {
                    kernel.apply(change);
                }
                reconciler.done(change, !refuse, at(0));
            }
            kernel.0.extend(disturbed.clone());
            reconciler.found(kernel.0.clone());
        }
        for change in reconciler.changes(usize::MAX) {
            kernel.apply(&change);
            reconciler.done(&change, true, at(0));
        }
        let whole: BTreeMap<_, _> = second.into_iter().map(|(mac, place)| (mac, Some(place))).collect();
        prop_assert_eq!(kernel.0, whole);
    }

    #[test]
    fn each_mac_is_where_its_announcer_is_or_else_where_it_was_seen(
        announced in prop::collection::btree_map((0..12_u8).prop_map(mac), prop::bool::ANY, 0..12),
        announcing in prop::sample::subsequence(vec![A, B], 0..=2),
        seen in prop::collection::btree_map((0..12_u8).prop_map(mac), prop::bool::ANY, 0..12),
        answering in prop::sample::subsequence(vec![11, 12], 0..=2),
    ) {
        let who = |is_a: bool| if is_a { A } else { B };
        let announcing: BTreeSet<_> = announcing.into_iter().collect();
        let announced = announced.into_iter().map(|(mac, a)| (mac, who(a)));
        let announced: BTreeMap<_, _> = announced.filter(|(_, peer)| announcing.contains(peer)).collect();
        let seen: BTreeMap<_, _> = seen.into_iter().map(|(mac, a)| (mac, who(a))).collect();
        let mut model = Model::default();
        let view = View { announcing: announcing.clone(), announced: Arc::new(announced.clone()), ..whole() };
        model.see(view, at(0));
        model.learn(&seen, |_| false);
        run(&mut model, 0, 100, &answering);
        let naive = (0..12).map(mac).filter_map(|mac| {
            // Whoever announces says all there is to say.
            let seen = seen.get(&mac).filter(|peer| !announcing.contains(*peer));
            let peer = announced.get(&mac).or(seen)?;
            let (cookie, last) = if *peer == A { (11, 1) } else { (12, 2) };
            let place = if answering.contains(&cookie) { Place::Tunnel(tunnel(last)) } else { Place::UserSpace };
            Some((mac, place))
        });
        prop_assert_eq!(model.wanted(at(100)), naive.collect::<BTreeMap<_, _>>());
    }
}
