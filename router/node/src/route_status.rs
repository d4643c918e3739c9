//! What the node tells of its routes, and why they are as they are: plain data for `mesh status routes`, made on demand.

use std::collections::BTreeMap;
use std::fmt;

use mesh_topology::Target;
use mesh_wire::{Nickname, PeerId};

use crate::connection::{CloseCause, Connection};
use crate::node::Node;

/// The routes of a router, as its data plane was last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStatus {
    /// One for each other peer that is known.
    pub unicast: Vec<UnicastRoute>,
    /// One for each source of broadcasts, this router among them.
    pub broadcast: Vec<BroadcastRoute>,
}

/// The way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnicastRoute {
    /// To whom.
    pub peer: PeerId,
    /// Its label.
    pub nickname: Nickname,
    /// The neighbour that frames go to; the peer itself when they go straight. None when there is no way.
    pub via: Option<PeerId>,
    /// Links on the way, where the topology tells.
    pub hops: Option<u16>,
    /// Why this way.
    pub reason: RouteReason,
}

/// Why frames to a peer take the way that they take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteReason {
    /// Packets pass on the link that belongs to a connection.
    Direct,
    /// Packets pass straight, though there is no connection: the keys were agreed on by way of others.
    DirectSession,
    /// There is a connection, but no packet passes beside it.
    LinkSilent,
    /// This router tries to connect, and failed.
    NotConnected(CloseCause),
    /// This router has no reason to connect with the peer.
    NotWanted,
    /// Nobody whom this router reaches has a link with the peer that carries frames.
    Unreachable,
}

/// This router's place in the tree by which the broadcasts of a source travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BroadcastRoute {
    /// Whose broadcasts.
    pub source: PeerId,
    /// From whom they come; `None` for this router's own.
    pub from: Option<PeerId>,
    /// To whom they go on.
    pub via: Vec<PeerId>,
}

impl fmt::Display for RouteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::DirectSession => f.write_str("direct session: keys agreed on by way of other peers"),
            Self::LinkSilent => f.write_str("relayed: there is a connection, but no packet passes beside it"),
            Self::NotConnected(cause) => write!(f, "relayed: {cause}"),
            Self::NotWanted => f.write_str("relayed: no connection is wanted"),
            Self::Unreachable => f.write_str("unreachable: no chain of links that carry frames leads there"),
        }
    }
}

impl Node {
    /// The routes, and why they are so.
    #[must_use]
    pub fn route_status(&self) -> RouteStatus {
        let routes = self.survey.routes();
        let failures = self.failures_by_peer();
        let others = self.topology.records().filter(|(peer, _)| *peer != self.peer_id());
        let unicast = others.map(|(peer, record)| {
            let (via, reason) = self.way(peer, &failures);
            let hops = match reason {
                RouteReason::DirectSession => Some(1),
                RouteReason::Unreachable => None,
                RouteReason::Direct
                | RouteReason::LinkSilent
                | RouteReason::NotConnected(_)
                | RouteReason::NotWanted => routes.hops.get(&peer).copied(),
            };
            UnicastRoute { peer, nickname: record.nickname.clone(), via, hops, reason }
        });
        let broadcast = routes.trees.iter().map(|(source, tree)| BroadcastRoute {
            source: *source,
            from: tree.parent,
            via: tree.children.clone(),
        });
        RouteStatus { unicast: unicast.collect(), broadcast: broadcast.collect() }
    }

    fn way(&self, peer: PeerId, failures: &BTreeMap<PeerId, &CloseCause>) -> (Option<PeerId>, RouteReason) {
        let is_alive = |id| {
            self.connections.get(&id).and_then(Connection::open).is_some_and(|open| open.data.is_alive())
        };
        if self.relays.with(peer).is_some_and(is_alive) {
            return (Some(peer), RouteReason::DirectSession);
        }
        let Some(via) = self.survey.routes().next_hop.get(&peer).copied() else {
            return (None, RouteReason::Unreachable);
        };
        if via == peer {
            return (Some(via), RouteReason::Direct);
        }
        let reason = match (self.sessions.contains_key(&peer), failures.get(&peer)) {
            (true, _) => RouteReason::LinkSilent,
            (false, Some(cause)) => RouteReason::NotConnected((*cause).clone()),
            (false, None) => RouteReason::NotWanted,
        };
        (Some(via), reason)
    }

    /// Why the last attempt at each peer failed whose address others have told.
    fn failures_by_peer(&self) -> BTreeMap<PeerId, &CloseCause> {
        let of_peer = |(target, cause)| match target {
            &Target::Discovered { peer, .. } => Some((peer, cause)),
            Target::Named { .. } => None,
        };
        self.failures.iter().filter_map(of_peer).collect()
    }
}
