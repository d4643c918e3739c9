//! What neighbours and containers do to others by being slow, malicious or of another life: rows 15, 37, 40 and 41 of the
//! fault table, and row 90 of the study of Weave Net.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use mesh_api::MacDocument;
use mesh_lab::{Host, Ping, always, eventually, millis, secs};

use crate::bridging::{macs, plug_in};
use crate::floods::resident_kib;
use crate::hostile::genuine_datagrams;
use crate::port_security::{arp, bytes, fragment, ipv4, ipv6, neighbour_advert, udp};
use crate::support::{
    IFNAME, Member, READY, all_connected, all_ping, are_connected, attach, chain, chain_by_sleeve, drops,
    launch, status,
};
use crate::transfer::Transfer;
use crate::vxlan::{action, flows, kernels_carry};

/// Memory that a neighbour behind a slow line may cost, in KiB, and what else a router takes meanwhile.
const GROWTH_KIB_MAX: u64 = 4_096 + 4_096;

/// Entries that a router may have more than there are containers and bridges.
const MACS_MORE_MAX: usize = 8;

/// How often a host has lost a link or a session, by its log.
fn alarms(host: &Host) -> usize {
    let lost = |line: &&str| line.contains("frames no longer pass") || line.contains("disconnected");
    host.router_log().lines().filter(lost).count()
}

/// Fault table, row 15; study, row 90: one slow line, and those who are not behind it.
#[test]
fn a_neighbour_behind_a_slow_line_keeps_its_link_and_slows_nobody_else() -> Result<()> {
    let (lab, [one, two, three]) = chain_by_sleeve("slowline", Some("patience"))?;
    all_ping(&[&one, &two, &three])?;
    let before = (alarms(&one.host), resident_kib(&one.host)?);
    lab.rate(&two.host, "1mbit")?;
    let transfers = [
        Transfer::begin(&one.container, &two.container, two.ip, 400 << 10, 1)?,
        Transfer::begin(&three.container, &two.container, two.ip6, 200 << 10, 2)?,
    ];
    let stats = one.container.ping_with(&Ping::to(three.ip).count(200).every_ms(20))?;
    ensure!((stats.received, stats.duplicates) == (200, 0), "{stats:?}");
    Transfer::begin(&one.container, &three.container, three.ip, 8 << 20, 3)?.finish()?;
    for transfer in transfers {
        println!("measured: by a line of 1 Mbit/s in {:.1} s", transfer.finish()?.as_secs_f64());
    }
    let after = (alarms(&one.host), resident_kib(&one.host)?);
    println!("measured: {stats:?}; links lost and KiB: before {before:?}, after {after:?}");
    ensure!(after.0 == before.0, "a link was lost");
    ensure!(after.1 < before.1 + GROWTH_KIB_MAX, "{} KiB more", after.1 - before.1);
    are_connected(&[&one.host, &two.host, &three.host])
}

/// Fault table, row 37: what was said to an earlier life is not taken by a later one.
#[test]
fn datagrams_of_an_earlier_life_are_worth_nothing_to_a_later_one() -> Result<()> {
    for (title, password) in [("replaysealed", Some("once is enough")), ("replayclear", None)] {
        let (lab, [one, two]) = chain_by_sleeve(title, password)?;
        let eve = lab.host("eve")?;
        all_ping(&[&one, &two])?;
        let genuine = genuine_datagrams(&lab, &one, &two)?;
        one.host.mesh(["stop"])?;
        launch(&one.host, &["--datapath".to_owned(), "sleeve".to_owned()], password)?;
        all_connected(&[&one.host, &two.host])?;
        eventually(READY, || one.container.ping(two.ip))?;
        let before = refused(&one.host)?;
        let capture = one.container.capture(IFNAME)?;
        let target = SocketAddr::from((one.host.ip(), 6783));
        eve.enter(|| -> Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            genuine.iter().try_for_each(|datagram| socket.send_to(datagram, target).map(drop))?;
            Ok(())
        })??;
        let sent = genuine.len() as u64;
        eventually(READY, || {
            let counted = refused(&one.host)? - before;
            ensure!(counted >= sent, "{title}: {counted} of {sent} were counted");
            Ok(())
        })?;
        let to_one = bytes(&one.mac)?;
        let came = capture.stop()?.count(|frame| frame.bytes.starts_with(&to_one) && is_echo(&frame.bytes));
        ensure!(came == 0, "{title}: {came} frames of the earlier life came");
        one.container.ping(two.ip)?;
    }
    Ok(())
}

