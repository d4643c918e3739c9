//! All peers' sets: merged, hidden and shown with their peers, and kept within limits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_wire::{BootCount, Moment, PeerId};

use crate::answer::Snapshot;
use crate::chunk::{Chunk, ChunkKey, DigestRow, Number};
use crate::entry::{ContainerId, Entry};
use crate::index::{Host, Index, Item, Place};
use crate::name::{Name, NameError};
use crate::origin::{Change, Load, Origin};
use crate::own::{AddError, ORIGIN_ENTRIES_MAX, OwnSet, Selection};
use crate::zone::Zone;

/// Most entries of all peers together. Of these, a full set is kept free for this router's own. A chunk of another
/// that brings more is refused, unless forgetting hidden sets makes room.
pub const ENTRIES_MAX: usize = 100_000;

/// Most chunks of all other peers together, so that a digest stays small. One more is refused, unless forgetting
/// hidden sets makes room.
pub const CHUNKS_MAX: usize = 16_000;

/// Most origins with a set, as many as a network has peers. One more is refused, unless forgetting a hidden set makes
/// room.
pub const ORIGINS_MAX: usize = 10_000;

/// What other peers may have together.
const OTHERS_ENTRIES_MAX: usize = ENTRIES_MAX - ORIGIN_ENTRIES_MAX;

/// The names of a network as one router knows them.
pub struct Names {
    me: PeerId,
    zone: Arc<Zone>,
    server: Name,
    own: OwnSet,
    others: BTreeMap<PeerId, Origin>,
    reachable: BTreeSet<PeerId>,
    /// What is held of others, hidden and half-arrived sets too.
    load: Load,
    index: Index,
    serial: u32,
    published: Option<Arc<Snapshot>>,
}

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// The chunk is news, and shall travel on. It may replace others: see [`Names::number`].
    Newer(ChunkKey),
    /// It is known already, or older than what is known.
    Known(ChunkKey),
    /// It bears this router's name and would win over what this router says: from an earlier life or a copy of its
    /// identity. The own set was numbered above it; [`Names::take_changed`] has what is to be said.
    Ghost,
}

/// Why a chunk was refused. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Its origin would have more than [`ORIGIN_ENTRIES_MAX`] entries.
    #[error("more than {ORIGIN_ENTRIES_MAX} names of {0}")]
    OriginFull(PeerId),
    /// There would be more than [`ENTRIES_MAX`] entries, [`CHUNKS_MAX`] chunks or [`ORIGINS_MAX`] origins.
    #[error("more than {ENTRIES_MAX} names, or names of more than {ORIGINS_MAX} peers")]
    Full,
}

/// What a digest tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Chunks that are newer here than there, of origins that can be reached.
    pub newer_here: Vec<ChunkKey>,
    /// Whether there is something newer there.
    pub newer_there: bool,
}

/// An entry and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned<'a> {
    /// The peer that registered it.
    pub origin: PeerId,
    /// The entry.
    pub entry: &'a Entry,
}

impl Names {
    /// The names of the router `me` in the life `boot`, which knows of no other yet. Fails if the domain is so long
    /// that nothing can be below it.
    pub fn new(me: PeerId, boot: BootCount, zone: Zone) -> Result<Self, NameError> {
        let server = zone.server_name()?;
        let mut index = Index::new();
        for address in &zone.servers {
            index.add(&server, &zone.domain, Item::Host(Host::new(*address, Place::Here, None)));
        }
        Ok(Self {
            me,
            zone: Arc::new(zone),
            server,
            own: OwnSet::new(me, boot),
            others: BTreeMap::new(),
            reachable: BTreeSet::new(),
            load: Load::default(),
            index,
            serial: 0,
            published: None,
        })
    }

    /// Adds an entry to this router's set; false when it was there. A name outside the domain is carried to others,
    /// whose domain may be another, and not answered here.
    pub fn add(&mut self, entry: Entry) -> Result<bool, AddError> {
        let added = self.own.add(entry.clone())?;
        if added {
            self.show(&entry, Place::Here);
        }
        Ok(added)
    }

    /// Takes the selected entries out of this router's set, and returns them.
    pub fn remove(&mut self, selection: &Selection) -> Vec<Entry> {
        let removed = self.own.remove(selection);
        for entry in &removed {
            self.hide(entry, Place::Here);
        }
        removed
    }

    /// Makes `entries`, all of `container`, the only ones of it in this router's set.
    ///
    /// # Errors
    /// [`AddError::Full`]; what found room is there, and what is no longer to be there is gone.
    pub fn replace(&mut self, container: &ContainerId, entries: &BTreeSet<Entry>) -> Result<(), AddError> {
        let is_unwanted = |entry: &&Entry| entry.container() == container && !entries.contains(*entry);
        let unwanted: Vec<Selection> = self.own.entries().filter(is_unwanted).map(Selection::of).collect();
        for selection in &unwanted {
            self.remove(selection);
        }
        entries.iter().try_for_each(|entry| self.add(entry.clone()).map(|_added| ()))
    }

