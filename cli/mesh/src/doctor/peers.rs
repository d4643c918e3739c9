//! Whether the peers that this host should reach answer, over TCP and over UDP.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mesh_api::{Command, ConnectionDocument, ConnectionState};
use mesh_daemon::PeerTarget;

use crate::doctor::{Facts, Finding};

/// Peers that are looked at; one that is in leads to the others.
const PEERS_MAX: usize = 64;

/// How long a peer has to accept a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// How long a host has to say that nobody listens on its UDP port.
const REFUSAL_TIME_MAX: Duration = Duration::from_millis(500);

/// What one look at a peer showed.
enum Seen {
    Unresolvable,
    Silent {
        address: SocketAddr,
        error: std::io::Error,
    },
    /// TCP answers. UDP never answers a stranger, but a host may say that nobody listens.
    Answers {
        address: SocketAddr,
        udp_refused: bool,
    },
    Late,
}

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let connections: Vec<ConnectionDocument> =
        facts.router.as_ref().and_then(|router| router.call(Command::Connections)).unwrap_or_default();
    let targets = facts.targets.iter().take(PEERS_MAX);
    let looks: Vec<_> = targets.map(|target| (target, begin(target.clone()))).collect();
    let finding = |(target, look): (&PeerTarget, mpsc::Receiver<Seen>)| {
        let left = facts.deadline.saturating_duration_since(Instant::now());
        let seen = look.recv_timeout(left).unwrap_or(Seen::Late);
        judge(target, &seen, facts.router.is_some(), &connections)
    };
    looks.into_iter().map(finding).collect()
}

/// Looks at a peer on a thread of its own: a resolver may take its time, and nobody waits longer than the user wants to.
fn begin(target: PeerTarget) -> mpsc::Receiver<Seen> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || drop(tell.send(look(&target))));
    told
}

fn look(target: &PeerTarget) -> Seen {
    let addresses = (target.host(), target.port()).to_socket_addrs().into_iter().flatten();
    let mut silent = Seen::Unresolvable;
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(_) => return Seen::Answers { address, udp_refused: udp_refused(address).unwrap_or(false) },
            Err(error) => silent = Seen::Silent { address, error },
        }
    }
    silent
}

/// Whether the host says that nobody listens on this UDP port (ICMP "port unreachable").
fn udp_refused(address: SocketAddr) -> std::io::Result<bool> {
    let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(REFUSAL_TIME_MAX))?;
    // One byte is no packet of any router's, and dropped unanswered.
    socket.send(&[0])?;
    Ok(socket.recv(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

fn judge(target: &PeerTarget, seen: &Seen, runs: bool, connections: &[ConnectionDocument]) -> Finding {
    let port = target.port();
    let address = match seen {
        Seen::Unresolvable => {
            let message = format!("{target}: the name has no address");
            return Finding::fail(
                "peer",
                message,
                "give the peer by its address, or look at /etc/resolv.conf",
            );
        }
        Seen::Late => {
            return Finding::fail(
                "peer",
                format!("{target}: no answer in time"),
                "allow more time with --timeout SECONDS",
            );
        }
        Seen::Silent { address, error } => {
            let message = format!("{target}: TCP {address}: {error}");
            let remedy = format!(
                "start a router there, and let TCP and UDP {port} pass its firewall and those between"
            );
            return Finding::fail("peer", message, remedy);
        }
        Seen::Answers { udp_refused: true, address } => {
            let message = format!("{target}: TCP answers, but nobody listens on UDP {address}");
            return Finding::fail(
                "peer",
                message,
                "what listens there is no router, or its UDP port is rejected by a firewall",
            );
        }
        Seen::Answers { address, .. } => address,
    };
    let same_host =
        |connection: &&ConnectionDocument| connection.address.is_some_and(|other| other.ip() == address.ip());
    let found: Vec<_> = connections.iter().filter(same_host).collect();
    let has = |state| found.iter().any(|connection| connection.state == state);
    if has(ConnectionState::Established) {
        return Finding::ok("peer", format!("{target}: frames pass"));
    }
    if has(ConnectionState::Pending) {
        let message = format!("{target}: there is a session over TCP, but no frames pass over UDP");
        return Finding::fail("peer", message, format!("let UDP {port} pass in both directions"));
    }
    if let Some(failed) = found.iter().find(|connection| connection.state == ConnectionState::Failed) {
        let message = format!("{target}: {}", failed.info.as_deref().unwrap_or("refused"));
        return Finding::fail("peer", message, "'mesh status connections' tells more");
    }
    if runs {
        let message = format!("{target}: TCP answers, and there is no session with it");
        return Finding::warn("peer", message, "'mesh status targets' tells why");
    }
    Finding::ok("peer", format!("{target}: TCP answers; UDP answers no stranger, and nobody has refused it"))
}
