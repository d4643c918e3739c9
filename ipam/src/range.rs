//! Ranges of addresses, and sets of them. Owns splitting and alignment; knows no owner.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use minicbor::{Decode, Encode};

use crate::addr::Addr;

/// Addresses from `first` to `last`, both included; never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
pub struct Range {
    #[n(0)]
    first: Addr,
    #[n(1)]
    last: Addr,
}

impl Range {
    /// The range from `first` to `last`, unless it would be empty.
    #[must_use]
    pub fn new(first: Addr, last: Addr) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The range of one address.
    #[must_use]
    pub const fn single(addr: Addr) -> Self {
        Self { first: addr, last: addr }
    }

    /// Its first address.
    #[must_use]
    pub const fn first(self) -> Addr {
        self.first
    }

    /// Its last address.
    #[must_use]
    pub const fn last(self) -> Addr {
        self.last
    }

    /// How many addresses it has; for all of IPv6 one less, which no number of 128 bits can say.
    #[must_use]
    pub const fn count(self) -> u128 {
        (self.last.0 - self.first.0).saturating_add(1)
    }

    /// Whether `addr` lies in it.
    #[must_use]
    pub fn contains(self, addr: Addr) -> bool {
        self.first <= addr && addr <= self.last
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// What it has in common with `other`.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// It and its two neighbours, where there are any.
    #[must_use]
    pub(crate) const fn widened(self) -> Self {
        Self { first: Addr(self.first.0.saturating_sub(1)), last: Addr(self.last.0.saturating_add(1)) }
    }

    /// The greatest block of 2^k addresses, aligned to its size, that fits into it and has at most `count_max`
    /// addresses; of several the last.
    #[must_use]
    pub fn aligned_block(self, count_max: u128) -> Option<Self> {
        let mut size = 1_u128 << self.count().min(count_max).checked_ilog2()?;
        loop {
            // The end lies one behind the last address, and wraps to 0 behind the last of all.
            let end = self.last.0.wrapping_add(1) & !(size - 1);
            let start = end.wrapping_sub(size);
            if start >= self.first.0 && start <= self.last.0 {
                return Self::new(Addr(start), Addr(start + (size - 1)));
            }
            size >>= 1;
        }
    }

    /// The same as a subnet, if it is one.
    #[must_use]
    pub fn subnet(self) -> Option<IpNet> {
        let first = IpAddr::from(self.first);
        (0..=if first.is_ipv4() { 32 } else { 128 })
            .filter_map(|len| IpNet::new(first, len).ok())
            .find(|net| Self::from(*net) == self)
    }

    /// The addresses of `subnet` that may be handed out: all but the first and the last, which name the subnet and its
    /// broadcast. Subnets of one or two addresses have neither (RFC 3021).
    #[must_use]
    pub fn hosts_of(subnet: IpNet) -> Self {
        let all = Self::from(subnet);
        if all.count() <= 2 {
            return all;
        }
        Self { first: Addr(all.first.0 + 1), last: Addr(all.last.0 - 1) }
    }
}

impl From<IpNet> for Range {
    fn from(net: IpNet) -> Self {
        Self { first: net.network().into(), last: net.broadcast().into() }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'b, C> Decode<'b, C> for Range {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        let (first, last) = d.decode::<(Addr, Addr)>()?;
        Self::new(first, last)
            .ok_or_else(|| minicbor::decode::Error::message("a range ends before it begins").at(position))
    }
}

/// A set of addresses as ranges that neither overlap nor touch.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct RangeSet(BTreeMap<Addr, Addr>);

impl RangeSet {
    /// The set without addresses.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether it has no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many addresses it has.
    #[must_use]
    pub fn count(&self) -> u128 {
        count_of(self.iter())
    }

    /// Its ranges, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range> + '_ {
        self.0.iter().map(|(first, last)| Range { first: *first, last: *last })
    }

    /// What it has in common with `range`, in order.
    pub fn within(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        let before = self.0.range(..range.first).next_back();
        let inside = self.0.range(range.first..=range.last);
        before
            .into_iter()
            .chain(inside)
            .filter_map(move |(first, last)| Range { first: *first, last: *last }.intersection(range))
    }

    /// Whether it has `addr`.
    #[must_use]
    pub fn contains(&self, addr: Addr) -> bool {
        self.within(Range::single(addr)).next().is_some()
    }

    /// Adds all addresses of `range`.
    pub fn insert(&mut self, range: Range) {
        let mut joined = range;
        let touching: Vec<Range> = self.within(range.widened()).collect();
        for part in touching {
            let whole = self.holding(part.first);
            joined.first = joined.first.min(whole.first);
            joined.last = joined.last.max(whole.last);
            self.0.remove(&whole.first);
        }
        self.0.insert(joined.first, joined.last);
    }

    /// Takes all addresses of `range` out.
    pub fn remove(&mut self, range: Range) {
        let parts: Vec<Range> = self.within(range).collect();
        for part in parts {
            let whole = self.holding(part.first);
            self.0.remove(&whole.first);
            if whole.first < part.first {
                self.0.insert(whole.first, Addr(part.first.0 - 1));
            }
            if part.last < whole.last {
                self.0.insert(Addr(part.last.0 + 1), whole.last);
            }
        }
    }

    /// The range of the set that has `addr`, which is in it.
    fn holding(&self, addr: Addr) -> Range {
        let (first, last) = self.0.range(..=addr).next_back().expect("the address is in the set");
        Range { first: *first, last: *last }
    }
}

impl FromIterator<Range> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

/// How many addresses ranges that do not overlap have together; see [`Range::count`].
pub(crate) fn count_of(ranges: impl Iterator<Item = Range>) -> u128 {
    ranges.fold(0, |sum: u128, range| sum.saturating_add(range.count()))
}

#[cfg(test)]
mod tests;
