//! Safety: what never happens, whatever breaks. Checked after each step of each router.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use mesh_crypto::DirectionKey;
use mesh_node::{PeerStatus, Plan};
use mesh_wire::{Moment, PeerId, ReceiverIndex};

use crate::HostId;
use crate::world::{Host, World};

/// Most times that one router's timeout may be due at one moment.
const WAKES_PER_MOMENT_MAX: u32 = 8;

/// What never happens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A router names a time to be woken at that has passed.
    #[error("{host} wants to be woken {late_ns} ns ago")]
    TimeoutInThePast {
        /// Whose.
        host: HostId,
        /// How long ago.
        late_ns: u128,
    },
    /// A router's timeout is due again and again without time passing.
    #[error("{host} keeps waking up at one moment")]
    BusyLoop {
        /// Whose.
        host: HostId,
    },
    /// A router holds more connections than it has reasons for.
    #[error("{host} holds {count} connections, more than {max}")]
    TooManyConnections {
        /// Whose.
        host: HostId,
        /// How many.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A router knows a peer that is no member of its network.
    #[error("{host} knows {peer}, which is no member of its network")]
    Stranger {
        /// Who knows it.
        host: HostId,
        /// The stranger.
        peer: PeerId,
    },
    /// A router holds a record that its origin never published.
    #[error("{host} holds version {version} of {peer} with links that {peer} never published under it")]
    Forged {
        /// Who holds it.
        host: HostId,
        /// The supposed origin.
        peer: PeerId,
        /// The version.
        version: u64,
    },
    /// A router counts two sessions with one peer.
    #[error("{host} counts {count} sessions with {peer}")]
    TwoSessions {
        /// Who counts.
        host: HostId,
        /// The peer.
        peer: PeerId,
        /// How many.
        count: usize,
    },
    /// The plan has a link without a session.
    #[error("{host} plans a link with {peer}, with whom it has no session")]
    LinkWithoutSession {
        /// Whose plan.
        host: HostId,
        /// The peer.
        peer: PeerId,
    },
    /// The plan forwards through somebody to whom there is no link.
    #[error("{host} forwards through {hop}, to whom its plan has no link")]
    HopWithoutLink {
        /// Whose plan.
        host: HostId,
        /// The next hop or child in a tree.
        hop: PeerId,
    },
    /// Frames would travel in clear although the network has a secret, or the other way round.
    #[error("{host} protects its link with {peer} otherwise than the network's secret says")]
    WrongProtection {
        /// Whose plan.
        host: HostId,
        /// The neighbour.
        peer: PeerId,
    },
    /// A key or an index serves two sessions.
    #[error("{host} receives from {peer} under a key that another session used")]
    KeyReused {
        /// Whose plan.
        host: HostId,
        /// The neighbour.
        peer: PeerId,
    },
    /// The ends of a session disagree on a key.
    #[error("{host} cannot open what {peer} sealed for it")]
    KeysDiffer {
        /// The receiver.
        host: HostId,
        /// The sender.
        peer: PeerId,
    },
    /// A frame does not arrive, though all agree on the topology.
    #[error("a frame from {from} to {to} goes no further than {at:?}")]
    WrongWay {
        /// Whose frame.
        from: HostId,
        /// For whom.
        to: PeerId,
        /// Where it is lost.
        at: Option<HostId>,
    },
    /// A broadcast misses a host or comes twice, though all agree on the topology.
    #[error("a broadcast of {origin} does not come to {at} exactly once, from its parent")]
    WrongTree {
        /// Whose.
        origin: HostId,
        /// Where.
        at: PeerId,
    },
    /// A router panicked.
    #[error("panic: {0}")]
    Panic(Panic),
}

/// What a panic said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Panic {
    pub(crate) text: String,
}

/// All that routers have published and used so far, against which each step is checked. It grows with the run.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    records: BTreeMap<(PeerId, u64), BTreeSet<Vec<Link>>>,
    keys: BTreeMap<Vec<u8>, KeyUse>,
}

/// A link as published: neighbour, address, outbound, established.
type Link = (PeerId, SocketAddr, bool, bool);

/// The only use that a receiving key may have: host, life, neighbour, epoch, index.
type KeyUse = (HostId, u64, PeerId, u32, ReceiverIndex);

impl World {
    /// The checks of every step; they look at nothing that grows with the network.
    pub(crate) fn check_step(&self, host: HostId) -> Result<(), Violation> {
        let now = self.now();
        let Some(life) = &self.hosts[host.0].life else { return Ok(()) };
        if let Some(at) = life.node_timeout.filter(|at| *at < now) {
            return Err(Violation::TimeoutInThePast { host, late_ns: since(now, at) });
        }
        if life.wakes_at.0 == now && life.wakes_at.1 > WAKES_PER_MOMENT_MAX {
            return Err(Violation::BusyLoop { host });
        }
        let max = self.connections_max();
        let count = life.streams.len();
        if count > max {
            return Err(Violation::TooManyConnections { host, count, max });
        }
        Ok(())
    }