/// An answer of ICMP to a ping.
fn is_echo(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&1) && frame.get(34) == Some(&0)
}

/// What a router's door for datagrams has refused.
fn refused(host: &Host) -> Result<u64> {
    ["unknown_receiver", "not_authentic", "garbage_limit", "replayed"]
        .iter()
        .map(|why| drops(host, why))
        .sum()
}

/// Fault table, rows 40 and 41: a container invents addresses as fast as it can, and takes those of others.
#[test]
fn a_container_that_floods_macs_or_takes_others_harms_nobody() -> Result<()> {
    let (_lab, [one, two]) = chain_by_sleeve("rogue", Some("mind your own"))?;
    let (rogue, third) = (one.host.container("rogue")?, one.host.container("third")?);
    attach(&one.host, &rogue, &["10.32.0.66/24"])?;
    attach(&one.host, &third, &["10.32.0.67/24"])?;
    all_ping(&[&one, &two])?;
    eventually(READY, || third.ping(two.ip))?;
    let quiet = third.ping_with(&Ping::to(two.ip).count(100).every_ms(10))?;
    let known = macs(&one.host)?.len();
    let victim = bytes(&two.mac)?.to_vec();

    let over = AtomicBool::new(false);
    let (sent, stats) = std::thread::scope(|scope| -> Result<_> {
        let flooding = scope.spawn(|| -> Result<u32> {
            let mut sent = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let invented = sent.to_be_bytes();
                // Each fourth one is the other host's container's.
                let source =
                    if sent.is_multiple_of(4) { victim.clone() } else { [&[2, 9][..], &invented].concat() };
                let packet = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 32, 0, 66, 10, 32, 0, 2];
                let frame = [&[0xff; 6][..], &source, &[8, 0], &packet, &[0; 26]].concat();
                rogue.send_frame(IFNAME, &frame)?;
                sent += 1;
            }
            Ok(sent)
        });
        let stats = third.ping_with(&Ping::to(two.ip).count(300).every_ms(10));
        let stays = always(secs(1), || is_at(&one.host, &two).and_then(|()| is_at(&two.host, &two)));
        over.store(true, Ordering::Relaxed);
        let sent = flooding.join().expect("the flood does not panic")?;
        stays?;
        Ok((sent, stats?))
    })?;
    let counted = drops(&one.host, "source-mac")?;
    println!(
        "measured: {sent} frames with others' MACs, {counted} dropped; quiet {quiet:?}, meanwhile {stats:?}"
    );
    ensure!(u64::from(sent) > 100 && counted >= u64::from(sent), "{counted} of {sent} were dropped");
    ensure!((stats.received, stats.duplicates) == (300, 0), "{stats:?}");
    for host in [&one.host, &two.host] {
        let now = macs(host)?.len();
        ensure!(now <= known + MACS_MORE_MAX, "{} knows {now} MACs, before {known}", host.label());
    }
    // Answers of others still find the container whose MAC it took.
    all_ping(&[&one, &two])?;
    eventually(READY, || has_alarmed(&one.host, "source-mac"))
}

/// Wants a warning about this in the log.
fn has_alarmed(host: &Host, about: &str) -> Result<()> {
    let log = host.router_log();
    let warned = log.lines().any(|line| line.contains("WARN") && line.contains(about));
    ensure!(warned, "{} says nothing of {about}", host.label());
    Ok(())
}

