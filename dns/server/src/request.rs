//! What a client has sent, judged by its form. Owns no name and no rate.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use mesh_names::{Kind, Name};

use crate::limits::{TCP_LEN_MAX, UDP_LEN_MAX, UDP_LEN_PLAIN};
use crate::raw::{self, CLASS_IN, HEADER_LEN, Raw, TYPE_OPT};
use crate::stats::Outcome;

/// Types that are no question to a server like this one (RFC 8945, RFC 2930, RFC 1035).
const TYPES_NOT_SERVED: [u16; 4] = [249, 250, 253, 254];

/// How a query came, and its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A proper query.
pub(crate) struct Request {
    /// As decoded; it has exactly one question.
    message: Message,
    /// What the question is about.
    pub(crate) name: Name,
    /// What it asks for.
    pub(crate) kind: Kind,
    /// How long the answer may be, in bytes.
    pub(crate) len_max: usize,
}

/// Why something is no proper query, and what its sender is told.
pub(crate) enum Refusal {
    /// Nothing: whoever sent it would not understand, or would answer in turn.
    Silence,
    /// This code, without a question, for its bytes cannot be trusted.
    Bare(Outcome, ResponseCode),
    /// This code, to the question asked.
    Code(Box<Request>, Outcome, ResponseCode),
}

impl Request {
    /// Reads what came. Responses and what has no header are met with silence (RFC 1035, section 4.1.1).
    pub(crate) fn read(bytes: &[u8], transport: Transport) -> Result<Self, Refusal> {
        let malformed = || Refusal::Bare(Outcome::Malformed, ResponseCode::FormErr);
        if bytes.len() < HEADER_LEN || raw::is_response(bytes) {
            return Err(Refusal::Silence);
        }
        if raw::opcode(bytes) != 0 {
            return Err(Refusal::Bare(Outcome::NotImplemented, ResponseCode::NotImp));
        }
        // It has exactly one question (RFC 9619).
        let raw = Raw::read(bytes).ok_or_else(malformed)?;
        let message = Message::from_vec(bytes).map_err(|_undecodable| malformed())?;
        let name = Name::from_labels(raw.labels()).map_err(|_too_long| malformed())?;
        let len_max = match (transport, &message.edns) {
            (Transport::Tcp, _) => TCP_LEN_MAX,
            (Transport::Udp, None) => UDP_LEN_PLAIN,
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.max_payload().min(UDP_LEN_MAX)).max(UDP_LEN_PLAIN)
            }
        };
        let request = Self { message, name, kind: Kind::from_code(raw.kind()), len_max };
        if request.message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Err(Refusal::Code(Box::new(request), Outcome::BadVersion, ResponseCode::BADVERS));
        }
        if raw.kind() == TYPE_OPT {
            return Err(malformed());
        }
        if TYPES_NOT_SERVED.contains(&raw.kind()) {
            return Err(Refusal::Code(Box::new(request), Outcome::NotImplemented, ResponseCode::NotImp));
        }
        if raw.class() != CLASS_IN {
            return Err(Refusal::Code(Box::new(request), Outcome::Refused, ResponseCode::Refused));
        }
        Ok(request)
    }

    /// The query as decoded.
    pub(crate) const fn message(&self) -> &Message {
        &self.message
    }

    /// The question, its name in the client's case.
    pub(crate) fn question(&self) -> &Query {
        self.message.queries.first().expect("a request has one question")
    }

    /// Whether the client wants to know who this server is (RFC 5001).
    pub(crate) fn asks_for_nsid(&self) -> bool {
        self.message.edns.as_ref().is_some_and(|edns| edns.option(EdnsCode::NSID).is_some())
    }
}