    /// Each pair may dial each other by name and by address, and a connection may linger while the next one is made.
    const fn connections_max(&self) -> usize {
        8 * self.hosts.len() + 8
    }

    /// Remembers what a router says of itself, whenever it says something new.
    pub(crate) fn note_own_record(&mut self, host: HostId) {
        let place = &mut self.hosts[host.0];
        let Some(life) = &place.life else { return };
        let own = life.node.own_record();
        if place.noted != (own.boot, own.version) {
            place.noted = (own.boot, own.version);
            let links = own
                .links
                .iter()
                .map(|link| (link.peer, link.address, link.outbound, link.established))
                .collect();
            self.histories.records.entry((place.peer, own.version)).or_default().insert(links);
        }
    }

    /// The checks of every step that may have changed topology, sessions or plan.
    pub(crate) fn check_views(&mut self, host: HostId) -> Result<(), Violation> {
        let place = &self.hosts[host.0];
        let Some(life) = &place.life else { return Ok(()) };
        let known = life.node.peer_status();
        for status in &known {
            if !self.is_member_with(host, status.peer) {
                return Err(Violation::Stranger { host, peer: status.peer });
            }
            let name = (status.peer, status.version);
            // What a copy says twice within one step was not noted in between.
            if !status.is_self
                && !self.is_doubled(status.peer)
                && !self.histories.records.get(&name).is_some_and(|sets| sets.contains(&links(status)))
            {
                return Err(Violation::Forged { host, peer: status.peer, version: status.version });
            }
        }
        let mut sessions: BTreeMap<PeerId, usize> = BTreeMap::new();
        for (peer, _) in life.node.connection_status().into_iter().filter_map(|connection| connection.peer) {
            *sessions.entry(peer).or_default() += 1;
        }
        for (peer, count) in &sessions {
            if *count > 1 {
                return Err(Violation::TwoSessions { host, peer: *peer, count: *count });
            }
            if !self.is_member_with(host, *peer) {
                return Err(Violation::Stranger { host, peer: *peer });
            }
        }
        let Some(sleeve) = &life.sleeve else { return Ok(()) };
        let others = life.node.relayed_peers().chain(life.node.orphaned_peers());
        let with_keys = sessions.into_keys().chain(others).collect();
        check_plan(host, sleeve.plan(), &with_keys)?;
        let sealed = life.node.has_secret();
        let number = life.number;
        for link in &sleeve.plan().links {
            for receive in &link.receive {
                let (is_sealed, key) = key_bytes(&receive.key);
                if is_sealed != sealed {
                    return Err(Violation::WrongProtection { host, peer: link.peer });
                }
                let only = (host, number, link.peer, receive.epoch, receive.index);
                if *self.histories.keys.entry(key).or_insert(only) != only {
                    return Err(Violation::KeyReused { host, peer: link.peer });
                }
            }
        }
        Ok(())
    }

    /// Whether two machines have had this identity.
    fn is_doubled(&self, peer: PeerId) -> bool {
        self.hosts.iter().filter(|host| host.peer == peer || host.former.contains(&peer)).count() > 1
    }

    /// Whether `peer` is the router of a host that knows the same secret.
    fn is_member_with(&self, host: HostId, peer: PeerId) -> bool {
        let secret = self.hosts[host.0].plan.secret;
        let is = |other: &Host| other.peer == peer || other.former.contains(&peer);
        self.hosts.iter().any(|other| is(other) && other.plan.secret == secret)
    }
}

fn check_plan(host: HostId, plan: &Plan, sessions: &BTreeSet<PeerId>) -> Result<(), Violation> {
    let neighbours: BTreeSet<_> = plan.links.iter().map(|link| link.peer).collect();
    if let Some(peer) = neighbours.iter().find(|peer| !sessions.contains(peer)) {
        return Err(Violation::LinkWithoutSession { host, peer: *peer });
    }
    let hops = plan.routes.next_hop.values().copied();
    let tree_hops =
        plan.routes.trees.values().flat_map(|tree| tree.children.iter().copied().chain(tree.parent));
    match hops.chain(tree_hops).find(|hop| !neighbours.contains(hop)) {
        Some(hop) => Err(Violation::HopWithoutLink { host, hop }),
        None => Ok(()),
    }
}

pub(crate) fn links(status: &PeerStatus) -> Vec<Link> {
    status.links.iter().map(|link| (link.peer, link.address, link.outbound, link.established)).collect()
}

fn key_bytes(key: &DirectionKey) -> (bool, Vec<u8>) {
    match key {
        DirectionKey::Sealed { key, .. } => (true, key.to_vec()),
        DirectionKey::Clear { cookie } => (false, cookie.to_vec()),
    }
}

const fn since(now: Moment, earlier: Moment) -> u128 {
    now.since(earlier).as_nanos()
}
