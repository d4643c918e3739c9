//! The sleeve packet: how frames and probes travel between two routers over UDP. Owns the layout (`PROTOCOL.md`,
//! "Sleeve packets", has it byte by byte); keys and the replay window are `mesh-crypto`'s, forwarding is the data
//! plane's.

use crate::ethernet::ETHERNET_HEADER_LEN;
use crate::{PeerId, ReceiverIndex};

/// Version of the packet layout that this crate speaks.
pub const SLEEVE_VERSION: u8 = 1;

/// Length of the packet header.
pub const HEADER_LEN: usize = 16;

/// Length of the authentication tag that ends a sealed packet.
pub const TAG_LEN: usize = 16;

/// Length of the cookie that follows the header of a clear packet.
pub const COOKIE_LEN: usize = 8;

/// Length of a message's kind and length fields.
pub const MESSAGE_HEADER_LEN: usize = 3;

/// What a relayed unicast carries before its frame: time to live, source and destination peer.
pub const UNICAST_HEADER_LEN: usize = 1 + 2 * PeerId::LEN;

/// What a relayed broadcast carries before its frame: time to live, source peer, topology digest, sequence.
pub const BROADCAST_HEADER_LEN: usize = 1 + PeerId::LEN + 4 + 4;

/// Payload length of a probe and of its reply: sequence and timestamp.
pub const PROBE_LEN: usize = 4 + 8;

/// What a part carries before its bytes: number, length of the whole, offset.
pub const PART_HEADER_LEN: usize = 4 + 2 + 2;

/// Payload length of a size reply, and the least of a size probe: sequence.
pub const SIZE_PROBE_LEN: usize = 4;

/// Most bytes that a packet adds to the frame that it carries: sealed, relayed unicast.
pub const OVERHEAD_LEN_MAX: usize = HEADER_LEN + TAG_LEN + MESSAGE_HEADER_LEN + UNICAST_HEADER_LEN;

const KIND_FRAME: u8 = 1;
const KIND_UNICAST: u8 = 2;
const KIND_BROADCAST: u8 = 3;
const KIND_PART: u8 = 4;
const KIND_PROBE: u8 = 16;
const KIND_PROBE_REPLY: u8 = 17;
const KIND_DEAF: u8 = 18;
const KIND_SIZE_PROBE: u8 = 19;
const KIND_SIZE_REPLY: u8 = 20;

/// How a packet's body is protected: the first byte of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// Encrypted and authenticated: body, then a tag of [`TAG_LEN`].
    Sealed,
    /// In clear: a cookie of [`COOKIE_LEN`], then the body.
    Clear,
}

/// The header of a packet. It is authenticated as a whole in a sealed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How the body is protected.
    pub kind: PacketKind,
    /// The receiver's name for the session and epoch whose keys apply.
    pub receiver: ReceiverIndex,
    /// Counts the packets of that session and epoch in one direction; never repeats.
    pub counter: u64,
}

/// Why a datagram has no usable header. Nothing is known about its sender then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The header is cut short.
    #[error("{0} bytes hold no sleeve header")]
    TooShort(usize),
    /// A packet type that this version does not know.
    #[error("unknown packet type {0}")]
    UnknownType(u8),
    /// Another version of the layout.
    #[error("packet version {0}, not {SLEEVE_VERSION}")]
    Version(u8),
    /// The reserved bytes are not zero.
    #[error("reserved bytes hold {0:#06x}")]
    Reserved(u16),
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = match self.kind {
            PacketKind::Sealed => 1,
            PacketKind::Clear => 2,
        };
        bytes[1] = SLEEVE_VERSION;
        bytes[4..8].copy_from_slice(&self.receiver.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The header at the start of `datagram`; the rest begins at [`HEADER_LEN`].
    ///
    /// # Errors
    /// A [`HeaderError`] when it is cut short or not of this version.
    pub fn decode(datagram: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = datagram.first_chunk::<HEADER_LEN>() else {
            return Err(HeaderError::TooShort(datagram.len()));
        };
        let [kind, version, r0, r1, i0, i1, i2, i3, counter @ ..] = *bytes;
        let kind = match kind {
            1 => PacketKind::Sealed,
            2 => PacketKind::Clear,
            other => return Err(HeaderError::UnknownType(other)),
        };
        if version != SLEEVE_VERSION {
            return Err(HeaderError::Version(version));
        }
        let reserved = u16::from_be_bytes([r0, r1]);
        if reserved != 0 {
            return Err(HeaderError::Reserved(reserved));
        }
        let receiver = ReceiverIndex(u32::from_be_bytes([i0, i1, i2, i3]));
        Ok(Self { kind, receiver, counter: u64::from_be_bytes(counter) })
    }
}

