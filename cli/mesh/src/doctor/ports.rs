//! Whether the ports of a router are free, or its own.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use mesh_daemon::CONTROL_PORT;

use crate::doctor::{Facts, Finding};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    if let Some(router) = &facts.router {
        let port = router.status.router.port;
        return vec![Finding::ok("ports", format!("TCP and UDP {port} belong to the router that runs here"))];
    }
    let config = facts.config.as_ref();
    let port = config.map_or(CONTROL_PORT, |config| config.port);
    let address = config.and_then(|config| config.listen).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut findings = vec![
        free("TCP", SocketAddr::new(address, port), "--port", |address| TcpListener::bind(address).map(drop)),
        free("UDP", SocketAddr::new(address, port), "--port", |address| UdpSocket::bind(address).map(drop)),
        free("UDP", SocketAddr::new(address, port + 1), "--port", |address| {
            UdpSocket::bind(address).map(drop)
        }),
    ];
    if let Some(http) = config.and_then(|config| config.http) {
        findings.push(free("TCP", http.address, "--http", |address| TcpListener::bind(address).map(drop)));
    }
    findings
}

fn free(
    protocol: &str,
    address: SocketAddr,
    option: &str,
    bind: fn(SocketAddr) -> io::Result<()>,
) -> Finding {
    let port = address.port();
    match bind(address) {
        Ok(()) => Finding::ok("ports", format!("{protocol} {port} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::fail(
            "ports",
            format!("{protocol} {port} belongs to another program"),
            format!("'ss -lntup sport = :{port}' names it; end it, or choose another port with {option}"),
        ),
        Err(error) => Finding::fail(
            "ports",
            format!("{protocol} {address}: {error}"),
            format!("choose another with {option}"),
        ),
    }
}
