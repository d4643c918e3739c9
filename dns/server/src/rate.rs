//! How much each client asks: rates, and things it holds at a time. Owns no decision about what a client is told.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Rates;
use crate::limits::CLIENTS_COUNTED_MAX;

/// Counts of equal questions of one client. Two questions may fall into one: a client that asks much of many gains
/// from it at most this many times its share.
const QUESTIONS_COUNTED: usize = 64;

/// A client that has asked nothing for so long is forgotten when room is needed: all its counts are full again.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// The rates of all clients.
pub(crate) struct RateLimiter {
    rates: Rates,
    clients: HashMap<IpAddr, Client>,
    /// Those for whom there is no room.
    others: Client,
    hasher: RandomState,
}

/// What one client has left.
struct Client {
    last: Instant,
    queries: Bucket,
    no_name: Bucket,
    same: Box<[Bucket; QUESTIONS_COUNTED]>,
}

/// Tokens, of which each query takes one; a second fills it.
#[derive(Clone, Copy)]
struct Bucket {
    tokens: f32,
    at: Instant,
}

impl RateLimiter {
    pub(crate) fn new(rates: Rates, now: Instant) -> Self {
        let others = Client::new(rates, now);
        Self { rates, clients: HashMap::new(), others, hasher: RandomState::new() }
    }

    /// Whether `client` may ask at all.
    pub(crate) fn may_ask(&mut self, client: IpAddr, now: Instant) -> bool {
        let rate = self.rates.queries;
        self.client(client, now).queries.take(rate, now)
    }

    /// Whether `client` may have `question` answered over UDP once more.
    pub(crate) fn may_repeat(&mut self, client: IpAddr, question: impl Hash, now: Instant) -> bool {
        let rate = self.rates.same_question;
        let hash = self.hasher.hash_one(question);
        let slot = usize::try_from(hash % QUESTIONS_COUNTED as u64).unwrap_or_default();
        self.client(client, now).same[slot].take(rate, now)
    }

    /// Whether `client` may be told over UDP that a name does not exist.
    pub(crate) fn may_be_denied(&mut self, client: IpAddr, now: Instant) -> bool {
        let rate = self.rates.no_name;
        self.client(client, now).no_name.take(rate, now)
    }

    fn client(&mut self, client: IpAddr, now: Instant) -> &mut Client {
        let is_full = self.clients.len() >= CLIENTS_COUNTED_MAX;
        if is_full && !self.clients.contains_key(&client) {
            // At most once in a while, so that a flood of forged sources does not make each query a search.
            if now.duration_since(self.others.last) >= IDLE_AFTER {
                self.clients.retain(|_, known| now.duration_since(known.last) < IDLE_AFTER);
                self.others.last = now;
            }
            if self.clients.len() >= CLIENTS_COUNTED_MAX {
                return &mut self.others;
            }
        }
        let rates = self.rates;
        let known = self.clients.entry(client).or_insert_with(|| Client::new(rates, now));
        known.last = now;
        known
    }
}

impl Client {
    fn new(rates: Rates, now: Instant) -> Self {
        let full = |rate| Bucket { tokens: rate_of(rate), at: now };
        Self {
            last: now,
            queries: full(rates.queries),
            no_name: full(rates.no_name),
            same: Box::new([full(rates.same_question); QUESTIONS_COUNTED]),
        }
    }
}

impl Bucket {
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = rate_of(rate);
        let filled = now.duration_since(self.at).as_secs_f32() * rate;
        self.tokens = (self.tokens + filled).min(rate);
        self.at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// Rates lie far below 2^24, up to which this is exact; above, a limit is a little off.
#[expect(clippy::cast_precision_loss, reason = "a limit may be a little off")]
const fn rate_of(rate: u32) -> f32 {
    rate as f32
}

/// Things of which there are only so many, and of which each client may hold only so many.
#[derive(Debug)]
pub(crate) struct Slots {
    all_max: usize,
    each_max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// A thing that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    client: IpAddr,
}

impl Slots {
    pub(crate) fn new(all_max: usize, each_max: usize) -> Arc<Self> {
        Arc::new(Self { all_max, each_max, held: Mutex::default() })
    }

    /// Takes one for `client`, unless it has its share or none is left.
    pub(crate) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Slot> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let its = held.each.get(&client).copied().unwrap_or_default();
        if held.all >= self.all_max || its >= self.each_max {
            return None;
        }
        held.all += 1;
        held.each.insert(client, its + 1);
        Some(Slot { slots: self.clone(), client })
    }

    /// How many are held.
    pub(crate) fn count(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.slots.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(its) = held.each.get_mut(&self.client) {
            *its -= 1;
            if *its == 0 {
                held.each.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a20_0000 + number).into()
    }

    const RATES: Rates = Rates { queries: 50, same_question: 20, no_name: 10 };

    #[test]
    fn a_client_gets_its_share_each_second_and_no_other_client_pays() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(RATES, start);
        let granted = |limiter: &mut RateLimiter, who, at| {
            (0..100).filter(|_| limiter.may_ask(client(who), at)).count()
        };
        assert_eq!(granted(&mut limiter, 1, start), 50);
        assert_eq!(granted(&mut limiter, 2, start), 50);
        assert_eq!(granted(&mut limiter, 1, start), 0);
        assert_eq!(granted(&mut limiter, 1, start + Duration::from_millis(500)), 25);
        assert_eq!(granted(&mut limiter, 1, start + Duration::from_secs(60)), 50, "no hoard is gathered");
    }

    #[test]
    fn equal_questions_and_denials_have_counts_of_their_own() {
        let now = Instant::now();
        let mut limiter = RateLimiter::new(RATES, now);
        assert_eq!((0..100).filter(|_| limiter.may_repeat(client(1), "web", now)).count(), 20);
        assert_eq!((0..100).filter(|_| limiter.may_be_denied(client(1), now)).count(), 10);
        assert!(limiter.may_ask(client(1), now));
        // Some other question has another count, though one may share it by chance.
        assert!((0..10).any(|other| limiter.may_repeat(client(1), other, now)));
    }

    #[test]
    fn forged_sources_share_one_count_and_leave_known_clients_alone() {
        let now = Instant::now();
        let mut limiter = RateLimiter::new(RATES, now);
        let many = u32::try_from(CLIENTS_COUNTED_MAX).unwrap();
        for number in 0..many {
            assert!(limiter.may_ask(client(number), now));
        }
        let granted = (many..many + 10_000).filter(|number| limiter.may_ask(client(*number), now)).count();
        assert_eq!(granted, 50);
        assert!(limiter.may_ask(client(0), now));
        assert_eq!(limiter.clients.len(), CLIENTS_COUNTED_MAX);
        let later = now + Duration::from_secs(2);
        assert!(limiter.may_ask(client(many), later) && limiter.clients.len() < 10, "idle clients make room");
    }

    #[test]
    fn slots_return_when_they_are_dropped() {
        let slots = Slots::new(3, 2);
        let mut held: Vec<Slot> = (0..3).filter_map(|_| slots.take(client(1))).collect();
        assert_eq!(held.len(), 2);
        held.extend(slots.take(client(2)));
        assert!(slots.take(client(3)).is_none() && slots.count() == 3);
        held.clear();
        assert!(slots.count() == 0 && slots.held.lock().unwrap().each.is_empty());
    }
}
