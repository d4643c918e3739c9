//! Who is there, who is connected to whom, which way frames go, and whom to dial next.
//!
//! Owns the merged records of all peers ([`Topology`]) and those of channels that are only carried ([`Carried`]), the
//! routes that follow from them ([`Routes`]), who shall be connected with whom ([`Formation`]), and the schedule of
//! connection attempts ([`Connector`]). Owns no connection and no session: `mesh-node` does, and tells this crate what
//! became of them.
//!
//! **Why the merge is safe.** A record has one writer, its origin, which signs it and numbers it with (boot, version);
//! a tag from the signature tells apart what was numbered alike. Merging keeps the greatest (boot, version, tag). That
//! is a maximum over a total order per origin, so it is commutative, associative and idempotent: peers that have seen
//! the same records agree, in whatever order they came.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod carried;
pub mod connector;
mod forest;
pub mod formation;
pub mod graph;
mod pair;
mod reach;
pub mod records;
pub mod routes;
pub mod small_graphs;
mod spread;
pub mod topology;

pub use backoff::Backoff;
pub use carried::Carried;
pub use connector::{Connector, Target, TargetStatus, TooManyTargets};
pub use formation::Formation;
pub use graph::Graph;
pub use records::{
    Compared, Content, Ghost, Limits, MergeError, Merged, OpenRecord, Record, Records, Verify, peek,
};
pub use routes::{Routes, Tree};
pub use spread::{FED_BY_ALL_MAX, SOURCES};
pub use topology::Topology;
