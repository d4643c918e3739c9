//! Whether the ways that routers plan lead where they should: followed hop by hop through the plans of all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_topology::Routes;
use mesh_wire::PeerId;

use crate::invariants::Violation;
use crate::scenario::Secret;
use crate::{HostId, World};

/// Most hops that a frame survives.
const HOPS_MAX: usize = 15;

impl World {
    /// Follows frames from so many hosts to all others, and broadcasts of as many, through the routes that all hold by now.
    /// Returns the hops of the longest way. To be asked when all agree.
    ///
    /// # Errors
    /// A way that ends nowhere, or a broadcast that does not reach each host once.
    pub fn follow_routes(&mut self, sample: usize) -> Result<usize, Violation> {
        let mut routes: BTreeMap<PeerId, (HostId, Routes)> = BTreeMap::new();
        for (index, host) in self.hosts.iter_mut().enumerate() {
            if let Some(life) = host.life.as_mut().filter(|_| host.plan.secret == Secret::Right) {
                routes.insert(host.peer, (HostId(index), life.node.plan().routes));
            }
        }
        let mut longest = 0;
        let step = (routes.len() / sample.max(1)).max(1);
        let sources: Vec<_> = routes.keys().copied().step_by(step).collect();
        for source in sources {
            for destination in routes[&source].1.next_hop.keys() {
                longest = longest.max(follow(&routes, source, *destination)?);
            }
            flood(&routes, source)?;
        }
        Ok(longest)
    }
}

/// The hops from `source` to `destination`.
fn follow(
    routes: &BTreeMap<PeerId, (HostId, Routes)>,
    source: PeerId,
    destination: PeerId,
) -> Result<usize, Violation> {
    let mut at = source;
    for hops in 0..=HOPS_MAX {
        if at == destination {
            return Ok(hops);
        }
        match routes.get(&at).and_then(|(_, routes)| routes.next_hop.get(&destination)) {
            Some(next) => at = *next,
            None => break,
        }
    }
    Err(Violation::WrongWay {
        from: routes[&source].0,
        to: destination,
        at: routes.get(&at).map(|(host, _)| *host),
    })
}

/// Lets a broadcast of `source` go down its tree: each host takes it once, from its parent.
fn flood(routes: &BTreeMap<PeerId, (HostId, Routes)>, source: PeerId) -> Result<(), Violation> {
    let mut reached = BTreeSet::from([source]);
    let mut under_way = VecDeque::from([source]);
    while let Some(from) = under_way.pop_front() {
        let Some(tree) = routes.get(&from).and_then(|(_, routes)| routes.trees.get(&source)) else {
            continue;
        };
        for child in &tree.children {
            let parent = routes.get(child).and_then(|(_, routes)| routes.trees.get(&source)?.parent);
            if parent != Some(from) || !reached.insert(*child) {
                return Err(Violation::WrongTree { origin: routes[&source].0, at: *child });
            }
            under_way.push_back(*child);
        }
    }
    match routes.keys().find(|peer| !reached.contains(peer)) {
        Some(missed) => Err(Violation::WrongTree { origin: routes[&source].0, at: *missed }),
        None => Ok(()),
    }
}
