//! Where there is a password, the kernel path shows nothing on the wire, whatever happens to it.

use anyhow::{Result, ensure};
use mesh_lab::{Lab, Signal, eventually, patience, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::keys::{has_keys, takings};
use crate::support::{Member, READY, all_connected, all_ping, launch, words};
use crate::vxlan::{SECRET, kernels_carry, sealer};

/// What containers tell each other, and what nobody else may read.
pub(crate) const PATTERN: &[u8; 16] = b"seen in the open";

const PASSWORD: Option<&str> = Some(SECRET);

/// The UDP ports of VXLAN: in clear, and inside of what seals it.
const PORTS: [u16; 2] = [6784, 6786];

pub(crate) fn talk(from: &Member, to: &Member) -> Result<()> {
    let pattern: String = PATTERN.iter().map(|byte| format!("{byte:02x}")).collect();
    let to = to.ip.to_string();
    // That some are lost while things are broken is no matter here.
    drop(from.container.run(["ping", "-n", "-q", "-c", "10", "-i", "0.05", "-W", "1", "-p", &pattern, &to]));
    Ok(())
}

#[test]
fn the_wire_shows_nothing_in_clear_whatever_happens() -> Result<()> {
    let lab = Lab::new("never")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let Some(sealer) = sealer(&h1) else { return Ok(()) };
    let device = sealer.device();
    let captures = [lab.capture_wire(&h1)?, lab.capture_wire(&h2)?];
    let peers = words([&h1.ip().to_string()]);
    let one = Member::launch(&h1, 1, &[], PASSWORD)?;
    let two = Member::launch(&h2, 2, &peers, PASSWORD)?;
    talk(&one, &two)?;
    all_connected(&[&h1, &h2])?;
    all_ping(&[&one, &two])?;
    eventually(READY, || kernels_carry(&[&one, &two]))?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;

    h2.kill_router(Signal::KILL)?;
    talk(&one, &two)?;
    let lost = heartbeat.tally().lost;
    ensure!(lost == 0, "{lost} frames were lost when the router was killed");
    launch(&h2, &peers, PASSWORD)?;
    talk(&two, &one)?;
    eventually(READY, || kernels_carry(&[&one, &two]))?;
    let lost = heartbeat.tally().lost;
    println!("measured: {lost} frames lost until the router was back");
    ensure!(lost < 10, "{lost} frames were lost when the router came back");

    for command in [
        &["nft", "flush", "ruleset"][..],
        &["nft", "delete", "table", "inet", "mesh_mesh0"],
        &["ip", "link", "del", device],
        &["ip", "link", "del", "mesh0-vxs"],
        &["ip", "link", "set", device, "down"],
    ] {
        h1.run(command.iter().copied())?;
        talk(&one, &two)?;
        eventually(secs(20), || kernels_carry(&[&one, &two]))?;
        eventually(READY, || {
            let rules = h1.run(["nft", "list", "table", "inet", "mesh_mesh0"])?.stdout;
            ensure!(
                rules.contains("oifname != { \"mesh0-wg\", \"mesh0-esp\" }"),
                "the rule is gone: {rules}"
            );
            Ok(())
        })?;
        talk(&two, &one)?;
    }
    println!("measured: {:?}, the longest silence {:.2} s", heartbeat.tally(), heartbeat.longest_silence());
    for command in takings(&h1, sealer)? {
        let taken = now()?;
        h1.run(&command)?;
        eventually(secs(20), || has_keys(&h1, sealer))?;
        talk(&one, &two)?;
        eventually(secs(20), || kernels_carry(&[&one, &two]))?;
        eventually(READY, || one.container.ping(two.ip))?;
        let (carried, silence) = (now()? - taken, heartbeat.longest_silence_since(taken));
        println!("measured: after {command:?} {carried:.2} s, the longest silence {silence:.2} s");
        ensure!(silence < 5.0 * f64::from(patience()), "silent for {silence} s");
    }
    let keys = h1.run(["ip", "-br", "link"])?.stdout;
    ensure!(keys.contains(device), "{keys}");
    for host in [&h1, &h2] {
        host.mesh(["stop"])?;
        host.mesh(["reset", "--force"])?;
        let left = host.run(["ip", "-br", "link"])?.stdout;
        ensure!(!left.contains("mesh0"), "{left}");
        for of in ["state", "policy"] {
            let left = host.run(["ip", "xfrm", of]).map(|output| output.stdout).unwrap_or_default();
            ensure!(!left.contains("if_id"), "{left}");
        }
    }
    for capture in captures {
        let frames = capture.stop()?;
        ensure!(sealer.count(&frames) > 100, "the kernel has carried nothing");
        ensure!(!frames.contains(PATTERN), "the payload was seen");
        for port in PORTS {
            ensure!(frames.udp_port(port) == 0, "VXLAN was seen on port {port}");
        }
    }
    Ok(())
}
