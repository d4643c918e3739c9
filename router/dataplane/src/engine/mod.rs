//! The pure half of the data plane: what to do with a frame, who has which MAC, which links live. It reads no
//! clock, holds no lock and does no input or output; the threads of `io` and the simulator drive it.
#![forbid(unsafe_code)]

pub mod counters;
pub mod decide;
pub mod macs;
pub mod plan;
pub mod prober;
pub mod tables;

pub use counters::{CounterSnapshot, Counters, Direction, DropReason, Event, Path, Traffic};
pub use decide::{Arrival, Decision, Key, Transmission, decide};
pub use macs::{Learned, Location, MacEntry, MacTable, Owner};
pub use plan::{LinkPlan, Plan, ReceivePlan, SendPlan, Tree, TreeChild};
pub use prober::{LinkReport, Prober};
pub use tables::{FloodChild, FloodTree, LinkId, Tables};
