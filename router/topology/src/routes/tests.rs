use std::collections::BTreeSet;

use mesh_crypto::{Identity, Rng};
use mesh_wire::BootCount;
use mesh_wire::control::LinkRecord;
use proptest::prelude::*;

use super::*;
use crate::small_graphs;

/// Links with their distances, between peers named by the order of their ids.
type Edges = Vec<(usize, usize, u8)>;

fn id(n: usize) -> PeerId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&(n as u64).to_be_bytes());
    PeerId::from_bytes(bytes)
}

fn graph(n: usize, edges: &[(usize, usize, u8)]) -> Graph {
    let mut lists: Vec<_> = (0..n).map(|at| (id(at), Vec::new())).collect();
    for (a, b, distance) in edges {
        lists[*a].1.push((id(*b), *distance));
        lists[*b].1.push((id(*a), *distance));
    }
    Graph::new(lists)
}

fn unmeasured(edges: &[(usize, usize)]) -> Edges {
    edges.iter().map(|(a, b)| (*a, *b, 1)).collect()
}

fn routes(n: usize, edges: &Edges) -> Vec<Routes> {
    let graph = graph(n, edges);
    (0..n).map(|at| Routes::on(&graph, id(at))).collect()
}

#[test]
fn records_become_routes() {
    let mut identities: Vec<_> = (0..3).map(|i| Identity::generate(&mut Rng::from_seed([i; 32]))).collect();
    identities.sort_by_key(Identity::peer_id);
    let ids: Vec<_> = identities.iter().map(Identity::peer_id).collect();
    let link = |to: usize, established| LinkRecord {
        distance: 0,
        overlay: 1,
        peer: ids[to],
        address: "192.0.2.1:1".parse().expect("a literal"),
        outbound: true,
        established,
    };
    // A chain; the two ends are connected, too, but nothing passes there.
    let links = [
        vec![link(1, true), link(2, true)],
        vec![link(0, true), link(2, true)],
        vec![link(1, true), link(0, false)],
    ];
    let mut topologies = Vec::new();
    for (identity, links) in identities.iter().zip(links) {
        let mut topology = Topology::new(identity, BootCount(1), "h".parse().expect("a letter"), 1, 1);
        topology.publish(identity, links);
        topologies.push(topology);
    }
    for from in 0..3 {
        let entry = topologies[from].entry(ids[from]).expect("own record").to_vec();
        for topology in &mut topologies {
            topology.merge(&entry).expect("genuine");
        }
    }
    let routes: Vec<_> = topologies.iter().map(Routes::compute).collect();
    assert_eq!(routes[0].next_hop, BTreeMap::from([(ids[1], ids[1]), (ids[2], ids[1])]));
    assert_eq!(routes[0].hops, BTreeMap::from([(ids[1], 1), (ids[2], 2)]));
    assert_eq!(routes[0].trees[&ids[0]], Tree { parent: None, children: vec![ids[1]] });
    assert_eq!(routes[1].trees[&ids[0]], Tree { parent: Some(ids[0]), children: vec![ids[2]] });
    assert_eq!(routes[2].trees[&ids[0]], Tree { parent: Some(ids[1]), children: vec![] });
    assert!(routes.iter().all(|r| r.digest == routes[0].digest));
}

#[test]
fn of_ways_with_as_many_hops_the_nearest_is_taken_and_of_those_the_one_through_the_smallest_id() {
    let far_relay_first = vec![(0, 1, 9), (1, 3, 9), (0, 2, 3), (2, 3, 3)];
    assert_eq!(routes(4, &far_relay_first)[0].next_hop[&id(3)], id(2));
    let alike = vec![(0, 1, 9), (1, 3, 3), (0, 2, 3), (2, 3, 9)];
    assert_eq!(routes(4, &alike)[0].next_hop[&id(3)], id(1));
    // A longer way is never taken, however near its links are.
    let detour = vec![(0, 3, 16), (0, 1, 1), (1, 3, 1)];
    assert_eq!(routes(4, &detour)[0].next_hop[&id(3)], id(3));
    let unknown = vec![(0, 1, 0), (1, 3, 0), (0, 2, 8), (2, 3, 8)];
    assert_eq!(routes(4, &unknown)[0].next_hop[&id(3)], id(2));
}

