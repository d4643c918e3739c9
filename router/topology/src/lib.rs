//! Who is there, who is connected to whom, which way frames go, and whom to dial next.
//!
//! Owns the merged records of all peers ([`Topology`]), the routes that follow from them ([`Routes`]), and the
//! schedule of connection attempts ([`Connector`]). Owns no connection and no session: `mesh-node` does, and tells
//! this crate what became of them.
//!
//! **Why the merge is safe.** A record has one writer, its origin, which signs it and numbers it with (boot, version);
//! a tag from the signature tells apart what was numbered alike. Merging keeps the greatest (boot, version, tag). That is a maximum over a total order per origin, so it is commutative,
//! associative and idempotent: peers that have seen the same records agree, in whatever order they came.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod connector;
pub mod records;
pub mod routes;

pub use backoff::Backoff;
pub use connector::{Connector, Target, TargetStatus};
pub use records::{MergeError, Merged, Topology};
pub use routes::{Routes, Tree, TreeChild};
