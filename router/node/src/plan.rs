//! What the node wants the data plane to do: plain data, complete each time.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_crypto::{DirectionKey, EspKeys, WireguardKey};
use mesh_topology::Routes;
use mesh_wire::{PeerId, ReceiverIndex};

use crate::data_link::DataLink;
use crate::groups::GroupMembers;
use crate::vxlan::KernelPath;

/// All that forwarding needs. A new plan replaces the whole of the earlier one.
#[derive(Clone)]
pub struct Plan {
    /// This router.
    pub me: PeerId,
    /// The neighbours to and from which packets may go.
    pub links: Vec<LinkPlan>,
    /// The ways to all peers.
    pub routes: Routes,
    /// Which peers want the frames of which groups.
    pub groups: Arc<GroupMembers>,
}

/// A neighbour, as the data plane sees it.
#[derive(Clone)]
pub struct LinkPlan {
    /// Who.
    pub peer: PeerId,
    /// Where its sleeve listens as far as the control plane knows; authenticated packets correct it.
    pub remote: SocketAddr,
    /// Other addresses at which it may be reached; tried while nothing comes.
    pub candidates: Vec<SocketAddr>,
    /// Whether the neighbour's address follows its authenticated packets. Not where only its address excuses that
    /// frames travel in clear.
    pub roams: bool,
    /// Whether its connection broke without a word, so that it may be gone: it is to prove at once that it is not.
    pub in_doubt: bool,
    /// What is agreed about frames between the two kernels.
    pub kernel: KernelPath,
    /// What both kernels share, where frames are to be sealed.
    pub wireguard_key: Option<WireguardKey>,
    /// What both kernels seal by ESP with, where frames are to be sealed; it is sent with once the peer receives.
    pub esp: Option<EspPlan>,
    /// The keys under which its packets are accepted, newest last.
    pub receive: Vec<ReceivePlan>,
    /// The keys under which packets go to it, once it has offered to receive.
    pub send: Option<SendPlan>,
}

/// The kernels' ESP in the present epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct EspPlan {
    /// Keys of both directions.
    pub keys: EspKeys,
    /// Whether the peer has entered the epoch, too.
    pub is_answered: bool,
}

/// An epoch's receiving end here.
#[derive(Clone)]
pub struct ReceivePlan {
    /// Epoch of the key schedule.
    pub epoch: u32,
    /// What packets to this end carry.
    pub index: ReceiverIndex,
    /// Opens them.
    pub key: DirectionKey,
}

/// An epoch's receiving end at the neighbour.
#[derive(Clone)]
pub struct SendPlan {
    /// Epoch of the key schedule.
    pub epoch: u32,
    /// What packets to that end carry.
    pub index: ReceiverIndex,
    /// Seals them.
    pub key: DirectionKey,
}

impl Plan {
    pub(crate) fn new<'a>(
        me: PeerId,
        mut routes: Routes,
        links: impl Iterator<Item = (PeerId, &'a DataLink)>,
        groups: Arc<GroupMembers>,
    ) -> Self {
        let mut plans = Vec::new();
        for (peer, link) in links {
            // A link between two peers that stands in no record carries what is for that peer, and nothing else.
            if link.is_alive() {
                routes.next_hop.insert(peer, peer);
            }
            plans.extend(link.plan(peer));
        }
        Self { me, links: plans, routes, groups }
    }
}
