//! The bridge and what a router does with its frames, by the rows of the study of Weave Net (section 1.D) that no other
//! scenario shows.

use anyhow::{Context, Result, ensure};
use mesh_api::MacDocument;
use mesh_lab::{Container, Host, Lab, always, eventually, millis, secs};

use crate::support::{
    IFNAME, Member, READY, all_ping, attach, chain, chain_by_sleeve, launch, multicast_arrives_once,
};

/// Where a host's router gives frames of others to the bridge, and takes those for others.
const TAP: &str = "mesh0-tap";

const MARK: &[u8] = b"for somebody whom nobody knows";

pub(crate) fn macs(host: &Host) -> Result<Vec<MacDocument>> {
    host.mesh(["status", "macs", "-o", "json"])?.json()
}

fn bytes(mac: &str) -> Result<Vec<u8>> {
    Ok(mac.split(':').map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<_, _>>()?)
}

/// Rows 64, 65.
#[test]
fn status_tells_which_peer_each_mac_is_at_and_forgets_those_of_a_peer_that_is_gone() -> Result<()> {
    let (_lab, [one, two]) = chain_by_sleeve("macs", None)?;
    all_ping(&[&one, &two])?;
    eventually(READY, || {
        let found = macs(&one.host)?;
        for member in [&one, &two] {
            let line = found.iter().find(|line| line.mac == member.mac);
            let line = line.with_context(|| format!("{} is not there", member.mac))?;
            ensure!(line.peer_id == member.peer_id && line.last_seen_seconds < 60, "{line:?}");
        }
        Ok(())
    })?;
    two.host.mesh(["stop"])?;
    eventually(READY, || {
        let found = macs(&one.host)?;
        ensure!(found.iter().all(|line| line.peer_id == one.peer_id), "{found:?}");
        Ok(())
    })
}

/// Row 64: what was plugged in by hand, and so announced by nobody, is learnt where it was seen last.
#[test]
fn a_mac_that_moves_to_another_host_is_found_there() -> Result<()> {
    const MAC: &str = "02:00:00:00:00:50";
    let (_lab, [one, two, three]) = chain_by_sleeve("moves", None)?;
    all_ping(&[&one, &two, &three])?;
    for member in [&one, &two, &one] {
        let plugged = plug_in(member, MAC, "10.32.0.50/24")?;
        eventually(READY, || plugged.ping(three.ip))?;
        eventually(READY, || three.container.ping("10.32.0.50"))?;
        let found = macs(&three.host)?;
        let at: Vec<_> = found.iter().filter(|line| line.mac == MAC).map(|line| &line.peer_id).collect();
        ensure!(at == [&member.peer_id], "{at:?}");
        member.host.run(["ip", "link", "del", "hand0"])?;
    }
    Ok(())
}

/// Plugs in a container by hand.
pub(crate) fn plug_in(member: &Member, mac: &str, address: &str) -> Result<Container> {
    let plugged = member.host.container(&format!("plugged{}", macs(&member.host)?.len()))?;
    let far = ["type", "veth", "peer", "name", "eth0", "address", mac, "netns", plugged.name()];
    member.host.run(["ip", "link", "add", "hand0"].iter().chain(&far).copied())?;
    member.host.run(["ip", "link", "set", "hand0", "master", "mesh0", "up"])?;
    plugged.run(["ip", "address", "add", address, "dev", "eth0"])?;
    plugged.run(["ip", "link", "set", "eth0", "up"])?;
    Ok(plugged)
}

/// Row 66.
#[test]
fn frames_for_a_mac_that_nobody_knows_come_to_all_hosts() -> Result<()> {
    let (_lab, [one, two, three]) = chain("unknown", None)?;
    all_ping(&[&one, &two, &three])?;
    let head = [0x45, 0, 0, 50, 0, 1, 0, 0, 64, 253, 0, 0];
    let addresses = [one.ip.octets(), [10, 32, 0, 99]].concat();
    let nobody = [2, 0, 0, 0, 0, 0x99];
    let mut packet = [&head[..], &addresses].concat();
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    // A kernel that filters bridged packets drops one whose checksum is wrong.
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let frame = [&nobody[..], &bytes(&one.mac)?, &[8, 0], &packet, MARK].concat();
    eventually(READY, || {
        let captures = [two.host.capture(TAP)?, three.host.capture(TAP)?];
        always(millis(100), || one.container.send_frame(IFNAME, &frame))?;
        for (capture, host) in captures.into_iter().zip(["h2", "h3"]) {
            ensure!(capture.stop()?.contains(MARK), "it does not come to {host}");
        }
        Ok(())
    })
}

