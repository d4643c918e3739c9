//! The documents that commands answer with. Their keys never change meaning; more may be added, so readers ignore
//! keys that they do not know. An unknown value is `null`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::DnsSummaryDocument;

/// `launch`: the router that has become ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchDocument {
    /// Its peer id, 12 hexadecimal digits.
    pub peer_id: String,
    /// Its nickname.
    pub nickname: String,
    /// Its process id.
    pub pid: u32,
}

/// `stop`: the router that ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopDocument {
    /// Its process id.
    pub pid: u32,
}

/// `reset`: what was removed from this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetDocument {
    /// Process id of the router that ends; `null` when none was running.
    pub pid: Option<u32>,
    /// Interfaces and directories, for people to read.
    pub removed: Vec<String>,
    /// The peer that has this router's address space now; `null` when there was none to give, or nobody to give it to.
    #[serde(default)]
    pub handed_over_to: Option<String>,
}

/// `attach`, and one element of `ps`: a container's interface in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachDocument {
    /// The container, as it was named.
    pub container: String,
    /// Name of the interface inside the container.
    pub interface: String,
    /// Its hardware address, six pairs of hexadecimal digits with colons.
    pub mac: String,
    /// All addresses that the container has in the network.
    pub addresses: Vec<IpNet>,
    /// Its names, fully qualified.
    pub names: Vec<String>,
    /// Whether it is in the network now. One that does not run keeps its place.
    #[serde(default = "yes")]
    pub attached: bool,
}

const fn yes() -> bool {
    true
}

/// `detach`: what was taken from a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachDocument {
    /// The container, as it was named.
    pub container: String,
    /// The addresses that it has no longer.
    pub addresses: Vec<IpNet>,
}

/// The other end of a container's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDocument {
    /// The container.
    pub container: String,
    /// Its interface.
    pub interface: String,
    /// The interface of the host that it is joined with, a port of the bridge.
    pub port: String,
}

/// `status`: overview of a router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// Version of the program that the router runs.
    pub version: String,
    /// The router itself.
    pub router: RouterDocument,
    /// Its connections, counted by state.
    pub connections: ConnectionCounts,
    /// Peers of the network, this one included.
    pub peers: u64,
    /// Address management.
    #[serde(default)]
    pub ipam: Option<IpamDocument>,
    /// Name service; `null` where the router has none.
    pub dns: Option<DnsSummaryDocument>,
    /// What the data plane has counted since the start.
    #[serde(default)]
    pub traffic: TrafficDocument,
    /// The host's firewall; `null` from a router without one.
    #[serde(default)]
    pub firewall: Option<FirewallDocument>,
    /// What the control plane has counted since the start, refusals among it, by the names of the metrics; what never
    /// happened is absent.
    #[serde(default)]
    pub control: BTreeMap<String, u64>,
}

/// The host's firewall and its own part in the network.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallDocument {
    /// Whether it stands: containers are kept apart, and from the host's own ports.
    pub up: bool,
    /// Why it does not; `null` when it does.
    pub detail: Option<String>,
    /// Ports of containers that let only through what the containers were given.
    pub guarded_ports: u64,
    /// Ports that were plugged into the bridge by hand, and let everything through.
    pub unguarded_ports: Vec<String>,
    /// Addresses of the host in the network.
    pub exposed: Vec<ExposedDocument>,
}

/// An address of the host in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedDocument {
    /// With the prefix length of its subnet.
    pub address: IpNet,
    /// Whether what passes between this subnet and the outside takes on the host's address.
    pub masquerade: bool,
    /// The host's names at this address.
    pub names: Vec<String>,
}

/// What a data plane has counted. The names are those of the metrics.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficDocument {
    /// Frames and bytes by path (`bridge`, `sleeve`, `relay`) and direction (`in`, `out`).
    pub passed: BTreeMap<String, BTreeMap<String, PassedDocument>>,
    /// Frames and datagrams that went no further, by reason, those that the firewall dropped among them; reasons that never
    /// applied are absent.
    pub drops: BTreeMap<String, u64>,
    /// What else was worth counting; what never happened is absent.
    pub events: BTreeMap<String, u64>,
}

/// Frames on one path in one direction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedDocument {
    /// How many.
    pub frames: u64,
    /// Their bytes, Ethernet header included, wrapping not.
    pub bytes: u64,
}

