//! A whole server on loopback addresses, asked by queries that another codec has made: what a client sees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fixture;
mod forwarding;
mod limits;
mod messages;
mod tcp;
mod upstream;
mod zones;
