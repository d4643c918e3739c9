//! Thousands of flows that come and go, and the traffic of others beside them.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, always, eventually, patience, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::support::{READY, all_ping, chain};
use crate::vxlan::{flows, kernels_carry};

/// MACs that each of three hosts has besides its container's: 10,200 in all.
const MACS_EACH: usize = 3_400;

/// A pause that people notice.
const PAUSE_MAX_S: f64 = 1.0;

#[test]
fn ten_thousand_flows_come_and_go_without_a_pause_for_others() -> Result<()> {
    let (_lab, [one, two, three, four]) = chain("many", None)?;
    let members = [&one, &two, &three, &four];
    all_ping(&members)?;
    eventually(READY, || kernels_carry(&members))?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    let begun = now()?;
    always(secs(5), || heartbeat.last_answer())?;
    let quiet = heartbeat.longest_silence_since(begun);

    let all = u64::try_from(3 * MACS_EACH)?;
    let (installed, withdrawn) = (changes(&one.host, "installed")?, changes(&one.host, "withdrawn")?);
    let begun = now()?;
    for (number, member) in (2..).zip([&two, &three, &four]) {
        plug_many(&member.host, number)?;
    }
    eventually(secs(60), || reach(&one.host, "installed", installed + all))?;
    let up = now()?;
    let busy = heartbeat.longest_silence_since(begun);
    println!("measured: {all} flows after {:.1} s", up - begun);
    ensure!(flows(&one.host)?.entries.len() > 3 * MACS_EACH, "they are not there");
    for member in [&two, &three, &four] {
        member.host.run(["ip", "link", "del", "plug"])?;
    }
    eventually(secs(60), || reach(&one.host, "withdrawn", withdrawn + all))?;
    println!("measured: gone after {:.1} s", now()? - up);
    let busy = busy.max(heartbeat.longest_silence_since(up));
    ensure!(flows(&one.host)?.entries.len() < 10, "some are left");
    kernels_carry(&members)?;

    let tally = heartbeat.tally();
    println!("measured: {tally:?}, the longest silence {busy:.3} s, and {quiet:.3} s before");
    ensure!((tally.lost, tally.copies) == (0, 0), "{tally:?}");
    ensure!(busy < (PAUSE_MAX_S * f64::from(patience())).max(5.0 * quiet), "silent for {busy} s");
    Ok(())
}

/// Plugs an interface into the bridge by hand, with many MACs behind it.
fn plug_many(host: &Host, number: u8) -> Result<()> {
    host.run(["ip", "link", "add", "plug", "type", "veth", "peer", "name", "plugged"])?;
    host.run(["ip", "link", "set", "plugged", "up"])?;
    host.run(["ip", "link", "set", "plug", "master", "mesh0", "up"])?;
    let mut lines = String::new();
    for nth in 0..MACS_EACH {
        let [high, low] = u16::try_from(nth)?.to_be_bytes();
        writeln!(lines, "fdb add 0e:00:00:{number:02x}:{high:02x}:{low:02x} dev plug master static")?;
    }
    host.cmd("bridge").args(["-batch", "-"]).stdin(lines).run()?;
    Ok(())
}

/// How many flows were changed so, since the host's router started.
fn changes(host: &Host, how: &str) -> Result<u64> {
    flows(host)?.changes.get(how).copied().with_context(|| format!("nothing is {how}"))
}

fn reach(host: &Host, how: &str, wanted: u64) -> Result<()> {
    let count = changes(host, how)?;
    ensure!(count >= wanted, "{count} of {wanted} {how}");
    Ok(())
}
