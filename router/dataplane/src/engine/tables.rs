//! The forwarding tables: an immutable digest of a [`Plan`], published as a whole and read for each frame. Keys and
//! addresses are not in it; they belong to the sessions, found by [`LinkId`].

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::{MacAddr, PeerId};

use super::decide::{Transmission, towards};
use super::groups::{GROUP_COPIES_MAX, Groups};
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
    groups: BTreeMap<MacAddr, GroupWay>,
    /// Where frames for groups go that nobody has announced, and messages about members of groups.
    memberless: GroupWay,
}

/// Where captured frames for a group go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum GroupWay {
    /// One for each peer that wants them.
    Copies(Vec<Transmission>),
    /// Down our own tree: too many want them, or all do.
    Flood,
}

/// A broadcast tree as seen from here, with links in place of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FloodTree {
    /// From where the source's frames are accepted, besides from itself; `None` in our own tree.
    pub parent: Option<LinkId>,
    /// Where they go.
    pub children: Vec<LinkId>,
}

impl GroupWay {
    fn copies(&self) -> Option<&[Transmission]> {
        match self {
            Self::Copies(copies) => Some(copies),
            Self::Flood => None,
        }
    }
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
        let (groups, memberless) = (BTreeMap::new(), GroupWay::Flood);
        let (me, digest) = (plan.me, plan.digest);
        let mut tables = Self { me, digest, neighbours, links, routes, trees, peers, groups, memberless };
        tables.set_groups(&plan.groups);
        tables
    }

    fn set_groups(&mut self, groups: &Groups) {
        let others = self.peers.iter().copied().filter(|peer| *peer != self.me);
        let eager: BTreeSet<_> = others.filter(|peer| !groups.selective.contains(peer)).collect();
        self.memberless = self.way_to(&eager);
        let ways = groups.members.iter().map(|(group, members)| {
            // Eager ones that are too many by themselves are not worth a look at members.
            let way = match &self.memberless {
                GroupWay::Flood => GroupWay::Flood,
                GroupWay::Copies(_) => self.way_to(&(&eager | members)),
            };
            (*group, way)
        });
        self.groups = ways.collect();
    }

    fn way_to(&self, wanted: &BTreeSet<PeerId>) -> GroupWay {
        let is_for_all = self.peers.iter().all(|peer| *peer == self.me || wanted.contains(peer));
        if wanted.len() > GROUP_COPIES_MAX || is_for_all {
            return GroupWay::Flood;
        }
        let copies = wanted.iter().filter_map(|peer| Some(towards(*peer, self.route(*peer)?, self)));
        GroupWay::Copies(copies.collect())
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
            groups: BTreeMap::new(),
            memberless: GroupWay::Flood,
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

    /// The copies in which a captured frame for `group` leaves; `None` where it is flooded.
    #[must_use]
    pub(super) fn group_copies(&self, group: MacAddr) -> Option<&[Transmission]> {
        let way = group.is_snooped_group().then(|| self.groups.get(&group).unwrap_or(&self.memberless));
        way.and_then(GroupWay::copies)
    }

    /// The same for messages about members of groups: they are for peers that want the frames of all groups.
    #[must_use]
    pub(super) fn membership_copies(&self) -> Option<&[Transmission]> {
        self.memberless.copies()
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
