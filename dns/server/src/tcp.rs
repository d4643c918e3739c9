//! Queries that come over connections (RFC 7766): several at a time, answered in the order in which answers are there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time;

use crate::limits::{
    ACCEPT_PAUSE, CONNECTION_BYTES_MAX, CONNECTION_IDLE, CONNECTION_WRITE_TIME, PIPELINED_MAX, QUERY_LEN_MAX,
};
use crate::rate::Slot;
use crate::request::Transport;
use crate::service::{Action, Service};
use crate::stats::Outcome;

/// Length of the length before each message (RFC 1035, section 4.2.2).
const PREFIX_LEN: usize = 2;

/// Accepts connections at `listener`, for ever.
pub(crate) async fn serve(listener: TcpListener, service: Arc<Service>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => accept(stream, client, &service),
            Err(error) => {
                tracing::debug!(%error, "no connection can be accepted");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn accept(stream: TcpStream, client: SocketAddr, service: &Arc<Service>) {
    if !service.serves(client) {
        service.counters.count(Outcome::Ignored);
        return;
    }
    let Some(slot) = service.connections.take(client.ip()) else {
        service.counters.count(Outcome::Dropped);
        return;
    };
    let connection = Connection::new(client.ip(), service.clone(), slot);
    tokio::spawn(async move {
        if let Err(error) = connection.run(stream).await {
            tracing::trace!(%client, %error, "a connection for names failed");
        }
    });
}

/// One client's connection, of which the stream is somebody else's.
pub(crate) struct Connection {
    client: IpAddr,
    service: Arc<Service>,
    /// What has come and is not yet a whole query.
    input: Vec<u8>,
    /// How many bytes have come.
    taken: usize,
    /// How many queries wait for others.
    pending: usize,
    /// Whether more is read.
    reading: Reading,
    answers: mpsc::Receiver<(Vec<u8>, Instant)>,
    answer: mpsc::Sender<(Vec<u8>, Instant)>,
    _slot: Slot,
}

/// Whether a connection takes further queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    /// The client has ended, broken the protocol, or said enough: what is pending is answered, and no more.
    Off,
}

impl Connection {
    pub(crate) fn new(client: IpAddr, service: Arc<Service>, slot: Slot) -> Self {
        let (answer, answers) = mpsc::channel(PIPELINED_MAX);
        let (input, reading) = (Vec::new(), Reading::On);
        Self { client, service, input, taken: 0, pending: 0, reading, answers, answer, _slot: slot }
    }

    /// Serves the client until it has said enough.
    pub(crate) async fn run(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut deadline = time::Instant::now() + CONNECTION_IDLE;
        while self.reading == Reading::On || self.pending > 0 {
            let may_read = self.reading == Reading::On && self.pending < PIPELINED_MAX;
            tokio::select! {
                // Answers first, so that a client that only asks does not keep its own answers back.
                biased;
                answer = self.answers.recv() => {
                    let Some((answer, since)) = answer else { break };
                    self.pending -= 1;
                    self.write(&mut stream, &answer, since).await?;
                    deadline = time::Instant::now() + CONNECTION_IDLE;
                }
                came = stream.read_buf(&mut self.input), if may_read => {
                    self.took(came?);
                }
                () = time::sleep_until(deadline) => break,
            }
            if self.handle_input(&mut stream).await? {
                deadline = time::Instant::now() + CONNECTION_IDLE;
            }
        }
        stream.shutdown().await
    }

    fn took(&mut self, len: usize) {
        self.taken += len;
        if len == 0 || self.taken > CONNECTION_BYTES_MAX {
            self.reading = Reading::Off;
        }
    }

    /// Handles the whole queries that have come; whether there was one.
    async fn handle_input(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<bool> {
        let mut handled = 0;
        while self.pending < PIPELINED_MAX {
            let rest = &self.input[handled..];
            let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX_LEN>() else { break };
            let len = usize::from(u16::from_be_bytes(*prefix));
            if len > QUERY_LEN_MAX {
                handled = self.end();
                break;
            }
            let Some(query) = rest.get(..len) else { break };
            let (query, since) = (query.to_vec(), Instant::now());
            handled += PREFIX_LEN + len;
            match self.service.handle(&query, self.client, Transport::Tcp, since) {
                Action::Answer(answer) => self.write(stream, &answer, since).await?,
                Action::Forward(request) => {
                    self.pending += 1;
                    let (service, answer, client) = (self.service.clone(), self.answer.clone(), self.client);
                    tokio::spawn(async move {
                        let bytes = service.forward(&query, &request, client).await;
                        // There is room for as many as are pending. If the connection has gone, so has who waits.
                        drop(answer.send((bytes, since)).await);
                    });
                }
                Action::Silence => {
                    handled = self.end();
                    break;
                }
            }
        }
        self.input.drain(..handled);
        Ok(handled > 0)
    }

    /// Takes no more from this client, and none of what has come. Returns how much that is.
    const fn end(&mut self) -> usize {
        self.reading = Reading::Off;
        self.input.len()
    }

    async fn write(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        answer: &[u8],
        since: Instant,
    ) -> io::Result<()> {
        let len = u16::try_from(answer.len()).unwrap_or_default();
        if len == 0 {
            return Ok(());
        }
        let frame = [&len.to_be_bytes(), answer].concat();
        time::timeout(CONNECTION_WRITE_TIME, stream.write_all(&frame)).await??;
        self.service.counters.answered_after(since.elapsed());
        Ok(())
    }
}
