//! What becomes of addresses when their router's life or state does: rows 18, 19 and 23 to 28 of the fault table.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_api::{ErrorKind, Failure, IpamState};
use mesh_lab::{Container, Host, Lab, Signal, eventually, millis, secs};

use super::{PATIENCE, agreed, all_differ, all_know, allocate, held, ipam, network, rmpeer, start};
use crate::support::{READY, attach, hints_at, launch, refused, status, words};

const RANGE: &str = "10.40.0.0/24";

/// The log of addresses in a state directory.
const LOG: &str = "ipam.log";

/// How long a router may take to notice that its state is not its alone, or not the latest.
const NOTICED: Duration = secs(20);

/// Copies the files of a state directory into another.
fn copy_state(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != "mesh.log" {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Puts a state directory back to an earlier copy.
fn put_back(host: &Host, copy: &Path) -> Result<()> {
    let directory = host.state_dir();
    for name in ["ipam.log", "ipam.snapshot"] {
        fs::remove_file(directory.join(name)).ok();
    }
    copy_state(copy, &directory)
}

/// Containers on two hosts, with addresses that no address management knows of: what frames do is shown by them.
pub(super) fn containers(hosts: &[Host]) -> Result<Vec<(Container, String)>> {
    let with_address = |(number, host): (usize, &Host)| {
        let (container, address) = (host.container("c")?, format!("192.168.7.{number}"));
        attach(host, &container, &[&format!("{address}/24")])?;
        Ok((container, address))
    };
    hosts.iter().enumerate().map(|(at, host)| with_address((at + 1, host))).collect()
}

/// Wants frames to pass between the first two.
pub(super) fn frames_pass(containers: &[(Container, String)]) -> Result<()> {
    eventually(READY, || containers[0].0.ping(&containers[1].1)).map(drop)
}

/// Wants a host to hand out nothing, and its status to say why, with each of these words.
fn is_fenced(host: &Host, words: &[&str]) -> Result<Failure> {
    eventually(NOTICED, || {
        let document = ipam(host)?;
        ensure!(document.state == IpamState::Disabled, "{} is {:?}", host.label(), document.state);
        ensure!(words.iter().all(|word| document.detail.contains(word)), "{}", document.detail);
        match allocate(host, "fenced", secs(2)) {
            Err(failure) if failure.kind == ErrorKind::Refused => Ok(failure),
            other => bail!("{other:?}"),
        }
    })
}

/// Rows 18 and 19: a router is killed again and again while it hands out addresses. Whatever a client was told holds.
#[test]
fn what_a_client_was_told_survives_any_number_of_kills() -> Result<()> {
    const KILLS: u64 = 12;
    let (_lab, hosts) = network("ipam-kills", 2, "10.40.0.0/20", true)?;
    allocate(&hosts[1], "before", PATIENCE)?;
    let mut told: BTreeMap<String, IpAddr> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for kill in 0..KILLS {
        let over = AtomicBool::new(false);
        let (host, over) = (&hosts[1], &over);
        let given = std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                let mut given = Vec::new();
                for number in 0.. {
                    let id = format!("k{kill}-{number}");
                    match allocate(host, &id, secs(2)) {
                        Ok(address) => given.push((id, address)),
                        Err(_ended) if over.load(Ordering::Relaxed) => break,
                        Err(failure) => eprintln!("refused meanwhile: {failure}"),
                    }
                }
                given
            });
            // Each time at another moment of what the router does for an address.
            std::thread::sleep(millis(20 + 7 * kill));
            over.store(true, Ordering::Relaxed);
            host.kill_router(Signal::KILL)?;
            let Ok(given) = client.join() else { bail!("the client panicked") };
            Ok(given)
        })?;
        told.extend(given);
        let launched = Instant::now();
        start(host, "10.40.0.0/20", &[&hosts[0]])?;
        let again = allocate(host, &format!("again{kill}"), PATIENCE)?;
        slowest = slowest.max(launched.elapsed());
        ensure!(!told.values().any(|address| *address == again), "{again} was given twice");
        told.insert(format!("again{kill}"), again);
    }
    println!(
        "measured: {} addresses told over {KILLS} kills; first address after a launch within {slowest:.2?}",
        told.len()
    );
    for (id, address) in &told {
        ensure!(held(&hosts[1], id) == [*address], "{id} had {address}");
    }
    let others = (0..20).map(|n| allocate(&hosts[0], &format!("other{n}"), PATIENCE));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    all_differ(told.into_values().chain(others))?;
    Ok(())
}

