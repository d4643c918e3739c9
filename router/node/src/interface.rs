//! What goes into a node and what comes out: plain data. Owns no behaviour.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use mesh_crypto::{Identity, Psk};
use mesh_names::{AddError, ContainerId, Entry, Names};
use mesh_topology::{MergeError, Target};
use mesh_wire::control::SealOffer;
use mesh_wire::{BootCount, MacAddr, NetworkId, Nickname, PeerId};

use crate::addresses::Addresses;
use crate::connection::CloseCause;
use crate::groups::Wanted;

/// What a node is made of.
pub struct Config {
    /// Who it is.
    pub identity: Identity,
    /// Which of its lives this is; greater than in all earlier ones.
    pub boot: BootCount,
    /// Its label.
    pub nickname: Nickname,
    /// TCP port on which its shell listens, and UDP port of its sleeve.
    pub port: u16,
    /// Drawn at random for this life.
    pub nonce: u64,
    /// The network's secrets, at most [`SECRETS_MAX`](crate::limits::SECRETS_MAX); none when anybody may join. All are
    /// accepted; dials use the first, and the others in turn where it is not known.
    pub secrets: Vec<Psk>,
    /// The network that this router has joined in an earlier life or founded.
    pub network: Option<NetworkId>,
    /// The only peers that may connect; anybody with the secret when `None`.
    pub allowed: Option<BTreeSet<PeerId>>,
    /// Where nobody listens: data to peers there need no sealing if they say the same.
    pub trusted_subnets: Vec<IpNet>,
    /// Address management; `None` where the user manages addresses.
    pub ipam: Option<Addresses>,
    /// The names, of which none is known yet, with the zones that this router answers for.
    pub names: Names,
    /// From so many connections on, a well-connected subset of the peers is enough.
    pub connection_limit: usize,
    /// How often the data keys of a link that this router has dialed are replaced, spread by ±10 %; a second at least.
    pub rekey_after: Duration,
    /// Whether this CPU computes AES fast.
    pub aes_preferred: bool,
    /// Whether to dial peers that other peers know.
    pub discovery: bool,
    /// Whom to dial in any case.
    pub targets: Vec<Target>,
}

/// Names a connection between the node and its shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionId {
    /// Numbered by the node, in [`Output::Dial`].
    Dialed(u64),
    /// Numbered by the shell, in [`Input::Accepted`]; never used twice.
    Accepted(u64),
    /// Numbered by the node: no connection of the shell's, but a session over those of other peers.
    Relayed(u64),
}

/// Why a dial led to no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// The name has no address, or those who should know are out of reach.
    Unresolvable,
    /// Nobody has said in time what address the name has.
    NameServerSilent,
    /// The name has no address of a family, IPv4 or IPv6, that this router listens on.
    OtherFamily,
    /// Nothing listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The system refused otherwise.
    System(std::io::ErrorKind),
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolvable => f.write_str("the name has no address"),
            Self::NameServerSilent => f.write_str("no name server answers"),
            Self::OtherFamily => {
                f.write_str("its address is of a family, IPv4 or IPv6, that this router does not listen on")
            }
            Self::Refused => f.write_str("connection refused: no router listens there"),
            Self::Unreachable => f.write_str("no route to the host"),
            Self::TimedOut => f.write_str("no answer"),
            Self::System(kind) => write!(f, "{kind}"),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The TCP connection asked for by [`Output::Dial`] is up.
    Dialed {
        /// Which.
        id: ConnectionId,
        /// The address of this end.
        local: SocketAddr,
        /// The address that answered.
        remote: SocketAddr,
    },
    /// It could not be made.
    DialFailed {
        /// Which.
        id: ConnectionId,
        /// Why.
        failure: DialFailure,
    },
    /// Somebody connected.
    Accepted {
        /// A number that the shell has not used yet.
        id: ConnectionId,
        /// The address of this end.
        local: SocketAddr,
        /// From where.
        remote: SocketAddr,
    },
    /// Bytes came.
    Received {
        /// On which connection.
        id: ConnectionId,
        /// In order, without gaps, in pieces of any size.
        bytes: Vec<u8>,
    },
    /// The other side closed, or the connection broke.
    Closed {
        /// Which. Unknown ids, as of connections that the node closed itself, are ignored.
        id: ConnectionId,
    },
    /// The data plane noticed something.
    Report(Report),
    /// The user names peers to connect to, in addition to those named before, or in their place. A target that is known
    /// already is tried at once.
    Connect {
        /// Whom to dial.
        targets: Vec<Target>,
        /// Whether targets that were named before and are not among these are forgotten.
        replace: bool,
    },
    /// The user wants these targets dialed no more. Connections stay.
    Forget {
        /// Which; unknown ones are ignored.
        targets: Vec<Target>,
    },
    /// The network's secrets are these from now on. Sessions that a secret opened which is not among them are opened
    /// anew.
    Secrets(Vec<Psk>),
    /// The host's own unicast addresses, now; told at the start and at each change.
    Addresses(Vec<IpAddr>),
    /// This router's address range was founded: it belongs to this network from now on.
    Founded(NetworkId),
    /// The MACs on this router's bridge, but for those of peers: all of them, each time that they change.
    Macs(BTreeSet<MacAddr>),
    /// The groups whose frames are of use on this router's bridge, all of them.
    Groups(Wanted),
    /// This host's kernel takes frames from those of neighbours there, or no longer.
    Vxlan(Option<VxlanEnd>),
    /// The names of a container of this router are these from now on; none when it has gone.
    Names {
        /// Whose.
        container: ContainerId,
        /// All of that container.
        entries: BTreeSet<Entry>,
    },
    /// For address management: a client's request, its end, or the word of the disk.
    Ipam(mesh_ipam::Input),
    /// [`Node::poll_timeout`](crate::Node::poll_timeout) has passed.
    Timeout,
    /// Say goodbye to everybody; no other input follows.
    Stop,
}

