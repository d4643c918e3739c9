//! What a router is told at launch, parsed and complete. Nothing later reads the environment or the command line.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use mesh_api::{Capture, Datapath};
use mesh_hostnet::BridgeName;
use mesh_names::Name as DomainName;
use mesh_wire::{Nickname, PeerId};

use crate::secrets::Password;

/// Default port of the control plane (TCP) and of sleeve (UDP).
pub const CONTROL_PORT: u16 = 6783;

/// Where containers reach the name server of their host: an address that is the same on all hosts and never leaves one.
pub const DNS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 32, 53)), 53);

/// From so many connections on, a well-connected subset of the peers is enough, unless the user says otherwise.
pub const CONNECTION_LIMIT: usize = 64;

/// Everything that `mesh launch` decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the control socket and the pid file.
    pub run_dir: PathBuf,
    /// Directory of the identity, the targets, the network's id and the log.
    pub state_dir: PathBuf,
    /// The label that people see.
    pub nickname: Nickname,
    /// TCP port of the control plane and UDP port of sleeve.
    pub port: u16,
    /// Address to listen on, and to dial from; all addresses of both families when absent.
    pub listen: Option<IpAddr>,
    /// The network's secrets, at most [`SECRETS_MAX`](crate::SECRETS_MAX). All are accepted, the first is used. Without
    /// one anybody may join and frames travel in clear.
    pub secrets: Vec<Password>,
    /// Where they came from, to be read again on SIGHUP. An absolute path.
    pub password_file: Option<PathBuf>,
    /// The only peers that may connect; anybody with the secret when absent.
    pub allowed: Option<BTreeSet<PeerId>>,
    /// Where nobody listens: frames to peers there travel in clear if they say the same of this host.
    pub trusted_subnets: Vec<IpNet>,
    /// MTU of the overlay.
    pub mtu: MtuSetting,
    /// How frames come from the bridge and go to it.
    pub capture: Capture,
    /// What carries frames between hosts.
    pub datapath: Datapath,
    /// Threads that carry frames in user space, 1 to [`WORKERS_MAX`](crate::WORKERS_MAX); packet capture has one.
    pub workers: usize,
    /// The host's bridge.
    pub bridge: BridgeName,
    /// Whether to connect to peers that other peers know.
    pub discovery: bool,
    /// From so many connections on, a well-connected subset of the peers is enough.
    pub connection_limit: usize,
    /// How often the data keys of each link that this router has dialed are replaced.
    pub rekey_after: Duration,
    /// Peers to connect to.
    pub peers: Peers,
    /// Address management; `None` where users manage addresses.
    pub ipam: Option<AddressConfig>,
    /// The status page and metrics; `None` without them.
    pub http: Option<HttpConfig>,
    /// Names.
    pub dns: DnsConfig,
    /// Containers and their runtimes.
    pub containers: ContainerConfig,
}

/// Where the status page and metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpConfig {
    /// The address to listen on.
    pub address: SocketAddr,
    /// Whether the user chose it, and so wants to hear when it cannot be had.
    pub address_is_given: bool,
}

/// How names are answered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// The domain that all names of containers lie in.
    pub domain: DomainName,
    /// How long an answer, or a denial, may be kept.
    pub ttl_seconds: u32,
    /// The name server of this host; `None` where there is to be none.
    pub server: Option<ServerConfig>,
}

/// How the name server of this host is reached, and whom it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: DnsListen,
    /// Whom it asks about other names; those that the host asks when absent.
    pub upstream: Option<Vec<SocketAddr>>,
}

/// Where a name server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsListen {
    /// At [`DNS_ADDRESS`], and on Docker's bridge where there is one.
    Usual,
    /// At these addresses and no others. One that no interface has is put on the bridge.
    At(Vec<SocketAddr>),
}

impl DnsListen {
    /// The addresses, without that of Docker's bridge.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Usual => vec![DNS_ADDRESS],
            Self::At(addresses) => addresses.clone(),
        }
    }
}

/// How containers are found, and what happens when they are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Docker's socket, an absolute path; `None` where Docker is left alone.
    pub docker_socket: Option<PathBuf>,
    /// The same of Podman.
    pub podman_socket: Option<PathBuf>,
    /// How long the address of a container that is gone is kept for it.
    pub grace: Duration,
}

/// How addresses are managed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressConfig {
    /// All addresses of the network, without bits beyond the prefix.
    pub range: IpNet,
    /// Whether the user chose the range, and so is free to have the host's own routes in it.
    pub range_is_given: bool,
    /// Where an address is chosen unless a subnet is named; in the range.
    pub default_subnet: IpNet,
    /// Who may found the network.
    pub founding: FoundingRule,
}

