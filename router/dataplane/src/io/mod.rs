//! System calls and threads of the data plane. It owns the TAP interface or the capture, the UDP sockets and the loops around
//! them; what to do with a frame is decided in [`crate::engine`].

mod forwarder;
mod load;
mod long;
mod outbox;
pub(crate) mod pcap;
mod probing;
mod recovery;
pub(crate) mod tap;
pub(crate) mod udp;
pub(crate) mod uplink;
pub(crate) mod wake;
pub(crate) mod worker;
