//! The records of one channel: what each origin last said, as it signed it. Owns their order, their bytes, and the
//! hashes by which two routers find out what differs; knows nothing of what they say.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_crypto::{Identity, PublicKey, Signature};
use mesh_wire::control::{
    BUCKETS, Channel, DecodeError, Digest, DigestRow, PeerRecord, RecordHeader, SignedRecord, Summary,
};
use mesh_wire::{BootCount, PeerId};

/// Separates signatures over records from all others made with the same key.
const SIGNATURE_CONTEXT: &str = "mesh record v1";

/// A record, opened. It has one writer, its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<T> {
    /// Whose it is, and what orders it among the records of that origin.
    pub row: DigestRow,
    /// What the channel reads out of it.
    pub content: T,
    /// The entry as its origin signed it and as it travels.
    pub entry: Vec<u8>,
}

/// What a channel reads out of the body of its records.
pub trait Content: Sized {
    /// Reads a body. Its origin has signed it.
    ///
    /// # Errors
    /// If the body is no record of the channel.
    fn read(body: &[u8]) -> Result<Self, DecodeError>;
}

impl Content for PeerRecord {
    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        Self::decode(body)
    }
}

/// Of a channel that this version does not know, nothing is read.
impl Content for () {
    fn read(_body: &[u8]) -> Result<Self, DecodeError> {
        Ok(())
    }
}

/// How entries are opened. [`Verify`] does it in a router; a simulator of thousands of routers, each of which receives
/// the same entries, may remember what it has opened before.
pub trait OpenRecord<T>: Send {
    /// The record that `entry` holds, if its origin signed it for `channel`.
    ///
    /// # Errors
    /// [`MergeError::Malformed`] or [`MergeError::Forged`].
    fn open(&mut self, channel: Channel, entry: &[u8]) -> Result<Arc<Record<T>>, MergeError>;
}

/// Opens each entry by reading it and checking its signature.
#[derive(Debug, Default, Clone, Copy)]
pub struct Verify;

impl<T: Content> OpenRecord<T> for Verify {
    fn open(&mut self, channel: Channel, entry: &[u8]) -> Result<Arc<Record<T>>, MergeError> {
        let signed = SignedRecord::decode(entry)?;
        let header = RecordHeader::decode(&signed.body)?;
        let content = T::read(&signed.body)?;
        let key = PublicKey::from_bytes(header.key);
        let row = row(key.peer_id(), &header, &signed.signature);
        let signature = Signature::from_bytes(signed.signature);
        key.verify(SIGNATURE_CONTEXT, &in_channel(channel, &signed.body), &signature)
            .map_err(|_bad_signature| MergeError::Forged(row.origin))?;
        Ok(Arc::new(Record { row, content, entry: entry.to_vec() }))
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
    /// Nothing was stored; [`Topology::outrun`](crate::Topology::outrun) repairs it.
    Ghost(Ghost),
}

/// Who wrote a record that bears this router's identity and is not its own. An earlier life is silent from now on; a
/// copy at work comes back under greater numbers with the same nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ghost {
    /// The life.
    pub boot: BootCount,
    /// The version in that life.
    pub version: u64,
    /// What was drawn at random at the start of that life.
    pub nonce: u64,
}

/// Why an entry was refused. Whoever made or sent it is at fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The bytes are no record.
    #[error("a malformed record: {0}")]
    Malformed(#[from] DecodeError),
    /// The signature is not its origin's.
    #[error("a record of {0} that {0} did not sign")]
    Forged(PeerId),
    /// It is longer than the channel's records may be.
    #[error("a record of {len} bytes, more than {max}")]
    TooLong {
        /// How long.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// The channel holds as much as it may.
    #[error("no room for more records in channel {channel}", channel = .0.0)]
    Full(Channel),
    /// There are as many channels as there may be.
    #[error("no room for another channel")]
    TooManyChannels,
}

/// How much a channel may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most origins. A record of one more is refused.
    pub records_max: usize,
    /// Longest entry, in bytes.
    pub entry_len_max: usize,
    /// Most bytes of all entries together. What would not fit is refused.
    pub len_max: usize,
}