#[test]
fn a_router_without_a_record_has_no_routes() {
    let routes = Routes::on(&graph(2, &[(0, 1, 1)]), id(7));
    assert!(routes.next_hop.is_empty() && routes.trees.is_empty());
}

/// The rules of this module, word by word and slowly.
mod reference {
    use super::*;

    /// Hops from `source` to each peer that it reaches.
    pub(super) fn hops(neighbours: &[BTreeMap<usize, u8>], source: usize) -> BTreeMap<usize, u16> {
        let mut hops = BTreeMap::from([(source, 0)]);
        for distance in 0.. {
            let level: Vec<_> =
                hops.iter().filter(|(_, at)| **at == distance).map(|(peer, _)| *peer).collect();
            if level.is_empty() {
                break;
            }
            for to in level.iter().flat_map(|peer| neighbours[*peer].keys()) {
                hops.entry(*to).or_insert(distance + 1);
            }
        }
        hops
    }

    pub(super) fn parent(
        neighbours: &[BTreeMap<usize, u8>],
        hops: &BTreeMap<usize, u16>,
        of: usize,
    ) -> Option<usize> {
        let own = hops.get(&of)?;
        neighbours[of].keys().copied().find(|peer| hops.get(peer).is_some_and(|hops| hops + 1 == *own))
    }

    /// Every shortest way, as its cost and first step.
    pub(super) fn best_way(
        neighbours: &[BTreeMap<usize, u8>],
        from: usize,
        to: usize,
    ) -> Option<(u32, usize)> {
        let left = hops(neighbours, to);
        let own = *left.get(&from)?;
        let steps =
            neighbours[from].iter().filter(|(next, _)| left.get(next).is_some_and(|hops| hops + 1 == own));
        let ways = steps.map(|(next, distance)| {
            let cost = 1 << (distance - 1);
            let rest = if *next == to { 0 } else { best_way(neighbours, *next, to).map_or(0, |way| way.0) };
            (cost + rest, *next)
        });
        ways.min()
    }
}

fn neighbours(n: usize, edges: &Edges) -> Vec<BTreeMap<usize, u8>> {
    let mut neighbours = vec![BTreeMap::new(); n];
    for (a, b, distance) in edges {
        neighbours[*a].insert(*b, *distance);
        neighbours[*b].insert(*a, *distance);
    }
    neighbours
}

fn check_trees(n: usize, edges: &Edges, viewers: &[usize]) {
    let graph = graph(n, edges);
    let neighbours = neighbours(n, edges);
    for viewer in viewers {
        let routes = Routes::on(&graph, id(*viewer));
        let reached = reference::hops(&neighbours, *viewer);
        let expected: BTreeMap<_, _> = reached
            .iter()
            .filter(|(peer, _)| *peer != viewer)
            .map(|(peer, hops)| (id(*peer), *hops))
            .collect();
        assert_eq!(routes.hops, expected);
        assert_eq!(routes.trees.len(), reached.len());
        for source in reached.keys() {
            let hops = reference::hops(&neighbours, *source);
            let parent = |of| reference::parent(&neighbours, &hops, of);
            let children = neighbours[*viewer].keys().filter(|child| parent(**child) == Some(*viewer));
            let tree = Tree {
                parent: parent(*viewer).map(id),
                children: children.map(|child| id(*child)).collect(),
            };
            assert_eq!(routes.trees[&id(*source)], tree, "of {source} at {viewer} of {n}");
        }
    }
}

