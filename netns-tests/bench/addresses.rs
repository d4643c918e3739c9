//! How long one durable allocation takes, and how many there are in a second when many clients ask at once.
//!
//! Owns the measurement alone. The router is a whole one, its state directory lies where temporary files do, and each answer
//! comes by the control socket after its record was brought to disk; so the disk is named beside the figures.
#![forbid(unsafe_code)]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mesh_api::{AddressesDocument, Client, Command};
use mesh_lab::{Host, Lab, secs};

/// Allocations that are made one after the other.
const SINGLE: usize = 1_000;

/// Allocations that are made by many clients at once.
const BATCH: usize = 5_000;

/// Clients at once: half of what the control socket serves.
const CLIENTS: usize = 32;

fn main() -> Result<()> {
    let lab = Lab::new("bench-addresses")?;
    let host = lab.host("h1")?;
    host.mesh(["launch", "--ipam-range", "10.64.0.0/16"])?;
    allocate(&host, "first")?;

    let mut took = Vec::with_capacity(SINGLE);
    for n in 0..SINGLE {
        let asked = Instant::now();
        allocate(&host, &format!("single-{n}"))?;
        took.push(asked.elapsed());
    }
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    let shown = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1_000.0);

    let begun = Instant::now();
    std::thread::scope(|scope| {
        let host = &host;
        let client = |client: usize| {
            move || (client..BATCH).step_by(CLIENTS).try_for_each(|n| allocate(host, &format!("batch-{n}")))
        };
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(client(n))).collect();
        for client in clients {
            let Ok(done) = client.join() else { bail!("a client panicked") };
            done?;
        }
        Ok(())
    })?;
    let rate = BATCH as f64 / begun.elapsed().as_secs_f64();

    println!("state directory on {}", file_system(&host)?);
    println!("one durable allocation: median {}, p99 {}, of {SINGLE}", shown(at(50)), shown(at(99)));
    println!("{BATCH} allocations by {CLIENTS} clients at once: {rate:.0} a second");
    Ok(())
}

fn allocate(host: &Host, id: &str) -> Result<()> {
    let command = Command::IpamAllocate { id: id.to_owned(), subnet: None, timeout_ms: 10_000 };
    Client::connect(&host.run_dir(), secs(20))?.call::<AddressesDocument>(command)?;
    Ok(())
}

/// The device and the type of the file system that a host's state directory is on (proc_pid_mountinfo(5)).
fn file_system(host: &Host) -> Result<String> {
    let directory = fs::canonicalize(host.state_dir())?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts
        .lines()
        .filter_map(|line| Some((line.split(' ').nth(4)?, line.split_once(" - ")?.1)))
        .filter(|(point, _)| directory.starts_with(point))
        .max_by_key(|(point, _)| point.len());
    let (_, kind) = mount.context("every directory is on a file system")?;
    let mut words = kind.split(' ');
    let (kind, device) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(format!("{device} ({kind})"))
}