/// The newest record of each origin in one channel.
///
/// Of two records of one origin the one with the greater (boot count, version) holds. A tag of the signature decides
/// between two that the origin numbered alike, and the bytes themselves between two whose tags are alike. So a merge is
/// a maximum over a total order: whoever has seen the same records holds the same ones.
#[derive(Debug, Clone)]
pub struct Records<T> {
    channel: Channel,
    limits: Limits,
    /// In order of their origins.
    records: Vec<Arc<Record<T>>>,
    /// The hash of each bucket, as [`Summary`] says; kept with each change.
    buckets: [u64; BUCKETS],
    /// Bytes of all entries together.
    len: usize,
}

/// What two routers have to tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The origins whose records are newer here, or unknown there.
    pub newer_here: Vec<PeerId>,
    /// The buckets in which something is newer there, or unknown here: bit `n` stands for bucket `n`.
    pub newer_there: u64,
}

impl<T> Records<T> {
    /// A channel without records.
    #[must_use]
    pub const fn new(channel: Channel, limits: Limits) -> Self {
        Self { channel, limits, records: Vec::new(), buckets: [0; BUCKETS], len: 0 }
    }

    /// The channel.
    #[must_use]
    pub const fn channel(&self) -> Channel {
        self.channel
    }

    /// The record of `origin`.
    #[must_use]
    pub fn get(&self, origin: PeerId) -> Option<&Arc<Record<T>>> {
        self.records.get(self.place_of(origin).ok()?)
    }

    /// All records, by origin.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Record<T>>> {
        self.records.iter()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The hash of all: the question whether anything differs.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary { channel: self.channel, root: Summary::root_of(&self.buckets), buckets: Vec::new() }
    }

    /// The hash of all, and of each bucket.
    #[must_use]
    pub fn summary_in_full(&self) -> Summary {
        Summary { buckets: self.buckets.to_vec(), ..self.summary() }
    }

    /// The buckets that differ from `summary`: bit `n` stands for bucket `n`. All, if it only says that some do.
    #[must_use]
    pub fn differing(&self, summary: &Summary) -> u64 {
        if summary.root == Summary::root_of(&self.buckets) {
            return 0;
        }
        if summary.buckets.is_empty() {
            return u64::MAX;
        }
        let pairs = self.buckets.iter().zip(&summary.buckets).enumerate();
        pairs.filter(|(_, (here, there))| here != there).fold(0, |mask, (bucket, _)| mask | 1 << bucket)
    }

    /// A row for each record in `buckets`.
    #[must_use]
    pub fn digest(&self, buckets: u64, reply: bool) -> Digest {
        let rows = self.within(buckets).map(|record| record.row).collect();
        Digest { channel: self.channel, rows, reply, buckets }
    }

    /// The records in `buckets`, by origin. Costs in proportion to these: an origin's bucket is the beginning of its id, so
    /// that the records of each stand together.
    fn within(&self, buckets: u64) -> impl Iterator<Item = &Arc<Record<T>>> {
        let bucket = |record: &Arc<Record<T>>| DigestRow::bucket(record.row.origin);
        let asked = (0..BUCKETS).filter(move |number| buckets >> number & 1 == 1);
        asked.flat_map(move |number| {
            let start = self.records.partition_point(|record| bucket(record) < number);
            let len = self.records[start..].partition_point(|record| bucket(record) == number);
            &self.records[start..start + len]
        })
    }

    /// What differs between here and `digest`, within its buckets. Of the records here, only those of origins that may
    /// be handed on (`offer`) count.
    #[must_use]
    pub fn compare(&self, digest: &Digest, offer: impl Fn(PeerId) -> bool) -> Compared {
        let theirs: BTreeMap<_, _> = digest.rows.iter().map(|row| (row.origin, number(row))).collect();
        let newer_here = self
            .within(digest.buckets)
            .map(|record| record.row)
            .filter(|row| theirs.get(&row.origin).is_none_or(|theirs| *theirs < number(row)))
            .map(|row| row.origin)
            .filter(|origin| offer(*origin))
            .collect();
        let newer_there = theirs
            .iter()
            .filter(|(origin, theirs)| self.get(**origin).is_none_or(|known| number(&known.row) < **theirs))
            .fold(0, |mask, (origin, _)| mask | 1 << DigestRow::bucket(*origin));
        Compared { newer_here, newer_there }
    }

    /// Merges an entry. It is opened only if it would hold, for that costs most.
    pub(crate) fn merge(
        &mut self,
        entry: &[u8],
        opener: &mut dyn OpenRecord<T>,
    ) -> Result<Merged, MergeError> {
        let row = peek(entry)?;
        if !self.lacks(&row, entry) {
            return Ok(Merged::Known(row.origin));
        }
        self.admit(row.origin, entry.len())?;
        self.put(opener.open(self.channel, entry)?);
        Ok(Merged::Newer(row.origin))
    }

    /// Whether an entry with this row would replace what is held of its origin.
    #[must_use]
    pub fn lacks(&self, row: &DigestRow, entry: &[u8]) -> bool {
        self.get(row.origin)
            .is_none_or(|known| (number(&known.row), known.entry.as_slice()) < (number(row), entry))
    }

    /// Whether an entry of `len` bytes fits in place of what is held of `origin`.
    ///
    /// # Errors
    /// [`MergeError::TooLong`] or [`MergeError::Full`].
    pub fn admit(&self, origin: PeerId, len: usize) -> Result<(), MergeError> {
        let max = self.limits.entry_len_max;
        if len > max {
            return Err(MergeError::TooLong { len, max });
        }
        let known = self.get(origin);
        let is_one_too_many = known.is_none() && self.len() >= self.limits.records_max;
        let rest = self.len - known.map_or(0, |known| known.entry.len());
        if is_one_too_many || rest + len > self.limits.len_max {
            return Err(MergeError::Full(self.channel));
        }
        Ok(())
    }

    /// Stores a record in place of what is held of its origin, which is returned.
    pub fn put(&mut self, record: Arc<Record<T>>) -> Option<Arc<Record<T>>> {
        let place = self.place_of(record.row.origin);
        let bucket = &mut self.buckets[DigestRow::bucket(record.row.origin)];
        *bucket = bucket.wrapping_add(record.row.hash());
        self.len += record.entry.len();
        match place {
            Ok(at) => {
                let before = std::mem::replace(&mut self.records[at], record);
                self.discount(&before);
                Some(before)
            }
            Err(at) => {
                self.records.insert(at, record);
                None
            }
        }
    }

    /// Forgets the records of all origins but those that `keep` names, and returns whose.
    pub fn retain(&mut self, keep: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
        let gone: Vec<_> = self.records.extract_if(.., |record| !keep(record.row.origin)).collect();
        gone.iter().for_each(|record| self.discount(record));
        gone.into_iter().map(|record| record.row.origin).collect()
    }

    /// Takes a record that is no more out of the hashes.
    fn discount(&mut self, record: &Record<T>) {
        let bucket = &mut self.buckets[DigestRow::bucket(record.row.origin)];
        *bucket = bucket.wrapping_sub(record.row.hash());
        self.len -= record.entry.len();
    }

    fn place_of(&self, origin: PeerId) -> Result<usize, usize> {
        self.records.binary_search_by_key(&origin, |record| record.row.origin)
    }
}

