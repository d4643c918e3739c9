//! Correctness under load: a bad wire, changing paths and a restart, while bytes that are checked cross in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Chaos, Host, Lab, Signal, eventually, millis, secs};

use crate::support::{
    BY_SLEEVE, Member, READY, all_connected, all_ping, are_connected, chain_by_sleeve, chain_with, drops,
    launch, secret_file, status,
};
use crate::transfer::{Datagrams, Transfer};

/// Bytes in each direction while something happens for a moment...
const LEN: usize = 48 << 20;

/// ...while the wire is bad all the time...
const LEN_ON_BAD_WIRES: usize = 16 << 20;

/// ...and while everything happens, for some seconds. By hand, `MESH_SPEED_BYTES` asks for more of each.
const LEN_OF_ALL_AT_ONCE: usize = 96 << 20;

/// Lengths of datagrams: the least, ordinary ones, and some that IP cuts.
const LENS: &[usize] = &[8, 64, 500, 1_300, 5_000];

/// What a wire does that loses, repeats, reorders and damages.
const BAD: Chaos = Chaos {
    delay_ms: 0,
    jitter_ms: 0,
    reorder_percent: 1.0,
    reorder_ms: 3,
    duplicate_percent: 1.0,
    corrupt_percent: 0.5,
    loss_percent: 1.0,
    seed: 11,
};

/// The same without overtaking: what arrives of a flow arrives in order.
const LOSSY: Chaos = Chaos { reorder_percent: 0.0, reorder_ms: 0, ..BAD };

/// What crosses each way: bytes by TCP, and datagrams at this pace for as long, but at least so many bytes.
#[derive(Debug, Clone, Copy)]
struct Volume {
    stream: usize,
    datagrams: usize,
    pace: Duration,
}

impl Volume {
    /// `stream` bytes; or all that `MESH_SPEED_BYTES` asks for, by TCP and by UDP.
    fn of(stream: usize) -> Result<Self> {
        Ok(match std::env::var("MESH_SPEED_BYTES") {
            Ok(bytes) => {
                let bytes = bytes.parse()?;
                Self { stream: bytes, datagrams: bytes, pace: Duration::from_micros(50) }
            }
            Err(_unset) => Self { stream, datagrams: 0, pace: Duration::from_millis(2) },
        })
    }
}

/// What crosses between two members, each way at once: IPv4 one way, IPv6 the other.
struct Load {
    title: String,
    volume: Volume,
    transfers: [Transfer; 2],
    streams: [Datagrams; 2],
}

impl Load {
    fn begin(title: &str, one: &Member, two: &Member, volume: Volume) -> Result<Self> {
        let pace = (LENS, volume.pace);
        Ok(Self {
            title: title.to_owned(),
            volume,
            transfers: [
                Transfer::begin(&one.container, &two.container, two.ip, volume.stream, 1)?,
                Transfer::begin(&two.container, &one.container, one.ip6, volume.stream, 2)?,
            ],
            streams: [
                Datagrams::begin(&one.container, &two.container, two.ip6, pace)?,
                Datagrams::begin(&two.container, &one.container, one.ip, pace)?,
            ],
        })
    }

    /// Whether all is sent that was to be.
    fn is_over(&self) -> bool {
        self.transfers.iter().all(Transfer::is_over)
            && self.streams.iter().all(|stream| stream.sent_bytes() >= self.volume.datagrams)
    }

    /// Waits for what is under way, and judges it. Returns how many datagrams were overtaken.
    fn finish(self, one: &Member, two: &Member) -> Result<u64> {
        let Self { title, volume, transfers, streams } = self;
        let mut overtaken = 0;
        for transfer in transfers {
            let took = transfer.finish()?.as_secs_f64();
            println!("measured: {title}: {} bytes in {took:.2} s", volume.stream);
        }
        for stream in streams {
            let arrived = stream.finish()?;
            println!("measured: {title}: {arrived:?}");
            ensure!(arrived.received > arrived.sent / 10, "hardly a datagram arrives: {arrived:?}");
            overtaken += arrived.overtaken;
        }
        for host in [&one.host, &two.host] {
            ensure!(drops(host, "malformed_message")? == 0, "{} was sent what it cannot read", host.label());
            ensure!(drops(host, "super_frame")? == 0, "{} could not cut a frame", host.label());
        }
        Ok(overtaken)
    }
}

/// Two members, sealed or in clear, whose frames go by sleeve, under load; `meanwhile` is what happens to them.
fn load(
    title: &str,
    password: Option<&str>,
    meanwhile: impl FnOnce(&Lab, &Member, &Member) -> Result<()>,
) -> Result<()> {
    let (lab, [one, two]): (Lab, [Member; 2]) = chain_by_sleeve(title, password)?;
    all_ping(&[&one, &two])?;
    let load = Load::begin(title, &one, &two, Volume::of(LEN)?)?;
    meanwhile(&lab, &one, &two)?;
    load.finish(&one, &two)?;
    Ok(())
}

