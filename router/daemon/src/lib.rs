//! The composition root: the one place where the router's parts meet.
//!
//! Owns configuration, logging, the state on disk, the tokio shell that drives the pure node, the control socket, and
//! the order of start and stop. Owns no decision: those are the node's (who talks to whom) and the engine's (which
//! frame goes where).
//!
//! Threads: the caller's thread runs a single-threaded tokio runtime that owns the node and never blocks; the data
//! plane runs its own workers; a change to the host's network runs on tokio's blocking pool, one at a time.
#![forbid(unsafe_code)]

mod config;
mod control;
mod documents;
mod error;
mod host;
mod logging;
mod pipe;
mod plan;
mod router;
mod shell;
mod store;

use std::path::Path;

pub use config::{CONTROL_PORT, Config, MtuSetting, Password, PasswordError, PeerTarget, PeerTargetError};
pub use error::Error;
pub use logging::{LogFormat, LogLevel, LogTarget, init_logging};
pub use mesh_hostnet::BridgeName;
pub use mesh_wire::{Nickname, NicknameError};

/// What a router says when it has become ready.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its peer id, 12 hexadecimal digits.
    pub peer_id: String,
    /// Its nickname.
    pub nickname: String,
    /// Its process id.
    pub pid: u32,
}

/// Runs a router until it is told to stop. Calls `ready` once it carries frames and answers on its control socket.
pub fn run(config: Config, ready: impl FnOnce(Ready)) -> Result<(), Error> {
    router::run(config, ready)
}

/// Removes what a router that no longer runs has left on this host: interfaces, state, and its directories when they
/// are empty then. Returns what was removed, for people to read.
pub fn reset_host(run_dir: &Path, state_dir: &Path, bridge: &BridgeName) -> Result<Vec<String>, Error> {
    router::reset_host(run_dir, state_dir, bridge)
}
