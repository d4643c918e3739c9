//! What a router of a large network needs: memory, and CPU and bandwidth at rest (GOALS C5 and C6).
//!
//! Owns the measurement alone. All routers are whole ones, each in a network namespace of its own, with one TCP connection to
//! each neighbour and a data plane; nothing is simulated. They are launched some at a time, so that a machine with few CPUs
//! keeps up with what a new one has everybody do, and no further ones when memory grows scarce.
//!
//! ```text
//! cargo build --release -p mesh -p mesh-lab --bins
//! cargo bench -p mesh-netns-tests --bench crowd -- [ROUTERS]...
//! ```
#![forbid(unsafe_code)]

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_api::{Client, Command, StatusDocument};
use mesh_lab::{Host, Lab, eventually, secs};

/// Routers, where nobody says how many.
const ROUTERS: usize = 40;

/// Routers that are launched at once. Each waits until those before it have begun to talk.
const BATCH: usize = 10;

/// Memory that is left to everybody else, in KiB: with less than this available no further router is launched.
const SPARED_KIB: u64 = 5 << 20;

/// How long all of them may take until all know all.
const JOINED_WITHIN: Duration = secs(900);

/// All rest so long before anything is counted: what their joining has left open is done then.
const SETTLING: Duration = secs(60);

/// For how long CPU time and bytes are counted.
const WINDOW: Duration = secs(60);

/// The unit of times in proc_pid_stat(5), in a second: what the kernel tells every program (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<()> {
    let wishes = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut counts = wishes
        .map(|text| text.parse().with_context(|| format!("{text:?} is no number of routers")))
        .collect::<Result<Vec<usize>>>()?;
    if counts.is_empty() {
        counts.push(ROUTERS);
    }
    for count in counts {
        measure(count).with_context(|| format!("with {count} routers"))?;
    }
    Ok(())
}

fn measure(count: usize) -> Result<()> {
    let lab = Lab::crowd(&format!("bench-crowd-{count}"))?;
    let began = Instant::now();
    let hosts = (0..count).map(|number| lab.host(&format!("h{number}"))).collect::<Result<Vec<_>>>()?;
    let made = began.elapsed();
    let began = Instant::now();
    for first in (0..count).step_by(BATCH) {
        let available = available_kib()?;
        ensure!(available > SPARED_KIB, "{first} routers leave {} MiB of memory", available >> 10);
        launch(&hosts, first..count.min(first + BATCH))?;
        // Whoever is launched next finds a network that knows most of those before it.
        eventually(JOINED_WITHIN, || knows(&hosts[0], count.min(first + BATCH)))?;
    }
    let launched = began.elapsed();
    eventually(JOINED_WITHIN, || hosts.iter().try_for_each(|host| knows(host, count)))?;
    let joined = began.elapsed();
    println!(
        "{count} routers: hosts made in {:.0} s; launched in {:.0} s, {BATCH} at a time; all know all after {:.0} s",
        made.as_secs_f64(),
        launched.as_secs_f64(),
        joined.as_secs_f64()
    );
    std::thread::sleep(SETTLING);

    let routers = hosts.iter().map(Router::of).collect::<Result<Vec<_>>>()?;
    let (before, began) = (used(&routers)?, Instant::now());
    std::thread::sleep(WINDOW);
    let (after, passed) = (used(&routers)?, began.elapsed().as_secs_f64());
    let per_second = |of: fn(&Used) -> f64| -> Vec<f64> {
        before.iter().zip(&after).map(|(before, after)| (of(after) - of(before)) / passed).collect()
    };
    let memory = |of: &str| routers.iter().map(|router| router.memory_kib(of)).collect::<Result<Vec<_>>>();
    let connections = hosts.iter().map(|host| Ok(status(host)?.connections.established as f64));

    println!("{:>38} {:>9} {:>9}", "of one router", "median", "most");
    tell("resident memory, MiB", memory("Rss")?, 1024.0);
    tell("its share of what several have, MiB", memory("Pss")?, 1024.0);
    tell("its own memory, MiB", memory("Private_Dirty")?, 1024.0);
    tell("CPU at rest, % of one", per_second(|used| used.cpu_seconds), 0.01);
    tell("sent at rest, B/s on the wire", per_second(|used| used.sent_bytes), 1.0);
    tell("connections", connections.collect::<Result<Vec<_>>>()?, 1.0);
    println!(
        "{:>38} {:>9}",
        "CPUs that the routers share",
        std::thread::available_parallelism().map_or(1, NonZero::get)
    );
    // Each host that ends has the others busy; they are killed at once with the lab.
    Ok(())
}