#[test]
fn nothing_is_damaged_doubled_or_lost_on_a_bad_wire() -> Result<()> {
    for (title, password) in [("badsealed", Some("come what may")), ("badclear", None)] {
        load(title, password, |lab, _, two| {
            lab.wire(&two.host, BAD)?;
            std::thread::sleep(millis(1_500));
            lab.unwire(&two.host)
        })?;
    }
    Ok(())
}

#[test]
fn nothing_is_damaged_doubled_or_lost_while_the_path_changes_its_width() -> Result<()> {
    load("width", Some("come what may"), |lab, one, two| {
        for mtu in [1_300, 1_500, 900, 1_500] {
            lab.path_mtu(&two.host, mtu)?;
            eventually(secs(20), || one.container.ping(two.ip))?;
            std::thread::sleep(millis(500));
        }
        Ok(())
    })
}

#[test]
fn nothing_is_damaged_doubled_or_lost_when_a_router_starts_anew() -> Result<()> {
    load("anew", Some("come what may"), |_, one, two| {
        two.host.mesh(["stop"])?;
        let first = one.host.ip().to_string();
        two.host.mesh_cmd(["launch", &first])?.env("MESH_PASSWORD", "come what may").run()?;
        eventually(READY, || are_connected(&[&one.host, &two.host]))?;
        eventually(READY, || one.container.ping(two.ip))?;
        Ok(())
    })
}

/// The wire is bad from the first byte to the last, and each second has keys of its own.
fn on_a_bad_wire(title: &str, password: Option<&str>, chaos: Chaos) -> Result<u64> {
    let options = [BY_SLEEVE[0], BY_SLEEVE[1], "--rekey-after", "1"];
    let (lab, [one, two]): (Lab, [Member; 2]) = chain_with(title, password, &options)?;
    all_ping(&[&one, &two])?;
    lab.wire(&two.host, chaos)?;
    eventually(READY, || one.container.ping(two.ip))?;
    let renewed =
        || Ok::<_, anyhow::Error>(status(&two.host)?.control.get("keys_renewed").copied().unwrap_or(0));
    let (before, begun) = (renewed()?, Instant::now());
    let load = Load::begin(title, &one, &two, Volume::of(LEN_ON_BAD_WIRES)?)?;
    let overtaken = load.finish(&one, &two)?;
    let (renewed, took) = (renewed()? - before, begun.elapsed().as_secs());
    let counts = lab.wire_counts(&two.host)?;
    println!("measured: {title}: {renewed} new keys in {took} s, {counts:?}");
    ensure!(renewed > took / 3, "{renewed} new keys in {took} seconds");
    ensure!(counts.lost > 50 && counts.duplicated > 50 && counts.corrupted > 20, "the wire is too good");
    Ok(overtaken)
}

#[test]
fn nothing_is_damaged_doubled_or_lost_on_a_wire_that_is_bad_throughout() -> Result<()> {
    on_a_bad_wire("everbad", Some("all the way"), BAD)?;
    on_a_bad_wire("everbadclear", None, BAD)?;
    Ok(())
}

#[test]
fn the_order_within_a_flow_is_kept_on_a_wire_that_loses_doubles_and_damages() -> Result<()> {
    for (title, password) in [("order", Some("one by one")), ("orderclear", None)] {
        let overtaken = on_a_bad_wire(title, password, LOSSY)?;
        ensure!(overtaken == 0, "{title}: {overtaken} datagrams were overtaken by later ones");
    }
    Ok(())
}

