//! How long one durable allocation takes, and how many there are in a second when many clients ask at once.
//!
//! Owns the measurement alone. The router is a whole one, its state directory lies where temporary files do, and each answer
//! comes by the control socket after its record was brought to disk. What the disk gives to anybody is measured in the same run:
//! bytes as many are appended to a file in the same directory and synchronized, in turn with the allocations.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Write as _;
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

/// The log of address management in a state directory.
const LOG_FILE: &str = "ipam.log";

fn main() -> Result<()> {
    let lab = Lab::new("bench-addresses")?;
    let host = lab.host("h1")?;
    host.mesh(["launch", "--ipam-range", "10.64.0.0/16"])?;
    allocate(&host, "first")?;

    let record = record_of_one(&host)?;
    let mut bare = File::options().append(true).create_new(true).open(host.state_dir().join("bare"))?;
    let (mut took, mut took_bare) = (Vec::with_capacity(SINGLE), Vec::with_capacity(SINGLE));
    for n in 0..SINGLE {
        let asked = Instant::now();
        allocate(&host, &format!("single-{n}"))?;
        took.push(asked.elapsed());
        let begun = Instant::now();
        bare.write_all(&record)?;
        bare.sync_data()?;
        took_bare.push(begun.elapsed());
    }

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
    println!("one durable allocation: {}", shown(&mut took));
    println!("its {} bytes by fdatasync alone: {}", record.len(), shown(&mut took_bare));
    println!("{BATCH} allocations by {CLIENTS} clients at once: {rate:.0} a second");
    Ok(())
}

fn allocate(host: &Host, id: &str) -> Result<()> {
    let command = Command::IpamAllocate { id: id.to_owned(), subnet: None, timeout_ms: 10_000 };
    Client::connect(&host.run_dir(), secs(20))?.call::<AddressesDocument>(command)?;
    Ok(())
}

/// As many bytes as the log grows by for one allocation.
fn record_of_one(host: &Host) -> Result<Vec<u8>> {
    let len =
        || Ok::<_, anyhow::Error>(usize::try_from(fs::metadata(host.state_dir().join(LOG_FILE))?.len())?);
    let before = len()?;
    allocate(host, "second")?;
    let after = len()?;
    Ok(vec![0; after.checked_sub(before).context("the log was cut meanwhile")?])
}

fn shown(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1_000.0;
    format!("median {:.2} ms, p99 {:.2} ms, of {}", at(50), at(99), times.len())
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