/// Who may found the network, as the user says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundingRule {
    /// This router, when it is given no peers; a majority of itself and them otherwise.
    ByPeers,
    /// A majority of so many peers, whoever they are; without a number of itself and the peers that it is given.
    Consensus(Option<usize>),
    /// These, who are given this same list.
    Seeds(BTreeSet<PeerId>),
    /// Others.
    Observer,
}

/// Which peers a router connects to at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Those that the user names now, at most [`TARGETS_MAX`](crate::TARGETS_MAX).
    Named(Vec<PeerTarget>),
    /// Those of its last life.
    Resumed,
}

/// How the overlay's MTU is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtuSetting {
    /// From the smallest MTU of the host's underlay interfaces.
    Auto,
    /// As given, in bytes.
    Fixed(u32),
}

/// A peer as a user names it: `HOST[:PORT]`, HOST a name, an IPv4 address or an IPv6 address (in brackets when a
/// port follows). Names are resolved anew at each try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerTarget {
    host: String,
    port: u16,
}

/// Why a text is no [`PeerTarget`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerTargetError {
    /// There is no host.
    #[error("the host is missing")]
    HostMissing,
    /// The host is neither an address nor a host name (RFC 1123, section 2.1).
    #[error("'{host}' is neither an address nor a host name")]
    Host {
        /// The part before the port.
        host: String,
    },
    /// The port is no number from 1 to 65535.
    #[error("'{port}' is no port number from 1 to 65535")]
    Port {
        /// The part after the host.
        port: String,
    },
    /// An opening bracket has no closing one, or holds no IPv6 address.
    #[error("square brackets hold an IPv6 address, as in [2001:db8::1]:6783")]
    Brackets,
}

impl PeerTarget {
    /// The host part, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for PeerTarget {
    type Err = PeerTargetError;

    fn from_str(text: &str) -> Result<Self, PeerTargetError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or(PeerTargetError::Brackets)?;
            host.parse::<Ipv6Addr>().map_err(|_not_an_address| PeerTargetError::Brackets)?;
            let port = match after.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if after.is_empty() => CONTROL_PORT,
                None => return Err(PeerTargetError::Port { port: after.to_owned() }),
            };
            return Ok(Self { host: host.to_owned(), port });
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self { host: text.to_owned(), port: CONTROL_PORT });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (text, CONTROL_PORT),
        };
        check_host(host)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for PeerTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn parse_port(text: &str) -> Result<u16, PeerTargetError> {
    let digits_only = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits_only && port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(PeerTargetError::Port { port: text.to_owned() }),
    }
}

/// Accepts an IPv4 address or a host name; a name of digits and dots only must be an address.
fn check_host(host: &str) -> Result<(), PeerTargetError> {
    let wrong = || PeerTargetError::Host { host: host.to_owned() };
    if host.is_empty() {
        return Err(PeerTargetError::HostMissing);
    }
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return host.parse::<Ipv4Addr>().map(|_address| ()).map_err(|_not_an_address| wrong());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label_ok) { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_or_an_address_with_an_optional_port() {
        for (text, shown) in [
            ("h1", "h1:6783"),
            ("h1.example.com:7000", "h1.example.com:7000"),
            ("192.0.2.1", "192.0.2.1:6783"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("2001:db8::1", "[2001:db8::1]:6783"),
            ("[2001:db8::1]", "[2001:db8::1]:6783"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
        ] {
            assert_eq!(text.parse::<PeerTarget>().map(|p| p.to_string()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_malformed_peer_is_refused_with_the_part_that_is_wrong() {
        use PeerTargetError::{Brackets, HostMissing};
        let host = |h: &str| PeerTargetError::Host { host: h.to_owned() };
        let port = |p: &str| PeerTargetError::Port { port: p.to_owned() };
        for (text, error) in [
            ("", HostMissing),
            (":6783", HostMissing),
            ("h1:", port("")),
            ("h1:0", port("0")),
            ("h1:65536", port("65536")),
            ("h1:+80", port("+80")),
            ("h1:80:90", port("80:90")),
            ("[::1", Brackets),
            ("[h1]:1", Brackets),
            ("[::1]x", port("x")),
            ("300.1.1.1", host("300.1.1.1")),
            ("a b", host("a b")),
            ("-a", host("-a")),
            ("a..b", host("a..b")),
        ] {
            assert_eq!(text.parse::<PeerTarget>(), Err(error), "{text}");
        }
    }
}
