//! Which records wait for one neighbour, and how much of what it was sent it may not have read yet. Owns the counting; a
//! ping behind the gossip shows by its pong that the neighbour has come so far.
//!
//! A neighbour that reads slowly holds up nobody: what waits for it is one name for each record, and what it gets in the
//! end is the newest of each origin.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::limits::{NEWS_MAX, UNREAD_ASKED_AFTER, UNREAD_LEN_MAX};
use crate::news::Name;

/// The gossip on its way to one neighbour.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    waiting: BTreeSet<Name>,
    /// The last one that was taken. The next one follows it in order, so that each has its turn.
    last: Option<Name>,
    /// Bytes of gossip sent in this session, and how many of them the neighbour has read for sure.
    sent: u64,
    read: u64,
    /// The ping on its way: its number is the value of `sent` before it.
    asked: Option<u64>,
}

impl Outbound {
    /// Lets a record wait. False when [`NEWS_MAX`] do.
    pub(crate) fn add(&mut self, name: Name) -> bool {
        let has_room = self.waiting.len() < NEWS_MAX || self.waiting.contains(&name);
        if has_room {
            self.waiting.insert(name);
        }
        has_room
    }

    /// Whether more may be sent now.
    pub(crate) const fn has_room(&self) -> bool {
        self.sent - self.read < UNREAD_LEN_MAX
    }

    /// The record whose turn it is.
    pub(crate) fn next(&self) -> Option<Name> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiting.range((after, Bound::Unbounded)).next().or_else(|| self.waiting.first()).copied()
    }

    pub(crate) fn take(&mut self, name: Name) {
        self.waiting.remove(&name);
        self.last = Some(name);
    }

    /// Counts what was sent. Returns the number of the ping that shall follow it, if one shall.
    pub(crate) fn sent(&mut self, len: u64) -> Option<u64> {
        self.sent += len;
        self.ask()
    }

    /// Takes in a pong. Returns the number of the ping that shall follow, if one shall.
    pub(crate) fn answered(&mut self, number: u64) -> Option<u64> {
        self.read = self.asked.take_if(|asked| *asked == number)?;
        self.ask()
    }

    fn ask(&mut self) -> Option<u64> {
        let due = self.asked.is_none() && self.sent - self.read >= UNREAD_ASKED_AFTER;
        due.then(|| *self.asked.insert(self.sent))
    }
}

#[cfg(test)]
mod tests {
    use mesh_wire::PeerId;
    use mesh_wire::control::Channel;

    use super::*;

    fn name(n: u8) -> Name {
        (Channel::TOPOLOGY, PeerId::from_bytes([n; 16]))
    }

    #[test]
    fn a_neighbour_that_does_not_read_gets_no_more_until_it_does() {
        let mut outbound = Outbound::default();
        assert_eq!(outbound.sent(UNREAD_ASKED_AFTER - 1), None, "little is sent without a question");
        assert_eq!(outbound.sent(1), Some(UNREAD_ASKED_AFTER));
        assert_eq!(outbound.sent(UNREAD_LEN_MAX), None, "one question at a time");
        assert!(!outbound.has_room());
        assert_eq!(outbound.answered(7), None, "that answers something else");
        assert!(!outbound.has_room());
        let all = UNREAD_ASKED_AFTER + UNREAD_LEN_MAX;
        assert_eq!(outbound.answered(UNREAD_ASKED_AFTER), Some(all));
        assert!(!outbound.has_room());
        assert_eq!(outbound.answered(all), None);
        assert!(outbound.has_room());
    }

    #[test]
    fn each_record_has_its_turn_however_often_others_come_back() {
        let mut outbound = Outbound::default();
        for n in 0..4 {
            assert!(outbound.add(name(n)));
        }
        let turns: Vec<_> = (0..4)
            .map(|_| {
                let next = outbound.next().expect("one waits");
                outbound.take(next);
                outbound.add(name(0));
                next
            })
            .collect();
        assert_eq!(turns, [name(0), name(1), name(2), name(3)]);
        assert_eq!(outbound.next(), Some(name(0)));
    }
}
