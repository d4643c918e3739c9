//! The forwarding tables: an immutable digest of a [`Plan`], published as a whole and read for each frame. Keys and
//! addresses are not in it; they belong to the sessions, found by [`LinkId`].

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::PeerId;

use super::plan::{Plan, Tree};

/// A neighbour's place in one publication of the tables; meaningless in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(usize);

impl LinkId {
    /// Its place in [`Plan::links`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// Who this router is, and where frames for others go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    me: PeerId,
    digest: u32,
    neighbours: Vec<PeerId>,
    links: BTreeMap<PeerId, LinkId>,
    routes: BTreeMap<PeerId, LinkId>,
    trees: BTreeMap<PeerId, FloodTree>,
    peers: BTreeSet<PeerId>,
}

/// A broadcast tree as seen from here, with links in place of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FloodTree {
    /// From where the source's frames are accepted, besides from itself; `None` in our own tree.
    pub parent: Option<LinkId>,
    /// Where they go.
    pub children: Vec<LinkId>,
}

impl Tables {
    /// The tables of `plan`.
    ///
    /// What cannot carry is left out here, so that nothing is looked at twice per frame: routes and branches over
    /// neighbours without a key to send with. A neighbour whose route is missing or left out is reached directly.
    /// A route over another neighbour wins over the direct link: the control plane chose it because the direct
    /// link does not carry at the moment.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let neighbours: Vec<_> = plan.links.iter().map(|link| link.peer).collect();
        let links: BTreeMap<_, _> =
            neighbours.iter().enumerate().map(|(at, peer)| (*peer, LinkId(at))).collect();
        let usable: BTreeMap<_, _> = links
            .iter()
            .filter(|(_, link)| plan.links[link.0].send.is_some())
            .map(|(p, l)| (*p, *l))
            .collect();
        let mut routes = usable.clone();
        for (peer, hop) in &plan.next_hop {
            if let Some(link) = usable.get(hop) {
                routes.insert(*peer, *link);
            }
        }
        let trees =
            plan.trees.iter().map(|(source, tree)| (*source, flood_tree(tree, &links, &usable))).collect();
        let peers = plan.next_hop.keys().copied().chain(neighbours.iter().copied()).collect();
        Self { me: plan.me, digest: plan.digest, neighbours, links, routes, trees, peers }
    }

    /// The tables of a router without neighbours.
    #[must_use]
    pub fn alone(me: PeerId) -> Self {
        Self {
            me,
            digest: 0,
            neighbours: Vec::new(),
            links: BTreeMap::new(),
            routes: BTreeMap::new(),
            trees: BTreeMap::new(),
            peers: BTreeSet::new(),
        }
    }

    /// This router.
    #[must_use]
    pub const fn me(&self) -> PeerId {
        self.me
    }

    /// Digest of the topology.
    #[must_use]
    pub const fn digest(&self) -> u32 {
        self.digest
    }

    /// The neighbour behind a link of these tables.
    ///
    /// # Panics
    /// When `link` comes from other tables.
    #[must_use]
    pub fn neighbour(&self, link: LinkId) -> PeerId {
        self.neighbours[link.0]
    }

    /// The neighbours, in the order of their [`LinkId`].
    #[must_use]
    pub fn neighbours(&self) -> &[PeerId] {
        &self.neighbours
    }

    /// The link to a neighbour.
    #[must_use]
    pub fn link(&self, peer: PeerId) -> Option<LinkId> {
        self.links.get(&peer).copied()
    }

    /// The link over which frames for `peer` leave.
    #[must_use]
    pub fn route(&self, peer: PeerId) -> Option<LinkId> {
        self.routes.get(&peer).copied()
    }

    /// The broadcast tree of `source`.
    #[must_use]
    pub fn tree(&self, source: PeerId) -> Option<&FloodTree> {
        self.trees.get(&source)
    }

    /// True when `peer` is part of the network that these tables know: only such peers own MACs.
    #[must_use]
    pub fn knows(&self, peer: PeerId) -> bool {
        self.peers.contains(&peer)
    }
}

fn flood_tree(tree: &Tree, links: &BTreeMap<PeerId, LinkId>, usable: &BTreeMap<PeerId, LinkId>) -> FloodTree {
    let parent = tree.parent.and_then(|peer| links.get(&peer).copied());
    let children = tree.children.iter().filter_map(|peer| usable.get(peer).copied()).collect();
    FloodTree { parent, children }
}
