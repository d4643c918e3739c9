//! The rules of the house that no compiler checks, as tests over the workspace's manifests and sources.
//!
//! A test that fails names the file and the rule. To allow something new, change the table that forbids it, in a
//! commit that says why.
#![forbid(unsafe_code)]

mod clippy_settings;
mod dependencies;
mod edges;
mod purity;
mod text;
mod tokens;
mod workspace;
