//! Strangers who come in great numbers: rows 38 and 39 of the fault table, and the limits before authentication.
//! What they send is in [`hostile`](crate::hostile); here it is how much.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Ping, always, eventually, millis, secs};

use crate::hostile::{PREAMBLE, genuine_datagrams};
use crate::support::{
    READY, all_connected, all_ping, are_connected, chain, drops, has_neighbours, launch, status,
};

/// How long a flood lasts.
const FLOOD: Duration = secs(5);

/// Memory that a flood may cost a router, in KiB: fault table, row 38.
const GROWTH_KIB_MAX: u64 = 32 * 1024;

/// Handshakes that one stranger is let begin in a time: a burst of 10, then 5 a second; twice that, and one, since clocks
/// of test and router are not one.
fn handshakes_max(within: Duration) -> u64 {
    2 * (10 + 5 * (within.as_secs() + 1)) + 1
}

/// What a flood was.
#[derive(Debug, Default)]
struct Flood {
    sent: u64,
    /// How many got an answer.
    answered: u64,
}

/// Memory that a router holds, in KiB.
pub(crate) fn resident_kib(host: &Host) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.router_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()).context("no VmRSS in /proc")?.parse()?)
}

/// Connects as often as it can, says a valid preamble, and looks whether the answer is one. Answers come within a few
/// milliseconds or not at all.
fn knock(target: SocketAddr, over: &AtomicBool) -> Flood {
    const ANSWER_DEADLINE: Duration = millis(50);
    let mut flood = Flood::default();
    while !over.load(Ordering::Relaxed) {
        flood.sent += 1;
        let Ok(mut stream) = TcpStream::connect_timeout(&target, millis(200)) else { continue };
        let answer = stream
            .set_read_timeout(Some(ANSWER_DEADLINE))
            .and_then(|()| stream.write_all(&PREAMBLE))
            .and_then(|()| stream.read_exact(&mut [0; PREAMBLE.len()]));
        flood.answered += u64::from(answer.is_ok());
    }
    flood
}

