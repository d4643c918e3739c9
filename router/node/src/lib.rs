//! The control plane of one router as one pure state machine.
//!
//! Composes topology, sessions and data links (later: addresses and names) into [`Node`]. Owns every decision about
//! peers. Owns no socket, clock, file, thread or source of randomness: `mesh-daemon` drives one node with the real
//! ones, `mesh-sim` many with virtual ones.
#![forbid(unsafe_code)]

mod connection;
mod data_link;
mod gossip;
mod interface;
pub mod limits;
mod links;
mod node;
mod plan;
mod refusals;
mod sessions;
mod status;

pub use connection::CloseCause;
pub use interface::{Config, ConnectionId, DialFailure, Event, Input, Output, Report};
pub use node::Node;
pub use plan::{LinkPlan, Plan, ReceivePlan, SendPlan};
pub use status::{ConnectionState, ConnectionStatus, PeerLink, PeerStatus, TargetState, TargetStatus};
