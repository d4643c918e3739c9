//! Where frames for groups of IPv4 and IPv6 go: to hosts with members, and nowhere else.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mesh_api::RoutesDocument;
use mesh_lab::{Lab, MulticastListener, always, eventually, millis, secs};

use crate::support::{
    IFNAME, Member, READY, all_connected, all_ping, chain, chain_by_sleeve, launch, shape, status,
};

const GROUPS: [&str; 2] = ["239.1.1.1:5000", "[ff05::1234]:5001"];

/// Where a host's router gives frames of others to the bridge.
const TAP: &str = "mesh0-tap";

/// What the datagrams of these scenarios hold.
const WORD: &[u8] = b"to whom it may concern";

fn send(from: &Member, group: &str) -> Result<()> {
    from.container.multicast_send(group.parse()?, IFNAME, WORD)
}

fn join(member: &Member, group: &str) -> Result<MulticastListener> {
    member.container.multicast_listen(group.parse::<SocketAddr>()?, IFNAME)
}

fn arrives(from: &Member, group: &str, listener: &MulticastListener) -> Result<()> {
    eventually(READY, || {
        send(from, group)?;
        listener.next(millis(100)).with_context(|| format!("{group} from {}", from.host.label()))
    })?;
    Ok(())
}

/// Sends to a group for a second, and returns whether any of it came to this host's uplink.
fn comes_to(host: &Member, from: &Member, group: &str) -> Result<bool> {
    let capture = host.host.capture(TAP)?;
    always(secs(1), || send(from, group))?;
    Ok(capture.stop()?.contains(WORD))
}

fn events(member: &Member, name: &str) -> Result<u64> {
    Ok(status(&member.host)?.traffic.events.get(name).copied().unwrap_or(0))
}

/// Waits until a host sends nothing to these groups' hosts any more, and so has heard what they want.
fn stays(from: &Member, group: &str) -> Result<()> {
    eventually(READY, || {
        let before = events(from, "group_without_members")?;
        send(from, group)?;
        ensure!(events(from, "group_without_members")? > before, "{group} leaves {}", from.host.label());
        Ok(())
    })
}

fn groups_follow_their_members(one: &Member, two: &Member, three: &Member) -> Result<()> {
    all_ping(&[one, two, three])?;
    for group in GROUPS {
        stays(one, group)?;
        ensure!(!comes_to(two, one, group)?, "{group} has no members, and came to h2");

        let listener = join(two, group)?;
        arrives(one, group, &listener)?;
        ensure!(!comes_to(three, one, group)?, "{group} came to h3, which has no member");
        ensure!(comes_to(two, one, group)?, "{group} no longer comes to h2");

        let routes: RoutesDocument = one.host.mesh(["status", "routes", "-o", "json"])?.json()?;
        let at: Vec<_> = routes.groups.iter().map(|group| &group.peer_ids[..]).collect();
        ensure!(at == [std::slice::from_ref(&two.peer_id)], "{group}: {:?}", routes.groups);

        let late = join(three, group)?;
        arrives(one, group, &late)?;
        drop((listener, late));
        stays(one, group)?;
        let again = join(two, group)?;
        arrives(one, group, &again)?;
    }
    // Some groups everybody is a member of.
    ensure!(comes_to(two, one, "224.0.0.251:5353")? && comes_to(three, one, "224.0.0.251:5353")?, "mDNS");
    Ok(())
}

#[test]
fn frames_for_a_group_go_only_to_hosts_with_members() -> Result<()> {
    let (_lab, [one, two, three]) = chain("groups", None)?;
    groups_follow_their_members(&one, &two, &three)
}

#[test]
fn frames_for_a_group_go_only_to_hosts_with_members_also_sealed_in_user_space() -> Result<()> {
    let (_lab, [one, two, three]) = chain_by_sleeve("groups-sealed", Some("a secret for all three"))?;
    groups_follow_their_members(&one, &two, &three)
}

