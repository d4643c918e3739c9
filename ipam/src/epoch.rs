//! What is known of one address: who may hand it out, since when, and from whom. Owns the order of such records.

use mesh_wire::PeerId;
use minicbor::{Decode, Encode};

/// Counts the changes of custody of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Epoch {
    /// How many peers were retired when the address was last reclaimed; 0 before. It keeps what a retired peer may have
    /// said unheard below what its heir says.
    #[n(0)]
    pub generation: u32,
    /// Raised by one at each change.
    #[n(1)]
    pub number: u64,
}

impl Epoch {
    /// The epoch of a network's foundation.
    pub const FIRST: Self = Self { generation: 0, number: 1 };

    /// The next epoch in the same generation. The number would take centuries to run out; then it stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { generation: self.generation, number: self.number.saturating_add(1) }
    }
}

/// Who has custody of an address. The greatest record holds; only whoever holds an address, or the heir of a retired
/// peer, makes a greater one, so no two records of one address ever bear the same epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Rec {
    /// Which change this is.
    #[n(0)]
    pub epoch: Epoch,
    /// Who may hand the address out.
    #[n(1)]
    pub owner: PeerId,
    /// Who gave it. The owner itself if it founded, reclaimed or rewrote.
    #[n(2)]
    pub donor: PeerId,
}
