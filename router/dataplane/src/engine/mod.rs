//! The pure half of the data plane: what to do with a frame, who has which MAC, which links live, how super-frames are
//! cut and put together. It reads no clock, holds no lock and does no input or output; the threads of `io` and the
//! simulator drive it.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod counters;
pub mod decide;
pub mod duplicates;
pub mod groups;
pub mod macs;
pub mod merge;
pub mod node_local;
pub mod offload;
pub mod parts;
pub mod places;
pub mod plan;
pub mod prober;
pub mod rate_limit;
pub mod relayed;
#[cfg(test)]
mod samples;
pub mod segment;
pub mod sizes;
pub mod tables;
pub mod too_long;

pub use counters::{CounterSnapshot, Counters, Direction, DropReason, Event, Path, Traffic};
pub use decide::{Arrival, Decision, Key, Transmission, decide};
pub use duplicates::Duplicates;
pub use groups::{GROUP_COPIES_MAX, Groups, tells_of_members};
pub use macs::{Learned, Location, MacEntry, MacTable, Owner};
pub use merge::{Injection, Merger};
pub use node_local::is_node_local;
pub use offload::Offload;
pub use parts::Reassembly;
pub use places::Places;
pub use plan::{CANDIDATES_MAX, LinkPlan, Plan, ReceivePlan, SendPlan, Tree};
pub use prober::{DueProbe, LinkReport, Prober};
pub use rate_limit::RateLimit;
pub use relayed::RelayedPeers;
pub use segment::Pieces;
pub use sizes::{DueSizeProbe, MTU_RESERVE, PathSize, Sizes};
pub use tables::{FloodTree, LinkId, Tables};
