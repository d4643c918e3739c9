//! A DNS message as it stands: where its question and records lie, so that one can be passed on byte for byte. Owns no
//! meaning: `hickory-proto` reads and writes the messages that this server understands or makes itself.
//!
//! A codec that decodes into values and encodes them anew loses the places of fields, the ways in which names were
//! compressed, and what it does not know. A forwarder needs the places of the times to live and of addresses, and
//! nothing of the rest.

use std::ops::Range;

use mesh_names::{LABEL_LEN_MAX, NAME_LEN_MAX};

/// Length of the header (RFC 1035, section 4.1.1).
pub(crate) const HEADER_LEN: usize = 12;

/// Types of records that are looked at.
pub(crate) const TYPE_A: u16 = 1;
pub(crate) const TYPE_SOA: u16 = 6;
pub(crate) const TYPE_AAAA: u16 = 28;
pub(crate) const TYPE_OPT: u16 = 41;

/// The class of the Internet.
pub(crate) const CLASS_IN: u16 = 1;

/// Set in the third octet of the header: it is a response; it is truncated. In the fourth: recursion is available.
const FLAG_RESPONSE: u8 = 0x80;
const FLAG_TRUNCATED: u8 = 0x02;

/// A message with one question whose layout has been checked.
#[derive(Debug, Clone)]
pub(crate) struct Raw<'a> {
    bytes: &'a [u8],
    question_end: usize,
    records: Vec<RawRecord>,
}

/// Where a record lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawRecord {
    pub(crate) section: Section,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    /// Where the four octets of the time to live start.
    pub(crate) ttl_at: usize,
    pub(crate) data: Range<usize>,
    start: usize,
}

/// A section of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

impl<'a> Raw<'a> {
    /// Reads a message. None if it has not exactly one question, or its layout is broken, or bytes follow it.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < HEADER_LEN || u16_at(bytes, 4)? != 1 {
            return None;
        }
        let question_end = plain_name_end(bytes, HEADER_LEN)?.checked_add(4)?;
        if question_end > bytes.len() {
            return None;
        }
        let mut records = Vec::new();
        let mut at = question_end;
        let sections = [(6, Section::Answer), (8, Section::Authority), (10, Section::Additional)];
        for (count_at, section) in sections {
            for _ in 0..u16_at(bytes, count_at)? {
                let record = record_at(bytes, at, section)?;
                at = record.data.end;
                records.push(record);
            }
        }
        (at == bytes.len()).then_some(Self { bytes, question_end, records })
    }

    /// The question: name, type and class.
    pub(crate) fn question(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..self.question_end]
    }

    /// The labels of the question's name, in the case in which they are written.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.question();
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first()?;
            let (label, after) =
                after.split_at_checked(usize::from(*len)).filter(|(label, _)| !label.is_empty())?;
            rest = after;
            Some(label)
        })
    }

    /// The type that is asked for.
    pub(crate) fn kind(&self) -> u16 {
        u16_at(self.bytes, self.question_end - 4).unwrap_or_default()
    }

    /// The class that is asked for.
    pub(crate) fn class(&self) -> u16 {
        u16_at(self.bytes, self.question_end - 2).unwrap_or_default()
    }

    pub(crate) fn records(&self) -> &[RawRecord] {
        &self.records
    }

    pub(crate) fn data(&self, record: &RawRecord) -> &'a [u8] {
        &self.bytes[record.data.clone()]
    }

    /// This message with its header, its question and its OPT record alone, marked as truncated if asked.
    pub(crate) fn emptied(&self, truncated: Truncated) -> Vec<u8> {
        let mut bytes = self.bytes[..self.question_end].to_vec();
        bytes[6..HEADER_LEN].fill(0);
        match truncated {
            Truncated::Yes => bytes[2] |= FLAG_TRUNCATED,
            Truncated::No => {}
        }
        // Its owner is the root, which no pointer abbreviates, so it stands by itself.
        let opt = self.records.iter().find(|record| record.kind == TYPE_OPT && self.bytes[record.start] == 0);
        if let Some(opt) = opt {
            bytes.extend_from_slice(&self.bytes[opt.start..opt.data.end]);
            bytes[HEADER_LEN - 1] = 1;
        }
        bytes
    }
}

/// Whether an emptied message says that it is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truncated {
    Yes,
    No,
}

pub(crate) fn is_response(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & FLAG_RESPONSE != 0)
}

pub(crate) fn is_truncated(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & FLAG_TRUNCATED != 0)
}

pub(crate) fn opcode(bytes: &[u8]) -> u8 {
    bytes.get(2).map_or(0, |flags| flags >> 3 & 15)
}