    /// Numbers this router's set above what bears its identity, is not its own, and is numbered so: others would prefer
    /// that. [`Self::take_changed`] has what is to be said.
    pub fn outrun(&mut self, boot: BootCount, version: u64) {
        self.own.outrun(boot, version);
    }

    /// The keys of this router's chunks that changed since they were taken last. [`Self::encode`] has their bytes.
    pub fn take_changed(&mut self) -> Vec<ChunkKey> {
        self.own.take_changed()
    }

    /// One of this router's chunks, as of now; none if its set is not cut into so many.
    #[must_use]
    pub fn own_chunk(&self, index: u16) -> Option<Chunk> {
        self.own.chunk(index)
    }

    /// The bytes of one of this router's chunks, to be signed and sent. None for a key that is not its own, or no more.
    #[must_use]
    pub fn encode(&self, key: ChunkKey) -> Option<Vec<u8>> {
        let own = (key.origin == self.me).then(|| self.own.chunk(key.index)).flatten();
        own.map(|chunk| chunk.encode())
    }

    /// Whether [`Self::merge`] would do anything with `chunk`: worth asking before its signature is checked.
    #[must_use]
    pub fn is_news(&self, chunk: &Chunk) -> bool {
        if chunk.origin() == self.me {
            return self.own.is_outdone_by(chunk);
        }
        self.others.get(&chunk.origin()).is_none_or(|origin| origin.lacks(chunk))
    }

    /// Takes in a chunk whose origin has been proven.
    pub fn merge(&mut self, chunk: Chunk, now: Moment) -> Result<Merged, MergeError> {
        let key = chunk.key();
        if !self.is_news(&chunk) {
            return Ok(Merged::Known(key));
        }
        if key.origin == self.me {
            self.own.outrun(chunk.number().boot, chunk.number().version);
            return Ok(Merged::Ghost);
        }
        self.make_room(&chunk)?;
        let is_reachable = self.reachable.contains(&key.origin);
        let origin =
            self.others.entry(key.origin).or_insert_with(|| Origin::new((!is_reachable).then_some(now)));
        self.load = self.load.minus(origin.load());
        let change = origin.take(chunk);
        self.load = self.load.plus(origin.load());
        if is_reachable {
            self.apply(&change);
        }
        Ok(Merged::Newer(key))
    }

    /// Says which peers can be reached now. Names of others are hidden.
    pub fn set_reachable(&mut self, reachable: &BTreeSet<PeerId>, now: Moment) {
        let lost: Vec<PeerId> = self.reachable.difference(reachable).copied().collect();
        let found: Vec<PeerId> = reachable.difference(&self.reachable).copied().collect();
        self.reachable.clone_from(reachable);
        for peer in lost {
            let Some(origin) = self.others.get_mut(&peer) else { continue };
            origin.hidden_since = Some(now);
            let gone = origin.shown().cloned().collect();
            self.apply(&Change { gone, came: Vec::new() });
        }
        for peer in found {
            self.show_all_of(peer);
        }
    }

