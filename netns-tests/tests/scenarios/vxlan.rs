//! The kernel path: that it carries, that it is left when it does not, and that nobody notices either; and the same where
//! all is encrypted, which takes a kernel with WireGuard or ESP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_api::{ConnectionState, FlowDocument, FlowsDocument, Overlay};
use mesh_lab::{Direction, Frames, Host, Lab, Ping, Protocol, Signal, always, eventually, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::support::{
    Member, READY, all_connected, all_ping, chain, connections, launch, ordered_pairs, status, words,
};

/// The UDP port of the kernel path.
const PORT: u16 = 6784;

/// The UDP port of the kernel path where all is encrypted.
pub(crate) const SEALED_PORT: u16 = 6785;

/// A generated secret: no time is spent on stretching it, which an emulated CPU takes long for.
pub(crate) const SECRET: &str = "mesh1.aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dyp2c5rd";

/// Whether the kernel path of a scenario is encrypted, and by what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Clear,
    Sealed(Sealer),
}

/// What encrypts in this kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealer {
    Wireguard,
    Esp,
}

/// The number of ESP among the protocols above IP.
const ESP: u8 = 50;

impl Sealer {
    pub(crate) const fn device(self) -> &'static str {
        match self {
            Self::Wireguard => "mesh0-wg",
            Self::Esp => "mesh0-esp",
        }
    }

    /// How many packets of a capture are its own.
    pub(crate) fn count(self, frames: &Frames) -> usize {
        match self {
            Self::Wireguard => frames.udp_port(SEALED_PORT),
            Self::Esp => frames.count(|frame| frame.ip_protocol() == Some(ESP)),
        }
    }
}

impl Path {
    const fn password(self) -> Option<&'static str> {
        match self {
            Self::Clear => None,
            Self::Sealed(_) => Some(SECRET),
        }
    }

    /// How many packets of a capture are the kernel path's.
    fn count(self, frames: &Frames) -> usize {
        match self {
            Self::Clear => frames.udp_port(PORT),
            Self::Sealed(sealer) => sealer.count(frames),
        }
    }

    fn block(self, host: &Host) -> Result<()> {
        match self {
            Self::Clear => host.block(Protocol::Udp, PORT, &Direction::BOTH),
            Self::Sealed(Sealer::Wireguard) => host.block(Protocol::Udp, SEALED_PORT, &Direction::BOTH),
            Self::Sealed(Sealer::Esp) => {
                let chain = |hook| {
                    let place = format!("type filter hook {hook} priority -300");
                    format!("chain {hook} {{\n{place};\nmeta l4proto esp drop\n}}\n")
                };
                let table = format!("table inet blocked {{\n{}{}}}", chain("input"), chain("output"));
                host.run(["nft", &table]).map(drop)
            }
        }
    }

    fn unblock(self, host: &Host) -> Result<()> {
        match self {
            Self::Clear => host.unblock(Protocol::Udp, PORT),
            Self::Sealed(Sealer::Wireguard) => host.unblock(Protocol::Udp, SEALED_PORT),
            Self::Sealed(Sealer::Esp) => host.run(["nft", "delete table inet blocked"]).map(drop),
        }
    }

    const fn device(self) -> &'static str {
        match self {
            Self::Clear => "mesh0-vx",
            Self::Sealed(_) => "mesh0-vxs",
        }
    }

    /// What `status` says of one that is too narrow, once user space has measured what is sealed.
    const fn narrowness(self) -> &'static str {
        match self {
            Self::Clear => "MTU",
            Self::Sealed(_) => "MTU is too small for encrypted VXLAN",
        }
    }
}

/// A path that is blocked is left, and one that is open again is taken, within this time on a busy machine.
const SWITCHED: Duration = secs(10);

pub(crate) fn flows(host: &Host) -> Result<FlowsDocument> {
    host.mesh(["status", "flows", "-o", "json"])?.json()
}

/// Wants a host to reach this neighbour by this overlay.
fn goes_by(host: &Host, neighbour: &str, overlay: Overlay) -> Result<()> {
    let all = connections(host)?;
    let found = all
        .iter()
        .find(|one| one.nickname.as_deref() == Some(neighbour) && one.state == ConnectionState::Established);
    let found = found.with_context(|| format!("{} is not connected to {neighbour}", host.label()))?;
    ensure!(found.overlay == Some(overlay), "{} reaches {neighbour} by {found:?}", host.label());
    Ok(())
}

/// The kernel path that routers are launched with.
pub(crate) fn kernel_path() -> Overlay {
    let is_ovs = std::env::var("MESH_DATAPATH").is_ok_and(|datapath| datapath == Overlay::Ovs.as_str());
    if is_ovs { Overlay::Ovs } else { Overlay::Vxlan }
}

