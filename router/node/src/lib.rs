//! The control plane of one router as one pure state machine.
//!
//! Composes topology, sessions and data links addresses and names into [`Node`]. Owns every decision about
//! peers. Owns no socket, clock, file, thread or source of randomness: `mesh-daemon` drives one node with the real
//! ones, `mesh-sim` many with virtual ones.
#![forbid(unsafe_code)]

mod addresses;
mod admission;
mod bucket;
mod clones;
mod connection;
mod connections;
mod counters;
mod data_link;
mod gossip;
mod groups;
mod interface;
pub mod limits;
mod links;
mod macs;
mod mail;
mod names;
mod news;
mod node;
mod orphans;
mod outbound;
mod plan;
mod refusals;
mod relay;
mod rivals;
mod route_status;
mod sessions;
mod status;
mod strangers;
mod survey;
mod targets;
mod told;
mod vxlan;

pub use addresses::Addresses;
pub use connection::CloseCause;
pub use counters::{Count, Counters, GossipTraffic};
pub use groups::{GroupMembers, Wanted};
pub use interface::{
    AddressOutput, Config, ConnectionId, DialFailure, Event, Input, Output, Report, VxlanEnd,
};
pub use node::Node;
pub use plan::{EspPlan, LinkPlan, Plan, ReceivePlan, SendPlan};
pub use route_status::{BroadcastRoute, RouteReason, RouteStatus, UnicastRoute};
pub use status::{ConnectionState, ConnectionStatus, PeerLink, PeerStatus, TargetState, TargetStatus};
pub use vxlan::KernelPath;
