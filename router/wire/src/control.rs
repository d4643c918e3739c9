//! What two routers say to each other over a control session, once the handshake has sealed it.
//!
//! A frame's plaintext is one kind byte and a CBOR body (RFC 8949). Structures are CBOR arrays indexed by position:
//! a newer router may append fields, an older one ignores them. An unknown kind is no error either, so that routers
//! of different age stay connected.

use std::fmt;
use std::net::SocketAddr;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::{BootCount, MacAddr, NetworkId, Nickname, PeerId, ReceiverIndex};

/// Most entries in one [`Message::Gossip`]; a sender splits what is longer, a receiver refuses it.
pub const GOSSIP_ENTRIES_MAX: usize = 4_096;

/// Most rows in one [`Message::Digest`]: as many peers as a network may have.
pub const DIGEST_ROWS_MAX: usize = 16_384;

/// How many channels carry names, from [`Channel::NAMES`] on.
pub const NAMES_CHANNELS: u16 = 128;

/// How many buckets the origins of a channel fall into, by the first bits of their ids.
pub const BUCKETS: usize = 64;

/// Longest payload of one [`Message::Relay`], in bytes.
pub const RELAY_PAYLOAD_LEN_MAX: usize = 64 * 1024;

/// Most hops of a [`Message::Relay`].
pub const RELAY_HOPS_MAX: u8 = 15;

/// Longest body of a [`Mail`], in bytes.
pub const MAIL_LEN_MAX: usize = 512 * 1024;

/// Most addresses in one [`Message::Candidates`].
pub const CANDIDATES_MAX: usize = 16;

/// Longest payload of one [`Message::Rekey`], in bytes.
pub const REKEY_LEN_MAX: usize = 256;

const KIND_GOSSIP: u8 = 1;
const KIND_DIGEST: u8 = 2;
const KIND_PING: u8 = 3;
const KIND_PONG: u8 = 4;
const KIND_DATA_OFFER: u8 = 5;
const KIND_BYE: u8 = 6;
const KIND_SUMMARY: u8 = 7;
const KIND_OBSERVED: u8 = 8;
const KIND_RELAY: u8 = 9;
const KIND_REKEY: u8 = 10;
const KIND_CANDIDATES: u8 = 11;
const KIND_MAIL: u8 = 13;
const KIND_NETWORK: u8 = 12;
const KIND_VXLAN: u8 = 14;

/// Said once by each side inside the handshake, bound to it and encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// The speaker's label.
    #[n(0)]
    pub nickname: Nickname,
    /// Which life of the speaker this is.
    #[n(1)]
    pub boot: BootCount,
    /// TCP port on which the speaker listens for control sessions, and UDP port of its sleeve.
    #[n(2)]
    pub port: u16,
    /// Drawn at random at the start of that life. Two lives with one boot count are two copies of one identity.
    #[n(3)]
    pub nonce: u64,
    /// The network that the speaker belongs to, once its address range is founded.
    #[n(4)]
    pub network: Option<NetworkId>,
    /// Whether the speaker holds the address of this connection's other end for one that nobody can listen to: data
    /// need no sealing when both ends say so.
    #[n(5)]
    #[cbor(default)]
    pub trusts: bool,
}

