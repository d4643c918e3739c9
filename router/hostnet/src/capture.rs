//! The veth that takes the TAP's place where there is no TUN: one end is the bridge's uplink, under the TAP's name, and on
//! the other the router captures packets.
//!
//! Owns its making and removal, by mark. It outlives a router that was killed, and passes nothing then; the next one
//! removes it, whatever uplink that one has.
#![allow(unsafe_code, reason = "SIOCETHTOOL has no safe wrapper")]

use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::bridge::{MTU_MAX, is_ours, mark, open_host};
use crate::error::{HostError, KernelError};
use crate::mac::MacAddress;
use crate::name::{BridgeName, InterfaceName};
use crate::namespace::Netns;
use crate::netlink::Netlink;
use crate::netlink::link::{Link, LinkChange, VethPair};
use crate::sysctl::Switch;

/// `ETHTOOL_STXCSUM` of include/uapi/linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;

/// Makes the pair anew, for frames up to the bridge's `mtu` in bytes. Returns the name of the end to capture on; the other
/// one is to become a port of the bridge.
///
/// Frames come to the router's end whole: the kernel finishes their checksums and cuts super-frames before, as for
/// hardware that can do neither.
///
/// # Errors
/// [`HostError::NameInUse`] when an interface of one of the names is not ours; nothing is left of the pair then.
pub fn make_capture_pair(bridge: &BridgeName, mtu: u32) -> Result<InterfaceName, HostError> {
    remove_capture_pair(bridge)?;
    let mut host = open_host()?;
    let (near, far) = (bridge.tap(), bridge.capture());
    for name in [&near, &far] {
        let taken = host.link_named(name.as_str()).map_err(|error| error.during("look for", name))?;
        if let Some(link) = taken {
            return Err(HostError::NameInUse { name: name.clone(), kind: link.kind_shown() });
        }
    }
    let random = || MacAddress::random().map_err(|source| HostError::Random { source });
    let own = Netns::current()?;
    let pair = VethPair {
        name: &near,
        mac: random()?,
        peer_name: &far,
        peer_mac: random()?,
        peer_netns: own.as_fd(),
        mtu,
    };
    host.create_veth(pair).map_err(|error| error.during("create the veth pair", &near))?;
    let set_up = mark(&mut host, &near).and_then(|()| set_up(&mut host, &near, &far));
    match set_up {
        Ok(()) => Ok(far),
        Err(cause) => match remove_capture_pair(bridge) {
            Ok(()) => Err(cause),
            Err(left) => Err(HostError::UndoIncomplete { cause: Box::new(cause), left: vec![left] }),
        },
    }
}

/// Removes the pair, if there is one.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn remove_capture_pair(bridge: &BridgeName) -> Result<(), HostError> {
    let mut host = open_host()?;
    let near = bridge.tap();
    match host.link_named(near.as_str()).map_err(|error| error.during("look for", &near))? {
        Some(link) if is_near_end(&link) => {
            host.remove_link(link.index).map_err(|error| error.during("remove", &near))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether it is the bridge's end. One without a mark, on no bridge and down, is what a router that was killed while it
/// made it leaves.
pub(crate) fn is_near_end(link: &Link) -> bool {
    let is_unfinished = link.kind == "veth" && link.alias.is_empty() && link.master.is_none() && !link.is_up;
    is_ours(link, mark::UPLINK, "veth") || is_unfinished
}

fn mark(host: &mut Netlink, name: &InterfaceName) -> Result<(), HostError> {
    change(host, name, &LinkChange { alias: Some(mark::UPLINK), ..LinkChange::default() })
}

fn set_up(host: &mut Netlink, near: &InterfaceName, far: &InterfaceName) -> Result<(), HostError> {
    mark(host, far)?;
    leave_nothing_to_hardware(near).map_err(|error| error.during("switch offloads off on", near))?;
    Switch::Ipv6Off.turn_on(far)?;
    // The MTU that counts is that of the bridge's end, which follows the bridge's.
    change(host, far, &LinkChange { mtu: Some(MTU_MAX), is_up: Some(true), ..LinkChange::default() })
}

fn change(host: &mut Netlink, name: &InterfaceName, change: &LinkChange<'_>) -> Result<(), HostError> {
    let link = host.link_named(name.as_str()).map_err(|error| error.during("look for", name))?;
    let link = link.ok_or_else(|| HostError::PortMissing { port: name.clone() })?;
    host.change_link(link.index, change).map_err(|error| error.during("set up", name))
}

/// struct ethtool_value of include/uapi/linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Without checksums the kernel does not leave segmentation to a device either (`netdev_fix_features` of net/core/dev.c).
fn leave_nothing_to_hardware(name: &InterfaceName) -> Result<(), KernelError> {
    let mut value = EthtoolValue { command: ETHTOOL_STXCSUM, data: 0 };
    // SAFETY: an ifreq is bytes, integers and unions of those; all zero is a valid value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // Any socket serves to address an interface of this namespace.
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("0.0.0.0", 0)))?;
    // SAFETY: SIOCETHTOOL reads one ifreq, and the ethtool_value that it points to; both live until the call has returned.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO).into())
    } else {
        Ok(())
    }
}
