//! Data links whose control connection broke without a word: somebody on the way reset it, or the peer's process died. The
//! peer, if it lives, dials again at once; until then frames go on under the keys that both ends have, and the data plane asks
//! with haste whether it is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_wire::control::LinkRecord;
use mesh_wire::{Moment, PeerId};

use crate::connection::{CloseCause, Connection, Open};
use crate::data_link::DataLink;
use crate::interface::ConnectionId;
use crate::limits::ORPHAN_KEPT;
use crate::node::Node;
use crate::rivals::life;

/// Links that wait for a session, by peer; none of a peer that has one.
#[derive(Default)]
pub(crate) struct Orphans(BTreeMap<PeerId, Orphan>);

struct Orphan {
    data: DataLink,
    life: (u64, u64),
    remote: SocketAddr,
    outbound: bool,
    until: Moment,
}

impl Orphans {
    pub(crate) fn links(&self) -> impl Iterator<Item = (PeerId, &DataLink)> {
        self.0.iter().map(|(peer, orphan)| (*peer, &orphan.data))
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = LinkRecord> {
        self.0.iter().map(|(peer, orphan)| orphan.data.record(*peer, orphan.remote, orphan.outbound))
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.0.values().map(|orphan| orphan.until).min()
    }
}

impl Node {
    /// The peers whose data link waits for a session.
    pub fn orphaned_peers(&self) -> impl Iterator<Item = PeerId> {
        self.orphans.0.keys().copied()
    }

    /// Keeps the data link of a session that has ended, if that was nobody's will and packets pass.
    pub(crate) fn keep_link(
        &mut self,
        mut open: Open,
        remote: Option<SocketAddr>,
        outbound: bool,
        cause: &CloseCause,
        now: Moment,
    ) {
        let Some(remote) = remote.filter(|_| *cause == CloseCause::Closed && open.data.is_alive()) else {
            return;
        };
        open.data.doubt();
        let orphan =
            Orphan { life: life(&open.hello), data: open.data, remote, outbound, until: now + ORPHAN_KEPT };
        self.orphans.0.insert(open.peer, orphan);
    }

    /// A session with `peer` counts again: the link of the same life goes on in it.
    pub(crate) fn adopt_link(&mut self, peer: PeerId, id: ConnectionId, now: Moment) {
        let Some(orphan) = self.orphans.0.remove(&peer) else { return };
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        if life(&open.hello) == orphan.life && open.data.protection() == orphan.data.protection() {
            open.data.inherit(orphan.data, now);
        }
    }

    /// Gives up the links whose time is over.
    pub(crate) fn run_orphan_timers(&mut self, now: Moment) {
        let due: Vec<_> =
            self.orphans.0.iter().filter(|(_, orphan)| orphan.until <= now).map(|(peer, _)| *peer).collect();
        for peer in due {
            self.drop_orphan(peer);
        }
    }

    /// Nothing passes on a link that waits for a session, or there will be none.
    pub(crate) fn drop_orphan(&mut self, peer: PeerId) {
        if self.orphans.0.remove(&peer).is_some() {
            self.links_changed = true;
            self.plan_changed = true;
            self.topology_changed = true;
        }
    }
}
