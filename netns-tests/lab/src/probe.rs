//! Traffic for tests: pings, throughput, multicast, echo; all as methods of a [`Namespace`].
//!
//! [`Namespace`]: crate::Namespace

mod arping;
mod echo;
mod iperf;
mod multicast;
mod ping;

pub use echo::EchoServer;
pub use iperf::{Iperf, IperfReport, IperfServer};
pub use multicast::MulticastListener;
pub use ping::{Ping, PingStats, Rtt};
