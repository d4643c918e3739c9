//! Frames that are not everyday's: each crosses as it is, or is dropped and counted. What a container may not send at all is
//! its port's matter, and tested elsewhere.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Container, Lab, always, eventually, millis, secs};

use crate::metrics::{get, sample};
use crate::support::{IFNAME, Member, READY, all_connected, all_ping, are_connected, drops};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const SCTP: u8 = 132;
const UDP: u8 = 17;

/// Written into each frame, so that it is found again.
const MARK: &[u8] = b"odd, and whole";

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().context("six bytes")
}

/// A frame between two members.
fn frame(from: &Member, to: &Member, ether_type: u16, packet: &[u8]) -> Result<Vec<u8>> {
    Ok([&mac(&to.mac)?[..], &mac(&from.mac)?, &ether_type.to_be_bytes(), packet].concat())
}

/// The sum of RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(folded + (folded >> 16)) as u16).to_be_bytes()
}

/// An IPv4 packet; `fragment` is its field of flags and offset.
fn ipv4(from: Ipv4Addr, to: Ipv4Addr, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut head = [0; 20];
    head[0] = 0x45;
    head[2..4].copy_from_slice(&len.to_be_bytes());
    head[4..6].copy_from_slice(&[0x12, 0x34]);
    head[6..8].copy_from_slice(&fragment.to_be_bytes());
    (head[8], head[9]) = (64, protocol);
    head[12..16].copy_from_slice(&from.octets());
    head[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum);
    [&head[..], payload].concat()
}

/// An IPv6 packet with hop-by-hop and destination options before what nobody knows.
fn ipv6_with_options(from: &Member, to: &Member) -> Vec<u8> {
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let payload = [&options(60)[..], &options(253), MARK].concat();
    let head = [0x60, 0, 0, 0, 0, payload.len() as u8, 0, 64];
    [&head[..], &from.ip6.octets(), &to.ip6.octets(), &payload].concat()
}

/// Sends a frame, and wants its packet at the other container, once. Padding behind it is the bridges' to keep or to cut.
fn crosses(title: &str, from: &Member, to: &Member, frame: &[u8], packet: &[u8]) -> Result<()> {
    let capture = to.container.capture(IFNAME)?;
    from.container.send_frame(IFNAME, frame).with_context(|| title.to_owned())?;
    // A ping behind it has the same way: when it is answered, the frame was there or never will be.
    eventually(READY, || from.container.ping(to.ip))?;
    let frames = capture.stop()?;
    // With the type before it, so that no error message that quotes it counts.
    let ether_type = if packet[0] >> 4 == 6 { IPV6 } else { IPV4 };
    let wanted = [&ether_type.to_be_bytes()[..], packet].concat();
    let came = frames.iter().filter(|came| came.contains(&wanted)).count();
    ensure!(came == 1, "{title}: came {came} times");
    Ok(())
}

fn two_members(title: &str, mtu: &str, password: Option<&str>) -> Result<(Lab, Member, Member)> {
    let lab = Lab::new(title)?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let options = |peers: &[String]| [&["--mtu".to_owned(), mtu.to_owned()], peers].concat();
    let one = Member::launch(&h1, 1, &options(&[]), password)?;
    let two = Member::launch(&h2, 2, &options(&[h1.ip().to_string()]), password)?;
    all_connected(&[&h1, &h2])?;
    all_ping(&[&one, &two])?;
    all_ping(&[&two, &one])?;
    Ok((lab, one, two))
}

#[test]
fn odd_frames_cross_byte_for_byte() -> Result<()> {
    for (title, password) in [("oddsealed", Some("as it is")), ("oddclear", None)] {
        let (_lab, one, two) = two_members(title, "9000", password)?;
        let long = [MARK, &vec![0x5a; 8_900][..]].concat();
        let short = ipv4(one.ip, two.ip, 0, 253, MARK);
        let packet = |fragment, protocol, payload: &[u8]| ipv4(one.ip, two.ip, fragment, protocol, payload);
        for (what, ether_type, packet) in [
            ("SCTP", IPV4, packet(0, SCTP, MARK)),
            (
                "the first fragment",
                IPV4,
                packet(0x2000, UDP, &[&[0, 9, 0, 9, 5, 0, 0, 0][..], MARK, &[0; 2]].concat()),
            ),
            ("the last fragment", IPV4, packet(160, UDP, MARK)),
            ("IPv6 with extension headers", IPV6, ipv6_with_options(&one, &two)),
            ("9,000 bytes", IPV4, packet(0, 253, &long)),
        ] {
            crosses(
                &format!("{title}: {what}"),
                &one,
                &two,
                &frame(&one, &two, ether_type, &packet)?,
                &packet,
            )?;
        }
        let padding = vec![0; 50 - short.len()];
        let padded = frame(&one, &two, IPV4, &[&short[..], &padding].concat())?;
        crosses(&format!("{title}: 64 bytes"), &one, &two, &padded, &short)?;
        for host in [&one.host, &two.host] {
            for reason in ["malformed_message", "incomplete", "super_frame", "not_authentic"] {
                ensure!(drops(host, reason)? == 0, "{title}: {reason} at {}", host.label());
            }
        }
    }
    Ok(())
}

