//! TCP connections from an address of the test's choice.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::namespace::Namespace;

impl Namespace {
    /// Connects from one of the addresses in here, of several.
    ///
    /// # Errors
    /// When nobody answers within `within`, or the address is not there.
    pub fn connect_from(&self, source: IpAddr, to: SocketAddr, within: Duration) -> Result<TcpStream> {
        let connected = self.enter(|| -> Result<TcpStream> {
            let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Linux takes the time limit of sending for that of connecting, see socket(7).
            set_socket_timeout(&socket, Timeout::Send, Some(within))?;
            bind(&socket, &SocketAddr::from((source, 0)))?;
            connect(&socket, &to)?;
            Ok(socket.into())
        });
        connected?.with_context(|| format!("cannot connect from {source} to {to}"))
    }
}
