//! A router that is not run for a minute: row 20 of the fault table, the long sleep.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Signal, always, eventually, secs};

use super::{PATIENCE, address, all_differ, allocate, held, three};
use crate::support::{READY, all_connected, are_connected};

/// How long the router stands still.
const ASLEEP: std::time::Duration = secs(60);

/// How long it may take until its container is reached again. The table says 3 s, and a busy machine has several routers to run.
const BACK: std::time::Duration = secs(10);

/// Others take it for gone and go on; when it wakes it holds nobody for dead, is back soon, and what it has handed out and what
/// others have meanwhile are different addresses.
#[test]
fn a_router_that_slept_for_a_minute_holds_nobody_for_dead_and_has_what_it_had() -> Result<()> {
    let (_lab, hosts) = three("minute")?;
    let [(h1, one), (h2, two), (h3, three)] = &hosts[..] else { unreachable!("there are three") };
    let addresses = [address(h1, one)?, address(h2, two)?, address(h3, three)?];
    let mut given = Vec::new();
    for (host, _) in &hosts {
        given.push(allocate(host, "before", PATIENCE)?);
    }
    eventually(READY, || one.ping(&addresses[2]))?;

    h3.kill_router(Signal::STOP)?;
    let asleep = Instant::now();
    eventually(secs(30), || are_connected(&[h1, h2]))?;
    for number in 0..5 {
        for host in [h1, h2] {
            given.push(allocate(host, &format!("meanwhile-{number}"), PATIENCE)?);
        }
    }
    always(ASLEEP.saturating_sub(asleep.elapsed()), || one.ping(&addresses[1]))?;
    let said = h3.router_log();
    h3.kill_router(Signal::CONT)?;
    let woken = Instant::now();
    eventually(BACK, || one.ping(&addresses[2]))?;
    println!("measured: back {:.2} s after a minute of sleep", woken.elapsed().as_secs_f64());
    all_connected(&[h1, h2, h3])?;

    let log = h3.router_log();
    let since = log.strip_prefix(said.as_str()).context("a log grows at its end")?;
    // The others say that they do not hear it and have closed its sessions; of itself it finds nobody silent.
    let judges = |line: &&str| line.contains("frames no longer pass") && !line.ends_with("silent_ms=0");
    let judgement = since.lines().find(|line| judges(line) || line.contains("nothing was heard"));
    ensure!(judgement.is_none(), "{judgement:?}");
    for number in 0..5 {
        given.push(allocate(h3, &format!("after-{number}"), PATIENCE)?);
    }
    ensure!(held(h3, "before") == given[2..=2], "{:?} in place of {}", held(h3, "before"), given[2]);
    ensure!(address(h3, three)? == addresses[2], "the container has lost its address");
    for address in &addresses {
        given.push(address.parse()?);
    }
    all_differ(given)?;
    Ok(())
}
