//! One request over a runtime's socket: HTTP/1.1, a connection each.
//!
//! Owns the connection, and the limits on what is read from it. Knows no container. What is asked waits as long as it is let:
//! deadlines are the caller's.

use std::io;
use std::path::Path;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use mesh_api::Runtime;
use tokio::net::UnixStream;

use crate::runtime::EngineError;

/// Longest answer that is read, in bytes; one that is longer is no description of a container.
const ANSWER_LEN_MAX: usize = 1024 * 1024;

/// Longest line of a stream that is read, in bytes; a longer one is passed over.
const LINE_LEN_MAX: usize = 64 * 1024;

/// What came back.
pub(super) enum Status {
    Ok(Body),
    NotFound,
    Other(u16),
}

/// What follows the head of an answer.
pub(super) struct Body {
    runtime: Runtime,
    incoming: Incoming,
}

/// An answer that comes line by line, as long as it does.
pub(super) struct Lines {
    incoming: Incoming,
    /// What has come after the last line that was handed out.
    pending: Vec<u8>,
    /// How much of it is known to have no end of a line.
    searched: usize,
    /// Whether the line under way is too long, and its beginning was thrown away.
    too_long: bool,
}

/// Asks for what is at `path`.
pub(super) async fn get(runtime: Runtime, socket: &Path, path: &str) -> Result<Status, EngineError> {
    let absent = |source: io::Error| EngineError::Absent { runtime, socket: socket.to_owned(), source };
    let broken = |source| EngineError::Broken { runtime, source };
    let stream = UnixStream::connect(socket).await.map_err(absent)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // It ends when `sender` and the answer's body are dropped; what went wrong the body tells.
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::get(path)
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .expect("paths are made of what can stand in a URL");
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok(match response.status() {
        StatusCode::OK => Status::Ok(Body { runtime, incoming: response.into_body() }),
        StatusCode::NOT_FOUND => Status::NotFound,
        other => Status::Other(other.as_u16()),
    })
}

impl Body {
    /// All of it.
    pub(super) async fn whole(&mut self) -> Result<Vec<u8>, EngineError> {
        let mut bytes = Vec::new();
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|source| EngineError::Broken { runtime: self.runtime, source })?;
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len() + data.len() > ANSWER_LEN_MAX {
                return Err(EngineError::Garbled { runtime: self.runtime });
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    }

    pub(super) fn lines(self) -> Lines {
        Lines { incoming: self.incoming, pending: Vec::new(), searched: 0, too_long: false }
    }
}

impl Lines {
    /// The next line, without its end; `None` when there is none any more. Can be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.pending[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(self.searched + end + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                self.searched = 0;
                if !std::mem::take(&mut self.too_long) {
                    return Some(line);
                }
                continue;
            }
            self.searched = self.pending.len();
            if self.searched > LINE_LEN_MAX {
                self.pending.clear();
                (self.searched, self.too_long) = (0, true);
            }
            let frame = self.incoming.frame().await?.ok()?;
            if let Some(data) = frame.data_ref() {
                self.pending.extend_from_slice(data);
            }
        }
    }
}