/// Row 70: a bridge that gives a frame back to where it came from would send others' frames round and round.
#[test]
fn hairpin_on_the_uplink_doubles_nothing() -> Result<()> {
    let (_lab, [one, two]) = chain_by_sleeve("hairpin", None)?;
    all_ping(&[&one, &two])?;
    for member in [&one, &two] {
        member.host.run(["bridge", "link", "set", "dev", TAP, "hairpin", "on"])?;
    }
    multicast_arrives_once(&one, &[&two], "239.1.2.3:5000", 50)?;
    let capture = one.host.capture(TAP)?;
    for (from, to) in [(&one, &two), (&two, &one)] {
        from.container.arping(IFNAME, to.ip)?;
        let stats = from.container.ping_with(&mesh_lab::Ping::to(to.ip).count(20))?;
        ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
    }
    let frames = capture.stop()?.len();
    ensure!(frames < 400, "{frames} frames for some pings");
    let at: Vec<_> = macs(&one.host)?.into_iter().filter(|line| line.mac == two.mac).collect();
    ensure!(at.iter().all(|line| line.peer_id == two.peer_id), "{at:?}");
    Ok(())
}

/// Row 72.
#[test]
fn a_container_has_a_route_for_groups_unless_it_is_to_have_none() -> Result<()> {
    let lab = Lab::new("grouproute")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    for (name, option, wanted) in [("with", None, true), ("without", Some("--no-multicast-route"), false)] {
        let container = host.container(name)?;
        let address = if wanted { "10.32.0.1/24" } else { "10.32.0.2/24" };
        host.mesh(["attach", &container.spec(), address].into_iter().chain(option))?;
        let routes = container.run(["ip", "route", "show", "224.0.0.0/4"])?.stdout;
        ensure!(routes.contains(IFNAME) == wanted, "{name}: {routes:?}");
    }
    Ok(())
}

/// Row 73: neighbours hear at once that an address has another MAC.
#[test]
fn an_address_that_another_container_gets_is_reached_within_a_moment() -> Result<()> {
    let (_lab, [one, two]) = chain("again", None)?;
    all_ping(&[&one, &two])?;
    for number in 0..3 {
        let member = if number == 1 { &two } else { &one };
        let container = member.host.container(&format!("tenant{number}"))?;
        attach(&member.host, &container, &["10.32.0.60/24"])?;
        // The other one knows the MAC of the tenant before.
        eventually(secs(3), || two.container.ping("10.32.0.60"))?;
        eventually(secs(3), || one.container.ping("10.32.0.60"))?;
        member.host.mesh(["detach", &container.spec()])?;
    }
    Ok(())
}

/// Row 76.
#[test]
fn nobody_in_the_overlay_is_a_router_of_ipv6() -> Result<()> {
    let (_lab, [one]) = chain("noadverts", None)?;
    let in_container = one.container.sysctl(&format!("net.ipv6.conf.{IFNAME}.accept_ra"))?;
    ensure!(in_container == "0", "a container takes advertisements: {in_container}");
    let ports = one.host.run(["ip", "-br", "link", "show", "master", "mesh0"])?.stdout;
    let ports = ports.lines().filter_map(|line| line.split(['@', ' ']).next());
    for name in ports.chain(["mesh0"]) {
        let value = one.host.sysctl(&format!("net.ipv6.conf.{name}.accept_ra"))?;
        let off = one.host.sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6"))?;
        ensure!(value == "0" || off == "1", "{name} takes advertisements: {value}");
    }
    Ok(())
}
