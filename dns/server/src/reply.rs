//! What this server says itself, as bytes: answers about names of ours, and errors.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsOption, NSIDPayload};
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name as ProtoName, RData, Record};
use mesh_names::{Code, Data, Name, Reply, Soa};

use crate::limits::UDP_LEN_MAX;
use crate::raw::u16_at;
use crate::request::Request;

/// The rest of an SOA record, which nobody acts on: the zone is not transferred. In seconds.
const SOA_REFRESH: i32 = 3_600;
const SOA_RETRY: i32 = 600;
const SOA_EXPIRE: i32 = 86_400;

/// The answer to a question about anything (RFC 8482, section 4.2).
const ANY_CPU: &[u8] = b"RFC8482";

/// The label of the mailbox in an SOA record.
const MAILBOX: &[u8] = b"hostmaster";

/// The answer to `request`, cut and marked as truncated if it is longer than the client takes. Addresses beside the
/// answer are left out before that (RFC 2181, section 9).
pub(crate) fn answer(request: &Request, reply: &Reply, nsid: &NSIDPayload) -> Vec<u8> {
    let code = match reply.code {
        Code::Exists => ResponseCode::NoError,
        Code::NoSuchName => ResponseCode::NXDomain,
    };
    let mut message = blank(request, code, nsid);
    message.metadata.authoritative = true;
    let owner = request.question().name();
    let record = |owner: &ProtoName, ttl, data| Record::from_rdata(owner.clone(), ttl, data);
    message.answers = reply.answers.iter().map(|data| record(owner, reply.ttl, rdata(data, owner))).collect();
    if let Some((apex, soa)) = &reply.authority {
        let apex = proto_name(apex);
        let data = soa_rdata(soa, &apex);
        message.authorities.push(record(&apex, soa.minimum, data));
    }
    message.additionals = reply
        .additional
        .iter()
        .map(|(owner, data)| {
            let owner = proto_name(owner);
            let data = rdata(data, &owner);
            record(&owner, reply.ttl, data)
        })
        .collect();
    fitted(message, request.len_max)
}

/// An error, to the question asked.
pub(crate) fn error(request: &Request, code: ResponseCode, nsid: &NSIDPayload) -> Vec<u8> {
    encode(&blank(request, code, nsid))
}

/// Nothing, and that there would be more over TCP.
pub(crate) fn truncated(request: &Request, nsid: &NSIDPayload) -> Vec<u8> {
    let mut message = blank(request, ResponseCode::NoError, nsid);
    message.metadata.truncation = true;
    encode(&message)
}

/// An error to something of which no more than the header of `bytes`, a whole one, is understood.
pub(crate) fn bare_error(bytes: &[u8], code: ResponseCode) -> Vec<u8> {
    let id = u16_at(bytes, 0).unwrap_or_default();
    let opcode = OpCode::from_u8(crate::raw::opcode(bytes));
    let mut message = Message::new(id, MessageType::Response, opcode);
    message.metadata.recursion_desired = bytes.get(2).is_some_and(|flags| flags & 1 != 0);
    message.metadata.response_code = code;
    encode(&message)
}

/// A response to `request` without records.
fn blank(request: &Request, code: ResponseCode, nsid: &NSIDPayload) -> Message {
    let query = request.message();
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata = Metadata::response_from_request(&query.metadata);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.add_query(request.question().clone());
    message.edns = query.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LEN_MAX);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        if request.asks_for_nsid() {
            edns.options_mut().insert(EdnsOption::NSID(nsid.clone()));
        }
        edns
    });
    message
}

/// The bytes of `message`, with as many of its records as fit into `len_max`.
fn fitted(mut message: Message, len_max: usize) -> Vec<u8> {
    let mut bytes = encode(&message);
    if bytes.len() > len_max {
        message.additionals.clear();
        bytes = encode(&message);
    }
    if bytes.len() <= len_max {
        return bytes;
    }
    message.metadata.truncation = true;
    let answers = std::mem::take(&mut message.answers);
    let (mut fitting, mut too_many) = (0, answers.len());
    while too_many - fitting > 1 {
        let middle = usize::midpoint(fitting, too_many);
        message.answers = answers[..middle].to_vec();
        if encode(&message).len() <= len_max {
            fitting = middle;
        } else {
            too_many = middle;
        }
    }
    message.answers = answers[..fitting].to_vec();
    encode(&message)
}

/// The bytes of `message`, which is ours and within all lengths of the protocol. Should it not be, whoever asked
/// hears nothing, which is better than no server.
fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_default()
}

/// `owner` is the name of the record in the client's case.
fn rdata(data: &Data, owner: &ProtoName) -> RData {
    match data {
        Data::A(v4) => RData::A(A(*v4)),
        Data::Aaaa(v6) => RData::AAAA(AAAA(*v6)),
        Data::Ptr(name) => RData::PTR(PTR(proto_name(name))),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, 0, *port, proto_name(target))),
        Data::Soa(soa) => soa_rdata(soa, owner),
        Data::Ns(name) => RData::NS(NS(proto_name(name))),
        Data::Hinfo => RData::HINFO(HINFO::from_bytes(ANY_CPU.into(), [].into())),
    }
}

fn soa_rdata(soa: &Soa, apex: &ProtoName) -> RData {
    let mailbox = apex.prepend_label(MAILBOX).unwrap_or_else(|_too_long| apex.clone());
    let server = proto_name(&soa.server);
    RData::SOA(SOA::new(server, mailbox, soa.serial, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, soa.minimum))
}

fn proto_name(name: &Name) -> ProtoName {
    let mut proto = ProtoName::from_labels(name.labels()).expect("a name keeps the lengths of the protocol");
    proto.set_fqdn(true);
    proto
}