/// A router, as it sees itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterDocument {
    /// Its peer id, 12 hexadecimal digits.
    pub peer_id: String,
    /// The same in full, 32 hexadecimal digits, as `launch --allow-peers` takes it.
    #[serde(default)]
    pub identity: String,
    /// The network that it belongs to, 32 hexadecimal digits; `null` until the network's address range is founded.
    #[serde(default)]
    pub network_id: Option<String>,
    /// Whether it stands aside, since another router is at work with a copy of its identity.
    #[serde(default)]
    pub fenced: bool,
    /// Its nickname.
    pub nickname: String,
    /// TCP port of its control plane, and UDP port of sleeve.
    pub port: u16,
    /// Its process id.
    pub pid: u32,
    /// Whole seconds since it started.
    pub uptime_seconds: u64,
    /// Whether it has a password, and so carries frames encrypted.
    pub encryption: bool,
    /// Whether it connects to peers that other peers know.
    pub discovery: bool,
    /// How it takes frames from the bridge.
    pub capture: Capture,
    /// The overlay that it prefers.
    pub datapath: Datapath,
    /// Name of its bridge.
    pub bridge: String,
    /// MTU of the overlay in bytes.
    pub mtu: u32,
}

/// How frames leave and enter the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// By a TAP device.
    Tap,
    /// By packet capture on a veth.
    Pcap,
}

/// The setting of the overlays that a router may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datapath {
    /// The best healthy one.
    Auto,
    /// VXLAN in the kernel, and sleeve.
    Vxlan,
    /// Open vSwitch's datapath in the kernel, and sleeve.
    Ovs,
    /// User space alone.
    Sleeve,
}

impl Datapath {
    /// The word that stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Vxlan => "vxlan",
            Self::Ovs => "ovs",
            Self::Sleeve => "sleeve",
        }
    }
}

/// How many connections are in each state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCounts {
    /// See [`ConnectionState::Established`].
    pub established: u64,
    /// See [`ConnectionState::Pending`].
    pub pending: u64,
    /// See [`ConnectionState::Connecting`].
    pub connecting: u64,
    /// See [`ConnectionState::Retrying`].
    pub retrying: u64,
    /// See [`ConnectionState::Failed`].
    pub failed: u64,
}

impl ConnectionCounts {
    /// Counts one connection in this state.
    pub const fn count(&mut self, state: ConnectionState) {
        let counter = match state {
            ConnectionState::Established => &mut self.established,
            ConnectionState::Pending => &mut self.pending,
            ConnectionState::Connecting => &mut self.connecting,
            ConnectionState::Retrying => &mut self.retrying,
            ConnectionState::Failed => &mut self.failed,
        };
        *counter = counter.saturating_add(1);
    }
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// The session is up and an overlay carries frames.
    Established,
    /// The session is up, no overlay carries frames yet.
    Pending,
    /// Resolving, dialling or shaking hands.
    Connecting,
    /// The last try failed; another one is due.
    Retrying,
    /// The last try failed for good; only the user can change that.
    Failed,
}

impl ConnectionState {
    /// The word that stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Pending => "pending",
            Self::Connecting => "connecting",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
        }
    }
}

/// What carries frames to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlay {
    /// The kernel's VXLAN device.
    Vxlan,
    /// The kernel's Open vSwitch datapath.
    Ovs,
    /// User space, over UDP.
    Sleeve,
}

impl Overlay {
    /// The word that stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Ovs => "ovs",
            Self::Sleeve => "sleeve",
        }
    }
}

/// `status connections`: one connection, or one try at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionDocument {
    /// The other end, once it has said who it is.
    pub peer_id: Option<String>,
    /// Its nickname.
    pub nickname: Option<String>,
    /// Its address and TCP port.
    pub address: Option<SocketAddr>,
    /// Whether this router dialled.
    pub outbound: bool,
    /// Where it stands.
    pub state: ConnectionState,
    /// What carries frames.
    pub overlay: Option<Overlay>,
    /// Whether frames travel encrypted.
    pub encrypted: Option<bool>,
    /// Longest IP packet in bytes that crosses this path in one piece, as measured.
    pub mtu: Option<u32>,
    /// Round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Share of the last probes, some thirty, that were lost on the way there or back: 0 to 1.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Why it is in this state, for people to read.
    pub info: Option<String>,
    /// Frames that came from the peer by sleeve, since its link was made.
    #[serde(default)]
    pub received: Option<PassedDocument>,
    /// Frames that went to the peer by sleeve.
    #[serde(default)]
    pub sent: Option<PassedDocument>,
}

