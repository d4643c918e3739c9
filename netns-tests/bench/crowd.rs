//! What a router of a large network needs: memory, and CPU and bandwidth at rest (GOALS C5 and C6).
//!
//! Owns the measurement alone. The routers that are measured are whole ones, each in a network namespace of its own, with one TCP
//! connection to each neighbour and a data plane; nothing is simulated. They are launched some at a time, so that a machine with
//! few CPUs keeps up with what a new one has everybody do, and no further ones when memory grows scarce.
//!
//! A machine has room for a hundred such hosts. `30+970` measures thirty among nine hundred and seventy others that are nodes of
//! one process (`mesh-crowd`), each at an address of its own: real sessions, records and probes, and no data plane behind.
//!
//! ```text
//! cargo build --release -p mesh -p mesh-lab -p mesh-sim --bins
//! cargo bench -p mesh-netns-tests --bench crowd -- [ROUTERS[+OTHERS]]...
//! ```
#![forbid(unsafe_code)]

use std::fs;
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_api::{Client, Command, StatusDocument};
use mesh_lab::{Host, Lab, Process, Signal, eventually, secs};

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

/// Where the others are: the network, and the first one's address.
const OTHERS_NETWORK: &str = "10.101.0.0/16";
const FIRST_OTHER: Ipv4Addr = Ipv4Addr::new(10, 101, 0, 1);

/// For how long CPU time and bytes are counted.
const WINDOW: Duration = secs(60);

/// The unit of times in proc_pid_stat(5), in a second: what the kernel tells every program (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Who is to be there.
#[derive(Clone, Copy)]
struct Size {
    routers: usize,
    others: usize,
}

impl Size {
    fn parse(text: &str) -> Result<Self> {
        let (routers, others) = text.split_once('+').unwrap_or((text, "0"));
        let number = |text: &str| text.parse().with_context(|| format!("{text:?} is no number of routers"));
        Ok(Self { routers: number(routers)?, others: number(others)? })
    }
}

fn main() -> Result<()> {
    let wishes = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut sizes = wishes.map(|text| Size::parse(&text)).collect::<Result<Vec<_>>>()?;
    if sizes.is_empty() {
        sizes.push(Size { routers: ROUTERS, others: 0 });
    }
    for size in sizes {
        measure(size).with_context(|| format!("with {} routers and {} others", size.routers, size.others))?;
    }
    Ok(())
}

fn measure(Size { routers: count, others }: Size) -> Result<()> {
    let lab = Lab::crowd(&format!("bench-crowd-{count}-{others}"))?;
    let _others = (others > 0).then(|| start_others(&lab, others)).transpose()?;
    let began = Instant::now();
    let hosts = (0..count).map(|number| lab.host(&format!("h{number}"))).collect::<Result<Vec<_>>>()?;
    let made = began.elapsed();
    let began = Instant::now();
    for first in (0..count).step_by(BATCH) {
        let available = available_kib()?;
        ensure!(available > SPARED_KIB, "{first} routers leave {} MiB of memory", available >> 10);
        launch(&hosts, first..count.min(first + BATCH), others > 0)?;
        // Whoever is launched next finds a network that knows most of those before it.
        eventually(JOINED_WITHIN, || knows(&hosts[0], others + count.min(first + BATCH)))?;
    }
    let launched = began.elapsed();
    eventually(JOINED_WITHIN, || hosts.iter().try_for_each(|host| knows(host, others + count)))?;
    let joined = began.elapsed();
    println!(
        "{count} routers among {others} others: hosts made in {:.0} s; launched in {:.0} s, {BATCH} at a time; all know all after {:.0} s",
        made.as_secs_f64(),
        launched.as_secs_f64(),
        joined.as_secs_f64()
    );
    std::thread::sleep(SETTLING);
    let routers = hosts.iter().map(Router::of).collect::<Result<Vec<_>>>()?;
    at_rest(&hosts, &routers)?;
    while_one_returns(&hosts, &routers, others)?;
    println!(
        "{:>38} {:>9}",
        "CPUs that the routers share",
        std::thread::available_parallelism().map_or(1, NonZero::get)
    );
    // Each host that ends has the others busy; they are killed at once with the lab.
    Ok(())
}

/// What the routers need when nothing happens.
fn at_rest(hosts: &[Host], routers: &[Router]) -> Result<()> {
    let (before, began) = (used(routers)?, Instant::now());
    std::thread::sleep(WINDOW);
    let (after, passed) = (used(routers)?, began.elapsed().as_secs_f64());
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
    Ok(())
}

/// What all but the last router need while that one dies, is found to be gone, and comes back.
fn while_one_returns(hosts: &[Host], routers: &[Router], others: usize) -> Result<()> {
    let Some(last) = hosts.len().checked_sub(1).filter(|last| *last > 0) else { return Ok(()) };
    let all_know = |these: &[Host], count| these.iter().try_for_each(|host| knows(host, others + count));
    let (before, began) = (used(&routers[..last])?, Instant::now());
    hosts[last].kill_router(Signal::KILL)?;
    eventually(JOINED_WITHIN, || all_know(&hosts[..last], last))?;
    launch(hosts, last..hosts.len(), others > 0)?;
    eventually(JOINED_WITHIN, || all_know(hosts, hosts.len()))?;
    let (after, passed) = (used(&routers[..last])?, began.elapsed().as_secs_f64());
    let busy = before.iter().zip(&after).map(|(before, after)| after.cpu_seconds - before.cpu_seconds);
    tell("CPU while one dies and returns, ms", busy.map(|seconds| seconds * 1e3).collect(), 1.0);
    println!("{:>38} {passed:>9.1}", "which took, s");
    Ok(())
}

/// Starts the others, and waits until they know each other.
fn start_others(lab: &Lab, count: usize) -> Result<Process> {
    let host = lab.host("others")?;
    lab.stand_for(&host, OTHERS_NETWORK)?;
    let benchmark = std::env::current_exe()?;
    let target =
        benchmark.parent().and_then(|deps| deps.parent()).context("it lies in target/PROFILE/deps")?;
    let began = Instant::now();
    let process =
        host.cmd(target.join("mesh-crowd")).arg(FIRST_OTHER.to_string()).arg(count.to_string()).spawn()?;
    let wanted = format!("{count} of {count} run, each knows {count} peers");
    eventually(JOINED_WITHIN, || {
        let told = process.stdout();
        let last = told.lines().last().unwrap_or_default();
        ensure!(last.contains(&wanted), "{last:?}, not {wanted:?}");
        Ok(())
    })?;
    println!("{count} others know each other after {:.0} s", began.elapsed().as_secs_f64());
    Ok(process)
}

/// Launches routers beside each other. Each names the first one, or the first of the others, and the one before it.
fn launch(hosts: &[Host], range: std::ops::Range<usize>, has_others: bool) -> Result<()> {
    std::thread::scope(|scope| {
        let one = |index: usize| {
            move || -> Result<()> {
                let options =
                    ["launch", "--datapath", "sleeve", "--no-dns", "--http", "none", "--timeout", "120"];
                let mut command = hosts[index].mesh_cmd(options)?.deadline(secs(150));
                let first = if has_others { FIRST_OTHER } else { hosts[0].ip() };
                let before = index.checked_sub(1).map(|before| hosts[before].ip());
                let named = before.into_iter().chain((has_others || index > 0).then_some(first));
                command = command.args(named.map(|ip| ip.to_string()));
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
