//! What peers say to each other about addresses, as bytes. `FORMAT.md` has the layout.
//!
//! Owns encoding and the limits of decoding. A peer's message changes nothing here.

use mesh_wire::{MacAddr, NetworkId};
use minicbor::{Decode, Encode};

use crate::addr::Addr;
use crate::book::Ident;
use crate::founding::{Ballot, Charter};
use crate::map::RUNS_MAX;
use crate::range::Range;
use crate::state::Life;
use crate::view::{PART_ENTRIES_MAX, ROSTER_MAX, View};

/// Version of the format. One that differs is not read: the peers must be brought to one version.
pub const VERSION: u8 = 1;

/// Most bytes in one message: what one mail carries, and its envelope.
pub const MESSAGE_LEN_MAX: usize = 500 * 1024;

/// Most parts of one telling: of a map, a roster and a list of retired peers that are as long as they may be, with as many
/// ranges as a map has runs.
pub const PARTS_MAX: usize = (RUNS_MAX + 2 * ROSTER_MAX).div_ceil(PART_ENTRIES_MAX);

/// A message, and where its sender stands.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// [`VERSION`].
    #[n(0)]
    pub version: u8,
    /// The sender's life; its position is on disk.
    #[n(1)]
    pub life: Life,
    /// The sender's network.
    #[n(2)]
    pub network: Option<NetworkId>,
    /// What it says.
    #[n(3)]
    pub message: Message,
}

/// What a peer says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// Here I am. Whoever sees that we differ sends all that it knows, and asks for the same.
    #[n(0)]
    Hail(#[n(0)] Hail),
    /// Write me into your roster, then tell me all that you know.
    #[n(1)]
    Call,
    /// What the sender knows.
    #[n(2)]
    Tell(#[n(0)] Tell),
    /// Give me some of your space.
    #[n(3)]
    Ask(#[n(0)] Ask),
    /// You get none.
    #[n(4)]
    Deny(#[n(0)] Deny),
    /// Promise to accept nothing below this ballot.
    #[n(5)]
    Prepare(#[n(0)] Ballot),
    /// Promised; and what was accepted before.
    #[n(6)]
    Promise(#[n(0)] Ballot, #[n(1)] Option<(Ballot, Charter)>),
    /// Accept this charter.
    #[n(7)]
    Accept(#[n(0)] Ballot, #[n(1)] Charter),
    /// Accepted.
    #[n(8)]
    Accepted(#[n(0)] Ballot),
    /// A greater ballot was promised.
    #[n(9)]
    Refuse(#[n(0)] Ballot),
    /// Another router has come to the sender as the receiver, while the receiver was at work.
    #[n(10)]
    Copied,
}

/// Most conflicts that a peer tells of; people have enough to do with these.
pub const CONFLICTS_MAX: usize = 32;

/// An address that may be in use twice. It stays with its holder: nothing is repaired behind anybody's back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Conflict {
    /// Which.
    #[n(0)]
    pub address: Addr,
    /// Who holds it.
    #[n(1)]
    pub ident: Ident,
    /// Whoever else answered for it on the wire. `None` when it belongs to another peer by record.
    #[n(2)]
    pub seen_at: Option<MacAddr>,
}

/// Where a peer stands, in short.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hail {
    /// A hash of its custody.
    #[n(0)]
    pub sum: u64,
    /// How full it is.
    #[n(1)]
    pub hint: Hint,
    /// The last life of the receiver that it has heard of.
    #[n(2)]
    pub yours: Option<Life>,
    /// Addresses held by the sender's clients that may be in use twice, at most [`CONFLICTS_MAX`].
    #[n(3)]
    pub conflicts: Vec<Conflict>,
}

/// What a peer knows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Tell {
    /// The network's range.
    #[n(0)]
    pub range: Range,
    /// Which part it is of all that the sender knows; `None` for news.
    #[n(1)]
    pub part: Option<Part>,
    /// What it knows.
    #[n(2)]
    pub view: View,
    /// The sender's grants that never became active; complete when all parts are there.
    #[n(3)]
    pub inactive: Vec<Range>,
    /// How full the sender is.
    #[n(4)]
    pub hint: Hint,
}

/// Which part of a telling a [`Tell`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// Numbers the telling within its sender's life.
    #[n(0)]
    pub number: u64,
    /// Which part, from 0.
    #[n(1)]
    pub index: u16,
    /// How many there are.
    #[n(2)]
    pub count: u16,
}

/// How full a peer is: a hint for whom to ask, and for people. No part of custody, and never merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Hint {
    /// How many addresses it could give away.
    #[n(0)]
    pub free: u64,
    /// How many are in use.
    #[n(1)]
    pub held: u64,
}

/// A request for space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Ask {
    /// Where.
    #[n(0)]
    pub within: Range,
    /// How many addresses are needed at once; the donor gives more.
    #[n(1)]
    pub wanted: u64,
}

/// The answer to an [`Ask`] that grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Deny {
    /// What was asked for.
    #[n(0)]
    pub within: Range,
    /// Why not.
    #[n(1)]
    pub cause: Denial,
}

/// Why no space is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Denial {
    /// All of it is in use.
    #[n(0)]
    InUse,
    /// Some of it was lately, and will be free soon.
    #[n(1)]
    Cooling,
    /// The asked has none of it.
    #[n(2)]
    NotMine,
    /// The asked may give nothing now, or the asker may take nothing.
    #[n(3)]
    NotNow,
}

/// Why bytes are no message. Their sender is at fault, or of another version; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MESSAGE_LEN_MAX`].
    #[error("a message of {0} bytes")]
    TooLong(usize),
    /// Not the CBOR that it should be.
    #[error("malformed")]
    Malformed,
    /// Another version.
    #[error("of version {0}; this router speaks version {VERSION}")]
    Version(u8),
    /// A list is longer than its limit.
    #[error("with a list longer than its limit")]
    TooMany,
}

impl Envelope {
    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a Vec cannot fail")
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`], by which nothing was changed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let version = Self::version(bytes).ok_or(DecodeError::Malformed)?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let mut decoder = minicbor::Decoder::new(bytes);
        let envelope: Self = decoder.decode().map_err(|_cbor| DecodeError::Malformed)?;
        if decoder.position() != bytes.len() {
            return Err(DecodeError::Malformed);
        }
        if let Message::Hail(hail) = &envelope.message
            && hail.conflicts.len() > CONFLICTS_MAX
        {
            return Err(DecodeError::TooMany);
        }
        if let Message::Tell(tell) = &envelope.message
            && !(tell.view.is_bounded()
                && tell.inactive.len() <= RUNS_MAX
                && tell
                    .part
                    .is_none_or(|part| part.index < part.count && usize::from(part.count) <= PARTS_MAX))
        {
            return Err(DecodeError::TooMany);
        }
        Ok(envelope)
    }

    fn version(bytes: &[u8]) -> Option<u8> {
        let mut decoder = minicbor::Decoder::new(bytes);
        decoder.array().ok()?;
        decoder.u8().ok()
    }
}
