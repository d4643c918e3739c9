//! The programs that run containers: Docker, and Podman, whose service speaks Docker's API.
//!
//! Owns what is asked of them and what is believed of their answers. Attaches nothing. That one of them is absent, stopped or
//! starting is a normal state: it is said, and asked again.

mod http;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_api::{ErrorKind, Failure, NetnsTarget, Runtime};
use mesh_hostnet::HostError;
use serde_json::Value;
use tokio::time::timeout;

use crate::config::ContainerConfig;
use crate::error::failure_of;
use crate::host::{self, Place};
use crate::runtime::http::{Lines, Status};

/// Longest wait for an answer of a runtime.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest id of a container that is believed, in bytes. Docker's and Podman's have 64.
pub(crate) const ID_LEN_MAX: usize = 64;

/// The label whose value has the names of a container, with commas or blanks between them.
const NAME_LABEL: &str = "mesh.name";

/// Names of one container that are taken from its label; further ones are passed over.
const NAMES_MAX: usize = 16;

/// Digits of an id that a runtime gives a container as its host name, unless the user chose one.
const SHORT_ID_LEN: usize = 12;

/// What asks one runtime.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    runtime: Runtime,
    socket: PathBuf,
}

/// A container, as its runtime describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// In full.
    pub(crate) id: String,
    /// Without the slash that Docker puts before it.
    pub(crate) name: String,
    /// What others may call it: what its label says, or else its name and its host name.
    pub(crate) names: Vec<String>,
    pub(crate) life: Life,
}

/// Whether a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// By this process, since then, in the runtime's words.
    Running {
        pid: u32,
        since: String,
    },
    Stopped,
}

/// A sign that something has happened to a container, or that one may have been missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sign {
    /// All containers of the runtime are to be looked at: the stream of events begins here.
    Listening(Runtime),
    /// This container is to be looked at, by its id.
    Of(Runtime, String),
}

/// Why a runtime did not say what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("{} is not there: {} cannot be opened ({source})", runtime.title(), socket.display())]
    Absent { runtime: Runtime, socket: PathBuf, source: io::Error },
    #[error("{} does not answer within {} s", runtime.title(), ANSWER_TIME_MAX.as_secs())]
    Late { runtime: Runtime },
    #[error("{} has broken off: {source}", runtime.title())]
    Broken { runtime: Runtime, source: hyper::Error },
    #[error("{} answers with status {status}", runtime.title())]
    Status { runtime: Runtime, status: u16 },
    #[error("{} answers with what is no description of a container", runtime.title())]
    Garbled { runtime: Runtime },
}

impl EngineError {
    pub(crate) fn failure(&self) -> Failure {
        let failure = Failure::new(ErrorKind::Refused, self.to_string());
        match self {
            Self::Absent { runtime: Runtime::Docker, .. } => failure
                .with_hint("start Docker, or name its socket with `mesh launch --docker-socket PATH`"),
            Self::Absent { runtime: Runtime::Podman, .. } => failure.with_hint(
                "start `podman system service`, name its socket with `mesh launch --podman-socket PATH`, or name the container by pid:N",
            ),
            Self::Late { .. } | Self::Broken { .. } | Self::Status { .. } | Self::Garbled { .. } => failure,
        }
    }
}

/// All runtimes that this router asks.
pub(crate) fn engines(config: &ContainerConfig) -> Vec<Engine> {
    let sockets = [(Runtime::Docker, &config.docker_socket), (Runtime::Podman, &config.podman_socket)];
    let engine =
        |(runtime, socket): (Runtime, &Option<PathBuf>)| Some(Engine { runtime, socket: socket.clone()? });
    sockets.into_iter().filter_map(engine).collect()
}

impl Engine {
    pub(crate) const fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// Whether there is a socket at all.
    pub(crate) fn has_socket(&self) -> bool {
        self.socket.exists()
    }

