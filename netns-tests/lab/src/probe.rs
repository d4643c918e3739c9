//! Traffic for tests: pings, throughput, multicast, echo; all as methods of a [`Namespace`].
//!
//! [`Namespace`]: crate::Namespace

mod arping;
mod connect;
mod echo;
mod flow;
mod iperf;
mod multicast;
mod ping;

pub use echo::EchoServer;
pub use flow::{Flow, FlowReport};
pub use iperf::{Iperf, IperfReport, IperfServer};
pub use multicast::MulticastListener;
pub use ping::{Ping, PingStats, Rtt};
