//! To whom a router passes news on at once. Owns the rule; sends nothing.
//!
//! An origin gives its record to all its neighbours itself. Whoever passes one on leaves those out whom the record names as
//! neighbours of its origin, and where many links are, lets each peer be fed by a few: those of its neighbours with whom
//! it has the smallest hashes of a pair, as everybody reads from its record. So a peer is sent the same news
//! [`SOURCES`] times, not once a link, and each has sources: a sender that picked its receivers at random would miss some.

use mesh_wire::PeerId;

use crate::{Topology, pair};

/// A peer with up to so many links is fed by all its neighbours, so that no bridge between parts of the network is left out.
pub const FED_BY_ALL_MAX: usize = 12;

/// How many of its neighbours feed a peer with more links: were a tenth of the links broken and nobody knew, one peer in
/// ten thousand would be missed.
pub const SOURCES: usize = 4;

impl Topology {
    /// Whether this router passes all news on to `neighbour`.
    #[must_use]
    pub fn feeds(&self, neighbour: PeerId) -> bool {
        let me = self.me();
        let Some(record) = self.record(neighbour) else { return true };
        let others = || record.links.iter().filter(|link| link.established && link.peer != me);
        if others().count() < FED_BY_ALL_MAX {
            return true;
        }
        let rank = |peer| (pair::hash(neighbour, peer), peer);
        let nearer = others().filter(|link| rank(link.peer) < rank(me));
        nearer.take(SOURCES).count() < SOURCES
    }

    /// Whether the record of `origin` names `neighbour`, which then has it from there.
    #[must_use]
    pub fn is_told_by(&self, neighbour: PeerId, origin: PeerId) -> bool {
        self.record(origin)
            .is_some_and(|record| record.links.iter().any(|link| link.peer == neighbour && link.established))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use mesh_crypto::{Identity, Rng};
    use mesh_wire::BootCount;
    use mesh_wire::control::LinkRecord;

    use super::*;
    use crate::Formation;

    /// All routers of a network in which each is connected with whom it or the other one chooses.
    fn network(peers: usize) -> Vec<Topology> {
        let mut rng = Rng::from_seed([7; 32]);
        let identities: Vec<_> = (0..peers).map(|_| Identity::generate(&mut rng)).collect();
        let ids: BTreeSet<_> = identities.iter().map(Identity::peer_id).collect();
        let formation = Formation::new(ids.iter().copied(), 0);
        let mut links: BTreeMap<PeerId, BTreeSet<PeerId>> = BTreeMap::new();
        for from in &ids {
            for to in formation.choices(*from) {
                links.entry(*from).or_default().insert(to);
                links.entry(to).or_default().insert(*from);
            }
        }
        let link = |peer: &PeerId| LinkRecord {
            peer: *peer,
            address: "192.0.2.1:6783".parse().expect("a literal"),
            outbound: true,
            established: true,
            distance: 1,
            overlay: 1,
        };
        let mut topologies: Vec<_> = identities
            .iter()
            .map(|identity| {
                let nickname = "h".parse().expect("a letter");
                let mut topology = Topology::new(identity, BootCount(1), nickname, 6783, 1);
                topology.publish(identity, links[&identity.peer_id()].iter().map(link).collect());
                topology
            })
            .collect();
        let entries: Vec<_> =
            topologies.iter().map(|t| t.entry(t.me()).expect("own record").to_vec()).collect();
        for topology in &mut topologies {
            for entry in &entries {
                topology.merge(entry).expect("genuine");
            }
        }
        topologies
    }

    #[test]
    fn everybody_in_a_large_mesh_is_fed_by_a_few_and_what_one_says_reaches_all() {
        let topologies = network(200);
        let by_id: BTreeMap<_, _> = topologies.iter().map(|topology| (topology.me(), topology)).collect();
        let neighbours = |of: &Topology| of.own().links.iter().map(|link| link.peer).collect::<Vec<_>>();
        for topology in &topologies {
            let sources = neighbours(topology).into_iter().filter(|peer| by_id[peer].feeds(topology.me()));
            assert!((SOURCES..=FED_BY_ALL_MAX).contains(&sources.count()));
        }
        for origin in &topologies {
            let mut told: BTreeSet<_> = neighbours(origin).into_iter().chain([origin.me()]).collect();
            let mut frontier = neighbours(origin);
            while let Some(from) = frontier.pop() {
                let goes_to =
                    |to: &PeerId| !by_id[&from].is_told_by(*to, origin.me()) && by_id[&from].feeds(*to);
                let next = neighbours(by_id[&from]).into_iter().filter(goes_to);
                frontier.extend(next.filter(|to| told.insert(*to)));
            }
            assert_eq!(told.len(), topologies.len());
        }
    }

    #[test]
    fn where_links_are_few_everybody_feeds_all() {
        for topology in network(8) {
            assert!(topology.own().links.iter().all(|link| topology.feeds(link.peer)));
        }
    }
}
