//! What two routers say to each other over a control session, once the handshake has sealed it.
//!
//! A frame's plaintext is one kind byte and a CBOR body (RFC 8949). Structures are CBOR arrays indexed by position:
//! a newer router may append fields, an older one ignores them. An unknown kind is no error either, so that routers
//! of different age stay connected.

use std::fmt;
use std::net::SocketAddr;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::{BootCount, Nickname, PeerId, ReceiverIndex};

/// Most entries in one [`Message::Gossip`]; a sender splits what is longer, a receiver refuses it.
pub const GOSSIP_ENTRIES_MAX: usize = 4_096;

/// Most rows in one [`Message::Digest`]: as many peers as a network may have.
pub const DIGEST_ROWS_MAX: usize = 16_384;

const KIND_GOSSIP: u8 = 1;
const KIND_DIGEST: u8 = 2;
const KIND_PING: u8 = 3;
const KIND_PONG: u8 = 4;
const KIND_DATA_OFFER: u8 = 5;
const KIND_BYE: u8 = 6;

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
}

/// A message of a control session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Entries of one channel, news to the receiver as far as the sender knows.
    Gossip(Gossip),
    /// What the sender has of one channel; the receiver answers with what is newer, and asks for nothing.
    Digest(Digest),
    /// Asks for a [`Message::Pong`] with the same number.
    Ping(u64),
    /// Answers a [`Message::Ping`].
    Pong(u64),
    /// The sender is ready to receive data packets of an epoch.
    DataOffer(DataOffer),
    /// The sender closes the connection, and why.
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
}

/// The newest version of each origin that the sender holds.
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

/// Why a router ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It stops.
    Stopping,
    /// Another connection to the same peer is kept.
    Duplicate,
    /// It received something that the protocol does not allow.
    Violation,
    /// A reason that this version does not know.
    Other(u8),
}

impl Farewell {
    const fn code(self) -> u8 {
        match self {
            Self::Stopping => 1,
            Self::Duplicate => 2,
            Self::Violation => 3,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Stopping,
            2 => Self::Duplicate,
            3 => Self::Violation,
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
}

/// Most links in one [`PeerRecord`].
pub const LINKS_MAX: usize = 10_000;

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
            Self::DataOffer(offer) => body_of(KIND_DATA_OFFER, offer),
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