/// A message of a control session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Entries of one channel, news to the receiver as far as the sender knows.
    Gossip(Gossip),
    /// What the sender has of one channel, bucket by bucket, hashed; sent to find out whether anything differs.
    Summary(Summary),
    /// What the sender has in some buckets of a channel; the receiver answers with what is newer.
    Digest(Digest),
    /// Asks for a [`Message::Pong`] with the same number.
    Ping(u64),
    /// Answers a [`Message::Ping`].
    Pong(u64),
    /// The sender is ready to receive data packets of an epoch.
    DataOffer(DataOffer),
    /// One step of the dialogue that leads to the keys of a later epoch.
    Rekey(Rekey),
    /// Where the receiver's sleeve packets come from, as the sender sees them: behind a NAT, not the address that the
    /// receiver knows of itself.
    Observed(SocketAddr),
    /// Where the sender's sleeve may be reached: its own addresses, and those that others observed. At most
    /// [`CANDIDATES_MAX`].
    Candidates(Vec<SocketAddr>),
    /// Bytes of a session between two peers that have no connection of their own.
    Relay(Relay),
    /// Something that one peer says to another, or to all.
    Mail(Mail),
    /// The sender belongs to this network from now on, which it did not say in its [`Hello`].
    Network(NetworkId),
    /// The sender's kernel takes frames for its containers by VXLAN, or does not (any more).
    Vxlan(Option<VxlanOffer>),
    /// The sender closes the connection, and why. After [`Farewell::SecretRetired`] it does so as soon as another
    /// connection has taken over.
    Bye(Farewell),
    /// A kind that this version does not know. Received only; it is skipped.
    Unknown(u8),
}

/// Entries of a gossip channel. Each is opaque here: whoever does not know the channel relays it untouched.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Gossip {
    /// The channel.
    #[n(0)]
    pub channel: Channel,
    /// The entries, as their origins signed them.
    #[n(1)]
    pub entries: Vec<ByteVec>,
}

/// A topic of gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Channel(#[n(0)] pub u16);

impl Channel {
    /// Peers and their links.
    pub const TOPOLOGY: Self = Self(1);
    /// Who may hand out which address: mail, no records.
    pub const ADDRESSES: Self = Self(2);
    /// The MACs that are on each peer's bridge.
    pub const MACS: Self = Self(3);
    /// The groups that have members on each peer's bridge.
    pub const GROUPS: Self = Self(4);
    /// Names: the first of [`NAMES_CHANNELS`] channels, one for each chunk that a peer's set may be cut into.
    pub const NAMES: Self = Self(256);

    /// Which chunk of its origin's names a record of this channel is, if it is one.
    #[must_use]
    pub const fn chunk_of_names(self) -> Option<u16> {
        match self.0.checked_sub(Self::NAMES.0) {
            Some(index) if index < NAMES_CHANNELS => Some(index),
            Some(_) | None => None,
        }
    }
}

/// A channel's records in short, so that two routers that agree need not list them.
///
/// An origin's bucket is the first 6 bits of its id. A bucket's hash is the sum, modulo 2^64, of the hashes of its rows
/// ([`DigestRow::hash`]), so that it can be kept while records come and go. The root is FNV-1a (64 bits) over the
/// buckets' hashes, big-endian.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Summary {
    /// The channel.
    #[n(0)]
    pub channel: Channel,
    /// The hash of all.
    #[n(1)]
    pub root: u64,
    /// The hashes of the [`BUCKETS`] buckets, in order; none in a first question. Whoever gets a root that differs from
    /// its own answers with these, and whoever gets these with a [`Digest`] of the buckets that differ.
    #[n(2)]
    pub buckets: Vec<u64>,
}

/// The newest version of each origin that the sender holds, in some buckets.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Digest {
    /// The channel.
    #[n(0)]
    pub channel: Channel,
    /// One row an origin.
    #[n(1)]
    pub rows: Vec<DigestRow>,
    /// Whether the receiver shall answer with a digest of its own when the sender has something newer.
    #[n(2)]
    pub reply: bool,
    /// The buckets that `rows` lists in full: bit `n` stands for bucket `n`.
    #[n(3)]
    pub buckets: u64,
}

/// A line of a [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct DigestRow {
    /// Whose record.
    #[n(0)]
    pub origin: PeerId,
    /// Its life.
    #[n(1)]
    pub boot: BootCount,
    /// Its version in that life.
    #[n(2)]
    pub version: u64,
    /// The first 8 bytes of its signature: tells records apart that an origin has numbered alike, as one does whose
    /// state was put back to an earlier day.
    #[n(3)]
    pub tag: u64,
}

