//! The kernel's share of the forwarding, kept in step with what the router wants.
//!
//! [`model`] says which flows there shall be, and what to change: it is pure, and the same for every back end. `vxlan`
//! carries it out with the forwarding entries of a bridge and of VXLAN devices, or with the flows of [`ovs`]; [`seal`]
//! has [`wireguard`] or [`esp`] seal what goes where nothing may travel in clear.
//!
//! Owns no decision about frames: a flow mirrors where user space sends the frames of a MAC, so that a fast path that
//! fails makes traffic slower and never wrong. The devices themselves are made by `mesh-hostnet`.

pub mod esp;
mod genl;
pub mod model;
mod netlink;
pub mod ovs;
pub mod seal;
pub mod vxlan;
pub mod wireguard;
