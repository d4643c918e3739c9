//! Which records wait to be passed on, and when. Owns the queue and its pace; the records stay where they are kept, so
//! that what leaves is always the newest of its origin.
//!
//! News is collected for a moment, so that a burst makes one message. What an origin says again soon after waits its
//! turn: a link that flaps, or a peer that talks without end, costs everybody the same few messages a second.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::control::Channel;
use mesh_wire::{Moment, PeerId};

use crate::interface::ConnectionId;
use crate::limits::{GOSSIP_COALESCED_FOR, MENTIONED_AFTER, NEWS_MAX, PUSHED_AGAIN_AFTER};

/// Names a record.
pub(crate) type Name = (Channel, PeerId);

/// Records to be passed on, with the connection that each came from; `None` for this router's own.
#[derive(Debug, Default)]
pub(crate) struct News {
    waiting: BTreeMap<Name, Option<ConnectionId>>,
    /// Of origins that no chain of connections reaches yet. They wait until one does, or until they are forgotten.
    held: BTreeMap<Name, Option<ConnectionId>>,
    /// When a record of each was last passed on, within [`PUSHED_AGAIN_AFTER`].
    passed_on: BTreeMap<Name, Moment>,
    due: Option<Moment>,
    /// What was passed on since the last mention, and when the next one is. Of more than [`NEWS_MAX`] nothing is said.
    unmentioned: BTreeSet<Name>,
    mention_at: Option<Moment>,
}

impl News {
    /// Lets a record wait for its turn. False when [`NEWS_MAX`] wait already: anti-entropy will carry this one.
    pub(crate) fn add(&mut self, name: Name, from: Option<ConnectionId>, now: Moment) -> bool {
        let full = self.waiting.len() + self.held.len() >= NEWS_MAX;
        if full && !self.waiting.contains_key(&name) && !self.held.contains_key(&name) {
            return false;
        }
        self.held.remove(&name);
        self.waiting.insert(name, from);
        let due = self.turn(name, now);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        true
    }

    /// Takes what is due out of the queue, by the connection that it came from.
    pub(crate) fn take_due(
        &mut self,
        now: Moment,
        is_reachable: impl Fn(PeerId) -> bool,
    ) -> BTreeMap<Option<ConnectionId>, Vec<Name>> {
        let mut due: BTreeMap<_, Vec<Name>> = BTreeMap::new();
        if self.due.is_none_or(|at| at > now) {
            return due;
        }
        self.passed_on.retain(|_, at| now.since(*at) < PUSHED_AGAIN_AFTER);
        for (name, from) in std::mem::take(&mut self.waiting) {
            match self.passed_on.entry(name) {
                Entry::Occupied(_) => {
                    self.waiting.insert(name, from);
                }
                Entry::Vacant(place) if is_reachable(name.1) => {
                    place.insert(now);
                    if self.unmentioned.len() < NEWS_MAX {
                        self.unmentioned.insert(name);
                    }
                    due.entry(from).or_default().push(name);
                }
                Entry::Vacant(_) => {
                    self.held.insert(name, from);
                }
            }
        }
        self.due = self.waiting.keys().map(|name| self.turn(*name, now)).min();
        if !due.is_empty() {
            self.mention_at.get_or_insert(now + MENTIONED_AFTER);
        }
        due
    }

