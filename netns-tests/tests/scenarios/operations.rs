//! What operators do to routers that work, and what happens to those: restarts of all in turn (R6 of the goals, row 50 of the
//! fault table), too little of the CPU (row 21), too little memory (row 22), a bridge that is taken down or away, and events of the kernel that are lost (row 46).

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mesh_api::{ConnectionDocument, Overlay};
use mesh_lab::{Host, Signal, always, eventually, secs};

use crate::heartbeat::{Heartbeat, Tally};
use crate::support::{
    Member, READY, all_connected, all_ping, attach, chain, connections, launch, ordered_pairs,
};
use crate::vxlan::kernels_carry;

/// Longest silence of a pair while one of its routers is restarted, in seconds; on a quiet machine it is below 1.
const SILENCE_MAX: f64 = 5.0;

/// The port of the conversations that outlast restarts.
const PORT: u16 = 7000;

/// Restarts each router in turn while all pairs of containers ping each other and talk over TCP.
fn restart_each(members: &[Member; 3], password: Option<&str>) -> Result<Vec<(Tally, f64)>> {
    let all = members.each_ref();
    all_ping(&all)?;
    let beats = |(from, to): (&Member, &Member)| Heartbeat::beating(&from.container, to);
    let heartbeats = ordered_pairs(&all).into_iter().map(beats).collect::<Result<Vec<_>>>()?;
    let talk = |(number, (from, to)): (u16, (&Member, &Member))| {
        from.container.converse(&to.container, SocketAddr::from((to.ip, PORT + number)))
    };
    let flows = (0..).zip(ordered_pairs(&all)).map(talk).collect::<Result<Vec<_>>>()?;
    for (index, member) in members.iter().enumerate() {
        let peers = [members[(index + 1) % 3].host.ip().to_string()];
        let before = flows.iter().map(|flow| flow.report().answers).collect::<Vec<_>>();
        member.host.mesh(["stop"])?;
        let launched = launch(&member.host, &peers, password)?;
        ensure!(launched.peer_id == member.peer_id, "{} became {}", member.peer_id, launched.peer_id);
        // The next one is restarted when this one is what it was.
        all_connected(&all.map(|member| &member.host))?;
        all_ping(&all)?;
        eventually(READY, || {
            let talks = flows.iter().zip(&before).all(|(flow, before)| flow.report().answers > *before);
            ensure!(talks, "a conversation stands still");
            Ok(())
        })?;
    }
    for flow in flows {
        let report = flow.finish().context("a TCP connection did not survive")?;
        println!("measured: TCP over restarts: {report:?}");
    }
    Ok(heartbeats.iter().map(|heartbeat| (heartbeat.tally(), heartbeat.longest_silence())).collect())
}

#[test]
fn a_rolling_restart_loses_no_frame_that_the_kernel_carries() -> Result<()> {
    let (_lab, members) = chain("rolling", None)?;
    eventually(READY, || {
        for (from, to) in ordered_pairs(&members.each_ref()) {
            let links = connections(&from.host)?;
            let by_kernel = |link: &ConnectionDocument| {
                link.peer_id.as_ref() == Some(&to.peer_id) && link.overlay == Some(Overlay::Vxlan)
            };
            from.container.ping(to.ip)?;
            ensure!(links.iter().any(by_kernel), "{links:?}");
        }
        Ok(())
    })?;
    for (tally, silence) in restart_each(&members, None)? {
        println!("measured: {tally:?}, the longest silence {silence:.3} s");
        ensure!((tally.lost, tally.copies) == (0, 0), "{tally:?}");
    }
    Ok(())
}

#[test]
fn a_rolling_restart_of_routers_that_encrypt_is_a_short_silence() -> Result<()> {
    let secret = Some("a long enough secret");
    let (_lab, members) = chain("rollsealed", secret)?;
    for (tally, silence) in restart_each(&members, secret)? {
        println!("measured: {tally:?}, the longest silence {silence:.3} s");
        ensure!(tally.copies == 0 && silence < SILENCE_MAX, "{tally:?}, {silence} s");
    }
    Ok(())
}

