//! Networks that fall apart and come together: rows 5, 7, 8 and 9 of the fault table.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Lab, Ping, always, eventually, millis, secs};

use crate::heartbeat::Heartbeat;
use crate::support::{
    Member, READY, all_connected, all_ping, are_connected, chain, have_one_view, multicast_arrives_once,
    peers,
};

/// How long a partition lasts.
const APART: Duration = secs(10);

/// How long those behind a cut may be known yet: their sessions end when nothing was heard for 10 s.
const FORGOTTEN: Duration = secs(25);

/// How long a link flaps.
const FLAPPING: Duration = secs(60);

/// The share of a CPU that a router may use while a link flaps: a tenth, and what a busy machine with debug binaries adds.
const FLAPPING_CPU_MAX: f64 = 0.15;

/// Ticks in a second of processor time in `/proc`: `sysconf(_SC_CLK_TCK)`, 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time that a router has used so far, in seconds: fields 14 and 15 of `/proc/PID/stat`.
fn cpu_seconds(host: &Host) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", host.router_pid()?))?;
    let (_, after_name) = stat.rsplit_once(") ").context("a name in brackets")?;
    let ticks = after_name.split(' ').skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

/// Row 5, as far as there is no address management: both parts work, and grow together again.
#[test]
fn two_parts_of_a_network_work_apart_and_grow_together_again() -> Result<()> {
    let (lab, members) = chain::<5>("parts", Some("together"))?;
    let [a, b, c, d, e] = &members;
    all_ping(&[a, b, c, d, e])?;
    let hosts = members.each_ref().map(|member| &member.host);
    lab.partition(&[&hosts[..2], &hosts[2..]])?;
    let cut = Instant::now();
    eventually(FORGOTTEN, || have_one_view(&hosts[..2]).and_then(|()| have_one_view(&hosts[2..])))?;
    println!("measured: each part knows itself alone after {:.2} s", cut.elapsed().as_secs_f64());
    always(APART, || {
        a.container.ping(b.ip)?;
        c.container.ping(d.ip)?;
        ensure!(a.container.ping_with(&Ping::to(c.ip).wait(millis(50)))?.received == 0, "the cut is none");
        Ok(())
    })?;
    multicast_arrives_once(c, &[d, e], "239.1.2.3:5000", 50)?;

    lab.heal_everything()?;
    let healed = Instant::now();
    eventually(secs(20), || a.container.ping(c.ip))?;
    println!("measured: frames pass {:.2} s after the parts were joined", healed.elapsed().as_secs_f64());
    eventually(secs(20), || are_connected(&hosts).and_then(|()| have_one_view(&hosts)))?;
    println!("measured: one network {:.2} s after the parts were joined", healed.elapsed().as_secs_f64());
    all_ping(&[a, b, c, d, e])?;
    multicast_arrives_once(a, &[b, c, d, e], "239.1.2.3:5000", 50)
}

/// Row 8: a link that comes and goes once a second for a minute costs others nothing, and a router little.
#[test]
fn a_link_that_flaps_for_a_minute_costs_little_and_comes_back() -> Result<()> {
    let (lab, [one, two, three]) = chain("flap", None)?;
    all_ping(&[&one, &two, &three])?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    let busy = [cpu_seconds(&one.host)?, cpu_seconds(&two.host)?];
    let before = version(&one.host, &one)?;
    let start = Instant::now();
    while start.elapsed() < FLAPPING {
        lab.unplug(&three.host)?;
        std::thread::sleep(millis(500));
        lab.plug(&three.host)?;
        std::thread::sleep(millis(500));
    }
    let (seconds, changes) = (start.elapsed().as_secs_f64(), version(&one.host, &one)? - before);
    let used = [cpu_seconds(&one.host)? - busy[0], cpu_seconds(&two.host)? - busy[1]];
    let share = used.map(|used| used / seconds);
    println!("measured: a flapping link: {changes} records of h1 in {seconds:.0} s; processor {share:.3?}");
    println!(
        "measured: others meanwhile: {:?}, longest silence {:.2} s",
        heartbeat.tally(),
        heartbeat.longest_silence()
    );
    ensure!(heartbeat.longest_silence() < 1.0, "others were silent for {:.2} s", heartbeat.longest_silence());
    ensure!(share.iter().all(|share| *share < FLAPPING_CPU_MAX), "{share:?} of a processor");
    // Row 8 has ten messages a second for each origin; there is nothing to say more than four times in a second.
    ensure!(changes as f64 <= 4.0 * seconds, "{changes} records in {seconds} s");
    let calm = Instant::now();
    eventually(secs(30), || are_connected(&[&one.host, &two.host, &three.host]))?;
    println!("measured: connected {:.2} s after the last flap", calm.elapsed().as_secs_f64());
    all_ping(&[&one, &two, &three])
}

