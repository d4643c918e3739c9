//! What the node tells of itself: plain data for `mesh status`, made on demand.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::Protection;
use mesh_topology::{Target, TargetStatus as Schedule};
use mesh_wire::{Moment, Nickname, PeerId};

use crate::connection::{CloseCause, Connection, Phase};
use crate::data_link::Liveness;
use crate::interface::ConnectionId;
use crate::node::Node;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionState {
    /// Dialing or shaking hands.
    Connecting,
    /// A session, but no packet has passed yet, or none passes any more.
    Pending,
    /// A session, and packets pass.
    Established,
    /// The last attempt failed; another follows.
    Retrying,
    /// One end refused the other. Attempts go on, but somebody has to change a setting.
    Failed,
}

/// A connection, or the attempt at one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// The peer, once authenticated.
    pub peer: Option<(PeerId, Nickname)>,
    /// The other end, or the target as the user named it while there is none.
    pub address: String,
    /// Whether this router dials.
    pub outbound: bool,
    /// How far it has come.
    pub state: ConnectionState,
    /// Whether frames on it are encrypted.
    pub encrypted: bool,
    /// Smoothed round-trip time of the probes.
    pub rtt: Option<Duration>,
    /// Why it is in this state, for people.
    pub info: String,
}

/// A peer as the topology knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub peer: PeerId,
    /// Its label.
    pub nickname: Nickname,
    /// Whether it is this router.
    pub is_self: bool,
    /// Version of its record.
    pub version: u64,
    /// Its connections.
    pub links: Vec<PeerLink>,
}

/// A connection as its lister sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLink {
    /// The neighbour.
    pub peer: PeerId,
    /// Its label, if its record is known.
    pub nickname: Option<Nickname>,
    /// The other end.
    pub address: SocketAddr,
    /// Whether the lister dialed.
    pub outbound: bool,
    /// Whether packets pass.
    pub established: bool,
}

/// A target of this router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// What is dialed.
    pub target: Target,
    /// Where it stands.
    pub state: TargetState,
    /// The address of the present connection.
    pub address: Option<SocketAddr>,
    /// Time until the next attempt.
    pub next_try: Option<Duration>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Whether it was a refusal, which only a change of settings can cure.
    pub refused: bool,
}

/// Where a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Waits for its next attempt.
    Waiting,
    /// Is being dialed.
    Connecting,
    /// Has led to a session that lives.
    Connected,
    /// Is this router itself.
    Itself,
    /// Has led to a peer, and is left alone since one of the two has connections enough without. The peer is reached
    /// over others.
    Enough,
}

impl Node {
    /// All connections and attempts, established ones first.
    #[must_use]
    pub fn connection_status(&self) -> Vec<ConnectionStatus> {
        let live = self.connections.iter().filter_map(|(id, connection)| self.live_status(*id, connection));
        let waiting =
            self.connector.targets().filter_map(|(target, schedule)| self.waiting_status(target, schedule));
        let refused = self.refusals.iter().map(|refusal| ConnectionStatus {
            peer: None,
            address: refusal.remote.to_string(),
            outbound: false,
            state: ConnectionState::Failed,
            encrypted: false,
            rtt: None,
            info: refusal.cause.to_string(),
        });
        let mut all: Vec<_> = live.chain(waiting).chain(refused).collect();
        all.sort_by_key(|status| match status.state {
            ConnectionState::Established => 0,
            ConnectionState::Pending => 1,
            ConnectionState::Connecting => 2,
            ConnectionState::Retrying => 3,
            ConnectionState::Failed => 4,
        });
        all
    }

    /// All known peers, this router among them.
    #[must_use]
    pub fn peer_status(&self) -> Vec<PeerStatus> {
        let nickname = |peer| self.topology.record(peer).map(|record| record.nickname.clone());
        let peers = self.topology.records().map(|(peer, record)| PeerStatus {
            peer,
            nickname: record.nickname.clone(),
            is_self: peer == self.peer_id(),
            version: record.version,
            links: record
                .links
                .iter()
                .map(|link| PeerLink {
                    peer: link.peer,
                    nickname: nickname(link.peer),
                    address: link.address,
                    outbound: link.outbound,
                    established: link.established,
                })
                .collect(),
        });
        peers.collect()
    }

