//! Answers of upstream servers, kept as long as they say, at most as long and as many as the limits allow.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::{CACHE_BYTES_MAX, CACHE_ENTRIES_MAX, CACHE_NEGATIVE_TTL_MAX, CACHE_TTL_MAX};
use crate::raw::{self, Raw, RawRecord, Section, TYPE_OPT, TYPE_SOA};

const CODE_NO_ERROR: u8 = 0;
const CODE_NO_SUCH_NAME: u8 = 3;

/// What two queries have in common that may have the same answer: all their bytes but the id, and but the case of the
/// name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key(Arc<[u8]>);

impl Key {
    /// The key of a query, whose question is `question`.
    pub(crate) fn of(query: &[u8], question: &[u8]) -> Self {
        let mut bytes = query[2..].to_vec();
        // Lengths of labels are below the letters, and the type and class behind the name stay as they are.
        let name = raw::HEADER_LEN - 2..raw::HEADER_LEN - 2 + question.len() - 4;
        bytes[name].make_ascii_lowercase();
        Self(bytes.into())
    }
}

/// The answers by their queries.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    answers: HashMap<Key, Kept>,
    /// Keys in the order in which they came, with what tells a later answer under the same key apart.
    order: VecDeque<(Key, Instant)>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    message: Arc<[u8]>,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// The answer to the query of `key`, its times to live reduced by its age.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Vec<u8>> {
        let kept = self.answers.get(key).filter(|kept| now < kept.until)?;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut message = kept.message.to_vec();
        for record in Raw::read(&kept.message)?.records().iter().filter(|record| has_ttl(record)) {
            let left = record.ttl.saturating_sub(age);
            message[record.ttl_at..record.ttl_at + 4].copy_from_slice(&left.to_be_bytes());
        }
        Some(message)
    }

    /// Keeps an answer, if it may be kept.
    pub(crate) fn put(&mut self, key: Key, message: &Arc<[u8]>, now: Instant) {
        let Some(time) = time_to_live(message) else { return };
        if message.len() > CACHE_BYTES_MAX / 8 {
            return;
        }
        self.bytes += key.0.len() + message.len();
        let kept = Kept { message: message.clone(), since: now, until: now + time };
        if let Some(old) = self.answers.insert(key.clone(), kept) {
            self.bytes -= key.0.len() + old.message.len();
        }
        self.order.push_back((key, now));
        while self.answers.len() > CACHE_ENTRIES_MAX
            || self.bytes > CACHE_BYTES_MAX
            || self.order.len() > 2 * CACHE_ENTRIES_MAX
        {
            let Some((key, since)) = self.order.pop_front() else { break };
            if self.answers.get(&key).is_some_and(|kept| kept.since == since)
                && let Some(kept) = self.answers.remove(&key)
            {
                self.bytes -= key.0.len() + kept.message.len();
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.answers.len()
    }
}

/// How long `message` may be kept: as long as the record that may be kept least (RFC 2181, section 5.2), a denial as
/// its SOA says (RFC 2308, section 5). None for what may not be kept at all.
fn time_to_live(message: &[u8]) -> Option<Duration> {
    if raw::is_truncated(message) || ![CODE_NO_ERROR, CODE_NO_SUCH_NAME].contains(&raw::code(message)) {
        return None;
    }
    let raw = Raw::read(message)?;
    let has_answer = raw.records().iter().any(|record| record.section == Section::Answer);
    let seconds = raw.records().iter().filter(|record| has_ttl(record)).map(|record| record.ttl).min()?;
    let max = if has_answer && raw::code(message) == CODE_NO_ERROR {
        CACHE_TTL_MAX
    } else {
        let soa = raw
            .records()
            .iter()
            .find(|record| record.section == Section::Authority && record.kind == TYPE_SOA)?;
        let data = raw.data(soa);
        let minimum = raw::u32_at(data, data.len().checked_sub(4)?)?;
        CACHE_NEGATIVE_TTL_MAX.min(Duration::from_secs(minimum.into()))
    };
    // A time with the highest bit set means none (RFC 2181, section 8).
    let time =
        if seconds > i32::MAX.unsigned_abs() { Duration::ZERO } else { Duration::from_secs(seconds.into()) };
    Some(time.min(max)).filter(|time| !time.is_zero())
}

/// What stands in place of a time to live in an OPT record are flags (RFC 6891, section 6.1.3).
const fn has_ttl(record: &RawRecord) -> bool {
    record.kind != TYPE_OPT
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;

    fn query(name: &str) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    fn key(name: &str) -> Key {
        let query = query(name);
        Key::of(&query, Raw::read(&query).unwrap().question())
    }

    fn answer(name: &str, ttls: &[u32]) -> Arc<[u8]> {
        let name = Name::from_ascii(name).unwrap();
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        for ttl in ttls {
            message.add_answer(Record::from_rdata(name.clone(), *ttl, RData::A(A::new(192, 0, 2, 1))));
        }
        message.edns = Some(Edns::new());
        message.to_vec().unwrap().into()
    }

    fn denial(code: ResponseCode, soa: Option<(u32, u32)>) -> Arc<[u8]> {
        let name = Name::from_ascii("example.com.").unwrap();
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.add_query(Query::query(name.clone(), RecordType::A));
        if let Some((ttl, minimum)) = soa {
            let data = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
            message.add_authority(Record::from_rdata(name, ttl, RData::SOA(data)));
        }
        message.to_vec().unwrap().into()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_is_kept_as_long_as_its_shortest_record_and_grows_old() {
        let start = Instant::now();
        let mut cache = Cache::default();
        cache.put(key("example.com."), &answer("example.com.", &[60, 20]), start);
        let aged = cache.get(&key("EXAMPLE.com."), start + 5 * SECOND).unwrap();
        let message = Message::from_vec(&aged).unwrap();
        assert_eq!(message.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [55, 15]);
        assert!(message.edns.is_some_and(|edns| edns.version() == 0));
        assert!(cache.get(&key("example.com."), start + 20 * SECOND).is_none());
        assert!(cache.get(&key("example.org."), start).is_none());
    }

    #[test]
    fn times_are_those_of_the_rfcs_within_limits() {
        let secs = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(time_to_live(&answer("a.", &[100_000])), Some(CACHE_TTL_MAX));
        assert_eq!(time_to_live(&answer("a.", &[0, 60])), None);
        assert_eq!(time_to_live(&answer("a.", &[u32::MAX])), None);
        assert_eq!(time_to_live(&denial(ResponseCode::NXDomain, Some((20, 10)))), secs(10));
        assert_eq!(time_to_live(&denial(ResponseCode::NXDomain, Some((5, 10)))), secs(5));
        assert_eq!(
            time_to_live(&denial(ResponseCode::NoError, Some((900, 900)))),
            Some(CACHE_NEGATIVE_TTL_MAX)
        );
        assert_eq!(time_to_live(&denial(ResponseCode::NXDomain, None)), None);
        assert_eq!(time_to_live(&denial(ResponseCode::ServFail, Some((20, 10)))), None);
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let start = Instant::now();
        let mut cache = Cache::default();
        for number in 0..CACHE_ENTRIES_MAX + 10 {
            let name = format!("n{number}.");
            cache.put(key(&name), &answer(&name, &[60]), start + Duration::from_nanos(number as u64));
        }
        assert!(cache.len() <= CACHE_ENTRIES_MAX && cache.bytes <= CACHE_BYTES_MAX);
        assert!(cache.get(&key("n0."), start + SECOND).is_none());
        assert!(cache.get(&key(&format!("n{}.", CACHE_ENTRIES_MAX + 9)), start + SECOND).is_some());
        // One name again and again fills neither the order nor the bytes.
        for number in 0..3 * CACHE_ENTRIES_MAX {
            cache.put(key("n."), &answer("n.", &[60]), start + SECOND + Duration::from_nanos(number as u64));
        }
        assert!(
            cache.order.len() <= 2 * CACHE_ENTRIES_MAX && cache.get(&key("n."), start + 2 * SECOND).is_some()
        );
        let held: usize = cache.answers.iter().map(|(key, kept)| key.0.len() + kept.message.len()).sum();
        assert_eq!(cache.bytes, held);
    }
}