fn version(host: &Host, of: &Member) -> Result<u64> {
    let found = peers(host)?.into_iter().find(|peer| peer.peer_id == of.peer_id);
    Ok(found.with_context(|| format!("{} does not know {}", host.label(), of.host.label()))?.version)
}

/// Row 9: all links are cut, one after the other, and healed in another order.
#[test]
fn links_that_are_all_cut_and_healed_in_any_order_make_a_network_again() -> Result<()> {
    const HOSTS: usize = 5;
    let (lab, members) = chain::<HOSTS>("swizzle", None)?;
    let all = members.each_ref();
    all_ping(&all)?;
    let hosts = all.map(|member| &member.host);
    let mut pairs: Vec<(usize, usize)> =
        (0..HOSTS).flat_map(|one| (one + 1..HOSTS).map(move |other| (one, other))).collect();
    // A fixed disorder, other for cutting than for healing: 3 and 7 share no factor with the number of pairs.
    let count = pairs.len();
    let disorder = |step: usize, pairs: &[(usize, usize)]| -> Vec<(usize, usize)> {
        (0..count).map(|index| pairs[index * step % count]).collect()
    };
    for (one, other) in disorder(3, &pairs) {
        lab.cut(hosts[one], hosts[other])?;
        std::thread::sleep(millis(200));
    }
    eventually(FORGOTTEN, || hosts.iter().try_for_each(|host| have_one_view(&[host])))?;
    pairs.reverse();
    for (one, other) in disorder(7, &pairs) {
        lab.heal(hosts[one], hosts[other])?;
        std::thread::sleep(millis(200));
    }
    let healed = Instant::now();
    eventually(secs(20), || have_one_view(&hosts))?;
    println!("measured: all know all {:.2} s after the last link was healed", healed.elapsed().as_secs_f64());
    eventually(secs(20), || are_connected(&hosts))?;
    println!(
        "measured: all connected {:.2} s after the last link was healed",
        healed.elapsed().as_secs_f64()
    );
    all_ping(&all)?;
    multicast_arrives_once(all[0], &all[1..], "239.1.2.3:5000", 50)
}

/// Row 36, from outside: control sessions that break again and again take few frames with them.
#[test]
fn control_sessions_that_are_reset_again_and_again_take_few_frames_with_them() -> Result<()> {
    const RESETS: u32 = 10;
    let lab = Lab::new("resets")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let one = Member::launch(&h1, 1, &[], Some("again and again"))?;
    let two = Member::launch(&h2, 2, &[h1.ip().to_string()], Some("again and again"))?;
    all_connected(&[&h1, &h2])?;
    all_ping(&[&one, &two])?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    for _ in 0..RESETS {
        // Kills the socket in the kernel, which tells the other end by a reset.
        h2.run(["ss", "-K", "-tn", "( sport = :6783 or dport = :6783 )"])?;
        std::thread::sleep(millis(300));
        eventually(READY, || are_connected(&[&h1, &h2]))?;
    }
    let tally = heartbeat.tally();
    println!("measured: {RESETS} resets: {tally:?}, longest silence {:.2} s", heartbeat.longest_silence());
    ensure!(heartbeat.longest_silence() < 2.0, "{:.2} s of silence", heartbeat.longest_silence());
    ensure!(tally.copies == 0 && tally.lost <= 25 * RESETS as usize, "{tally:?}");
    Ok(())
}
