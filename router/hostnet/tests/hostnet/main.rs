//! The crate against a real kernel, in namespaces that the tests make. They need root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attach;
mod bridge;
mod detach;
mod firewall;
mod namespace;
mod probe;
mod refusals;
mod reset;
mod routes;
mod support;
mod underlay;
mod watch;
