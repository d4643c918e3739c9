//! What a router may do beyond an ordinary process of root's: as little as its work takes (capabilities(7)).
//!
//! Given up before any thread starts, since each thread has its own set and inherits that of the one which starts it. The
//! bounding set is whoever's that started the router.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

use crate::Error;

/// What stays, and for what.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN // bridge, veth, TAP, VXLAN, nftables
    .union(CapabilitySet::NET_RAW) // packet sockets: capture mode
    .union(CapabilitySet::NET_BIND_SERVICE) // names are served on port 53
    .union(CapabilitySet::SYS_ADMIN) // setns(2) into a container's network
    .union(CapabilitySet::SYS_PTRACE); // /proc/PID/ns of processes that may do more than this one

/// Gives up all other capabilities, and for ever what a program with a set-user-id bit would add.
pub(crate) fn drop_others() -> Result<(), Error> {
    let given_up = || {
        let has = capabilities(None)?;
        let kept = has.permitted & KEPT;
        set_no_new_privs(true)?;
        set_capabilities(
            None,
            CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
        )
    };
    given_up().map_err(|errno| Error::System { action: "give up capabilities", source: errno.into() })
}
