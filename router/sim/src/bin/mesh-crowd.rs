//! Routers at many addresses of this machine, in one process, until it is killed: a network for whole routers to be watched in.
#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use clap::Parser;
use mesh_sim::Crowd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How often it is told how far they are.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Runs many routers without a data plane, each at an address of its own.
#[derive(Parser)]
struct Options {
    /// The first one's address; those of the others follow
    first: Ipv4Addr,
    /// How many
    count: usize,
    /// Whom the first one dials
    peers: Vec<SocketAddr>,
}

#[expect(clippy::print_stdout, reason = "printing is how this program tells how far it is")]
fn main() -> io::Result<()> {
    let Options { first, count, peers } = Options::parse();
    // Each connection between two of them has both its ends here.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let mut crowd = Crowd::new(first, count, &peers)?;
    let (began, mut told) = (Instant::now(), Instant::now());
    loop {
        crowd.turn()?;
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            let (started, known) = crowd.progress();
            println!(
                "{:.0} s: {started} of {count} run, each knows {known} peers or more",
                began.elapsed().as_secs_f64()
            );
        }
    }
}
