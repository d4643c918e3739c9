//! The data plane in user space: frames between the local bridge and the neighbours' sleeve sockets.
//!
//! ```text
//!  bridge ── TAP ─► capture ─► decide ─► seal ─► UDP ──► neighbours       one OS thread for each queue does all of it
//!         ◄─ TAP ── inject  ◄─ decide ◄─ open ◄─ UDP ◄──
//! ```
//!
//! [`engine`] is the pure part: decisions, MAC table, liveness. `shared` holds what threads have in common; `io` has
//! the system calls and the threads. [`Dataplane`] is the whole as the daemon uses it: the control plane
//! [publishes](Dataplane::publish) a [`Plan`](engine::Plan) and gets [`Report`]s; neither waits for the other.
//!
//! This crate makes its TAP interface and nothing else on the host: bridges and addresses are `mesh-hostnet`'s.
#![deny(unsafe_code)]

mod dataplane;
pub mod engine;
mod io;
mod report;
mod shared;

pub use dataplane::{Config, Dataplane, LinkState, StartError, WORKERS_MAX};
pub use io::tap::TapError;
pub use report::{Failure, Report};
