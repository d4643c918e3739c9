//! A blocking client of the control socket. Owns the connection and its deadline; interprets no document.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, io};

use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    Command, ErrorKind, Failure, RESPONSE_LEN_MAX, Request, RequestError, Response, ResponseError,
    socket_path,
};

/// Bytes asked of the socket at once.
const READ_CHUNK_BYTES: usize = 64 * 1024;

/// A connection to a router, good for one command.
pub struct Client {
    stream: UnixStream,
    deadline: Deadline,
}

/// Why a command got no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket, or nobody listens on it.
    #[error("no router is running here (no answer at {})", .0.display())]
    NotRunning(PathBuf),
    /// The socket may not be opened by this user.
    #[error("no permission to open {}", .0.display())]
    Permission(PathBuf),
    /// The path of the socket is longer than a Unix socket's address can be (107 bytes, unix(7)).
    #[error("the path {} is too long for a Unix socket", .0.display())]
    PathTooLong(PathBuf),
    /// The deadline passed. Whether the command was carried out is not known.
    #[error("no answer of the router within {}", Seconds(*.0))]
    Timeout(Duration),
    /// The router closed the connection without an answer. Whether the command was carried out is not known.
    #[error("the router closed the connection without an answer")]
    Closed,
    /// The answer is longer than [`RESPONSE_LEN_MAX`].
    #[error("the answer of the router has more than {RESPONSE_LEN_MAX} bytes")]
    TooLong,
    /// The request cannot be sent; the router has seen nothing of it.
    #[error(transparent)]
    Request(RequestError),
    /// The answer cannot be read. Whether the command was carried out is not known.
    #[error(transparent)]
    Response(#[from] ResponseError),
    /// The system refused.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// The router's answer is an error.
    #[error(transparent)]
    Router(#[from] Failure),
}

impl ClientError {
    /// The error as the command line shows it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let (kind, hint) = match self {
            Self::Router(failure) => return failure.clone(),
            Self::Request(error) => return error.failure(),
            Self::NotRunning(_) => {
                (ErrorKind::NotRunning, Some("start one with 'mesh launch', or name its --run-dir"))
            }
            Self::Permission(_) => {
                (ErrorKind::Permission, Some("run the command as root, for example with sudo"))
            }
            Self::PathTooLong(_) => (ErrorKind::Invalid, Some("choose a shorter --run-dir")),
            Self::Timeout(_) => (ErrorKind::Timeout, Some("allow more time with --timeout SECONDS")),
            Self::Response(ResponseError::Version(_)) => {
                (ErrorKind::Unsupported, Some("use the program that the router was started with"))
            }
            Self::Closed => {
                (ErrorKind::Internal, Some("the router may have ended: look at 'mesh status' and its log"))
            }
            Self::TooLong | Self::Response(ResponseError::Malformed(_)) | Self::Io(_) => {
                (ErrorKind::Internal, None)
            }
        };
        Failure { kind, message: self.to_string(), hint: hint.map(str::to_owned) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        error.failure()
    }
}

impl Client {
    /// Connects to the router with this run directory. `timeout` covers everything up to the end of the answer.
    pub fn connect(run_dir: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let deadline = Deadline::after(timeout);
        let path = socket_path(run_dir);
        // A path may hold bytes that no socket address can (a zero) or too many; both are InvalidInput.
        let address =
            SockAddr::unix(&path).map_err(|_invalid_input| ClientError::PathTooLong(path.clone()))?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // When the router's backlog is full, connect waits as long as a send would (net/unix/af_unix.c).
        socket.set_write_timeout(Some(deadline.remaining()?))?;
        match socket.connect(&address) {
            Ok(()) => Ok(Self { stream: UnixStream::from(std::os::fd::OwnedFd::from(socket)), deadline }),
            Err(error) => Err(not_connected(error, path, &deadline)),
        }
    }

    /// Sends a command and reads its answer as the document that the command promises.
    pub fn call<T: DeserializeOwned>(self, command: Command) -> Result<T, ClientError> {
        let value = self.call_value(command)?;
        serde_json::from_value(value).map_err(|error| ClientError::Response(ResponseError::Malformed(error)))
    }

    /// Sends a command and reads its answer as it is, keys that this version does not know included.
    pub fn call_value(mut self, command: Command) -> Result<serde_json::Value, ClientError> {
        let line = Request::encode(command).map_err(ClientError::Request)?;
        self.send(&line)?;
        match Response::decode(&self.receive()?)? {
            Response::Ok(value) => Ok(value),
            Response::Error(failure) => Err(ClientError::Router(failure)),
        }
    }

    fn send(&mut self, line: &[u8]) -> Result<(), ClientError> {
        let mut rest = line;
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(self.deadline.remaining()?))?;
            match self.stream.write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == IoKind::Interrupted => {}
                // The router may have answered before it closed, for example that it is too busy.
                Err(error) if error.kind() == IoKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// Reads up to a newline or the end. A router answers one line, so nothing follows the newline.
    fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        let mut chunk = vec![0; READ_CHUNK_BYTES];
        loop {
            self.stream.set_read_timeout(Some(self.deadline.remaining()?))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(got) => {
                    line.extend_from_slice(&chunk[..got]);
                    if line.len() > RESPONSE_LEN_MAX {
                        return Err(ClientError::TooLong);
                    }
                    if line.ends_with(b"\n") {
                        return Ok(line);
                    }
                }
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn failed(&self, error: io::Error) -> ClientError {
        if is_timeout(&error) {
            ClientError::Timeout(self.deadline.timeout)
        } else if matches!(error.kind(), IoKind::ConnectionReset | IoKind::BrokenPipe) {
            ClientError::Closed
        } else {
            ClientError::Io(error)
        }
    }
}

impl AsFd for Client {
    /// The connected socket, for those who ask the kernel who is at its other end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What an error of connect(2) means.
fn not_connected(error: io::Error, path: PathBuf, deadline: &Deadline) -> ClientError {
    if matches!(error.kind(), IoKind::NotFound | IoKind::ConnectionRefused | IoKind::NotADirectory) {
        ClientError::NotRunning(path)
    } else if error.kind() == IoKind::PermissionDenied {
        ClientError::Permission(path)
    } else if is_timeout(&error) {
        ClientError::Timeout(deadline.timeout)
    } else {
        ClientError::Io(error)
    }
}

/// A socket's timeout shows as one of two errors (setsockopt `SO_RCVTIMEO`, socket(7)).
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), IoKind::WouldBlock | IoKind::TimedOut)
}

