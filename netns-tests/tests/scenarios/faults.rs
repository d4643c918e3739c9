//! Networks between hosts that are not as they should be.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Chaos, Lab, Ping, Signal, always, eventually, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::support::{
    IFNAME, Member, READY, alarms, all_connected, all_ping, are_connected, chain, chain_by_sleeve,
    has_neighbours, multicast_arrives_once, neighbours, ordered_pairs,
};

#[test]
fn hosts_that_cannot_reach_each_other_are_joined_by_a_third() -> Result<()> {
    let (lab, [one, two, three]) = chain("relay", None)?;
    all_ping(&[&one, &two, &three])?;
    let heartbeat = Heartbeat::start(&one.container, &three)?;
    eventually(secs(3), || heartbeat.last_answer())?;
    lab.cut(&one.host, &three.host)?;
    // An answer may be on its way while the cut is made.
    let cut = now()? + 0.1;

    let relayed = eventually(secs(6), || heartbeat.first_answer_after(cut))?;
    let last = heartbeat.last_answer_before(cut).context("there were answers before")?;
    eprintln!("measured: silent for {:.2} s after a cut, then relayed", relayed - last);
    drop(heartbeat);
    eventually(secs(6), || three.container.ping(one.ip))?;
    for (from, to) in [(&one, &three), (&three, &one)] {
        let mac = eventually(secs(3), || from.container.arping(IFNAME, to.ip))?;
        ensure!(mac == to.mac, "{mac} is not {}", to.mac);
        let stats = from.container.ping_with(&Ping::to(to.ip).count(50))?;
        ensure!((stats.received, stats.duplicates) == (50, 0), "{stats:?}");
        multicast_arrives_once(from, &[to, &two], "239.1.2.3:5000", 50)?;
    }
    multicast_arrives_once(&two, &[&one, &three], "239.1.2.3:5000", 50)?;
    ensure!(neighbours(&one.host)? == ["h2"] && neighbours(&three.host)? == ["h2"], "they are connected yet");

    lab.heal(&one.host, &three.host)?;
    let healed = Instant::now();
    eventually(secs(20), || are_connected(&[&one.host, &two.host, &three.host]))?;
    eprintln!("measured: direct again {:.2} s after the cut was healed", healed.elapsed().as_secs_f64());
    two.host.mesh(["stop"])?;
    eventually(secs(5), || one.container.ping(three.ip))?;
    Ok(())
}

#[test]
fn hosts_that_never_could_reach_each_other_are_joined_by_a_third() -> Result<()> {
    let lab = Lab::new("apart")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    lab.cut(&h1, &h3)?;
    let one = Member::launch(&h1, 1, &[], None)?;
    let two = Member::launch(&h2, 2, &[h1.ip().to_string()], None)?;
    let three = Member::launch(&h3, 3, &[h2.ip().to_string()], None)?;

    all_ping(&[&one, &two, &three])?;
    multicast_arrives_once(&one, &[&two, &three], "239.1.2.3:5000", 50)?;
    let stats = one.container.ping_with(&Ping::to(three.ip).size(9000).count(20))?;
    ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
    Ok(())
}

#[test]
fn a_host_behind_nat_joins_and_its_container_reaches_all_others() -> Result<()> {
    let lab = Lab::new("nat")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let nat = lab.nat("nat")?;
    let h3 = lab.host_behind(&nat, "h3")?;
    let first = [h1.ip().to_string()];
    let one = Member::launch(&h1, 1, &[], Some("natted"))?;
    let two = Member::launch(&h2, 2, &first, Some("natted"))?;
    let three = Member::launch(&h3, 3, &first, Some("natted"))?;

    all_ping(&[&one, &two, &three])?;
    eventually(secs(15), || are_connected(&[&h1, &h2, &h3]))?;
    for (from, to) in ordered_pairs(&[&one, &two, &three]) {
        let stats = from.container.ping_with(&Ping::to(to.ip).count(20))?;
        ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
    }
    // Other outer ports: the overlay follows where authenticated packets come from.
    nat.rebind()?;
    eventually(READY, || one.container.ping(three.ip))?;
    Ok(())
}

#[test]
fn a_loss_of_five_percent_takes_no_link_down() -> Result<()> {
    let (lab, [one, two]) = chain_by_sleeve("loss", None)?;
    all_ping(&[&one, &two])?;
    let alarms_of_both = || [&one, &two].map(|member| alarms(&member.host));
    lab.loss(&two.host, 5.0)?;
    let before = alarms_of_both();

    let stats = one.container.ping_with(&Ping::to(two.ip).count(200).every_ms(50))?;

    ensure!((1.0..30.0).contains(&stats.loss_percent()), "the loss is not as it was set: {stats:?}");
    ensure!(stats.duplicates == 0, "{stats:?}");
    let after = alarms_of_both();
    ensure!(after == before, "{after:?} alarms in place of {before:?}");
    Ok(())
}

