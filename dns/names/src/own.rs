//! This router's own set: edited entry by entry, numbered, and cut into chunks. Owns nothing of other peers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_wire::{BootCount, PeerId};

use crate::chunk::{CHUNK_LEN_MAX, Chunk, ChunkKey, DEPTH_MAX, Layout, chunk_count, index_of};
use crate::entry::{ContainerId, Entry};
use crate::name::Name;

/// Most entries in the set of one origin. One more is refused.
pub const ORIGIN_ENTRIES_MAX: usize = 10_000;

/// No fewer bytes than a chunk's encoding has beside its entries.
const CHUNK_OVERHEAD: usize = 64;

/// Why an entry was not added. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The set has [`ORIGIN_ENTRIES_MAX`] entries, or cannot be cut fine enough to carry this one.
    #[error("this router has as many names as it may ({ORIGIN_ENTRIES_MAX})")]
    Full,
}

/// Which of this router's entries are meant: those that match in all that is given.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Entries of this container.
    pub container: Option<ContainerId>,
    /// Entries of this name.
    pub name: Option<Name>,
    /// Entries at this address.
    pub address: Option<IpAddr>,
}

impl Selection {
    /// This entry, whatever its port.
    pub(crate) fn of(entry: &Entry) -> Self {
        Self {
            container: Some(entry.container().clone()),
            name: Some(entry.name().clone()),
            address: Some(entry.address()),
        }
    }

    fn matches(&self, entry: &Entry) -> bool {
        self.container.as_ref().is_none_or(|container| container == entry.container())
            && self.name.as_ref().is_none_or(|name| name == entry.name())
            && self.address.is_none_or(|address| address == entry.address())
    }
}

/// The set that this router writes.
pub(crate) struct OwnSet {
    me: PeerId,
    layout: Layout,
    version: u64,
    parts: Vec<Part>,
    /// Chunks that were not handed out since they changed.
    changed: BTreeSet<u16>,
}

#[derive(Default)]
struct Part {
    entries: BTreeSet<Entry>,
    version: u64,
    len_max: usize,
}

impl OwnSet {
    /// An empty set. It is news, too: others may remember entries of an earlier life.
    pub(crate) fn new(me: PeerId, boot: BootCount) -> Self {
        let part = Part { version: 1, ..Part::default() };
        let layout = Layout { boot, since: 1, depth: 0 };
        Self { me, layout, version: 1, parts: vec![part], changed: BTreeSet::from([0]) }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.parts.iter().flat_map(|part| &part.entries)
    }

    pub(crate) fn entry_count(&self) -> usize {
        self.parts.iter().map(|part| part.entries.len()).sum()
    }

