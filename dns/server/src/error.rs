//! Why a server does not start.

use std::io;
use std::net::SocketAddr;

/// Nothing listens and no thread runs after any of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nowhere to listen.
    #[error("no address to listen on")]
    NoAddress,
    /// An address means all of the host's addresses, also those that strangers reach.
    #[error("{0} would serve the whole world: name an address of the host")]
    Unspecified(SocketAddr),
    /// A socket cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A socket that was given cannot be used, or the thread or its runtime cannot be started.
    #[error("cannot start the name server: {0}")]
    System(#[from] io::Error),
    /// The NSID is longer than its length field allows.
    #[error("the identifier of the server is too long")]
    Nsid,
}
