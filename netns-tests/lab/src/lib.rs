//! A laboratory of network namespaces for tests of `mesh`.
//!
//! Owns everything that a test needs around the binary: hosts, a switch, containers, NAT routers, faults,
//! captures, probes, and the removal of it all. Knows `mesh` from the outside only.
//!
//! ```no_run
//! use mesh_lab::{Lab, eventually, secs};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::new("ping")?;
//! let (a, b) = (lab.host("a")?, lab.host("b")?);
//! let before = a.network_state()?;
//!
//! a.mesh(["launch"])?;
//! b.mesh(["launch", &a.ip().to_string()])?;
//! let (c1, c2) = (a.container("c1")?, b.container("c2")?);
//! a.mesh(["attach", &c1.spec(), "10.32.0.1/12"])?;
//! b.mesh(["attach", &c2.spec(), "10.32.0.2/12"])?;
//! eventually(secs(5), || c1.ping("10.32.0.2"))?;
//!
//! lab.cut(&a, &b)?;
//! a.mesh(["reset", "--force"])?;
//! before.must_equal(&a.network_state()?)?;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!            switch (a bridge in a namespace of its own; faults are nft rules in it)
//!      p1 │          w2 │            p3 │
//!         │        wire (a thread)      │
//!         │             │ p2            │
//!   host a: eth0   host b: eth0   NAT router: eth0 ─ masquerade ─ switch ─ eth0 of hosts behind
//! ```
//!
//! A lab takes itself away when it is dropped, a watcher process does so when the test was killed, and the
//! next lab does so when both were.

#![deny(unsafe_code)]

mod capture;
mod chaos;
mod command;
mod conntrack;
mod container;
mod docker;
mod eventually;
mod faults;
mod frames;
mod host;
mod id;
mod interfaces;
mod lab;
mod machine;
mod namespace;
mod nat;
#[expect(unsafe_code, reason = "packet sockets have no safe interface; each block says why it is sound")]
mod packet;
mod probe;
mod process;
mod rate;
#[doc(hidden)]
pub mod reaper;
mod router;
mod segment;
mod site;
mod state;
mod sweep;
mod tools;
mod wait;
mod wire;

pub use capture::{CAPTURE_BYTES_MAX, Capture};
pub use chaos::{CHAOS_FRAMES_MAX, Chaos, ChaosCounts, ChaosQueue};
pub use command::{COMMAND_DEADLINE, Cmd, CommandFailed, Output};
pub use container::Container;
pub use docker::{Docker, IMAGE, busybox_root};
pub use eventually::{Sight, always, eventually, millis, patience, secs};
pub use faults::{Direction, Protocol};
pub use frames::{Frame, Frames, Transport};
pub use host::Host;
pub use lab::Lab;
pub use machine::Machine;
pub use namespace::Namespace;
pub use nat::{Nat, NatKind};
pub use probe::{
    EchoServer, Flow, FlowReport, Iperf, IperfReport, IperfServer, MulticastListener, Ping, PingStats, Rtt,
};
pub use process::Process;
pub use rustix::process::Signal;
pub use state::{NetworkState, StateDiff};