/// Fault table, row 41: two hosts show one MAC in turn. It stays with the one that had it first, and all who see that say so.
#[test]
fn a_mac_for_which_two_hosts_fight_stays_where_it_was_first() -> Result<()> {
    const MAC: &str = "02:00:00:00:00:50";
    let (_lab, [one, two, three]) = chain_by_sleeve("fight", None)?;
    all_ping(&[&one, &two, &three])?;
    let first = plug_in(&one, MAC, "10.32.0.50/24")?;
    eventually(READY, || first.ping(three.ip))?;
    let thief = plug_in(&two, MAC, "10.32.0.51/24")?;
    let shout = [&[0xff; 6][..], &bytes(MAC)?, &[0x88, 0xb5], &[7; 50]].concat();
    let frozen = |host: &Host| -> Result<Vec<MacDocument>> {
        Ok(macs(host)?.into_iter().filter(|line| line.frozen).collect())
    };
    eventually(READY, || {
        // Each of them is told of before the other one speaks.
        for (container, peer) in [(&thief, &two), (&first, &one)] {
            container.send_frame("eth0", &shout)?;
            drop(always(millis(50), || {
                macs(&three.host)
                    .is_ok_and(|macs| macs.iter().all(|line| line.mac != MAC || line.peer_id != peer.peer_id))
            }));
        }
        ensure!(!frozen(&three.host)?.is_empty(), "it is not frozen");
        Ok(())
    })?;
    let line = frozen(&three.host)?;
    ensure!(line.len() == 1 && line[0].mac == MAC && line[0].peer_id == one.peer_id, "{line:?}");
    ensure!(three.host.mesh(["status", "macs"])?.stdout.contains("frozen"), "people are not told");
    for _ in 0..20 {
        thief.send_frame("eth0", &shout)?;
    }
    eventually(READY, || {
        let refused = status(&three.host)?.traffic.events.get("mac_frozen").copied().unwrap_or(0);
        ensure!(refused >= 20, "{refused} were refused");
        has_alarmed(&three.host, MAC)
    })?;
    eventually(READY, || three.container.ping("10.32.0.50"))?;
    all_ping(&[&one, &two, &three])
}

/// The same where the kernel carries.
#[test]
fn a_fight_for_a_mac_changes_no_flow_of_the_kernel_again_and_again() -> Result<()> {
    const MAC: &str = "02:00:00:00:00:50";
    /// Flows for it at three hosts that come, and move once.
    const CHANGES_MAX: u64 = 12;

    let (_lab, [one, two, three]) = chain("fightflow", None)?;
    all_ping(&[&one, &two, &three])?;
    eventually(READY, || kernels_carry(&[&one, &two, &three]))?;
    let changes = |member: &Member| -> Result<u64> {
        let changes = flows(&member.host)?.changes;
        Ok(["installed", "replaced", "withdrawn"].iter().filter_map(|what| changes.get(*what)).sum())
    };
    let before = changes(&three)?;
    let first = plug_in(&one, MAC, "10.32.0.50/24")?;
    eventually(READY, || first.ping(three.ip))?;
    let second = plug_in(&two, MAC, "10.32.0.51/24")?;
    let shout = [&[0xff; 6][..], &bytes(MAC)?, &[0x88, 0xb5], &[7; 50]].concat();
    let both_shout = || -> Result<()> {
        second.send_frame("eth0", &shout)?;
        first.send_frame("eth0", &shout)
    };
    always(secs(1), both_shout)?;
    let settled = action(&three.host, MAC)?;
    always(secs(3), || -> Result<()> {
        both_shout()?;
        let now = action(&three.host, MAC)?;
        ensure!(now == settled, "it goes {now}, before {settled}");
        Ok(())
    })?;
    for member in [&one, &two, &three] {
        println!("measured: {:?}", flows(&member.host)?.changes);
    }
    let changed = changes(&three)? - before;
    println!("measured: {changed} changes of flows in a fight");
    ensure!(changed <= CHANGES_MAX, "{changed} changes");
    all_ping(&[&one, &two, &three])
}

