//! What a router tells over HTTP: metrics, the documents of `mesh status`, and a page that shows them.
//!
//! Owns the listener, its limits, and the paths; HTTP/1.1 is hyper's, one answer a connection. It only reads: no path changes
//! anything, and no body is looked at. What it tells comes from the shell, as for clients of the control socket.

mod origin;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use mesh_api::{Command, Response};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::control::{self, Asked};
use crate::metrics::{Format, Readings};
use crate::{Error, HttpConfig};

/// Connections at a time...
const CONNECTIONS_MAX: usize = 64;

/// ...and those that wait for a place; the kernel leaves more without an answer, and their clients try again.
const BACKLOG: u32 = 128;

/// Longest head of a request, in bytes: the least that hyper lets be set. A longer one is refused (431).
const HEAD_LEN_MAX: usize = 8 * 1024;

/// A client has so long for its request, for the router's answer, and for reading it, all together.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(5);

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
const HEADERS: [(HeaderName, &str); 4] = [
    (header::ALLOW, "GET, HEAD"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; img-src data:; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
];

/// The ways to the shell.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) requests: mpsc::Sender<Asked>,
    pub(crate) scrapes: mpsc::Sender<Scrape>,
}

/// What a client is sent.
struct Answer {
    status: StatusCode,
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
pub(crate) fn bind(config: Option<HttpConfig>) -> Result<Option<TcpListener>, Error> {
    let Some(HttpConfig { address, address_is_given }) = config else { return Ok(None) };
    match listen(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(source) if address_is_given => Err(Error::Http { address, source }),
        Err(error) => {
            warn!(%address, %error, "there are no metrics: --http names another address");
            Ok(None)
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn exchange(stream: TcpStream, sources: &Sources, local_only: bool) {
    let service = service_fn(async |request| {
        let answer = answer(&request, sources, local_only).await;
        Ok::<_, Infallible>(answer.into_response())
    });
    let mut server = http1::Builder::new();
    server.keep_alive(false).max_buf_size(HEAD_LEN_MAX).title_case_headers(true);
    // A client that says no sense has had its answer, and one that does not read it has lost interest.
    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: &hyper::Request<Incoming>, sources: &Sources, local_only: bool) -> Answer {
    if origin::is_foreign(request.headers(), local_only) {
        return refusal(StatusCode::FORBIDDEN, "ask for an address or for localhost, from no other's page");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
    }
    let path = request.uri().path();
    if let Some((_, kind, content)) = ASSETS.iter().find(|(asset, _, _)| *asset == path) {
        return Answer { status: StatusCode::OK, kind, body: (*content).to_owned() };
    }
    match path {
        METRICS_PATH => metrics(wanted_format(request), sources).await,
        STATUS_PATH => document(Command::Status, sources).await,
        HEALTH_PATH => match control::ask(Command::Status, &sources.requests).await {
            Response::Ok(_) => Answer { status: StatusCode::OK, kind: TEXT, body: "ok\n".to_owned() },
            Response::Error(failure) => refusal(StatusCode::SERVICE_UNAVAILABLE, &failure.message),
        },
        path => {
            let view = path.strip_prefix(STATUS_PATH).and_then(|rest| rest.strip_prefix('/'));
            match view.and_then(Command::view) {
                Some(command) => document(command, sources).await,
                None => {
                    refusal(StatusCode::NOT_FOUND, "there are /, /metrics, /health, /status and /status/VIEW")
                }
            }
        }
    }
}

/// The form in which the client takes metrics.
fn wanted_format(request: &hyper::Request<Incoming>) -> Format {
    let accepted = request.headers().get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains("application/openmetrics-text")) {
        Format::OpenMetrics
    } else {
        Format::Prometheus
    }
}

async fn document(command: Command, sources: &Sources) -> Answer {
    let response = control::ask(command, &sources.requests).await;
    let status = match response {
        Response::Ok(_) => StatusCode::OK,
        Response::Error(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Answer { status, kind: JSON, body: response.body() }
}

async fn metrics(format: Format, sources: &Sources) -> Answer {
    let (scrape, readings) = oneshot::channel();
    // Both fail only when the router ends.
    let asked = sources.scrapes.send(scrape).await;
    match readings.await {
        Ok(readings) if asked.is_ok() => {
            Answer { status: StatusCode::OK, kind: format.kind(), body: readings.render(format) }
        }
        Ok(_) | Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, "the router is ending"),
    }
}

impl Answer {
    fn into_response(self) -> hyper::Response<Full<Bytes>> {
        let mut response = hyper::Response::new(Full::from(self.body));
        *response.status_mut() = self.status;
        let kind = (header::CONTENT_TYPE, self.kind);
        let headers = HEADERS.into_iter().chain([kind]);
        response.headers_mut().extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
    }
}

fn refusal(status: StatusCode, reason: &str) -> Answer {
    Answer { status, kind: TEXT, body: format!("{reason}\n") }
}
