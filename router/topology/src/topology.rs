//! All peers that a router knows: the topology channel, read. Computes nothing from their links but who can be reached.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_crypto::Identity;
use mesh_wire::control::{Channel, DigestRow, LinkRecord, PeerRecord, RecordHeader};
use mesh_wire::{BootCount, Nickname, PeerId};

use crate::reach::{Reach, Unclear};
use crate::records::{Ghost, Limits, MergeError, Merged, OpenRecord, Record, Records, Verify, peek};

/// Most peers in one network. A record of one more is refused until another peer is forgotten.
pub const PEERS_MAX: usize = 10_000;

/// Longest record of a peer, in bytes: one of [`LINKS_MAX`](mesh_wire::control::LINKS_MAX) links is shorter.
pub const PEER_RECORD_LEN_MAX: usize = 512 * 1024;

/// Most bytes of all peers' records together; what would not fit is refused. As many peers as there may be have about
/// 30 MB with [`LinkRecord`]s of a partial mesh.
pub const TOPOLOGY_LEN_MAX: usize = 256 * 1024 * 1024;

/// All peers that this router knows, itself included.
pub struct Topology {
    me: PeerId,
    records: Records<PeerRecord>,
    opener: Box<dyn OpenRecord<PeerRecord>>,
    /// How often somebody came to be known or was forgotten.
    members: u64,
    /// Whom a chain of listed connections reaches; made when it is asked for, and carried on while that is clear.
    reached: OnceCell<Reach>,
}

impl Topology {
    /// The topology of a router that knows only itself.
    #[must_use]
    pub fn new(identity: &Identity, boot: BootCount, nickname: Nickname, port: u16, nonce: u64) -> Self {
        Self::with_opener(identity, boot, nickname, port, nonce, Box::new(Verify))
    }

    /// The same, with another way to open records.
    #[must_use]
    pub fn with_opener(
        identity: &Identity,
        boot: BootCount,
        nickname: Nickname,
        port: u16,
        nonce: u64,
        opener: Box<dyn OpenRecord<PeerRecord>>,
    ) -> Self {
        let key = *identity.public_key().as_bytes();
        let record = PeerRecord { key, boot, version: 1, nickname, port, links: Vec::new(), nonce };
        let records = Self::empty();
        let me = identity.peer_id();
        let mut topology = Self { me, records, opener, members: 0, reached: OnceCell::new() };
        topology.put_own(identity, record);
        topology
    }

    /// The channel without records.
    #[must_use]
    pub const fn empty() -> Records<PeerRecord> {
        let limits =
            Limits { records_max: PEERS_MAX, entry_len_max: PEER_RECORD_LEN_MAX, len_max: TOPOLOGY_LEN_MAX };
        Records::new(Channel::TOPOLOGY, limits)
    }

    /// Merges an entry of the topology channel.
    ///
    /// # Errors
    /// If the entry is no record of a peer, or there is no room for it.
    pub fn merge(&mut self, entry: &[u8]) -> Result<Merged, MergeError> {
        let row = peek(entry)?;
        if row.origin == self.me {
            return self.merge_own(&row, entry);
        }
        if !self.records.lacks(&row, entry) {
            return Ok(Merged::Known(row.origin));
        }
        self.records.admit(row.origin, entry.len())?;
        let record = self.opener.open(Channel::TOPOLOGY, entry)?;
        self.put(record);
        Ok(Merged::Newer(row.origin))
    }

    /// Takes in the records of a network that this router belongs to, as it hears them from others at once: how a simulator
    /// begins. Until this router's links say so, too, it takes all these peers for reached.
    pub fn adopt(&mut self, records: &Records<PeerRecord>) {
        self.members += 1;
        let own = self.records.get(self.me).map(Arc::clone).expect("the own record is never removed");
        self.records.clone_from(records);
        self.records.put(own);
        self.reached = OnceCell::from(Reach::default());
    }

    /// Publishes this router's links under the next version. Returns whether anything was different.
    pub fn publish(&mut self, identity: &Identity, mut links: Vec<LinkRecord>) -> bool {
        links.sort();
        if self.own().links == links {
            return false;
        }
        let record = self.own();
        let version = record.version.saturating_add(1);
        let record = PeerRecord { links, version, ..record.clone() };
        self.put_own(identity, record);
        true
    }

