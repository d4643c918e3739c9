//! From plan to snapshot: builds what the threads read, and carries over what must outlive a publication: counters,
//! replay windows and learnt addresses. It alone creates and closes sessions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mesh_wire::{PeerId, ReceiverIndex};

use super::links::Link;
use super::sessions::{ReceiveSession, SendSession};
use crate::engine::{LinkId, LinkPlan, Plan, ReceivePlan, SendPlan, Tables};

/// Most ended sessions that are remembered, in each direction; the oldest is forgotten first. A plan that revives a
/// forgotten one would repeat counters, but between its end and its revival lie as many other sessions.
const ENDED_SESSIONS_MAX: usize = 4096;

/// What the threads read for each frame. Immutable, but for what lies behind the `Arc`s.
pub(crate) struct Snapshot {
    pub(crate) tables: Tables,
    /// By [`LinkId`].
    outlets: Vec<Outlet>,
    /// Sorted by receiver index.
    inlets: Vec<Inlet>,
}

/// The way to a neighbour.
pub(crate) struct Outlet {
    pub(crate) link: Arc<Link>,
    pub(crate) session: Option<Arc<SendSession>>,
}

/// The way from a neighbour.
#[derive(Clone)]
pub(crate) struct Inlet {
    pub(crate) link: LinkId,
    pub(crate) session: Arc<ReceiveSession>,
}

impl Snapshot {
    pub(crate) fn alone(me: PeerId) -> Self {
        Self { tables: Tables::alone(me), outlets: Vec::new(), inlets: Vec::new() }
    }

    pub(crate) fn outlet(&self, link: LinkId) -> &Outlet {
        &self.outlets[link.index()]
    }

    pub(crate) fn outlets(&self) -> &[Outlet] {
        &self.outlets
    }

    pub(crate) fn inlet(&self, index: ReceiverIndex) -> Option<&Inlet> {
        let at = self.inlets.binary_search_by_key(&index, |inlet| inlet.session.index).ok()?;
        self.inlets.get(at)
    }
}

/// Names a session's sending direction: who receives, the epoch, and the receiver's name for it.
type SendId = (PeerId, u32, ReceiverIndex);

/// Keeps sessions and links from one plan to the next.
#[derive(Default)]
pub(crate) struct Publisher {
    links: BTreeMap<PeerId, KeptLink>,
    send: BTreeMap<SendId, Arc<SendSession>>,
    receive: BTreeMap<ReceiverIndex, Arc<ReceiveSession>>,
    ended_send: Ended<SendId>,
    ended_receive: Ended<ReceiverIndex>,
    serial: u64,
}

struct KeptLink {
    link: Arc<Link>,
    planned: std::net::SocketAddr,
}

/// A plan in force.
pub(crate) struct Published {
    pub(crate) snapshot: Snapshot,
    /// Neighbours who stay, but with sessions that have nothing in common with those before.
    pub(crate) restarted: Vec<PeerId>,
}

impl Publisher {
    /// Puts `plan` in the place of the one before. Sessions that it no longer names are closed. Where it names one
    /// receiver index twice, the first counts.
    pub(crate) fn publish(&mut self, plan: Plan) -> Published {
        let tables = Tables::new(&plan);
        let before = std::mem::take(self).into_previous();
        self.take_memory(before.ended_send, before.ended_receive, before.serial);
        let mut restarted = Vec::new();
        let (mut outlets, mut inlets) = (Vec::new(), Vec::new());
        let mut old = OldSessions { send: before.send, receive: before.receive };
        self.close_unnamed(&plan, &mut old);
        for (at, link_plan) in plan.links.into_iter().enumerate() {
            let LinkPlan { peer, remote, receive, send } = link_plan;
            let kept = before.links.get(&peer);
            let stays = receive.iter().any(|plan| old.receive.contains_key(&plan.index));
            if kept.is_some() && !stays {
                restarted.push(peer);
            }
            let link = self.link(peer, remote, kept.filter(|_| stays));
            let id = tables.link(peer).filter(|id| id.index() == at);
            let session = send.map(|plan| self.send_session(peer, plan, &mut old));
            let receive = receive.into_iter().map(|plan| self.receive_session(plan, &mut old));
            inlets.extend(receive.filter_map(|session| id.map(|link| Inlet { link, session })));
            outlets.push(Outlet { link, session });
        }
        inlets.sort_by_key(|inlet| inlet.session.index);
        inlets.dedup_by_key(|inlet| inlet.session.index);
        Published { snapshot: Snapshot { tables, outlets, inlets }, restarted }
    }
}
