//! A part of a peer's set as it travels, and the numbers that say which of two is newer.

use std::collections::BTreeSet;

use mesh_wire::{BootCount, PeerId};
use minicbor::{Decode, Encode};

use crate::entry::Entry;
use crate::name::fnv1a;
use crate::own::ORIGIN_ENTRIES_MAX;

/// Longest encoded chunk, in bytes. With a signature and its frame it stays below 64 KiB.
pub const CHUNK_LEN_MAX: usize = 63 * 1024;

/// A set is cut into at most 2 to the power of this many chunks.
pub const DEPTH_MAX: u8 = 7;

/// Which chunk of whose set: what a store of signed chunks is keyed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct ChunkKey {
    /// Whose set.
    #[n(0)]
    pub origin: PeerId,
    /// Which part of it.
    #[n(1)]
    pub index: u16,
}

/// What orders the chunks of one [`ChunkKey`]: the greater is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Number {
    /// The origin's life.
    #[n(0)]
    pub boot: BootCount,
    /// The version of the set at which it was last cut into chunks anew.
    #[n(1)]
    pub since: u64,
    /// In how many chunks it was cut then, as a power of two. Tells apart layouts that an origin has numbered alike,
    /// as one does whose state was put back to an earlier day.
    #[n(2)]
    pub depth: u8,
    /// The version of the set at which this chunk changed last.
    #[n(3)]
    pub version: u64,
    /// A hash of the entries, which tells apart chunks that an origin has numbered alike.
    #[n(4)]
    pub tag: u64,
}

/// A line of a digest: the newest chunk that a peer holds under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct DigestRow {
    /// Which chunk.
    #[n(0)]
    pub key: ChunkKey,
    /// Which of it.
    #[n(1)]
    pub number: Number,
}

/// The entries of one origin whose names hash into one part of the space of hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    key: ChunkKey,
    layout: Layout,
    version: u64,
    tag: u64,
    entries: BTreeSet<Entry>,
}

/// A cut of a set into chunks. The greater is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Layout {
    pub(crate) boot: BootCount,
    pub(crate) since: u64,
    pub(crate) depth: u8,
}

/// Why bytes are no chunk. Whoever signed them is at fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// It is longer than [`CHUNK_LEN_MAX`].
    #[error("a chunk of {0} bytes: {CHUNK_LEN_MAX} are allowed")]
    TooLong(usize),
    /// The bytes are not the CBOR of a chunk.
    #[error("a malformed chunk of names")]
    Malformed,
    /// The numbers contradict each other, or entries are out of order or do not belong into this chunk.
    #[error("a chunk of names that contradicts itself")]
    Inconsistent,
}

/// A [`Chunk`] on the wire: an array, to whose end a newer router may append fields.
#[derive(Encode, Decode)]
struct Body {
    #[n(0)]
    key: ChunkKey,
    #[n(1)]
    boot: BootCount,
    #[n(2)]
    since: u64,
    #[n(3)]
    depth: u8,
    #[n(4)]
    version: u64,
    #[n(5)]
    entries: Vec<Entry>,
}

impl Chunk {
    pub(crate) fn new(
        origin: PeerId,
        layout: Layout,
        index: u16,
        version: u64,
        entries: BTreeSet<Entry>,
    ) -> Self {
        let ordered: Vec<&Entry> = entries.iter().collect();
        let tag = fnv1a(&minicbor::to_vec(ordered).expect("writing to a Vec cannot fail"));
        Self { key: ChunkKey { origin, index }, layout, version, tag, entries }
    }

    /// Reads what [`Self::encode`] wrote. The caller has checked, or checks then, that [`Self::origin`] wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkError> {
        if bytes.len() > CHUNK_LEN_MAX {
            return Err(ChunkError::TooLong(bytes.len()));
        }
        let mut decoder = minicbor::Decoder::new(bytes);
        let body: Body = decoder.decode().map_err(|_cbor| ChunkError::Malformed)?;
        if decoder.position() != bytes.len() {
            return Err(ChunkError::Malformed);
        }
        let Body { key, boot, since, depth, version, entries } = body;
        let placed = depth <= DEPTH_MAX
            && usize::from(key.index) < chunk_count(depth)
            && since <= version
            && entries.len() <= ORIGIN_ENTRIES_MAX
            && entries.is_sorted_by(|a, b| a < b)
            && entries.iter().all(|entry| index_of(entry, depth) == key.index);
        if !placed {
            return Err(ChunkError::Inconsistent);
        }
        let layout = Layout { boot, since, depth };
        Ok(Self::new(key.origin, layout, key.index, version, entries.into_iter().collect()))
    }

    /// The bytes that travel, at most [`CHUNK_LEN_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Layout { boot, since, depth } = self.layout;
        let entries = self.entries.iter().cloned().collect();
        let body = Body { key: self.key, boot, since, depth, version: self.version, entries };
        minicbor::to_vec(body).expect("writing to a Vec cannot fail")
    }

    /// Whose set this is a part of.
    #[must_use]
    pub const fn origin(&self) -> PeerId {
        self.key.origin
    }

    /// Which chunk of whose set.
    #[must_use]
    pub const fn key(&self) -> ChunkKey {
        self.key
    }

    /// What orders it among the chunks of its key.
    #[must_use]
    pub const fn number(&self) -> Number {
        let Layout { boot, since, depth } = self.layout;
        Number { boot, since, depth, version: self.version, tag: self.tag }
    }

    /// Its entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether it has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    pub(crate) const fn layout(&self) -> Layout {
        self.layout
    }
}

/// How many chunks a set of this depth has.
pub(crate) const fn chunk_count(depth: u8) -> usize {
    1 << depth
}

/// Which chunk of a set of this depth has the entry: the first `depth` bits of its name's hash.
pub(crate) fn index_of(entry: &Entry, depth: u8) -> u16 {
    let low = entry.name().hash64() & ((1 << depth) - 1);
    u16::try_from(low).expect("DEPTH_MAX bits fit into 16")
}