    /// The container of this name or id, or the one whose id begins so; `None` when there is none. The name must be one that
    /// can stand in a URL, as a [`mesh_api::RuntimeName`] is.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Option<Inspected>, EngineError> {
        let ask = async {
            let mut body = match http::get(self.runtime, &self.socket, &format!("/containers/{name}/json"))
                .await?
            {
                Status::Ok(body) => body,
                Status::NotFound => return Ok(None),
                Status::Other(status) => return Err(EngineError::Status { runtime: self.runtime, status }),
            };
            let bytes = body.whole().await?;
            let value: Option<Value> = serde_json::from_slice(&bytes).ok();
            value.as_ref().and_then(inspected).map(Some).ok_or(EngineError::Garbled { runtime: self.runtime })
        };
        timeout(ANSWER_TIME_MAX, ask).await.unwrap_or(Err(EngineError::Late { runtime: self.runtime }))
    }

    /// The network namespace of a container that runs; `None` when it has just ended.
    ///
    /// A process id may be another process's by the time that it is used. So the namespace is opened first, and the runtime
    /// asked again then: if the same process has run since the same time, it was this container's.
    pub(crate) async fn place(&self, container: &Inspected) -> Result<Option<Place>, Failure> {
        let Life::Running { pid, .. } = container.life else { return Ok(None) };
        let place = match host::open(NetnsTarget::Pid(pid)).await? {
            Ok(place) => place,
            Err(HostError::NoSuchProcess { .. }) => return Ok(None),
            Err(error) => return Err(failure_of(&error)),
        };
        let again = self.inspect(&container.id).await.map_err(|error| error.failure())?;
        Ok(again.filter(|again| again.life == container.life).map(|_same| place))
    }

    /// Begins to listen for what happens to containers.
    pub(crate) async fn events(&self) -> Result<Events, EngineError> {
        // {"type":["container"]}
        let path = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D";
        let ask = async {
            match http::get(self.runtime, &self.socket, path).await? {
                Status::Ok(body) => Ok(Events { runtime: self.runtime, lines: body.lines() }),
                Status::NotFound => Err(EngineError::Status { runtime: self.runtime, status: 404 }),
                Status::Other(status) => Err(EngineError::Status { runtime: self.runtime, status }),
            }
        };
        timeout(ANSWER_TIME_MAX, ask).await.unwrap_or(Err(EngineError::Late { runtime: self.runtime }))
    }

    /// Where it is asked.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

/// What happens to containers, as it happens.
pub(crate) struct Events {
    runtime: Runtime,
    lines: Lines,
}

impl Events {
    /// The next sign; `None` when the runtime has ended the stream. Can be dropped while it waits, and nothing is lost.
    pub(crate) async fn next(&mut self) -> Option<Sign> {
        loop {
            let line = self.lines.next().await?;
            if let Some(id) = container_of_event(&line) {
                return Some(Sign::Of(self.runtime, id));
            }
        }
    }
}

/// The container that an event is about, unless it leaves it as it was: commands that run in it, and health checks, are the
/// events that come in great numbers.
fn container_of_event(line: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(line).ok()?;
    let action = event.get("Action").or_else(|| event.get("status"))?.as_str()?;
    if ["exec_", "health_status", "top", "attach", "resize"].iter().any(|dull| action.starts_with(dull)) {
        return None;
    }
    let id = event.pointer("/Actor/ID").or_else(|| event.get("id"))?.as_str()?;
    is_id(id).then(|| id.to_owned())
}

fn inspected(value: &Value) -> Option<Inspected> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let id = text("/Id").filter(|id| is_id(id))?.to_owned();
    let name = text("/Name").unwrap_or_default().trim_start_matches('/').to_owned();
    let pid = value.pointer("/State/Pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
    let runs = value.pointer("/State/Running").and_then(Value::as_bool)?;
    let life = match (runs, pid) {
        (true, Some(pid @ 1..)) => {
            Life::Running { pid, since: text("/State/StartedAt").unwrap_or_default().to_owned() }
        }
        (true, Some(0) | None) | (false, _) => Life::Stopped,
    };
    let label =
        value.pointer("/Config/Labels").and_then(|labels| labels.get(NAME_LABEL)).and_then(Value::as_str);
    let names = match label {
        Some(label) => label
            .split(|sign: char| sign == ',' || sign.is_whitespace())
            .filter(|name| is_name(name))
            .take(NAMES_MAX)
            .map(str::to_owned)
            .collect(),
        None => {
            let own = own_name(&id, text("/Config/Hostname"), text("/Config/Domainname"));
            [Some(name.clone()), own.filter(|own| *own != name)]
                .into_iter()
                .flatten()
                .filter(|name| is_name(name))
                .collect()
        }
    };
    Some(Inspected { id, name, names, life })
}

/// The host name that a user gave a container, with its domain.
fn own_name(id: &str, hostname: Option<&str>, domain: Option<&str>) -> Option<String> {
    let chosen = hostname.filter(|host| !host.is_empty() && *host != &id[..SHORT_ID_LEN.min(id.len())])?;
    Some(match domain.filter(|domain| !domain.is_empty()) {
        Some(domain) => format!("{chosen}.{domain}"),
        None => chosen.to_owned(),
    })
}

/// Whether a text has nothing but the signs of a name in the DNS, and no more of them (RFC 1035, section 2.3.4).
fn is_name(text: &str) -> bool {
    let sign = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=254).contains(&text.len()) && text.bytes().all(sign)
}

/// Whether a text can be the full id of a container.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=ID_LEN_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
