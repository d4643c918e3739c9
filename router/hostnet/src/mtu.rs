//! The MTU of interfaces inside containers, once they are attached.

use crate::bridge::{self, Bridge, MTU_MIN, check_mtu};
use crate::error::HostError;
use crate::name::InterfaceName;
use crate::namespace::Netns;
use crate::netlink::link::LinkChange;
use crate::veth::{self, Found, Sides};

/// Sets the MTU, in bytes, of the interface by which the container in `netns` is attached to the bridge. Its host end keeps
/// what [`set_mtu`](crate::set_mtu) gives it, which must not be less while the container may send.
///
/// # Errors
/// [`HostError::MtuOutOfRange`], [`HostError::BridgeGone`], and [`HostError::NothingAttached`] when the interface is not
/// there, or not ours.
pub fn set_container_mtu(
    bridge: &Bridge,
    netns: &Netns,
    ifname: &InterfaceName,
    mtu: u32,
) -> Result<(), HostError> {
    check_mtu(mtu, MTU_MIN)?;
    let mut sides = Sides::open(netns)?;
    let bridge = bridge::find(&mut sides.host, &bridge.name)?;
    let host_name = veth::host_end_name(netns.id(), ifname);
    match veth::find(&mut sides, &host_name, ifname)? {
        Found::Pair(pair) if pair.host.master == Some(bridge.index) => {
            let change = LinkChange { mtu: Some(mtu), ..LinkChange::default() };
            let changed = sides.inside.change_link(pair.inside.index, &change);
            changed.map_err(|error| error.during("set the MTU of", ifname))
        }
        Found::Pair(_) | Found::Nothing | Found::InsideTaken | Found::HostTaken(_) => {
            Err(HostError::NothingAttached)
        }
    }
}
