//! Which of the addresses that may be handed out are in use here, by whom, and which were lately. Owns the choice of the
//! next address; knows no peer and no time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::addr::Addr;
use crate::custody::Shift;
use crate::range::{Range, RangeSet};

/// Length of the longest [`Ident`], in bytes.
pub const IDENT_LEN_MAX: usize = 256;

/// Most addresses that are in use or were lately, on one host. One more is refused.
pub const ENTRIES_MAX: usize = 65_536;

/// To whom an address is given: a container's id, or a name that a user chose. 1 to [`IDENT_LEN_MAX`] bytes, none of them
/// a control character.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
#[cbor(transparent)]
pub struct Ident(#[n(0)] String);

/// Why a text is no [`Ident`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentError {
    /// It is empty or too long.
    #[error("a name of an address's holder has 1 to {IDENT_LEN_MAX} bytes, not {0}")]
    Length(usize),
    /// It could garble a terminal or a table.
    #[error("a name of an address's holder has no control characters")]
    Control,
}

impl Ident {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Ident {
    type Err = IdentError;

    fn from_str(text: &str) -> Result<Self, IdentError> {
        if !(1..=IDENT_LEN_MAX).contains(&text.len()) {
            return Err(IdentError::Length(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(IdentError::Control);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'b, C> Decode<'b, C> for Ident {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        let text = d.str()?;
        text.parse().map_err(|error: IdentError| minicbor::decode::Error::custom(error).at(position))
    }
}

/// Who an address was given to, and in which subnet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Holding {
    /// Who.
    #[n(0)]
    pub ident: Ident,
    /// Length of the subnet's prefix, in bits of the address's family.
    #[n(1)]
    pub len: u8,
}

/// The addresses of one host.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct Book {
    held: BTreeMap<Addr, Holding>,
    by_ident: BTreeMap<Ident, BTreeSet<Addr>>,
    /// Freed and not given out since, with the last holder and the order in which they were freed.
    freed: BTreeMap<Addr, (u64, Holding)>,
    by_age: BTreeMap<u64, Addr>,
    by_last: BTreeMap<Ident, BTreeSet<Addr>>,
    frees: u64,
    /// May be handed out, and is neither held nor freed.
    idle: RangeSet,
}

impl Book {
    /// Follows what custody gained or lost, and returns the held addresses that it lost: somebody else may hand them out
    /// now. They stay with their holders, and are never handed out again.
    pub fn shift(&mut self, shift: Shift) -> Vec<Addr> {
        let (Shift::Gained(range) | Shift::Lost(range)) = shift;
        let held: Vec<Addr> = self.held.range(range.first()..=range.last()).map(|(addr, _)| *addr).collect();
        match shift {
            Shift::Gained(_) => {
                self.idle.insert(range);
                let freed = self.freed.range(range.first()..=range.last()).map(|(addr, _)| *addr);
                freed.chain(held).for_each(|addr| self.idle.remove(Range::single(addr)));
                Vec::new()
            }
            Shift::Lost(_) => {
                self.idle.remove(range);
                self.forget_freed(range);
                held
            }
        }
    }

    fn forget_freed(&mut self, range: Range) {
        let freed: Vec<Addr> =
            self.freed.range(range.first()..=range.last()).map(|(addr, _)| *addr).collect();
        for addr in freed {
            if let Some((order, holding)) = self.freed.remove(&addr) {
                self.by_age.remove(&order);
                unlist(&mut self.by_last, &holding.ident, addr);
            }
        }
    }

    /// Gives `addr` to a holder.
    pub fn hold(&mut self, addr: Addr, holding: Holding) {
        self.idle.remove(Range::single(addr));
        self.forget_freed(Range::single(addr));
        self.by_ident.entry(holding.ident.clone()).or_default().insert(addr);
        self.held.insert(addr, holding);
    }

    /// Takes `addr` back; it cools down if it is still `ours`, and is forgotten if another peer has it by now.
    pub fn free(&mut self, addr: Addr, ours: bool) {
        let Some(holding) = self.held.remove(&addr) else { return };
        unlist(&mut self.by_ident, &holding.ident, addr);
        if ours {
            self.frees += 1;
            self.by_age.insert(self.frees, addr);
            self.by_last.entry(holding.ident.clone()).or_default().insert(addr);
            self.freed.insert(addr, (self.frees, holding));
        }
    }

    /// The next address of `hosts` for `ident`: one that it had last; else the lowest that nobody had; else, of those that
    /// have cooled, the one freed longest ago.
    pub fn pick(&self, ident: &Ident, hosts: Range, has_cooled: impl Fn(Addr) -> bool) -> Option<Addr> {
        let had = self.by_last.get(ident).into_iter().flatten().copied().find(|addr| hosts.contains(*addr));
        let idle = || self.idle.within(hosts).next().map(Range::first).filter(|_| !self.is_full());
        let freed = || self.by_age.values().copied().find(|addr| hosts.contains(*addr) && has_cooled(*addr));
        had.or_else(idle).or_else(freed)
    }

    /// What of `within` could be given away: idle, or freed and cooled.
    pub fn spare(&self, within: Range, has_cooled: impl Fn(Addr) -> bool) -> RangeSet {
        let freed = self.freed.range(within.first()..=within.last()).map(|(addr, _)| *addr);
        let cooled = freed.filter(|addr| has_cooled(*addr)).map(Range::single);
        self.idle.within(within).chain(cooled).collect()
    }

    /// Whether an address of `within` is cooling down.
    pub fn cools(&self, within: Range, has_cooled: impl Fn(Addr) -> bool) -> bool {
        self.freed.range(within.first()..=within.last()).any(|(addr, _)| !has_cooled(*addr))
    }

    /// Who holds `addr`.
    #[must_use]
    pub fn holding(&self, addr: Addr) -> Option<&Holding> {
        self.held.get(&addr)
    }

    /// Who held `addr` last, if it was freed.
    #[must_use]
    pub fn freed_by(&self, addr: Addr) -> Option<&Ident> {
        self.freed.get(&addr).map(|(_, holding)| &holding.ident)
    }

    /// Addresses in use, with their holders.
    pub fn held(&self) -> impl Iterator<Item = (Addr, &Holding)> {
        self.held.iter().map(|(addr, holding)| (*addr, holding))
    }

    /// Freed addresses, the first freed first.
    pub fn freed(&self) -> impl Iterator<Item = (Addr, &Holding)> {
        self.by_age.values().map(|addr| (*addr, &self.freed[addr].1))
    }

    /// The addresses of `ident`.
    pub fn of(&self, ident: &Ident) -> impl Iterator<Item = (Addr, &Holding)> {
        self.by_ident.get(ident).into_iter().flatten().map(|addr| (*addr, &self.held[addr]))
    }

    /// Addresses that could be handed out at once.
    #[must_use]
    pub const fn idle(&self) -> &RangeSet {
        &self.idle
    }

    /// Whether no further address can be given out, however many are idle.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held.len() + self.freed.len() >= ENTRIES_MAX
    }
}

fn unlist(lists: &mut BTreeMap<Ident, BTreeSet<Addr>>, ident: &Ident, addr: Addr) {
    if let Some(addrs) = lists.get_mut(ident) {
        addrs.remove(&addr);
        if addrs.is_empty() {
            lists.remove(ident);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(ident: &str) -> Holding {
        Holding { ident: ident.parse().unwrap(), len: 12 }
    }

    #[test]
    fn a_full_host_takes_no_new_address_and_reuses_what_has_cooled() {
        let net: ipnet::IpNet = "10.32.0.0/12".parse().unwrap();
        let all = Range::from(net);
        let mut book = Book::default();
        assert_eq!(book.shift(Shift::Gained(all)), []);
        let first = all.first();
        for n in 0..ENTRIES_MAX as u128 {
            book.hold(Addr(first.0 + n), holding("x"));
        }
        assert_eq!(book.pick(&"y".parse().unwrap(), all, |_| true), None);
        book.free(Addr(first.0 + 7), true);
        assert_eq!(book.pick(&"y".parse().unwrap(), all, |_| false), None);
        assert_eq!(book.pick(&"y".parse().unwrap(), all, |_| true), Some(Addr(first.0 + 7)));
        assert_eq!(
            book.pick(&"x".parse().unwrap(), all, |_| false),
            Some(Addr(first.0 + 7)),
            "it had it last"
        );
    }

    #[test]
    fn a_held_address_that_is_lost_stays_with_its_holder_and_comes_back_to_nobody_else() {
        let all = Range::from("10.0.0.0/29".parse::<ipnet::IpNet>().unwrap());
        let mut book = Book::default();
        drop(book.shift(Shift::Gained(all)));
        book.hold(all.first(), holding("x"));
        assert_eq!(book.shift(Shift::Lost(all)), [all.first()]);
        assert_eq!(book.holding(all.first()), Some(&holding("x")));
        assert!(book.idle().is_empty());
        book.free(all.first(), false);
        assert_eq!(book.freed().count(), 0);
        drop(book.shift(Shift::Gained(all)));
        assert_eq!(book.idle().count(), 8);
    }

    #[test]
    fn a_holder_has_a_name_that_garbles_nothing() {
        assert_eq!("".parse::<Ident>(), Err(IdentError::Length(0)));
        assert_eq!("a\nb".parse::<Ident>(), Err(IdentError::Control));
        assert_eq!("ä".repeat(129).parse::<Ident>(), Err(IdentError::Length(258)));
        assert!("web-1.example/eth0".parse::<Ident>().is_ok());
    }
}
