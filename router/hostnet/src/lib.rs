//! The only crate that changes the host's network: bridge, veth pairs, addresses, namespaces, the firewall.
//!
//! Owns every request to rtnetlink that makes, alters or removes an interface, and the sysctls of those interfaces.
//! Owns no policy: which container gets which address, and when, is decided elsewhere. It moves no frames; the TAP that
//! becomes the uplink is opened by the data plane. It asks the network for addresses that are about to be used.
//!
//! Beside that it tells of changes of the host's addresses, and sets an option of sockets for which no crate has a type.
//!
//! All functions are synchronous and speak to the network namespace of the calling thread, which is "the host" in these
//! pages. Each is bounded: a request to the kernel has a deadline, a dump a number of attempts.
//!
//! What is ours bears a mark (`IFLA_IFALIAS`), so that a later life of the router, or `reset`, knows it again. Nothing
//! without a mark is altered or removed. On the host nothing changes but our own interfaces, their sysctls, our own
//! tables of nftables, and, where the host is exposed, its IPv4 forwarding and two rules of iptables.

// The tests' support is shared between those in here and those in tests/, where the crate goes by its name.
#[cfg(test)]
extern crate self as mesh_hostnet;

mod address;
mod attach;
mod bridge;
mod capture;
mod detach;
mod error;
mod events;
mod expose;
mod fdb;
mod firewall;
mod groups;
mod interfaces;
mod mac;
mod mtu;
mod name;
mod namespace;
mod netlink;
mod node_local;
mod patch;
mod probe;
mod program;
mod reset;
mod routes;
mod sealer;
mod sniffer;
mod socket;
mod sysctl;
mod underlay;
mod undo;
mod veth;
mod vxlan;
mod watch;

pub use address::AddressFault;
pub use attach::{AttachSpec, Attachment, attach, check_container};
pub use bridge::{
    Bridge, MTU_MAX, MTU_MIN, PortKind, add_port, attachments, ensure_bridge, is_standing, restore_bridge,
    set_mtu,
};
pub use capture::{make_capture_pair, remove_capture_pair};
pub use detach::detach;
pub use error::{HostError, KernelError};
pub use expose::{expose, forwards, hide, set_forwarding};
pub use fdb::{Fdb, FdbChange, FdbEntry, FdbEvent, FdbPlace, FdbWatch};
pub use firewall::{Exposure, Firewall, FirewallState, NODE_LOCAL, PortGuard, SealedTunnel, Tunnel, Wall};
pub use groups::{GroupWatch, WantedGroups};
pub use interfaces::{addresses_of, has_interface, interfaces_of};
pub use mac::{MacAddress, MacAddressError};
pub use mtu::set_container_mtu;
pub use name::{BRIDGE_NAME_LENGTH_MAX, BridgeName, INTERFACE_NAME_LENGTH_MAX, InterfaceName, NameError};
pub use namespace::{Netns, NetnsId, NetnsRef, NetnsRefError};
pub use node_local::{AddressPlace, add_node_local, ipv4_of, place_of};
pub use patch::{Patch, ensure_patch, find_patch, remove_patch};
pub use probe::{PROBE_EVERY, PROBES, Probe, probe};
pub use program::ProgramError;
pub use reset::remove_all;
pub use routes::{HostRoute, route_into};
pub use sealer::{SEALED_NET, Sealer, SealerLink, ensure_sealer, esp_interface_id, is_sealed, remove_sealer};
pub use sniffer::{Sniffed, Sniffer};
pub use socket::set_tcp_rto_max;
pub use underlay::{UNDERLAY_MTU_DEFAULT, underlay_mtu};
pub use veth::host_end_name;
pub use vxlan::{
    UnderlayFamily, VxlanDevice, VxlanSpec, ensure_vxlan, find_vxlan, remove_tunnels, remove_vxlan,
    set_default_uplink,
};
pub use watch::AddressWatch;
