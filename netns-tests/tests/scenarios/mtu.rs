//! Paths that carry less than their interfaces promise, and say so or not: row 14 of the fault table.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Container, Host, Lab, Ping, eventually, secs};

use crate::support::{
    IFNAME, Member, all_connected, all_ping, chain, connections, drops, launch, nameless, status,
};
use crate::transfer::{Datagrams, Transfer};

/// A path must be known within this time, and much sooner on a machine that does nothing else.
const FOUND: Duration = secs(20);

/// A wider path is looked for every 20 s.
const WIDENED: Duration = secs(60);

/// What IP, UDP and sleeve take of a packet of the underlay.
const RESERVE: u32 = 110;

/// The least MTU that a router gives to containers by itself.
const CONTAINER_MIN: u32 = 1280;

/// Wants all connections of a host to have the MTU that belongs to an underlay with this one. A port of the switch lets
/// frames pass that are longer by a VLAN tag.
fn paths_take(host: &Host, underlay: u32) -> Result<u32> {
    let mtus: Vec<_> = connections(host)?.iter().map(|connection| connection.mtu).collect();
    let wanted = underlay - RESERVE;
    ensure!(
        mtus.iter().all(|mtu| mtu.is_some_and(|mtu| (wanted..=wanted + 4).contains(&mtu))),
        "{mtus:?} over {underlay}"
    );
    mtus.into_iter().flatten().next().context("no connection")
}

/// Wants a member's bridge and container to have this MTU.
fn follows(member: &Member, mtu: u32) -> Result<()> {
    let shown = status(&member.host)?.router.mtu;
    ensure!(shown == mtu, "the bridge has an MTU of {shown}");
    let bridge = member.host.interface_mtu("mesh0")?;
    let inner = member.container.interface_mtu(IFNAME)?;
    ensure!((bridge, inner) == (mtu, mtu), "bridge {bridge}, container {inner}, not {mtu}");
    Ok(())
}

/// Wants packets of up to `mtu` bytes to cross in one piece, longer ones not, and to come in pieces where that is allowed.
fn takes(from: &Container, to: IpAddr, mtu: u32) -> Result<()> {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let whole = |mtu: u32| Ping::to(to).size(mtu - headers).dont_fragment();
    eventually(FOUND, || from.ping_with(&whole(mtu)).is_ok_and(|stats| stats.received == 1))
        .with_context(|| format!("{mtu} bytes to {to}"))?;
    eventually(FOUND, || {
        let told = from.cmd("ping").args(["-c", "1", "-W", "1", "-M", "do", "-s"]);
        let told = told.arg((mtu + 1 - headers).to_string()).arg(to.to_string()).outcome()?;
        let words = format!("{}{}", told.stdout, told.stderr);
        ensure!(
            words.to_lowercase().contains("too long")
                || words.contains("Packet too big")
                || words.contains("rag needed"),
            "nobody tells the sender of {} bytes: {words}",
            mtu + 1
        );
        Ok(())
    })?;
    crosses(from, to, 6_000)
}

/// Wants packets of this size to cross in pieces, once the sender knows how long they may be.
fn crosses(from: &Container, to: IpAddr, size: u32) -> Result<()> {
    eventually(FOUND, || {
        let stats = from.ping_with(&Ping::to(to).size(size).count(5))?;
        ensure!(stats.received == 5, "{size} bytes to {to}: {stats:?}");
        Ok(())
    })
}

/// The same narrowing, told by the hosts' interfaces or by nobody; frames over IPv4 and IPv6.
fn narrows_and_widens(title: &str, is_v6: bool, is_told: bool) -> Result<()> {
    let lab = Lab::new(title)?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    if is_v6 {
        h1.remove_ipv4()?;
        h2.remove_ipv4()?;
    }
    let first = if is_v6 { h1.ip6().to_string() } else { h1.ip().to_string() };
    let one = Member::launch(&h1, 1, &[], Some("as wide as it is"))?;
    let two = Member::launch(&h2, 2, &[first], Some("as wide as it is"))?;
    let members = [&one, &two];
    all_connected(&[&h1, &h2])?;
    all_ping(&members)?;
    let narrow = |mtu: u16| {
        if is_told {
            members.iter().try_for_each(|member| member.host.set_mtu(mtu))
        } else {
            lab.path_mtu(&h2, mtu)
        }
    };
    let settle = |underlay: u32, within: Duration| -> Result<u32> {
        let begun = Instant::now();
        let mut mtu = 0;
        for member in members {
            mtu = eventually(within, || paths_take(&member.host, underlay))?;
            eventually(within, || follows(member, CONTAINER_MIN.max(mtu)))?;
        }
        println!("measured: {title}: {underlay} found after {:.2} s", begun.elapsed().as_secs_f64());
        Ok(mtu)
    };
    settle(1500, FOUND)?;
    let (len, pace) = (16 << 20, (&[100, 1_200, 1_360][..], Duration::from_millis(5)));
    let transfers = [
        Transfer::begin(&one.container, &two.container, two.ip, len, 1)?,
        Transfer::begin(&two.container, &one.container, one.ip6, len, 2)?,
    ];
    let datagrams = Datagrams::begin(&one.container, &two.container, two.ip, pace)?;
    let flow = one.container.converse(&two.container, (two.ip, 7_000).into())?;
    narrow(1300)?;
    let mtu = settle(1300, FOUND)?;
    takes(&one.container, two.ip.into(), mtu)?;
    // IPv6 takes 1,280 bytes everywhere, in parts where the path does not.
    let stats = two.container.ping_with(&Ping::to(one.ip6).size(CONTAINER_MIN - 48).count(5))?;
    ensure!(stats.received == 5, "{stats:?}");
    narrow(1500)?;
    settle(1500, WIDENED)?;
    for transfer in transfers {
        println!("measured: {title}: {len} bytes in {:.2} s", transfer.finish()?.as_secs_f64());
    }
    println!("measured: {title}: {:?} {:?}", datagrams.finish()?, flow.finish()?);
    // A new connection and a new neighbour know nothing of the narrow time.
    Transfer::begin(&one.container, &two.container, two.ip6, 1 << 20, 3)?.finish()?;
    Ok(())
}