    /// All targets: the user's, and those that discovery found.
    #[must_use]
    pub fn target_status(&self, now: Moment) -> Vec<TargetStatus> {
        let targets = self.connector.targets().map(|(target, schedule)| {
            let (state, next_try) = match schedule {
                Schedule::Waiting(at) => (TargetState::Waiting, Some(at.since(now))),
                Schedule::Dialing => (TargetState::Connecting, None),
                Schedule::Connected(_) => (TargetState::Connected, None),
                Schedule::Itself(at) => (TargetState::Itself, Some(at.since(now))),
                Schedule::Enough(_) => (TargetState::Enough, None),
            };
            let address = match schedule {
                Schedule::Connected(peer) => self.session_address(peer),
                Schedule::Waiting(_) | Schedule::Dialing | Schedule::Itself(_) | Schedule::Enough(_) => None,
            };
            let failure = self.failures.get(target);
            let last_error = failure.map(ToString::to_string);
            let refused = failure.is_some_and(CloseCause::is_refusal);
            TargetStatus { target: target.clone(), state, address, next_try, last_error, refused }
        });
        targets.collect()
    }

    fn session_address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.connections.get(self.sessions.get(&peer)?)?.remote
    }

    fn live_status(&self, id: ConnectionId, connection: &Connection) -> Option<ConnectionStatus> {
        let outbound = matches!(id, ConnectionId::Dialed(_));
        let address = match (connection.remote, &connection.target) {
            (Some(remote), _) => remote.to_string(),
            (None, Some(target)) => target.to_string(),
            (None, None) => return None,
        };
        let connecting = |info: String| ConnectionStatus {
            peer: None,
            address: address.clone(),
            outbound,
            state: ConnectionState::Connecting,
            encrypted: false,
            rtt: None,
            info,
        };
        let failure = connection.target.as_ref().and_then(|target| self.failures.get(target));
        let before = failure.map_or_else(String::new, |cause| format!("; the last attempt: {cause}"));
        let open = match &connection.phase {
            Phase::Dialing => return Some(connecting(format!("dialing{before}"))),
            Phase::Handshaking { .. } => return Some(connecting(format!("shaking hands{before}"))),
            Phase::Open(open) if self.counts_on(open.peer, id) => open,
            // Kept in reserve for a moment, until the peer has chosen between two.
            Phase::Open(_) => return None,
        };
        let is_clear = matches!(open.data.protection(), Protection::Clear);
        let (state, rtt, info) = match open.data.liveness() {
            Liveness::Alive { rtt } if is_clear && self.has_secret() => {
                let info = "frames travel in clear: each end trusts the other's address".to_owned();
                (ConnectionState::Established, Some(rtt), info)
            }
            Liveness::Alive { rtt } => (ConnectionState::Established, Some(rtt), String::new()),
            Liveness::Untried => {
                (ConnectionState::Pending, None, "no sleeve probe was answered yet".to_owned())
            }
            Liveness::Silent => (
                ConnectionState::Pending,
                None,
                "nothing comes over sleeve, though the session lives".to_owned(),
            ),
        };
        Some(ConnectionStatus {
            peer: Some((open.peer, open.hello.nickname.clone())),
            address,
            outbound,
            state,
            encrypted: !is_clear,
            rtt,
            info,
        })
    }

    fn waiting_status(&self, target: &Target, schedule: Schedule) -> Option<ConnectionStatus> {
        let cause = match schedule {
            Schedule::Waiting(_) => self.failures.get(target)?,
            Schedule::Dialing | Schedule::Connected(_) | Schedule::Itself(_) | Schedule::Enough(_) => {
                return None;
            }
        };
        let state = if cause.is_refusal() { ConnectionState::Failed } else { ConnectionState::Retrying };
        Some(ConnectionStatus {
            peer: None,
            address: target.to_string(),
            outbound: true,
            state,
            encrypted: false,
            rtt: None,
            info: cause.to_string(),
        })
    }
}