#[test]
fn garbage_of_a_container_harms_nobody() -> Result<()> {
    let (_lab, one, two) = two_members("garbage", "1380", Some("as it is"))?;
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    for ether_type in [IPV4, IPV6, 0x0806, 0x8100, 0x88a8, 0x88b5, 60] {
        for len in [0, 1, 19, 20, 39, 40, 60, 200, 1_376] {
            for version in [0x45, 0x4f, 0x60] {
                let mut packet: Vec<u8> = (0..len).map(|_| random()).collect();
                packet.iter_mut().take(1).for_each(|first| *first = version);
                packet.iter_mut().skip(9).take(1).for_each(|protocol| *protocol = 6);
                let garbage = frame(&one, &two, ether_type, &packet)?;
                // What the interface itself refuses is nobody else's matter.
                let _refused = one.container.send_frame(IFNAME, &garbage);
            }
        }
    }
    let reserved =
        [&[1, 0x80, 0xc2, 0, 0, 0][..], &mac(&one.mac)?, &[0, 38, 0x42, 0x42, 3], &[0; 43]].concat();
    let _refused = one.container.send_frame(IFNAME, &reserved);
    eventually(secs(5), || are_connected(&[&one.host, &two.host]))?;
    all_ping(&[&one, &two])?;
    for reason in ["ether-type", "source-address", "arp-sender"] {
        ensure!(drops(&one.host, reason)? > 0, "none was dropped for {reason}");
    }
    for host in [&one.host, &two.host] {
        for reason in ["malformed_message", "not_authentic", "not_sleeve"] {
            ensure!(drops(host, reason)? == 0, "{reason} at {}", host.label());
        }
    }
    Ok(())
}

/// An attached container has no VLANs: its port takes what it was given, and a tag hides addresses from that. What somebody
/// plugs in by hand has no guard, and its tagged frames cross as any others.
#[test]
fn tagged_frames_are_dropped_by_name_at_ports_and_cross_between_interfaces_without_a_guard() -> Result<()> {
    for (title, password) in [("tagsealed", Some("tag and all")), ("tagclear", None)] {
        let (_lab, one, two) = two_members(title, "1380", password)?;
        let before = drops(&one.host, "ether-type")?;
        let inner = ipv4(one.ip, two.ip, 0, UDP, MARK);
        for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]] {
            let tagged = [&mac(&two.mac)?[..], &mac(&one.mac)?, tags, &[8, 0], &inner].concat();
            one.container.send_frame(IFNAME, &tagged)?;
        }
        eventually(READY, || drops(&one.host, "ether-type").is_ok_and(|now| now == before + 2))?;
        let metrics = get(&one.host, "/metrics", &[])?.1;
        ensure!(sample(&metrics, "mesh_drops_total{reason=\"ether-type\"}")? >= 2.0, "{metrics}");

        let [from, to] = [plug_in(&one)?, plug_in(&two)?];
        let ends = [mac(&to.mac("eth0")?)?, mac(&from.mac("eth0")?)?].concat();
        let tagged = [&ends[..], &[0x81, 0, 0, 7, 8, 0], &inner].concat();
        eventually(READY, || {
            let capture = to.capture("eth0")?;
            always(millis(100), || from.send_frame("eth0", &tagged))?;
            ensure!(capture.stop()?.contains(&inner), "{title}: no tagged frame comes");
            Ok(())
        })?;
    }
    Ok(())
}

/// Plugs in a container by hand.
fn plug_in(member: &Member) -> Result<Container> {
    let plugged = member.host.container("plugged")?;
    let far = ["type", "veth", "peer", "name", "eth0", "mtu", "1380", "netns", plugged.name()];
    member.host.run(["ip", "link", "add", "hand0", "mtu", "1380"].iter().chain(&far).copied())?;
    member.host.run(["ip", "link", "set", "hand0", "master", "mesh0", "up"])?;
    plugged.run(["ip", "link", "set", "eth0", "up"])?;
    Ok(plugged)
}