/// A few links for each of up to `n` peers, and their distances.
fn networks(n: usize) -> impl Strategy<Value = (usize, Edges)> {
    let edge = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..=8u8);
    (1..=n, proptest::collection::vec(edge, 0..3 * n)).prop_map(|(n, edges)| {
        let ends = edges.into_iter().map(|(a, b, distance)| (a.index(n), b.index(n), distance));
        let mut seen = BTreeSet::new();
        let edges = ends.filter(|(a, b, _)| a != b && seen.insert((*a.min(b), *a.max(b)))).collect();
        (n, edges)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn trees_and_hops_are_those_of_the_rules((n, edges) in networks(70), viewer: prop::sample::Index) {
        check_trees(n, &edges, &[viewer.index(n)]);
    }

    #[test]
    fn next_hops_are_those_of_the_rules((n, edges) in networks(12)) {
        let neighbours = neighbours(n, &edges);
        for (from, routes) in routes(n, &edges).iter().enumerate() {
            for to in (0..n).filter(|to| *to != from) {
                let expected = reference::best_way(&neighbours, from, to).map(|(_, next)| id(next));
                prop_assert_eq!(routes.next_hop.get(&id(to)).copied(), expected);
            }
        }
    }

    #[test]
    fn routers_with_equal_records_agree_on_every_tree_and_follow_next_hops_to_the_end((n, edges) in networks(40)) {
        let routes = routes(n, &edges);
        for (at, own) in routes.iter().enumerate() {
            for (source, tree) in &own.trees {
                for (other, theirs) in routes.iter().enumerate() {
                    let is_child = tree.children.contains(&id(other));
                    let names_us = theirs.trees.get(source).is_some_and(|tree| tree.parent == Some(id(at)));
                    prop_assert_eq!(is_child, names_us);
                }
            }
            for (to, hops) in &own.hops {
                let step = |from: &PeerId| routes.iter().enumerate().find(|(n, _)| id(*n) == *from)?.1.next_hop.get(to).copied();
                let path = std::iter::successors(Some(id(at)), step).position(|at| at == *to);
                prop_assert_eq!(path, Some(usize::from(*hops)));
            }
        }
    }
}

/// More sources than one search takes.
#[test]
fn trees_of_more_sources_than_a_block_has_are_those_of_the_rules() {
    let n = 530;
    let ring = (0..n).map(|a| (a, (a + 1) % n, 1));
    let chords = (0..n).map(|a| (a, (a * 7 + 31) % n, 1)).filter(|(a, b, _)| a != b);
    let mut seen = BTreeSet::new();
    let edges: Edges = ring.chain(chords).filter(|(a, b, _)| seen.insert((*a.min(b), *a.max(b)))).collect();
    check_trees(n, &edges, &[0, 511, 512]);
}

/// One router's place in a tree, as bits of peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    parent: Option<usize>,
    children: u8,
}

const PEERS: usize = 5;

/// The place of each of five routers in the tree of each, for every set of links between them.
struct Places {
    pairs: Vec<(usize, usize)>,
    places: Vec<[[Place; PEERS]; PEERS]>,
}

impl Places {
    fn all() -> Self {
        let pairs: Vec<_> = (0..PEERS).flat_map(|a| (a + 1..PEERS).map(move |b| (a, b))).collect();
        let places = (0..1 << pairs.len()).map(|mask: usize| {
            let edges: Vec<_> =
                pairs.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, e)| *e).collect();
            let routes = routes(PEERS, &unmeasured(&edges));
            std::array::from_fn(|viewer| std::array::from_fn(|source| place(&routes[viewer], source)))
        });
        let places = places.collect();
        Self { pairs, places }
    }

    fn mask(&self, edges: &[(usize, usize)]) -> usize {
        edges.iter().map(|edge| 1 << self.pairs.binary_search(edge).expect("pairs are in order")).sum()
    }

    /// What `viewer` may hold for its place: as of each of `views`, once.
    fn of(&self, viewer: usize, source: usize, views: &[usize]) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for view in views {
            let place = self.places[*view][viewer][source];
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }
}

fn place(routes: &Routes, source: usize) -> Place {
    let Some(tree) = routes.trees.get(&id(source)) else { return Place { parent: None, children: 0 } };
    let at = |peer: &PeerId| usize::from(peer.as_bytes()[15]);
    let children = tree.children.iter().map(|child| 1 << at(child)).sum();
    Place { parent: tree.parent.as_ref().map(at), children }
}