/// How many more links a relayed frame may cross, this one included: 1 to 15. A frame whose time to live runs out
/// is dropped, so that a forwarding loop ends by itself whatever the routers believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeToLive(u8);

impl TimeToLive {
    /// What the source of a relayed frame gives it.
    pub const MAX: Self = Self(15);

    /// The time to live with this many links left, if it is one.
    #[must_use]
    pub const fn new(links: u8) -> Option<Self> {
        if links >= 1 && links <= Self::MAX.0 { Some(Self(links)) } else { None }
    }

    /// What is left behind one link; `None` when the frame may not be sent on.
    #[must_use]
    pub const fn behind_one_link(self) -> Option<Self> {
        Self::new(self.0 - 1)
    }

    /// The number of links.
    #[must_use]
    pub const fn links(self) -> u8 {
        self.0
    }
}

/// How a frame is wrapped, apart from the frame itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// From the sending neighbour's containers to the receiving one's: never sent on.
    Direct,
    /// To one peer over relays.
    Unicast {
        /// How far the frame may still travel.
        ttl: TimeToLive,
        /// Whose containers sent it.
        source: PeerId,
        /// Whose containers it is for.
        destination: PeerId,
    },
    /// To all peers along the broadcast tree of its source.
    Broadcast {
        /// How far the frame may still travel.
        ttl: TimeToLive,
        /// Whose containers sent it, and whose tree it follows.
        source: PeerId,
        /// The source's digest of the topology from which it took the tree.
        digest: u32,
        /// Which of the source's broadcasts it is: its copies bear the same number, and others for some seconds none.
        sequence: u32,
    },
}

/// What a probe says, and what its reply echoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Counts the probes of one link.
    pub sequence: u32,
    /// When the probing router sent it, in nanoseconds of its own clock; opaque to the other side.
    pub sent_ns: u64,
}

/// A piece of a message that is too long for the path to the neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Tells the messages apart that are under way in parts; others for some seconds have another number.
    pub number: u32,
    /// Length of the whole message, its header included.
    pub whole_len: u16,
    /// Where in the message the bytes belong; they end within it.
    pub offset: u16,
    /// At least one.
    pub bytes: &'a [u8],
}

/// One message of a packet's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// An Ethernet frame, at least a header long.
    Frame {
        /// How it is wrapped.
        envelope: Envelope,
        /// The frame.
        frame: &'a [u8],
    },
    /// A piece of a [`Message::Frame`].
    Part(Part<'a>),
    /// Asks for a [`Message::ProbeReply`].
    Probe(Probe),
    /// Answers a [`Message::Probe`] with what it said.
    ProbeReply(Probe),
    /// Nothing of the receiver has reached the sender for so long that it has given the link up.
    Deaf,
    /// Asks for a [`Message::SizeReply`]: whether a packet of this length arrives whole.
    SizeProbe {
        /// Counts the size probes of one link.
        sequence: u32,
        /// Bytes without meaning that follow it.
        padding: u16,
    },
    /// Answers a [`Message::SizeProbe`].
    SizeReply {
        /// That of the size probe.
        sequence: u32,
    },
}

/// A frame does not fit the 16-bit length of a message; nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes does not fit its 16-bit length")]
pub struct MessageTooLong(pub usize);

/// Why one message of a body is not understood. The messages before it were good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A kind of message that this version does not know. It was skipped; the next one follows.
    #[error("unknown message kind {0}")]
    UnknownKind(u8),
    /// The payload does not fit its kind: too short, too long, a time to live out of range. It was skipped; the
    /// next one follows.
    #[error("malformed payload of message kind {0}")]
    Payload(u8),
    /// The body ends inside the message. It is the last one.
    #[error("the body ends inside a message")]
    Truncated,
}

