//! Which MACs are on which peer's bridge, as each peer says of its own: known before the first frame, and taken back the
//! moment it is over. Owns the channel of MACs and who wins where several have announced one; sends no frame.
//!
//! A MAC that turns up on another bridge is announced there under a greater number, and so leaves the old place whatever
//! order the two announcements come in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_topology::{Content, Ghost, MergeError, Merged};
use mesh_wire::control::{AnnouncedMac, Channel, DecodeError, MACS_ANNOUNCED_MAX, MacsRecord, RecordHeader};
use mesh_wire::{MacAddr, Moment, PeerId};

use crate::interface::Output;
use crate::limits::MACS_LEN_MAX;
use crate::node::Node;
use crate::told::Told;

/// What is known of MACs.
pub(crate) struct Macs {
    pub(crate) told: Told<Announcements>,
    /// Who has each MAC that is not on the own bridge; as of the last change.
    elsewhere: Arc<BTreeMap<MacAddr, PeerId>>,
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

impl Announcements {
    fn encode(&self, header: &RecordHeader) -> Vec<u8> {
        let macs = self.0.iter().map(|(mac, sequence)| AnnouncedMac { mac: *mac, sequence: *sequence });
        let RecordHeader { key, boot, version } = *header;
        MacsRecord { key, boot, version, macs: macs.collect() }.encode()
    }
}

impl Default for Macs {
    fn default() -> Self {
        Self { told: Told::new(Channel::MACS, MACS_LEN_MAX), elsewhere: Arc::default() }
    }
}

impl Node {
    /// These MACs are on this router's bridge now, and no others. Those beyond [`MACS_ANNOUNCED_MAX`] are not announced.
    pub(crate) fn set_macs(&mut self, macs: &BTreeSet<MacAddr>, now: Moment) {
        let me = self.peer_id();
        let known = self.macs.told.records().get(me).map(|record| record.content.clone());
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
        self.macs.told.merge(self.topology.me(), self.topology.own().boot, entry)
    }

    /// Numbers the own record above one that bears this router's identity and is not its own.
    pub(crate) fn outrun_macs(&mut self, ghost: &Ghost, now: Moment) {
        self.macs.told.outrun(ghost);
        if let Some(own) = self.macs.told.records().get(self.peer_id()) {
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
        self.macs.told.records().iter().map(|record| record.row.origin)
    }

    /// Draws the consequences of what was announced.
    pub(crate) fn settle_macs(&mut self) {
        if self.macs.told.take_stale() {
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
        for record in self.macs.told.records().iter() {
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
        let others = self.macs.told.records().iter().filter(|record| record.row.origin != me);
        let greatest = others.filter_map(|record| record.content.0.get(&mac)).max();
        greatest.map_or(0, |greatest| greatest.saturating_add(1))
    }

    fn publish_macs(&mut self, announcements: Announcements, now: Moment) {
        let own = self.topology.own();
        self.macs.told.publish(&self.identity, own, announcements, |header, macs| macs.encode(header));
        self.announce((Channel::MACS, self.peer_id()), None, now);
    }
}