#[test]
fn a_path_that_narrows_and_widens_is_followed_over_ipv4() -> Result<()> {
    narrows_and_widens("narrow4", false, true)
}

#[test]
fn a_path_that_narrows_and_widens_is_followed_over_ipv6() -> Result<()> {
    narrows_and_widens("narrow6", true, true)
}

#[test]
fn a_path_that_narrows_without_a_word_is_found_over_ipv4() -> Result<()> {
    narrows_and_widens("mute4", false, false)
}

#[test]
fn a_path_that_narrows_without_a_word_is_found_over_ipv6() -> Result<()> {
    narrows_and_widens("mute6", true, false)
}

/// Row 14 to its end: what is left of 576 bytes still carries IPv6 and TCP.
#[test]
fn frames_cross_a_path_of_576_bytes() -> Result<()> {
    let (lab, [one, two]) = chain("least", Some("hardly anything"))?;
    all_ping(&[&one, &two])?;
    lab.path_mtu(&two.host, 576)?;
    for member in [&one, &two] {
        eventually(FOUND, || {
            one.container.ping(two.ip)?;
            paths_take(&member.host, 576)
        })?;
    }
    for address in [IpAddr::from(two.ip), two.ip6.into()] {
        crosses(&one.container, address, 1_200)?;
        Transfer::begin(&one.container, &two.container, address, 1 << 20, 4)?.finish()?;
    }
    ensure!(drops(&one.host, "incomplete")? == 0);
    Ok(())
}

/// An administrator's word holds, and what a path does not take of it is told to senders.
#[test]
fn a_fixed_mtu_stays_and_longer_packets_are_answered() -> Result<()> {
    let lab = Lab::new("fixed")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let fixed = |peers: &[String]| {
        ["--mtu".to_owned(), "3000".to_owned()].into_iter().chain(peers.to_vec()).collect::<Vec<_>>()
    };
    let one = Member::launch(&h1, 1, &fixed(&[]), None)?;
    let two = Member::launch(&h2, 2, &fixed(&[h1.ip().to_string()]), None)?;
    all_connected(&[&h1, &h2])?;
    all_ping(&[&one, &two])?;
    eventually(FOUND, || paths_take(&h1, 1500))?;
    takes(&one.container, two.ip.into(), 1500 - RESERVE)?;
    takes(&two.container, one.ip6.into(), 1500 - RESERVE)?;
    ensure!(drops(&h1, "too_big")? > 0, "no frame was counted as too big");
    Transfer::begin(&one.container, &two.container, two.ip, 1 << 20, 5)?.finish()?;
    follows(&one, 3000)?;
    follows(&two, 3000)
}

/// A router finds the containers of its earlier lives, those that were named by a process too, and has them follow.
#[test]
fn containers_of_an_earlier_life_follow_a_path_that_narrows() -> Result<()> {
    let (lab, [one, two]) = chain("lives", Some("from life to life"))?;
    all_ping(&[&one, &two])?;
    let (_shell, pid) = nameless(&two.host)?;
    two.host.mesh(["attach", &format!("pid:{pid}"), "10.32.0.9/24"])?;
    let inner_mtu = || -> Result<u32> {
        let enter = format!("--net=/proc/{pid}/ns/net");
        let told = two.host.run(["nsenter", &enter, "ip", "-o", "link", "show", IFNAME])?.stdout;
        let word = told.split_whitespace().skip_while(|word| *word != "mtu").nth(1);
        Ok(word.with_context(|| format!("no MTU: {told}"))?.parse()?)
    };
    let have = |mtu: u32| -> Result<()> {
        one.container.ping(two.ip)?;
        follows(&two, mtu)?;
        ensure!(inner_mtu()? == mtu, "a nameless container has {}", inner_mtu()?);
        Ok(())
    };
    let relaunch = || -> Result<()> {
        two.host.mesh(["stop"])?;
        launch(&two.host, &[one.host.ip().to_string()], Some("from life to life"))?;
        all_connected(&[&one.host, &two.host])
    };
    eventually(FOUND, || have(1500 - RESERVE))?;
    relaunch()?;
    lab.path_mtu(&two.host, 1300)?;
    eventually(FOUND, || have(CONTAINER_MIN))?;
    // The next life begins with what its interfaces promise, and finds the path as narrow as before.
    relaunch()?;
    eventually(FOUND, || have(CONTAINER_MIN))
}
