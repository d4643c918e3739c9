use std::collections::BTreeMap;

use mesh_crypto::{Identity, Rng};
use mesh_wire::BootCount;
use mesh_wire::control::LinkRecord;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 64;

fn ids(n: usize, seed: u8) -> Vec<PeerId> {
    let mut rng = Rng::from_seed([seed; 32]);
    let mut ids: Vec<_> = (0..n)
        .map(|_| {
            let mut bytes = [0; 16];
            rng.fill(&mut bytes);
            PeerId::from_bytes(bytes)
        })
        .collect();
    ids.sort_unstable();
    ids
}

/// Who is connected with whom when all choices are carried out.
fn graph(ids: &[PeerId], limit: usize) -> BTreeMap<PeerId, BTreeSet<PeerId>> {
    let formation = Formation::new(ids.iter().copied(), limit);
    let mut graph: BTreeMap<_, BTreeSet<_>> = ids.iter().map(|id| (*id, BTreeSet::new())).collect();
    for chooser in ids {
        for chosen in formation.choices(*chooser) {
            graph.entry(*chooser).or_default().insert(chosen);
            graph.entry(chosen).or_default().insert(*chooser);
        }
    }
    graph
}

fn edges(graph: &BTreeMap<PeerId, BTreeSet<PeerId>>) -> BTreeSet<(PeerId, PeerId)> {
    let ends = graph.iter().flat_map(|(a, others)| others.iter().map(move |b| (*a, *b)));
    ends.filter(|(a, b)| a < b).collect()
}

/// Hops to the farthest peer from `from`; `None` if some are not reached.
fn eccentricity(graph: &BTreeMap<PeerId, BTreeSet<PeerId>>, from: PeerId) -> Option<usize> {
    let mut reached = BTreeSet::from([from]);
    let mut level = vec![from];
    let mut hops = 0;
    loop {
        let next = level.iter().flat_map(|peer| &graph[peer]).copied();
        level = next.filter(|peer| reached.insert(*peer)).collect();
        if level.is_empty() {
            return (reached.len() == graph.len()).then_some(hops);
        }
        hops += 1;
    }
}

#[test]
fn up_to_the_limit_everybody_chooses_everybody() {
    for n in [1, 2, 3, 65] {
        let all = ids(n, 1);
        assert!(graph(&all, LIMIT).values().all(|others| others.len() == n - 1), "{n}");
    }
    let most = graph(&ids(66, 1), LIMIT).values().map(BTreeSet::len).max();
    assert!(most.is_some_and(|most| most < 30), "{most:?}");
}

/// The greatest degree, and the hops to the farthest peer from any of some.
fn shape(n: usize) -> (usize, usize) {
    let all = ids(n, 2);
    let graph = graph(&all, LIMIT);
    let degree = graph.values().map(BTreeSet::len).max().expect("not empty");
    let hops = all.iter().step_by(n / 5).map(|from| eccentricity(&graph, *from).expect("in one piece"));
    (degree, hops.max().expect("not empty"))
}

#[test]
fn a_thousand_and_ten_thousand_peers_are_few_hops_apart_with_few_links_each() {
    for (n, degree_max, hops_max) in [(1_000, 36, 4), (10_000, 45, 5)] {
        let (degree, hops) = shape(n);
        assert!(degree <= degree_max, "{degree} links among {n}");
        assert!(hops <= hops_max, "{hops} hops among {n}");
    }
}

#[test]
fn one_more_among_a_thousand_changes_few_links() {
    let all = ids(1_001, 2);
    let (newcomer, rest) = all.split_last().expect("not empty");
    let (before, after) = (edges(&graph(rest, LIMIT)), edges(&graph(&all, LIMIT)));
    let of_others = before.symmetric_difference(&after).filter(|(a, b)| a != newcomer && b != newcomer);
    assert!(of_others.count() < 40);
}

#[test]
fn what_neither_end_chooses_goes_first_where_there_are_too_many() {
    let identities: Vec<_> =
        (0..70).map(|seed| Identity::generate(&mut Rng::from_seed([seed; 32]))).collect();
    let all: BTreeSet<_> = identities.iter().map(Identity::peer_id).collect();
    let link = |peer: &PeerId| LinkRecord {
        peer: *peer,
        address: "192.0.2.1:6783".parse().expect("a literal"),
        outbound: true,
        established: true,
        distance: 0,
        overlay: 1,
    };
    let new = |identity| Topology::new(identity, BootCount(1), "h".parse().expect("a letter"), 6783, 1);
    let mut here = new(&identities[0]);
    let me = here.me();
    let with_few_links = identities[1].peer_id();
    for identity in &identities[1..] {
        let mut topology = new(identity);
        let few = if topology.me() == with_few_links { 3 } else { 70 };
        let others = all.iter().filter(|peer| **peer != topology.me()).take(few);
        topology.publish(identity, others.map(link).collect());
        here.merge(topology.entry(topology.me()).expect("own record")).expect("genuine");
    }
    let connected: BTreeSet<_> = all.iter().copied().filter(|peer| *peer != me).collect();
    let formation = Formation::new(all.iter().copied(), LIMIT);
    let surplus = formation.surplus(&here, &connected);
    assert_eq!(surplus.len(), connected.len() - LIMIT);
    for peer in &surplus {
        assert!(!formation.chooses(me, *peer) && !formation.chooses(*peer, me));
        assert_ne!(*peer, with_few_links);
    }
    let fewer: BTreeSet<_> = connected.iter().copied().take(LIMIT).collect();
    assert_eq!(formation.surplus(&here, &fewer), vec![], "the limit is not passed");
}

#[test]
fn a_partial_mesh_keeps_twice_what_is_chosen_and_a_full_one_takes_a_few_more_in() {
    let links_max = |peers| Formation::links_max(peers, LIMIT);
    assert_eq!([2, 65, 66, 81].map(links_max), [LIMIT; 4]);
    assert_eq!([82, 300, 10_000].map(links_max), [22, 26, 36]);
    assert_eq!(Formation::links_max(300, 8), 8, "no more than the limit");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_formation_is_in_one_piece_of_bounded_degree_and_both_ends_know_it(n in 1..200usize, limit in 0..80usize, seed: u8) {
        let all = ids(n, seed);
        let formation = Formation::new(all.iter().copied(), limit);
        let graph = graph(&all, limit);
        prop_assert!(eccentricity(&graph, all[0]).is_some());
        let degree = graph.values().map(BTreeSet::len).max().expect("not empty");
        prop_assert!(degree <= limit.max(36), "{} links among {}", degree, n);
        for a in all.iter().step_by(7) {
            let choices = formation.choices(*a);
            for b in all.iter().filter(|b| *b != a) {
                prop_assert_eq!(formation.chooses(*a, *b), choices.contains(b));
            }
        }
    }

    #[test]
    fn who_leaves_takes_few_links_along(n in 70..300usize, at: prop::sample::Index, seed: u8) {
        let all = ids(n, seed);
        let gone = all[at.index(n)];
        let rest: Vec<_> = all.iter().copied().filter(|id| *id != gone).collect();
        let (before, after) = (edges(&graph(&all, LIMIT)), edges(&graph(&rest, LIMIT)));
        let of_others = before.symmetric_difference(&after).filter(|(a, b)| *a != gone && *b != gone).count();
        // Past a power of two each peer makes one choice less.
        prop_assert!(of_others < 40 || (n - 1).is_power_of_two(), "{} links of others change", of_others);
    }
}
