//! A laboratory of network namespaces for tests of `mesh`.
pub mod reaper;
mod command; mod eventually; mod id; mod namespace; mod process; mod site; mod state; mod sweep; mod tools;
