//! The composition root: the one place where the router's parts meet.
//!
//! Owns configuration, logging, the state on disk, the tokio shell that drives the pure node, the control socket, and
//! the order of start and stop. Owns no decision: those are the node's (who talks to whom) and the engine's (which
//! frame goes where).
//!
//! Threads: the caller's thread runs a single-threaded tokio runtime that owns the node and never blocks; the data
//! plane runs its own workers; a change to the host's network runs on tokio's blocking pool, one at a time, and so does
//! what is written to disk; one thread waits for changes of the host's addresses, and one writes the state of address
//! management.
#![forbid(unsafe_code)]

mod absent;
mod capture;
mod clock;
mod config;
mod containers;
mod control;
mod desk;
mod dial;
mod dns;
mod documents;
mod error;
mod expose;
mod fastpath;
mod firewall;
mod host;
mod http;
mod ipam;
mod journal;
mod logging;
mod metrics;
mod mtu;
mod names;
mod network;
mod overlaps;
mod pipe;
mod plan;
mod privileges;
mod prober;
mod reload;
mod resolv_conf;
mod router;
mod runtime;
mod secrets;
mod sentry;
mod shell;
mod standing;
mod store;
mod supervisor;
mod targets;
mod uplink;

use std::path::Path;

use zeroize::Zeroizing;

pub use capture::{sniff_port, sniff_uplinks};
pub use config::{
    AddressConfig, CONNECTION_LIMIT, CONTROL_PORT, Config, ContainerConfig, DNS_ADDRESS, DnsConfig,
    DnsListen, FoundingRule, HttpConfig, MtuSetting, PeerTarget, PeerTargetError, Peers, ServerConfig,
};
pub use error::Error;
pub use logging::{LogControl, LogFormat, LogLevel, LogTarget, init_logging};
pub use mesh_crypto::PasswordError;
pub use mesh_dataplane::WORKERS_MAX;
pub use mesh_hostnet::{BridgeName, NameError, Sniffed, Sniffer};
pub use mesh_names::{Name as DomainName, NameError as DomainNameError};
pub use mesh_node::limits::SECRETS_MAX;
pub use mesh_wire::control::LINKS_MAX;
pub use mesh_wire::{IdError, Nickname, NicknameError, PeerId};
pub use reload::{ReadSettings, Reload};
pub use secrets::{Password, PasswordFile, PasswordFileError};
pub use targets::TARGETS_MAX;

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

/// Runs a router until it is told to stop. Calls `ready` once it carries frames and answers on its control socket, and
/// `reload` on SIGHUP.
pub fn run(config: Config, reload: Reload, ready: impl FnOnce(Ready)) -> Result<(), Error> {
    router::run(config, reload, ready)
}

/// Removes what a router that no longer runs has left on this host: interfaces, state, and its directories when they
/// are empty then. Returns what was removed, for people to read.
pub fn reset_host(run_dir: &Path, state_dir: &Path, bridge: &BridgeName) -> Result<Vec<String>, Error> {
    router::reset_host(run_dir, state_dir, bridge)
}

/// A new secret for a network, 256 bits as one word, erased from memory when dropped.
pub fn generate_secret() -> Result<Zeroizing<String>, Error> {
    router::generate_secret()
}
