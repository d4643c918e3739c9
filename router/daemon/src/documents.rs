//! What the node and the data plane tell, in the words of the control API.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_api::{
    BroadcastDocument, ConnectionCounts, ConnectionDocument, ConnectionState, Datapath, DnsSummaryDocument,
    FirewallDocument, GroupDocument, IpamDocument, MacDocument, Overlay, PassedDocument,
    PeerConnectionDocument, PeerDocument, RouterDocument, RoutesDocument, StatusDocument, TargetDocument,
    TrafficDocument, UnicastDocument,
};
use mesh_dataplane::Dataplane;
use mesh_dataplane::engine::{CounterSnapshot, Direction, DropReason, Event, MacEntry, Owner, Path, Traffic};
use mesh_node as node;
use mesh_node::{Count, Node};
use mesh_wire::{Moment, NetworkId, PeerId};

use crate::shell::Shell;
use crate::{Config, firewall};

/// What the daemon knows of its router beside the node.
pub(crate) struct Own<'a> {
    pub(crate) config: &'a Config,
    pub(crate) network: Option<NetworkId>,
    pub(crate) datapath: Datapath,
    pub(crate) mtu: u32,
    pub(crate) uptime: Duration,
    pub(crate) ipam: IpamDocument,
    pub(crate) dns: DnsSummaryDocument,
    pub(crate) firewall: FirewallDocument,
    /// What the firewall has dropped.
    pub(crate) walls: BTreeMap<&'static str, u64>,
}

/// The overview.
pub(crate) fn status(node: &Node, counted: &CounterSnapshot, own: &Own<'_>) -> StatusDocument {
    let Own { config, network, datapath, mtu, uptime, ipam, dns, firewall, walls } = own;
    let mut counts = ConnectionCounts::default();
    for connection in node.connection_status() {
        counts.count(state(connection.state));
    }
    let control = Count::ALL.into_iter().map(|count| (count.name().to_owned(), node.counters().get(count)));
    StatusDocument {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        router: RouterDocument {
            peer_id: node.peer_id().to_string(),
            identity: format!("{:x}", node.peer_id()),
            network_id: network.map(|network| format!("{network:x}")),
            fenced: node.is_fenced(),
            nickname: node.nickname().to_string(),
            port: config.port,
            pid: std::process::id(),
            uptime_seconds: uptime.as_secs(),
            encryption: node.has_secret(),
            discovery: config.discovery,
            capture: config.capture,
            datapath: *datapath,
            bridge: config.bridge.to_string(),
            mtu: *mtu,
        },
        connections: counts,
        peers: node.peer_status().len() as u64,
        ipam: Some(ipam.clone()),
        dns: Some(dns.clone()),
        firewall: Some(firewall.clone()),
        traffic: traffic(counted, walls),
        control: control.filter(counted_once).collect(),
    }
}

fn traffic(counted: &CounterSnapshot, walls: &BTreeMap<&'static str, u64>) -> TrafficDocument {
    let passed = |path, direction| {
        let Traffic { frames, bytes } = counted.traffic(path, direction);
        PassedDocument { frames, bytes }
    };
    let walls = walls.iter().map(|(reason, count)| ((*reason).to_owned(), *count));
    let (losses, copies): (Vec<_>, Vec<_>) = walls.partition(|(reason, _)| firewall::is_loss(reason));
    let by_direction = |path| Direction::ALL.map(|way| (way.name().to_owned(), passed(path, way))).into();
    TrafficDocument {
        passed: Path::ALL.map(|path| (path.name().to_owned(), by_direction(path))).into(),
        drops: DropReason::ALL
            .map(|reason| (reason.name().to_owned(), counted.drops(reason)))
            .into_iter()
            .chain(losses)
            .filter(counted_once)
            .collect(),
        events: Event::ALL
            .map(|event| (event.name().to_owned(), counted.events(event)))
            .into_iter()
            .chain(copies)
            .filter(counted_once)
            .collect(),
    }
}

const fn counted_once((_, count): &(String, u64)) -> bool {
    *count > 0
}

/// The peers, and by which way each is reached.
pub(crate) fn peers(node: &Node) -> Vec<PeerDocument> {
    let ways: BTreeMap<_, _> =
        routes(node).unicast.into_iter().map(|way| (way.peer_id.clone(), way)).collect();
    let link = |link: node::PeerLink| PeerConnectionDocument {
        peer_id: link.peer.to_string(),
        nickname: link.nickname.map(|nickname| nickname.to_string()),
        address: Some(link.address),
        outbound: link.outbound,
        established: link.established,
    };
    let peer = |peer: node::PeerStatus| {
        let peer_id = peer.peer.to_string();
        let way = ways.get(&peer_id);
        PeerDocument {
            via: way.and_then(|way| way.via.clone()),
            info: way.and_then(|way| way.info.clone()),
            peer_id,
            nickname: peer.nickname.to_string(),
            is_self: peer.is_self,
            version: peer.version,
            connections: peer.links.into_iter().map(link).collect(),
        }
    };
    node.peer_status().into_iter().map(peer).collect()
}

