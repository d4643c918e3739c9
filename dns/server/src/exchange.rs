//! One question to one upstream server, and its answer. Owns the matching of the two; knows nothing of other servers.
//!
//! Each datagram goes from a socket of its own, connected, so that the kernel draws a random port for it and lets in
//! only what comes from the server's address. An answer counts if it repeats the id and the question to the letter,
//! so that a forger has to guess the port, the id and the case of the name at once (RFC 5452, section 9).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};

use crate::limits::{MISMATCHES_MAX, TCP_LEN_MAX};
use crate::raw::{self, Raw};
use crate::stats::Counters;

/// A query as it goes to a server.
pub(crate) struct Question<'a> {
    /// All its bytes, under an id of our own.
    pub(crate) query: &'a [u8],
    /// Its name, type and class, as they stand in it.
    pub(crate) question: &'a [u8],
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The server cannot be reached, or closed the connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came over the connection is no answer to the question.
    #[error("another answer than to the question asked")]
    Mismatch,
}

/// Asks over UDP, and over TCP if the answer is truncated or strangers answer. Waits for ever: the caller has the
/// deadline.
pub(crate) async fn ask(
    server: SocketAddr,
    question: &Question<'_>,
    counters: &Counters,
) -> Result<Vec<u8>, ExchangeError> {
    let unspecified: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    socket.connect(server).await?;
    socket.send(question.query).await?;
    let mut mismatches = 0;
    while mismatches < MISMATCHES_MAX {
        // A closed port comes back as an error without a datagram, which is no reason to be readable.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            return Err(socket.take_error()?.unwrap_or_else(|| io::ErrorKind::Other.into()).into());
        }
        let message = match receive(&socket) {
            Ok(message) => message,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        if !question.is_answered_by(&message) {
            counters.upstream_mismatches.fetch_add(1, Ordering::Relaxed);
            mismatches += 1;
        } else if raw::is_truncated(&message) {
            break;
        } else if Raw::read(&message).is_some() {
            return Ok(message);
        } else {
            return Err(ExchangeError::Mismatch);
        }
    }
    ask_over_tcp(server, question, counters).await
}

async fn ask_over_tcp(
    server: SocketAddr,
    question: &Question<'_>,
    counters: &Counters,
) -> Result<Vec<u8>, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    // In one piece, for servers that read the length and the query at once (RFC 7766, section 8).
    let len = u16::try_from(question.query.len()).map_err(|_too_long| ExchangeError::Mismatch)?;
    stream.write_all(&[&len.to_be_bytes(), question.query].concat()).await?;
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    if question.is_answered_by(&message) && Raw::read(&message).is_some() {
        return Ok(message);
    }
    counters.upstream_mismatches.fetch_add(1, Ordering::Relaxed);
    Err(ExchangeError::Mismatch)
}

/// A datagram that is there. The buffer lives only here, so that a query that waits costs no buffer.
fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; TCP_LEN_MAX];
    let len = socket.try_recv(&mut buffer)?;
    Ok(buffer[..len].to_vec())
}

impl Question<'_> {
    pub(crate) fn is_answered_by(&self, message: &[u8]) -> bool {
        let question = raw::HEADER_LEN..raw::HEADER_LEN + self.question.len();
        raw::is_response(message)
            && raw::opcode(message) == 0
            && raw::u16_at(message, 0) == raw::u16_at(self.query, 0)
            && raw::u16_at(message, 4) == Some(1)
            && message.get(question) == Some(self.question)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A query for `a.b`, and an answer to it without records.
    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01";
    const ANSWER: &[u8] = b"\x12\x34\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01";

    fn question() -> Question<'static> {
        Question { query: QUERY, question: &QUERY[raw::HEADER_LEN..] }
    }

    #[test]
    fn an_answer_repeats_id_and_question() {
        assert!(question().is_answered_by(ANSWER));
        assert!(!question().is_answered_by(QUERY));
        for len in 0..ANSWER.len() {
            assert!(!question().is_answered_by(&ANSWER[..len]));
        }
    }

    proptest! {
        /// Only flags, the response code and the numbers of records may differ.
        #[test]
        fn a_changed_byte_of_id_opcode_or_question_is_no_answer(at in 0..ANSWER.len(), flip in 1_u8..) {
            let mut answer = ANSWER.to_vec();
            answer[at] ^= flip;
            let is_free = match at {
                2 => flip & 0xf8 == 0,
                3 | 6..=11 => true,
                _ => false,
            };
            prop_assert_eq!(question().is_answered_by(&answer), is_free);
        }
    }
}
