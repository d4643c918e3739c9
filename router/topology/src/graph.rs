//! The links that count, by index: what routes are computed on. Owns who is whose neighbour and how far away; searches
//! nothing.

use mesh_wire::PeerId;

use crate::{Topology, pair};

/// A distance of a [`LinkRecord`](mesh_wire::control::LinkRecord) counts at most this much; an unknown one counts as
/// much, so that what was measured comes first. It stands for a round trip of 8 s.
pub const DISTANCE_MAX: u8 = 16;

/// Peers, by the order of their ids, and the links between them that both ends list.
#[derive(Debug)]
pub struct Graph {
    peers: Vec<PeerId>,
    /// Where the links of each peer start in `links`, and where the last one's end.
    starts: Vec<usize>,
    /// For each peer, in order, its neighbours, in order.
    links: Vec<Link>,
}

/// A link, from one end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// The other end.
    pub(crate) to: u32,
    /// How long the way is, in units of 250 µs.
    pub(crate) cost: u32,
}

impl Graph {
    /// The links of `topology` that both ends list as established.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        let lists = topology.records().map(|(peer, record)| {
            let established = record.links.iter().filter(|link| link.established);
            (peer, established.map(|link| (link.peer, link.distance)))
        });
        Self::new(lists.collect())
    }

    /// The links that both ends list, out of what each peer lists: neighbours with their distances. The peers come in
    /// order.
    #[must_use]
    pub fn new<L: IntoIterator<Item = (PeerId, u8)>>(lists: Vec<(PeerId, L)>) -> Self {
        debug_assert!(lists.is_sorted_by_key(|(peer, _)| *peer), "peers come in order");
        let peers: Vec<_> = lists.iter().map(|(peer, _)| *peer).collect();
        let mut listed = Vec::new();
        for (from, (_, neighbours)) in lists.into_iter().enumerate() {
            let known = neighbours.into_iter().filter_map(|(peer, distance)| {
                let to = peers.binary_search(&peer).ok().filter(|to| *to != from)?;
                Some((index(from), index(to), distance))
            });
            listed.extend(known);
        }
        // Honest records list each neighbour once, in order: there is nothing to do then.
        listed.sort_unstable();
        listed.dedup_by_key(|(from, to, _)| (*from, *to));
        let begins: Vec<_> =
            (0..=peers.len()).map(|from| listed.partition_point(|link| link.0 < index(from))).collect();
        let mut starts = Vec::with_capacity(peers.len() + 1);
        let mut links = Vec::with_capacity(listed.len());
        for from in 0..peers.len() {
            starts.push(links.len());
            for (_, to, distance) in &listed[begins[from]..begins[from + 1]] {
                let backwards = &listed[begins[*to as usize]..begins[*to as usize + 1]];
                if let Ok(at) = backwards.binary_search_by_key(&index(from), |link| link.1) {
                    let cost = cost(*distance).max(cost(backwards[at].2));
                    links.push(Link { to: *to, cost });
                }
            }
        }
        starts.push(links.len());
        Self { peers, starts, links }
    }

    /// All peers, in order.
    #[must_use]
    pub fn peers(&self) -> &[PeerId] {
        &self.peers
    }

    /// Hash of the links: the upper half of the sum, modulo 2^64, of their pairs' hashes.
    #[must_use]
    pub fn digest(&self) -> u32 {
        let ends = (0..self.peers.len()).flat_map(|a| self.links(a).iter().map(move |b| (a, b.to as usize)));
        let hashes = ends.filter(|(a, b)| a < b).map(|(a, b)| pair::hash(self.peers[a], self.peers[b]));
        u32::try_from(hashes.fold(0, u64::wrapping_add) >> 32).expect("32 bits are left")
    }

    /// The links of the peer with this index, in order of their other ends.
    pub(crate) fn links(&self, of: usize) -> &[Link] {
        &self.links[self.starts[of]..self.starts[of + 1]]
    }
}

/// An index as it is stored; there are at most [`PEERS_MAX`](crate::topology::PEERS_MAX) peers.
pub(crate) fn index(at: usize) -> u32 {
    u32::try_from(at).expect("there are fewer peers than 2^32")
}

fn cost(distance: u8) -> u32 {
    let steps = if distance == 0 { DISTANCE_MAX } else { distance.min(DISTANCE_MAX) };
    1 << (steps - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 16])
    }

    #[test]
    fn only_links_that_both_ends_list_count_at_the_greater_distance() {
        let lists = vec![
            (id(1), vec![(id(3), 2), (id(2), 4), (id(9), 1)]),
            (id(2), vec![(id(2), 1), (id(1), 5), (id(1), 6)]),
            (id(3), vec![]),
        ];
        let graph = Graph::new(lists);
        let links: Vec<_> =
            (0..3).map(|at| graph.links(at).iter().map(|l| (l.to, l.cost)).collect::<Vec<_>>()).collect();
        assert_eq!(links, [vec![(1, 16)], vec![(0, 16)], vec![]]);
    }

    #[test]
    fn an_unknown_distance_is_the_farthest() {
        assert_eq!(cost(0), cost(DISTANCE_MAX));
        assert_eq!(cost(u8::MAX), cost(DISTANCE_MAX));
        assert_eq!([1, 2, 3].map(cost), [1, 2, 4]);
    }

    #[test]
    fn the_digest_is_that_of_the_links_alone() {
        let one = Graph::new(vec![(id(1), vec![(id(2), 1)]), (id(2), vec![(id(1), 1)])]);
        let same = Graph::new(vec![(id(1), vec![(id(2), 3)]), (id(2), vec![(id(1), 9)]), (id(3), vec![])]);
        let other = Graph::new(vec![(id(1), vec![(id(3), 1)]), (id(2), vec![]), (id(3), vec![(id(1), 1)])]);
        assert_eq!(one.digest(), same.digest());
        assert_ne!(one.digest(), other.digest());
        assert_eq!(u64::from(one.digest()), pair::hash(id(1), id(2)) >> 32);
    }
}
