//! Which way frames go: derived from the records, held nowhere else.

use std::collections::BTreeMap;

use mesh_wire::PeerId;

use crate::graph::{Graph, Link, index};
use crate::{Topology, forest};

/// Forwarding decisions of one router for one state of the topology.
///
/// Only links that both ends list as established count. All routers that hold the same records compute the same
/// trees, since ties fall to the smaller peer id.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Routes {
    /// The neighbour through which each other reachable peer is reached: by fewest hops, among those by the least round
    /// trip, among those through the smallest id.
    pub next_hop: BTreeMap<PeerId, PeerId>,
    /// How many links lead to each of these peers.
    pub hops: BTreeMap<PeerId, u16>,
    /// This router's place in the broadcast tree of each source, its own included.
    pub trees: BTreeMap<PeerId, Tree>,
    /// Hash of the links that count; equal at routers whose trees agree.
    pub digest: u32,
}

/// A router's place in the broadcast tree that is rooted at a source: the parent of each peer is, of its neighbours that
/// are one hop nearer to the source, the one with the smallest id.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tree {
    /// From whom the source's frames come; `None` in one's own tree.
    pub parent: Option<PeerId>,
    /// The neighbours to whom they go on, in order.
    pub children: Vec<PeerId>,
}

/// How a peer is reached. The least way is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    hops: u16,
    cost: u32,
    next_hop: u32,
}

impl Routes {
    /// Computes the routes of `topology`'s own router.
    #[must_use]
    pub fn compute(topology: &Topology) -> Self {
        Self::on(&Graph::of(topology), topology.me())
    }

    /// Computes the routes of `me`. Costs a breadth-first search, and one from all sources at once for the trees.
    #[must_use]
    pub fn on(graph: &Graph, me: PeerId) -> Self {
        let digest = graph.digest();
        let Ok(at) = graph.peers().binary_search(&me) else { return Self { digest, ..Self::default() } };
        let peers = graph.peers();
        let ways = ways(graph, at);
        let others = || peers.iter().zip(&ways).filter(|(peer, _)| **peer != me);
        let reached = || others().filter_map(|(peer, way)| Some((*peer, (*way)?)));
        Self {
            next_hop: reached().map(|(peer, way)| (peer, peers[way.next_hop as usize])).collect(),
            hops: reached().map(|(peer, way)| (peer, way.hops)).collect(),
            trees: forest::places(graph, at),
            digest,
        }
    }
}

/// The best way from `me` to each peer that can be reached, level by level: when a level is searched, the ways to all of
/// its peers are settled.
fn ways(graph: &Graph, me: usize) -> Vec<Option<Way>> {
    let mut ways = vec![None; graph.peers().len()];
    ways[me] = Some(Way { hops: 0, cost: 0, next_hop: index(me) });
    let mut level = vec![me];
    while !level.is_empty() {
        let mut next = Vec::new();
        for peer in level {
            let Some(way) = ways[peer] else { continue };
            for Link { to, cost } in graph.links(peer) {
                let next_hop = if peer == me { *to } else { way.next_hop };
                let further =
                    Way { hops: way.hops.saturating_add(1), cost: way.cost.saturating_add(*cost), next_hop };
                let known = &mut ways[*to as usize];
                if known.is_none() {
                    next.push(*to as usize);
                }
                if known.is_none_or(|known| further < known) {
                    *known = Some(further);
                }
            }
        }
        level = next;
    }
    ways
}

#[cfg(test)]
mod tests;
