//! The merged records of all peers. Owns their versions and their bytes as signed; computes nothing from their links
//! but who can be reached.

use std::collections::{BTreeMap, BTreeSet};

use mesh_crypto::{Identity, PublicKey, Signature};
use mesh_wire::control::{DecodeError, DigestRow, LinkRecord, PeerRecord, SignedRecord};
use mesh_wire::{BootCount, Nickname, PeerId};

/// Separates signatures over records from all others made with the same key.
const SIGNATURE_CONTEXT: &str = "mesh peer record v1";

/// Most peers in one network. A record of one more is refused until another peer is forgotten.
pub const PEERS_MAX: usize = 10_000;

/// All peers that this router knows, itself included.
pub struct Topology {
    me: PeerId,
    records: BTreeMap<PeerId, Known>,
}

/// A record as read, and as it travels.
struct Known {
    record: PeerRecord,
    tag: u64,
    signed: Vec<u8>,
}

impl Known {
    /// What orders the records of one origin. The tag decides between two that the origin has numbered alike, so
    /// that all peers keep the same one.
    const fn number(&self) -> (BootCount, u64, u64) {
        (self.record.boot, self.record.version, self.tag)
    }
}

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// The record is news; it replaced what was known of its origin, and shall travel on.
    Newer(PeerId),
    /// It is known already, or older than what is known.
    Known(PeerId),
    /// It is of this router, from an earlier life or a copy of its identity, and would win over the present one.
    /// Nothing was stored; [`Topology::publish`] with [`Topology::outrun`] repairs it.
    Ghost,
}

/// Why an entry of the topology channel was refused. Whoever made or sent it is at fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The bytes are no record.
    #[error("a malformed record: {0}")]
    Malformed(#[from] DecodeError),
    /// The signature is not its origin's.
    #[error("a record of {0} that {0} did not sign")]
    Forged(PeerId),
    /// There are [`PEERS_MAX`] peers already.
    #[error("more than {PEERS_MAX} peers")]
    Full,
}

impl Topology {
    /// The topology of a router that knows only itself.
    #[must_use]
    pub fn new(identity: &Identity, boot: BootCount, nickname: Nickname, port: u16, nonce: u64) -> Self {
        let key = identity.public_key();
        let links = Vec::new();
        let record = PeerRecord { key: *key.as_bytes(), boot, version: 1, nickname, port, links, nonce };
        let me = key.peer_id();
        Self { me, records: BTreeMap::from([(me, sign(identity, record))]) }
    }

    /// Merges an entry of the topology channel.
    pub fn merge(&mut self, entry: &[u8]) -> Result<Merged, MergeError> {
        let signed = SignedRecord::decode(entry)?;
        let record = PeerRecord::decode(&signed.body)?;
        let key = PublicKey::from_bytes(record.key);
        let origin = key.peer_id();
        let number = (record.boot, record.version, tag(&signed.signature));
        let known = self.records.get(&origin).map(Known::number);
        // Whatever bears this router's present number and is not its present record is a ghost, too.
        let outranked = match known {
            Some((boot, version, tag)) if origin == self.me => {
                (boot, version) > (number.0, number.1) || tag == number.2
            }
            Some(known) => known >= number,
            None => false,
        };
        if outranked {
            return Ok(Merged::Known(origin));
        }
        if key.verify(SIGNATURE_CONTEXT, &signed.body, &Signature::from_bytes(signed.signature)).is_err() {
            return Err(MergeError::Forged(origin));
        }
        if origin == self.me {
            return Ok(Merged::Ghost);
        }
        if known.is_none() && self.records.len() >= PEERS_MAX {
            return Err(MergeError::Full);
        }
        self.records.insert(origin, Known { record, tag: number.2, signed: entry.to_vec() });
        Ok(Merged::Newer(origin))
    }

    /// Publishes this router's links under the next version. Returns whether anything was different.
    pub fn publish(&mut self, identity: &Identity, mut links: Vec<LinkRecord>) -> bool {
        links.sort();
        let mut record = self.own().clone();
        if record.links == links {
            return false;
        }
        record.links = links;
        record.version += 1;
        self.store_own(identity, record);
        true
    }