    /// Numbers this router's record above that of a ghost, which [`Self::merge`] reported.
    pub fn outrun(&mut self, identity: &Identity, ghost: &Ghost) {
        let record = self.own();
        let boot = record.boot.max(ghost.boot);
        let version = record.version.max(ghost.version).saturating_add(1);
        let record = PeerRecord { boot, version, ..record.clone() };
        self.put_own(identity, record);
    }

    /// Forgets the records of `peers`, but not this router's own.
    pub fn forget(&mut self, peers: &BTreeSet<PeerId>) {
        let me = self.me;
        let gone: BTreeSet<_> =
            self.records.retain(|peer| peer == me || !peers.contains(&peer)).into_iter().collect();
        self.members += gone.len() as u64;
        let outcome = self.reached.get_mut().map(|reached| reached.forget(&gone));
        self.keep_reached(outcome);
    }

    /// Whether a chain of listed connections leads from this router to `peer`, which may have no record here yet.
    #[must_use]
    pub fn reaches(&self, peer: PeerId) -> bool {
        self.reached().contains(&self.records, peer)
    }

    /// The peers with a record to which no chain of listed connections leads.
    #[must_use]
    pub fn cut_off(&self) -> &BTreeSet<PeerId> {
        self.reached().cut_off()
    }

    /// This router's id.
    #[must_use]
    pub const fn me(&self) -> PeerId {
        self.me
    }

    /// This router's record.
    #[must_use]
    pub fn own(&self) -> &PeerRecord {
        &self.records.get(self.me).expect("the own record is put by `new` and never removed").content
    }

    /// The record of `peer`.
    #[must_use]
    pub fn record(&self, peer: PeerId) -> Option<&PeerRecord> {
        self.records.get(peer).map(|known| &known.content)
    }

    /// All records, this router's among them, by id.
    pub fn records(&self) -> impl ExactSizeIterator<Item = (PeerId, &PeerRecord)> {
        self.records.iter().map(|known| (known.row.origin, &known.content))
    }

    /// The entry of `peer` as its origin signed it.
    #[must_use]
    pub fn entry(&self, peer: PeerId) -> Option<&[u8]> {
        self.records.get(peer).map(|known| known.entry.as_slice())
    }

    /// The channel's records as they are compared with those of others.
    #[must_use]
    pub const fn store(&self) -> &Records<PeerRecord> {
        &self.records
    }

    /// A number that differs whenever others are known than before.
    #[must_use]
    pub const fn members(&self) -> u64 {
        self.members
    }

    /// Judges an entry that bears this router's identity.
    fn merge_own(&mut self, row: &DigestRow, entry: &[u8]) -> Result<Merged, MergeError> {
        let own = self.records.get(self.me).expect("the own record is put by `new` and never removed");
        // Whatever bears this router's present number and is not its present record is a ghost, too.
        let outranks = (row.boot, row.version) >= (own.row.boot, own.row.version) && entry != own.entry;
        if !outranks {
            return Ok(Merged::Known(self.me));
        }
        let record = self.opener.open(Channel::TOPOLOGY, entry)?;
        let nonce = record.content.nonce;
        Ok(Merged::Ghost(Ghost { boot: row.boot, version: row.version, nonce }))
    }

    fn put_own(&mut self, identity: &Identity, record: PeerRecord) {
        let header = RecordHeader { key: record.key, boot: record.boot, version: record.version };
        let body = record.encode();
        self.put(Arc::new(Record::sign(identity, Channel::TOPOLOGY, &header, body, record)));
    }

    fn put(&mut self, record: Arc<Record<PeerRecord>>) {
        let before = self.records.put(Arc::clone(&record));
        self.members += u64::from(before.is_none());
        let reached = self.reached.get_mut();
        let outcome =
            reached.map(|reached| reached.replaced(&self.records, self.me, before.as_deref(), &record));
        self.keep_reached(outcome);
    }

    fn reached(&self) -> &Reach {
        self.reached.get_or_init(|| Reach::search(&self.records, self.me))
    }

    fn keep_reached(&mut self, outcome: Option<Result<(), Unclear>>) {
        if let Some(Err(Unclear)) = outcome {
            self.reached.take();
        }
    }
}

#[cfg(test)]
mod tests;
