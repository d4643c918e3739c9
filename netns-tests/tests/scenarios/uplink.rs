//! The uplink by packet capture (`--capture pcap`), for hosts without TUN: as good as a TAP but for its speed, and gone with
//! its router.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_api::Capture;
use mesh_lab::{Host, Lab, Signal, eventually, secs};

use crate::support::{
    BY_SLEEVE, Member, READY, all_connected, all_ping, are_connected, drops, mesh_binary, status,
};
use crate::transfer::{Datagrams, Transfer};

const PCAP: [&str; 2] = ["--capture", "pcap"];

/// Bytes of a transfer in each direction.
const LEN: usize = 8 << 20;

fn member(
    host: &Host,
    number: u8,
    options: &[&str],
    peer: Option<&Member>,
    password: Option<&str>,
) -> Result<Member> {
    let peer = peer.map(|peer| peer.host.ip().to_string());
    let arguments: Vec<_> = options.iter().copied().map(str::to_owned).chain(peer).collect();
    Member::launch(host, number, &arguments, password)
}

/// The interfaces of the host that bear the bridge's name.
fn interfaces(host: &Host) -> Result<Vec<String>> {
    let lines = host.run(["ip", "-o", "link", "show"])?.stdout;
    let named = lines.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    let mut ours: Vec<_> = named.filter(|name| name.starts_with("mesh0")).map(str::to_owned).collect();
    ours.sort_unstable();
    Ok(ours)
}

#[test]
fn captured_frames_cross_whole_beside_a_tap_and_super_frames() -> Result<()> {
    for (title, password) in [("pcapsealed", Some("come what may")), ("pcapclear", None)] {
        let lab = Lab::new(title)?;
        let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
        let one = member(&h1, 1, &[&BY_SLEEVE[..], &PCAP].concat(), None, password)?;
        let two = member(&h2, 2, &BY_SLEEVE, Some(&one), password)?;
        all_connected(&[&h1, &h2])?;
        all_ping(&[&one, &two])?;
        ensure!(status(&h1)?.router.capture == Capture::Pcap);
        ensure!(status(&h2)?.router.capture == Capture::Tap);
        let transfers = [
            Transfer::begin(&one.container, &two.container, two.ip, LEN, 1)?,
            Transfer::begin(&two.container, &one.container, one.ip6, LEN, 2)?,
        ];
        let pace = (&[8, 64, 500, 1_300, 5_000][..], Duration::from_millis(2));
        let streams = [
            Datagrams::begin(&one.container, &two.container, two.ip6, pace)?,
            Datagrams::begin(&two.container, &one.container, one.ip, pace)?,
        ];
        for transfer in transfers {
            println!("measured: {title}: {LEN} bytes in {:.2} s", transfer.finish()?.as_secs_f64());
        }
        for stream in streams {
            let arrived = stream.finish()?;
            ensure!(arrived.received > arrived.sent / 10, "hardly a datagram arrives: {arrived:?}");
        }
        for reason in ["inject_failed", "super_frame", "malformed_message"] {
            ensure!(drops(&h1, reason)? == 0, "frames were dropped: {reason}");
        }
    }
    Ok(())
}

#[test]
fn the_kernel_carries_frames_past_the_capture() -> Result<()> {
    let lab = Lab::new("pcapvxlan")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let one = member(&h1, 1, &PCAP, None, None)?;
    let two = member(&h2, 2, &PCAP, Some(&one), None)?;
    all_connected(&[&h1, &h2])?;
    all_ping(&[&one, &two])
}

#[test]
fn nothing_of_the_capture_outlives_its_router_for_long() -> Result<()> {
    let lab = Lab::new("pcaplife")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let one = member(&h1, 1, &[&BY_SLEEVE[..], &PCAP].concat(), None, None)?;
    let two = member(&h2, 2, &BY_SLEEVE, Some(&one), None)?;
    all_connected(&[&h1, &h2])?;
    ensure!(interfaces(&h1)? == ["mesh0", "mesh0-cap", "mesh0-tap"], "{:?}", interfaces(&h1)?);
    h1.mesh(["stop"])?;
    ensure!(interfaces(&h1)? == ["mesh0"], "{:?}", interfaces(&h1)?);

    // A router that was killed leaves its veth; the next one does not mind, whatever uplink it has.
    let peer = h2.ip().to_string();
    for capture in ["pcap", "tap", "pcap"] {
        h1.mesh(["launch", "--datapath", "sleeve", "--capture", capture, &peer])?;
        eventually(READY, || are_connected(&[&h1, &h2]))?;
        eventually(secs(10), || one.container.ping(two.ip))?;
        h1.kill_router(Signal::KILL)?;
    }
    ensure!(interfaces(&h1)?.contains(&"mesh0-cap".to_owned()));
    h1.mesh(["reset", "--force"])?;
    ensure!(interfaces(&h1)?.is_empty(), "{:?}", interfaces(&h1)?);
    Ok(())
}

#[test]
fn without_dev_net_tun_a_router_captures_packets() -> Result<()> {
    let lab = Lab::new("pcapnotun")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let script = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let hidden = h1
        .cmd("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c", script, "sh"])
        .arg(mesh_binary()?);
    let hidden = hidden.env("MESH_RUN_DIR", h1.run_dir()).env("MESH_STATE_DIR", h1.state_dir());
    hidden.args(["launch"]).args(PCAP).run()?;
    let two = member(&h2, 2, &[h1.ip().to_string().as_str()], None, None)?;
    let container = h1.container("c")?;
    crate::support::attach(&h1, &container, &["10.32.0.1/24"])?;
    eventually(READY, || container.ping(two.ip))?;
    Ok(())
}