/// All of it at once: a bad wire, fresh keys every second, a path that changes its width, and a router that starts anew.
/// The keys are those of a new session each time, as the secret is taken away under which the last one was made.
#[test]
fn nothing_is_damaged_doubled_or_lost_while_keys_and_paths_change_on_a_bad_wire() -> Result<()> {
    const MTUS: [u16; 4] = [1_300, 1_500, 900, 1_500];
    /// Rounds, of a second, until all that may happen has happened.
    const ROUNDS: usize = 8;
    let lab = Lab::new("allatonce")?;
    let directory = tempfile::tempdir()?;
    let hosts = [lab.host("h1")?, lab.host("h2")?];
    let secret = |number: usize| format!("the secret of round {number}, which is long enough");
    let write = |round: usize| -> Result<()> {
        for host in &hosts {
            secret_file(directory.path(), host.label(), &[&secret(round), &secret(round + 1)])?;
        }
        Ok(())
    };
    write(0)?;
    let launch_arguments = |host: &Host| {
        let file = directory.path().join(host.label()).display().to_string();
        let peers = (host.label() != hosts[0].label()).then(|| hosts[0].ip().to_string());
        let words = [BY_SLEEVE[0], BY_SLEEVE[1], "--password-file", &file].map(str::to_owned);
        words.into_iter().chain(peers).collect::<Vec<_>>()
    };
    let one = Member::launch(&hosts[0], 1, &launch_arguments(&hosts[0]), None)?;
    let two = Member::launch(&hosts[1], 2, &launch_arguments(&hosts[1]), None)?;
    all_connected(&hosts.each_ref())?;
    all_ping(&[&one, &two])?;
    lab.wire(&hosts[1], BAD)?;
    let load = Load::begin("allatonce", &one, &two, Volume::of(LEN_OF_ALL_AT_ONCE)?)?;
    let mut sessions = BTreeSet::new();
    for round in 1.. {
        if round > ROUNDS && load.is_over() {
            break;
        }
        write(round)?;
        if round == ROUNDS / 2 {
            hosts[1].mesh(["stop"])?;
            launch(&hosts[1], &launch_arguments(&hosts[1]), None)?;
        }
        hosts.iter().try_for_each(|host| host.kill_router(Signal::HUP))?;
        lab.path_mtu(&hosts[1], MTUS[round % MTUS.len()])?;
        let filter = "( sport = :6783 or dport = :6783 )";
        let found = hosts[1].run(["ss", "-Htn", "state", "established", filter])?.stdout;
        sessions.extend(found.lines().map(str::to_owned));
        std::thread::sleep(secs(1));
    }
    lab.path_mtu(&hosts[1], 1_500)?;
    load.finish(&one, &two)?;
    println!("measured: allatonce: {} sessions, {:?}", sessions.len(), lab.wire_counts(&hosts[1])?);
    ensure!(sessions.len() > ROUNDS * 2 / 3, "hardly a session took the place of another: {sessions:?}");
    Ok(())
}

/// What each thread of a router that carries frames has had of a core, in nanoseconds, by its name.
fn thread_times(host: &Host) -> Result<BTreeMap<String, u64>> {
    let mut times = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{}/task", host.router_pid()?))? {
        let thread = thread?.path();
        let name = fs::read_to_string(thread.join("comm"))?.trim().to_owned();
        if name.starts_with("mesh-data-") {
            // First of three fields (kernel: Documentation/scheduler/sched-stats.rst).
            let times_of_it = fs::read_to_string(thread.join("schedstat"))?;
            let time = times_of_it.split_whitespace().next().context("schedstat has fields")?;
            times.insert(name, time.parse()?);
        }
    }
    Ok(times)
}

#[test]
fn threads_share_the_flows_to_one_peer_and_each_flow_keeps_its_order() -> Result<()> {
    const FLOWS: usize = 12;
    const DATAGRAMS: usize = 4_000;
    let options = [BY_SLEEVE[0], BY_SLEEVE[1], "--workers", "3", "--rekey-after", "1"];
    let (_lab, [one, two]): (Lab, [Member; 2]) = chain_with("threads", Some("side by side"), &options)?;
    all_ping(&[&one, &two])?;
    let before = thread_times(&one.host)?;
    ensure!(before.len() == 3, "not three threads: {before:?}");
    let transfers = [
        Transfer::begin(&one.container, &two.container, two.ip, LEN, 1)?,
        Transfer::begin(&two.container, &one.container, one.ip6, LEN, 2)?,
    ];
    let pace = (&[500_usize][..], millis(1));
    let begin = |_| Datagrams::begin(&one.container, &two.container, two.ip, pace);
    let flows = (0..FLOWS).map(begin).collect::<Result<Vec<_>>>()?;
    eventually(secs(60), || flows.iter().all(|flow| flow.sent_bytes() >= 500 * DATAGRAMS))?;
    for flow in flows {
        let arrived = flow.finish()?;
        ensure!(arrived.overtaken == 0, "a flow lost its order: {arrived:?}");
        ensure!(arrived.received * 10 >= arrived.sent * 9, "a good wire lost a tenth: {arrived:?}");
    }
    for transfer in transfers {
        transfer.finish()?;
    }
    ensure!(drops(&two.host, "replayed")? == 0, "threads have sent what was too old when it came");
    let after = thread_times(&one.host)?;
    let worked: Vec<_> = after.iter().map(|(name, time)| time - before.get(name).unwrap_or(&0)).collect();
    println!("measured: threads: {worked:?} ns");
    let share = worked.iter().sum::<u64>() / 20;
    ensure!(worked.iter().filter(|time| **time > share).count() >= 2, "one thread did it all: {worked:?}");
    Ok(())
}