    /// Forgets the hidden sets of peers that `keep` does not name. A set must not outlive whatever else proves that it is the
    /// newest: its peer may come back with fewer names, or none.
    pub fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        let is_gone = |peer: &PeerId, origin: &Origin| origin.hidden_since.is_some() && !keep(*peer);
        for (_, forgotten) in self.others.extract_if(.., |peer, origin| is_gone(peer, origin)) {
            self.load = self.load.minus(forgotten.load());
        }
    }

    /// Says that `peer` can be reached, too.
    pub fn add_reachable(&mut self, peer: PeerId) {
        if self.reachable.insert(peer) {
            self.show_all_of(peer);
        }
    }

    /// The other peers of which there is a set, shown or not.
    pub fn origins(&self) -> impl Iterator<Item = PeerId> {
        self.others.keys().copied()
    }

    /// What this router holds under `key`. A store of signed chunks drops the keys for which this is none, and the
    /// chunks whose number is another.
    #[must_use]
    pub fn number(&self, key: ChunkKey) -> Option<Number> {
        if key.origin == self.me {
            return self.own.chunk(key.index).map(|chunk| chunk.number());
        }
        let origin = self.others.get(&key.origin)?;
        origin.newest().find(|chunk| chunk.key() == key).map(Chunk::number)
    }

    /// A row for each chunk held, this router's among them, in order of keys.
    #[must_use]
    pub fn digest(&self) -> Vec<DigestRow> {
        let row = |chunk: &Chunk| DigestRow { key: chunk.key(), number: chunk.number() };
        let mut rows: Vec<DigestRow> = self.own.chunks().map(|chunk| row(&chunk)).collect();
        rows.extend(self.others.values().flat_map(Origin::newest).map(row));
        rows.sort();
        rows
    }

    /// Compares what this router holds with the `digest` of another. What cannot be reached from here is not offered:
    /// it would go round for ever.
    #[must_use]
    pub fn compare(&self, digest: &[DigestRow]) -> Comparison {
        let theirs: BTreeMap<_, _> = digest.iter().map(|row| (row.key, row.number)).collect();
        let ours: BTreeMap<_, _> = self.digest().into_iter().map(|row| (row.key, row.number)).collect();
        let is_offered = |origin: PeerId| origin == self.me || self.reachable.contains(&origin);
        let newer_here = ours
            .iter()
            .filter(|(key, number)| {
                is_offered(key.origin) && theirs.get(*key).is_none_or(|theirs| theirs < number)
            })
            .map(|(key, _)| *key)
            .collect();
        let newer_there = theirs.iter().any(|(key, number)| ours.get(key).is_none_or(|ours| ours < number));
        Comparison { newer_here, newer_there }
    }

    /// The names as of now, for a server. The same one as before if nothing changed.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some(published) = &self.published {
            return published.clone();
        }
        self.serial = self.serial.wrapping_add(1);
        let snapshot =
            Arc::new(Snapshot::new(self.zone.clone(), self.index.clone(), self.server.clone(), self.serial));
        self.published = Some(snapshot.clone());
        snapshot
    }

    /// All entries of this router and of peers that can be reached, by origin.
    pub fn entries(&self) -> impl Iterator<Item = Owned<'_>> {
        let own = self.own.entries().map(|entry| Owned { origin: self.me, entry });
        let visible = self.others.iter().filter(|(_, origin)| origin.hidden_since.is_none());
        own.chain(
            visible.flat_map(|(peer, origin)| origin.entries().map(|entry| Owned { origin: *peer, entry })),
        )
    }

    /// This router's entries at `address`.
    pub fn own_at(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        self.own.entries().filter(move |entry| entry.address() == address)
    }

    fn show_all_of(&mut self, peer: PeerId) {
        let Some(origin) = self.others.get_mut(&peer) else { return };
        origin.hidden_since = None;
        let came = origin.shown().cloned().collect();
        self.apply(&Change { gone: Vec::new(), came });
    }

    /// Forgets hidden sets, those hidden longest first, until `chunk` fits.
    fn make_room(&mut self, chunk: &Chunk) -> Result<(), MergeError> {
        let peer = chunk.origin();
        let known = self.others.get(&peer);
        let before = known.map(Origin::load).unwrap_or_default();
        let alone = Load { entries: chunk.entry_count(), chunks: 1 };
        let after = known.map_or(alone, |origin| origin.load_with(chunk));
        let layout_entries =
            known.map_or_else(|| chunk.entry_count(), |origin| origin.layout_entries_with(chunk));
        if layout_entries > ORIGIN_ENTRIES_MAX {
            return Err(MergeError::OriginFull(peer));
        }
        // What makes a set no larger is taken, however little room there is: it may be about names that are gone.
        let grows = after.entries > before.entries || after.chunks > before.chunks;
        let is_new = known.is_none();
        let fits = |names: &Self| {
            let load = names.load.minus(before).plus(after);
            let has_room = load.entries <= OTHERS_ENTRIES_MAX && load.chunks <= CHUNKS_MAX;
            (!grows || has_room) && (!is_new || names.others.len() < ORIGINS_MAX)
        };
        while !fits(self) {
            let hidden = self.others.iter().filter(|(other, _)| **other != peer);
            let oldest = hidden.filter_map(|(other, origin)| Some((origin.hidden_since?, *other))).min();
            let Some((_, oldest)) = oldest else { return Err(MergeError::Full) };
            if let Some(forgotten) = self.others.remove(&oldest) {
                self.load = self.load.minus(forgotten.load());
            }
        }
        Ok(())
    }

    /// Shows what came before it hides what went, so that nothing that is in both is rebuilt twice.
    fn apply(&mut self, change: &Change) {
        for entry in change.came.iter().flat_map(Chunk::entries) {
            self.show(entry, Place::Elsewhere);
        }
        for entry in change.gone.iter().flat_map(Chunk::entries) {
            self.hide(entry, Place::Elsewhere);
        }
    }

    fn show(&mut self, entry: &Entry, place: Place) {
        for (name, apex, item) in self.items(entry, place) {
            self.index.add(&name, &apex, item);
            self.published = None;
        }
    }

    fn hide(&mut self, entry: &Entry, place: Place) {
        for (name, apex, item) in self.items(entry, place) {
            self.index.remove(&name, &apex, &item);
            self.published = None;
        }
    }

    /// What an entry adds to the index: its address, and the pointer to its name.
    fn items(&self, entry: &Entry, place: Place) -> impl Iterator<Item = (Name, Name, Item)> + use<> {
        let is_ours = entry.name().is_within(&self.zone.domain);
        let host = Item::Host(Host::new(entry.address(), place, entry.port()));
        let forward = is_ours.then(|| (entry.name().clone(), self.zone.domain.clone(), host));
        let reverse = self.zone.reverse(entry.address()).filter(|_| is_ours);
        let reverse = reverse.map(|(name, apex)| (name, apex, Item::Pointer(entry.name().clone())));
        forward.into_iter().chain(reverse)
    }
}

#[cfg(test)]
mod tests;
