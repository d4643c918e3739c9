//! What a server is told when it starts.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use ipnet::IpNet;
use mesh_names::Rng;

use crate::limits;

/// Settings of a [`Server`](crate::Server).
#[derive(Debug)]
pub struct Config {
    /// Where it listens, over UDP and TCP alike.
    pub listen: Vec<Listen>,
    /// Networks whose hosts are answered; what comes from elsewhere is dropped. To answer everybody, name
    /// `0.0.0.0/0` and `::/0`.
    pub clients: Vec<IpNet>,
    /// Who is asked about names that are not ours.
    pub upstream: Upstream,
    /// Address ranges of the overlay. No upstream server may put a name on an address in them (DNS rebinding).
    pub private: Vec<IpNet>,
    /// How much one client may ask.
    pub rates: Rates,
    /// What identifies this server to who asks for it (NSID, RFC 5001), such as the peer's nickname.
    pub nsid: Vec<u8>,
    /// Shuffles answers and numbers upstream queries.
    pub rng: Rng,
}

/// A place to listen.
#[derive(Debug)]
pub enum Listen {
    /// Bound by the server.
    Address(SocketAddr),
    /// Bound by the caller, to an interface or in a namespace perhaps.
    Sockets {
        /// For datagrams.
        udp: UdpSocket,
        /// For connections, at the same address.
        tcp: TcpListener,
    },
}

/// Where upstream servers are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// These, in order.
    Servers(Vec<SocketAddr>),
    /// Those of a file in the format of resolv.conf(5), which is read again when it changes.
    File {
        /// The file.
        path: PathBuf,
        /// The file that systemd-resolved writes for those who would bypass its stub: read in place of `path` while
        /// that names nothing but the stub.
        behind_stub: PathBuf,
    },
}

impl Upstream {
    /// The host's own servers.
    #[must_use]
    pub fn host() -> Self {
        Self::File {
            path: PathBuf::from("/etc/resolv.conf"),
            behind_stub: PathBuf::from("/run/systemd/resolve/resolv.conf"),
        }
    }
}

/// How much one client may ask in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Queries in all.
    pub queries: u32,
    /// Equal questions over UDP.
    pub same_question: u32,
    /// Denials of names over UDP.
    pub no_name: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            queries: limits::QUERIES_PER_SECOND,
            same_question: limits::SAME_QUESTION_PER_SECOND,
            no_name: limits::NO_NAME_PER_SECOND,
        }
    }
}
