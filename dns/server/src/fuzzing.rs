//! What the bytes of strangers reach, without sockets, and what must be true of it whatever they are: for `mesh-fuzz`.
//! Owns no decision of the server: it calls those of the other modules, and panics where one of them breaks its word.

use std::cell::LazyCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::NSIDPayload;
use ipnet::IpNet;
use mesh_names::{Rng, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{self, Runtime};
use tokio::time;

use crate::cache::{Cache, Key};
use crate::config::Rates;
use crate::exchange::Question;
use crate::forward::{Forwarded, address_to, judged};
use crate::limits::{TCP_LEN_MAX, UDP_LEN_MAX, UDP_LEN_PLAIN};
use crate::raw::{self, HEADER_LEN, Raw, Section, u16_at};
use crate::rebinding::is_rebinding;
use crate::request::Transport;
use crate::service::{Action, Service, fitted};
use crate::tcp::Connection;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 32, 0, 9));

/// Bytes that are under way in one direction of a connection.
const IN_FLIGHT: usize = 4_096;

/// A connection whose client has ended is served no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// A query for `Www.Example.com A` with EDNS, of which upstream answers are made.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x03Www\x07Example\x03com\x00\x00\x01\x00\x01\
                       \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";

/// Length of the question in it.
const QUESTION_LEN: usize = 21;

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| {
        runtime::Builder::new_current_thread().enable_time().build().expect("a runtime needs a few descriptors")
    });
}

/// A client's message, as a datagram and over a connection.
///
/// # Panics
/// If the answer is none to the query, or longer than it may be; or if two readers of the message differ about it.
pub fn query(names: &Arc<Snapshot>, bytes: &[u8]) {
    for (transport, len_max) in [(Transport::Udp, usize::from(UDP_LEN_MAX)), (Transport::Tcp, TCP_LEN_MAX)] {
        match service(names).handle(bytes, CLIENT, transport, Instant::now()) {
            Action::Answer(answer) => {
                assert!(answer.len() <= len_max, "{} bytes", answer.len());
                assert_answers(bytes, &answer);
            }
            Action::Forward(request) => {
                let domain = &names.zone().domain;
                assert!(!request.name.is_within(domain), "{} goes to others", request.name);
            }
            Action::Silence => {}
        }
    }
    if let (Some(raw), Ok(message)) = (Raw::read(bytes), Message::from_vec(bytes)) {
        let name = message.queries.first().expect("it has one question").name();
        assert!(raw.labels().eq(name.iter()), "two readings of one name");
        let answers = raw.records().iter().filter(|record| record.section == Section::Answer);
        assert_eq!(answers.count(), message.answers.len());
    }
}

/// A client's bytes over one connection, in these pieces, and all at once.
///
/// # Panics
/// If the answers depend on the pieces, are no frames, or the connection outlives its client.
pub fn connection(names: &Arc<Snapshot>, pieces: &[&[u8]]) {
    RUNTIME.with(|runtime| {
        let whole = pieces.concat();
        let in_pieces = runtime.block_on(converse(names, pieces));
        let at_once = runtime.block_on(converse(names, &[&whole]));
        assert_eq!(in_pieces, at_once);
        runtime.block_on(async {
            let (mut ours, _serving) = connected(names);
            // What was not read is thrown away with this end, as by a reset.
            let _sent = time::timeout(PATIENCE, ours.write_all(&whole[..whole.len().min(IN_FLIGHT)])).await;
        });
    });
}

/// What comes from an upstream server's address, as it is, and with the id and the question that were sent.
///
/// # Panics
/// If an answer to another question is taken, or one that was taken is passed on unreadable, too long, or with an
/// address that it may not give.
pub fn upstream_answer(bytes: &[u8]) {
    let sent = &QUERY[HEADER_LEN..HEADER_LEN + QUESTION_LEN];
    let question = Question { query: QUERY, question: sent };
    if question.is_answered_by(bytes) {
        assert_eq!((&bytes[..2], &bytes[HEADER_LEN..HEADER_LEN + sent.len()]), (&QUERY[..2], sent));
        pass_on(bytes);
    }
    if bytes.len() >= HEADER_LEN {
        let mut answer = [&bytes[..HEADER_LEN], sent, &bytes[HEADER_LEN..]].concat();
        answer[..2].copy_from_slice(&QUERY[..2]);
        answer[2] = answer[2] & 0x07 | 0x80;
        answer[4..6].copy_from_slice(&[0, 1]);
        assert!(question.is_answered_by(&answer));
        pass_on(&answer);
    }
}

