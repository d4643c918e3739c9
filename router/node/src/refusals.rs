//! Connection attempts of others that were refused lately, for `status`: whoever mistyped a password looks there.

use std::collections::VecDeque;
use std::net::SocketAddr;

use mesh_wire::Moment;

use crate::connection::CloseCause;
use crate::limits::{REFUSAL_SHOWN_FOR, REFUSALS_KEPT_MAX};

/// The last [`REFUSALS_KEPT_MAX`] refusals, one an address.
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
}

impl Refusals {
    /// Remembers a refusal; the oldest makes room. Returns whether it is news, rather than another try of the same
    /// host for the same reason.
    pub(crate) fn add(&mut self, remote: SocketAddr, cause: CloseCause, now: Moment) -> bool {
        self.expire(now);
        let same_host = |refusal: &Refusal| refusal.remote.ip() == remote.ip();
        let news = !self.recent.iter().any(|refusal| same_host(refusal) && refusal.cause == cause);
        self.recent.retain(|refusal| !same_host(refusal));
        if self.recent.len() >= REFUSALS_KEPT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Refusal { remote, cause, at: now });
        news
    }

    pub(crate) fn expire(&mut self, now: Moment) {
        self.recent.retain(|refusal| now.since(refusal.at) < REFUSAL_SHOWN_FOR);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Refusal> {
        self.recent.iter()
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
    fn many_strangers_push_each_other_out() {
        let mut refusals = Refusals::default();
        for last in 0..=255 {
            refusals.add(remote(last), CloseCause::Closed, Moment::ORIGIN);
        }
        assert_eq!(refusals.iter().count(), REFUSALS_KEPT_MAX);
        assert!(refusals.iter().any(|refusal| refusal.remote == remote(255)));
    }
}