impl Message<'_> {
    /// Length on the wire, its header included.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        MESSAGE_HEADER_LEN + self.payload_len()
    }

    /// Appends the message to `out`.
    ///
    /// # Errors
    /// [`MessageTooLong`] when the payload's length does not fit 16 bits.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageTooLong> {
        match *self {
            Self::Frame { envelope, frame } => {
                envelope.encode_head(frame.len(), out)?;
                out.extend_from_slice(frame);
            }
            Self::Probe(probe) | Self::ProbeReply(probe) => {
                encode_head(self.kind(), self.payload_len(), out)?;
                out.extend_from_slice(&probe.sequence.to_be_bytes());
                out.extend_from_slice(&probe.sent_ns.to_be_bytes());
            }
            Self::Part(part) => {
                part.encode_head(part.bytes.len(), out)?;
                out.extend_from_slice(part.bytes);
            }
            Self::SizeProbe { sequence, padding } => {
                encode_head(self.kind(), self.payload_len(), out)?;
                out.extend_from_slice(&sequence.to_be_bytes());
                out.resize(out.len() + usize::from(padding), 0);
            }
            Self::SizeReply { sequence } => {
                encode_head(self.kind(), self.payload_len(), out)?;
                out.extend_from_slice(&sequence.to_be_bytes());
            }
            Self::Deaf => encode_head(self.kind(), self.payload_len(), out)?,
        }
        Ok(())
    }

    const fn payload_len(&self) -> usize {
        match self {
            Self::Frame { envelope, frame } => envelope.encoded_len() + frame.len(),
            Self::Part(part) => PART_HEADER_LEN + part.bytes.len(),
            Self::Probe(_) | Self::ProbeReply(_) => PROBE_LEN,
            Self::Deaf => 0,
            Self::SizeProbe { padding, .. } => SIZE_PROBE_LEN + *padding as usize,
            Self::SizeReply { .. } => SIZE_PROBE_LEN,
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Frame { envelope, .. } => envelope.kind(),
            Self::Part(_) => KIND_PART,
            Self::Probe(_) => KIND_PROBE,
            Self::ProbeReply(_) => KIND_PROBE_REPLY,
            Self::Deaf => KIND_DEAF,
            Self::SizeProbe { .. } => KIND_SIZE_PROBE,
            Self::SizeReply { .. } => KIND_SIZE_REPLY,
        }
    }
}

impl<'a> Message<'a> {
    fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, MessageError> {
        let message = match kind {
            KIND_FRAME => frame(Envelope::Direct, payload),
            KIND_UNICAST => decode_unicast(payload),
            KIND_BROADCAST => decode_broadcast(payload),
            KIND_PART => decode_part(payload),
            KIND_PROBE => decode_probe(payload).map(Self::Probe),
            KIND_PROBE_REPLY => decode_probe(payload).map(Self::ProbeReply),
            KIND_DEAF => payload.is_empty().then_some(Self::Deaf),
            KIND_SIZE_PROBE => decode_size_probe(payload),
            KIND_SIZE_REPLY => {
                payload.try_into().ok().map(|bytes| Self::SizeReply { sequence: u32::from_be_bytes(bytes) })
            }
            unknown => return Err(MessageError::UnknownKind(unknown)),
        };
        message.ok_or(MessageError::Payload(kind))
    }
}

impl Part<'_> {
    /// Appends all of a [`Message::Part`] that precedes its bytes, of which there are `len`; they are the caller's to
    /// append.
    ///
    /// # Errors
    /// [`MessageTooLong`] when the payload's length does not fit 16 bits.
    pub fn encode_head(&self, len: usize, out: &mut Vec<u8>) -> Result<(), MessageTooLong> {
        encode_head(KIND_PART, PART_HEADER_LEN + len, out)?;
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.whole_len.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        Ok(())
    }
}

