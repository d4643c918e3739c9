//! Questions about other names: passed on as they came, to one server after the other, once for all who ask the same.
//!
//! A query goes on byte for byte under an id of our own, and its answer comes back byte for byte under the client's, so
//! that EDNS options, flags and types that this server does not know mean to both ends what they meant to each other.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use mesh_names::Rng;
use tokio::sync::watch;
use tokio::time;

use crate::cache::{Cache, Key};
use crate::exchange::{self, Question};
use crate::limits::{FORWARD_TIME_MAX, FORWARDS_EACH_MAX, FORWARDS_MAX, TRIES_MAX, TRY_TIME};
use crate::rate::{Slot, Slots};
use crate::raw::{self, HEADER_LEN, Raw, Truncated};
use crate::rebinding::is_rebinding;
use crate::stats::{Counters, Outcome};
use crate::upstreams::Upstreams;

/// Response codes after which another server may know more (RFC 1035, section 4.1.1).
const CODE_SERVER_FAILURE: u8 = 2;
const CODE_REFUSED: u8 = 5;

/// Passes questions on.
pub(crate) struct Forwarder {
    upstreams: Upstreams,
    private: Vec<IpNet>,
    slots: Arc<Slots>,
    cache: Mutex<Cache>,
    in_flight: Mutex<HashMap<Key, Ending>>,
    rng: Mutex<Rng>,
    counters: Arc<Counters>,
}

/// How a question in flight ends, as seen by those who wait for it: None until then.
type Ending = watch::Receiver<Option<Forwarded>>;

/// What became of a question.
#[derive(Debug, Clone)]
pub(crate) enum Forwarded {
    /// It was answered, with an answer for whoever asked first.
    Answer(Arc<[u8]>),
    /// It was answered with addresses that it must not have; the answer has been emptied.
    Withheld(Arc<[u8]>),
    /// Nobody has answered.
    Failed,
}

impl Forwarder {
    pub(crate) fn new(private: Vec<IpNet>, rng: Rng, counters: Arc<Counters>) -> Self {
        Self {
            upstreams: Upstreams::default(),
            private,
            slots: Slots::new(FORWARDS_MAX, FORWARDS_EACH_MAX),
            cache: Mutex::default(),
            in_flight: Mutex::default(),
            rng: Mutex::new(rng),
            counters,
        }
    }

    /// Asks these servers from now on. What others have said is forgotten: they may have spoken of another network.
    pub(crate) fn set_upstreams(&self, listed: &[SocketAddr], own: &[SocketAddr]) {
        self.upstreams.replace(listed, own);
        *lock(&self.cache) = Cache::default();
    }

    /// The servers that may be asked.
    pub(crate) const fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// The answer to `query`, if it is in the cache.
    pub(crate) fn cached(&self, query: &[u8]) -> Option<Vec<u8>> {
        let raw = Raw::read(query)?;
        let mut answer = lock(&self.cache).get(&Key::of(query, raw.question()), Instant::now())?;
        address_to(query, raw.question(), &mut answer);
        Some(answer)
    }

