//! One router's places in the broadcast trees of all sources.
//!
//! One breadth-first search serves many sources at once: a bit for each source, and for each peer the set of sources
//! that have reached it. A step of the search takes, for each peer, the union of what its neighbours have just been
//! reached by. Neighbours are asked in the order of their ids, so whoever gives a bit first is the parent in that
//! source's tree. Only the parents of this router and of its neighbours are noted.

use std::collections::BTreeMap;

use mesh_wire::PeerId;

use crate::graph::{Graph, Link};
use crate::routes::Tree;

/// 64-bit words in a set of sources: one cache line.
const WORDS: usize = 8;

/// Sources that are searched from at once.
const SOURCES: usize = WORDS * 64;

/// A set of sources, by their indices from the first of the block on.
type Set = [u64; WORDS];

const NONE: Set = [0; WORDS];

/// What the trees of one block of sources say of this router and a neighbour.
#[derive(Clone, Copy)]
struct Ties {
    /// Where the neighbour is this router's parent.
    parent: Set,
    /// Where it is this router's child.
    child: Set,
}

/// The search from one block of sources.
struct Search<'a> {
    graph: &'a Graph,
    me: usize,
    /// For each peer its place among this router's neighbours, if it has one.
    places: &'a [Option<usize>],
    /// What is known of each of this router's neighbours.
    ties: Vec<Ties>,
    /// The sources that have reached each peer.
    seen: Vec<Set>,
    /// Those among them that did so in the last step.
    front: Vec<Set>,
}

/// The tree of each source that reaches the peer with the index `me`, as that peer sees it.
pub(crate) fn places(graph: &Graph, me: usize) -> BTreeMap<PeerId, Tree> {
    let mut places = vec![None; graph.peers().len()];
    for (place, Link { to, .. }) in graph.links(me).iter().enumerate() {
        places[*to as usize] = Some(place);
    }
    let mut trees = Vec::with_capacity(graph.peers().len());
    for first in (0..graph.peers().len()).step_by(SOURCES) {
        Search::new(graph, me, &places, first).run(first, &mut trees);
    }
    trees.into_iter().collect()
}

impl<'a> Search<'a> {
    /// The search after its first step: each source of the block has reached itself and its neighbours.
    fn new(graph: &'a Graph, me: usize, places: &'a [Option<usize>], first: usize) -> Self {
        let count = graph.peers().len();
        let sources = first..count.min(first + SOURCES);
        let beyond = (sources.len()..SOURCES).fold(NONE, with);
        let mut seen = vec![beyond; count];
        let mut front = vec![NONE; count];
        for source in sources.clone() {
            for Link { to, .. } in graph.links(source) {
                front[*to as usize] = with(front[*to as usize], source - first);
            }
            seen[source] = with(seen[source], source - first);
        }
        for (seen, front) in seen.iter_mut().zip(&front) {
            *seen = or(*seen, front);
        }
        let ties = graph.links(me).iter().map(|Link { to, .. }| {
            let in_block =
                |peer: usize| if sources.contains(&peer) { with(NONE, peer - first) } else { NONE };
            // A neighbour is this router's parent in its own tree, and its child in this router's.
            Ties { parent: in_block(*to as usize), child: in_block(me) }
        });
        Self { graph, me, places, ties: ties.collect(), seen, front }
    }

    /// Searches to the end, and adds a tree for each source that has reached this router.
    fn run(mut self, first: usize, trees: &mut Vec<(PeerId, Tree)>) {
        while self.step() {}
        let peers = self.graph.peers();
        let sources = (first..peers.len().min(first + SOURCES))
            .filter(|source| has(&self.seen[self.me], source - first));
        // Where the tree of each source stands in `trees`.
        let mut at = [usize::MAX; SOURCES];
        for source in sources {
            at[source - first] = trees.len();
            trees.push((peers[source], Tree::default()));
        }
        for (ties, Link { to, .. }) in self.ties.iter().zip(self.graph.links(self.me)) {
            let peer = peers[*to as usize];
            for source in bits(&ties.parent) {
                trees[at[source]].1.parent = Some(peer);
            }
            for source in bits(&ties.child) {
                trees[at[source]].1.children.push(peer);
            }
        }
    }

    /// Goes one hop further. Returns whether anybody was reached.
    fn step(&mut self) -> bool {
        let next: Vec<_> = (0..self.seen.len()).map(|peer| self.reach(peer)).collect();
        self.front = next;
        for (seen, new) in self.seen.iter_mut().zip(&self.front) {
            *seen = or(*seen, new);
        }
        self.front.iter().any(|new| *new != NONE)
    }

    /// The sources that reach `peer` through its neighbours in this step.
    fn reach(&mut self, peer: usize) -> Set {
        let missing = self.seen[peer].map(|word| !word);
        let mut new = NONE;
        if missing == NONE {
            return new;
        }
        for Link { to, .. } in self.graph.links(peer) {
            let neighbour = *to as usize;
            let front = &self.front[neighbour];
            // What this neighbour is the first to give: there it is the parent of `peer`.
            let given: Set = std::array::from_fn(|word| front[word] & missing[word] & !new[word]);
            new = or(new, &given);
            if peer == self.me {
                let place = self.places[neighbour].expect("it is a neighbour of this router");
                self.ties[place].parent = or(self.ties[place].parent, &given);
            } else if neighbour == self.me {
                let place = self.places[peer].expect("it is a neighbour of this router");
                self.ties[place].child = or(self.ties[place].child, &given);
            }
        }
        new
    }
}

fn or(set: Set, more: &Set) -> Set {
    std::array::from_fn(|word| set[word] | more[word])
}

const fn with(mut set: Set, source: usize) -> Set {
    set[source / 64] |= 1 << (source % 64);
    set
}

const fn has(set: &Set, source: usize) -> bool {
    set[source / 64] >> (source % 64) & 1 == 1
}

fn bits(set: &Set) -> impl Iterator<Item = usize> {
    set.iter().enumerate().flat_map(|(at, word)| {
        let mut rest = *word;
        std::iter::from_fn(move || {
            let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(64 * at + bit)
        })
    })
}
