//! What neighbours and containers do to others by being slow, malicious or of another life: rows 15, 37, 40 and 41 of the
//! fault table, and row 90 of the study of Weave Net.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use mesh_api::MacDocument;
use mesh_lab::{Host, Ping, always, eventually, secs};

use crate::floods::resident_kib;
use crate::hostile::genuine_datagrams;
use crate::support::{
    IFNAME, Member, READY, all_connected, all_ping, are_connected, attach, chain_by_sleeve, drops, launch,
};
use crate::transfer::Transfer;

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
    let victim = bytes(&two.mac)?;

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
    all_ping(&[&one, &two])
}

/// Wants a host to know this member's MAC where it is.
fn is_at(host: &Host, member: &Member) -> Result<()> {
    let found = macs(host)?;
    let at = found.iter().find(|line| line.mac == member.mac).context("the MAC is not known")?;
    ensure!(at.peer_id == member.peer_id, "{} takes {at:?} for it", host.label());
    Ok(())
}

fn macs(host: &Host) -> Result<Vec<MacDocument>> {
    host.mesh(["status", "macs", "-o", "json"])?.json()
}

fn bytes(mac: &str) -> Result<Vec<u8>> {
    Ok(mac.split(':').map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<_, _>>()?)
}