/// Which way frames go, and why.
pub(crate) fn routes(node: &Node) -> RoutesDocument {
    let status = node.route_status();
    let mut nicknames: BTreeMap<_, _> =
        status.unicast.iter().map(|route| (route.peer, route.nickname.to_string())).collect();
    nicknames.insert(node.peer_id(), node.nickname().to_string());
    let unicast = status.unicast.iter().map(|route| UnicastDocument {
        peer_id: route.peer.to_string(),
        nickname: Some(route.nickname.to_string()),
        via: route.via.map(|via| via.to_string()),
        hops: route.hops.map(|hops| hops as u64),
        info: Some(match route.via.filter(|via| *via != route.peer) {
            Some(via) => {
                let nickname =
                    nicknames.get(&via).map_or_else(String::new, |nickname| format!("{nickname} "));
                format!("{}; over {nickname}({via})", route.reason)
            }
            None => route.reason.to_string(),
        }),
    });
    let broadcast = status.broadcast.iter().map(|route| BroadcastDocument {
        source: route.source.to_string(),
        nickname: nicknames.get(&route.source).cloned(),
        from: route.from.map(|from| from.to_string()),
        via: route.via.iter().map(ToString::to_string).collect(),
    });
    let groups = node.group_members().members.iter().map(|(group, members)| GroupDocument {
        mac: group.to_string(),
        peer_ids: members.iter().map(ToString::to_string).collect(),
    });
    RoutesDocument { unicast: unicast.collect(), broadcast: broadcast.collect(), groups: groups.collect() }
}

pub(crate) fn connections(shell: &Shell) -> Vec<ConnectionDocument> {
    let (node, dataplane) = (shell.node(), shell.dataplane());
    let links: BTreeMap<_, _> = dataplane.links().into_iter().map(|link| (link.peer, link)).collect();
    let connection = |connection: node::ConnectionStatus| {
        // The node knows the time of the first answered probe, the data plane that of the latest ones.
        let link = connection.peer.as_ref().and_then(|(peer, _)| links.get(peer));
        let rtt = link.and_then(|link| link.rtt).or(connection.rtt);
        let passed = |Traffic { frames, bytes }| PassedDocument { frames, bytes };
        let session = connection.peer.is_some();
        let (peer_id, nickname) = connection.peer.unzip();
        let address = connection.address.parse().ok();
        let info = match address {
            Some(_) => connection.info,
            None => format!("{}: {}", connection.address, connection.info),
        };
        ConnectionDocument {
            peer_id: peer_id.map(|id| id.to_string()),
            nickname: nickname.map(|nickname| nickname.to_string()),
            address,
            outbound: connection.outbound,
            state: state(connection.state),
            overlay: (connection.state == node::ConnectionState::Established).then_some(Overlay::Sleeve),
            encrypted: session.then_some(connection.encrypted),
            mtu: link.and_then(|link| link.mtu),
            rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            loss: link.and_then(|link| link.loss_ppm).map(|ppm| f64::from(ppm) / 1e6),
            info: Some(info).filter(|info| !info.is_empty()),
            received: link.map(|link| passed(link.received)),
            sent: link.map(|link| passed(link.sent)),
        }
    };
    let statuses = node.connection_status();
    let peers =
        statuses.iter().filter_map(|status| status.peer.as_ref()).map(|(id, _)| (id.to_string(), *id));
    let peers = peers.collect();
    let mut documents: Vec<_> = statuses.into_iter().map(connection).collect();
    shell.lane().describe(&mut documents, &peers);
    documents
}

pub(crate) fn targets(node: &Node, now: Moment) -> Vec<TargetDocument> {
    let target = |target: node::TargetStatus| TargetDocument {
        target: target.target.to_string(),
        state: match target.state {
            node::TargetState::Waiting if target.refused => ConnectionState::Failed,
            node::TargetState::Waiting => ConnectionState::Retrying,
            node::TargetState::Connecting => ConnectionState::Connecting,
            // Nothing is left to do for the target.
            node::TargetState::Connected | node::TargetState::Itself | node::TargetState::Enough => {
                ConnectionState::Established
            }
        },
        address: target.address,
        next_try_seconds: target.next_try.map(|wait| wait.as_secs_f64()),
        info: match target.state {
            node::TargetState::Itself => Some("this is the router itself".to_owned()),
            node::TargetState::Enough => Some(
                "left alone: there are connections enough, and the peer is reached over others".to_owned(),
            ),
            node::TargetState::Waiting | node::TargetState::Connecting | node::TargetState::Connected => None,
        },
        last_error: target.last_error,
    };
    node.target_status(now).into_iter().map(target).collect()
}

pub(crate) fn macs(me: PeerId, dataplane: &Dataplane) -> Vec<MacDocument> {
    let mac = |entry: MacEntry| MacDocument {
        mac: entry.mac.to_string(),
        peer_id: match entry.owner {
            Owner::Local => me,
            Owner::Peer(peer) => peer,
        }
        .to_string(),
        last_seen_seconds: entry.last_seen.as_secs(),
        frozen: entry.is_frozen,
    };
    dataplane.macs().into_iter().map(mac).collect()
}

const fn state(state: node::ConnectionState) -> ConnectionState {
    match state {
        node::ConnectionState::Connecting => ConnectionState::Connecting,
        node::ConnectionState::Pending => ConnectionState::Pending,
        node::ConnectionState::Established => ConnectionState::Established,
        node::ConnectionState::Retrying => ConnectionState::Retrying,
        node::ConnectionState::Failed => ConnectionState::Failed,
    }
}
