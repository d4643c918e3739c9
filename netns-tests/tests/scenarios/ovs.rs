//! The kernel path by Open vSwitch's datapath: what only it has. What it shares with VXLAN devices is asked of it by
//! `MESH_DATAPATH=ovs cargo xtask vm vxlan::`, since few machines have the module.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Lab, Ping, Signal, always, eventually, patience, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::support::{Member, READY, all_connected, all_ping, launch, ordered_pairs, words};
use crate::vxlan::{action, entry, flows, kernels_carry_by, sent_by_user_space};

/// What somebody removes is there again within this time on a busy machine.
const REPAIRED: Duration = secs(20);

/// How long frames without a flow flood.
const FLOOD: Duration = secs(5);

const OVS: [&str; 2] = ["--datapath", "ovs"];

/// Whether this kernel has datapaths. Loads the modules, which takes long where the CPU is emulated.
fn has_datapaths() -> bool {
    let loaded = Command::new("modprobe").args(["--quiet", "--all", "openvswitch", "vport-vxlan"]).status();
    loaded.is_ok_and(|status| status.success())
}

#[test]
fn a_kernel_without_datapaths_is_told_of_with_what_to_do() -> Result<()> {
    if has_datapaths() {
        println!("not asked: this kernel has datapaths");
        return Ok(());
    }
    let lab = Lab::new("without")?;
    let host = lab.host("h1")?;
    let told = host.mesh(["launch", OVS[0], OVS[1]]).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("no Open vSwitch datapath") && told.contains("modprobe"), "{told}");
    let links = host.run(["ip", "-br", "link"])?.stdout;
    ensure!(!links.contains("mesh0-"), "{links}");
    Ok(())
}

#[test]
fn flows_are_counted_and_outlive_a_router_tagged_frames_pass_and_what_is_removed_is_back() -> Result<()> {
    if !has_datapaths() {
        println!("not asked: this kernel has no datapaths");
        return Ok(());
    }
    let lab = Lab::new("datapath")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let with_peer = [words(OVS), words([&h1.ip().to_string()])].concat();
    let one = Member::launch(&h1, 1, &words(OVS), None)?;
    let two = Member::launch(&h2, 2, &with_peer, None)?;
    all_connected(&[&h1, &h2])?;
    all_ping(&[&one, &two])?;
    let both_carry = || kernels_carry_by(mesh_api::Overlay::Ovs, &[&one, &two]);
    eventually(READY, both_carry)?;

    let before = entry(&h1, &two.mac)?;
    let stats = one.container.ping_with(&Ping::to(two.ip).count(50))?;
    ensure!((stats.received, stats.duplicates) == (50, 0), "{stats:?}");
    let after = entry(&h1, &two.mac)?;
    let counted = after.packets.zip(before.packets).map_or(0, |(after, before)| after - before);
    ensure!((50..70).contains(&counted), "{before:?} {after:?}");
    ensure!(after.bytes > before.bytes, "{before:?} {after:?}");

    // Without routers the kernels go on, and the next ones take over what is counted.
    [&h1, &h2].into_iter().try_for_each(|host| host.kill_router(Signal::KILL))?;
    let stats = one.container.ping_with(&Ping::to(two.ip).count(20))?;
    ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
    launch(&h1, &words(OVS), None)?;
    launch(&h2, &with_peer, None)?;
    eventually(READY, both_carry)?;
    let later = entry(&h1, &two.mac)?;
    ensure!(later.packets >= after.packets.map(|packets| packets + 20), "{after:?} {later:?}");

    let by_hand_before = sent_by_user_space(&h1)?;
    for (number, host) in [(1, &h1), (2, &h2)] {
        plug_tagged(host, number)?;
    }
    let plugged = mac_of(&h2, "tagged")?;
    let other = Ping::to(Ipv4Addr::new(10, 77, 0, 2));
    // The first makes them known.
    eventually(READY, || h1.ping_with(&other).is_ok_and(|stats| stats.received == 1))?;
    eventually(READY, || {
        let action = action(&h1, &plugged)?;
        ensure!(action.starts_with("ovs to "), "{action}");
        Ok(())
    })?;
    let stats = h1.ping_with(&other.count(20))?;
    ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
    let by_hand = sent_by_user_space(&h1)? - by_hand_before;
    ensure!(by_hand < 40, "user space has sent {by_hand} frames");

    for command in [
        &["ip", "link", "del", "mesh0-ovx"][..],
        &["ip", "link", "set", "mesh0-ovp", "down"],
        &["ip", "link", "del", "mesh0-ov"],
    ] {
        h1.run(command.iter().copied())?;
        eventually(REPAIRED, || one.container.ping(two.ip))?;
        eventually(REPAIRED, both_carry)?;
        let is_whole = h1.run(["ip", "-br", "link"])?.stdout;
        ensure!(
            ["mesh0-ov@", "mesh0-ovp@", "mesh0-ovx"].iter().all(|name| is_whole.contains(name)),
            "{is_whole}"
        );
    }
    for host in [&h1, &h2] {
        host.mesh(["reset", "--force"])?;
        let links = host.run(["ip", "-br", "link"])?.stdout;
        ensure!(!links.contains("mesh0"), "{links}");
    }
    Ok(())
}

