//! The control socket: one request a connection, one answer. Owns the socket and its limits; the shell decides.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_api::{Command, ErrorKind, Failure, REQUEST_LEN_MAX, Request, Response, socket_path};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::Error;

/// Control connections at a time; more wait in the socket's backlog.
const CONNECTIONS_MAX: u32 = 64;

/// Requests that wait for the shell; more wait in their connections.
pub(crate) const REQUESTS_QUEUED_MAX: usize = 64;

/// A client has so long to write its request, and to read its answer.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether a client that waits is still there.
const HANG_UP_POLL: Duration = Duration::from_millis(250);

/// A command, and where its answer goes.
pub(crate) struct Asked {
    pub(crate) command: Command,
    pub(crate) answer: Answer,
}

/// Where an answer goes. Dropped without one, the client is told that the router ends.
pub(crate) struct Answer(oneshot::Sender<Response>);

impl Answer {
    /// An answer to give, and its other end.
    pub(crate) fn channel() -> (Self, oneshot::Receiver<Response>) {
        let (answer, answered) = oneshot::channel();
        (Self(answer), answered)
    }

    pub(crate) fn send(self, response: Response) {
        // A client that has gone away needs no answer.
        let _sent = self.0.send(response);
    }

    /// Waits until the client has gone away.
    pub(crate) async fn gone(&mut self) {
        self.0.closed().await;
    }
}

/// The listening socket. Removed from the file system when dropped.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    places: Arc<Semaphore>,
}

impl Control {
    /// Binds the control socket in a run directory that this process holds; one of an earlier life is replaced.
    pub(crate) fn bind(run_dir: &Path) -> Result<Self, Error> {
        let path = socket_path(run_dir);
        let bind = || {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let listener = UnixListener::bind(&path)?;
            // The directory keeps others out already; it could be one that a user made.
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bind().map_err(|source| Error::File { action: "bind", path: path.clone(), source })?;
        Ok(Self { listener, path, places: Arc::new(Semaphore::new(CONNECTIONS_MAX as usize)) })
    }

    /// Serves clients until the returned future is dropped.
    pub(crate) async fn serve(&self, requests: mpsc::Sender<Asked>) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _client)) => {
                    tokio::spawn(serve(stream, requests.clone(), place));
                }
                Err(error) => {
                    debug!(%error, "cannot accept a control connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Waits until all clients have their answers, or the time that a client has is over.
    pub(crate) async fn finish(&self) {
        let _all_or_late = timeout(CLIENT_TIME_MAX, self.places.acquire_many(CONNECTIONS_MAX)).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // What remains is replaced at the next start.
        let _removed = fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<Asked>, _place: OwnedSemaphorePermit) {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(REQUEST_LEN_MAX as u64 + 1));
    if !matches!(timeout(CLIENT_TIME_MAX, read.read_until(b'\n', &mut line)).await, Ok(Ok(1..))) {
        return;
    }
    let response = match Request::decode(&line) {
        Ok(command) => tokio::select! {
            response = ask(command, &requests) => response,
            () = hung_up(&write) => return,
        },
        Err(error) => error.failure().into(),
    };
    // A client that does not read its answer has lost interest.
    let _written = timeout(CLIENT_TIME_MAX, write.write_all(&response.encode())).await;
}

/// Waits until the client has closed the connection; one that has only ended its own side still reads. The kernel says
/// so by no event that could be waited for alone, since the socket is writable all the time.
async fn hung_up(write: &OwnedWriteHalf) {
    loop {
        sleep(HANG_UP_POLL).await;
        if write.ready(Interest::WRITABLE).await.is_ok_and(|ready| ready.is_write_closed()) {
            return;
        }
    }
}

/// Asks the shell, and waits for its answer.
pub(crate) async fn ask(command: Command, requests: &mpsc::Sender<Asked>) -> Response {
    let (answer, answered) = Answer::channel();
    let asked = Asked { command, answer };
    let ends = || Failure::new(ErrorKind::NotRunning, "the router is ending").into();
    if requests.send(asked).await.is_err() {
        return ends();
    }
    answered.await.unwrap_or_else(|_dropped| ends())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream as Client;

    use super::*;

    /// Longest wait for what must happen.
    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_client_that_goes_away_is_noticed_and_one_that_only_listens_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let control = Control::bind(dir.path()).expect("a socket");
        let (requests, mut asked) = mpsc::channel(1);
        let work = async {
            let mut client = Client::connect(socket_path(dir.path())).expect("it listens");
            client.write_all(&Request::encode(Command::Status).expect("short")).expect("written");
            client.shutdown(Shutdown::Write).expect("half closed");
            let mut asked: Asked = asked.recv().await.expect("a request");
            assert!(timeout(HANG_UP_POLL * 3, asked.answer.gone()).await.is_err(), "it still reads");
            drop(client);
            timeout(PATIENCE, asked.answer.gone()).await.expect("it has gone");
        };
        tokio::select! {
            () = control.serve(requests) => panic!("it serves as long as it is let"),
            () = work => {}
        }
    }
}