    /// Adds an entry; false when it was there.
    pub(crate) fn add(&mut self, entry: Entry) -> Result<bool, AddError> {
        if self.part_of(&entry).entries.contains(&entry) {
            return Ok(false);
        }
        if self.entry_count() >= ORIGIN_ENTRIES_MAX {
            return Err(AddError::Full);
        }
        let before = self.layout.depth;
        let mut depth = before;
        while !self.fits(&entry, depth) {
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(AddError::Full);
            }
        }
        self.version += 1;
        if depth > before {
            self.cut(depth);
        }
        let index = index_of(&entry, depth);
        let part = &mut self.parts[usize::from(index)];
        part.len_max += entry.len_max();
        part.version = self.version;
        part.entries.insert(entry);
        self.changed.insert(index);
        Ok(true)
    }

    /// Takes the selected entries out, and returns them.
    pub(crate) fn remove(&mut self, selection: &Selection) -> Vec<Entry> {
        let version = self.version + 1;
        let mut removed = Vec::new();
        for (index, part) in (0..).zip(&mut self.parts) {
            let gone: Vec<Entry> = part.entries.extract_if(.., |entry| selection.matches(entry)).collect();
            if gone.is_empty() {
                continue;
            }
            part.len_max -= gone.iter().map(Entry::len_max).sum::<usize>();
            part.version = version;
            self.changed.insert(index);
            removed.extend(gone);
        }
        if !removed.is_empty() {
            self.version = version;
            self.cut_coarser();
        }
        removed
    }

    /// The chunk under `index`.
    pub(crate) fn chunk(&self, index: u16) -> Option<Chunk> {
        let part = self.parts.get(usize::from(index))?;
        Some(Chunk::new(self.me, self.layout, index, part.version, part.entries.clone()))
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        (0..).map_while(|index| self.chunk(index))
    }

    pub(crate) fn take_changed(&mut self) -> Vec<ChunkKey> {
        let origin = self.me;
        std::mem::take(&mut self.changed).into_iter().map(|index| ChunkKey { origin, index }).collect()
    }

    /// Whether others would prefer `chunk`, which bears this router's name, to what this router says.
    pub(crate) fn is_outdone_by(&self, chunk: &Chunk) -> bool {
        let ours = (chunk.layout() == self.layout).then(|| self.chunk(chunk.key().index)).flatten();
        ours.map_or_else(|| chunk.layout() > self.layout, |ours| chunk.number() > ours.number())
    }

    /// Numbers this set above what is numbered so.
    pub(crate) fn outrun(&mut self, boot: BootCount, version: u64) {
        self.layout.boot = self.layout.boot.max(boot);
        self.version = self.version.max(version).saturating_add(1);
        self.cut(self.layout.depth);
    }

    fn part_of(&self, entry: &Entry) -> &Part {
        &self.parts[usize::from(index_of(entry, self.layout.depth))]
    }

    /// Whether all entries and `entry` beside them fit into chunks when the set is cut to `depth`.
    fn fits(&self, entry: &Entry, depth: u8) -> bool {
        let index = index_of(entry, depth);
        let beside: usize = if depth == self.layout.depth {
            self.part_of(entry).len_max
        } else {
            self.entries().filter(|other| index_of(other, depth) == index).map(Entry::len_max).sum()
        };
        CHUNK_OVERHEAD + beside + entry.len_max() <= CHUNK_LEN_MAX
    }

    /// Halves the number of chunks as long as those are mostly air, so that a set which has shrunk is one chunk again.
    /// A quarter, not a half, so that a set at the border is not cut again and again.
    fn cut_coarser(&mut self) {
        let total: usize = self.parts.iter().map(|part| part.len_max).sum();
        let mut depth = self.layout.depth;
        while depth > 0 && total * 4 <= CHUNK_LEN_MAX * chunk_count(depth - 1) {
            depth -= 1;
        }
        if depth < self.layout.depth && self.all_fit(depth) {
            self.cut(depth);
        }
    }

    /// Whether each chunk keeps its limit when the set is cut to `depth`, coarser than now. It may not when a name
    /// has very many entries.
    fn all_fit(&self, depth: u8) -> bool {
        let coarse = chunk_count(depth);
        (0..coarse).all(|index| {
            let merged = self.parts.iter().skip(index).step_by(coarse);
            CHUNK_OVERHEAD + merged.map(|part| part.len_max).sum::<usize>() <= CHUNK_LEN_MAX
        })
    }

    /// Cuts the set into chunks anew, as of the present version.
    fn cut(&mut self, depth: u8) {
        let entries: Vec<Entry> =
            self.parts.iter_mut().flat_map(|part| std::mem::take(&mut part.entries)).collect();
        self.layout = Layout { since: self.version, depth, ..self.layout };
        self.parts.clear();
        self.parts.resize_with(chunk_count(depth), || Part { version: self.version, ..Part::default() });
        for entry in entries {
            let part = &mut self.parts[usize::from(index_of(&entry, depth))];
            part.len_max += entry.len_max();
            part.entries.insert(entry);
        }
        self.changed = (0..).take(self.parts.len()).collect();
    }
}
