//! Links that lose, delay, reorder, double and damage what they carry: rows 1 to 4 and 10 to 13 of the fault table.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_api::ConnectionState;
use mesh_lab::{Chaos, Direction, Host, Iperf, Lab, Ping, Protocol, always, eventually, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::support::{
    Member, NO_DISCOVERY, READY, alarms, all_connected, all_ping, are_connected, chain, chain_by_sleeve,
    connections, drops, has_neighbours, launch, multicast_arrives_once, peers, sessions, shape, words,
};

/// How long a link whose faults are few must show no sign of them.
const WATCHED: Duration = secs(10);

/// The local end of the only control session, which is the same as long as that session lives.
fn session(host: &Host) -> Result<String> {
    ensure!(sessions(host)? == 1, "{} sessions", sessions(host)?);
    let filter = "( sport = :6783 or dport = :6783 )";
    Ok(host.run(["ss", "-Htn", "state", "established", filter])?.stdout.split_whitespace().skip(2).collect())
}

/// Row 1: TCP in the overlay goes on, and no session ends.
#[test]
fn lost_datagrams_slow_traffic_and_end_no_session() -> Result<()> {
    for (percent, flaps_max, least_bits_per_second) in [(1.0, 0, 5e6), (5.0, 0, 1e6), (30.0, 20, 0.0)] {
        let (lab, [one, two]) = chain("datagrams", None)?;
        all_ping(&[&one, &two])?;
        let (before, quiet) = (session(&two.host)?, alarms(&one.host));
        let server = two.container.iperf_server()?;
        lab.loss_of(&two.host, Protocol::Udp, percent)?;

        let pings = one.container.ping_with(&Ping::to(two.ip).count(250).every_ms(40))?;
        let flaps = alarms(&one.host) - quiet;
        println!("measured: {percent} % of datagrams lost: {pings:?}, the link was lost {flaps} times");
        // Lost there or back.
        let expected = 100.0 - (100.0 - percent).powi(2) / 100.0;
        ensure!(pings.loss_percent() < expected + 15.0 && pings.duplicates == 0, "{pings:?}");
        ensure!(flaps <= flaps_max, "the link was lost {flaps} times");
        if least_bits_per_second > 0.0 {
            let rate = one.container.iperf(&Iperf::to(two.ip).seconds(2))?.bits_per_second;
            println!("measured: {percent} % of datagrams lost: TCP at {:.1} Mbit/s", rate / 1e6);
            ensure!(rate > least_bits_per_second, "{rate} bit/s");
        } else {
            drop(server);
            let _echo = two.container.echo_server(7)?;
            eventually(secs(20), || one.container.echo((two.ip, 7).into(), &[7; 1000]))?;
        }
        ensure!(session(&two.host)? == before, "the session is another one");
        lab.heal_everything()?;
        eventually(READY, || are_connected(&[&one.host, &two.host]))?;
    }
    Ok(())
}

/// Row 2: gossip over TCP that loses 30 % arrives in time, and the link does not care.
#[test]
fn lost_segments_delay_news_by_seconds_and_take_no_link_down() -> Result<()> {
    let edges = [(1, 2), (2, 3)];
    let (lab, members) = shape("segments", 3, &edges)?;
    let heartbeat = Heartbeat::beating(&members[0].container, &members[2])?;
    lab.loss_of(&members[1].host, Protocol::Tcp, 30.0)?;
    let host = lab.host("h4")?;
    let first = members[0].host.ip().to_string();
    launch(&host, &words([NO_DISCOVERY, &first]), None)?;
    let launched = Instant::now();
    eventually(secs(30), || {
        let found = peers(&members[2].host)?;
        ensure!(found.len() == 4, "h3 knows {} peers", found.len());
        Ok(())
    })?;
    let took = launched.elapsed().as_secs_f64();
    println!("measured: news over two hops that lose 30 % of TCP took {took:.2} s");
    let after = now()?;
    eventually(READY, || heartbeat.first_answer_after(after + 2.0))?;
    println!("measured: meanwhile {:?}", heartbeat.tally());
    ensure!(heartbeat.longest_silence() < 1.0, "{:.2} s of silence", heartbeat.longest_silence());
    Ok(())
}

/// Row 3: who sends and is not heard is given up, and reached by a relay.
#[test]
fn a_way_that_is_blocked_in_one_direction_is_left_for_a_relay() -> Result<()> {
    let (lab, [one, two, three]) = chain("oneway", None)?;
    all_ping(&[&one, &two, &three])?;
    for (from, to) in [(&one, &three), (&three, &one)] {
        let heartbeat = Heartbeat::beating(&one.container, &three)?;
        let cut = now()?;
        lab.cut_one_way(&from.host, &to.host)?;
        let back = eventually(secs(12), || heartbeat.first_answer_after(cut + 0.1))?;
        println!("measured: relayed {:.2} s after one direction was cut", back - cut);
        eventually(READY, || heartbeat.first_answer_after(back + 2.0))?;
        drop(heartbeat);
        multicast_arrives_once(&one, &[&two, &three], "239.1.2.3:5000", 50)?;
        multicast_arrives_once(&three, &[&one, &two], "239.1.2.3:5000", 50)?;
        lab.heal(&one.host, &three.host)?;
        eventually(secs(20), || are_connected(&[&one.host, &two.host, &three.host]))?;
    }
    Ok(())
}

/// Row 4: a firewall that lets TCP through alone. What the control plane does goes on; frames wait for the firewall.
#[test]
fn a_host_whose_datagrams_are_blocked_stays_a_peer_and_says_what_is_wrong() -> Result<()> {
    let (lab, [one, two, three]) = chain_by_sleeve("firewall", None)?;
    all_ping(&[&one, &two, &three])?;
    three.host.drop_udp(6783)?;
    for host in [&one.host, &two.host] {
        eventually(READY, || {
            let found = connections(host)?;
            let found = found.iter().find(|one| one.nickname.as_deref() == Some("h3"));
            let found = found.ok_or_else(|| anyhow::anyhow!("h3 is gone"))?;
            ensure!(found.state == ConnectionState::Pending && found.overlay.is_none(), "{found:?}");
            ensure!(found.info.is_some(), "no reason: {found:?}");
            Ok(())
        })?;
    }
    // It is news to nobody that there are three of them, and a fourth one is news to h3 as well.
    let host = lab.host("h4")?;
    launch(&host, &[one.host.ip().to_string()], None)?;
    eventually(READY, || {
        let found = peers(&three.host)?;
        ensure!(found.len() == 4, "h3 knows {} peers", found.len());
        Ok(())
    })?;
    one.container.ping(two.ip)?;
    ensure!(one.container.ping(three.ip).is_err(), "frames pass a closed door");

    three.host.allow_udp(6783)?;
    let opened = Instant::now();
    eventually(secs(60), || one.container.ping(three.ip))?;
    println!("measured: frames pass {:.2} s after the firewall opened", opened.elapsed().as_secs_f64());
    all_connected(&[&one.host, &two.host, &three.host, &host])
}

/// Row 4, one door only: datagrams to one host are blocked; a relay that both reach takes over.
#[test]
fn two_hosts_between_which_datagrams_are_blocked_use_a_relay() -> Result<()> {
    let lab = Lab::new("blocked")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let one = Member::launch(&h1, 1, &[], None)?;
    let first = h1.ip().to_string();
    let two = Member::launch(&h2, 2, &words([&first]), None)?;
    let three = Member::launch(&h3, 3, &words(["--port", "7000", &first]), None)?;
    all_connected(&[&h1, &h2, &h3])?;
    all_ping(&[&one, &two, &three])?;
    // Only h3 has port 7000: h1 alone hears and says nothing there.
    h1.block(Protocol::Udp, 7000, &Direction::BOTH)?;
    let blocked = Instant::now();
    eventually(READY, || one.container.ping(three.ip))?;
    println!("measured: relayed {:.2} s after datagrams were blocked", blocked.elapsed().as_secs_f64());
    for (from, to) in [(&one, &three), (&three, &one)] {
        let stats = from.container.ping_with(&Ping::to(to.ip).count(50))?;
        ensure!((stats.received, stats.duplicates) == (50, 0), "{stats:?}");
    }
    has_neighbours(&h1, &["h2"])?;
    h1.unblock(Protocol::Udp, 7000)?;
    eventually(secs(60), || are_connected(&[&h1, &h2, &h3]))
}

/// Row 10: far is not dead.
#[test]
fn a_path_of_300_milliseconds_give_or_take_200_is_no_failure() -> Result<()> {
    let lab = Lab::new("far")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    lab.wire(&h2, Chaos { delay_ms: 100, jitter_ms: 400, seed: 3, ..Chaos::default() })?;
    let first = [h1.ip().to_string()];
    let one = Member::launch(&h1, 1, &[], Some("far away"))?;
    let two = Member::launch(&h2, 2, &first, Some("far away"))?;
    let launched = Instant::now();
    eventually(secs(20), || are_connected(&[&h1, &h2]))?;
    println!("measured: joined over 600 ms of round trip in {:.2} s", launched.elapsed().as_secs_f64());
    eventually(secs(20), || {
        one.container.ping_with(&Ping::to(two.ip).wait(secs(3))).is_ok_and(|stats| stats.received == 1)
    })?;
    let before = alarms(&h1);
    let patient = Ping::to(two.ip).count(100).every_ms(100).wait(secs(3));
    let stats = one.container.ping_with(&patient)?;
    ensure!((stats.received, stats.duplicates) == (100, 0), "{stats:?}");
    ensure!(alarms(&h1) == before, "the link was lost");
    // News takes the way three times at most: hello, and the record.
    let three = Member::launch(&h3, 3, &first, Some("far away"))?;
    let joined = Instant::now();
    eventually(secs(10), || {
        let known = peers(&h2)?.iter().any(|peer| peer.peer_id == three.peer_id);
        ensure!(known, "h3 is not known");
        Ok(())
    })?;
    println!("measured: known to the far one after {:.2} s", joined.elapsed().as_secs_f64());
    Ok(())
}

/// Row 11: within the window of the replay filter, order does not matter.
#[test]
fn packets_that_overtake_each_other_are_all_taken() -> Result<()> {
    let (lab, [one, two]) = chain("reorder", Some("in any order"))?;
    all_ping(&[&one, &two])?;
    let chaos = Chaos { reorder_percent: 50.0, reorder_ms: 20, seed: 5, ..Chaos::default() };
    lab.wire(&two.host, chaos)?;
    eventually(READY, || one.container.ping(two.ip))?;
    let before = [drops(&one.host, "replayed")?, drops(&two.host, "replayed")?];
    let stats = one.container.ping_with(&Ping::to(two.ip).count(1000).every_ms(5))?;
    ensure!((stats.received, stats.duplicates) == (1000, 0), "{stats:?}");
    let after = [drops(&one.host, "replayed")?, drops(&two.host, "replayed")?];
    ensure!(after == before, "dropped as replayed: {before:?}, then {after:?}");
    ensure!(lab.wire_counts(&two.host)?.reordered > 500, "{:?}", lab.wire_counts(&two.host)?);
    Ok(())
}

/// Row 12: each packet comes twice and counts once.
#[test]
fn packets_that_all_come_twice_are_taken_once() -> Result<()> {
    for (title, password) in [("doubled", None), ("doubledsealed", Some("once and no more"))] {
        let (lab, [one, two]) = chain_by_sleeve(title, password)?;
        all_ping(&[&one, &two])?;
        lab.wire(&two.host, Chaos { duplicate_percent: 100.0, seed: 6, ..Chaos::default() })?;
        eventually(READY, || one.container.ping(two.ip))?;
        let before = drops(&two.host, "replayed")?;
        let stats = one.container.ping_with(&Ping::to(two.ip).count(300).every_ms(5))?;
        ensure!((stats.received, stats.duplicates) == (300, 0), "{title}: {stats:?}");
        multicast_arrives_once(&one, &[&two], "239.1.2.3:5000", 100)?;
        multicast_arrives_once(&two, &[&one], "239.1.2.3:5000", 100)?;
        // Frames that wait together share a packet.
        let replayed = drops(&two.host, "replayed")? - before;
        ensure!(replayed >= 100, "{title}: {replayed} packets were dropped as replayed");
    }
    Ok(())
}

/// Row 13: what was damaged on its way takes no link down. The kernel's checksum of UDP finds nearly all of it before the router
/// sees it, so that nothing is said here of the router's own count.
#[test]
fn damaged_packets_take_no_link_down() -> Result<()> {
    let (lab, [one, two]) = chain("damage", Some("bit for bit"))?;
    all_ping(&[&one, &two])?;
    let before = alarms(&one.host);
    lab.wire(&two.host, Chaos { corrupt_percent: 1.0, seed: 9, ..Chaos::default() })?;
    eventually(READY, || one.container.ping(two.ip))?;
    let stats = one.container.ping_with(&Ping::to(two.ip).count(1000).every_ms(5))?;
    ensure!(stats.loss_percent() < 10.0 && stats.duplicates == 0, "{stats:?}");
    let damaged = lab.wire_counts(&two.host)?.corrupted;
    ensure!(damaged >= 10, "the wire is too good: {damaged}");
    ensure!(alarms(&one.host) == before, "the link was lost");
    always(secs(1), || are_connected(&[&one.host, &two.host]))
}

/// No false alarm at 5 % of loss, GOALS C1, with and without traffic.
#[test]
fn five_percent_of_loss_raise_no_alarm() -> Result<()> {
    let (lab, [one, two, three]) = chain("alarm", None)?;
    all_ping(&[&one, &two, &three])?;
    let alarms_of_all = || [&one, &two, &three].map(|member| alarms(&member.host));
    let before = alarms_of_all();
    lab.loss(&two.host, 5.0)?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    always(WATCHED, || {
        let now = alarms_of_all();
        ensure!(now == before, "{now:?} alarms in place of {before:?}");
        Ok(())
    })?;
    println!("measured: 5 % of loss: {:?}", heartbeat.tally());
    Ok(())
}
