//! Which way frames go: derived from the records, held nowhere else.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::PeerId;

use crate::Topology;

/// Forwarding decisions of one router for one state of the topology.
///
/// Only links that both ends list as established count. All routers that hold the same records compute the same
/// trees, since ties fall to the smaller peer id.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Routes {
    /// The neighbour through which each other reachable peer is reached by a shortest path.
    pub next_hop: BTreeMap<PeerId, PeerId>,
    /// This router's place in the broadcast tree of each source, its own included.
    pub trees: BTreeMap<PeerId, Tree>,
    /// Hash of the links that count; equal at routers whose trees agree.
    pub digest: u32,
}

/// A router's place in the broadcast tree that is rooted at a source.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tree {
    /// From whom the source's frames come; `None` in one's own tree.
    pub parent: Option<PeerId>,
    /// To whom they go on.
    pub children: Vec<TreeChild>,
}

/// A child in a broadcast tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeChild {
    /// The neighbour.
    pub peer: PeerId,
    /// Whether it has children of its own in this tree.
    pub relays: bool,
}

/// The links that count, by peer.
type Graph = BTreeMap<PeerId, BTreeSet<PeerId>>;

impl Routes {
    /// Computes the routes of `topology`'s own router. Costs one breadth-first search for each peer.
    #[must_use]
    pub fn compute(topology: &Topology) -> Self {
        let graph = graph(topology);
        let me = topology.me();
        let own = parents(&graph, me);
        let next_hop =
            own.keys().filter(|peer| **peer != me).map(|peer| (*peer, first_hop(&own, me, *peer))).collect();
        let trees = own
            .keys()
            .map(|source| {
                let parents = parents(&graph, *source);
                let has_children: BTreeSet<_> = parents.values().flatten().copied().collect();
                let children = parents
                    .iter()
                    .filter(|(_, parent)| **parent == Some(me))
                    .map(|(peer, _)| TreeChild { peer: *peer, relays: has_children.contains(peer) })
                    .collect();
                (*source, Tree { parent: parents.get(&me).copied().flatten(), children })
            })
            .collect();
        Self { next_hop, trees, digest: digest(&graph) }
    }
}

fn graph(topology: &Topology) -> Graph {
    let listed: BTreeSet<(PeerId, PeerId)> = topology
        .records()
        .flat_map(|(peer, record)| {
            record.links.iter().filter(|link| link.established).map(move |link| (peer, link.peer))
        })
        .collect();
    let mut graph = Graph::new();
    for (from, to) in &listed {
        if from != to && listed.contains(&(*to, *from)) {
            graph.entry(*from).or_default().insert(*to);
        }
    }
    graph
}

/// The parent of each peer that is reachable from `source`, in the breadth-first tree in which each peer's parent is
/// the first, by distance and then by id, of its neighbours.
fn parents(graph: &Graph, source: PeerId) -> BTreeMap<PeerId, Option<PeerId>> {
    let mut parents = BTreeMap::from([(source, None)]);
    let mut level = BTreeSet::from([source]);
    while !level.is_empty() {
        let mut next = BTreeSet::new();
        for peer in level {
            for neighbour in graph.get(&peer).into_iter().flatten() {
                if let Entry::Vacant(place) = parents.entry(*neighbour) {
                    place.insert(Some(peer));
                    next.insert(*neighbour);
                }
            }
        }
        level = next;
    }
    parents
}

fn first_hop(parents: &BTreeMap<PeerId, Option<PeerId>>, me: PeerId, to: PeerId) -> PeerId {
    let mut hop = to;
    while let Some(Some(parent)) = parents.get(&hop).filter(|parent| **parent != Some(me)) {
        hop = *parent;
    }
    hop
}

/// FNV-1a over the edges in order: it need not resist an attacker, only differ when the graphs do.
fn digest(graph: &Graph) -> u32 {
    let edges = graph.iter().flat_map(|(peer, neighbours)| neighbours.iter().map(move |n| (*peer, *n)));
    edges
        .filter(|(a, b)| a < b)
        .flat_map(|(a, b)| a.as_bytes().iter().chain(b.as_bytes()).copied().collect::<Vec<_>>())
        .fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests;