/// A control group of version 1, which is removed when this is dropped.
struct Group(PathBuf);

impl Group {
    /// None where this machine has no such controller.
    fn new(controller: &str, host: &Host) -> Result<Option<Self>> {
        let root = PathBuf::from("/sys/fs/cgroup").join(controller);
        if !root.join("tasks").exists() {
            println!("skipped: there is no controller {controller} of control groups");
            return Ok(None);
        }
        let path = root.join(host.name());
        fs::create_dir(&path)?;
        Ok(Some(Self(path)))
    }

    fn set(&self, file: &str, value: impl ToString) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, value.to_string()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn get(&self, file: &str) -> Result<u64> {
        Ok(fs::read_to_string(self.0.join(file))?.trim().parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let leave = || -> Result<()> {
            for task in fs::read_to_string(self.0.join("cgroup.procs"))?.lines() {
                // Whoever ends meanwhile leaves, too.
                let _left = fs::write(self.0.with_file_name("cgroup.procs"), task);
            }
            Ok(())
        };
        if let Err(error) = leave().and_then(|()| eventually(secs(5), || fs::remove_dir(&self.0))) {
            eprintln!("{} is left: {error:#}", self.0.display());
        }
    }
}

#[test]
fn a_router_that_gets_a_twentieth_of_a_cpu_suspects_nobody_and_recovers() -> Result<()> {
    let (_lab, members) = chain::<3>("starved", Some("a long enough secret"))?;
    let [one, two, three] = &members;
    all_ping(&members.each_ref())?;
    let Some(group) = Group::new("cpu", &two.host)? else { return Ok(()) };
    let heartbeat = Heartbeat::beating(&one.container, three)?;
    group.set("cpu.cfs_quota_us", 5_000)?;
    group.set("cgroup.procs", two.host.router_pid()?)?;
    // What the others have with each other is none of the starved one's.
    let terminations = || -> Result<u64> { Ok(terminated(&one.host)? + terminated(&three.host)?) };
    let before = terminations()?;
    always(secs(10), || {
        connections(&one.host)
            .is_ok_and(|links| links.iter().any(|link| link.peer_id.as_ref() == Some(&three.peer_id)))
    })?;
    println!("measured: {} connections ended while a router starved", terminations()? - before);
    group.set("cpu.cfs_quota_us", -1)?;
    all_connected(&members.each_ref().map(|member| &member.host))?;
    all_ping(&members.each_ref())?;
    let (tally, silence) = (heartbeat.tally(), heartbeat.longest_silence());
    println!("measured: {tally:?} past a starved router, the longest silence {silence:.3} s");
    ensure!(silence < SILENCE_MAX && tally.copies == 0, "{tally:?}, {silence} s");
    Ok(())
}

/// How many of a host's connections have ended.
fn terminated(host: &Host) -> Result<u64> {
    let text = host.run(["curl", "-s", "http://127.0.0.1:6782/metrics"])?.stdout;
    let line = text.lines().find_map(|line| line.strip_prefix("mesh_connection_terminations_total "));
    Ok(line.context("no such metric")?.parse::<f64>()? as u64)
}

#[test]
fn a_router_that_runs_out_of_memory_is_killed_and_is_what_it_was_when_launched_again() -> Result<()> {
    let (_lab, members) = chain::<2>("oom", None)?;
    let [one, two] = &members;
    all_ping(&[one, two])?;
    let Some(group) = Group::new("memory", &two.host)? else { return Ok(()) };
    group.set("cgroup.procs", two.host.router_pid()?)?;
    // What it holds already is not counted: only what it gets from now on.
    group.set("memory.limit_in_bytes", 256 * 1024)?;
    for number in 0..200 {
        // The command that meets the end of the router fails.
        let _asked = two.host.mesh(["dns", "add", &format!("n{number}"), "10.32.0.2"]);
        let _asked = two.host.mesh(["report"]);
        if two.host.router_pid().is_err() {
            break;
        }
    }
    ensure!(two.host.router_pid().is_err(), "it lives on with {} bytes", group.get("memory.usage_in_bytes")?);
    drop(group);
    let launched = launch(&two.host, &[one.host.ip().to_string()], None)?;
    ensure!(launched.peer_id == two.peer_id, "{launched:?}");
    all_connected(&[&one.host, &two.host])?;
    all_ping(&[one, two])
}

#[test]
fn a_bridge_that_is_taken_down_or_away_is_there_again_with_all_that_was_on_it() -> Result<()> {
    let (_lab, members) = chain::<2>("nobridge", None)?;
    let [one, two] = &members;
    all_ping(&[one, two])?;
    let before = one.host.network_state()?;
    for change in [&["set", "mesh0", "down"][..], &["delete", "mesh0"]] {
        one.host.run(["ip", "link"].iter().chain(change))?;
        eventually(READY, || before.must_equal(&one.host.network_state()?))?;
        eventually(READY, || one.container.ping(two.ip))?;
        eventually(READY, || two.container.ping(one.ip))?;
    }
    let other = one.host.container("other")?;
    attach(&one.host, &other, &["10.32.0.9/24"])?;
    eventually(READY, || other.ping(two.ip))?;
    Ok(())
}

#[test]
fn what_the_kernel_could_not_tell_a_router_is_found_and_repaired() -> Result<()> {
    /// More events than the room for them in any socket holds.
    const ENTRIES: u32 = 10_000;

    let (_lab, members) = chain::<2>("overrun", None)?;
    let [one, two] = &members;
    all_ping(&[one, two])?;
    eventually(READY, || kernels_carry(&[one, two]))?;
    let before = one.host.network_state()?;
    let lost_before = lost_events(&one.host)?;
    one.host.kill_router(Signal::STOP)?;
    // The noise first, so that nothing is heard of what is taken away after it.
    let noise: String = ["add", "del"]
        .into_iter()
        .flat_map(|verb| (0..ENTRIES).map(move |entry| (verb, entry.to_be_bytes())))
        .map(|(verb, [_, a, b, c])| format!("fdb {verb} 0e:00:00:{a:02x}:{b:02x}:{c:02x} dev eth0 self\n"))
        .collect();
    one.host.cmd("bridge").args(["-batch", "-"]).stdin(noise).run()?;
    one.host.run(["nft", "flush", "ruleset"])?;
    one.host.run(["ip", "link", "set", "mesh0", "down"])?;
    let entries = one.host.run(["bridge", "fdb", "show", "br", "mesh0"])?.stdout;
    let device = entries.lines().find_map(|line| line.strip_prefix(&two.mac)).context("an entry")?;
    let device = device.split_whitespace().nth(1).context("the entry's device")?.to_owned();
    one.host.run(["bridge", "fdb", "flush", "dev", &device, "master"])?;
    let lost = lost_events(&one.host)? - lost_before;
    println!("measured: {lost} events were lost");
    ensure!(lost > 0, "the sockets had room for all");
    one.host.kill_router(Signal::CONT)?;
    eventually(READY, || before.must_equal(&one.host.network_state()?))?;
    eventually(READY, || kernels_carry(&[one, two]))?;
    all_ping(&[one, two])
}

/// How many events netlink sockets in the host's namespace had no room for.
fn lost_events(host: &Host) -> Result<u64> {
    let sockets = host.run(["cat", "/proc/net/netlink"])?.stdout;
    let mut lines = sockets.lines();
    let column = lines.next().and_then(|names| names.split_whitespace().position(|name| name == "Drops"));
    let column = column.context("/proc/net/netlink counts drops")?;
    let drops = |line: &str| line.split_whitespace().nth(column).and_then(|drops| drops.parse::<u64>().ok());
    Ok(lines.filter_map(drops).sum())
}
