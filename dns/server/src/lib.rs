//! The name server of a host: it speaks DNS to containers, and to upstream servers for names that are not ours.
//!
//! Owns listeners, the limits against floods and amplification, and the forwarding of other names. Owns no name:
//! those are in `mesh-names`, which answers, and this crate carries questions and answers. The caller publishes
//! snapshots of the names, and says where to listen, whom to serve and whom to ask.
//!
//! ```text
//! client ──► udp, tcp ──► service ──┬─► request (form) ─► rate ─► names (snapshot) ─► reply ──► client
//!                                   └─► forward ─► cache, or exchange ══► upstream servers
//! ```
//!
//! **Why not hickory-server.** Its `Server` spawns a task for each datagram before anybody may look at its sender,
//! accepts any number of connections, tries again at once when an accept fails, and lets a handler answer with
//! records only, so that nothing can be passed on byte for byte. The limits of [`limits`] have to stand before its
//! tasks, not inside them. What remains is `hickory-proto`: it decodes queries and encodes our own answers. Where
//! messages of others are looked at, which must leave as they came, `raw` finds the places of their fields.
//!
//! **Invariants.** Nothing that a client or an upstream server sends panics, spins or is held without bound. Every
//! query is answered within four seconds or has been dropped on purpose. A name of ours never goes to others, and
//! others never put a name on an address of ours.
#![forbid(unsafe_code)]

mod cache;
mod config;
mod error;
mod exchange;
mod forward;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod limits;
mod rate;
mod raw;
mod rebinding;
mod reply;
mod request;
mod resolv_conf;
mod server;
mod service;
mod stats;
mod tcp;
mod udp;
mod upstreams;

pub use config::{Config, Listen, Rates, Upstream};
pub use error::Error;
pub use mesh_names::{Rng, Snapshot};
pub use server::Server;
pub use stats::{LATENCY_BOUNDS_US, Outcome, Stats};
