//! The data plane in user space: frames between the local bridge and the neighbours' sleeve sockets.
//!
//! ```text
//!  bridge ── TAP ─► capture ─► decide ─► seal ─► UDP ──► neighbours       one OS thread for each queue does all of it
//!         ◄─ TAP ── inject  ◄─ decide ◄─ open ◄─ UDP ◄──
//! ```
//!
//! Frames come and go as super-frames of up to 64 KiB where the host's TCP makes or takes them: cut before they are
//! sealed, merged after they were opened. Neighbours see frames as on a wire only.
//!
//! [`engine`] is the pure part: decisions, MAC table, liveness, cutting and merging. `shared` holds what threads have in common; `io` has
//! the system calls and the threads. [`Dataplane`] is the whole as the daemon uses it: the control plane
//! [publishes](Dataplane::publish) a [`Plan`](engine::Plan) and gets [`Report`]s; neither waits for the other.
//!
//! Where there is no TUN, packet capture on a veth takes the TAP's place, one frame at a time.
//!
//! This crate makes its TAP interface and nothing else on the host: bridges and addresses are `mesh-hostnet`'s.
#![deny(unsafe_code)]

mod dataplane;
pub mod engine;
mod io;
mod pulse;
mod report;
mod shared;
mod sightings;

pub use dataplane::{Config, Dataplane, LinkState, StartError, Uplink, WORKERS_MAX};
pub use io::pcap::PcapError;
pub use io::tap::TapError;
pub use pulse::Pulse;
pub use report::{Failure, Report};
pub use sightings::Sightings;
