//! Hosts that change their address, sleep, lose their link, or know one family of addresses only.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_api::ConnectionState;
use mesh_lab::{Lab, Ping, Signal, always, eventually, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::support::{
    Member, NO_DISCOVERY, READY, alarms_about, all_connected, all_ping, are_connected, chain, connections,
    has_neighbours, launch, neighbours, ordered_pairs, peers, words,
};

/// The longest silence of a host that has got another address: fault table, row 17.
const MOVED: f64 = 10.0;

/// How long a TCP connection may take to notice that the way is free again: its retransmissions back off, and wait in
/// the end about as long as the way was blocked.
const NOTICED: Duration = secs(25);

/// Fault table, row 17. The host that moves is the dialled one, then the dialling one.
#[test]
fn a_tcp_connection_survives_that_a_host_changes_its_address() -> Result<()> {
    let (_lab, [one, two]) = chain("address", Some("wherever you go"))?;
    all_ping(&[&one, &two])?;
    let flow = one.container.converse(&two.container, (two.ip, 5000).into())?;
    for moving in [&two, &one] {
        let heartbeat = Heartbeat::beating(&one.container, &two)?;
        let (moved, answers) = (now()?, flow.report().answers);
        moving.host.change_address()?;
        let back = eventually(secs(20), || heartbeat.first_answer_after(moved + 0.1))?;
        let last = heartbeat.last_answer_before(back).context("there were answers before")?;
        println!("measured: {} moved: silent for {:.2} s", moving.host.label(), back - last);
        ensure!(back - last <= MOVED, "silent for {:.2} s", back - last);
        eventually(NOTICED, || flow.report().answers > answers + 20)?;
        all_connected(&[&one.host, &two.host])?;
        let other = if std::ptr::eq(moving, &one) { &two } else { &one };
        eventually(READY, || is_found_at_its_address(moving, &[other]))?;
        ensure!(peers(&other.host)?.iter().any(|peer| peer.peer_id == moving.peer_id), "it is another peer");
    }
    println!("measured: {:?}", flow.finish()?);
    Ok(())
}

/// Wants these others to be connected with a member at the address that it has now.
fn is_found_at_its_address(moved: &Member, others: &[&Member]) -> Result<()> {
    for other in others {
        let found = connections(&other.host)?;
        let there = found.iter().any(|one| {
            let at = one.address.is_some_and(|address| address.ip() == moved.host.ip());
            at && one.state == ConnectionState::Established
        });
        ensure!(there, "{} is not at {} in {found:?}", moved.host.label(), moved.host.ip());
    }
    Ok(())
}

/// Who has moved is found by all others, also by those that it had dialled itself.
#[test]
fn a_host_that_moves_is_found_by_all_others() -> Result<()> {
    let (_lab, [one, two, three]) = chain("found", None)?;
    all_ping(&[&one, &two, &three])?;
    for (moving, others) in [(&two, [&one, &three]), (&one, [&two, &three])] {
        moving.host.change_address()?;
        let moved = Instant::now();
        let hosts = [&one.host, &two.host, &three.host];
        eventually(secs(20), || {
            is_found_at_its_address(moving, &others).and_then(|()| are_connected(&hosts))
        })?;
        println!(
            "measured: {} connected {:.2} s after it moved",
            moving.host.label(),
            moved.elapsed().as_secs_f64()
        );
        all_ping(&[&one, &two, &three])?;
    }
    Ok(())
}

/// Fault table, row 20: who slept blames itself, and is back soon.
#[test]
fn a_laptop_that_slept_for_twenty_seconds_is_back_within_three() -> Result<()> {
    let (_lab, [one, two, three]) = chain("sleep", None)?;
    all_ping(&[&one, &two, &three])?;
    let flow = three.container.converse(&two.container, (two.ip, 5000).into())?;
    let answers = || flow.report().answers;
    eventually(READY, || answers() > 5)?;

    three.host.kill_router(Signal::STOP)?;
    always(secs(20), || one.container.ping(two.ip))?;
    ensure!(neighbours(&one.host)? == ["h2"], "{:?}", connections(&one.host)?);
    let before = answers();
    three.host.kill_router(Signal::CONT)?;
    let woken = Instant::now();
    eventually(READY, || one.container.ping(three.ip))?;
    println!("measured: back {:.2} s after 20 s of sleep", woken.elapsed().as_secs_f64());
    ensure!(woken.elapsed() < secs(6), "back after {:?}", woken.elapsed());
    all_connected(&[&one.host, &two.host, &three.host])?;
    eventually(NOTICED, || answers() > before + 5)?;
    flow.finish()?;
    // The others never doubted each other.
    let doubts = [(&one, &two), (&two, &one)].map(|(of, about)| alarms_about(&of.host, &about.peer_id));
    ensure!(doubts == [0, 0], "{doubts:?} alarms about each other");
    Ok(())
}

/// A laptop without Wi-Fi for ten seconds: its link has no carrier, then has it again.
#[test]
fn a_host_without_a_link_for_ten_seconds_is_back_soon_and_its_tcp_connection_goes_on() -> Result<()> {
    let (lab, [one, two]) = chain("wifi", None)?;
    all_ping(&[&one, &two])?;
    let flow = two.container.converse(&one.container, (one.ip, 5000).into())?;
    eventually(READY, || flow.report().answers > 5)?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;

    lab.unplug(&two.host)?;
    always(secs(10), || one.container.ping(two.ip).is_err())?;
    lab.plug(&two.host)?;
    let plugged = now()?;
    let back = eventually(READY, || heartbeat.first_answer_after(plugged))?;
    println!("measured: back {:.2} s after a link that was away for 10 s", back - plugged);
    let answers = flow.report().answers;
    eventually(NOTICED, || flow.report().answers > answers + 5)?;
    flow.finish()?;
    all_connected(&[&one.host, &two.host])
}

/// The same by the administrator's hand: addresses and routes go with the link, and come back with it.
#[test]
fn a_host_whose_interface_was_switched_off_is_back_soon() -> Result<()> {
    let (_lab, [one, two]) = chain("ifdown", None)?;
    all_ping(&[&one, &two])?;
    two.host.link_down()?;
    eventually(READY, || has_neighbours(&one.host, &[]))?;
    always(secs(3), || one.container.ping(two.ip).is_err())?;
    two.host.link_up()?;
    let up = Instant::now();
    eventually(READY, || one.container.ping(two.ip))?;
    println!("measured: back {:.2} s after the interface was switched on", up.elapsed().as_secs_f64());
    all_connected(&[&one.host, &two.host])
}

/// Who speaks IPv4 alone and who speaks IPv6 alone meet at a host that speaks both.
#[test]
fn hosts_of_one_family_each_are_joined_by_a_host_of_both() -> Result<()> {
    let lab = Lab::new("families")?;
    let (both, old, new) = (lab.host("both")?, lab.host("old")?, lab.host("new")?);
    old.switch_ipv6_off()?;
    new.remove_ipv4()?;
    let one = Member::launch(&both, 1, &[], None)?;
    // A container on a host without IPv6 can still have it: the namespaces are apart.
    let two = Member::launch(&old, 2, &[both.ip().to_string()], None)?;
    let three = Member::launch(&new, 3, &[format!("[{}]", both.ip6())], None)?;
    eventually(READY, || has_neighbours(&both, &["new", "old"]))?;
    all_ping(&[&one, &two, &three])?;
    for (from, to) in ordered_pairs(&[&one, &two, &three]) {
        let stats = from.container.ping_with(&Ping::to(to.ip).count(20))?;
        ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
        eventually(READY, || from.container.ping(to.ip6))?;
    }
    Ok(())
}

/// A name with addresses of both families leads to a host of either.
#[test]
fn a_dual_stack_host_falls_back_to_the_family_that_works() -> Result<()> {
    let lab = Lab::new("dual")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let one = Member::launch(&h1, 1, &[], None)?;
    let names = [("first", h1.ip6().into()), ("first", h1.ip().into())];
    for host in [&h2, &h3] {
        host.set_names(&names)?;
    }
    // h2 has lost IPv6 somewhere on the way, without a word; h3 has never had IPv4.
    h2.run(["ip", "-6", "route", "add", "blackhole", &h1.ip6().to_string()])?;
    h3.remove_ipv4()?;
    let two = Member::launch(&h2, 2, &words([NO_DISCOVERY, "first"]), None)?;
    let three = Member::launch(&h3, 3, &words([NO_DISCOVERY, "first"]), None)?;
    let launched = Instant::now();
    eventually(secs(20), || has_neighbours(&h1, &["h2", "h3"]))?;
    println!("measured: both have found their family after {:.2} s", launched.elapsed().as_secs_f64());
    all_ping(&[&one, &two, &three])
}

/// weave-net.md 5.x: hosts whose kernel has IPv6 switched off run and join as any.
#[test]
fn hosts_without_ipv6_are_a_network_too() -> Result<()> {
    let lab = Lab::new("noipv6")?;
    let mut members: Vec<Member> = Vec::new();
    for number in 1..=3 {
        let host = lab.host(&format!("h{number}"))?;
        host.switch_ipv6_off()?;
        let peers: Vec<_> = members.last().map(|before| before.host.ip().to_string()).into_iter().collect();
        members.push(Member::launch(&host, number, &peers, None)?);
    }
    let hosts: Vec<_> = members.iter().map(|member| &member.host).collect();
    all_connected(&hosts)?;
    all_ping(&members.iter().collect::<Vec<_>>())
}

/// Fault table, row 33: no clock of one host means anything to another, nor one of an earlier life to a later one.
#[test]
fn clocks_that_differ_by_years_and_run_backwards_between_lives_harm_nobody() -> Result<()> {
    const YEAR: Duration = secs(365 * 24 * 3600);
    let lab = Lab::new("clocks")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    h2.set_clocks_ahead(YEAR * 10);
    h3.set_clocks_ahead(secs(24 * 3600));
    let first = [h1.ip().to_string()];
    let one = Member::launch(&h1, 1, &[], Some("at any time"))?;
    let two = Member::launch(&h2, 2, &first, Some("at any time"))?;
    let three = Member::launch(&h3, 3, &first, Some("at any time"))?;
    all_connected(&[&h1, &h2, &h3])?;
    all_ping(&[&one, &two, &three])?;

    // As after a start of the machine: the clocks begin again.
    h2.kill_router(Signal::KILL)?;
    h2.set_clocks_ahead(Duration::ZERO);
    let again = launch(&h2, &first, Some("at any time"))?;
    ensure!(again.peer_id == two.peer_id, "{again:?}");
    all_connected(&[&h1, &h2, &h3])?;
    all_ping(&[&one, &two, &three])?;
    let stats = one.container.ping_with(&Ping::to(two.ip).count(100))?;
    ensure!(stats.received == 100, "{stats:?}");
    Ok(())
}

/// Fault table, row 20, the short sleep: sessions outlast it.
#[test]
fn a_router_that_stood_still_for_five_seconds_keeps_its_sessions() -> Result<()> {
    let (_lab, [one, two]) = chain("nap", None)?;
    all_ping(&[&one, &two])?;
    two.host.kill_router(Signal::STOP)?;
    always(secs(5), || {
        let found = connections(&one.host)?;
        let known = found.iter().any(|one| one.peer_id.as_ref() == Some(&two.peer_id));
        let failed = found.iter().any(|one| one.state == ConnectionState::Failed);
        ensure!(known && !failed, "{found:?}");
        Ok(())
    })?;
    two.host.kill_router(Signal::CONT)?;
    let woken = Instant::now();
    eventually(secs(3), || one.container.ping(two.ip))?;
    println!("measured: back {:.2} s after a nap of 5 s", woken.elapsed().as_secs_f64());
    eventually(READY, || has_neighbours(&one.host, &["h2"]))
}
