//! Correctness under load: a bad wire, changing paths and a restart, while bytes that are checked cross in both directions.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_lab::{Chaos, Lab, eventually, millis, secs};

use crate::support::{Member, READY, all_ping, are_connected, chain_by_sleeve, drops};
use crate::transfer::{Datagrams, Transfer};

/// Bytes in each direction; by hand, `MESH_SPEED_BYTES` asks for more.
const LEN: usize = 48 << 20;

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

fn len() -> Result<usize> {
    Ok(match std::env::var("MESH_SPEED_BYTES") {
        Ok(bytes) => bytes.parse()?,
        Err(_unset) => LEN,
    })
}

/// Two members, sealed or in clear, whose frames go by sleeve, with a transfer and a stream of datagrams each way; `meanwhile` is what happens to them.
fn load(
    title: &str,
    password: Option<&str>,
    meanwhile: impl FnOnce(&Lab, &Member, &Member) -> Result<()>,
) -> Result<()> {
    let (lab, [one, two]): (Lab, [Member; 2]) = chain_by_sleeve(title, password)?;
    let (h1, h2) = (one.host.clone(), two.host.clone());
    all_ping(&[&one, &two])?;
    let (len, pace) = (len()?, (LENS, Duration::from_millis(2)));
    let transfers = [
        Transfer::begin(&one.container, &two.container, two.ip, len, 1)?,
        Transfer::begin(&two.container, &one.container, one.ip6, len, 2)?,
    ];
    let streams = [
        Datagrams::begin(&one.container, &two.container, two.ip6, pace)?,
        Datagrams::begin(&two.container, &one.container, one.ip, pace)?,
    ];
    meanwhile(&lab, &one, &two)?;
    for transfer in transfers {
        let took = transfer.finish()?.as_secs_f64();
        println!("measured: {title}: {len} bytes in {took:.2} s");
    }
    for stream in streams {
        let arrived = stream.finish()?;
        println!("measured: {title}: {arrived:?}");
        ensure!(arrived.received > arrived.sent / 10, "hardly a datagram arrives: {arrived:?}");
    }
    for host in [&h1, &h2] {
        ensure!(drops(host, "malformed_message")? == 0, "{} was sent what it cannot read", host.label());
        ensure!(drops(host, "super_frame")? == 0, "{} could not cut a frame", host.label());
    }
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
