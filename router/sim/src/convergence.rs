//! Liveness: whether all members agree on one complete picture, and what is still missing.

use std::collections::BTreeMap;

use mesh_node::ConnectionState;
use mesh_wire::PeerId;

use crate::invariants::links;
use crate::scenario::{Scenario, Secret};
use crate::{HostId, World};

/// The first thing that keeps the members from being converged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// A member does not run.
    #[error("{0} does not run")]
    Down(HostId),
    /// A member does not know exactly the members.
    #[error("{host} knows {count} peers, not {members}")]
    Peers {
        /// Who.
        host: HostId,
        /// How many it knows, itself included.
        count: usize,
        /// How many there are.
        members: usize,
    },
    /// A member holds another record of somebody than that one itself.
    #[error("{host} holds version {held} of {of}, which is at {newest}")]
    Stale {
        /// Who.
        host: HostId,
        /// Whose record.
        of: HostId,
        /// The version held.
        held: u64,
        /// The version that its origin has.
        newest: u64,
    },
    /// Two members that could be connected are not.
    #[error("{host} has no established connection with {with}: {state:?}")]
    NotEstablished {
        /// Who.
        host: HostId,
        /// With whom.
        with: HostId,
        /// What there is instead.
        state: Option<ConnectionState>,
    },
    /// A member reaches another not at all, or by a detour.
    #[error("{host} reaches {to} through {via:?}")]
    Route {
        /// Who.
        host: HostId,
        /// Whom.
        to: HostId,
        /// The next hop.
        via: Option<HostId>,
    },
    /// A member computes routes from other links than the first one does.
    #[error("{0} has another digest of the topology")]
    Digest(HostId),
}

impl World {
    /// What keeps the members of `scenario`, all of which should run, from being converged.
    #[must_use]
    pub fn difference(&self, scenario: &Scenario) -> Option<Difference> {
        let members: Vec<_> = (0..self.hosts.len())
            .map(HostId)
            .filter(|host| self.hosts[host.0].plan.secret == Secret::Right)
            .collect();
        if let Some(down) = members.iter().find(|host| self.node(**host).is_none()) {
            return Some(Difference::Down(*down));
        }
        if self.is_light() {
            return self.light_difference(&members);
        }
        if let Some(other) = members.iter().find(|host| self.digest(**host) != self.digest(members[0])) {
            return Some(Difference::Digest(*other));
        }
        let routes = members.iter().find_map(|host| self.route_difference(*host, &members, scenario));
        routes
            .or_else(|| self.record_difference(&members))
            .or_else(|| members.iter().find_map(|host| self.session_difference(*host, &members, scenario)))
    }

    /// The same where there are many: who holds other records than the first, or fewer than all.
    fn light_difference(&self, members: &[HostId]) -> Option<Difference> {
        let node = |host: HostId| self.node(host).expect("all run");
        let root = node(members[0]).topology_root();
        members.iter().find_map(|host| {
            let count = node(*host).peer_count();
            if count != members.len() {
                return Some(Difference::Peers { host: *host, count, members: members.len() });
            }
            (node(*host).topology_root() != root).then_some(Difference::Digest(*host))
        })
    }

    fn digest(&self, host: HostId) -> Option<u32> {
        Some(self.hosts[host.0].life.as_ref()?.sleeve.as_ref()?.plan().routes.digest)
    }

    fn route_difference(&self, host: HostId, members: &[HostId], scenario: &Scenario) -> Option<Difference> {
        members.iter().filter(|to| **to != host).find_map(|to| {
            let via = self.next_hop(host, *to);
            let talks = scenario.hosts[host.0].talks_to.contains(to);
            let good = via.is_some_and(|via| via == *to || !(talks || scenario.expects_link(host, *to)));
            (!good).then_some(Difference::Route { host, to: *to, via })
        })
    }

    fn record_difference(&self, members: &[HostId]) -> Option<Difference> {
        let views: Vec<BTreeMap<PeerId, _>> = members
            .iter()
            .map(|host| {
                let known = self.node(*host).map(|node| node.peer_status()).unwrap_or_default();
                known.iter().map(|status| (status.peer, (status.version, links(status)))).collect()
            })
            .collect();
        for (host, view) in members.iter().zip(&views) {
            if view.len() != members.len() {
                return Some(Difference::Peers { host: *host, count: view.len(), members: members.len() });
            }
            for (of, own_view) in members.iter().zip(&views) {
                let peer = self.peer(*of);
                let (held, newest) = (view.get(&peer), own_view.get(&peer));
                if held != newest {
                    let version = |record: Option<&(u64, _)>| record.map_or(0, |(version, _)| *version);
                    let (held, newest) = (version(held), version(newest));
                    return Some(Difference::Stale { host: *host, of: *of, held, newest });
                }
            }
        }
        None
    }

    fn session_difference(
        &self,
        host: HostId,
        members: &[HostId],
        scenario: &Scenario,
    ) -> Option<Difference> {
        let connections = self.node(host)?.connection_status();
        let state = |peer| {
            connections.iter().find(|c| c.peer.as_ref().is_some_and(|known| known.0 == peer)).map(|c| c.state)
        };
        members.iter().filter(|with| **with != host && scenario.expects_link(host, **with)).find_map(|with| {
            let state = state(self.peer(*with));
            let good = state == Some(ConnectionState::Established);
            (!good).then_some(Difference::NotEstablished { host, with: *with, state })
        })
    }
}
