//! The records of channels that this version does not know. They are checked, ordered, and handed on like all others, so
//! that newer routers find each other through older ones. Owns them; reads nothing in them.

use std::collections::BTreeMap;

use mesh_wire::PeerId;
use mesh_wire::control::Channel;

use crate::records::{Limits, MergeError, Merged, Records, Verify};
use crate::topology::PEERS_MAX;

/// Most channels. Entries of one more are refused.
pub const CHANNELS_MAX: usize = 16;

/// Longest entry, in bytes; a longer one is refused.
pub const ENTRY_LEN_MAX: usize = 64 * 1024;

/// Most bytes of one channel's entries together. What would not fit is refused.
pub const CHANNEL_LEN_MAX: usize = 4 * 1024 * 1024;

/// All channels that are only carried.
#[derive(Debug, Default)]
pub struct Carried {
    /// Only channels with records.
    channels: BTreeMap<Channel, Records<()>>,
}

impl Carried {
    /// Merges an entry of `channel`.
    ///
    /// # Errors
    /// If the entry is no signed record, or there is no room for it.
    pub fn merge(&mut self, channel: Channel, entry: &[u8]) -> Result<Merged, MergeError> {
        if let Some(records) = self.channels.get_mut(&channel) {
            return records.merge(entry, &mut Verify);
        }
        if !self.has_room() {
            return Err(MergeError::TooManyChannels);
        }
        let mut records = Self::empty(channel);
        let merged = records.merge(entry, &mut Verify)?;
        self.channels.insert(channel, records);
        Ok(merged)
    }

    /// A channel without records.
    #[must_use]
    pub const fn empty(channel: Channel) -> Records<()> {
        let limits =
            Limits { records_max: PEERS_MAX, entry_len_max: ENTRY_LEN_MAX, len_max: CHANNEL_LEN_MAX };
        Records::new(channel, limits)
    }

    /// Whether one more channel would be carried.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.channels.len() < CHANNELS_MAX
    }

    /// The records of `channel`, if there are any.
    #[must_use]
    pub fn get(&self, channel: Channel) -> Option<&Records<()>> {
        self.channels.get(&channel)
    }

    /// All channels that have records.
    pub fn channels(&self) -> impl ExactSizeIterator<Item = &Records<()>> {
        self.channels.values()
    }

    /// Forgets the records of all origins but those that `keep` names.
    pub fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.channels.retain(|_, records| {
            records.retain(&keep);
            !records.is_empty()
        });
    }
}

#[cfg(test)]
mod tests;