/// The response code's four bits of the header.
pub(crate) fn code(bytes: &[u8]) -> u8 {
    bytes.get(3).map_or(0, |flags| flags & 15)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let (field, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_be_bytes(*field))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (field, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*field))
}

fn record_at(bytes: &[u8], start: usize, section: Section) -> Option<RawRecord> {
    let at = name_end(bytes, start)?;
    let (kind, class, ttl_at) = (u16_at(bytes, at)?, u16_at(bytes, at + 2)?, at + 4);
    let ttl = u32_at(bytes, ttl_at)?;
    let data_start = at + 10;
    let data = data_start..data_start + usize::from(u16_at(bytes, at + 8)?);
    (data.end <= bytes.len()).then_some(RawRecord { section, kind, class, ttl, ttl_at, data, start })
}

/// Where the name at `at` ends, in which no pointer may be: before the first question there is nothing to point to.
fn plain_name_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    loop {
        let len = usize::from(*bytes.get(next)?);
        next += len + 1;
        match len {
            0 => return (next - at <= NAME_LEN_MAX).then_some(next),
            1..=LABEL_LEN_MAX => {}
            _longer => return None,
        }
    }
}

/// Where the name at `at` ends, which may end in a pointer to what stands before it (RFC 1035, section 4.1.4).
fn name_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    loop {
        let len = *bytes.get(next)?;
        match len >> 6 {
            0 if len == 0 => return Some(next + 1),
            0 => next += usize::from(len) + 1,
            0b11 => {
                let target = usize::from(u16_at(bytes, next)? & 0x3fff);
                return (target < at).then_some(next + 2);
            }
            _reserved => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, CNAME};
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn response() -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        let name = Name::from_ascii("Www.Example.com.").unwrap();
        let target = Name::from_ascii("web.example.com.").unwrap();
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(name, 300, RData::CNAME(CNAME(target.clone()))));
        message.add_answer(Record::from_rdata(target, 60, RData::A(A::new(192, 0, 2, 1))));
        message.edns = Some(Edns::new());
        message.to_vec().unwrap()
    }

    #[test]
    fn a_message_is_found_where_it_lies() {
        let bytes = response();
        let raw = Raw::read(&bytes).unwrap();
        assert_eq!(raw.labels().collect::<Vec<_>>(), [b"Www".as_slice(), b"Example", b"com"]);
        assert_eq!((raw.kind(), raw.class()), (TYPE_A, CLASS_IN));
        let found: Vec<_> =
            raw.records().iter().map(|record| (record.section, record.kind, record.ttl)).collect();
        let expected =
            [(Section::Answer, 5, 300), (Section::Answer, 1, 60), (Section::Additional, TYPE_OPT, 0)];
        assert_eq!(found, expected);
        assert_eq!(raw.data(&raw.records()[1]), [192, 0, 2, 1]);
    }

    #[test]
    fn an_emptied_message_keeps_question_and_edns() {
        let bytes = response();
        let emptied = Raw::read(&bytes).unwrap().emptied(Truncated::Yes);
        let message = Message::from_vec(&emptied).unwrap();
        assert!(message.metadata.truncation && message.edns.is_some() && message.answers.is_empty());
        assert_eq!(message.queries[0].name().to_string(), "Www.Example.com.");
    }

    #[test]
    fn a_message_that_is_cut_anywhere_or_too_long_is_refused() {
        let bytes = response();
        for len in 0..bytes.len() {
            assert!(Raw::read(&bytes[..len]).is_none(), "{len}");
        }
        assert!(Raw::read(&[&bytes[..], &[0]].concat()).is_none());
    }

    #[test]
    fn a_pointer_that_does_not_point_back_is_refused() {
        let mut bytes = response();
        let owner = Raw::read(&bytes).unwrap().question_end;
        for target in [u16::try_from(owner).unwrap(), 0x3fff] {
            bytes[owner..owner + 2].copy_from_slice(&(0xc000 | target).to_be_bytes());
            assert!(Raw::read(&bytes).is_none());
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_what_the_codec_takes_is_found(
            mut bytes in Just(response()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(raw) = Raw::read(&bytes) {
                prop_assert!(Raw::read(&raw.emptied(Truncated::No)).is_some());
                if let Ok(message) = Message::from_vec(&bytes) {
                    let labels: Vec<_> = raw.labels().map(<[u8]>::to_vec).collect();
                    let theirs: Vec<_> = message.queries[0].name().iter().map(<[u8]>::to_vec).collect();
                    prop_assert_eq!(labels, theirs);
                    prop_assert_eq!(raw.records().iter().filter(|record| record.section == Section::Answer).count(), message.answers.len());
                }
            }
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(raw) = Raw::read(&bytes) {
                prop_assert!(raw.question().len() >= 5);
            }
        }
    }
}
