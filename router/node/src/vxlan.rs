//! What neighbours offer each other for frames between their kernels, without either router. Owns the exchange; whether a
//! path carries, and which frames take it, is judged by whoever runs it.
//!
//! On a link whose frames are sealed only what the kernels seal is offered.

use mesh_crypto::Protection;
use mesh_wire::control::{EspOffer, Message, SealOffer, VxlanOffer};
use mesh_wire::{Moment, PeerId};

use crate::connection::Connection;
use crate::interface::{ConnectionId, VxlanEnd};
use crate::node::Node;

/// What the two ends of a link have told each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelPath {
    /// Whether frames on the link are sealed, so that only a path can be used that seals them too.
    pub is_sealed: bool,
    /// What this router has offered.
    pub ours: Option<VxlanOffer>,
    /// What the peer has said: `None` before it has, then whether it offers anything.
    pub theirs: Option<Option<VxlanOffer>>,
}

impl Node {
    /// This router's kernel takes frames there from now on, or no longer.
    pub(crate) fn set_vxlan(&mut self, end: Option<VxlanEnd>, now: Moment) {
        if std::mem::replace(&mut self.vxlan, end) == end {
            return;
        }
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.offer_vxlan(id, now);
        }
        self.plan_changed = true;
    }

    /// Says in a session what this router's kernel takes from that peer. That it takes nothing is said too: what the peer
    /// remembers of an earlier life ends with it.
    pub(crate) fn offer_vxlan(&mut self, id: ConnectionId, now: Moment) {
        let cookie = self.rng.u64();
        let end = self.vxlan;
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        if matches!(id, ConnectionId::Relayed(_)) {
            return;
        }
        let offer = end.and_then(|VxlanEnd { vni, clear, sealed }| {
            let (port, seal) = match open.data.protection() {
                Protection::Clear => (clear?, None),
                Protection::Sealed => sealed.map(|(port, seal)| (port, Some(seal)))?,
            };
            let (seal, esp) = match seal {
                None => (None, None),
                Some(SealOffer::Wireguard(device)) => (Some(device), None),
                Some(SealOffer::Esp) => (None, Some(EspOffer {})),
            };
            Some(VxlanOffer { port, vni, cookie, seal, esp })
        });
        open.data.kernel.ours = offer;
        self.send(id, &Message::Vxlan(offer), now);
    }

    /// Takes in what a neighbour offers.
    pub(crate) fn vxlan_offered(&mut self, id: ConnectionId, offer: Option<VxlanOffer>) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        if open.data.kernel.theirs.replace(offer) != Some(offer) {
            self.plan_changed = true;
        }
    }

    /// The overlay that carries frames to a neighbour is another now.
    pub(crate) fn set_overlay(&mut self, peer: PeerId, overlay: u8) {
        if let Some(open) = self.session_with(peer).and_then(Connection::open_mut)
            && std::mem::replace(&mut open.data.overlay, overlay) != overlay
        {
            self.links_changed = true;
        }
    }

    fn session_with(&mut self, peer: PeerId) -> Option<&mut Connection> {
        self.connections.get_mut(self.sessions.get(&peer)?)
    }
}