impl Envelope {
    /// Length on the wire.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        match self {
            Self::Direct => 0,
            Self::Unicast { .. } => UNICAST_HEADER_LEN,
            Self::Broadcast { .. } => BROADCAST_HEADER_LEN,
        }
    }

    /// Appends all of a [`Message::Frame`] in this envelope that precedes its frame. The frame, of `frame_len` bytes,
    /// is the caller's to append.
    ///
    /// # Errors
    /// [`MessageTooLong`] when the payload's length does not fit 16 bits.
    pub fn encode_head(&self, frame_len: usize, out: &mut Vec<u8>) -> Result<(), MessageTooLong> {
        encode_head(self.kind(), self.encoded_len() + frame_len, out)?;
        match self {
            Self::Direct => {}
            Self::Unicast { ttl, source, destination } => {
                out.push(ttl.0);
                out.extend_from_slice(source.as_bytes());
                out.extend_from_slice(destination.as_bytes());
            }
            Self::Broadcast { ttl, source, digest, sequence } => {
                out.push(ttl.0);
                out.extend_from_slice(source.as_bytes());
                out.extend_from_slice(&digest.to_be_bytes());
                out.extend_from_slice(&sequence.to_be_bytes());
            }
        }
        Ok(())
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Direct => KIND_FRAME,
            Self::Unicast { .. } => KIND_UNICAST,
            Self::Broadcast { .. } => KIND_BROADCAST,
        }
    }
}

fn encode_head(kind: u8, payload_len: usize, out: &mut Vec<u8>) -> Result<(), MessageTooLong> {
    let Ok(len) = u16::try_from(payload_len) else {
        return Err(MessageTooLong(payload_len));
    };
    out.push(kind);
    out.extend_from_slice(&len.to_be_bytes());
    Ok(())
}

/// The messages of a body, in order. It ends behind the last one, or behind [`MessageError::Truncated`].
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages of `body`: what is left of an authenticated packet without header, cookie and tag.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some((kind, payload, rest)) = split_message(self.rest) else {
            self.rest = &[];
            return Some(Err(MessageError::Truncated));
        };
        self.rest = rest;
        Some(Message::decode(kind, payload))
    }
}

fn split_message(body: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([kind, l0, l1], rest) = body.split_first_chunk::<MESSAGE_HEADER_LEN>()?;
    let (payload, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*l0, *l1])))?;
    Some((*kind, payload, rest))
}

fn frame(envelope: Envelope, frame: &[u8]) -> Option<Message<'_>> {
    (frame.len() >= ETHERNET_HEADER_LEN).then_some(Message::Frame { envelope, frame })
}

fn decode_unicast(payload: &[u8]) -> Option<Message<'_>> {
    let ([ttl], rest) = payload.split_first_chunk()?;
    let (source, rest) = rest.split_first_chunk()?;
    let (destination, rest) = rest.split_first_chunk()?;
    let envelope = Envelope::Unicast {
        ttl: TimeToLive::new(*ttl)?,
        source: PeerId::from_bytes(*source),
        destination: PeerId::from_bytes(*destination),
    };
    frame(envelope, rest)
}

fn decode_broadcast(payload: &[u8]) -> Option<Message<'_>> {
    let ([ttl], rest) = payload.split_first_chunk()?;
    let (source, rest) = rest.split_first_chunk()?;
    let (digest, rest) = rest.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let envelope = Envelope::Broadcast {
        ttl: TimeToLive::new(*ttl)?,
        source: PeerId::from_bytes(*source),
        digest: u32::from_be_bytes(*digest),
        sequence: u32::from_be_bytes(*sequence),
    };
    frame(envelope, rest)
}

fn decode_probe(payload: &[u8]) -> Option<Probe> {
    let (sequence, rest) = payload.split_first_chunk()?;
    let sent_ns = rest.try_into().ok()?;
    Some(Probe { sequence: u32::from_be_bytes(*sequence), sent_ns: u64::from_be_bytes(sent_ns) })
}

fn decode_part(payload: &[u8]) -> Option<Message<'_>> {
    let (number, rest) = payload.split_first_chunk()?;
    let (whole_len, rest) = rest.split_first_chunk()?;
    let (offset, bytes) = rest.split_first_chunk()?;
    let (whole_len, offset) = (u16::from_be_bytes(*whole_len), u16::from_be_bytes(*offset));
    let fits = !bytes.is_empty() && usize::from(offset) + bytes.len() <= usize::from(whole_len);
    let part = Part { number: u32::from_be_bytes(*number), whole_len, offset, bytes };
    fits.then_some(Message::Part(part))
}

fn decode_size_probe(payload: &[u8]) -> Option<Message<'_>> {
    let (sequence, padding) = payload.split_first_chunk()?;
    let padding = padding.len().try_into().ok()?;
    Some(Message::SizeProbe { sequence: u32::from_be_bytes(*sequence), padding })
}

#[cfg(test)]
mod tests;
