//! Which MACs are on which peer's bridge, as each peer says of its own: known before the first frame, and taken back the
//! moment it is over. Owns the channel of MACs and who wins where several have announced one; sends no frame.
//!
//! A MAC that turns up on another bridge is announced there under a greater number, and so leaves the old place whatever
//! order the two announcements come in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_topology::records::Limits;
use mesh_topology::topology::PEERS_MAX;
use mesh_topology::{Content, Ghost, MergeError, Merged, OpenRecord, Record, Records, Verify, peek};
use mesh_wire::control::{AnnouncedMac, Channel, DecodeError, MACS_ANNOUNCED_MAX, MacsRecord, RecordHeader};
use mesh_wire::{MacAddr, Moment, PeerId};

use crate::interface::Output;
use crate::limits::MACS_LEN_MAX;
use crate::node::Node;

/// Longest entry, in bytes: also those carry it who do not know the channel.
const ENTRY_LEN_MAX: usize = 64 * 1024;

/// What is known of MACs.
pub(crate) struct Macs {
    records: Records<Announcements>,
    version: u64,
    /// Who has each MAC that is not on the own bridge; as of the last change.
    elsewhere: Arc<BTreeMap<MacAddr, PeerId>>,
    /// Whether something has changed since.
    is_stale: bool,
}

/// The body of a record of this channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcements(BTreeMap<MacAddr, u32>);

impl Content for Announcements {
    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let record = MacsRecord::decode(body)?;
        Ok(Self(record.macs.into_iter().map(|AnnouncedMac { mac, sequence }| (mac, sequence)).collect()))
    }
}

impl Default for Macs {
    fn default() -> Self {
        Self { records: Self::empty(), version: 0, elsewhere: Arc::default(), is_stale: false }
    }
}

impl Macs {
    /// The channel without records.
    pub(crate) const fn empty() -> Records<Announcements> {
        let limits = Limits { records_max: PEERS_MAX, entry_len_max: ENTRY_LEN_MAX, len_max: MACS_LEN_MAX };
        Records::new(Channel::MACS, limits)
    }

    pub(crate) const fn records(&self) -> &Records<Announcements> {
        &self.records
    }

    /// The same, if there are any.
    pub(crate) fn in_use(&self) -> Option<&Records<Announcements>> {
        Some(&self.records).filter(|records| !records.is_empty())
    }

    /// Forgets peers that are gone.
    pub(crate) fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.is_stale |= !self.records.retain(keep).is_empty();
    }
}

impl Node {
    /// These MACs are on this router's bridge now, and no others. Those beyond [`MACS_ANNOUNCED_MAX`] are not announced.
    pub(crate) fn set_macs(&mut self, macs: &BTreeSet<MacAddr>, now: Moment) {
        let me = self.peer_id();
        let known = self.macs.records.get(me).map(|record| record.content.clone());
        let before = known.clone().unwrap_or(Announcements(BTreeMap::new()));
        let stations = macs.iter().filter(|mac| mac.is_station()).take(MACS_ANNOUNCED_MAX);
        let numbered = stations.map(|mac| (*mac, before.0.get(mac).copied()));
        let fresh: BTreeMap<_, _> =
            numbered.map(|(mac, old)| (mac, old.unwrap_or_else(|| self.next_sequence(mac)))).collect();
        let announcements = Announcements(fresh);
        if known.as_ref() != Some(&announcements) {
            self.publish_macs(announcements, now);
        }
    }

    /// Merges an entry of the channel.
    pub(crate) fn merge_macs(&mut self, entry: &[u8]) -> Result<Merged, MergeError> {
        let row = peek(entry)?;
        let records = &mut self.macs.records;
        if row.origin == self.topology.me() {
            let own = records.get(row.origin);
            let outranks = own.is_none_or(|own| (row.boot, row.version) >= (own.row.boot, own.row.version))
                && own.is_none_or(|own| own.entry != entry);
            // That of an earlier life gives way to the first of this one.
            return Ok(if outranks && (row.boot >= self.topology.own().boot || own.is_some()) {
                Merged::Ghost(Ghost { boot: row.boot, version: row.version, nonce: 0 })
            } else {
                Merged::Known(row.origin)
            });
        }
        if !records.lacks(&row, entry) {
            return Ok(Merged::Known(row.origin));
        }
        records.admit(row.origin, entry.len())?;
        records.put(Verify.open(Channel::MACS, entry)?);
        self.macs.is_stale = true;
        Ok(Merged::Newer(row.origin))
    }

    /// Numbers the own record above one that bears this router's identity and is not its own.
    pub(crate) fn outrun_macs(&mut self, ghost: &Ghost, now: Moment) {
        self.macs.version = self.macs.version.max(ghost.version);
        if let Some(own) = self.macs.records.get(self.peer_id()) {
            let announcements = own.content.clone();
            self.publish_macs(announcements, now);
        }
    }

    /// Which peer has each MAC that is not on this router's bridge.
    #[must_use]
    pub fn macs_elsewhere(&self) -> &Arc<BTreeMap<MacAddr, PeerId>> {
        &self.macs.elsewhere
    }

    /// Whose announcements are known, if only that there are none.
    pub fn announcing_peers(&self) -> impl Iterator<Item = PeerId> {
        self.macs.records.iter().map(|record| record.row.origin)
    }

    /// Draws the consequences of what was announced.
    pub(crate) fn settle_macs(&mut self) {
        if std::mem::take(&mut self.macs.is_stale) {
            let elsewhere = self.elsewhere();
            self.outputs.push_back(Output::MacsChanged);
            if *self.macs.elsewhere != elsewhere {
                self.macs.elsewhere = Arc::new(elsewhere);
            }
        }
    }

    fn elsewhere(&self) -> BTreeMap<MacAddr, PeerId> {
        let me = self.peer_id();
        let mut holders: BTreeMap<MacAddr, (u32, PeerId)> = BTreeMap::new();
        for record in self.macs.records.iter() {
            let origin = record.row.origin;
            for (mac, sequence) in &record.content.0 {
                let claim = (*sequence, origin);
                let holder = holders.entry(*mac).or_insert(claim);
                // The greatest number, then the smallest peer id.
                if (claim.0, std::cmp::Reverse(claim.1)) > (holder.0, std::cmp::Reverse(holder.1)) {
                    *holder = claim;
                }
            }
        }
        holders.into_iter().filter(|(_, (_, peer))| *peer != me).map(|(mac, (_, peer))| (mac, peer)).collect()
    }

    /// One more than anybody else has announced the MAC under.
    fn next_sequence(&self, mac: MacAddr) -> u32 {
        let me = self.peer_id();
        let others = self.macs.records.iter().filter(|record| record.row.origin != me);
        let greatest = others.filter_map(|record| record.content.0.get(&mac)).max();
        greatest.map_or(0, |greatest| greatest.saturating_add(1))
    }

    fn publish_macs(&mut self, announcements: Announcements, now: Moment) {
        self.macs.version += 1;
        let own = self.topology.own();
        let (key, boot, version) = (own.key, own.boot, self.macs.version);
        let macs =
            announcements.0.iter().map(|(mac, sequence)| AnnouncedMac { mac: *mac, sequence: *sequence });
        let body = MacsRecord { key, boot, version, macs: macs.collect() }.encode();
        let header = RecordHeader { key, boot, version };
        let record = Record::sign(&self.identity, Channel::MACS, &header, body, announcements);
        self.macs.records.put(Arc::new(record));
        self.macs.is_stale = true;
        self.announce((Channel::MACS, self.peer_id()), None, now);
    }
}
