//! Names inside the node: the records in which they travel, whose are shown, and what a server answers from. What a name is,
//! and which set of names wins, are `mesh-names`'s.
//!
//! A peer's set is cut into chunks, and each chunk is a record of a channel of its own: so the chunks take the ways that
//! all records take, a change sends one chunk anew, and the newest of each is found by the same hashes. A chunk that the
//! set no longer has stays as an empty record, or others would go on handing each other its last one. A peer that never
//! had a name has no record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_crypto::{Identity, PublicKey};
use mesh_names::{Chunk, ContainerId, Entry, Names, Number, Owned, Snapshot};
use mesh_topology::carried::ENTRY_LEN_MAX;
use mesh_topology::topology::PEERS_MAX;
use mesh_topology::{Content, Ghost, Limits, MergeError, Merged, OpenRecord, Record, Records, Verify, peek};
use mesh_wire::control::{Channel, DecodeError, NamesRecord, RecordHeader};
use mesh_wire::{Moment, PeerId};

use crate::interface::{Event, Output};
use crate::limits::{NAMES_LEN_MAX, NAMES_WITHOUT_WAY_SHOWN};
use crate::node::Node;

/// All peers' names, with the records that prove who said so.
pub(crate) struct NameRecords {
    names: Names,
    /// By the index of the chunk. Only channels with records.
    channels: BTreeMap<u16, Records<Part>>,
    /// The frames' ways to peers with names that can be reached, if there ever was one. A peer without is shown all the
    /// same: where no frame ever passed, as before the first probe, it is the control sessions that know of it.
    ways: BTreeMap<PeerId, Way>,
}

/// Whether frames find a way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    LostAt(Moment),
}

/// What a record of names says: a chunk, or that there is no such chunk any more.
#[derive(Debug)]
pub(crate) struct Part(Option<Chunk>);

impl Content for Part {
    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let record = NamesRecord::decode(body)?;
        if record.chunk.is_empty() {
            return Ok(Self(None));
        }
        let wrong = DecodeError::Body { kind: 0 };
        let chunk = Chunk::decode(&record.chunk).map_err(|_no_chunk| wrong)?;
        let number = chunk.number();
        let agrees = chunk.origin() == PublicKey::from_bytes(record.key).peer_id()
            && (number.boot, number.version) == (record.boot, record.version);
        if agrees { Ok(Self(Some(chunk))) } else { Err(wrong) }
    }
}

impl NameRecords {
    pub(crate) const fn new(names: Names) -> Self {
        Self { names, channels: BTreeMap::new(), ways: BTreeMap::new() }
    }

    /// The records of the chunks with this index, if there are any.
    pub(crate) fn get(&self, index: u16) -> Option<&Records<Part>> {
        self.channels.get(&index)
    }

    /// All channels that have records.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Records<Part>> {
        self.channels.values()
    }

    /// The channel of the chunks with this index, without records.
    pub(crate) const fn empty(index: u16) -> Records<Part> {
        let limits = Limits { records_max: PEERS_MAX, entry_len_max: ENTRY_LEN_MAX, len_max: NAMES_LEN_MAX };
        Records::new(channel(index), limits)
    }

    /// Merges an entry of the channel of the chunks with this index.
    fn merge(&mut self, me: PeerId, index: u16, entry: &[u8], now: Moment) -> Result<Merged, MergeError> {
        let row = peek(entry)?;
        let none = Self::empty(index);
        let records = self.channels.get(&index).unwrap_or(&none);
        if !records.lacks(&row, entry) {
            return Ok(Merged::Known(row.origin));
        }
        records.admit(row.origin, entry.len())?;
        let record: Arc<Record<Part>> = Verify.open(channel(index), entry)?;
        if row.origin == me {
            return Ok(Merged::Ghost(Ghost { boot: row.boot, version: row.version, nonce: 0 }));
        }
        if let Some(chunk) = &record.content.0 {
            if chunk.key().index != index {
                return Err(MergeError::Malformed(DecodeError::Body { kind: 0 }));
            }
            self.names.merge(chunk.clone(), now).map_err(|_no_room| MergeError::Full(channel(index)))?;
        }
        self.channels.entry(index).or_insert(none).put(record);
        Ok(Merged::Newer(row.origin))
    }

    /// Numbers the own set above a record that bears this router's identity, and is not its own. Without one of its own
    /// in that channel, that alone is missing.
    fn outrun(&mut self, index: u16, ghost: &Ghost, identity: &Identity) -> Vec<Channel> {
        let own = self.number(index);
        if (ghost.boot, ghost.version) >= (own.boot, own.version) {
            self.names.outrun(ghost.boot, ghost.version);
        }
        self.sign(identity, index);
        self.publish(identity)
    }

    /// Signs what has changed in the own set, and returns in which channels.
    fn publish(&mut self, identity: &Identity) -> Vec<Channel> {
        let me = identity.peer_id();
        let changed = self.names.take_changed().into_iter().map(|key| key.index);
        let has_entries = |index| self.names.own_chunk(index).is_some_and(|chunk| !chunk.is_empty());
        let said = |index: &u16| self.channels.get(index).is_some_and(|records| records.get(me).is_some());
        let mut due: BTreeSet<u16> = changed.filter(|index| has_entries(*index) || said(index)).collect();
        // What was said of chunks that are no more.
        due.extend(self.channels.iter().filter_map(|(index, records)| {
            let said = records.get(me)?.content.0.is_some();
            (said && self.names.own_chunk(*index).is_none()).then_some(*index)
        }));
        for index in &due {
            self.sign(identity, *index);
        }
        due.into_iter().map(channel).collect()
    }

    fn sign(&mut self, identity: &Identity, index: u16) {
        let chunk = self.names.own_chunk(index);
        let number = self.number(index);
        let key = *identity.public_key().as_bytes();
        let header = RecordHeader { key, boot: number.boot, version: number.version };
        let bytes = chunk.as_ref().map(Chunk::encode).unwrap_or_default();
        let body = NamesRecord { key, boot: number.boot, version: number.version, chunk: bytes }.encode();
        let record = Record::sign(identity, channel(index), &header, body, Part(chunk));
        self.channels.entry(index).or_insert_with(|| Self::empty(index)).put(Arc::new(record));
    }

    /// What orders the own record of this chunk. One that is no more was last said before the set was cut anew, and with
    /// that cut all chunks were numbered anew.
    fn number(&self, index: u16) -> Number {
        let chunk = self.names.own_chunk(index).or_else(|| self.names.own_chunk(0));
        chunk.expect("a set has a first chunk").number()
    }

    /// Forgets the records of all origins but those that `keep` names, and their sets with them.
    pub(crate) fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.names.retain(&keep);
        self.channels.retain(|_, records| {
            records.retain(&keep);
            !records.is_empty()
        });
    }
}

