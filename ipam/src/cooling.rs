//! Which freed addresses are still warm. Owns times of this life only: after a restart all freed addresses begin anew.

use std::collections::{BTreeMap, VecDeque};

use mesh_wire::Moment;

use crate::addr::Addr;
use crate::limits::COOLING_TIME;

/// Freed addresses that nobody else may have yet.
#[derive(Debug, Default)]
pub(crate) struct Cooling {
    until: BTreeMap<Addr, Moment>,
    /// In the order of their times, because each cools for the same time.
    order: VecDeque<(Moment, Addr)>,
}

impl Cooling {
    /// Begins to cool `addr`.
    pub(crate) fn insert(&mut self, addr: Addr, now: Moment) {
        let until = now + COOLING_TIME;
        self.until.insert(addr, until);
        self.order.push_back((until, addr));
    }

    /// Forgets what has cooled.
    pub(crate) fn expire(&mut self, now: Moment) {
        while let Some((until, addr)) = self.order.front().copied().filter(|(until, _)| *until <= now) {
            self.order.pop_front();
            if self.until.get(&addr) == Some(&until) {
                self.until.remove(&addr);
            }
        }
    }

    /// Whether `addr` may be given to anybody.
    pub(crate) fn has_cooled(&self, addr: Addr) -> bool {
        !self.until.contains_key(&addr)
    }

    /// When the next address has cooled.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.order.front().map(|(until, _)| *until)
    }
}
