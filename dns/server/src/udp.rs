//! Queries that come as datagrams. Owns one socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::{task, time};

use crate::limits::{ACCEPT_PAUSE, DATAGRAMS_AT_ONCE, QUERY_LEN_MAX};
use crate::request::Transport;
use crate::service::{Action, Service};
use crate::stats::Outcome;

/// Answers what comes to `socket`, for ever.
pub(crate) async fn serve(socket: UdpSocket, service: Arc<Service>) {
    let socket = Arc::new(socket);
    // One byte more than allowed shows what is too long.
    let mut buffer = [0; QUERY_LEN_MAX + 1];
    loop {
        let drained = match socket.readable().await {
            Ok(()) => drain(&socket, &service, &mut buffer),
            Err(error) => Err(error),
        };
        match drained {
            Ok(()) => task::yield_now().await,
            Err(error) => {
                tracing::debug!(%error, "the name server's socket fails");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Handles what is there, but not so much that others wait for long.
fn drain(socket: &Arc<UdpSocket>, service: &Arc<Service>, buffer: &mut [u8]) -> io::Result<()> {
    for _ in 0..DATAGRAMS_AT_ONCE {
        match socket.try_recv_from(buffer) {
            Ok((len, client)) => handle(socket, service, &buffer[..len], client),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn handle(socket: &Arc<UdpSocket>, service: &Arc<Service>, query: &[u8], client: SocketAddr) {
    let since = Instant::now();
    if !service.serves(client) {
        service.counters.count(Outcome::Ignored);
        return;
    }
    match service.handle(query, client.ip(), Transport::Udp, since) {
        Action::Answer(answer) => send(socket, service, &answer, client, since),
        Action::Forward(request) => {
            let (socket, service, query) = (socket.clone(), service.clone(), query.to_vec());
            // As many tasks as there are slots: whoever finds none is done at once.
            tokio::spawn(async move {
                let answer = service.forward(&query, &request, client.ip()).await;
                send(&socket, &service, &answer, client, since);
            });
        }
        Action::Silence => {}
    }
}

/// Sends an answer, if there is one, or lets it go if the socket takes no more: the client asks again.
fn send(socket: &UdpSocket, service: &Service, answer: &[u8], client: SocketAddr, since: Instant) {
    if answer.is_empty() {
        return;
    }
    match socket.try_send_to(answer, client) {
        Ok(_) => service.counters.answered_after(since.elapsed()),
        Err(error) => tracing::trace!(%client, %error, "an answer was not sent"),
    }
}
