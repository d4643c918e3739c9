//! What is done with a query, whichever way it came: refused, answered, or passed on. Owns no socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::opt::NSIDPayload;
use ipnet::IpNet;
use mesh_names::{Answer, Code, Kind, Rng, Snapshot};

use crate::config::Rates;
use crate::forward::Forwarder;
use crate::limits::{CONNECTIONS_EACH_MAX, CONNECTIONS_MAX, QUERY_LEN_MAX};
use crate::rate::{RateLimiter, Slots};
use crate::raw::{Raw, Truncated};
use crate::reply;
use crate::request::{Refusal, Request, Transport};
use crate::stats::{Counters, Outcome, Stats};

/// Everything that answers share.
pub(crate) struct Service {
    names: Arc<ArcSwap<Snapshot>>,
    clients: Vec<IpNet>,
    rates: Mutex<RateLimiter>,
    rng: Mutex<Rng>,
    nsid: NSIDPayload,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) connections: Arc<Slots>,
    pub(crate) counters: Arc<Counters>,
}

/// What is to be done with a query now.
pub(crate) enum Action {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask others: [`Service::forward`].
    Forward(Box<Request>),
    /// Say nothing, and no more on this connection.
    Silence,
}

impl Service {
    pub(crate) fn new(
        names: Arc<ArcSwap<Snapshot>>,
        clients: Vec<IpNet>,
        rates: Rates,
        mut rng: Rng,
        nsid: NSIDPayload,
        private: Vec<IpNet>,
    ) -> Self {
        let counters = Arc::new(Counters::default());
        Self {
            names,
            clients,
            rates: Mutex::new(RateLimiter::new(rates, Instant::now())),
            forwarder: Arc::new(Forwarder::new(private, rng.fork(), counters.clone())),
            rng: Mutex::new(rng),
            nsid,
            connections: Slots::new(CONNECTIONS_MAX, CONNECTIONS_EACH_MAX),
            counters,
        }
    }

    /// Whether `client` is one of those that are served.
    pub(crate) fn serves(&self, client: SocketAddr) -> bool {
        // Nobody listens on port 0, so its source is forged.
        let ip = client.ip().to_canonical();
        client.port() != 0 && self.clients.iter().any(|range| range.contains(&ip))
    }

    /// Judges a query, and answers it if that takes nobody else.
    pub(crate) fn handle(&self, query: &[u8], client: IpAddr, transport: Transport, now: Instant) -> Action {
        if !lock(&self.rates).may_ask(client, now) {
            self.counters.count(Outcome::Dropped);
            return Action::Silence;
        }
        if query.len() > QUERY_LEN_MAX {
            self.counters.count(Outcome::Ignored);
            return Action::Silence;
        }
        let request = match Request::read(query, transport) {
            Ok(request) => request,
            Err(Refusal::Silence) => {
                self.counters.count(Outcome::Ignored);
                return Action::Silence;
            }
            Err(Refusal::Bare(outcome, code)) => {
                return self.answered(outcome, reply::bare_error(query, code));
            }
            Err(Refusal::Code(request, outcome, code)) => return self.error(&request, outcome, code),
        };
        if transport == Transport::Udp
            && !lock(&self.rates).may_repeat(client, (&request.name, request.question().query_type()), now)
        {
            return self.slowed(&request);
        }
        let answer = self.names.load().answer(&request.name, request.kind, &mut lock(&self.rng));
        let reply = match answer {
            Answer::NotOurs => return self.about_others(query, request),
            Answer::Refused => return self.error(&request, Outcome::Refused, ResponseCode::Refused),
            Answer::Ours(reply) => reply,
        };
        let outcome = match reply.code {
            Code::NoSuchName => Outcome::NoSuchName,
            Code::Exists if reply.answers.is_empty() => Outcome::NoData,
            Code::Exists => Outcome::Answered,
        };
        if outcome == Outcome::NoSuchName
            && transport == Transport::Udp
            && !lock(&self.rates).may_be_denied(client, now)
        {
            return self.slowed(&request);
        }
        self.answered(outcome, reply::answer(&request, &reply, &self.nsid))
    }

    /// The answer of others to `query`, or that there is none.
    pub(crate) async fn forward(&self, query: &[u8], request: &Request, client: IpAddr) -> Vec<u8> {
        let (outcome, answer) = self.forwarder.resolve(query, client).await;
        self.counters.count(outcome);
        match answer {
            Some(answer) => fitted(answer, request.len_max),
            None => reply::error(request, ResponseCode::ServFail, &self.nsid),
        }
    }

    /// What has been done so far.
    pub(crate) fn stats(&self) -> Stats {
        let gauge = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (forwards, cached) = self.forwarder.gauges();
        Stats {
            connections: gauge(self.connections.count()),
            forwards: gauge(forwards),
            cached: gauge(cached),
            ..self.counters.read()
        }
    }

    fn about_others(&self, query: &[u8], request: Request) -> Action {
        // Transfers of zones are between servers, and longer than one message.
        let is_transfer = request.kind == Kind::Transfer;
        if is_transfer || self.forwarder.upstreams().is_test(request.name.labels()) {
            return self.error(&request, Outcome::Refused, ResponseCode::Refused);
        }
        match self.forwarder.cached(query) {
            Some(answer) => self.answered(Outcome::Cached, fitted(answer, request.len_max)),
            None => Action::Forward(Box::new(request)),
        }
    }

    fn error(&self, request: &Request, outcome: Outcome, code: ResponseCode) -> Action {
        self.answered(outcome, reply::error(request, code, &self.nsid))
    }

    fn slowed(&self, request: &Request) -> Action {
        self.answered(Outcome::Slowed, reply::truncated(request, &self.nsid))
    }

    fn answered(&self, outcome: Outcome, answer: Vec<u8>) -> Action {
        self.counters.count(outcome);
        Action::Answer(answer)
    }
}

/// An answer of others, emptied and marked as truncated if the client does not take that much.
pub(crate) fn fitted(answer: Vec<u8>, len_max: usize) -> Vec<u8> {
    if answer.len() <= len_max {
        return answer;
    }
    Raw::read(&answer).map(|raw| raw.emptied(Truncated::Yes)).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