/// What becomes of an answer that was taken.
fn pass_on(answer: &[u8]) {
    let private: [IpNet; 1] = ["10.32.0.0/12".parse().expect("a range")];
    // Whoever asks has another id and writes the name in another way.
    let mut asked = QUERY.to_vec();
    asked[0] ^= 0xff;
    asked[HEADER_LEN + 1] ^= 0x20;
    let question = &asked[HEADER_LEN..HEADER_LEN + QUESTION_LEN];
    let kept = match judged(answer.to_vec(), &private) {
        Forwarded::Answer(kept) | Forwarded::Withheld(kept) => kept,
        Forwarded::Failed => return,
    };
    let now = Instant::now();
    let mut cache = Cache::default();
    cache.put(Key::of(QUERY, &QUERY[HEADER_LEN..HEADER_LEN + QUESTION_LEN]), &kept, now);
    let again = cache.get(&Key::of(&asked, question), now + Duration::from_secs(1));
    for mut answer in again.into_iter().chain([kept.to_vec()]) {
        address_to(&asked, question, &mut answer);
        let len = answer.len();
        let answer = fitted(answer, UDP_LEN_PLAIN);
        assert!(answer.len() <= UDP_LEN_PLAIN || answer.len() < len, "{} bytes", answer.len());
        let read = Raw::read(&answer).expect("what is passed on can be read");
        assert!(answer[..2] == asked[..2] && read.question() == question);
        assert!(!is_rebinding(&read, &private));
    }
}

fn assert_answers(query: &[u8], answer: &[u8]) {
    let message = Message::from_vec(answer).expect("an answer can be read");
    assert!(raw::is_response(answer) && u16_at(answer, 0) == u16_at(query, 0));
    if !message.queries.is_empty() {
        let asked = Raw::read(query).expect("a question is repeated if it was understood");
        let answered = Raw::read(answer).expect("an answer to one question has one");
        assert_eq!(asked.question(), answered.question());
    }
}

/// The frames that come back for these pieces, in the order of their bytes: those that others were asked for may come in any.
async fn converse(names: &Arc<Snapshot>, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let (ours, serving) = connected(names);
    let (mut reader, mut writer) = tokio::io::split(ours);
    let mut came = Vec::new();
    let all = async {
        tokio::join!(
            async {
                for piece in pieces {
                    // It may have heard enough.
                    let _sent = writer.write_all(piece).await;
                    tokio::task::yield_now().await;
                }
                let _ended = writer.shutdown().await;
            },
            async { reader.read_to_end(&mut came).await.expect("it ends in order") },
        )
    };
    time::timeout(PATIENCE, all).await.expect("it ends with its client");
    serving.await.expect("no panic");
    let mut frames = Vec::new();
    let mut rest = &came[..];
    while let Some((len, after)) = rest.split_first_chunk() {
        let (frame, after) = after.split_at(usize::from(u16::from_be_bytes(*len)));
        frames.push(frame.to_vec());
        rest = after;
    }
    assert!(rest.is_empty(), "a frame is cut");
    frames.sort();
    frames
}

/// A client's end of a connection that is served.
fn connected(names: &Arc<Snapshot>) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let service = Arc::new(service(names));
    let slot = service.connections.take(CLIENT).expect("it is the first");
    let (ours, theirs) = duplex(IN_FLIGHT);
    let connection = Connection::new(CLIENT, service, slot);
    (ours, tokio::spawn(async move { connection.run(theirs).await.unwrap_or_default() }))
}

/// All that a server has but sockets; nobody is slowed, and there is nobody to be asked.
fn service(names: &Arc<Snapshot>) -> Service {
    let rates = Rates { queries: u32::MAX, same_question: u32::MAX, no_name: u32::MAX };
    let nsid = NSIDPayload::new(b"fuzzed".to_vec()).expect("it is short");
    let rng = Rng::from_seed([1; 32]);
    Service::new(Arc::new(ArcSwap::new(names.clone())), Vec::new(), rates, rng, nsid, Vec::new())
}