    /// Asks for the answer to `query` of `client`; None if there is none within [`FORWARD_TIME_MAX`], or if the
    /// client or all together wait for too many.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        query: &[u8],
        client: IpAddr,
    ) -> (Outcome, Option<Vec<u8>>) {
        let failed = (Outcome::ServerFailure, None);
        let Some(raw) = Raw::read(query) else { return failed };
        let Some(slot) = self.slots.take(client) else { return failed };
        let key = Key::of(query, raw.question());
        let (mut ending, _held) = self.join(key, query, slot);
        let ended = ending.wait_for(Option::is_some).await.map(|ended| ended.clone());
        let (outcome, answer) = match ended {
            Ok(Some(Forwarded::Answer(answer))) => (Outcome::Forwarded, answer),
            Ok(Some(Forwarded::Withheld(answer))) => (Outcome::Rebinding, answer),
            Ok(Some(Forwarded::Failed) | None) | Err(_) => return failed,
        };
        let mut answer = answer.to_vec();
        address_to(query, raw.question(), &mut answer);
        (outcome, Some(answer))
    }

    /// Sends a question about a random name to `server`, which shows whether it asks us in turn.
    pub(crate) async fn test(&self, server: SocketAddr) {
        let query = {
            let mut rng = lock(&self.rng);
            self.upstreams.test_query(server, &mut rng)
        };
        let Some(query) = query else { return };
        let query = self.renumbered(&query);
        if let Some(raw) = Raw::read(&query) {
            let question = Question { query: &query, question: raw.question() };
            let result = time::timeout(TRY_TIME, exchange::ask(server, &question, &self.counters)).await;
            tracing::debug!(%server, answered = matches!(result, Ok(Ok(_))), "upstream name server tested");
        }
        self.upstreams.conclude_test(server);
    }

    /// How many questions wait, and how many answers are kept.
    pub(crate) fn gauges(&self) -> (usize, usize) {
        (self.slots.count(), lock(&self.cache).len())
    }

    /// Waits with those who ask the same, or starts asking. Whoever starts leaves its slot to the question, which goes
    /// on when its client has gone.
    fn join(self: &Arc<Self>, key: Key, query: &[u8], slot: Slot) -> (Ending, Option<Slot>) {
        let mut in_flight = lock(&self.in_flight);
        // One that can tell nothing any more has ended badly, and is asked anew.
        if let Some(ending) = in_flight.get(&key).filter(|ending| ending.has_changed().is_ok()) {
            return (ending.clone(), Some(slot));
        }
        let (told, ending) = watch::channel(None);
        in_flight.insert(key.clone(), ending.clone());
        let (this, query) = (self.clone(), self.renumbered(query));
        tokio::spawn(async move {
            let ended = this.ask(&query).await;
            if let Forwarded::Answer(answer) = &ended {
                lock(&this.cache).put(key.clone(), answer, Instant::now());
            }
            lock(&this.in_flight).remove(&key);
            told.send_replace(Some(ended));
            drop(slot);
        });
        (ending, None)
    }

    async fn ask(&self, query: &[u8]) -> Forwarded {
        let asked = time::timeout(FORWARD_TIME_MAX, self.ask_in_turn(query)).await;
        match asked {
            Ok(Some(answer)) => judged(answer, &self.private),
            Ok(None) | Err(_) => Forwarded::Failed,
        }
    }

    /// Asks each server until one knows. If none does, the answer is what the last of them said.
    async fn ask_in_turn(&self, query: &[u8]) -> Option<Vec<u8>> {
        let raw = Raw::read(query)?;
        let question = Question { query, question: raw.question() };
        let servers = self.upstreams.order(Instant::now());
        let mut silent = Vec::new();
        let mut unhelpful = None;
        for server in servers.iter().cycle().take(if servers.is_empty() { 0 } else { TRIES_MAX }) {
            if unhelpful.as_ref().is_some_and(|(said_by, _)| said_by == server) {
                break;
            }
            let tried = time::timeout(TRY_TIME, exchange::ask(*server, &question, &self.counters)).await;
            let Ok(Ok(answer)) = tried else {
                self.counters.upstream_failures.fetch_add(1, Ordering::Relaxed);
                silent.push(*server);
                continue;
            };
            if [CODE_SERVER_FAILURE, CODE_REFUSED].contains(&raw::code(&answer)) {
                unhelpful.get_or_insert((*server, Vec::new())).1 = answer;
                continue;
            }
            if silent.iter().any(|silent| silent != server) {
                self.upstreams.prefer(*server, Instant::now());
            }
            return Some(answer);
        }
        unhelpful.map(|(_, answer)| answer)
    }

    /// `query` under a random id.
    fn renumbered(&self, query: &[u8]) -> Vec<u8> {
        let mut query = query.to_vec();
        lock(&self.rng).fill(&mut query[..2]);
        query
    }
}

/// What is passed on of an answer to the question asked.
pub(crate) fn judged(answer: Vec<u8>, private: &[IpNet]) -> Forwarded {
    match Raw::read(&answer) {
        Some(raw) if is_rebinding(&raw, private) => {
            tracing::debug!("an upstream answer with an address that it may not give was emptied");
            Forwarded::Withheld(raw.emptied(Truncated::No).into())
        }
        Some(_) => Forwarded::Answer(answer.into()),
        None => Forwarded::Failed,
    }
}

/// Puts the id and the question of `query` into `answer`, whose question differs in the case of the name at most.
pub(crate) fn address_to(query: &[u8], question: &[u8], answer: &mut [u8]) {
    answer[..2].copy_from_slice(&query[..2]);
    answer[HEADER_LEN..HEADER_LEN + question.len()].copy_from_slice(question);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `a.b`.
    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01";

    #[test]
    fn a_question_that_has_ended_leaves_nothing_in_flight() {
        let forwarder = Arc::new(Forwarder::new(Vec::new(), Rng::from_seed([1; 32]), Arc::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (outcome, answer) =
            runtime.block_on(forwarder.resolve(QUERY, std::net::Ipv4Addr::LOCALHOST.into()));
        assert_eq!((outcome, answer), (Outcome::ServerFailure, None));
        assert!(lock(&forwarder.in_flight).is_empty());
        // The task that asked gives its slot back when it is polled last.
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(forwarder.gauges(), (0, 0));
    }
}