    /// Takes what is to be mentioned now, in order.
    pub(crate) fn take_mentions(&mut self, now: Moment) -> Vec<Name> {
        match self.mention_at.take_if(|at| *at <= now) {
            Some(_) => std::mem::take(&mut self.unmentioned).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Gives what was held back another try, since other peers can be reached now.
    pub(crate) fn try_held(&mut self, now: Moment) {
        for (name, from) in std::mem::take(&mut self.held) {
            self.add(name, from, now);
        }
    }

    /// Forgets what waits of origins that are not to be `kept`.
    pub(crate) fn retain(&mut self, kept: impl Fn(PeerId) -> bool) {
        self.waiting.retain(|name, _| kept(name.1));
        self.held.retain(|name, _| kept(name.1));
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.due.into_iter().chain(self.mention_at).min()
    }

    fn turn(&self, name: Name, now: Moment) -> Moment {
        let turn = self.passed_on.get(&name).map_or(now, |at| *at + PUSHED_AGAIN_AFTER);
        turn.max(now + GOSSIP_COALESCED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Moment = Moment::ORIGIN;

    fn name(n: u16) -> Name {
        let [high, low] = n.to_be_bytes();
        let mut id = [0; 16];
        (id[0], id[1]) = (high, low);
        (Channel::TOPOLOGY, PeerId::from_bytes(id))
    }

    fn at(ms: u64) -> Moment {
        START + Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_makes_one_message() {
        let mut news = News::default();
        for n in 0..5 {
            assert!(news.add(name(n), None, at(u64::from(n))));
        }
        assert_eq!(news.poll_timeout(), Some(at(10)));
        assert!(news.take_due(at(9), |_| true).is_empty());
        assert_eq!(news.take_due(at(10), |_| true)[&None].len(), 5);
        assert_eq!(news.poll_timeout(), Some(at(10) + MENTIONED_AFTER));
    }

    #[test]
    fn what_was_passed_on_is_mentioned_once_a_while_later() {
        let mut news = News::default();
        for n in 0..3 {
            news.add(name(n), None, START);
            news.take_due(at(10 + u64::from(n)), |_| true);
        }
        let due = at(10) + MENTIONED_AFTER;
        assert_eq!(news.poll_timeout(), Some(due));
        assert!(news.take_mentions(at(20)).is_empty());
        assert_eq!(news.take_mentions(due), [name(0), name(1), name(2)]);
        assert_eq!(news.poll_timeout(), None);
        assert!(news.take_mentions(due).is_empty());
    }

    #[test]
    fn an_origin_that_changes_all_the_time_is_passed_on_ten_times_a_second_and_others_at_once() {
        let mut news = News::default();
        let mut passed = 0;
        for ms in 0..1_000 {
            news.add(name(1), None, at(ms));
            passed += news.take_due(at(ms), |_| true).len();
        }
        assert!((9..=10).contains(&passed), "{passed}");
        news.add(name(2), None, at(1_000));
        let due = news.take_due(at(1_010), |_| true);
        assert!(due[&None].contains(&name(2)));
    }

    #[test]
    fn the_last_change_is_never_lost() {
        let mut news = News::default();
        news.add(name(1), None, START);
        news.take_due(at(10), |_| true);
        news.add(name(1), None, at(11));
        assert_eq!(news.poll_timeout(), Some(at(110)));
        assert!(news.take_due(at(109), |_| true).is_empty());
        assert_eq!(news.take_due(at(110), |_| true)[&None], [name(1)]);
    }

    #[test]
    fn what_cannot_be_reached_waits_until_it_can_or_is_forgotten() {
        let mut news = News::default();
        news.add(name(1), None, START);
        assert!(news.take_due(at(10), |_| false).is_empty());
        assert_eq!(news.poll_timeout(), None);
        news.try_held(at(20));
        assert_eq!(news.take_due(at(30), |_| true)[&None], [name(1)]);
        news.add(name(1), None, at(200));
        news.retain(|_| false);
        assert!(news.take_due(at(300), |_| true).is_empty());
    }

    #[test]
    fn the_queue_is_bounded_and_takes_what_it_holds_already() {
        let mut news = News::default();
        let count = u16::try_from(NEWS_MAX).expect("fewer than 65,536");
        assert!((0..count).all(|n| news.add(name(n), None, START)));
        assert!(!news.add(name(count), None, START));
        assert!(news.add(name(7), None, START));
        assert_eq!(news.take_due(at(10), |_| true)[&None].len(), NEWS_MAX);
        assert!(news.add(name(count), None, at(11)));
    }
}
