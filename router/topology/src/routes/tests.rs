use mesh_crypto::{Identity, Rng};
use mesh_wire::BootCount;
use mesh_wire::control::LinkRecord;

use super::*;

/// Topologies of routers `0..n`, each with the records of all, for the links in `edges` (each listed by both ends).
fn network(n: u8, edges: &[(usize, usize)]) -> Vec<Topology> {
    let mut identities: Vec<_> = (0..n).map(|i| Identity::generate(&mut Rng::from_seed([i; 32]))).collect();
    identities.sort_by_key(Identity::peer_id);
    let ids: Vec<_> = identities.iter().map(Identity::peer_id).collect();
    let neighbours = |i: usize| {
        let ends = edges.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
        ends.filter(move |(a, _)| *a == i).map(|(_, b)| LinkRecord {
            distance: 0,
            overlay: 1,
            peer: ids[b],
            address: "192.0.2.1:1".parse().expect("a literal"),
            outbound: true,
            established: true,
        })
    };
    let mut topologies: Vec<_> = identities
        .iter()
        .enumerate()
        .map(|(i, identity)| {
            let mut topology = Topology::new(identity, BootCount(1), "h".parse().expect("a letter"), 1, 1);
            topology.publish(identity, neighbours(i).collect());
            topology
        })
        .collect();
    let entries: Vec<_> = topologies.iter().map(|t| t.entry(t.me()).expect("own record").to_vec()).collect();
    for topology in &mut topologies {
        for entry in &entries {
            topology.merge(entry).expect("genuine");
        }
    }
    topologies
}

#[test]
fn a_chain_relays_through_its_middle() {
    let network = network(3, &[(0, 1), (1, 2)]);
    let id = |i: usize| network[i].me();
    let routes: Vec<_> = network.iter().map(Routes::compute).collect();
    assert_eq!(routes[0].next_hop, BTreeMap::from([(id(1), id(1)), (id(2), id(1))]));
    let child = |i, relays| TreeChild { peer: id(i), relays };
    assert_eq!(routes[0].trees[&id(0)], Tree { parent: None, children: vec![child(1, true)] });
    assert_eq!(routes[1].trees[&id(0)], Tree { parent: Some(id(0)), children: vec![child(2, false)] });
    assert_eq!(routes[2].trees[&id(0)], Tree { parent: Some(id(1)), children: vec![] });
    assert!(routes.iter().all(|r| r.digest == routes[0].digest));
}

#[test]
fn a_link_that_one_end_does_not_list_does_not_count() {
    let mut network = network(2, &[(0, 1)]);
    let silent = Identity::generate(&mut Rng::from_seed([9; 32]));
    let lonely = Topology::new(&silent, BootCount(1), "h".parse().expect("a letter"), 1, 1);
    network[0].merge(lonely.entry(lonely.me()).expect("own record")).expect("genuine");
    let routes = Routes::compute(&network[0]);
    assert_eq!(routes.next_hop.len(), 1);
    assert!(!routes.trees.contains_key(&lonely.me()));
}

/// Every graph of five routers (2^10 sets of edges): each source's tree reaches each reachable router exactly once,
/// by the parent that this router itself expects.
#[test]
fn trees_span_every_graph_of_five_and_parents_agree_with_children() {
    let pairs: Vec<_> = (0..5).flat_map(|a| (a + 1..5).map(move |b| (a, b))).collect();
    for mask in 0u32..1 << pairs.len() {
        let edges: Vec<_> =
            pairs.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, e)| *e).collect();
        let network = network(5, &edges);
        let routes: BTreeMap<_, _> = network.iter().map(|t| (t.me(), Routes::compute(t))).collect();
        for (source, own) in &routes {
            let mut reached = BTreeSet::from([*source]);
            let mut frontier = vec![*source];
            while let Some(peer) = frontier.pop() {
                for child in routes[&peer].trees.get(source).iter().flat_map(|tree| &tree.children) {
                    assert!(reached.insert(child.peer), "twice at {:?}: {edges:?}", child.peer);
                    assert_eq!(routes[&child.peer].trees[source].parent, Some(peer), "{edges:?}");
                    frontier.push(child.peer);
                }
            }
            let expected: BTreeSet<_> = own.next_hop.keys().copied().chain([*source]).collect();
            assert_eq!(reached, expected, "{edges:?}");
        }
    }
}

#[test]
fn following_next_hops_always_arrives() {
    let network = network(6, &[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (1, 4)]);
    let routes: BTreeMap<_, _> = network.iter().map(|t| (t.me(), Routes::compute(t))).collect();
    for from in routes.keys() {
        for to in routes.keys().filter(|to| *to != from) {
            let hops = std::iter::successors(Some(*from), |at| routes[at].next_hop.get(to).copied());
            assert!(hops.take(6).any(|at| at == *to), "{from} to {to}");
        }
    }
}