impl DigestRow {
    /// The bucket of an origin.
    #[must_use]
    pub const fn bucket(origin: PeerId) -> usize {
        (origin.as_bytes()[0] >> 2) as usize
    }

    /// FNV-1a (64 bits) over origin, boot count, version and tag, numbers big-endian, then multiplied and folded (the
    /// last step of splitmix64) so that sums of hashes do not cancel.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let numbers = [self.boot.0, self.version, self.tag].map(u64::to_be_bytes);
        let bytes = self.origin.as_bytes().iter().chain(numbers.as_flattened());
        let hash = fnv1a(bytes);
        let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }
}

impl Summary {
    /// The root over buckets' hashes.
    #[must_use]
    pub fn root_of(buckets: &[u64; BUCKETS]) -> u64 {
        fnv1a(buckets.map(u64::to_be_bytes).as_flattened().iter())
    }
}

fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One step towards the keys of an epoch, as `mesh-crypto` makes and reads it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Rekey {
    /// The epoch that the keys are for.
    #[n(0)]
    pub epoch: u32,
    /// A Noise message, at most [`REKEY_LEN_MAX`] bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub payload: Vec<u8>,
}

/// A piece of a byte stream between two peers, on its way over the control sessions of others. What the stream carries
/// is a session of its own, sealed end to end; those who relay it can only drop it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Relay {
    /// Who sent it.
    #[n(0)]
    pub source: PeerId,
    /// Who shall get it.
    #[n(1)]
    pub destination: PeerId,
    /// Hops left; who gets 0 drops it. At most [`RELAY_HOPS_MAX`].
    #[n(2)]
    pub hops: u8,
    /// Names the stream among those that its initiator opened to this peer.
    #[n(3)]
    pub stream: u64,
    /// Whether `source` opened the stream.
    #[n(4)]
    pub from_initiator: bool,
    /// Counts the pieces of the stream in this direction from 0. A gap ends the stream.
    #[n(5)]
    pub sequence: u32,
    /// The bytes, at most [`RELAY_PAYLOAD_LEN_MAX`]; none when the stream ends.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub payload: Vec<u8>,
}

/// What a peer says to one other or to all, handed on by the control sessions of those between them. Whoever relays it can
/// read it and drop it, and not change it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Mail {
    /// Hops left; who gets 0 drops it. At most [`RELAY_HOPS_MAX`].
    #[n(0)]
    pub hops: u8,
    /// The encoded [`MailBody`], at most [`MAIL_LEN_MAX`] bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub body: Vec<u8>,
    /// The source's Ed25519 signature over it.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

/// What a [`Mail`]'s source has signed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MailBody {
    /// Who says it.
    #[n(0)]
    pub source: PeerId,
    /// The source's life.
    #[n(1)]
    pub boot: BootCount,
    /// Counts what the source says in that life, to whomever.
    #[n(2)]
    pub sequence: u64,
    /// Who shall hear it; all peers when there is none.
    #[n(3)]
    pub destination: Option<PeerId>,
    /// What it is about.
    #[n(4)]
    pub channel: Channel,
    /// What is said.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub payload: Vec<u8>,
}

/// The receiving end of a data session: from now on the sender accepts packets under the keys of `epoch` that carry
/// `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct DataOffer {
    /// Epoch of the session's key schedule.
    #[n(0)]
    pub epoch: u32,
    /// What the other side writes into each packet.
    #[n(1)]
    pub index: ReceiverIndex,
}

/// The greatest VXLAN network identifier: they have 24 bits (RFC 7348, section 4.1).
pub const VNI_MAX: u32 = 0xff_ffff;