/// Fault table, row 40: whatever a container sends as fast as it can, others hardly feel it.
#[test]
fn others_hardly_feel_what_a_container_floods() -> Result<()> {
    /// Of round trips beside a flood and without one, measured in turn. On a quiet machine with two CPUs it is below 1.2.
    const RATIO_MAX: f64 = 3.0;
    /// What two round trips may differ by for no reason, in milliseconds.
    const NOISE_MS: f64 = 1.0;

    let (_lab, [one, two]) = chain_by_sleeve("floods", Some("mind your own"))?;
    let (rogue, third) = (one.host.container("rogue")?, one.host.container("third")?);
    let mac = bytes(&attach(&one.host, &rogue, &["10.32.0.66/24", "fd32::66/64"])?.mac)?;
    let victim = bytes(&two.mac)?;
    attach(&one.host, &third, &["10.32.0.67/24"])?;
    all_ping(&[&one, &two])?;
    eventually(READY, || third.ping(two.ip))?;
    let known = macs(&one.host)?.len();
    let (own, everybody) = (Ipv4Addr::new(10, 32, 0, 66), [0xff; 6]);
    let invented = |n: u32| {
        let [a, b, c, d] = n.to_be_bytes();
        ipv4(everybody, [2, 9, a, b, c, d], own, two.ip, &udp(1, 2))
    };
    let router = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
    let beginning = |number: u8| fragment(number, (everybody, mac), (own, Ipv4Addr::BROADCAST));
    let stp = [&[0x01, 0x80, 0xc2, 0, 0, 0][..], &mac, &[0, 38, 0x42, 0x42, 3], &[0; 49]].concat();
    let advert = neighbour_advert("fd32::2")?;
    let floods = [
        ("source-mac", (0..4_096).map(invented).collect()),
        ("arp-sender", vec![arp(mac, mac, two.ip, one.ip)]),
        ("neighbour-advert", vec![ipv6(victim, mac, "fd32::66", "fd32::1", 58, &advert)?]),
        ("router-advert", vec![ipv6([0x33, 0x33, 0, 0, 0, 1], mac, "fd32::66", "ff02::1", 58, &router)?]),
        ("dhcp-answer", vec![ipv4(everybody, mac, own, Ipv4Addr::BROADCAST, &udp(67, 68))]),
        ("ether-type", vec![stp, tagged(ipv4(victim, mac, own, two.ip, &udp(1, 2)))]),
        ("port-flood", (0..=255).map(beginning).collect::<Vec<_>>()),
    ];
    let round_trip = |title: &str| -> Result<f64> {
        let stats = third.ping_with(&Ping::to(two.ip).count(100).every_ms(10))?;
        ensure!(stats.loss_percent() <= 2.0 && stats.duplicates == 0, "{title}: {stats:?}");
        Ok(stats.rtt.context("there were answers")?.avg_ms)
    };
    for (reason, frames) in floods {
        // Others use this machine, too: what matters is one of these three.
        let mut tries = Vec::new();
        for _ in 0..3 {
            let (quiet, before) = (round_trip(reason)?, drops(&one.host, reason)?);
            let over = AtomicBool::new(false);
            let (sent, meanwhile) = std::thread::scope(|scope| -> Result<_> {
                let flooding = scope.spawn(|| rogue.flood(IFNAME, &frames, &over));
                let meanwhile = round_trip(reason);
                over.store(true, Ordering::Relaxed);
                Ok((flooding.join().expect("the flood does not panic")?, meanwhile?))
            })?;
            let dropped = drops(&one.host, reason)? - before;
            println!(
                "measured: {reason}: {sent} frames in a second, {dropped} dropped, round trip {meanwhile:.3} ms, quiet {quiet:.3} ms"
            );
            ensure!(sent > 1_000 && dropped > sent / 2, "{reason}: {dropped} of {sent} were dropped");
            tries.push(meanwhile - NOISE_MS < quiet * RATIO_MAX);
            if tries.ends_with(&[true]) {
                break;
            }
        }
        ensure!(tries.contains(&true), "others feel the flood of {reason}");
    }
    // What is longer than the interface takes does not even leave it.
    ensure!(rogue.send_frame(IFNAME, &[mac[0]; 20_000]).is_err(), "a frame of 20,000 bytes has left");
    for host in [&one.host, &two.host] {
        let now = macs(host)?.len();
        ensure!(now <= known + MACS_MORE_MAX, "{} knows {now} MACs, before {known}", host.label());
    }
    for reason in ["source-mac", "arp-sender", "router-advert"] {
        eventually(READY, || has_alarmed(&one.host, reason))?;
    }
    Ok(())
}

/// Wants a host to know this member's MAC where it is.
fn is_at(host: &Host, member: &Member) -> Result<()> {
    let found = macs(host)?;
    let at = found.iter().find(|line| line.mac == member.mac).context("the MAC is not known")?;
    ensure!(at.peer_id == member.peer_id, "{} takes {at:?} for it", host.label());
    Ok(())
}
