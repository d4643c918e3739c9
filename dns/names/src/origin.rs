//! Another peer's set as far as it has arrived. Owns no limit over all peers, and does not know who can be reached.

use std::collections::BTreeMap;

use mesh_wire::Moment;

use crate::chunk::{Chunk, Layout, chunk_count};
use crate::entry::Entry;

/// The set of one origin.
///
/// ```text
/// nothing ──chunk──► coming ──last chunk of the layout──► shown ◄──chunk of the same layout──┐
///                      ▲                                    │ └───────────────────────────────┘
///                      └───────chunk of a newer layout──────┘ (shown until the newer one is complete)
/// ```
#[derive(Debug)]
pub(crate) struct Origin {
    shown: Option<Part>,
    coming: Option<Part>,
    /// Since when the origin cannot be reached, if it cannot.
    pub(crate) hidden_since: Option<Moment>,
}

/// The chunks of one layout.
#[derive(Debug)]
struct Part {
    layout: Layout,
    chunks: BTreeMap<u16, Chunk>,
}

/// What a set takes of the limits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) entries: usize,
    pub(crate) chunks: usize,
}

impl Load {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self { entries: self.entries + other.entries, chunks: self.chunks + other.chunks }
    }

    /// `other` is a part of this.
    pub(crate) const fn minus(self, other: Self) -> Self {
        Self { entries: self.entries - other.entries, chunks: self.chunks - other.chunks }
    }
}

/// What a chunk changed in what is shown of its origin.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) gone: Vec<Chunk>,
    pub(crate) came: Vec<Chunk>,
}

impl Origin {
    /// The set of an origin of which nothing has arrived yet.
    pub(crate) fn new(hidden_since: Option<Moment>) -> Self {
        Self { shown: None, coming: None, hidden_since }
    }

    /// Whether `chunk` is newer than what is here.
    pub(crate) fn lacks(&self, chunk: &Chunk) -> bool {
        let newest = self.coming.as_ref().or(self.shown.as_ref());
        let Some(newest) = newest else { return true };
        let ours = (newest.layout == chunk.layout()).then(|| newest.chunks.get(&chunk.key().index));
        match ours {
            Some(ours) => ours.is_none_or(|ours| ours.number() < chunk.number()),
            // Of a layout that is being replaced nothing more is taken, even while it is shown.
            None => newest.layout < chunk.layout(),
        }
    }

    /// How many entries there would be with `chunk`, which is lacking, in its layout.
    pub(crate) fn layout_entries_with(&self, chunk: &Chunk) -> usize {
        let same = self.coming.as_ref().or(self.shown.as_ref()).filter(|part| part.layout == chunk.layout());
        let beside = same.map_or(0, |part| part.load_beside(chunk).entries);
        beside + chunk.entry_count()
    }

    /// What there would be with `chunk`, which is lacking, while an older layout is still there.
    pub(crate) fn load_with(&self, chunk: &Chunk) -> Load {
        let parts = [&self.shown, &self.coming].into_iter().flatten();
        let kept = parts.map(|part| {
            let is_shown = self.shown.as_ref().is_some_and(|shown| shown.layout == part.layout);
            match (part.layout == chunk.layout(), is_shown) {
                (true, _) => part.load_beside(chunk),
                (false, true) => part.load(),
                // A newer layout takes the place of the one that was coming.
                (false, false) => Load::default(),
            }
        });
        kept.fold(Load { entries: chunk.entry_count(), chunks: 1 }, Load::plus)
    }

    /// Takes `chunk`, which is lacking.
    pub(crate) fn take(&mut self, chunk: Chunk) -> Change {
        let key = chunk.key().index;
        if let Some(shown) = self.shown.as_mut().filter(|shown| shown.layout == chunk.layout()) {
            let came = vec![chunk.clone()];
            return Change { gone: shown.chunks.insert(key, chunk).into_iter().collect(), came };
        }
        let layout = chunk.layout();
        let mut coming = match self.coming.take() {
            Some(coming) if coming.layout == layout => coming,
            Some(_) | None => Part { layout, chunks: BTreeMap::new() },
        };
        coming.chunks.insert(key, chunk);
        if coming.chunks.len() < chunk_count(layout.depth) {
            self.coming = Some(coming);
            return Change::default();
        }
        let came = coming.chunks.values().cloned().collect();
        let gone = self.shown.replace(coming).map(|old| old.chunks.into_values().collect());
        Change { gone: gone.unwrap_or_default(), came }
    }

    /// The chunks whose entries count.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &Chunk> {
        self.shown.iter().flat_map(|part| part.chunks.values())
    }

    /// The newest chunk of each key: what others may still lack.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Chunk> {
        self.coming.as_ref().or(self.shown.as_ref()).into_iter().flat_map(|part| part.chunks.values())
    }

    /// All that is here, shown or not.
    pub(crate) fn load(&self) -> Load {
        [&self.shown, &self.coming].into_iter().flatten().map(Part::load).fold(Load::default(), Load::plus)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.shown().flat_map(Chunk::entries)
    }
}

impl Part {
    fn load(&self) -> Load {
        let entries = self.chunks.values().map(Chunk::entry_count).sum();
        Load { entries, chunks: self.chunks.len() }
    }

    /// The load without the chunk whose place `chunk` takes.
    fn load_beside(&self, chunk: &Chunk) -> Load {
        let replaced = self.chunks.get(&chunk.key().index);
        let replaced = replaced.map(|replaced| Load { entries: replaced.entry_count(), chunks: 1 });
        self.load().minus(replaced.unwrap_or_default())
    }
}