/// Row 23, one cut of many; each byte is tried by the tests of mesh-ipam.
#[test]
fn a_torn_log_loses_nothing_that_was_told() -> Result<()> {
    let lab = Lab::new("ipam-torn")?;
    let host = lab.host("h1")?;
    start(&host, RANGE, &[])?;
    let before = allocate(&host, "first", PATIENCE)?;
    host.kill_router(Signal::KILL)?;
    let whole = fs::read(host.state_dir().join(LOG))?;
    let mut log = OpenOptions::new().append(true).open(host.state_dir().join(LOG))?;
    // The beginning of a write that power failure has cut off.
    log.write_all(&whole[..whole.len().min(9)])?;
    drop(log);
    start(&host, RANGE, &[])?;
    ensure!(allocate(&host, "first", PATIENCE)? == before, "it was {before}");
    ensure!(allocate(&host, "second", PATIENCE)? != before, "{before} was given twice");
    Ok(())
}

/// Row 24: a log that is damaged in its middle is not used. Frames go on, and status says what to do.
#[test]
fn a_damaged_log_disables_addresses_and_nothing_else() -> Result<()> {
    let (lab, hosts) = network("ipam-damage", 2, RANGE, true)?;
    // The router says so at level ERROR, as somebody must look at it.
    lab.tolerate_errors();
    let containers = containers(&hosts)?;
    let before = allocate(&hosts[1], "first", PATIENCE)?;
    frames_pass(&containers)?;
    hosts[1].mesh(["stop"])?;
    let path = hosts[1].state_dir().join(LOG);
    let whole = fs::read(&path)?;
    let mut damaged = whole.clone();
    damaged[20] ^= 0x10;
    fs::write(&path, &damaged)?;

    start(&hosts[1], RANGE, &[&hosts[0]])?;
    all_know(&hosts)?;
    frames_pass(&containers)?;
    let document = ipam(&hosts[1])?;
    ensure!(document.state == IpamState::Disabled && document.detail.contains("damaged"), "{document:?}");
    let failure = refused(&hosts[1], 1, &["ipam", "allocate", "second"])?;
    ensure!(failure.message.contains("damaged at byte"), "{failure:?}");
    hints_at(&failure, &["mesh reset"])?;
    ensure!(fs::read(&path)? == damaged, "the evidence was changed");

    // The remedy: the file of that very day.
    hosts[1].mesh(["stop"])?;
    fs::write(&path, &whole)?;
    start(&hosts[1], RANGE, &[&hosts[0]])?;
    ensure!(allocate(&hosts[1], "first", PATIENCE)? == before, "it was {before}");
    Ok(())
}

