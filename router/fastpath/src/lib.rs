//! The kernel's share of the forwarding, kept in step with what the router wants.
//!
//! Will own the model of a flow, the reconciler that compares wanted flows with those in the kernel, and two back ends:
//! `vxlan`, which writes forwarding entries of a bridge and of a VXLAN device, and `ovs`, which fills the openvswitch
//! datapath. Will own no decision: flows mirror what `mesh_dataplane`'s engine decides, so that a fast path that fails
//! makes traffic slower and never wrong.
//!
//! Empty in this version: every frame goes through user space.
