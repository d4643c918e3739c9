//! The custody map: a function from addresses to records, kept as runs, merged by pointwise maximum.
//!
//! Owns the lattice and nothing else: what it means that a record changed is for `custody` to say.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::addr::Addr;
use crate::epoch::Rec;
use crate::range::Range;

/// Most runs in one map, and so in one message. A network splits its range once for each grant, so this is reached
/// only by fragmentation; then peers grant no more until owners have joined neighbouring runs.
pub const RUNS_MAX: usize = 65_536;

/// Addresses that share one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Run {
    /// Which.
    #[n(0)]
    pub range: Range,
    /// Their record.
    #[n(1)]
    pub rec: Rec,
}

/// A part of the map that a merge changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which addresses.
    pub range: Range,
    /// Their record before, if there was one.
    pub old: Option<Rec>,
    /// Their record now.
    pub new: Rec,
}

/// A record for each address, or none: none is less than every record.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct CustodyMap(BTreeMap<Addr, (Addr, Rec)>);

impl CustodyMap {
    /// The map that knows of no address.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether it knows of no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many runs it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Its runs, in order; neighbours differ in their record or do not touch.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Run> + '_ {
        self.0.iter().map(|(first, (last, rec))| Run { range: range(*first, *last), rec: *rec })
    }

    /// The parts of its runs that lie in `within`, in order.
    pub fn runs_within(&self, within: Range) -> impl Iterator<Item = Run> + '_ {
        let before = self.0.range(..within.first()).next_back();
        let inside = self.0.range(within.first()..=within.last());
        before.into_iter().chain(inside).filter_map(move |(first, (last, rec))| {
            Some(Run { range: range(*first, *last).intersection(within)?, rec: *rec })
        })
    }

    /// The record of `addr`.
    #[must_use]
    pub fn get(&self, addr: Addr) -> Option<Rec> {
        self.runs_within(Range::single(addr)).next().map(|run| run.rec)
    }

    /// What merging `run` would change: where its record is greater.
    #[must_use]
    pub fn news(&self, run: Run) -> Vec<Change> {
        let parts = self.parts(run.range).into_iter();
        let greater = parts.filter(|(_, old)| old.is_none_or(|old| old < run.rec));
        greater.map(|(range, old)| Change { range, old, new: run.rec }).collect()
    }

    /// Takes the greater record for each address of `run`, and returns what that changed.
    pub fn merge(&mut self, run: Run) -> Vec<Change> {
        let changes = self.news(run);
        for change in &changes {
            self.set(change.range, change.new);
        }
        changes
    }

    /// Makes `rec` the record of all of `range`, greater or not.
    pub(crate) fn set(&mut self, within: Range, rec: Rec) {
        let mut joined = within;
        let reach = within.widened();
        let touching: Vec<(Addr, (Addr, Rec))> = self
            .runs_within(reach)
            .map(|part| {
                let (first, run) = self.0.range(..=part.range.first()).next_back().expect("the run is there");
                (*first, *run)
            })
            .collect();
        for (first, (last, old)) in touching {
            self.0.remove(&first);
            if old == rec {
                joined = range(joined.first().min(first), joined.last().max(last));
                continue;
            }
            if first < within.first() {
                let end = within.first().previous().expect("something lies before");
                self.0.insert(first, (end.min(last), old));
            }
            if last > within.last() {
                let start = within.last().next().expect("something lies behind");
                self.0.insert(start.max(first), (last, old));
            }
        }
        self.0.insert(joined.first(), (joined.last(), rec));
    }

    /// `within` cut where the record changes, gaps included.
    fn parts(&self, within: Range) -> Vec<(Range, Option<Rec>)> {
        let mut parts = Vec::new();
        let mut rest = Some(within);
        for run in self.runs_within(within) {
            let Some(open) = rest else { break };
            if let Some(gap) = run.range.first().previous().and_then(|end| Range::new(open.first(), end)) {
                parts.push((gap, None));
            }
            parts.push((run.range, Some(run.rec)));
            rest = run.range.last().next().and_then(|start| Range::new(start, open.last()));
        }
        parts.extend(rest.map(|gap| (gap, None)));
        parts
    }
}

fn range(first: Addr, last: Addr) -> Range {
    Range::new(first, last).expect("runs are kept in order")
}