/// Launches routers beside each other. Each names the first one, and the one before it.
fn launch(hosts: &[Host], range: std::ops::Range<usize>) -> Result<()> {
    std::thread::scope(|scope| {
        let one = |index: usize| {
            move || -> Result<()> {
                let options =
                    ["launch", "--datapath", "sleeve", "--no-dns", "--http", "none", "--timeout", "120"];
                let mut command = hosts[index].mesh_cmd(options)?.deadline(secs(150));
                if index > 0 {
                    command = command.args([0, index - 1].map(|named| hosts[named].ip().to_string()));
                }
                command.run()?;
                Ok(())
            }
        };
        let launching: Vec<_> = range.map(|index| scope.spawn(one(index))).collect();
        launching.into_iter().try_for_each(|thread| match thread.join() {
            Ok(launched) => launched,
            Err(_) => bail!("a launch panicked"),
        })
    })
}

fn status(host: &Host) -> Result<StatusDocument> {
    Ok(Client::connect(&host.run_dir(), secs(60))?.call(Command::Status)?)
}

/// Wants a router to know of so many peers, itself among them.
fn knows(host: &Host, count: usize) -> Result<()> {
    let found = status(host)?.peers;
    ensure!(found == count as u64, "{} knows {found} of {count} peers", host.label());
    Ok(())
}

/// The process of one router.
struct Router {
    directory: PathBuf,
}

/// What a router has used since it began.
struct Used {
    cpu_seconds: f64,
    sent_bytes: f64,
}

impl Router {
    fn of(host: &Host) -> Result<Self> {
        Ok(Self { directory: PathBuf::from(format!("/proc/{}", host.router_pid()?)) })
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.directory.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// User and system time of all its threads, and what its host has sent.
    fn used(&self) -> Result<Used> {
        let stat = self.read("stat")?;
        // The name of the program may have blanks; fields are counted from what follows it: utime and stime are 14 and 15.
        let (_, fields) = stat.rsplit_once(") ").context("the name stands in brackets")?;
        let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse().unwrap_or(0)).sum();
        let interfaces = self.read("net/dev")?;
        let underlay = interfaces.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
        let sent = underlay.and_then(|counters| counters.split_whitespace().nth(8));
        let sent_bytes = sent.context("every host has an eth0")?.parse()?;
        Ok(Used { cpu_seconds: ticks as f64 / TICKS_PER_SECOND, sent_bytes })
    }

    /// A line of `smaps_rollup` (proc_pid_smaps(5)).
    fn memory_kib(&self, of: &str) -> Result<f64> {
        let sums = self.read("smaps_rollup")?;
        let line = sums.lines().find_map(|line| line.strip_prefix(of)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(number.with_context(|| format!("no line {of}"))?.trim().parse()?)
    }
}

fn used(routers: &[Router]) -> Result<Vec<Used>> {
    routers.iter().map(Router::used).collect()
}

fn tell(what: &str, mut figures: Vec<f64>, unit: f64) {
    figures.sort_by(f64::total_cmp);
    let median = figures[figures.len() / 2] / unit;
    let most = figures.last().copied().unwrap_or(median) / unit;
    println!("{what:>38} {median:>9.2} {most:>9.2}");
}

/// Memory that programs may still get without others losing theirs (proc_meminfo(5)).
fn available_kib() -> Result<u64> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.context("the kernel tells what is available")?.trim().parse()?)
}
