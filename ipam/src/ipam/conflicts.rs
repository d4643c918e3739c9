//! Addresses that may be in use twice: those that this peer's clients hold and another peer owns, and those for which
//! somebody else answers on the wire. They are shown, here and by all others, and never repaired in silence.

use std::net::IpAddr;

use mesh_wire::{MacAddr, PeerId};

use super::{Draft, Ipam};
use crate::addr::Addr;
use crate::interface::Event;
use crate::message::{CONFLICTS_MAX, Conflict, Message};

impl Ipam {
    /// Somebody else has answered for an address. Nobody's, when it was given back meanwhile.
    pub(super) fn probed(&mut self, address: IpAddr, answered: MacAddr) {
        let addr = Addr::from(address);
        let Some(holding) = self.state.book.holding(addr) else { return };
        let ident = holding.ident.clone();
        if self.seen.insert(addr, answered) != Some(answered) {
            self.conflicts_changed = true;
            self.drafts.push(Draft::Event(Event::Squatted { address, ident, seen_at: answered }));
        }
    }

    /// All of this peer's.
    pub(crate) fn held_in_conflict(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.state.book.held().filter_map(|(addr, holding)| {
            let seen_at = self.seen.get(&addr).copied();
            let is_conflict = seen_at.is_some() || !self.state.custody.is_active(addr);
            is_conflict.then(|| Conflict { address: addr, ident: holding.ident.clone(), seen_at })
        })
    }

    /// Those of others.
    pub(crate) fn others_in_conflict(&self) -> impl Iterator<Item = (PeerId, &Conflict)> + '_ {
        self.conflicts.iter().flat_map(|(peer, conflicts)| conflicts.iter().map(|conflict| (*peer, conflict)))
    }

    /// Tells everybody, when there is something new to tell.
    pub(super) fn say_conflicts(&mut self) {
        if !std::mem::take(&mut self.conflicts_changed) {
            return;
        }
        let conflicts: Vec<Conflict> = self.held_in_conflict().take(CONFLICTS_MAX).collect();
        if conflicts != self.own_conflicts {
            self.own_conflicts = conflicts;
            let hail = self.hail_for(None);
            self.drafts.push(Draft::Broadcast(Message::Hail(hail)));
        }
    }
}