#[test]
fn a_wire_that_delays_reorders_and_doubles_delivers_each_frame_once() -> Result<()> {
    for (title, password) in [("clear", None), ("sealed", Some("in any order"))] {
        let (lab, [one, two]) = chain_by_sleeve(title, password)?;
        all_ping(&[&one, &two])?;
        let chaos = Chaos {
            delay_ms: 5,
            jitter_ms: 3,
            reorder_percent: 20.0,
            reorder_ms: 20,
            duplicate_percent: 20.0,
            seed: 7,
            ..Chaos::default()
        };
        lab.wire(&two.host, chaos)?;
        eventually(READY, || one.container.ping(two.ip))?;

        let stats = one.container.ping_with(&Ping::to(two.ip).count(300))?;
        ensure!((stats.received, stats.duplicates) == (300, 0), "{title}: {stats:?}");
        multicast_arrives_once(&one, &[&two], "239.1.2.3:5000", 100)?;
        multicast_arrives_once(&two, &[&one], "239.1.2.3:5000", 100)?;
        let counts = lab.wire_counts(&two.host)?;
        ensure!(counts.duplicated > 50 && counts.reordered > 50, "the wire is too good: {counts:?}");
    }
    Ok(())
}

#[test]
fn a_wire_that_changes_bits_changes_no_byte_of_a_sealed_payload() -> Result<()> {
    let (lab, [one, two]) = chain("bits", Some("every bit"))?;
    all_ping(&[&one, &two])?;
    let _echo = two.container.echo_server(7)?;
    lab.wire(&two.host, Chaos { corrupt_percent: 3.0, seed: 11, ..Chaos::default() })?;
    for _ in 0..20 {
        one.container.echo((two.ip, 7).into(), &b"0123456789".repeat(2000))?;
    }
    ensure!(lab.wire_counts(&two.host)?.corrupted > 10, "{:?}", lab.wire_counts(&two.host)?);
    Ok(())
}

#[test]
fn a_router_that_stood_still_for_three_seconds_goes_on() -> Result<()> {
    let (_lab, [one, two, three]) = chain_by_sleeve("still", None)?;
    all_ping(&[&one, &two, &three])?;
    let pid = two.host.router_pid()?;

    two.host.kill_router(Signal::STOP)?;
    always(secs(3), || one.container.ping(two.ip).is_err() && one.container.ping(three.ip).is_ok())?;
    two.host.kill_router(Signal::CONT)?;

    let resumed = Instant::now();
    eventually(secs(5), || one.container.ping(two.ip))?;
    eprintln!("measured: back {:.2} s after SIGCONT", resumed.elapsed().as_secs_f64());
    all_connected(&[&one.host, &two.host, &three.host])?;
    ensure!(two.host.router_pid()? == pid, "it was replaced");
    Ok(())
}

#[test]
fn a_host_whose_cable_is_pulled_for_a_while_comes_back_by_itself() -> Result<()> {
    let (lab, [one, two]) = chain("cable", None)?;
    all_ping(&[&one, &two])?;
    lab.unplug(&two.host)?;
    eventually(secs(5), || has_neighbours(&one.host, &[]))?;
    lab.plug(&two.host)?;
    let plugged = Instant::now();
    eventually(READY, || one.container.ping(two.ip))?;
    eprintln!("measured: back {:.2} s after the cable was plugged in", plugged.elapsed().as_secs_f64());
    Ok(())
}

#[test]
fn hosts_with_ipv6_alone_are_a_network_too() -> Result<()> {
    let lab = Lab::new("ipv6")?;
    let hosts = [lab.host("h1")?, lab.host("h2")?, lab.host("h3")?];
    for host in &hosts {
        host.run(["ip", "-4", "address", "flush", "dev", "eth0"])?;
    }
    let one = Member::launch(&hosts[0], 1, &[], None)?;
    let two = Member::launch(&hosts[1], 2, &[format!("[{}]:6783", hosts[0].ip6())], None)?;
    let three = Member::launch(&hosts[2], 3, &[hosts[1].ip6().to_string()], None)?;
    all_connected(&hosts.each_ref())?;
    all_ping(&[&one, &two, &three])
}