/// `status peers`: one peer of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerDocument {
    /// Its peer id, 12 hexadecimal digits.
    pub peer_id: String,
    /// Its nickname.
    pub nickname: String,
    /// Whether it is the router that answers.
    pub is_self: bool,
    /// Number of its topology record within its present life; it grows with every change of its connections.
    pub version: u64,
    /// Its connections, as it tells them.
    pub connections: Vec<PeerConnectionDocument>,
    /// The neighbour that frames to it are given to: itself, or a relay; `null` for the router that answers, and where
    /// no chain of links leads.
    #[serde(default)]
    pub via: Option<String>,
    /// How it is reached, or why not, for people to read.
    #[serde(default)]
    pub info: Option<String>,
}

/// A connection that a peer tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConnectionDocument {
    /// The other end.
    pub peer_id: String,
    /// Its nickname, when its record is known.
    pub nickname: Option<String>,
    /// The other end's address and TCP port, as the teller sees it.
    pub address: Option<SocketAddr>,
    /// Whether the teller dialled.
    pub outbound: bool,
    /// Whether an overlay carries frames.
    pub established: bool,
}

/// `status targets`: one peer that this router was told to connect to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetDocument {
    /// As the user wrote it, with its port.
    pub target: String,
    /// Where the connection to it stands.
    pub state: ConnectionState,
    /// The address that its name gave at the last try.
    pub address: Option<SocketAddr>,
    /// Seconds until the next try; `null` when none is due.
    pub next_try_seconds: Option<f64>,
    /// Why the last try failed, for people to read.
    pub last_error: Option<String>,
    /// Why it is in this state when no error is the reason, for people to read.
    #[serde(default)]
    pub info: Option<String>,
}

/// `connect`, `forget`: the peers that this router is told to connect to from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetListDocument {
    /// Each as the user wrote it, with its port, in the order in which they were named.
    pub targets: Vec<String>,
}

/// `status routes`: which way frames go.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesDocument {
    /// Where frames for a peer go, one entry for each other peer.
    pub unicast: Vec<UnicastDocument>,
    /// Where frames for all go on, one entry for each source, the router that answers among them.
    pub broadcast: Vec<BroadcastDocument>,
    /// Which peers have members of groups of IPv4 and IPv6, one entry for each group.
    #[serde(default)]
    pub groups: Vec<GroupDocument>,
}

/// A group of IPv4 or IPv6 with members on other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDocument {
    /// The MAC that frames for the group bear, which several groups may share.
    pub mac: String,
    /// The peers that have members.
    pub peer_ids: Vec<String>,
}

/// The way to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnicastDocument {
    /// The peer.
    pub peer_id: String,
    /// Its nickname.
    pub nickname: Option<String>,
    /// The neighbour that frames are given to: the peer itself, or a relay; `null` where no chain of links leads.
    pub via: Option<String>,
    /// Links on the way, when the topology tells.
    #[serde(default)]
    pub hops: Option<u64>,
    /// Why this way, for people to read.
    pub info: Option<String>,
}

/// This router's part in the tree by which one peer's broadcasts travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastDocument {
    /// The peer whose broadcasts they are.
    pub source: String,
    /// Its nickname.
    pub nickname: Option<String>,
    /// The neighbour that they come from; `null` for this router's own.
    #[serde(default)]
    pub from: Option<String>,
    /// The neighbours that this router passes them on to.
    pub via: Vec<String>,
}

/// `status macs`: one hardware address that this router has learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacDocument {
    /// Six pairs of hexadecimal digits with colons.
    pub mac: String,
    /// The peer that it is at; this router's own id for a local one.
    pub peer_id: String,
    /// Whole seconds since a frame came from it.
    pub last_seen_seconds: u64,
    /// Whether it has moved to and fro too often, and stays there for a while whoever else shows it.
    #[serde(default)]
    pub frozen: bool,
}

/// `ipam allocate`, `ipam claim`, `ipam lookup`, `ipam release`: the addresses concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressesDocument {
    /// The holder, as it was named.
    pub id: String,
    /// Each with the prefix length of its subnet.
    pub addresses: Vec<IpNet>,
}

/// Most networks of one [`crate::Command::Overlaps`].
pub const OVERLAPS_ASKED_MAX: usize = 256;

/// A subnet of containers to which the host has a route of its own: one of the two is not reached from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlapDocument {
    /// The subnet.
    pub network: IpNet,
    /// The route, for people to read.
    pub route: String,
}

/// `prime`: the network whose address range is founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimeDocument {
    /// Its id, 32 hexadecimal digits.
    pub network_id: String,
}