impl Node {
    /// The names as of now, for a server. The same as before if nothing has changed.
    pub fn names(&mut self) -> Arc<Snapshot> {
        self.names.names.snapshot()
    }

    /// All names of this router and of peers that can be reached, by origin.
    pub fn name_entries(&self) -> impl Iterator<Item = Owned<'_>> {
        self.names.names.entries()
    }

    /// Makes `entries` the names of `container`, one of this router's.
    pub(crate) fn set_names(&mut self, container: &ContainerId, entries: &BTreeSet<Entry>, now: Moment) {
        if let Err(error) = self.names.names.replace(container, entries) {
            self.outputs
                .push_back(Output::Event(Event::NamesRefused { container: container.clone(), error }));
        }
        let changed = self.names.publish(&self.identity);
        self.announce_names(changed, now);
    }

    /// Merges what a neighbour passes on.
    pub(crate) fn merge_names(
        &mut self,
        index: u16,
        entry: &[u8],
        now: Moment,
    ) -> Result<Merged, MergeError> {
        let me = self.peer_id();
        let merged = self.names.merge(me, index, entry, now);
        if let Ok(Merged::Newer(origin)) = merged
            && self.topology.reaches(origin)
        {
            self.names.names.add_reachable(origin);
        }
        merged
    }

    /// Numbers this router's names above those of an earlier life or a copy of it.
    pub(crate) fn outrun_names(&mut self, index: u16, ghost: &Ghost, now: Moment) {
        let mut changed = self.names.outrun(index, ghost, &self.identity);
        changed.push(channel(index));
        self.announce_names(changed, now);
    }

    /// Hides the names of peers that cannot be reached, and shows those of others. Frames tell of a silent partition long
    /// before the sessions do; so names are hidden, too, when there was a way for frames and has been none for a while.
    pub(crate) fn show_names_of_reachable(&mut self, now: Moment) {
        let origins = self.names.names.origins();
        let reached: Vec<_> = origins.filter(|origin| self.topology.reaches(*origin)).collect();
        let open: BTreeSet<_> =
            reached.iter().copied().filter(|peer| self.routes().next_hop.contains_key(peer)).collect();
        let before = std::mem::take(&mut self.names.ways);
        let way = |peer: &PeerId| match before.get(peer) {
            _ if open.contains(peer) => Some(Way::Open),
            Some(Way::Open) => Some(Way::LostAt(now)),
            Some(Way::LostAt(at)) => Some(Way::LostAt(*at)),
            None => None,
        };
        let ways: BTreeMap<_, _> = reached.iter().filter_map(|peer| Some((*peer, way(peer)?))).collect();
        let hide_at = |peer: &PeerId| match ways.get(peer)? {
            Way::Open => None,
            Way::LostAt(at) => Some(*at + NAMES_WITHOUT_WAY_SHOWN),
        };
        self.timers.names = reached.iter().filter_map(hide_at).filter(|at| *at > now).min();
        let reachable = reached.iter().copied().filter(|peer| hide_at(peer).is_none_or(|at| at > now));
        self.names.names.set_reachable(&reachable.collect(), now);
        self.names.ways = ways;
    }

    fn announce_names(&mut self, changed: Vec<Channel>, now: Moment) {
        for channel in changed {
            self.announce((channel, self.peer_id()), None, now);
        }
    }
}

const fn channel(index: u16) -> Channel {
    Channel(Channel::NAMES.0 + index)
}
