//! What strangers and members may send, fed to the code that reads it: one function a target, from bytes to nothing.
//!
//! Owns the targets and their corpora ([`corpus`]). A target fails by a panic, an assertion of its own, or time and
//! memory out of proportion. `cargo xtask fuzz` looks for new inputs, guided by coverage; the tests of this crate run every
//! input that was worth keeping, and mutations of it, in each check.
#![forbid(unsafe_code)]

pub mod corpus;
mod decoders;
mod handshakes;
mod input;
mod member;
mod names;
mod routers;

/// A name, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 12] = [
    ("control-message", decoders::control_message),
    ("record", decoders::record),
    ("sleeve-packet", decoders::sleeve_packet),
    ("ethernet", decoders::ethernet),
    ("handshake-responder", handshakes::responder),
    ("handshake-initiator", handshakes::initiator),
    ("session-frames", handshakes::frames),
    ("router-strangers", routers::strangers),
    ("router-member", member::member),
    ("dns-query", names::query),
    ("dns-connection", names::connection),
    ("dns-upstream-answer", names::upstream_answer),
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}