#[test]
fn datapaths_reach_each_other_over_ipv6_and_hosts_with_vxlan_devices() -> Result<()> {
    if !has_datapaths() {
        println!("not asked: this kernel has no datapaths");
        return Ok(());
    }
    let lab = Lab::new("mixed")?;
    let hosts = [lab.host("h1")?, lab.host("h2")?, lab.host("h3")?];
    let [h1, h2, h3] = &hosts;
    // The second has no other address.
    h2.remove_ipv4()?;
    let one = Member::launch(h1, 1, &words(OVS), None)?;
    let two = Member::launch(h2, 2, &[words(OVS), words([&h1.ip6().to_string()])].concat(), None)?;
    let by_devices = words(["--datapath", "vxlan", &h1.ip().to_string()]);
    let three = Member::launch(h3, 3, &by_devices, None)?;
    all_connected(&[h1, h2, h3])?;
    let members = [&one, &two, &three];
    all_ping(&members)?;
    eventually(READY, || {
        for (from, to, wanted) in [
            (&one, &two, format!("ovs to {} ", h2.ip6())),
            (&two, &one, format!("ovs to {} ", h1.ip6())),
            (&one, &three, format!("ovs to {} ", h3.ip())),
            (&three, &one, format!("vxlan to {} ", h1.ip())),
            (&two, &three, format!("ovs to {} ", h3.ip6())),
            (&three, &two, format!("vxlan to {} ", h2.ip6())),
        ] {
            let action = action(&from.host, &to.mac)?;
            ensure!(action.starts_with(&wanted), "{} sends {} {action}", from.host.label(), to.mac);
        }
        Ok(())
    })?;
    let by_hand_before = hosts.iter().map(sent_by_user_space).sum::<Result<u64>>()?;
    for (from, to) in ordered_pairs(&members) {
        let stats = from.container.ping_with(&Ping::to(to.ip).count(20))?;
        ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
    }
    let by_hand = hosts.iter().map(sent_by_user_space).sum::<Result<u64>>()? - by_hand_before;
    ensure!(by_hand < 60, "user space has sent {by_hand} frames");
    Ok(())
}

#[test]
fn a_flood_of_frames_without_a_flow_is_counted_and_stops_nobody_elses() -> Result<()> {
    if !has_datapaths() {
        println!("not asked: this kernel has no datapaths");
        return Ok(());
    }
    let lab = Lab::new("upcalls")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let one = Member::launch(&h1, 1, &words(OVS), None)?;
    let two = Member::launch(&h2, 2, &[words(OVS), words([&h1.ip().to_string()])].concat(), None)?;
    all_ping(&[&one, &two])?;
    eventually(READY, || kernels_carry_by(mesh_api::Overlay::Ovs, &[&one, &two]))?;
    for (number, host) in [(1, &h1), (2, &h2)] {
        plug_tagged(host, number)?;
    }
    eventually(READY, || h1.ping(Ipv4Addr::new(10, 77, 0, 2)))?;
    let plugged = mac_of(&h2, "tagged")?;
    eventually(READY, || {
        let action = action(&h1, &plugged)?;
        ensure!(action.starts_with("ovs to "), "{action}");
        Ok(())
    })?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    let begun = now()?;
    always(FLOOD, || heartbeat.last_answer())?;
    let quiet = heartbeat.longest_silence_since(begun);

    // Frames with a VLAN tag have no flow: all of them come up, as fast as one process can send them.
    let misses = flows(&h1)?.misses;
    let begun = now()?;
    let seconds = FLOOD.as_secs().to_string();
    let flood = ["timeout", &seconds, "socat", "-u", "-b", "1000", "/dev/zero", "UDP-SENDTO:10.77.0.2:9"];
    let flood = h1.spawn(flood)?;
    always(FLOOD, || heartbeat.last_answer())?;
    drop(flood);
    let busy = heartbeat.longest_silence_since(begun);
    eventually(READY, || one.container.ping(two.ip))?;
    let missed = flows(&h1)?.misses - misses;
    let tally = heartbeat.tally();
    println!(
        "measured: {missed} frames without a flow; {tally:?}, the longest silence {busy:.3} s, and {quiet:.3} s before"
    );
    ensure!(missed > 1_000, "only {missed} were counted");
    ensure!(tally.lost * 50 < tally.sent as usize, "{tally:?}");
    ensure!(busy < 2.0 * f64::from(patience()), "silent for {busy} s");
    eventually(READY, || kernels_carry_by(mesh_api::Overlay::Ovs, &[&one, &two]))
}

/// Plugs an interface with a VLAN into the bridge by hand.
fn plug_tagged(host: &Host, number: u8) -> Result<()> {
    let address = format!("10.77.0.{number}/24");
    for command in [
        &["ip", "link", "add", "plug", "type", "veth", "peer", "name", "plugged"][..],
        &["ip", "link", "set", "plug", "master", "mesh0", "up"],
        &["ip", "link", "set", "plugged", "up"],
        &["ip", "link", "add", "link", "plugged", "name", "tagged", "type", "vlan", "id", "7"],
        &["ip", "addr", "add", &address, "dev", "tagged"],
        &["ip", "link", "set", "tagged", "up"],
    ] {
        host.run(command.iter().copied())?;
    }
    Ok(())
}

fn mac_of(host: &Host, interface: &str) -> Result<String> {
    let told = host.run(["ip", "-br", "link", "show", "dev", interface])?.stdout;
    told.split_whitespace().nth(2).map(str::to_owned).with_context(|| format!("no address: {told}"))
}
