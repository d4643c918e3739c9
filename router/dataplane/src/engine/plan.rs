//! What the control plane wants of the data plane, as plain data. [`Tables`](super::Tables) and the sessions are
//! made from it; it is never read per frame.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_crypto::DirectionKey;
use mesh_wire::{PeerId, ReceiverIndex};

use super::groups::Groups;

/// Most other addresses of one neighbour that are tried.
pub const CANDIDATES_MAX: usize = 32;

/// The whole wish: a later plan replaces an earlier one as a whole.
pub struct Plan {
    /// This router.
    pub me: PeerId,
    /// Digest of the topology that routes and trees come from. Relayed broadcasts carry it.
    pub digest: u32,
    /// The neighbours with whom there are keys, at most one entry for each; also those with whom there is a session
    /// but no link that the topology knows, which then stand in no tree.
    pub links: Vec<LinkPlan>,
    /// For each peer that can be reached, the neighbour that is next on the way; for a neighbour that is reached
    /// directly, itself.
    pub next_hop: BTreeMap<PeerId, PeerId>,
    /// The broadcast tree of each source, this router included.
    pub trees: BTreeMap<PeerId, Tree>,
    /// Which peers want the frames of which groups.
    pub groups: Arc<Groups>,
}

/// This router's place in the broadcast tree of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The neighbour from which frames of this source come; `None` in the router's own tree.
    pub parent: Option<PeerId>,
    /// The neighbours to which frames of this source go.
    pub children: Vec<PeerId>,
}

/// One neighbour: where it is, and the keys of its session.
pub struct LinkPlan {
    /// The neighbour.
    pub peer: PeerId,
    /// Where its datagrams are sent at first. Once it has sent authenticated packets from elsewhere, those count,
    /// until a plan names another address than the plan before.
    pub remote: SocketAddr,
    /// Other addresses at which it may be reached: probed too, while the link is not alive. Those past the first
    /// [`CANDIDATES_MAX`] are left out.
    pub candidates: Vec<SocketAddr>,
    /// Whether its address follows its authenticated packets anywhere, and not to `remote` and `candidates` alone.
    pub roams: bool,
    /// Whether it is to prove at once that it is still there.
    pub in_doubt: bool,
    /// Epochs in which its packets are opened.
    pub receive: Vec<ReceivePlan>,
    /// The epoch in which packets to it are sealed; `None` while there is none: nothing is sent then.
    pub send: Option<SendPlan>,
}

/// Keys for packets from a neighbour.
pub struct ReceivePlan {
    /// The session's epoch.
    pub epoch: u32,
    /// The name that this router gave it; unique among all links.
    pub index: ReceiverIndex,
    /// The key.
    pub key: DirectionKey,
}

/// Keys for packets to a neighbour.
pub struct SendPlan {
    /// The session's epoch.
    pub epoch: u32,
    /// The name that the neighbour gave it.
    pub index: ReceiverIndex,
    /// The key.
    pub key: DirectionKey,
}
