//! Whom a node dials and whom it lets go: what the user wants, what the formation of the network asks for, and what the
//! shell is told of it. The schedule is `mesh-topology`'s [`Connector`](mesh_topology::Connector).

use std::collections::BTreeSet;

use mesh_topology::Target;
use mesh_wire::control::{Farewell, Message};
use mesh_wire::{Moment, PeerId};

use crate::connection::{CloseCause, Connection, Phase};
use crate::counters::Count;
use crate::interface::{ConnectionId, Output};
use crate::limits::SURPLUS_EVERY;
use crate::node::Node;

impl Node {
    /// Takes in whom the user wants dialed. What passes [`NAMED_MAX`](mesh_topology::connector::NAMED_MAX) is the
    /// shell's to refuse; here, nothing changes then.
    pub(crate) fn connect(&mut self, targets: Vec<Target>, replace: bool, now: Moment) {
        if self.connector.connect(targets, replace, now).is_ok() {
            self.drop_old_failures();
        }
    }

    pub(crate) fn forget(&mut self, targets: &[Target]) {
        self.connector.forget(targets);
        self.drop_old_failures();
    }

    /// Keeps the failures of targets that there still are.
    pub(crate) fn drop_old_failures(&mut self) {
        let targets: BTreeSet<_> = self.connector.targets().map(|(target, _)| target).collect();
        self.failures.retain(|target, _| targets.contains(target));
        self.admission.retain(&targets);
    }

    /// Dials what is due, unless this router has given up.
    pub(crate) fn dial_due(&mut self, now: Moment) {
        if self.fenced {
            return;
        }
        for target in self.connector.due(now) {
            self.dial(target);
        }
    }

    /// Connects to a target.
    pub(crate) fn dial(&mut self, target: Target) {
        let id = ConnectionId::Dialed(self.dials);
        self.dials += 1;
        let connection =
            Connection { target: Some(target.clone()), local: None, remote: None, phase: Phase::Dialing };
        self.connections.insert(id, connection);
        self.outputs.push_back(Output::Dial { id, target });
    }

    /// Lets go one neighbour, if there are more than this router wants, and looks again later: each change of the topology
    /// may show that one of the others is needed.
    pub(crate) fn let_one_go(&mut self, now: Moment) {
        self.timers.surplus = None;
        let surplus = self.connector.surplus(&self.topology, &self.connected());
        let Some(peer) = surplus.first() else { return };
        if let Some(id) = self.sessions.get(peer).copied() {
            self.counters.count(Count::SessionSurplus);
            self.send(id, &Message::Bye(Farewell::Enough), now);
            self.end(id, CloseCause::Surplus, now);
        }
        if surplus.len() > 1 {
            self.timers.surplus = Some(now + SURPLUS_EVERY);
        }
    }

    /// The peers with whom there is a session.
    pub(crate) fn connected(&self) -> BTreeSet<PeerId> {
        self.sessions.keys().copied().collect()
    }
}