/// The end of a kernel path: how the receiver of this reaches the sender's containers without either router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct VxlanOffer {
    /// The UDP port at the sender's underlay address.
    #[n(0)]
    pub port: u16,
    /// The network identifier that the sender takes frames under, drawn at random; at most [`VNI_MAX`].
    #[n(1)]
    pub vni: u32,
    /// What heartbeats from the receiver of this bear, drawn at random for it.
    #[n(2)]
    pub cookie: u64,
    /// What seals packets on the way, and only on links whose frames are to be sealed: the port above is one inside of it.
    #[n(3)]
    pub seal: Option<WireguardOffer>,
    /// The same, where ESP seals them.
    #[n(4)]
    pub esp: Option<EspOffer>,
}

/// What seals packets between two kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealOffer {
    /// WireGuard.
    Wireguard(WireguardOffer),
    /// ESP in tunnel mode (RFC 4303) by AES-GCM (RFC 4106).
    Esp,
}

impl VxlanOffer {
    /// What seals packets, if anything does. Where both are named, WireGuard.
    #[must_use]
    pub fn sealing(&self) -> Option<SealOffer> {
        self.seal.map(SealOffer::Wireguard).or_else(|| self.esp.map(|_| SealOffer::Esp))
    }
}

/// That the sender's kernel opens ESP. Keys follow from the session, and addresses are those of both ends' sleeves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct EspOffer {}

/// A device of the sender's kernel that opens what the receiver of this seals for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct WireguardOffer {
    /// Its public key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// Its UDP port at the sender's underlay address.
    #[n(1)]
    pub port: u16,
}

/// Why a router ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It stops.
    Stopping,
    /// Another connection to the same peer is kept.
    Duplicate,
    /// It received something that the protocol does not allow.
    Violation,
    /// The receiver's identity is at work elsewhere: one of the two is a copy.
    Cloned,
    /// It has as many connections as it wants. The peer is reached over others.
    Enough,
    /// The two belong to different networks.
    OtherNetwork,
    /// The other end is none of the peers that it was told to accept.
    NotAllowed,
    /// The secret that opened the session is no longer valid.
    SecretRetired,
    /// Nobody needs the session any more.
    Idle,
    /// A reason that this version does not know.
    Other(u8),
}

impl Farewell {
    const fn code(self) -> u8 {
        match self {
            Self::Stopping => 1,
            Self::Duplicate => 2,
            Self::Violation => 3,
            Self::Cloned => 4,
            Self::Enough => 5,
            Self::OtherNetwork => 6,
            Self::NotAllowed => 7,
            Self::SecretRetired => 8,
            Self::Idle => 9,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Stopping,
            2 => Self::Duplicate,
            3 => Self::Violation,
            4 => Self::Cloned,
            5 => Self::Enough,
            6 => Self::OtherNetwork,
            7 => Self::NotAllowed,
            8 => Self::SecretRetired,
            9 => Self::Idle,
            code => Self::Other(code),
        }
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => f.write_str("the peer stopped"),
            Self::Duplicate => f.write_str("another connection to the peer is kept"),
            Self::Violation => f.write_str("the peer reports a violation of the protocol"),
            Self::Cloned => f.write_str("the identity is in use by two routers: one of them is a copy"),
            Self::Enough => f.write_str("the peer has enough connections; it is reached over others"),
            Self::OtherNetwork => f.write_str("the peer belongs to another network"),
            Self::NotAllowed => f.write_str("the peer does not accept this router's identity"),
            Self::SecretRetired => f.write_str("the secret that opened the session is no longer valid"),
            Self::Idle => f.write_str("nobody needed the session any more"),
            Self::Other(code) => write!(f, "the peer closed with code {code}"),
        }
    }
}

/// A peer's record of itself: the unit of the topology channel.
///
/// The origin is the only writer. Of two records of one origin the one with the greater `(boot, version)` is newer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PeerRecord {
    /// Ed25519 public key of the origin; its peer id is derived from it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// The origin's life.
    #[n(1)]
    pub boot: BootCount,
    /// Counts the changes in that life.
    #[n(2)]
    pub version: u64,
    /// The origin's label.
    #[n(3)]
    pub nickname: Nickname,
    /// Where the origin listens (TCP and UDP).
    #[n(4)]
    pub port: u16,
    /// Its connections.
    #[n(5)]
    pub links: Vec<LinkRecord>,
    /// Drawn at random at the start of the origin's life, as in [`Hello`].
    #[n(6)]
    #[cbor(default)]
    pub nonce: u64,
}