#[test]
fn a_member_behind_another_router_gets_frames_for_its_group() -> Result<()> {
    let (_lab, members): (Lab, _) = shape("groups-relayed", 3, &[(1, 2), (2, 3)])?;
    let [one, two, three] = &members[..] else { anyhow::bail!("three members") };
    all_ping(&[one, two, three])?;
    stays(one, GROUPS[0])?;
    let listener = join(three, GROUPS[0])?;
    arrives(one, GROUPS[0], &listener)?;
    ensure!(!comes_to(two, one, GROUPS[0])?, "the router in between has no member, and injects the frame");
    Ok(())
}

#[test]
fn members_outlive_their_router() -> Result<()> {
    let (_lab, [one, two]) = chain("groups-restart", None)?;
    all_ping(&[&one, &two])?;
    let [first, second] = GROUPS;
    let listener = join(&two, first)?;
    stays(&one, second)?;
    arrives(&one, first, &listener)?;
    two.host.mesh(["stop"])?;
    launch(&two.host, &[one.host.ip().to_string()], None)?;
    all_connected(&[&one.host, &two.host])?;
    arrives(&one, first, &listener)?;
    stays(&one, second)?;
    arrives(&one, first, &listener)
}

/// A router of groups, or a switch that asks for members, has to hear all groups; what it is behind is known by its question.
#[test]
fn whoever_routes_groups_gets_the_frames_of_all_of_them() -> Result<()> {
    let (_lab, [one, two, three]) = chain("groups-routed", None)?;
    all_ping(&[&one, &two, &three])?;
    for group in GROUPS {
        stays(&one, group)?;
    }
    // Somebody says so of a port.
    let port = port_of(&two)?;
    two.host.run(["bridge", "link", "set", "dev", &port, "mcast_router", "2"])?;
    for group in GROUPS {
        reaches(&one, &two, group)?;
        ensure!(!comes_to(&three, &one, group)?, "{group} came to h3, which routes none");
    }
    two.host.run(["bridge", "link", "set", "dev", &port, "mcast_router", "1"])?;
    for group in GROUPS {
        stays(&one, group)?;
    }
    // A container asks, for members of IPv4's.
    three.container.send_frame(IFNAME, &igmp_query(&three)?)?;
    let [group, _] = GROUPS;
    reaches(&one, &three, group)?;
    ensure!(!comes_to(&two, &one, group)?, "{group} came to h2, which routes none any more");
    Ok(())
}

/// Wants the frames of a group to come to a member's container, which has not joined it.
fn reaches(from: &Member, to: &Member, group: &str) -> Result<()> {
    eventually(READY, || {
        let capture = to.container.capture(IFNAME)?;
        always(millis(100), || send(from, group))?;
        ensure!(capture.stop()?.contains(WORD), "{group} does not come to {}", to.host.label());
        Ok(())
    })
}

/// The host's end of a member's container.
fn port_of(member: &Member) -> Result<String> {
    let ports = member.host.run(["ip", "-br", "link", "show", "master", "mesh0"])?.stdout;
    let port = ports.split_whitespace().find(|word| word.starts_with("mv"));
    Ok(port.and_then(|port| port.split('@').next()).context("no port of a container")?.to_owned())
}

/// A general query of IGMPv2 (RFC 2236, section 2) from a container's own address.
fn igmp_query(from: &Member) -> Result<Vec<u8>> {
    let bytes = from.mac.split(':').map(|pair| u8::from_str_radix(pair, 16));
    let mac = bytes.collect::<Result<Vec<_>, _>>()?;
    let mut packet = vec![0x46, 0xc0, 0, 32, 0, 0, 0x40, 0, 1, 2, 0, 0];
    packet.extend(from.ip.octets());
    packet.extend([224, 0, 0, 1, 0x94, 4, 0, 0]);
    let words = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>();
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    // Of the message, no more than its kind and the time for an answer is not zero.
    packet.extend([0x11, 10, !0x11, !10, 0, 0, 0, 0]);
    Ok([&[0x01, 0x00, 0x5e, 0, 0, 1][..], &mac, &[8, 0], &packet].concat())
}