/// Row 25: on a full disk nothing is handed out, nobody is told what is not written, and frames go on.
#[test]
fn a_full_disk_ends_addresses_and_nothing_else() -> Result<()> {
    const SIZE: u64 = 1024 * 1024;
    let lab = Lab::new("ipam-full")?;
    lab.tolerate_errors();
    let hosts = [lab.host("h1")?, lab.host("h2")?];
    hosts[1].confine_state(SIZE)?;
    start(&hosts[0], RANGE, &[])?;
    start(&hosts[1], RANGE, &[&hosts[0]])?;
    all_know(&hosts)?;
    let containers = containers(&hosts)?;
    let before = allocate(&hosts[1], "first", PATIENCE)?;
    let ballast = hosts[1].state_dir().join("ballast");
    // Byte by byte in the end, so that not even a short record fits.
    let mut file = fs::File::create(&ballast)?;
    while file.write(&[0; 4096]).is_ok() {}
    while file.write(&[0]).is_ok() {}
    drop(file);

    let mut told = BTreeMap::new();
    let asked = Instant::now();
    let failure = (0..).find_map(|n| match allocate(&hosts[1], &format!("c{n}"), secs(5)) {
        Ok(address) => {
            // The last page of the log may have had room left.
            told.insert(format!("c{n}"), address);
            None
        }
        Err(failure) => Some(failure),
    });
    let failure = failure.context("the disk is full")?;
    println!(
        "measured: refused {:.2} s after the first request on a full disk",
        asked.elapsed().as_secs_f64()
    );
    ensure!(failure.kind == ErrorKind::Refused && failure.message.contains("disk"), "{failure:?}");
    ensure!(ipam(&hosts[1])?.state == IpamState::Disabled, "{:?}", ipam(&hosts[1])?);
    frames_pass(&containers)?;
    ensure!(status(&hosts[1])?.peers == 2, "{:?}", status(&hosts[1])?);

    // With room again the next life has all that was told.
    hosts[1].kill_router(Signal::KILL)?;
    fs::remove_file(&ballast)?;
    start(&hosts[1], RANGE, &[&hosts[0]])?;
    ensure!(held(&hosts[1], "first") == [before], "it was {before}");
    for (id, address) in &told {
        ensure!(held(&hosts[1], id) == [*address], "{id} had {address}");
    }
    let next = allocate(&hosts[1], "next", PATIENCE)?;
    ensure!(next != before && !told.values().any(|address| *address == next), "{next} was given twice");
    Ok(())
}

/// Row 25 at the launch: a router that cannot write its state says so and does not start.
#[test]
fn a_state_directory_that_cannot_be_written_keeps_a_router_from_starting() -> Result<()> {
    let lab = Lab::new("ipam-ro")?;
    let host = lab.host("h1")?;
    host.confine_state(1024 * 1024)?;
    start(&host, RANGE, &[])?;
    let before = allocate(&host, "first", PATIENCE)?;
    host.mesh(["stop"])?;
    eventually(READY, || host.make_state_read_only(true))?;
    let failure = refused(&host, 1, &["launch", "--ipam-range", RANGE])?;
    ensure!(failure.message.contains("Read-only file system"), "{failure:?}");
    host.make_state_read_only(false)?;
    start(&host, RANGE, &[])?;
    ensure!(allocate(&host, "first", PATIENCE)? == before, "it was {before}");
    Ok(())
}

/// Row 26: the state is removed under a running router, which stops handing out; the next life is another peer.
#[test]
fn a_router_whose_state_is_removed_hands_out_nothing_and_comes_back_as_another() -> Result<()> {
    let (lab, hosts) = network("ipam-removed", 3, RANGE, true)?;
    lab.tolerate_errors();
    let mut given = Vec::new();
    for host in &hosts {
        given.push(allocate(host, "first", PATIENCE)?);
    }
    let old = status(&hosts[2])?.router.peer_id;
    fs::remove_dir_all(hosts[2].state_dir())?;
    let Err(failure) = allocate(&hosts[2], "second", secs(5)) else {
        bail!("it gave away what nobody remembers")
    };
    ensure!(failure.message.contains("disk"), "{failure:?}");
    hosts[2].kill_router(Signal::KILL)?;

    start(&hosts[2], RANGE, &[&hosts[0]])?;
    ensure!(status(&hosts[2])?.router.peer_id != old, "an identity without its state");
    given.push(allocate(&hosts[2], "third", PATIENCE)?);
    all_differ(given)?;
    eventually(secs(30), || {
        let lost = ipam(&hosts[0])?.owned.into_iter().find(|owned| owned.peer_id == old);
        ensure!(lost.is_some_and(|owned| !owned.reachable && owned.addresses > 0), "{:?}", ipam(&hosts[0])?);
        Ok(())
    })?;
    eventually(secs(30), || rmpeer(&hosts[0], &old, secs(10)))?;
    let owned = agreed(&hosts)?;
    ensure!(!owned.contains_key(&old) && owned.values().sum::<u64>() == 256, "{owned:?}");
    Ok(())
}

