//! Multicast datagrams: joining a group, sending to it, seeing who gets what.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt;

use crate::namespace::Namespace;

/// No datagram is longer.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A member of a multicast group.
#[derive(Debug)]
pub struct MulticastListener {
    socket: UdpSocket,
}

impl MulticastListener {
    /// The next datagram that was sent to the group, with its sender.
    ///
    /// # Errors
    /// When none comes within `within`.
    pub fn next(&self, within: Duration) -> Result<(Vec<u8>, SocketAddr)> {
        self.socket.set_read_timeout(Some(within))?;
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                buffer.truncate(length);
                Ok((buffer, from))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("no datagram came within {within:?}")
            }
            Err(error) => Err(error).context("cannot receive from a multicast group"),
        }
    }
}

impl Namespace {
    /// Joins a group, with its port, on an interface in here.
    ///
    /// # Errors
    /// When there is no such interface or the address is no group's.
    pub fn multicast_listen(&self, group: SocketAddr, interface: &str) -> Result<MulticastListener> {
        let join = || -> Result<UdpSocket> {
            // Bound to the group's own address, so that nothing else is heard.
            let (socket, index) = bound(group, interface)?;
            match group.ip() {
                IpAddr::V4(address) => {
                    sockopt::set_ip_add_membership_with_ifindex(
                        &socket,
                        &address,
                        &Ipv4Addr::UNSPECIFIED,
                        index,
                    )?;
                }
                IpAddr::V6(address) => socket.join_multicast_v6(&address, index)?,
            }
            Ok(socket)
        };
        let socket = self.enter(join)?;
        let socket = socket.with_context(|| format!("cannot join {group} in {}", self.label()))?;
        Ok(MulticastListener { socket })
    }

    /// Sends one datagram to a group, out of an interface in here.
    ///
    /// # Errors
    /// When there is no such interface, or it has no address to send from.
    pub fn multicast_send(&self, group: SocketAddr, interface: &str, payload: &[u8]) -> Result<()> {
        let send = || -> Result<()> {
            let any = if group.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let (socket, index) = bound(any.parse()?, interface)?;
            if group.is_ipv4() {
                let unspecified = Ipv4Addr::UNSPECIFIED;
                sockopt::set_ip_multicast_if_with_ifindex(&socket, &unspecified, &unspecified, index)?;
            } else {
                sockopt::set_ipv6_multicast_if(&socket, index)?;
            }
            socket.send_to(payload, group)?;
            Ok(())
        };
        self.enter(send)?.with_context(|| format!("cannot send to {group} from {}", self.label()))
    }
}

/// A socket at the address, with the interface's index. Link-local groups need the index in the address.
fn bound(address: SocketAddr, interface: &str) -> Result<(UdpSocket, u32)> {
    let probe = UdpSocket::bind("0.0.0.0:0")?;
    let index =
        name_to_index(&probe, interface).with_context(|| format!("there is no interface {interface}"))?;
    let address = match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, index).into(),
    };
    Ok((UdpSocket::bind(address)?, index))
}