/// weave-net.md 41, fault table row 38: one stranger gets a few handshakes a second, and others get in meanwhile.
#[test]
fn a_stranger_who_floods_the_door_does_not_keep_others_out() -> Result<()> {
    const FLOODERS: usize = 4;
    let (lab, [one, two]) = chain("knocking", None)?;
    let (eve, late) = (lab.host("eve")?, lab.host("h3")?);
    all_ping(&[&one, &two])?;
    let (target, over) = (SocketAddr::from((one.host.ip(), 6783)), AtomicBool::new(false));
    let before = resident_kib(&one.host)?;

    let start = Instant::now();
    let floods = std::thread::scope(|scope| -> Result<Vec<Flood>> {
        let knocking: Vec<_> =
            (0..FLOODERS).map(|_| scope.spawn(|| eve.enter(|| knock(target, &over)))).collect();
        let outcome = (|| -> Result<()> {
            always(secs(1), || are_connected(&[&one.host, &two.host]))?;
            launch(&late, &[one.host.ip().to_string()], None)?;
            let launched = Instant::now();
            eventually(READY, || are_connected(&[&one.host, &two.host, &late]))?;
            println!(
                "measured: joined {:.2} s after a launch into a flood",
                launched.elapsed().as_secs_f64()
            );
            let count = u32::try_from(FLOOD.as_millis() / 20)?;
            let stats = one.container.ping_with(&Ping::to(two.ip).count(count).every_ms(20))?;
            ensure!(stats.loss_percent() <= 1.0 && stats.duplicates == 0, "{stats:?}");
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        let floods = knocking.into_iter().map(|thread| thread.join().expect("a stranger does not panic"));
        let floods = floods.collect::<Result<Vec<_>>>()?;
        outcome.map(|()| floods)
    })?;
    let lasted = start.elapsed();
    let sent: u64 = floods.iter().map(|flood| flood.sent).sum();
    let answered: u64 = floods.iter().map(|flood| flood.answered).sum();
    let grown = resident_kib(&one.host)?.saturating_sub(before);
    let counted = status(&one.host)?.control;
    println!(
        "measured: {sent} connections in {lasted:.1?}, {answered} answered, {grown} KiB more, counted {counted:?}"
    );
    ensure!(sent > 200, "that was no flood: {sent} connections");
    ensure!(answered <= handshakes_max(lasted), "{answered} handshakes in {lasted:?}");
    ensure!(counted.values().sum::<u64>() > 100, "nothing is counted: {counted:?}");
    ensure!(grown < GROWTH_KIB_MAX, "{grown} KiB more");
    all_connected(&[&one.host, &two.host, &late])
}

/// Row 38, many sources: what one address is allowed, a hundred addresses are not; peers of the network still get in.
#[test]
fn strangers_of_a_hundred_addresses_do_not_keep_known_peers_out() -> Result<()> {
    const SOURCES: usize = 100;
    let (lab, [one, two]) = chain("hundred", Some("for peers alone"))?;
    let eve = lab.host("eve")?;
    all_ping(&[&one, &two])?;
    let mut sources = vec![eve.ip()];
    for _ in 1..SOURCES {
        sources.push(eve.add_addresses()?.0);
    }
    let (target, over) = (SocketAddr::from((one.host.ip(), 6783)), AtomicBool::new(false));
    std::thread::scope(|scope| -> Result<()> {
        let holding = scope.spawn(|| hold(&eve, &sources, target, &over));
        let outcome = (|| -> Result<()> {
            // The door is full of strangers who say nothing. h2 breaks off and comes again.
            std::thread::sleep(secs(1));
            two.host.mesh(["stop"])?;
            let again = Instant::now();
            launch(&two.host, &[one.host.ip().to_string()], Some("for peers alone"))?;
            eventually(secs(20), || has_neighbours(&one.host, &["h2"]))?;
            println!("measured: a known peer is in again {:.2} s later", again.elapsed().as_secs_f64());
            eventually(READY, || one.container.ping(two.ip))?;
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        let held = holding.join().expect("a stranger does not panic");
        println!("measured: {held} connections held, counted {:?}", status(&one.host)?.control);
        outcome
    })?;
    all_ping(&[&one, &two])
}

/// Opens connections from all sources in turn, holds the latest of them open without a word, and tells how many there
/// were.
fn hold(eve: &Host, sources: &[Ipv4Addr], target: SocketAddr, over: &AtomicBool) -> u64 {
    const HELD_MAX: usize = 500;
    let (mut held, mut opened) = (VecDeque::new(), 0);
    for source in sources.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let Ok(stream) = eve.connect_from((*source).into(), target, millis(100)) else { continue };
        opened += 1;
        held.push_back(stream);
        if held.len() > HELD_MAX {
            held.pop_front();
        }
    }
    opened
}

/// Row 39: datagrams without meaning, as many as can be sent, are answered by nothing and cost valid traffic little.
#[test]
fn garbage_datagrams_as_fast_as_they_can_be_sent_are_answered_by_nothing() -> Result<()> {
    let (lab, [one, two]) = chain("garbage", Some("sort it out"))?;
    let eve = lab.host("eve")?;
    all_ping(&[&one, &two])?;
    let genuine = genuine_datagrams(&lab, &one, &two)?;
    let target = SocketAddr::from((one.host.ip(), 6783));
    // First datagrams of no session; then of this one, with its index and a counter, and a wrong tag.
    for (title, at, loss_max) in [("no session", 4, 3.0), ("a session", 20, 10.0)] {
        let mut datagram = genuine.first().context("nothing was said")?.clone();
        datagram[at] ^= 0xff;
        let (over, before) =
            (AtomicBool::new(false), [drops(&one.host, "unknown_receiver")?, bad(&one.host)?]);
        let answers = eve.enter(|| UdpSocket::bind("0.0.0.0:7001"))??;
        answers.connect(target)?;
        let (sent, stats) = std::thread::scope(|scope| -> Result<_> {
            let spraying = scope.spawn(|| {
                let mut sent = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    // A full buffer of our own loses garbage only.
                    sent += u64::from(answers.send(&datagram).is_ok());
                }
                sent
            });
            let count = u32::try_from(FLOOD.as_millis() / 20)?;
            let stats = one.container.ping_with(&Ping::to(two.ip).count(count).every_ms(20));
            over.store(true, Ordering::Relaxed);
            Ok((spraying.join().expect("a stranger does not panic"), stats?))
        })?;
        let after = [drops(&one.host, "unknown_receiver")?, bad(&one.host)?];
        let counted = [after[0] - before[0], after[1] - before[1]];
        println!(
            "measured: garbage of {title}: {sent} datagrams in {FLOOD:?}, counted {counted:?}, {stats:?}"
        );
        ensure!(stats.loss_percent() <= loss_max && stats.duplicates == 0, "{title}: {stats:?}");
        ensure!(counted.iter().sum::<u64>() > 1000, "{title}: {counted:?} of {sent} were counted");
        answers.set_read_timeout(Some(millis(200)))?;
        ensure!(answers.recv(&mut [0; 2048]).is_err(), "{title}: garbage is answered");
    }
    are_connected(&[&one.host, &two.host])
}

/// What was dropped as not authentic, or unseen since there was too much of it.
fn bad(host: &Host) -> Result<u64> {
    Ok(drops(host, "not_authentic")? + drops(host, "garbage_limit")? + drops(host, "replayed")?)
}