/// Row 27: an old copy of the state is put back. It is noticed at the first contact, and nothing is handed out.
#[test]
fn a_state_that_was_put_back_hands_out_nothing_and_frames_go_on() -> Result<()> {
    let (_lab, hosts) = network("ipam-back", 3, RANGE, true)?;
    let copy = tempfile::tempdir()?;
    let containers = containers(&hosts)?;
    let mut given = vec![allocate(&hosts[1], "first", PATIENCE)?];
    hosts[1].mesh(["stop"])?;
    copy_state(&hosts[1].state_dir(), copy.path())?;
    start(&hosts[1], RANGE, &[&hosts[0]])?;
    all_know(&hosts)?;
    for n in 0..5 {
        given.push(allocate(&hosts[1], &format!("since{n}"), PATIENCE)?);
    }
    agreed(&hosts)?;
    hosts[1].mesh(["stop"])?;
    put_back(&hosts[1], copy.path())?;

    start(&hosts[1], RANGE, &[&hosts[0]])?;
    let launched = Instant::now();
    let failure = is_fenced(&hosts[1], &["reset", "mesh rmpeer"])?;
    println!("measured: fenced {:.2} s after its launch", launched.elapsed().as_secs_f64());
    ensure!(failure.message.contains("reset"), "{failure:?}");
    all_know(&hosts)?;
    frames_pass(&containers)?;
    ensure!(hosts[1].router_log().contains("no more addresses from this router"), "it is not in the log");

    // The others take nothing from it, and go on.
    given.push(allocate(&hosts[2], "other", PATIENCE)?);

    // The remedy: reset, join anew, retire what was.
    let old = status(&hosts[1])?.router.peer_id;
    hosts[1].mesh(["reset", "--force"])?;
    start(&hosts[1], RANGE, &[&hosts[0]])?;
    all_know(&hosts)?;
    eventually(secs(30), || rmpeer(&hosts[0], &old, secs(10)))?;
    given.push(allocate(&hosts[1], "anew", PATIENCE)?);
    ensure!(ipam(&hosts[1])?.state == IpamState::Ready, "{:?}", ipam(&hosts[1])?);
    Ok(())
}

/// Row 28: a copy runs beside the original. Neither hands out addresses any more; frames of the original go on.
#[test]
fn a_clone_and_its_original_are_both_fenced_and_frames_go_on() -> Result<()> {
    let (lab, hosts) = network("ipam-clone", 3, RANGE, true)?;
    let clone = lab.host("clone")?;
    let containers = containers(&hosts)?;
    allocate(&hosts[1], "first", PATIENCE)?;
    let other = allocate(&hosts[2], "other", PATIENCE)?;
    copy_state(&hosts[1].state_dir(), &clone.state_dir())?;
    let launched = Instant::now();
    start(&clone, RANGE, &[&hosts[0]])?;
    for host in [&clone, &hosts[1]] {
        let failure = is_fenced(host, &["copy", "reset", "mesh rmpeer"])?;
        ensure!(failure.message.contains("copy"), "{failure:?}");
        println!(
            "measured: {} fenced {:.2} s after the copy's launch",
            host.label(),
            launched.elapsed().as_secs_f64()
        );
    }
    all_know(&hosts)?;
    frames_pass(&containers)?;
    ensure!(held(&hosts[1], "first").len() == 1, "what is in use stays in use");
    ensure!(allocate(&hosts[2], "more", PATIENCE)? != other, "{other} was given twice");

    // The fence outlives both.
    clone.mesh(["stop"])?;
    hosts[1].mesh(["stop"])?;
    start(&hosts[1], RANGE, &[&hosts[0]])?;
    is_fenced(&hosts[1], &["copy"])?;
    Ok(())
}

/// A host that starts again after its state was removed for good, and its peers, know it under its new name.
#[test]
fn a_host_that_was_reset_gives_its_space_away_and_gets_some_again() -> Result<()> {
    let (_lab, hosts) = network("ipam-reset", 2, RANGE, true)?;
    let first = allocate(&hosts[1], "first", PATIENCE)?;
    hosts[1].mesh(["reset"])?;
    ensure!(agreed(&hosts[..1])?.values().eq([&256]), "{:?}", ipam(&hosts[0])?.owned);
    launch(&hosts[1], &words(["--ipam-range", RANGE, &hosts[0].ip().to_string()]), None)?;
    all_know(&hosts)?;
    allocate(&hosts[1], "second", PATIENCE)?;
    ensure!(held(&hosts[1], "first").is_empty(), "{first} outlived the reset");
    Ok(())
}
