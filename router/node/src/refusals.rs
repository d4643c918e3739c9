//! Connection attempts of others that were refused lately, for `status`: whoever mistyped a password looks there.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use mesh_wire::Moment;

use crate::connection::CloseCause;
use crate::limits::{REFUSAL_SHOWN_FOR, REFUSALS_KEPT_MAX};

/// The last [`REFUSALS_KEPT_MAX`] refusals, one for each host and reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    recent: VecDeque<Refusal>,
}

/// A refused attempt.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) remote: SocketAddr,
    pub(crate) cause: CloseCause,
    at: Moment,
    /// Whether somebody at that address has been let in since.
    is_over: bool,
}

impl Refusals {
    /// Remembers a refusal; the oldest makes room. Returns whether it is worth a line in the log: not when the same
    /// host was refused for the same reason lately, and not when so many were refused lately that somebody must be
    /// knocking on purpose. So strangers cannot fill a disk.
    pub(crate) fn add(&mut self, remote: SocketAddr, cause: CloseCause, now: Moment) -> bool {
        self.expire(now);
        let same = |refusal: &Refusal| refusal.remote.ip() == remote.ip() && refusal.cause == cause;
        let known = self.recent.iter().any(same);
        self.recent.retain(|refusal| !same(refusal));
        let crowded = self.recent.len() >= REFUSALS_KEPT_MAX;
        if crowded {
            self.recent.pop_front();
        }
        self.recent.push_back(Refusal { remote, cause, at: now, is_over: false });
        !known && !crowded
    }

    pub(crate) fn expire(&mut self, now: Moment) {
        self.recent.retain(|refusal| now.since(refusal.at) < REFUSAL_SHOWN_FOR);
    }

    /// Somebody at this address was let in: what it was refused for, such as the first of several secrets, is over. It is shown
    /// no more, and is no news either if it comes again.
    pub(crate) fn let_in(&mut self, address: IpAddr) {
        let same = self.recent.iter_mut().filter(|refusal| refusal.remote.ip() == address);
        same.for_each(|refusal| refusal.is_over = true);
    }

    /// Those that are to be shown.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Refusal> {
        self.recent.iter().filter(|refusal| !refusal.is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 40_000))
    }

    #[test]
    fn a_host_that_tries_again_for_the_same_reason_is_no_news_until_it_is_forgotten() {
        let mut refusals = Refusals::default();
        let start = Moment::ORIGIN;
        assert!(refusals.add(remote(1), CloseCause::HandshakeTimeout, start));
        assert!(!refusals.add(remote(1), CloseCause::HandshakeTimeout, start + REFUSAL_SHOWN_FOR / 2));
        assert!(refusals.add(remote(1), CloseCause::Closed, start + REFUSAL_SHOWN_FOR / 2));
        assert!(refusals.add(remote(1), CloseCause::Closed, start + REFUSAL_SHOWN_FOR * 2));
    }

    #[test]
    fn what_a_host_was_refused_for_is_not_shown_once_it_is_in_and_is_no_news_when_it_comes_again() {
        let mut refusals = Refusals::default();
        assert!(refusals.add(remote(1), CloseCause::Closed, Moment::ORIGIN));
        assert!(refusals.add(remote(2), CloseCause::Closed, Moment::ORIGIN));
        refusals.let_in(remote(1).ip());
        assert_eq!(refusals.iter().map(|refusal| refusal.remote).collect::<Vec<_>>(), [remote(2)]);
        assert!(!refusals.add(remote(1), CloseCause::Closed, Moment::ORIGIN));
        assert_eq!(refusals.iter().count(), 2);
    }

    #[test]
    fn many_strangers_push_each_other_out_and_few_of_them_reach_the_log() {
        let mut refusals = Refusals::default();
        let logged =
            (0..=255).filter(|last| refusals.add(remote(*last), CloseCause::Closed, Moment::ORIGIN)).count();
        assert_eq!(logged, REFUSALS_KEPT_MAX);
        assert_eq!(refusals.iter().count(), REFUSALS_KEPT_MAX);
        assert!(refusals.iter().any(|refusal| refusal.remote == remote(255)));
    }

    #[test]
    fn one_stranger_with_two_manners_is_two_lines() {
        let mut refusals = Refusals::default();
        let causes = [CloseCause::Closed, CloseCause::HandshakeTimeout].into_iter().cycle().take(100);
        let logged = causes.filter(|cause| refusals.add(remote(1), cause.clone(), Moment::ORIGIN)).count();
        assert_eq!(logged, 2);
    }
}