/// What the body of every signed record starts with, whatever its channel: enough to check and to order it. So a router
/// carries the records of channels that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Decode)]
pub struct RecordHeader {
    /// Ed25519 public key of the origin.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// The origin's life.
    #[n(1)]
    pub boot: BootCount,
    /// Counts the changes in that life.
    #[n(2)]
    pub version: u64,
}

/// Most MACs in one [`MacsRecord`]; those beyond are found as any unknown MAC is. So many have less than 64 KiB, with
/// which routers that do not know the channel carry them, too.
pub const MACS_ANNOUNCED_MAX: usize = 4_096;

/// The MACs on a peer's bridge: the unit of the channel of MACs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MacsRecord {
    /// Ed25519 public key of the origin.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// The origin's life.
    #[n(1)]
    pub boot: BootCount,
    /// Counts the changes in that life.
    #[n(2)]
    pub version: u64,
    /// The MACs, at most [`MACS_ANNOUNCED_MAX`].
    #[n(3)]
    pub macs: Vec<AnnouncedMac>,
}

/// One MAC on the origin's bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct AnnouncedMac {
    /// Which.
    #[n(0)]
    pub mac: MacAddr,
    /// One more than with whoever had the MAC before: of several that announce it, the one with the greatest number has it,
    /// and of those the one with the smallest peer id.
    #[n(1)]
    pub sequence: u32,
}

/// Most groups in one [`GroupsRecord`]; who has more wants the frames of all groups.
pub const GROUPS_ANNOUNCED_MAX: usize = 1_024;

/// The groups that have members on a peer's bridge: the unit of the channel of groups.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GroupsRecord {
    /// Ed25519 public key of the origin.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// The origin's life.
    #[n(1)]
    pub boot: BootCount,
    /// Counts the changes in that life.
    #[n(2)]
    pub version: u64,
    /// Whether the frames of all groups are wanted: a router of groups is on the bridge, or there are too many groups.
    #[n(3)]
    pub wants_all: bool,
    /// The groups, at most [`GROUPS_ANNOUNCED_MAX`].
    #[n(4)]
    pub groups: Vec<MacAddr>,
}

/// A part of a peer's names: the unit of the channels of names. What the chunk says is the business of `mesh-names`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NamesRecord {
    /// Ed25519 public key of the origin.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; 32],
    /// The origin's life, as the chunk says.
    #[n(1)]
    pub boot: BootCount,
    /// The version of the origin's set at which the chunk changed last, as the chunk says.
    #[n(2)]
    pub version: u64,
    /// The encoded chunk; empty where the set is cut into fewer chunks now.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub chunk: Vec<u8>,
}

/// Most links in one [`PeerRecord`].
pub const LINKS_MAX: usize = 10_000;

/// [`LinkRecord::overlay`]: frames do not pass.
pub const OVERLAY_NONE: u8 = 0;

/// [`LinkRecord::overlay`]: frames pass in user space, over UDP.
pub const OVERLAY_SLEEVE: u8 = 1;

/// [`LinkRecord::overlay`]: frames for known MACs pass in the kernel, by VXLAN.
pub const OVERLAY_VXLAN: u8 = 2;

/// One connection as its lister sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct LinkRecord {
    /// The neighbour.
    #[n(0)]
    pub peer: PeerId,
    /// The neighbour's address and port of the TCP connection; dialable when `outbound`.
    #[n(1)]
    pub address: SocketAddr,
    /// Whether the lister dialed.
    #[n(2)]
    pub outbound: bool,
    /// Whether frames pass, as far as the lister has tried.
    #[n(3)]
    pub established: bool,
    /// How far away the neighbour is: 0 unknown, else the round-trip time lies below 2^(n-1) × 250 µs. In steps, and
    /// changed only after a step and a half, so that records do not change with every measurement.
    #[n(4)]
    #[cbor(default)]
    pub distance: u8,
    /// The overlay that carries frames: [`OVERLAY_NONE`], [`OVERLAY_SLEEVE`]; 2 VXLAN, 3 Open vSwitch.
    #[n(5)]
    #[cbor(default)]
    pub overlay: u8,
}