/// Wants the kernel of each member to carry frames to each other one's container.
pub(crate) fn kernels_carry(members: &[&Member]) -> Result<()> {
    kernels_carry_by(kernel_path(), members)
}

pub(crate) fn kernels_carry_by(overlay: Overlay, members: &[&Member]) -> Result<()> {
    for (from, to) in ordered_pairs(members) {
        goes_by(&from.host, to.host.label(), overlay)?;
        let action = action(&from.host, &to.mac)?;
        let is_sealed = status(&from.host)?.router.encryption;
        let remote = if is_sealed { "24".to_owned() } else { format!("{} ", to.host.ip()) };
        let wanted = format!("{} to {remote}", overlay.as_str());
        ensure!(action.starts_with(&wanted), "{} sends {} {action}", from.host.label(), to.mac);
    }
    Ok(())
}

/// What a host does with frames for a MAC.
pub(crate) fn action(host: &Host, mac: &str) -> Result<String> {
    Ok(entry(host, mac)?.action)
}

/// A host's flow for a MAC.
pub(crate) fn entry(host: &Host, mac: &str) -> Result<FlowDocument> {
    let flows = flows(host)?;
    let key = format!("to {mac}");
    let found = flows.entries.iter().find(|flow| flow.key == key);
    Ok(found.with_context(|| format!("{} has no flow for {mac}: {flows:?}", host.label()))?.clone())
}

/// Frames that user space has sent to other hosts.
pub(crate) fn sent_by_user_space(host: &Host) -> Result<u64> {
    let passed = status(host)?.traffic.passed;
    Ok(passed.get("sleeve").and_then(|sleeve| sleeve.get("out")).map_or(0, |out| out.frames))
}

fn carrying_chain<const N: usize>(title: &str, path: Path) -> Result<(Lab, [Member; N])> {
    let (lab, members) = chain(title, path.password())?;
    all_ping(&members.each_ref())?;
    eventually(READY, || kernels_carry(&members.each_ref()))?;
    Ok((lab, members))
}

#[test]
fn frames_between_known_macs_pass_in_the_kernel_alone() -> Result<()> {
    pass(Path::Clear)
}

fn pass(path: Path) -> Result<()> {
    let (lab, [one, two]) = carrying_chain("kernel", path)?;
    let capture = lab.capture(&one.host)?;
    let before = sent_by_user_space(&one.host)?;
    let stats = one.container.ping_with(&Ping::to(two.ip).count(200))?;
    ensure!((stats.received, stats.duplicates) == (200, 0), "{stats:?}");
    let stats = one.container.ping_with(&Ping::to(two.ip6).count(20))?;
    ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
    let stats = one.container.ping_with(&Ping::to(two.ip).count(5).size(1390 - 28).dont_fragment())?;
    ensure!(stats.received == 5, "the largest frame does not pass: {stats:?}");
    let by_hand = sent_by_user_space(&one.host)? - before;
    ensure!(by_hand < 50, "user space has sent {by_hand} frames");
    let carried = path.count(&capture.stop()?);
    ensure!(carried >= 400, "the wire has seen {carried} packets of the kernel path");

    let document = flows(&one.host)?;
    let out = document.entries.iter().find(|flow| flow.key == "out").context("no sum")?;
    ensure!(out.packets >= Some(225), "{document:?}");
    let flow = entry(&one.host, &two.mac)?;
    ensure!(flow.idle_seconds.is_some_and(|idle| idle < 30), "{flow:?}");
    ensure!(flow.peer_id.as_ref() == Some(&two.peer_id), "{flow:?}");
    Ok(())
}

#[test]
fn blocked_vxlan_falls_back_to_sleeve_and_returns() -> Result<()> {
    fall_back(Path::Clear)
}

