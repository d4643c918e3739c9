//! A gossip channel with one record of each peer, in which it tells something of itself; a new record replaces the earlier
//! one. Owns the records and the numbers of the own one; what they say is for those who use it.

use std::sync::Arc;

use mesh_crypto::Identity;
use mesh_topology::records::Limits;
use mesh_topology::topology::PEERS_MAX;
use mesh_topology::{Content, Ghost, MergeError, Merged, OpenRecord, Record, Records, Verify, peek};
use mesh_wire::control::{Channel, PeerRecord, RecordHeader};
use mesh_wire::{BootCount, PeerId};

/// Longest entry, in bytes: also those carry it who do not know the channel.
const ENTRY_LEN_MAX: usize = 64 * 1024;

/// What peers have told in one channel.
pub(crate) struct Told<T> {
    records: Records<T>,
    version: u64,
    /// Whether something has changed since somebody asked.
    is_stale: bool,
}

impl<T: Content> Told<T> {
    /// A channel without records, that takes so many bytes of them together.
    pub(crate) const fn new(channel: Channel, len_max: usize) -> Self {
        let limits = Limits { records_max: PEERS_MAX, entry_len_max: ENTRY_LEN_MAX, len_max };
        Self { records: Records::new(channel, limits), version: 0, is_stale: false }
    }

    pub(crate) const fn records(&self) -> &Records<T> {
        &self.records
    }

    /// The same, if there are any.
    pub(crate) fn in_use(&self) -> Option<&Records<T>> {
        Some(&self.records).filter(|records| !records.is_empty())
    }

    pub(crate) fn entry(&self, origin: PeerId) -> Option<&[u8]> {
        self.records.get(origin).map(|record| &*record.entry)
    }

    /// Forgets peers that are gone.
    pub(crate) fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.is_stale |= !self.records.retain(keep).is_empty();
    }

    /// Whether something has changed since this was asked last.
    pub(crate) const fn take_stale(&mut self) -> bool {
        std::mem::replace(&mut self.is_stale, false)
    }

    /// Merges an entry of the channel. `me` is this router, in its life `boot`.
    pub(crate) fn merge(&mut self, me: PeerId, boot: BootCount, entry: &[u8]) -> Result<Merged, MergeError> {
        let row = peek(entry)?;
        let records = &mut self.records;
        if row.origin == me {
            let own = records.get(row.origin);
            let outranks = own.is_none_or(|own| (row.boot, row.version) >= (own.row.boot, own.row.version))
                && own.is_none_or(|own| own.entry != entry);
            // That of an earlier life gives way to the first of this one.
            return Ok(if outranks && (row.boot >= boot || own.is_some()) {
                Merged::Ghost(Ghost { boot: row.boot, version: row.version, nonce: 0 })
            } else {
                Merged::Known(row.origin)
            });
        }
        if !records.lacks(&row, entry) {
            return Ok(Merged::Known(row.origin));
        }
        records.admit(row.origin, entry.len())?;
        records.put(Verify.open(records.channel(), entry)?);
        self.is_stale = true;
        Ok(Merged::Newer(row.origin))
    }

    /// Numbers the next own record above one that bears this router's identity and is not its own.
    pub(crate) fn outrun(&mut self, ghost: &Ghost) {
        self.version = self.version.max(ghost.version);
    }

    /// Signs what this router tells from now on; `encode` makes the body of it.
    pub(crate) fn publish(
        &mut self,
        identity: &Identity,
        own: &PeerRecord,
        content: T,
        encode: impl FnOnce(&RecordHeader, &T) -> Vec<u8>,
    ) {
        self.version += 1;
        let header = RecordHeader { key: own.key, boot: own.boot, version: self.version };
        let body = encode(&header, &content);
        let record = Record::sign(identity, self.records.channel(), &header, body, content);
        self.records.put(Arc::new(record));
        self.is_stale = true;
    }
}