/// A [`PeerRecord`] as bytes with its origin's Ed25519 signature over them. The bytes travel unchanged, so that
/// fields which a relaying peer does not know survive and stay covered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedRecord {
    /// The encoded [`PeerRecord`].
    #[cbor(n(0), with = "minicbor::bytes")]
    pub body: Vec<u8>,
    /// The signature.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

/// Why bytes are no message. The sender is at fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is no kind byte.
    #[error("an empty message")]
    Empty,
    /// The body is not the CBOR that its kind asks for.
    #[error("a malformed body of a message of kind {kind}")]
    Body {
        /// The kind byte; 0 for structures that stand alone.
        kind: u8,
    },
    /// Bytes follow the body.
    #[error("bytes after the body of a message of kind {kind}")]
    Trailing {
        /// The kind byte.
        kind: u8,
    },
    /// A list is longer than its limit.
    #[error("a list longer than its limit in a message of kind {kind}")]
    TooMany {
        /// The kind byte.
        kind: u8,
    },
}

impl Message {
    /// The message as a frame's plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Gossip(gossip) => body_of(KIND_GOSSIP, gossip),
            Self::Digest(digest) => body_of(KIND_DIGEST, digest),
            Self::Ping(number) => body_of(KIND_PING, number),
            Self::Pong(number) => body_of(KIND_PONG, number),
            Self::Summary(summary) => body_of(KIND_SUMMARY, summary),
            Self::DataOffer(offer) => body_of(KIND_DATA_OFFER, offer),
            Self::Rekey(rekey) => body_of(KIND_REKEY, rekey),
            Self::Observed(address) => body_of(KIND_OBSERVED, address),
            Self::Candidates(addresses) => body_of(KIND_CANDIDATES, addresses),
            Self::Relay(relay) => body_of(KIND_RELAY, relay),
            Self::Mail(mail) => body_of(KIND_MAIL, mail),
            Self::Network(network) => body_of(KIND_NETWORK, network),
            Self::Vxlan(offer) => body_of(KIND_VXLAN, offer),
            Self::Bye(farewell) => body_of(KIND_BYE, farewell.code()),
            Self::Unknown(kind) => vec![*kind],
        }
    }

    /// Reads a frame's plaintext.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&kind, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
        let too_many = |len, max| if len > max { Err(DecodeError::TooMany { kind }) } else { Ok(()) };
        match kind {
            KIND_GOSSIP => {
                let gossip: Gossip = whole(kind, body)?;
                too_many(gossip.entries.len(), GOSSIP_ENTRIES_MAX)?;
                Ok(Self::Gossip(gossip))
            }
            KIND_DIGEST => {
                let digest: Digest = whole(kind, body)?;
                too_many(digest.rows.len(), DIGEST_ROWS_MAX)?;
                Ok(Self::Digest(digest))
            }
            KIND_PING => whole(kind, body).map(Self::Ping),
            KIND_PONG => whole(kind, body).map(Self::Pong),
            KIND_DATA_OFFER => whole(kind, body).map(Self::DataOffer),
            KIND_SUMMARY => {
                let summary: Summary = whole(kind, body)?;
                match summary.buckets.len() {
                    0 | BUCKETS => Ok(Self::Summary(summary)),
                    _ => Err(DecodeError::Body { kind }),
                }
            }
            KIND_REKEY => {
                let rekey: Rekey = whole(kind, body)?;
                too_many(rekey.payload.len(), REKEY_LEN_MAX)?;
                Ok(Self::Rekey(rekey))
            }
            KIND_OBSERVED => whole(kind, body).map(Self::Observed),
            KIND_CANDIDATES => {
                let addresses: Vec<SocketAddr> = whole(kind, body)?;
                too_many(addresses.len(), CANDIDATES_MAX)?;
                Ok(Self::Candidates(addresses))
            }
            KIND_RELAY => {
                let relay: Relay = whole(kind, body)?;
                too_many(relay.payload.len(), RELAY_PAYLOAD_LEN_MAX)?;
                too_many(usize::from(relay.hops), usize::from(RELAY_HOPS_MAX))?;
                Ok(Self::Relay(relay))
            }
            KIND_NETWORK => whole(kind, body).map(Self::Network),
            KIND_VXLAN => match whole::<Option<VxlanOffer>>(kind, body)? {
                Some(offer) if offer.vni > VNI_MAX => Err(DecodeError::Body { kind }),
                offer => Ok(Self::Vxlan(offer)),
            },
            KIND_MAIL => {
                let mail: Mail = whole(kind, body)?;
                too_many(mail.body.len(), MAIL_LEN_MAX)?;
                too_many(usize::from(mail.hops), usize::from(RELAY_HOPS_MAX))?;
                Ok(Self::Mail(mail))
            }
            KIND_BYE => whole(kind, body).map(|code| Self::Bye(Farewell::from_code(code))),
            unknown => Ok(Self::Unknown(unknown)),
        }
    }
}

