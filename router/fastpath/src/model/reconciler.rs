//! Compares the flows that are wanted with those that are installed, and yields exactly what to change. Owns the
//! difference; whoever carries it out tells what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_wire::{MacAddr, Moment};

use super::Place;

/// After a change that the kernel refused, the tables are read and compared anew, first after this time, then after twice
/// as long and so on.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest time to the next comparison after a failure.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// One change to the kernel's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There is nothing for the MAC yet.
    Install {
        /// Whose frames.
        mac: MacAddr,
        /// Where they shall go.
        to: Place,
    },
    /// There is another flow, or only a part of one (`None`).
    Replace {
        /// Whose frames.
        mac: MacAddr,
        /// Where they go.
        from: Option<Place>,
        /// Where they shall go.
        to: Place,
    },
    /// There shall be nothing.
    Withdraw {
        /// Whose frames.
        mac: MacAddr,
        /// Where they go, if the flow is whole.
        from: Option<Place>,
    },
}

/// What has been done to the tables since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Flows installed.
    pub installed: u64,
    /// Flows that went elsewhere.
    pub replaced: u64,
    /// Flows withdrawn.
    pub withdrawn: u64,
    /// Changes that the kernel refused.
    pub failed: u64,
    /// Times that the tables were not as they had been left.
    pub repaired: u64,
}

/// What is wanted beside what is there.
#[derive(Debug, Default)]
pub struct Reconciler {
    wanted: BTreeMap<MacAddr, Place>,
    /// What the kernel has, as far as is known; `None` is a part of a flow, or one that nobody asked for.
    installed: BTreeMap<MacAddr, Option<Place>>,
    counted: Counted,
    /// When the tables are to be read again because a change was refused; nothing is changed before.
    retry: Option<Moment>,
    /// Refusals in a row.
    refusals: u32,
}

impl Reconciler {
    /// Names the flows that there shall be.
    pub fn want(&mut self, wanted: BTreeMap<MacAddr, Place>) {
        if self.retry.is_none() && self.wanted != wanted {
            self.refusals = 0;
        }
        self.wanted = wanted;
    }

    /// Begins with what the kernel has from an earlier life.
    pub fn adopt(&mut self, installed: BTreeMap<MacAddr, Option<Place>>) {
        self.installed = installed;
    }

    /// Takes in what the kernel has: after an error, and when somebody else has changed something.
    pub fn found(&mut self, installed: BTreeMap<MacAddr, Option<Place>>) {
        if installed != self.installed {
            self.counted.repaired += 1;
        }
        self.installed = installed;
    }

    /// The changes that lead from what is there to what is wanted, at most `max`. What is as it should be is not touched.
    #[must_use]
    pub fn changes(&self, max: usize) -> Vec<Change> {
        let gone = self.installed.iter().filter(|(mac, _)| !self.wanted.contains_key(*mac));
        let gone = gone.map(|(mac, from)| Change::Withdraw { mac: *mac, from: *from });
        let other = self.wanted.iter().filter_map(|(mac, to)| match self.installed.get(mac) {
            None => Some(Change::Install { mac: *mac, to: *to }),
            Some(from) if *from == Some(*to) => None,
            Some(from) => Some(Change::Replace { mac: *mac, from: *from, to: *to }),
        });
        gone.chain(other).take(max).collect()
    }

    /// Takes in what came of a change. After one that was refused nothing is known of its MAC until the tables are read
    /// again.
    pub fn done(&mut self, change: &Change, is_done: bool, now: Moment) {
        if !is_done {
            self.counted.failed += 1;
            if self.retry.is_none() {
                let wait = RETRY_FIRST.saturating_mul(1 << self.refusals.min(16)).min(RETRY_MAX);
                self.retry = Some(now + wait);
                self.refusals += 1;
            }
            return;
        }
        match *change {
            Change::Install { mac, to } => {
                self.counted.installed += 1;
                self.installed.insert(mac, Some(to));
            }
            Change::Replace { mac, to, .. } => {
                self.counted.replaced += 1;
                self.installed.insert(mac, Some(to));
            }
            Change::Withdraw { mac, .. } => {
                self.counted.withdrawn += 1;
                self.installed.remove(&mac);
            }
        }
    }

    /// Whether an entry for `mac` is what this side has left there.
    #[must_use]
    pub fn expects(&self, mac: MacAddr) -> Option<Option<Place>> {
        self.installed.get(&mac).copied()
    }

    /// Until when changes wait, after one was refused.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Moment> {
        self.retry
    }

    /// Whether the tables are to be read again now after a refusal. If there is another one, the next time is later.
    pub fn retries(&mut self, now: Moment) -> bool {
        self.retry.take_if(|at| *at <= now).is_some()
    }

    /// What the kernel has, as far as is known.
    #[must_use]
    pub const fn installed(&self) -> &BTreeMap<MacAddr, Option<Place>> {
        &self.installed
    }

    /// What has been done.
    #[must_use]
    pub const fn counted(&self) -> Counted {
        self.counted
    }
}
