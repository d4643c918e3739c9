//! Many routers in one process, in virtual time, on a bad network: the same [`mesh_node::Node`] that the daemon runs.
//!
//! One 64-bit seed decides everything: who names whom, how slow and lossy the network is, what breaks and when, and
//! how the bytes of a connection are cut. The same seed gives the same run to the byte, so a failure is a number that
//! can be replayed. A run has two parts. While things break, only safety is asked for: what [`Violation`] lists never
//! happens, at no step. Then everything is repaired, and liveness is asked for: all routers agree within
//! [`CONVERGED_WITHIN`], and then fall quiet.
//!
//! Owns the model of the network ([`network`]), of TCP and of the probes that the data plane sends. Owns no rule of
//! the routers themselves: it never looks behind their public interface.
#![forbid(unsafe_code)]

mod addresses;
mod convergence;
mod crowd;
mod faults;
mod gather;
mod host;
mod invariants;
mod names;
pub mod nat;
pub mod network;
mod routes;
mod run;
mod scale;
mod scenario;
mod sleeve;
mod tcp;
mod trace;
mod world;

#[cfg(test)]
mod tests;

pub use addresses::{AddressFailure, AddressOutcome, AddressTally, Wrong, run_addresses};
pub use convergence::Difference;
pub use crowd::Crowd;
pub use faults::{Boot, Crash, Fault};
pub use invariants::{Panic, Violation};
pub use names::{NameFailure, NameOutcome, NameTally, WrongName, run_names};
pub use run::{
    CONVERGED_WITHIN, Failure, Outcome, QUIET_FOR, Reason, SETTLED_FOR, Unrest, control_bytes_max, run,
};
pub use scale::{Figures, Measurement, measure};
pub use scenario::{HostPlan, Scenario, Secret, Shape};
pub use trace::{Sink, Trace};
pub use world::{HostId, World};