impl Hello {
    /// The handshake payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        plain(self)
    }

    /// Reads a handshake payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        whole(0, bytes)
    }
}

impl PeerRecord {
    /// The bytes that its origin signs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        plain(self)
    }

    /// Reads what an origin signed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record: Self = whole(0, bytes)?;
        if record.links.len() > LINKS_MAX { Err(DecodeError::TooMany { kind: 0 }) } else { Ok(record) }
    }
}

impl MacsRecord {
    /// The bytes that its origin signs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        plain(self)
    }

    /// Reads what an origin signed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record: Self = whole(0, bytes)?;
        if record.macs.len() > MACS_ANNOUNCED_MAX {
            return Err(DecodeError::TooMany { kind: 0 });
        }
        Ok(record)
    }
}

impl GroupsRecord {
    /// The bytes that its origin signs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        plain(self)
    }

    /// Reads what an origin signed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record: Self = whole(0, bytes)?;
        if record.groups.len() > GROUPS_ANNOUNCED_MAX {
            return Err(DecodeError::TooMany { kind: 0 });
        }
        Ok(record)
    }
}

impl NamesRecord {
    /// The bytes that its origin signs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        plain(self)
    }

    /// Reads what an origin signed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        whole(0, bytes)
    }
}

impl RecordHeader {
    /// Reads the start of what an origin signed, and passes over the rest.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        whole(0, bytes)
    }
}

impl MailBody {
    /// The bytes that the source signs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        plain(self)
    }

    /// Reads what a source signed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        whole(0, bytes)
    }
}

impl SignedRecord {
    /// The entry of the topology channel.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        plain(self)
    }

    /// Reads an entry of the topology channel.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        whole(0, bytes)
    }
}

fn plain(value: &impl Encode<()>) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to a Vec cannot fail")
}

fn body_of(kind: u8, body: impl Encode<()>) -> Vec<u8> {
    let mut bytes = vec![kind];
    minicbor::encode(body, &mut bytes).expect("writing to a Vec cannot fail");
    bytes
}

fn whole<'b, T: Decode<'b, ()>>(kind: u8, body: &'b [u8]) -> Result<T, DecodeError> {
    let mut decoder = minicbor::Decoder::new(body);
    let value = decoder.decode().map_err(|_cbor| DecodeError::Body { kind })?;
    if decoder.position() == body.len() { Ok(value) } else { Err(DecodeError::Trailing { kind }) }
}

#[cfg(test)]
mod tests;