/// `rmpeer`: peers that are gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedPeersDocument {
    /// In the order in which they were named.
    pub removed: Vec<RemovedPeerDocument>,
}

/// A peer that is gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedPeerDocument {
    /// Its peer id, 12 hexadecimal digits.
    pub peer_id: String,
    /// How many addresses it had that others have now; at most 2^64 - 1.
    pub addresses: u64,
}

/// `status ipam`: the state of address management.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpamDocument {
    /// All addresses of the network; `null` where the user manages addresses.
    pub range: Option<IpNet>,
    /// Where an address is chosen unless a subnet is named.
    pub default_subnet: Option<IpNet>,
    /// The network, 32 hexadecimal digits; `null` until it is founded.
    #[serde(default)]
    pub network_id: Option<String>,
    /// Whether addresses can be had.
    pub state: IpamState,
    /// The same in a sentence, for people to read; empty when there is nothing to say.
    pub detail: String,
    /// Who owns what.
    pub owned: Vec<OwnedDocument>,
    /// Requests that wait, the oldest first.
    pub pending: Vec<PendingDocument>,
    /// Addresses that may be in use twice, those that are held here first.
    #[serde(default)]
    pub conflicts: Vec<ConflictDocument>,
}

/// Whether addresses can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpamState {
    /// At once.
    Ready,
    /// There is no network yet: the first request founds it.
    Idle,
    /// There is no network yet, and too few votes to found it.
    AwaitingConsensus,
    /// There is no network yet, and others are to found it.
    Observing,
    /// A request waits for other peers.
    WaitingForSpace,
    /// A request waits for peers that cannot be reached.
    UnreachableOwner,
    /// Not before somebody does something, or not at all.
    Disabled,
}

impl IpamState {
    /// The word that stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Idle => "idle",
            Self::AwaitingConsensus => "awaiting-consensus",
            Self::Observing => "observing",
            Self::WaitingForSpace => "waiting-for-space",
            Self::UnreachableOwner => "unreachable-owner",
            Self::Disabled => "disabled",
        }
    }
}

/// One peer's part of the range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnedDocument {
    /// Whose, 12 hexadecimal digits.
    pub peer_id: String,
    /// Its nickname.
    pub nickname: Option<String>,
    /// How many addresses; at most 2^64 - 1.
    pub addresses: u64,
    /// The same as a part of the whole, 0 to 1.
    pub share: f64,
    /// How many of them are in use, as far as the peer has said.
    pub active: Option<u64>,
    /// Whether messages reach it.
    pub reachable: bool,
    /// Whether it was declared gone for good.
    #[serde(default)]
    pub retired: bool,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingDocument {
    /// What it is, as `allocate 10.32.0.0/24 for netns:c1`, for people to read.
    pub request: String,
    /// What it waits for, for people to read.
    pub waiting_for: Option<String>,
    /// Seconds until it is given up.
    pub seconds_left: f64,
}

/// An address that may be in use twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictDocument {
    /// Which.
    pub address: IpAddr,
    /// Who holds it.
    pub id: String,
    /// On which peer, 12 hexadecimal digits.
    pub peer_id: String,
    /// That peer's nickname.
    pub nickname: Option<String>,
    /// The hardware address of whoever else answered for it; `null` when it belongs to another peer by record.
    pub seen_at: Option<String>,
}

/// `status flows`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowsDocument {
    /// What carries the flows: [`Datapath::Sleeve`] when the kernel carries none.
    pub datapath: Datapath,
    /// One for each remote MAC, and one for each neighbour whose kernel is reached.
    pub entries: Vec<FlowDocument>,
    /// Frames that containers have sent to other hosts and that user space carried, for want of a flow; and all that Open
    /// vSwitch's datapath has had no flow for since it was made.
    pub misses: u64,
    /// Changes to flows since the router started, by what was done.
    #[serde(default)]
    pub changes: BTreeMap<String, u64>,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowDocument {
    /// Which frames: a MAC as `to 02:…`, or the whole of what goes `out` or comes `in` through the tunnels.
    pub key: String,
    /// What happens to them, for people to read.
    pub action: String,
    /// The peer that they go to, if that is known.
    #[serde(default)]
    pub peer_id: Option<String>,
    /// Frames so far, where the kernel counts them for each MAC.
    pub packets: Option<u64>,
    /// Bytes so far.
    pub bytes: Option<u64>,
    /// Seconds since the last frame.
    pub idle_seconds: Option<u64>,
}