fn fall_back(path: Path) -> Result<()> {
    let (_lab, [one, two]) = carrying_chain("blocked", path)?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    let blocked = now()?;
    path.block(&two.host)?;
    eventually(SWITCHED, || goes_by(&one.host, "h2", Overlay::Sleeve))?;
    eventually(SWITCHED, || goes_by(&two.host, "h1", Overlay::Sleeve))?;
    let answer = eventually(SWITCHED, || heartbeat.first_answer_after(blocked + 0.1))?;
    println!("measured: {:.2} s without an answer when VXLAN was blocked", answer - blocked);
    let info = connections(&one.host)?.into_iter().find_map(|one| one.info).unwrap_or_default();
    ensure!(info.contains("VXLAN"), "the reason is not shown: {info:?}");
    eventually(READY, || {
        let action = action(&one.host, &two.mac)?;
        ensure!(action == "user space", "{action}");
        Ok(())
    })?;
    always(secs(8), || one.container.ping(two.ip).is_ok())?;

    let silent_before = heartbeat.longest_silence();
    let opened = now()?;
    path.unblock(&two.host)?;
    eventually(secs(20), || kernels_carry(&[&one, &two]))?;
    println!("measured: VXLAN carries again after {:.2} s", now()? - opened);
    ensure!(silent_before < 5.0, "silent for {silent_before} s");
    let tally = heartbeat.tally();
    println!("measured: {tally:?}, the longest silence {:.2} s", heartbeat.longest_silence());
    ensure!(tally.copies == 0, "{tally:?}");
    Ok(())
}

#[test]
fn a_path_too_narrow_for_vxlan_is_left_to_sleeve() -> Result<()> {
    narrow(Path::Clear)
}

fn narrow(path: Path) -> Result<()> {
    let lab = Lab::new("narrow")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let fixed = ["--mtu", "1390"];
    let one = Member::launch(&h1, 1, &words(fixed), path.password())?;
    let two = Member::launch(&h2, 2, &words([fixed[0], fixed[1], &h1.ip().to_string()]), path.password())?;
    all_ping(&[&one, &two])?;
    eventually(READY, || kernels_carry(&[&one, &two]))?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    lab.path_mtu(&two.host, 1300)?;
    eventually(SWITCHED, || goes_by(&one.host, "h2", Overlay::Sleeve))?;
    eventually(secs(20), || {
        let infos: Vec<_> = connections(&one.host)?.into_iter().filter_map(|one| one.info).collect();
        ensure!(infos.iter().any(|info| info.contains(path.narrowness())), "{infos:?}");
        Ok(())
    })?;
    eventually(READY, || one.container.ping(two.ip))?;
    lab.path_mtu(&two.host, 1500)?;
    eventually(secs(60), || kernels_carry(&[&one, &two]))?;
    let tally = heartbeat.tally();
    println!("measured: {tally:?}, the longest silence {:.3} s", heartbeat.longest_silence());
    ensure!((tally.lost, tally.copies) == (0, 0), "small frames were lost: {tally:?}");
    Ok(())
}

#[test]
fn a_router_that_is_killed_and_one_that_is_stopped_lose_no_frame_of_the_kernel() -> Result<()> {
    live_on(Path::Clear)
}

fn live_on(path: Path) -> Result<()> {
    let (_lab, [one, two, three]) = carrying_chain("life", path)?;
    let peers = [one.host.ip().to_string()];
    let heartbeats = [Heartbeat::beating(&one.container, &two)?, Heartbeat::beating(&two.container, &three)?];
    for end in ["kill", "stop"] {
        match end {
            "kill" => two.host.kill_router(Signal::KILL)?,
            _ => drop(two.host.mesh(["stop"])?),
        }
        // Longer than anybody takes to notice.
        let until = now()? + 3.0;
        eventually(READY, || now().ok().filter(|now| *now > until))?;
        launch(&two.host, &peers, path.password())?;
        eventually(READY, || kernels_carry(&[&one, &two, &three]))?;
    }
    for heartbeat in &heartbeats {
        let tally = heartbeat.tally();
        println!("measured: {tally:?}, the longest silence {:.3} s", heartbeat.longest_silence());
        ensure!((tally.lost, tally.copies) == (0, 0), "{tally:?}");
    }
    Ok(())
}

#[test]
fn flushed_entries_and_removed_devices_are_there_again_within_a_moment() -> Result<()> {
    repair(Path::Clear)
}

