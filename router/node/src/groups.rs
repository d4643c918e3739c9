//! Which groups of IPv4 and IPv6 have members on which peer's bridge, as each peer says of its own. Owns the channel of
//! groups and what the data plane is told of it; sends no frame.
//!
//! A peer that has said nothing, as one of an earlier version, gets the frames of all groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_topology::{Content, Ghost, MergeError, Merged};
use mesh_wire::control::{Channel, DecodeError, GROUPS_ANNOUNCED_MAX, GroupsRecord, RecordHeader};
use mesh_wire::{MacAddr, Moment, PeerId};

use crate::limits::GROUPS_LEN_MAX;
use crate::node::Node;
use crate::told::Told;

/// What is known of groups.
pub(crate) struct Groups {
    pub(crate) told: Told<Wanted>,
    /// As of the last change.
    members: Arc<GroupMembers>,
}

/// The groups whose frames are of use on one bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Every one: a router of groups is on it, or there are too many.
    All,
    /// Those that have members, at most [`GROUPS_ANNOUNCED_MAX`].
    Only(BTreeSet<MacAddr>),
}

/// Which peers want the frames of which groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupMembers {
    /// Those that want the frames of their own groups alone, and not of all.
    pub selective: BTreeSet<PeerId>,
    /// The selective ones that have members of each group. This router is not among them.
    pub members: BTreeMap<MacAddr, BTreeSet<PeerId>>,
}

impl Content for Wanted {
    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let record = GroupsRecord::decode(body)?;
        Ok(if record.wants_all { Self::All } else { Self::Only(record.groups.into_iter().collect()) })
    }
}

impl Wanted {
    fn encode(&self, header: &RecordHeader) -> Vec<u8> {
        let (wants_all, groups) = match self {
            Self::All => (true, Vec::new()),
            Self::Only(groups) => (false, groups.iter().copied().collect()),
        };
        let RecordHeader { key, boot, version } = *header;
        GroupsRecord { key, boot, version, wants_all, groups }.encode()
    }

    /// What fits a record, and is of use in one.
    fn within_limits(self) -> Self {
        let Self::Only(mut groups) = self else { return Self::All };
        groups.retain(MacAddr::is_snooped_group);
        if groups.len() > GROUPS_ANNOUNCED_MAX { Self::All } else { Self::Only(groups) }
    }
}

impl Default for Groups {
    fn default() -> Self {
        Self { told: Told::new(Channel::GROUPS, GROUPS_LEN_MAX), members: Arc::default() }
    }
}

impl Node {
    /// These groups are of use on this router's bridge now, and no others.
    pub(crate) fn set_groups(&mut self, wanted: Wanted, now: Moment) {
        let wanted = wanted.within_limits();
        let said = self.groups.told.records().get(self.peer_id());
        if said.map(|record| &record.content) != Some(&wanted) {
            self.publish_groups(wanted, now);
        }
    }

    /// Merges an entry of the channel.
    pub(crate) fn merge_groups(&mut self, entry: &[u8]) -> Result<Merged, MergeError> {
        self.groups.told.merge(self.topology.me(), self.topology.own().boot, entry)
    }

    /// Numbers the own record above one that bears this router's identity and is not its own.
    pub(crate) fn outrun_groups(&mut self, ghost: &Ghost, now: Moment) {
        self.groups.told.outrun(ghost);
        if let Some(own) = self.groups.told.records().get(self.peer_id()) {
            let wanted = own.content.clone();
            self.publish_groups(wanted, now);
        }
    }

    /// Which peers want the frames of which groups.
    #[must_use]
    pub const fn group_members(&self) -> &Arc<GroupMembers> {
        &self.groups.members
    }

    /// Draws the consequences of what was announced.
    pub(crate) fn settle_groups(&mut self) {
        if !self.groups.told.take_stale() {
            return;
        }
        let members = self.members();
        if *self.groups.members != members {
            self.groups.members = Arc::new(members);
            self.plan_changed = true;
        }
    }

    fn members(&self) -> GroupMembers {
        let me = self.peer_id();
        let mut all = GroupMembers::default();
        for record in self.groups.told.records().iter().filter(|record| record.row.origin != me) {
            if let Wanted::Only(groups) = &record.content {
                all.selective.insert(record.row.origin);
                for group in groups {
                    all.members.entry(*group).or_default().insert(record.row.origin);
                }
            }
        }
        all
    }

    fn publish_groups(&mut self, wanted: Wanted, now: Moment) {
        let own = self.topology.own();
        self.groups.told.publish(&self.identity, own, wanted, |header, wanted| wanted.encode(header));
        self.announce((Channel::GROUPS, self.peer_id()), None, now);
    }
}
