//! Networks in which not everybody is connected to everybody: frames find their way, and each broadcast comes once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_api::RoutesDocument;
use mesh_lab::{Chaos, Lab, MulticastListener, Ping, Signal, always, eventually, millis, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::support::{
    IFNAME, Member, NO_DISCOVERY, READY, all_ping, chain, has_shape, have_one_view, multicast_arrives_once,
    neighbours, ordered_pairs, peers, relayed, shape, words,
};

/// The group of the broadcasts.
const GROUP: &str = "239.1.2.3:5000";

/// The longest silence of traffic whose relay dies: twice what a busy machine was seen to need.
const TAKEOVER: f64 = 3.0;

/// Wants frames between all members, each broadcast once, one view of the topology, and the shape to stay.
fn works_as_a_whole(members: &[Member], edges: &[(u8, u8)]) -> Result<()> {
    let all: Vec<_> = members.iter().collect();
    let hosts: Vec<_> = members.iter().map(|member| &member.host).collect();
    // Before that a frame may be lost.
    eventually(READY, || have_one_view(&hosts))?;
    all_ping(&all)?;
    for (from, to) in ordered_pairs(&all) {
        let stats = from.container.ping_with(&Ping::to(to.ip).count(10).every_ms(5))?;
        let way = format!("{} to {}", from.host.label(), to.host.label());
        ensure!((stats.received, stats.duplicates) == (10, 0), "{way}: {stats:?}");
    }
    for member in members {
        let others: Vec<_> = all.iter().filter(|other| other.ip != member.ip).copied().collect();
        multicast_arrives_once(member, &others, GROUP, 20)?;
    }
    always(secs(1), || has_shape(members, edges))
}

/// weave-net.md 32, 49, 54, 55, 57.
#[test]
fn a_chain_of_five_without_discovery_stays_one_and_joins_all() -> Result<()> {
    let edges = [(1, 2), (2, 3), (3, 4), (4, 5)];
    let (_lab, members) = shape("chain5", 5, &edges)?;
    works_as_a_whole(&members, &edges)
}

/// weave-net.md 32: the same on hosts that could reach each other, which frames may do and connections may not.
#[test]
fn a_chain_without_discovery_stays_one_also_where_all_could_be_dialled() -> Result<()> {
    let edges = [(1, 2), (2, 3), (3, 4)];
    let (lab, members) = shape("chain4", 4, &edges)?;
    lab.heal_everything()?;
    works_as_a_whole(&members, &edges)
}

/// weave-net.md 32, 49, 55, 57.
#[test]
fn a_star_of_five_without_discovery_stays_one_and_joins_all() -> Result<()> {
    let edges = [(1, 2), (1, 3), (1, 4), (1, 5)];
    let (_lab, members) = shape("star", 5, &edges)?;
    works_as_a_whole(&members, &edges)
}

/// weave-net.md 32, 49, 55, 57.
#[test]
fn a_ring_of_five_without_discovery_stays_one_and_joins_all() -> Result<()> {
    let edges = [(1, 2), (2, 3), (3, 4), (4, 5), (1, 5)];
    let (_lab, members) = shape("ring", 5, &edges)?;
    works_as_a_whole(&members, &edges)
}

/// weave-net.md 47, 52, 57: two networks become one by a peer that knows both, and two again without it.
#[test]
fn two_islands_are_joined_by_a_peer_that_names_both_and_part_when_it_goes() -> Result<()> {
    let islands = [(1, 2), (3, 4)];
    let (lab, mut members) = shape("islands", 4, &islands)?;
    all_ping(&[&members[0], &members[1]])?;
    all_ping(&[&members[2], &members[3]])?;
    ensure!(peers(&members[0].host)?.len() == 2, "the islands know of each other");

    let host = lab.host("h5")?;
    let (near, far) = (members[1].host.ip().to_string(), members[2].host.ip().to_string());
    members.push(Member::launch(&host, 5, &words([NO_DISCOVERY, &near, &far]), None)?);
    let joined = [(1, 2), (3, 4), (2, 5), (3, 5)];
    eventually(READY, || has_shape(&members, &joined))?;
    works_as_a_whole(&members, &joined)?;

    host.mesh(["stop"])?;
    let stopped = Instant::now();
    for member in &members[..4] {
        eventually(READY, || {
            let known = peers(&member.host)?.len();
            ensure!(known == 2, "{} knows {known} peers", member.host.label());
            Ok(())
        })?;
    }
    println!("measured: forgotten {:.2} s after the bridge peer stopped", stopped.elapsed().as_secs_f64());
    members.truncate(4);
    has_shape(&members, &islands)?;
    all_ping(&[&members[0], &members[1]])?;
    all_ping(&[&members[2], &members[3]])?;
    ensure!(members[0].container.ping(members[3].ip).is_err(), "the islands are still joined");
    Ok(())
}

/// weave-net.md 47.
#[test]
fn a_peer_that_is_gone_is_forgotten_and_known_again_when_it_returns() -> Result<()> {
    let (_lab, [one, two, three]) = chain("gone", None)?;
    let knows = |member: &Member, count: usize| -> Result<()> {
        let found = peers(&member.host)?;
        ensure!(found.len() == count, "{} knows {found:?}", member.host.label());
        Ok(())
    };
    eventually(READY, || have_one_view(&[&one.host, &two.host, &three.host]))?;
    three.host.kill_router(Signal::KILL)?;
    let killed = Instant::now();
    eventually(READY, || knows(&one, 2).and_then(|()| knows(&two, 2)))?;
    println!("measured: forgotten {:.2} s after its death", killed.elapsed().as_secs_f64());

    three.host.mesh(["launch", &one.host.ip().to_string()])?;
    eventually(READY, || have_one_view(&[&one.host, &two.host, &three.host]))?;
    all_ping(&[&one, &two, &three])
}

/// Who dies, and how.
enum Death {
    /// The router alone: its host says at once that nobody listens any more.
    Killed,
    /// The whole host: nothing is heard of it any more.
    Unplugged,
}

/// weave-net.md 56, GOALS C1. Four hosts, of which the first and the last are joined by both others.
fn diamond_loses_its_relay(title: &str, death: &Death) -> Result<()> {
    let edges = [(1, 2), (1, 3), (2, 4), (3, 4)];
    let (lab, members) = shape(title, 4, &edges)?;
    let [one, two, three, four] = &members[..] else { unreachable!("four were asked for") };
    all_ping(&[one, two, three, four])?;
    let heartbeat = Heartbeat::beating(&one.container, four)?;
    let relay = eventually(READY, || busy_relay(two, three))?;
    let other = if std::ptr::eq(relay, two) { three } else { two };

    let died = now()?;
    match death {
        Death::Killed => relay.host.kill_router(Signal::KILL)?,
        Death::Unplugged => lab.unplug(&relay.host)?,
    }
    // An answer may be on its way meanwhile.
    let back = eventually(READY, || heartbeat.first_answer_after(died + 0.1))?;
    let last = heartbeat.last_answer_before(back).context("there were answers before")?;
    // After a while the longest silence is all there was.
    eventually(READY, || heartbeat.first_answer_after(back + 2.0))?;
    let silence = heartbeat.longest_silence();
    println!(
        "measured: {title}: silent for {silence:.2} s, first {:.2} s, {:?}",
        back - last,
        heartbeat.tally()
    );
    ensure!(silence <= TAKEOVER, "no relay for {silence:.2} s");
    multicast_arrives_once(one, &[other, four], GROUP, 50)?;
    multicast_arrives_once(four, &[other, one], GROUP, 50)
}

#[test]
fn a_diamond_whose_relay_is_killed_goes_by_the_other_one() -> Result<()> {
    diamond_loses_its_relay("diamondkilled", &Death::Killed)
}

#[test]
fn a_diamond_whose_relay_falls_silent_goes_by_the_other_one() -> Result<()> {
    diamond_loses_its_relay("diamondsilent", &Death::Unplugged)
}

/// Which of two relays carries the traffic that goes on now.
fn busy_relay<'a>(two: &'a Member, three: &'a Member) -> Result<&'a Member> {
    let before = [relayed(&two.host)?, relayed(&three.host)?];
    eventually(secs(2), || -> Result<_> {
        let after = [relayed(&two.host)?, relayed(&three.host)?];
        let grown = [after[0] - before[0], after[1] - before[1]];
        match grown {
            [by_two, by_three] if by_two > by_three + 20 => Ok(two),
            [by_two, by_three] if by_three > by_two + 20 => Ok(three),
            _neither => anyhow::bail!("relayed meanwhile: {grown:?}"),
        }
    })
}

/// Of two relays the nearer one is taken.
#[test]
fn of_two_relays_the_nearer_one_carries() -> Result<()> {
    let edges = [(1, 2), (1, 3), (2, 4), (3, 4)];
    let (lab, members) = shape("nearer", 4, &edges)?;
    let [one, two, three, four] = &members[..] else { unreachable!("four were asked for") };
    all_ping(&[one, two, three, four])?;
    for (far, near) in [(two, three), (three, two)] {
        lab.wire(&far.host, Chaos { delay_ms: 40, ..Chaos::default() })?;
        let slowed = Instant::now();
        let _heartbeat = Heartbeat::beating(&one.container, four)?;
        eventually(secs(30), || {
            let relay = busy_relay(two, three)?;
            ensure!(std::ptr::eq(relay, near), "{} carries", relay.host.label());
            Ok(())
        })?;
        println!(
            "measured: the nearer relay carries {:.1} s after the other one was slowed",
            slowed.elapsed().as_secs_f64()
        );
        let rtt = one.container.ping_with(&Ping::to(four.ip).count(20))?.rtt.context("nobody answers")?;
        ensure!(rtt.avg_ms < 40.0, "the way is still that of {}: {rtt:?}", far.host.label());
        lab.unwire(&far.host)?;
        all_ping(&[one, far, near, four])?;
    }
    Ok(())
}

/// CONTRACT.md section 4, `status routes`.
#[test]
fn status_tells_the_routes() -> Result<()> {
    let edges = [(1, 2), (2, 3)];
    let (_lab, members) = shape("routes", 3, &edges)?;
    let [one, two, three] = &members[..] else { unreachable!("three were asked for") };
    eventually(READY, || {
        let routes: RoutesDocument = one.host.mesh(["status", "routes", "-o", "json"])?.json()?;
        let way = |to: &Member| {
            let found = routes.unicast.iter().find(|route| route.peer_id == to.peer_id);
            found.and_then(|route| route.via.clone())
        };
        ensure!(way(two) == Some(two.peer_id.clone()) && way(three) == way(two), "{routes:?}");
        let own = routes.broadcast.iter().find(|tree| tree.source == one.peer_id);
        ensure!(own.is_some_and(|tree| tree.via == [two.peer_id.clone()]), "{routes:?}");
        Ok(())
    })?;
    let routes: RoutesDocument = two.host.mesh(["status", "routes", "-o", "json"])?.json()?;
    let of_one = routes.broadcast.iter().find(|tree| tree.source == one.peer_id);
    ensure!(of_one.is_some_and(|tree| tree.via == [three.peer_id.clone()]), "{routes:?}");
    let text = one.host.mesh(["status", "routes"])?.stdout;
    ensure!(text.contains("h2") && text.contains("h3"), "{text}");
    Ok(())
}

/// weave-net.md 58: while views differ copies may be lost, and hardly any may come twice.
#[test]
fn a_ring_with_a_flapping_link_doubles_hardly_any_broadcast() -> Result<()> {
    const DATAGRAMS: u32 = 1_000;
    const FLAPS: u32 = 10;
    let edges = [(1, 2), (2, 3), (3, 4), (1, 4)];
    let (lab, members) = shape("flapring", 4, &edges)?;
    let all: Vec<_> = members.iter().collect();
    all_ping(&all)?;
    let group = GROUP.parse()?;
    let over = AtomicBool::new(false);
    let heard = std::thread::scope(|scope| -> Result<Vec<Vec<Vec<u8>>>> {
        let mut listening = Vec::new();
        for member in &members[1..] {
            let listener = member.container.multicast_listen(group, IFNAME)?;
            listening.push(scope.spawn(|| hear(listener, &over)));
        }
        let flapping = scope.spawn(|| flap(&lab, &members[0], &members[1], FLAPS));
        for number in 0..DATAGRAMS {
            members[0].container.multicast_send(group, IFNAME, &number.to_be_bytes())?;
            std::thread::sleep(millis(8));
        }
        flapping.join().expect("flapping does not panic")?;
        over.store(true, Ordering::Relaxed);
        Ok(listening.into_iter().map(|thread| thread.join().expect("listening does not panic")).collect())
    })?;
    for (mut numbers, member) in heard.into_iter().zip(&members[1..]) {
        let came = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        let (label, distinct, copies) = (member.host.label(), numbers.len(), came - numbers.len());
        println!("measured: {label} got {distinct} of {DATAGRAMS}, {copies} of them twice");
        ensure!(copies * 100 <= came, "{copies} copies among {came} at {label}");
        ensure!(distinct * 10 >= DATAGRAMS as usize * 3, "{distinct} only came to {label}");
    }
    eventually(secs(30), || has_shape(&members, &edges))?;
    works_as_a_whole(&members, &edges)
}

/// Cuts and heals a link again and again, once a second.
fn flap(lab: &Lab, one: &Member, other: &Member, times: u32) -> Result<()> {
    for _ in 0..times {
        lab.cut(&one.host, &other.host)?;
        std::thread::sleep(millis(500));
        lab.heal(&one.host, &other.host)?;
        std::thread::sleep(millis(500));
    }
    Ok(())
}

/// All that a listener hears until it is over, and half a second more.
fn hear(listener: MulticastListener, over: &AtomicBool) -> Vec<Vec<u8>> {
    let mut heard = Vec::new();
    loop {
        let was_over = over.load(Ordering::Relaxed);
        match listener.next(millis(500)) {
            Ok((payload, _)) => heard.push(payload),
            Err(_silence) if was_over => return heard,
            Err(_silence) => {}
        }
    }
}

/// weave-net.md 49, 52: news reaches all, over relays as well, within a second or so.
#[test]
fn a_peer_that_joins_at_one_end_is_known_at_the_other() -> Result<()> {
    let edges = [(1, 2), (2, 3), (3, 4)];
    let (lab, mut members) = shape("news", 4, &edges)?;
    let host = lab.host("h5")?;
    let last = members[3].host.ip().to_string();
    members.push(Member::launch(&host, 5, &words([NO_DISCOVERY, &last]), None)?);
    let launched = Instant::now();
    eventually(READY, || {
        let names: Vec<_> = peers(&members[0].host)?.into_iter().map(|peer| peer.nickname).collect();
        ensure!(names.iter().any(|name| name == "h5"), "{names:?}");
        Ok(())
    })?;
    println!("measured: known at the other end {} ms after the launch", launched.elapsed().as_millis());
    eventually(READY, || members[0].container.ping(members[4].ip))?;
    ensure!(neighbours(&members[0].host)? == ["h2"], "it was dialled");
    Ok(())
}