fn repair(path: Path) -> Result<()> {
    let (_lab, [one, two]) = carrying_chain("repair", path)?;
    let device = path.device();
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    let of_devices = [
        &["bridge", "fdb", "flush", "dev", device, "master"][..],
        &["bridge", "fdb", "flush", "dev", device, "self"],
        &["bridge", "fdb", "del", &two.mac, "dev", device, "self"],
        &["bridge", "fdb", "replace", &two.mac, "dev", device, "self", "static", "dst", "192.0.2.77"],
        &["ip", "link", "set", device, "down"],
        &["ip", "link", "set", device, "nomaster"],
        &["ip", "link", "del", device],
    ];
    let of_a_datapath = [
        &["bridge", "fdb", "flush", "dev", "mesh0-ov", "master"][..],
        &["ip", "link", "set", "mesh0-ovp", "down"],
        &["ip", "link", "set", "mesh0-ov", "nomaster"],
        &["ip", "link", "del", "mesh0-ovx"],
        &["ip", "link", "del", "mesh0-ov"],
    ];
    let is_ovs = kernel_path() == Overlay::Ovs;
    for command in if is_ovs { &of_a_datapath[..] } else { &of_devices } {
        let before = now()?;
        match one.host.run(command.iter().copied()) {
            // Debian's 6.1 cannot flush a VXLAN device.
            Err(error) if format!("{error:#}").contains("Operation not supported") => continue,
            done => done?,
        };
        eventually(SWITCHED, || kernels_carry(&[&one, &two]))?;
        if !is_ovs {
            eventually(SWITCHED, || has_both_entries(&one.host, device, &two.mac))?;
        }
        println!("measured: {:.2} s after {command:?}", now()? - before);
        eventually(READY, || one.container.ping(two.ip))?;
    }
    let (tally, silence) = (heartbeat.tally(), heartbeat.longest_silence());
    println!("measured: {tally:?}, the longest silence {silence:.2} s");
    ensure!(silence < 5.0, "silent for {silence} s");
    Ok(())
}

/// Wants the kernel's tables to hold what a flow is made of, and nothing else.
fn has_both_entries(host: &Host, uplink: &str, mac: &str) -> Result<()> {
    let tables = host.run(["bridge", "fdb", "show", "br", "mesh0"])?.stdout;
    // A kernel with VLAN filtering repeats an entry for the VLAN of its port.
    let is_whole = |line: &&str| line.starts_with(mac) && !line.contains(" vlan ");
    let lines: Vec<_> = tables.lines().filter(is_whole).collect();
    let bridge =
        lines.iter().filter(|line| line.contains(&format!("dev {uplink} master mesh0 static"))).count();
    let device = lines.iter().filter(|line| line.contains("dst ")).count();
    ensure!((bridge, device, lines.len()) == (1, 1, 2), "{lines:?}");
    Ok(())
}

#[test]
fn a_fourth_host_joins_and_a_mac_moves_without_a_loss_for_the_others() -> Result<()> {
    join_and_move(Path::Clear)
}

fn join_and_move(path: Path) -> Result<()> {
    let (lab, [one, two, three]) = carrying_chain("moves", path)?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    let host = lab.host("h4")?;
    let four = Member::launch(&host, 4, &words([&one.host.ip().to_string()]), path.password())?;
    let all = [&one, &two, &three, &four];
    all_connected(&all.map(|member| &member.host))?;
    all_ping(&all)?;
    eventually(READY, || kernels_carry(&all))?;

    // What was a container of the third host is plugged in at the fourth by hand, with its MAC and its address.
    let mac = three.mac.clone();
    three.host.mesh(["detach", &three.container.spec()])?;
    for host in [&one.host, &two.host, &four.host] {
        eventually(READY, || {
            ensure!(action(host, &mac).is_err(), "{} still has a flow for {mac}", host.label());
            Ok(())
        })?;
    }
    for command in [
        &["ip", "link", "add", "plug", "type", "veth", "peer", "name", "moved", "address", &mac][..],
        &["ip", "link", "set", "plug", "master", "mesh0", "up"],
        &["ip", "addr", "add", "10.32.0.3/24", "dev", "moved"],
        &["ip", "link", "set", "moved", "up"],
    ] {
        host.run(command.iter().copied())?;
    }
    // Its first frame, to whomever, says where it is.
    drop(host.run(["ping", "-c", "1", "-W", "1", "10.32.0.1"]));
    for from in [&one.host, &two.host, &three.host] {
        let there = action(from, &four.mac)?;
        eventually(READY, || {
            let action = action(from, &mac)?;
            ensure!(action == there, "{} sends {mac} {action}", from.label());
            Ok(())
        })?;
    }
    eventually(READY, || one.container.ping(three.ip))?;
    let tally = heartbeat.tally();
    println!("measured: {tally:?}");
    ensure!((tally.lost, tally.copies) == (0, 0), "{tally:?}");
    Ok(())
}

#[test]
fn encrypted_links_never_use_vxlan_in_clear() -> Result<()> {
    let (lab, [one, two]) = chain("sealed", Some("not in the kernel"))?;
    let captures = [lab.capture(&one.host)?, lab.capture(&two.host)?];
    all_ping(&[&one, &two])?;
    one.container.ping_with(&Ping::to(two.ip).count(50))?;
    if sealer(&one.host).is_none() {
        goes_by(&one.host, "h2", Overlay::Sleeve)?;
        let info = connections(&one.host)?.into_iter().find_map(|one| one.info).unwrap_or_default();
        ensure!(info.contains("encrypted") && info.contains("ESP"), "{info:?}");
    }
    for capture in captures {
        ensure!(capture.stop()?.udp_port(PORT) == 0, "something has left by VXLAN");
    }
    Ok(())
}

