//! Which servers are asked about other names, and in which order. Owns the test for servers that ask us in turn.
//!
//! A server that forwards to this one would send every question round until all slots are taken. So each server is
//! sent a question about a random name now and then; if that question arrives here, the server is left alone until a
//! later test says otherwise. Between tests a loop ends at the limits: the question comes back equal to one in
//! flight, waits for it, and both end with its deadline.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mesh_names::Rng;

use crate::limits::{PREFERENCE_KEPT, UPSTREAMS_MAX};

/// The domain of test questions, which nobody has (RFC 6761, section 6.2).
const TEST_DOMAIN: &[u8] = b"test";

/// Bytes of randomness in the label of a test question.
const TEST_LABEL_LEN: usize = 16;

/// The servers in use.
#[derive(Debug, Default)]
pub(crate) struct Upstreams(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    servers: Vec<Server>,
    preferred: Option<(SocketAddr, Instant)>,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// The label of the last question that tested it, and whether that came back.
    test: Option<(String, bool)>,
    /// What the last test found. Holds while the next is under way.
    loops: bool,
}

impl Upstreams {
    /// Replaces the servers by `listed`, without this server's own addresses, `own`, and without what cannot be
    /// asked. Only the first [`UPSTREAMS_MAX`] count.
    pub(crate) fn replace(&self, listed: &[SocketAddr], own: &[SocketAddr]) {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in
            listed.iter().copied().filter(|address| !own.contains(address) && can_be_asked(*address))
        {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(UPSTREAMS_MAX);
        let mut state = self.state();
        state.preferred = None;
        state.servers =
            addresses.into_iter().map(|address| Server { address, test: None, loops: false }).collect();
    }

    /// All servers.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.state().servers.iter().map(|server| server.address).collect()
    }

    /// The servers to ask, in order: as listed, but the preferred one first, and without those that loop.
    pub(crate) fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let state = self.state();
        let mut order: Vec<SocketAddr> =
            state.servers.iter().filter(|server| !server.loops).map(|server| server.address).collect();
        let preferred = state.preferred.filter(|(_, since)| now.duration_since(*since) < PREFERENCE_KEPT);
        if let Some((preferred, _)) = preferred {
            order.sort_by_key(|address| *address != preferred);
        }
        order
    }

    /// Says that `server` answered when the one before it did not.
    pub(crate) fn prefer(&self, server: SocketAddr, now: Instant) {
        self.state().preferred = Some((server, now));
    }

    /// The query that tests `server`, if it is one of ours.
    pub(crate) fn test_query(&self, server: SocketAddr, rng: &mut Rng) -> Option<Vec<u8>> {
        let mut random = [0; TEST_LABEL_LEN];
        rng.fill(&mut random);
        let label: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut state = self.state();
        let tested = state.servers.iter_mut().find(|tested| tested.address == server)?;
        tested.test = Some((label.clone(), false));
        Some(test_query(&label))
    }

    /// Says that the test of `server` has had its time.
    pub(crate) fn conclude_test(&self, server: SocketAddr) {
        if let Some(tested) = self.state().servers.iter_mut().find(|tested| tested.address == server) {
            tested.loops = tested.test.take().is_some_and(|(_, came_back)| came_back);
        }
    }

    /// Whether the question about the name of `labels` is a test of ours that has come back. Its server is left alone
    /// from then on.
    pub(crate) fn is_test<'a>(&self, mut labels: impl Iterator<Item = &'a [u8]>) -> bool {
        let Some(label) = labels.next().filter(|label| label.len() == 2 * TEST_LABEL_LEN) else {
            return false;
        };
        if !labels.next().is_some_and(|domain| domain.eq_ignore_ascii_case(TEST_DOMAIN))
            || labels.next().is_some()
        {
            return false;
        }
        let mut state = self.state();
        for server in &mut state.servers {
            if let Some((test, came_back)) = &mut server.test
                && test.as_bytes().eq_ignore_ascii_case(label)
            {
                *came_back = true;
                if !server.loops {
                    tracing::warn!(server = %server.address, "this upstream name server asks us in turn: it is left out");
                }
                server.loops = true;
                return true;
            }
        }
        false
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there can be a server at this address.
const fn can_be_asked(address: SocketAddr) -> bool {
    let broadcast = match address.ip() {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast() && !broadcast
}

/// A query for the addresses of `label` in the test domain, with recursion. Its id is drawn when it is sent.
fn test_query(label: &str) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [label.as_bytes(), TEST_DOMAIN] {
        query.push(u8::try_from(label.len()).expect("both labels are short"));
        query.extend_from_slice(label);
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Raw;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn own_and_impossible_addresses_are_left_out_and_only_a_few_are_used() {
        let upstreams = Upstreams::default();
        let listed = addresses(&[
            "169.254.32.53:53",
            "0.0.0.0:53",
            "192.0.2.1:53",
            "192.0.2.1:53",
            "224.0.0.1:53",
            "192.0.2.2:0",
            "127.0.0.1:53",
            "[2001:db8::1]:53",
            "192.0.2.4:53",
        ]);
        upstreams.replace(&listed, &addresses(&["169.254.32.53:53"]));
        assert_eq!(upstreams.addresses(), addresses(&["192.0.2.1:53", "127.0.0.1:53", "[2001:db8::1]:53"]));
    }

    #[test]
    fn a_server_that_answered_in_anothers_place_is_asked_first_for_a_while() {
        let now = Instant::now();
        let upstreams = Upstreams::default();
        let listed = addresses(&["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"]);
        upstreams.replace(&listed, &[]);
        upstreams.prefer(listed[2], now);
        assert_eq!(upstreams.order(now), [listed[2], listed[0], listed[1]]);
        assert_eq!(upstreams.order(now + PREFERENCE_KEPT), listed);
    }

    #[test]
    fn a_server_whose_test_comes_back_is_left_out_until_the_next_test() {
        let upstreams = Upstreams::default();
        let listed = addresses(&["192.0.2.1:53", "192.0.2.2:53"]);
        upstreams.replace(&listed, &[]);
        let mut rng = Rng::from_seed([1; 32]);
        let query = upstreams.test_query(listed[0], &mut rng).unwrap();
        let raw = Raw::read(&query).unwrap();
        assert!(!upstreams.is_test([b"www".as_slice(), b"test"].into_iter()));
        assert!(!upstreams.is_test(raw.labels().chain([b"com".as_slice()])));
        assert_eq!(upstreams.order(Instant::now()), listed);
        assert!(upstreams.is_test(raw.labels()));
        assert_eq!(upstreams.order(Instant::now()), [listed[1]]);
        upstreams.conclude_test(listed[0]);
        assert_eq!(upstreams.order(Instant::now()), [listed[1]]);
        upstreams.test_query(listed[0], &mut rng).unwrap();
        assert!(!upstreams.is_test(raw.labels()), "only the last test counts");
        assert_eq!(upstreams.order(Instant::now()), [listed[1]], "until the test is over");
        upstreams.conclude_test(listed[0]);
        assert_eq!(upstreams.order(Instant::now()), listed);
    }
}
