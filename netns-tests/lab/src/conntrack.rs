//! Forgetting the connections that the kernel tracks, by netlink.
//!
//! Acts on the network namespace of the calling thread. Implements the delete request of
//! `linux/netfilter/nfnetlink_conntrack.h` without attributes, which means: all entries.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::wait::poll_readable;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const DELETE_CONNECTIONS: u16 = (1 << 8) | 2;

/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_WITH_ANSWER: u16 = 1 | 4;

/// `NLMSG_ERROR`, the type of every answer; its code is 0 when all went well.
const ANSWER: u16 = 2;

/// How long the kernel may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Forgets all tracked connections.
pub(crate) fn flush() -> Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
        .context("cannot open a netfilter socket")?;
    sendto(&socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let [answered] = poll_readable([socket.as_fd()], Some(ANSWER_DEADLINE))?;
    if !answered {
        bail!("the kernel does not answer the request to forget its connections");
    }
    let mut answer = [0; 256];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    match error_code(&answer[..length]) {
        Some(0) => Ok(()),
        Some(code) => {
            Err(std::io::Error::from_raw_os_error(-code)).context("the kernel keeps its connections")
        }
        None => bail!("the kernel's answer cannot be understood"),
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg` for all address families, in host order.
fn request() -> [u8; 20] {
    let mut message = [0; 20];
    message[..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&DELETE_CONNECTIONS.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST_WITH_ANSWER.to_ne_bytes());
    message
}

fn error_code(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let code = i32::from_ne_bytes(*answer.get(16..)?.first_chunk()?);
    (kind == ANSWER).then_some(code)
}