/// A broadcast on its way, by routers that may differ in their views: whoever gets it from its parent takes it, and
/// sends it to its children.
struct Flood<'a> {
    /// What each router may hold.
    choices: &'a [Vec<Place>; PEERS],
    /// What it holds, once that matters.
    held: [Option<Place>; PEERS],
    taken: [u8; PEERS],
    sent: usize,
}

impl Flood<'_> {
    /// Delivers all that is on its way, for every view of those that it comes to. Returns how many ways there are.
    fn run(&mut self, mut underway: Vec<(usize, usize)>, check: &impl Fn(&Self)) -> usize {
        let Some((from, to)) = underway.pop() else {
            check(self);
            return 1;
        };
        let Some(place) = self.held[to] else {
            underway.push((from, to));
            let mut ways = 0;
            for place in &self.choices[to] {
                self.held[to] = Some(*place);
                ways += self.run(underway.clone(), check);
            }
            self.held[to] = None;
            return ways;
        };
        if place.parent != Some(from) {
            return self.run(underway, check);
        }
        let (taken, sent) = (self.taken, self.sent);
        self.taken[to] += 1;
        // Who takes it twice may send it for ever.
        assert!(self.taken[to] == 1, "{to} takes a frame twice: {:?}", self.held);
        self.send(to, place, &mut underway);
        let ways = self.run(underway, check);
        (self.taken, self.sent) = (taken, sent);
        ways
    }

    fn send(&mut self, from: usize, place: Place, underway: &mut Vec<(usize, usize)>) {
        let children = (0..PEERS).filter(|to| place.children >> to & 1 == 1);
        underway.extend(children.map(|to| (from, to)));
        self.sent += place.children.count_ones() as usize;
    }
}

/// Floods from `source`, for every choice of views. Returns how many ways there were.
fn flood(places: &Places, source: usize, views: &[usize], check: impl Fn(&Flood)) -> usize {
    let choices = std::array::from_fn(|viewer| places.of(viewer, source, views));
    let mut ways = 0;
    for place in &choices[source] {
        let mut held = [None; PEERS];
        // The source takes none of its own frames.
        held[source] = Some(Place { parent: None, ..*place });
        let mut flood = Flood { choices: &choices, held, taken: [0; PEERS], sent: 0 };
        let mut underway = Vec::new();
        flood.send(source, *place, &mut underway);
        ways += flood.run(underway, &check);
    }
    ways
}

/// Each router may have heard of none, one, or both of any two changes of links, in either order.
#[test]
fn whatever_two_link_events_routers_have_missed_no_broadcast_is_taken_twice_or_goes_on_for_ever() {
    let places = Places::all();
    let mut ways = 0;
    for peers in 1..=PEERS {
        for edges in small_graphs::connected(peers) {
            let now = places.mask(&edges);
            for (first, one) in places.pairs.iter().enumerate() {
                for (second, other) in places.pairs.iter().enumerate().skip(first + 1) {
                    if one.1 >= peers || other.1 >= peers {
                        continue;
                    }
                    let views = [now, now ^ 1 << first, now ^ 1 << second, now ^ 1 << first ^ 1 << second];
                    let links = views.iter().fold(0, |all, view| all | view).count_ones() as usize;
                    for source in 0..peers {
                        ways += flood(&places, source, &views, |flood| {
                            assert!(flood.sent <= 2 * links, "{} copies over {links} links", flood.sent);
                        });
                    }
                }
            }
        }
    }
    assert!(ways > 1_000_000, "only {ways} ways");
}

#[test]
fn with_equal_views_each_router_of_every_small_network_takes_a_broadcast_once() {
    let places = Places::all();
    for peers in 1..=PEERS {
        for edges in small_graphs::connected(peers) {
            for source in 0..peers {
                flood(&places, source, &[places.mask(&edges)], |flood| {
                    for (peer, taken) in flood.taken.iter().enumerate().take(peers) {
                        assert_eq!(*taken == 1, peer != source, "{peer} of {edges:?}");
                    }
                    assert_eq!(flood.sent, peers - 1);
                });
            }
        }
    }
}