/// A point in time, and the patience that led to it.
struct Deadline {
    timeout: Duration,
    at: Instant,
}

impl Deadline {
    /// Longest patience: a day. More is cut, so that the sum with the present cannot overflow.
    const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    fn after(timeout: Duration) -> Self {
        let timeout = timeout.min(Self::TIMEOUT_MAX);
        Self { timeout, at: Instant::now() + timeout }
    }

    /// The time left, never zero, since a zero socket timeout means forever.
    fn remaining(&self) -> Result<Duration, ClientError> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(ClientError::Timeout(self.timeout))
        } else {
            Ok(left.max(Duration::from_micros(1)))
        }
    }
}

/// A duration in seconds, without a fraction where it has none.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::StopDocument;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Calls `stop` on a router that reads one line and then says `answer`.
    fn stop_with_answer(answer: Vec<u8>) -> Result<StopDocument, ClientError> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_path(dir.path())).unwrap();
        let client = Client::connect(dir.path(), PATIENCE).unwrap();
        let router = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            assert_eq!(line, "{\"version\":1,\"command\":\"stop\"}\n");
            // The client may be gone before all of a long answer is written.
            let _written = stream.write_all(&answer);
        });
        let result = client.call(Command::Stop);
        router.join().unwrap();
        result
    }

    #[test]
    fn a_command_gets_its_document() {
        let stopped = stop_with_answer(b"{\"version\":1,\"ok\":{\"pid\":7,\"new_key\":0}}\n".to_vec());
        assert_eq!(stopped.unwrap(), StopDocument { pid: 7 });
    }

    #[test]
    fn an_error_of_the_router_comes_through_as_it_is() {
        let failure = Failure::new(ErrorKind::Unknown, "no such container").with_hint("look again");
        let error = stop_with_answer(Response::Error(failure.clone()).encode()).unwrap_err();
        assert_eq!(error.failure(), failure);
    }

    #[test]
    fn a_bad_answer_is_told_apart_from_none() {
        let error = stop_with_answer(vec![]).unwrap_err();
        assert!(matches!(error, ClientError::Closed), "{error}");
        let error = stop_with_answer(b"{\"version\":1,\"ok\":".to_vec()).unwrap_err();
        assert!(matches!(error, ClientError::Closed), "{error}");
        let error = stop_with_answer(b"hello\n".to_vec()).unwrap_err();
        assert!(matches!(error, ClientError::Response(ResponseError::Malformed(_))), "{error}");
        let error = stop_with_answer(b"{\"version\":1,\"ok\":[]}\n".to_vec()).unwrap_err();
        assert!(matches!(error, ClientError::Response(ResponseError::Malformed(_))), "{error}");
        let error = stop_with_answer(b"{\"version\":2}\n".to_vec()).unwrap_err();
        assert_eq!(error.failure().kind, ErrorKind::Unsupported);
        let error = stop_with_answer(vec![b'x'; RESPONSE_LEN_MAX + READ_CHUNK_BYTES]).unwrap_err();
        assert!(matches!(error, ClientError::TooLong), "{error}");
    }

    #[test]
    fn no_socket_and_a_dead_one_both_mean_that_no_router_runs() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Client::connect(&dir.path().join("missing"), PATIENCE).err().unwrap();
        assert_eq!(missing.failure().kind, ErrorKind::NotRunning);
        drop(UnixListener::bind(socket_path(dir.path())).unwrap());
        let dead = Client::connect(dir.path(), PATIENCE).err().unwrap();
        assert!(matches!(dead, ClientError::NotRunning(_)), "{dead}");
    }

    #[test]
    fn a_path_too_long_is_named() {
        let error = Client::connect(Path::new(&format!("/{}", "x".repeat(200))), PATIENCE).err().unwrap();
        assert!(matches!(error, ClientError::PathTooLong(_)), "{error}");
    }

    #[test]
    fn a_silent_router_costs_no_more_than_the_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(socket_path(dir.path())).unwrap();
        let client = Client::connect(dir.path(), Duration::from_millis(50)).unwrap();
        let error = client.call::<StopDocument>(Command::Stop).unwrap_err();
        assert_eq!(error.failure().kind, ErrorKind::Timeout);
        assert_eq!(error.to_string(), "no answer of the router within 0.05 s");
    }

    #[test]
    fn a_full_backlog_costs_no_more_than_the_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let mut waiting = Vec::new();
        let error = (0..8).find_map(|_| match Client::connect(dir.path(), Duration::from_millis(50)) {
            Ok(client) => {
                waiting.push(client);
                None
            }
            Err(error) => Some(error),
        });
        assert!(matches!(error, Some(ClientError::Timeout(_))), "{error:?}");
    }
}