    /// Numbers this router's record above a ghost's `entry`, which [`Self::merge`] reported.
    pub fn outrun(&mut self, identity: &Identity, entry: &[u8]) {
        let ghost = SignedRecord::decode(entry).and_then(|signed| PeerRecord::decode(&signed.body));
        let mut record = self.own().clone();
        if let Ok(ghost) = ghost {
            record.boot = record.boot.max(ghost.boot);
            record.version = record.version.max(ghost.version) + 1;
        }
        self.store_own(identity, record);
    }

    /// Forgets peers that no chain of listed connections from this router reaches, and returns them.
    pub fn forget_unreachable(&mut self) -> Vec<PeerId> {
        let reached = self.reachable();
        let gone: Vec<_> = self.records.keys().copied().filter(|peer| !reached.contains(peer)).collect();
        for peer in &gone {
            self.records.remove(peer);
        }
        gone
    }

    /// The peers that a chain of listed connections reaches from this router, itself included.
    #[must_use]
    pub fn reachable(&self) -> BTreeSet<PeerId> {
        let mut reached = BTreeSet::from([self.me]);
        let mut frontier = vec![self.me];
        while let Some(peer) = frontier.pop() {
            let links = self.records.get(&peer).map_or(&[][..], |known| &known.record.links);
            frontier.extend(links.iter().map(|link| link.peer).filter(|peer| reached.insert(*peer)));
        }
        reached
    }

    /// This router's id.
    #[must_use]
    pub const fn me(&self) -> PeerId {
        self.me
    }

    /// This router's record.
    #[must_use]
    pub fn own(&self) -> &PeerRecord {
        &self.records[&self.me].record
    }

    /// The record of `peer`.
    #[must_use]
    pub fn record(&self, peer: PeerId) -> Option<&PeerRecord> {
        self.records.get(&peer).map(|known| &known.record)
    }

    /// All records, this router's among them, by id.
    pub fn records(&self) -> impl Iterator<Item = (PeerId, &PeerRecord)> {
        self.records.iter().map(|(peer, known)| (*peer, &known.record))
    }

    /// The entry of `peer` as its origin signed it.
    #[must_use]
    pub fn entry(&self, peer: PeerId) -> Option<&[u8]> {
        self.records.get(&peer).map(|known| known.signed.as_slice())
    }

    /// A row for each record.
    #[must_use]
    pub fn digest(&self) -> Vec<DigestRow> {
        self.records.iter().map(|(origin, known)| row(*origin, known)).collect()
    }

    /// The reachable origins whose records here are newer than in `digest` or absent from it, and whether `digest`
    /// names something newer than here. What is about to be forgotten is not handed on: it would go round for ever.
    #[must_use]
    pub fn compare(&self, digest: &[DigestRow]) -> (Vec<PeerId>, bool) {
        let theirs: BTreeMap<_, _> =
            digest.iter().map(|row| (row.origin, (row.boot, row.version, row.tag))).collect();
        let reachable = self.reachable();
        let newer_here = self
            .records
            .iter()
            .filter(|(origin, _)| reachable.contains(origin))
            .filter(|(origin, known)| theirs.get(origin).is_none_or(|theirs| *theirs < known.number()))
            .map(|(origin, _)| *origin)
            .collect();
        let newer_there = theirs
            .iter()
            .any(|(origin, theirs)| self.records.get(origin).is_none_or(|known| known.number() < *theirs));
        (newer_here, newer_there)
    }

    fn store_own(&mut self, identity: &Identity, record: PeerRecord) {
        self.records.insert(self.me, sign(identity, record));
    }
}

const fn row(origin: PeerId, known: &Known) -> DigestRow {
    DigestRow { origin, boot: known.record.boot, version: known.record.version, tag: known.tag }
}

fn sign(identity: &Identity, record: PeerRecord) -> Known {
    let body = record.encode();
    let signature = *identity.sign(SIGNATURE_CONTEXT, &body).as_bytes();
    Known { record, tag: tag(&signature), signed: SignedRecord { body, signature }.encode() }
}

fn tag(signature: &[u8; 64]) -> u64 {
    let (first, _) = signature.split_first_chunk().expect("64 bytes are more than 8");
    u64::from_be_bytes(*first)
}

#[cfg(test)]
mod tests;
