//! Who shall be connected with whom. Owns the rule; dials and closes nothing.
//!
//! In a small network everybody is connected with everybody. Past the connection limit each peer chooses some by
//! rendezvous hashing: those with whom it has the smallest hashes of a pair, and its successor in the
//! order of ids. The hash is the same for both of a pair, so most choices are mutual and degrees stay near the number of
//! choices; that it is random makes paths short; the ring of successors keeps the network in one piece whatever the
//! hashes are. Who comes or goes changes the choices of only those peers that choose it.

use std::collections::BTreeSet;

use mesh_wire::PeerId;

use crate::{Topology, pair};

/// Fewest peers that each one chooses in a partial mesh.
pub const CHOICES_MIN: usize = 8;

/// Choices beyond the binary logarithm of the number of peers.
pub const CHOICES_MORE: usize = 3;

/// A full mesh in which a peer too many turns up stays as it is until there are so many more, as a share of the connection
/// limit: or one that comes and goes would have all others take most of their links down and set them up again.
const MESH_KEPT: usize = 4;

/// The rule, for the peers known at one time.
#[derive(Debug, Default)]
pub struct Formation {
    /// All peers, in order.
    peers: Vec<PeerId>,
    /// How many others each peer chooses by hash.
    choices: usize,
    /// See [`Self::links_max`].
    links_max: usize,
}

impl Formation {
    /// The rule for `peers`, in order. Up to `connection_limit` others each is connected with all.
    pub fn new(peers: impl IntoIterator<Item = PeerId>, connection_limit: usize) -> Self {
        let peers: Vec<_> = peers.into_iter().collect();
        debug_assert!(peers.is_sorted(), "peers come in order");
        let (choices, links_max) =
            (choices(peers.len(), connection_limit), Self::links_max(peers.len(), connection_limit));
        Self { peers, choices, links_max }
    }

    /// Among so many peers, a router with more connections than these shall let those go that neither end chooses. In a
    /// partial mesh that is twice what it chooses itself: most have fewer once all links are as they shall be.
    #[must_use]
    pub fn links_max(peers: usize, connection_limit: usize) -> usize {
        let others = peers.saturating_sub(1);
        let partial = others > connection_limit + connection_limit / MESH_KEPT;
        let chosen = 2 * (choices(peers, connection_limit) + 1);
        if partial { chosen.min(connection_limit) } else { connection_limit }
    }

    /// Whom `chooser` chooses: it dials them.
    #[must_use]
    pub fn choices(&self, chooser: PeerId) -> BTreeSet<PeerId> {
        let others = self.peers.iter().copied().filter(|peer| *peer != chooser);
        let mut ranked: Vec<_> = others.map(|peer| (pair::hash(chooser, peer), peer)).collect();
        if self.choices < ranked.len() {
            ranked.select_nth_unstable(self.choices);
            ranked.truncate(self.choices);
        }
        ranked.into_iter().map(|(_, peer)| peer).chain(self.successor(chooser)).collect()
    }

    /// Whether `chooser` chooses `other`.
    #[must_use]
    pub fn chooses(&self, chooser: PeerId, other: PeerId) -> bool {
        let rank = (pair::hash(chooser, other), other);
        let others = self.peers.iter().filter(|peer| **peer != chooser);
        let nearer = others.filter(|peer| (pair::hash(chooser, **peer), **peer) < rank);
        self.successor(chooser) == Some(other) || nearer.take(self.choices).count() < self.choices
    }

    /// The neighbours, among those that `me` is connected with, that it shall let go since it has more than
    /// [`Self::links_max`]: neither end chooses the other, and the neighbour has links enough without it. As many as there
    /// are too many, if there are, and those first that both ends hold for the worst.
    #[must_use]
    pub fn surplus(&self, topology: &Topology, connected: &BTreeSet<PeerId>) -> Vec<PeerId> {
        let me = topology.me();
        let too_many = connected.len().saturating_sub(self.links_max);
        if too_many == 0 {
            return Vec::new();
        }
        let mut spare: Vec<_> = connected
            .iter()
            .copied()
            .filter(|peer| !self.chooses(me, *peer) && !self.chooses(*peer, me))
            .filter(|peer| self.has_enough_without(topology, *peer))
            .collect();
        spare.sort_unstable_by_key(|peer| std::cmp::Reverse((pair::hash(me, *peer), *peer)));
        spare.truncate(too_many);
        spare
    }

    fn has_enough_without(&self, topology: &Topology, peer: PeerId) -> bool {
        let links = topology.record(peer).map_or(&[][..], |record| &record.links);
        let others = links.iter().filter(|link| link.established && link.peer != topology.me());
        others.count() >= self.choices
    }

    /// The next peer in the order of ids, and the first after the last.
    fn successor(&self, of: PeerId) -> Option<PeerId> {
        let after = self.peers.partition_point(|peer| *peer <= of);
        self.peers.get(after).or_else(|| self.peers.first()).copied().filter(|peer| *peer != of)
    }
}

/// How many others each of so many peers chooses by hash.
fn choices(peers: usize, connection_limit: usize) -> usize {
    let others = peers.saturating_sub(1);
    let log2 = usize::try_from(peers.next_power_of_two().ilog2()).unwrap_or(usize::MAX);
    let partial = CHOICES_MIN.max(log2 + CHOICES_MORE).min(others);
    if others <= connection_limit { others } else { partial }
}

#[cfg(test)]
mod tests;