#[test]
fn packets_of_strangers_do_not_reach_a_container() -> Result<()> {
    let (lab, [one, two]) = carrying_chain("strangers", Path::Clear)?;
    let eve = lab.host("eve")?;
    let action = action(&two.host, &one.mac)?;
    let vni = action.split(" vni ").nth(1).context("no VNI")?;
    let (target, port) = (one.host.ip().to_string(), PORT.to_string());
    eve.run(["ip", "link", "add", "vx", "type", "vxlan", "id", vni, "remote", &target, "dstport", &port])?;
    eve.run(["ip", "addr", "add", "10.32.0.99/24", "dev", "vx"])?;
    eve.run(["ip", "link", "set", "vx", "up"])?;
    let answered = eve.run(["ping", "-c", "5", "-i", "0.2", "-W", "1", &one.ip.to_string()]);
    ensure!(answered.is_err(), "a container has answered a stranger");
    eventually(READY, || kernels_carry(&[&one, &two]))
}

/// What the kernel encrypts with. A scenario that needs it says so where it has nothing.
pub(crate) fn sealer(host: &Host) -> Option<Sealer> {
    let has = |kind: &[&str]| {
        let made = host.run(["ip", "link", "add", "probe", "type"].iter().chain(kind).copied()).is_ok();
        if made {
            drop(host.run(["ip", "link", "del", "probe"]));
        }
        made
    };
    if has(&["wireguard"]) {
        return Some(Sealer::Wireguard);
    }
    if has(&["xfrm", "if_id", "1"]) {
        return Some(Sealer::Esp);
    }
    eprintln!("skipped: this kernel has neither WireGuard nor ESP");
    None
}

fn where_the_kernel_seals(scenario: fn(Path) -> Result<()>) -> Result<()> {
    let found = sealer(&Lab::new("seals")?.host("h1")?);
    found.map_or(Ok(()), |sealer| scenario(Path::Sealed(sealer)))
}

#[test]
fn sealed_frames_pass_in_the_kernel_alone() -> Result<()> {
    where_the_kernel_seals(pass)
}

#[test]
fn sealed_frames_pass_over_ipv6() -> Result<()> {
    where_the_kernel_seals(|path| {
        let lab = Lab::new("sealed6")?;
        let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
        [&h1, &h2].into_iter().try_for_each(Host::remove_ipv4)?;
        let one = Member::launch(&h1, 1, &[], path.password())?;
        let two = Member::launch(&h2, 2, &words([&h1.ip6().to_string()]), path.password())?;
        all_connected(&[&h1, &h2])?;
        all_ping(&[&one, &two])?;
        eventually(READY, || kernels_carry(&[&one, &two]))?;
        let capture = lab.capture(&h1)?;
        let before = sent_by_user_space(&h1)?;
        let stats = one.container.ping_with(&Ping::to(two.ip).count(50))?;
        ensure!((stats.received, stats.duplicates) == (50, 0), "{stats:?}");
        // The sealed packet's header is longer by 20 bytes than over IPv4.
        let largest = Ping::to(two.ip).count(5).size(1370 - 28).dont_fragment();
        let stats = one.container.ping_with(&largest)?;
        ensure!(stats.received == 5, "the largest frame does not pass: {stats:?}");
        let by_hand = sent_by_user_space(&h1)? - before;
        ensure!(by_hand < 30, "user space has sent {by_hand} frames");
        let carried = path.count(&capture.stop()?);
        ensure!(carried >= 110, "the wire has seen {carried} packets of the kernel path");
        Ok(())
    })
}

#[test]
fn a_path_too_narrow_for_sealed_vxlan_is_left_to_sleeve() -> Result<()> {
    where_the_kernel_seals(narrow)
}

#[test]
fn sealed_vxlan_that_is_blocked_falls_back_to_sleeve_and_returns() -> Result<()> {
    where_the_kernel_seals(fall_back)
}

#[test]
fn sealed_flows_outlive_their_router() -> Result<()> {
    where_the_kernel_seals(live_on)
}

#[test]
fn sealed_flows_are_repaired() -> Result<()> {
    where_the_kernel_seals(repair)
}

#[test]
fn sealed_flows_of_others_lose_nothing_when_a_host_joins_and_a_mac_moves() -> Result<()> {
    where_the_kernel_seals(join_and_move)
}