/// Where this host's kernel takes VXLAN packets, at any of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanEnd {
    /// The network identifier, at most [`VNI_MAX`](mesh_wire::control::VNI_MAX).
    pub vni: u32,
    /// The UDP port of packets in clear, if any may be.
    pub clear: Option<u16>,
    /// The UDP port of packets that the kernel seals, and by what, if it can.
    pub sealed: Option<(u16, SealOffer)>,
}

/// What the data plane notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Probes to a neighbour are answered.
    Alive {
        /// Who.
        peer: PeerId,
        /// Smoothed round-trip time.
        rtt: Duration,
    },
    /// Nothing comes from a neighbour any more.
    Dead {
        /// Who.
        peer: PeerId,
        /// For how long.
        silent_for: Duration,
    },
    /// A neighbour's packets come from another address than before.
    Roamed {
        /// Who.
        peer: PeerId,
        /// From where now.
        remote: SocketAddr,
    },
    /// The keys of a link have sealed as many packets as they should.
    RekeyWanted {
        /// With whom.
        peer: PeerId,
    },
    /// Frames of this router's containers go to a peer through others. Said now and then while they do.
    Relayed {
        /// To whom.
        peer: PeerId,
    },
    /// No frame has passed for a long time on a link that carried some. Said once.
    Idle {
        /// With whom.
        peer: PeerId,
    },
    /// Frames for known MACs go to a neighbour by another overlay from now on.
    Overlay {
        /// Which neighbour.
        peer: PeerId,
        /// One of `OVERLAY_*` of [`mesh_wire::control`].
        overlay: u8,
    },
}

/// What the shell shall do.
pub enum Output {
    /// Connect by TCP, resolving the name anew, and answer with `Dialed` or `DialFailed` within a time of its own.
    Dial {
        /// The connection's name.
        id: ConnectionId,
        /// Where to.
        target: Target,
    },
    /// Send bytes.
    Write {
        /// On which connection.
        id: ConnectionId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send what was written, then close. Nothing more is said of this connection.
    Close {
        /// Which.
        id: ConnectionId,
    },
    /// [`Node::plan`](crate::Node::plan) has something new to say to the data plane.
    PlanChanged,
    /// [`Node::macs_elsewhere`](crate::Node::macs_elsewhere) or
    /// [`Node::announcing_peers`](crate::Node::announcing_peers) has something new to say.
    MacsChanged,
    /// From address management.
    Ipam(AddressOutput),
    /// Remember durably that this router belongs to this network.
    Joined(NetworkId),
    /// Something that an operator may want to read in the log.
    Event(Event),
}

/// What the shell shall do for address management.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressOutput {
    /// Append to the log, bring it to disk, and answer with [`mesh_ipam::Input::Persisted`]. Several may be brought to disk
    /// at once, and answered by the last.
    Persist {
        /// Number of the batch.
        seq: u64,
        /// What to append.
        bytes: Vec<u8>,
    },
    /// Answer a client.
    Answer {
        /// Which.
        ticket: mesh_ipam::Ticket,
        /// What.
        result: Result<mesh_ipam::Answer, mesh_ipam::Refusal>,
    },
}

/// What an operator may want to read in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session with a peer began.
    Connected {
        /// Who.
        peer: PeerId,
        /// Its label.
        nickname: Nickname,
        /// Its address.
        remote: SocketAddr,
        /// Whether this router dialed.
        outbound: bool,
    },
    /// A session ended.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// Why.
        cause: CloseCause,
    },
    /// Packets pass to a neighbour.
    LinkUp {
        /// Who.
        peer: PeerId,
    },
    /// Packets no longer pass.
    LinkDown {
        /// Who.
        peer: PeerId,
        /// For how long nothing has come.
        silent_for: Duration,
    },
    /// A connection attempt of somebody else was refused.
    Refused {
        /// Whose.
        remote: SocketAddr,
        /// Why.
        cause: CloseCause,
    },
    /// A connection attempt of this router failed.
    DialFailed {
        /// Where to.
        target: Target,
        /// Why.
        cause: CloseCause,
    },
    /// Somebody else is at work with this router's identity, or with a peer's.
    Cloned {
        /// Whose.
        peer: PeerId,
        /// Where the copy, or the original, connects from, if it is a neighbour.
        remote: Option<SocketAddr>,
    },
    /// Some names of a container found no room.
    NamesRefused {
        /// Whose.
        container: ContainerId,
        /// Why.
        error: AddError,
    },
    /// Address management has something to say.
    Addresses(mesh_ipam::Event),
    /// A peer gossiped what cannot be merged. It was left out.
    GossipRefused {
        /// Who sent it.
        peer: PeerId,
        /// Why.
        error: MergeError,
    },
}
