//! What a router tells over HTTP: metrics, the documents of `mesh status`, and a page that shows them.
//!
//! Owns the listener, its limits, and as much of HTTP/1.1 (RFC 9112) as one answer a connection takes. It only reads: no path
//! changes anything. What it tells comes from the shell, as for clients of the control socket.

mod request;

use std::sync::Arc;
use std::time::Duration;

use mesh_api::{Command, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::control::{self, Asked};
use crate::http::request::{Head, HeadError};
use crate::metrics::{Format, Readings};
use crate::{Error, HttpConfig};

/// Connections at a time; more wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 16;

/// Longest head of a request, in bytes. A longer one is refused (431).
const HEAD_LEN_MAX: usize = 8 * 1024;

/// A client has so long for its request, for the router's answer, and for reading it, all together.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(10);

/// Scrapes that wait for the shell; more wait in their connections.
pub(crate) const SCRAPES_QUEUED_MAX: usize = 4;

/// Where the shell leaves what the metrics are made of.
pub(crate) type Scrape = oneshot::Sender<Readings>;

/// The documents, by path. All paths but these and the page's are unknown.
const METRICS_PATH: &str = "/metrics";
const STATUS_PATH: &str = "/status";
const HEALTH_PATH: &str = "/health";

/// The kinds of what is sent.
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page and what belongs to it: path, kind, content.
const ASSETS: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("http/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("http/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("http/page.js")),
];

/// What every answer says of itself: it is of this moment, and of this kind; a page of ours loads nothing from elsewhere, and
/// stands in no other's frame.
const HEADERS: &str = "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Security-Policy: default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; \
    img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n";

/// The ways to the shell.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) requests: mpsc::Sender<Asked>,
    pub(crate) scrapes: mpsc::Sender<Scrape>,
}

/// What a client is sent.
struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

/// Serves clients until the returned future is dropped.
pub(crate) async fn serve(listener: TcpListener, sources: Sources) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let local_only = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let sources = sources.clone();
                tokio::spawn(async move {
                    let served = timeout(CLIENT_TIME_MAX, exchange(stream, &sources, local_only)).await;
                    debug!(%client, in_time = served.is_ok(), "served a client of the status page");
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "cannot accept a connection to the status page");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Listens as the user wants it. A default address that cannot be had is no reason not to start, and the log says so.
pub(crate) async fn bind(config: Option<HttpConfig>) -> Result<Option<TcpListener>, Error> {
    let Some(HttpConfig { address, address_is_given }) = config else { return Ok(None) };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) if address_is_given => Err(Error::Http { address, source }),
        Err(error) => {
            warn!(%address, %error, "there are no metrics: --http names another address");
            Ok(None)
        }
    }
}

async fn exchange(mut stream: TcpStream, sources: &Sources, local_only: bool) {
    let head = read_head(&mut stream).await;
    let answer = match head.as_deref().map_or(Err(HeadError::TooLong), Head::parse) {
        Ok(head) if local_only && !head.host_is_local() => {
            // A name that somebody else has pointed at this machine: a foreign page that reads over the user's browser.
            refusal("403 Forbidden", "ask for an address or for localhost")
        }
        Ok(head) => answer(&head, sources).await,
        Err(HeadError::Method) => refusal("405 Method Not Allowed", "only GET and HEAD"),
        Err(HeadError::Malformed) => refusal("400 Bad Request", "no request of HTTP/1"),
        Err(HeadError::TooLong) => refusal("431 Request Header Fields Too Large", "too long, or cut"),
    };
    let with_body = head.as_deref().is_none_or(|head| !head.starts_with(b"HEAD "));
    let Answer { status, kind, body } = answer;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nAllow: GET, HEAD\r\n{HEADERS}\r\n",
        body.len()
    );
    let whole = if with_body { head + &body } else { head };
    // A client that does not read its answer has lost interest.
    if stream.write_all(whole.as_bytes()).await.is_ok() {
        let _closed = stream.shutdown().await;
    }
}

/// The head of a request with the empty line at its end; `None` when it is too long, or its client has gone.
async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let room = (HEAD_LEN_MAX - head.len()) as u64;
        match (&mut *stream).take(room).read_buf(&mut head).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return None,
        }
    }
    Some(head)
}

async fn answer(head: &Head<'_>, sources: &Sources) -> Answer {
    if let Some((_, kind, content)) = ASSETS.iter().find(|(path, _, _)| *path == head.path) {
        return Answer { status: "200 OK", kind, body: (*content).to_owned() };
    }
    match head.path {
        METRICS_PATH => metrics(head.format(), sources).await,
        STATUS_PATH => document(Command::Status, sources).await,
        HEALTH_PATH => match control::ask(Command::Status, &sources.requests).await {
            Response::Ok(_) => Answer { status: "200 OK", kind: TEXT, body: "ok\n".to_owned() },
            Response::Error(failure) => refusal("503 Service Unavailable", &failure.message),
        },
        path => {
            let view = path.strip_prefix(STATUS_PATH).and_then(|rest| rest.strip_prefix('/'));
            match view.and_then(Command::view) {
                Some(command) => document(command, sources).await,
                None => refusal("404 Not Found", "there are /, /metrics, /health, /status and /status/VIEW"),
            }
        }
    }
}

async fn document(command: Command, sources: &Sources) -> Answer {
    let response = control::ask(command, &sources.requests).await;
    let status = match response {
        Response::Ok(_) => "200 OK",
        Response::Error(_) => "503 Service Unavailable",
    };
    Answer { status, kind: JSON, body: response.body() }
}

async fn metrics(format: Format, sources: &Sources) -> Answer {
    let (scrape, readings) = oneshot::channel();
    // Both fail only when the router ends.
    let asked = sources.scrapes.send(scrape).await;
    match readings.await {
        Ok(readings) if asked.is_ok() => {
            Answer { status: "200 OK", kind: format.kind(), body: readings.render(format) }
        }
        Ok(_) | Err(_) => refusal("503 Service Unavailable", "the router is ending"),
    }
}

fn refusal(status: &'static str, reason: &str) -> Answer {
    Answer { status, kind: TEXT, body: format!("{reason}\n") }
}
