//! The control API of a router: what the command line and other programs say to it, and what it answers.
//!
//! Owns the types and their JSON, the framing, and a blocking client. Owns no behaviour of the router.
//!
//! The protocol: a client connects to the Unix socket [`SOCKET_NAME`] in the router's run directory, writes one
//! [`Request`] as one line of JSON, and reads one [`Response`] as one line of JSON; then the router closes the
//! connection. Who may open the socket may do everything; there is no other authentication.
#![forbid(unsafe_code)]

mod address;
mod client;
mod container;
mod dns;
mod documents;
mod failure;
mod request;
mod response;

use std::path::{Path, PathBuf};

pub use address::{AddressTarget, AddressTargetError};
pub use client::{Client, ClientError};
pub use container::{ContainerError, ContainerTarget, NetnsName, NetnsTarget, PID_MAX, Runtime, RuntimeName};
pub use dns::{DnsDocument, DnsEntryDocument, DnsNameDocument, DnsSummaryDocument};
pub use documents::{
    AddressesDocument, AttachDocument, BroadcastDocument, Capture, ConflictDocument, ConnectionCounts,
    ConnectionDocument, ConnectionState, Datapath, DetachDocument, ExposedDocument, FirewallDocument,
    FlowDocument, FlowsDocument, GroupDocument, IpamDocument, IpamState, LaunchDocument, MacDocument,
    OVERLAPS_ASKED_MAX, OverlapDocument, Overlay, OwnedDocument, PassedDocument, PeerConnectionDocument,
    PeerDocument, PendingDocument, PortDocument, PrimeDocument, RemovedPeerDocument, RemovedPeersDocument,
    ResetDocument, RouterDocument, RoutesDocument, StatusDocument, StopDocument, TargetDocument,
    TargetListDocument, TrafficDocument, UnicastDocument,
};
pub use failure::{ErrorKind, Failure};
pub use request::{Command, Request, RequestError, TIMEOUT_DEFAULT_MS};
pub use response::{Response, ResponseError};

/// Version of the control protocol. A request or response of another version is refused with both numbers.
pub const PROTOCOL_VERSION: u32 = 1;

/// Name of the control socket in the run directory.
pub const SOCKET_NAME: &str = "mesh.sock";

/// Name of the pid file in the run directory.
pub const PID_FILE_NAME: &str = "mesh.pid";

/// Longest request in bytes, its newline included. The router refuses a longer one and closes the connection.
pub const REQUEST_LEN_MAX: usize = 64 * 1024;

/// Longest response in bytes, its newline included. The router answers with a [`Failure`] in place of a longer one.
pub const RESPONSE_LEN_MAX: usize = 16 * 1024 * 1024;

/// Path of the control socket of the router with this run directory.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET_NAME)
}
