//! Whether the ways that routers plan lead where they should: followed hop by hop through the plans of all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_topology::Routes;
use mesh_wire::PeerId;

use crate::invariants::Violation;
use crate::scenario::Secret;
use crate::{HostId, World};

/// Up to so many hosts, all routes and trees are looked at.
const FOLLOWED_MAX: usize = 1_000;

/// From how many hosts ways are followed where there are more.
const SOURCES_OF_MANY: usize = 3;

/// Most hops that a frame survives.
const HOPS_MAX: usize = 15;

impl World {
    /// Follows frames from so many hosts to all others, and broadcasts of as many, through the routes that all hold by now.
    /// Where there are more hosts than `FOLLOWED_MAX`, fewer are sampled, and broadcasts, which pass all, are not followed.
    /// Returns the hops of the longest way. To be asked when all agree.
    ///
    /// # Errors
    /// A way that ends nowhere, or a broadcast that does not reach each host once.
    pub fn follow_routes(&mut self, sample: usize) -> Result<usize, Violation> {
        let members = self.hosts.iter().enumerate().filter(|(_, host)| host.plan.secret == Secret::Right);
        let members: BTreeMap<_, _> = members.map(|(index, host)| (host.peer, HostId(index))).collect();
        let few = |count: usize| members.keys().copied().step_by((members.len() / count.max(1)).max(1));
        let mut routes = Routed { world: self, members: &members, known: BTreeMap::new() };
        let is_large = members.len() > FOLLOWED_MAX;
        let mut longest = 0;
        for source in few(if is_large { SOURCES_OF_MANY } else { sample }) {
            for destination in few(if is_large { sample } else { members.len() }) {
                longest = longest.max(routes.follow(source, destination)?);
            }
            if !is_large {
                routes.flood(source)?;
            }
        }
        Ok(longest)
    }
}

/// The routes of hosts, taken from each when they are first needed: for thousands of hosts each has megabytes.
struct Routed<'a> {
    world: &'a mut World,
    members: &'a BTreeMap<PeerId, HostId>,
    known: BTreeMap<PeerId, Routes>,
}

impl Routed<'_> {
    fn of(&mut self, peer: PeerId) -> Option<&Routes> {
        let life = self.world.hosts[self.members.get(&peer)?.0].life.as_mut()?;
        Some(self.known.entry(peer).or_insert_with(|| life.node.plan().routes))
    }

    /// The hops from `source` to `destination`.
    fn follow(&mut self, source: PeerId, destination: PeerId) -> Result<usize, Violation> {
        let mut at = source;
        for hops in 0..=HOPS_MAX {
            if at == destination {
                return Ok(hops);
            }
            match self.of(at).and_then(|routes| routes.next_hop.get(&destination).copied()) {
                Some(next) => at = next,
                None => break,
            }
        }
        let from = self.members[&source];
        Err(Violation::WrongWay { from, to: destination, at: self.members.get(&at).copied() })
    }

    /// Lets a broadcast of `source` go down its tree: each host takes it once, from its parent.
    fn flood(&mut self, source: PeerId) -> Result<(), Violation> {
        let origin = self.members[&source];
        let mut reached = BTreeSet::from([source]);
        let mut under_way = VecDeque::from([source]);
        while let Some(from) = under_way.pop_front() {
            let tree = self.of(from).and_then(|routes| routes.trees.get(&source));
            for child in tree.map(|tree| tree.children.clone()).unwrap_or_default() {
                let parent = self.of(child).and_then(|routes| routes.trees.get(&source)?.parent);
                if parent != Some(from) || !reached.insert(child) {
                    return Err(Violation::WrongTree { origin, at: child });
                }
                under_way.push_back(child);
            }
        }
        match self.members.keys().find(|peer| !reached.contains(peer)) {
            Some(missed) => Err(Violation::WrongTree { origin, at: *missed }),
            None => Ok(()),
        }
    }
}