impl<T> Record<T> {
    /// A record of `identity`. The body starts as [`RecordHeader`] says, with the key of `identity`.
    #[must_use]
    pub fn sign(
        identity: &Identity,
        channel: Channel,
        header: &RecordHeader,
        body: Vec<u8>,
        content: T,
    ) -> Self {
        let signature = *identity.sign(SIGNATURE_CONTEXT, &in_channel(channel, &body)).as_bytes();
        let row = row(identity.peer_id(), header, &signature);
        Self { row, content, entry: SignedRecord { body, signature }.encode() }
    }
}

/// What an entry says that it is. Nothing is verified.
///
/// # Errors
/// [`MergeError::Malformed`].
pub fn peek(entry: &[u8]) -> Result<DigestRow, MergeError> {
    let signed = SignedRecord::decode(entry)?;
    let header = RecordHeader::decode(&signed.body)?;
    Ok(row(PublicKey::from_bytes(header.key).peer_id(), &header, &signed.signature))
}

fn row(origin: PeerId, header: &RecordHeader, signature: &[u8; 64]) -> DigestRow {
    let (first, _) = signature.split_first_chunk().expect("64 bytes are more than 8");
    DigestRow { origin, boot: header.boot, version: header.version, tag: u64::from_be_bytes(*first) }
}

/// What orders the records of one origin.
const fn number(row: &DigestRow) -> (BootCount, u64, u64) {
    (row.boot, row.version, row.tag)
}

/// The bytes that are signed: an entry of one channel is none of another.
fn in_channel(channel: Channel, body: &[u8]) -> Vec<u8> {
    [&channel.0.to_be_bytes(), body].concat()
}

#[cfg(test)]
mod tests;
