//! Whom a router connects to: what it was told at launch and later, what it finds out, and what it keeps to itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use mesh_api::{ConnectionDocument, ConnectionState, TargetDocument};
use mesh_lab::{Chaos, Frames, Host, Lab, Ping, Protocol, Signal, always, eventually, secs};

use crate::support::{
    Member, NO_DISCOVERY, READY, all_connected, all_ping, are_connected, chain, connections, has_neighbours,
    have_one_view, hints_at, launch, neighbours, peers, refused, sessions, status, words,
};

/// An address on a host's network at which nobody is.
fn nobody(host: &Host) -> String {
    let [a, b, c, _] = host.ip().octets();
    Ipv4Addr::new(a, b, c, 254).to_string()
}

fn targets(host: &Host) -> Result<Vec<TargetDocument>> {
    host.mesh(["status", "targets", "-o", "json"])?.json()
}

/// The targets of a host, sorted, without the default port.
fn target_names(host: &Host) -> Result<BTreeSet<String>> {
    Ok(targets(host)?.iter().map(|target| target.target.trim_end_matches(":6783").to_owned()).collect())
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// How many connections were begun in a capture, from this address or by anybody.
fn dials(frames: &Frames, from: Option<IpAddr>, to: IpAddr) -> usize {
    frames.count(|frame| {
        let Some(ends) = frame.transport() else { return false };
        // An IPv4 header without options; SYN without ACK.
        let flags = frame.bytes.get(14 + 20 + 13).copied().unwrap_or(0);
        let begins = ends.protocol == Protocol::Tcp && flags & 0x12 == 0x02 && ends.destination.0 == to;
        begins && from.is_none_or(|from| ends.source.0 == from)
    })
}

/// weave-net.md 3, 4: a name is looked up again at each try.
#[test]
fn a_name_is_resolved_again_at_each_try() -> Result<()> {
    let lab = Lab::new("resolve")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    launch(&h1, &[], None)?;
    h2.set_names(&[("first", nobody(&h2).parse()?)])?;
    launch(&h2, &words(["first"]), None)?;
    eventually(READY, || {
        let target = targets(&h2)?.into_iter().next().context("no target")?;
        ensure!(target.last_error.is_some(), "{target:?}");
        Ok(())
    })?;

    h2.set_names(&[("first", h1.ip().into())])?;
    let changed = Instant::now();
    all_connected(&[&h1, &h2])?;
    println!("measured: connected {:.2} s after the name was changed", changed.elapsed().as_secs_f64());

    // The name moves on while the connection is up: the next life of the peer is found where it is then.
    let h3 = lab.host("h3")?;
    h1.mesh(["stop"])?;
    launch(&h3, &[], None)?;
    h2.set_names(&[("first", h3.ip().into())])?;
    all_connected(&[&h2, &h3])
}

/// weave-net.md 5: a name that nobody knows yet is no error.
#[test]
fn a_name_that_comes_to_be_known_later_is_found() -> Result<()> {
    let lab = Lab::new("later")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    launch(&h1, &[], None)?;
    h2.set_names(&[])?;
    launch(&h2, &words(["first"]), None)?;
    eventually(READY, || {
        let target = targets(&h2)?.into_iter().next().context("no target")?;
        ensure!(target.state == ConnectionState::Retrying && target.last_error.is_some(), "{target:?}");
        ensure!(target.next_try_seconds.is_some_and(|seconds| seconds < 60.0), "{target:?}");
        Ok(())
    })?;
    h2.set_names(&[("first", h1.ip().into())])?;
    all_connected(&[&h1, &h2])
}

/// Of a name's addresses the one that answers is taken.
#[test]
fn a_name_with_a_dead_address_and_a_living_one_is_reached() -> Result<()> {
    let lab = Lab::new("eyeballs")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    launch(&h1, &[], None)?;
    h2.set_names(&[
        ("first", "fd99::dead".parse()?),
        ("first", nobody(&h2).parse()?),
        ("first", h1.ip().into()),
    ])?;
    launch(&h2, &words(["first"]), None)?;
    let launched = Instant::now();
    eventually(secs(20), || are_connected(&[&h1, &h2]))?;
    println!("measured: the living address is found after {:.2} s", launched.elapsed().as_secs_f64());
    Ok(())
}

/// weave-net.md 33, 37, 38: two routers that dial each other at once agree on one connection, and keep it.
#[test]
fn routers_that_name_each_other_make_one_connection() -> Result<()> {
    let lab = Lab::new("mutual")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    for delay_ms in [0, 30] {
        // A long way makes sure that both dial before either has heard of the other.
        if delay_ms > 0 {
            lab.wire(&h2, Chaos { delay_ms, ..Chaos::default() })?;
        }
        std::thread::scope(|scope| -> Result<()> {
            let one = scope.spawn(|| launch(&h1, &[h2.ip().to_string()], None));
            let other = scope.spawn(|| launch(&h2, &[h1.ip().to_string()], None));
            one.join().expect("a launch does not panic")?;
            other.join().expect("a launch does not panic")?;
            Ok(())
        })?;
        all_connected(&[&h1, &h2])?;
        let one_session = || -> Result<()> {
            let (one, other) = (sessions(&h1)?, sessions(&h2)?);
            ensure!((one, other) == (1, 1), "{one} and {other} sessions");
            Ok(())
        };
        eventually(READY, one_session)?;
        always(secs(2), one_session)?;
        are_connected(&[&h1, &h2])?;
        for host in [&h1, &h2] {
            host.mesh(["stop"])?;
        }
    }
    Ok(())
}

/// weave-net.md 35.
#[test]
fn a_router_that_is_told_its_own_address_leaves_it_at_that() -> Result<()> {
    let lab = Lab::new("itself")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    launch(&h2, &[], None)?;
    let (own, loopback) = (h1.ip().to_string(), "127.0.0.1");
    launch(&h1, &words([&own, loopback, &h2.ip().to_string()]), None)?;
    all_connected(&[&h1, &h2])?;
    ensure!(status(&h1)?.peers == 2, "{:?}", peers(&h1)?);

    let capture = h1.capture("lo")?;
    always(secs(3), || are_connected(&[&h1, &h2]))?;
    let frames = capture.stop()?;
    let dialled = dials(&frames, None, h1.ip().into()) + dials(&frames, None, loopback.parse()?);
    ensure!(dialled <= 4, "it has dialled itself {dialled} times in 3 seconds");
    let told = targets(&h1)?.into_iter().find(|target| target.target.starts_with(&own));
    let told = told.context("its own address is no target any more")?;
    ensure!(told.info.as_deref().is_some_and(|info| info.contains("itself")), "{told:?}");
    Ok(())
}

/// weave-net.md 43.
#[test]
fn connect_adds_targets_and_replaces_them_when_told() -> Result<()> {
    let lab = Lab::new("connect")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    for host in [&h1, &h2, &h3] {
        launch(host, &words([NO_DISCOVERY]), None)?;
    }
    let (two, three, nobody) = (h2.ip().to_string(), h3.ip().to_string(), nobody(&h1));
    ensure!(target_names(&h1)?.is_empty(), "{:?}", targets(&h1)?);

    h1.mesh(["connect", &two])?;
    all_connected(&[&h1, &h2])?;
    ensure!(target_names(&h1)? == names([&two]), "{:?}", targets(&h1)?);
    h1.mesh(["connect", &two, &nobody])?;
    ensure!(target_names(&h1)? == names([&two, &nobody]), "{:?}", targets(&h1)?);

    h1.mesh(["connect", "--replace", &three])?;
    eventually(READY, || {
        let found = neighbours(&h1)?;
        ensure!(found.iter().any(|name| name == "h3"), "{found:?}");
        Ok(())
    })?;
    ensure!(target_names(&h1)? == names([&three]), "{:?}", targets(&h1)?);

    for wrong in [&["connect"][..], &["connect", "--replace"], &["connect", "h 1"], &["connect", "h1:0"]] {
        refused(&h1, 2, wrong)?;
    }
    h2.mesh(["stop"])?;
    hints_at(&refused(&h2, 3, &["connect", &three])?, &["mesh launch"])
}

/// weave-net.md 43: a user who says `connect` does not wait for the next try.
#[test]
fn connect_tries_at_once_a_target_that_was_dead_for_long() -> Result<()> {
    let lab = Lab::new("atonce")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let two = h2.ip().to_string();
    launch(&h1, &words([&two]), None)?;
    // Long enough for the pause between two tries to be told from no pause.
    let pause = eventually(secs(40), || {
        let target = targets(&h1)?.into_iter().next().context("no target")?;
        let next = target.next_try_seconds.unwrap_or(0.0);
        if next < 2.0 { bail!("{target:?}") } else { Ok(next) }
    })?;
    launch(&h2, &[], None)?;
    h1.mesh(["connect", &two])?;
    let told = Instant::now();
    all_connected(&[&h1, &h2])?;
    let took = told.elapsed().as_secs_f64();
    println!("measured: connected {took:.2} s after connect, {pause:.2} s before the next try");
    ensure!(took < pause, "the next try was waited for");
    Ok(())
}

/// weave-net.md 44: what is forgotten is dialled no more; what is connected stays so.
#[test]
fn forget_keeps_the_connection_and_ends_the_dialling() -> Result<()> {
    let lab = Lab::new("forget")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let (two, nobody) = (h2.ip().to_string(), nobody(&h1));
    launch(&h2, &words([NO_DISCOVERY]), None)?;
    launch(&h1, &words([NO_DISCOVERY, &two]), None)?;
    all_connected(&[&h1, &h2])?;

    let failure = refused(&h1, 4, &["forget", &two, &nobody])?;
    ensure!(failure.message.contains(&nobody), "{failure:?}");
    ensure!(target_names(&h1)? == names([&two]), "{:?}", targets(&h1)?);
    h1.mesh(["forget", &two])?;
    ensure!(target_names(&h1)?.is_empty(), "{:?}", targets(&h1)?);
    always(secs(1), || are_connected(&[&h1, &h2]))?;

    h2.kill_router(Signal::KILL)?;
    eventually(READY, || has_neighbours(&h1, &[]))?;
    launch(&h2, &words([NO_DISCOVERY]), None)?;
    let capture = lab.capture(&h2)?;
    always(secs(3), || has_neighbours(&h1, &[]).and_then(|()| has_neighbours(&h2, &[])))?;
    let dialled = dials(&capture.stop()?, Some(h1.ip().into()), h2.ip().into());
    ensure!(dialled == 0, "dialled {dialled} times");
    Ok(())
}

/// weave-net.md 14, 15, 45: targets outlive a kill, and are taken up again when that is asked for.
#[test]
fn targets_outlive_the_router_and_resume_takes_them_up() -> Result<()> {
    let lab = Lab::new("resume")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let (two, three, nobody) = (h2.ip().to_string(), h3.ip().to_string(), nobody(&h1));
    for host in [&h2, &h3] {
        launch(host, &words([NO_DISCOVERY]), None)?;
    }
    launch(&h1, &words([NO_DISCOVERY, &two, &nobody]), None)?;
    h1.mesh(["connect", &three])?;
    h1.mesh(["forget", &nobody])?;
    let both = |host: &Host| has_neighbours(host, &["h2", "h3"]);
    eventually(READY, || both(&h1))?;

    h1.kill_router(Signal::KILL)?;
    refused(&h1, 2, &["launch", "--resume", &two])?;
    launch(&h1, &words([NO_DISCOVERY, "--resume"]), None)?;
    ensure!(target_names(&h1)? == names([&two, &three]), "{:?}", targets(&h1)?);
    eventually(READY, || both(&h1))?;

    // A launch with a list of its own puts that in their place, and one without any has none.
    h1.mesh(["stop"])?;
    launch(&h1, &words([NO_DISCOVERY, &two]), None)?;
    eventually(READY, || has_neighbours(&h1, &["h2"]))?;
    h1.mesh(["stop"])?;
    launch(&h1, &words([NO_DISCOVERY, "--resume"]), None)?;
    ensure!(target_names(&h1)? == names([&two]), "{:?}", targets(&h1)?);
    Ok(())
}

/// weave-net.md 10: a nickname is shown everywhere, and need not be unique.
#[test]
fn nicknames_are_shown_and_may_be_borne_by_two() -> Result<()> {
    let lab = Lab::new("nicknames")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let one = launch(&h1, &words(["--nickname", "twin"]), None)?;
    launch(&h2, &words(["--nickname", "twin", &h1.ip().to_string()]), None)?;
    ensure!(one.nickname == "twin", "{one:?}");
    for host in [&h1, &h2] {
        eventually(READY, || {
            let found = peers(host)?;
            let twins = found.iter().filter(|peer| peer.nickname == "twin").count();
            ensure!(twins == 2, "{found:?}");
            Ok(())
        })?;
        eventually(READY, || has_neighbours(host, &["twin"]))?;
        ensure!(host.mesh(["status"])?.stdout.contains("twin"), "no nickname in status");
    }
    Ok(())
}

/// weave-net.md 6, 29, 30: discovery dials each peer at the port that the peer itself has told.
#[test]
fn peers_are_found_across_different_ports() -> Result<()> {
    let lab = Lab::new("ports")?;
    let hosts = [lab.host("h1")?, lab.host("h2")?, lab.host("h3")?, lab.host("h4")?];
    let ports = ["6783", "7000", "8000", "9000"];
    let mut members: Vec<Member> = Vec::new();
    for (number, (host, port)) in (1..).zip(hosts.iter().zip(ports)) {
        let mut arguments = words(["--port", port]);
        if let Some(before) = members.last() {
            arguments.push(format!("{}:{}", before.host.ip(), ports[members.len() - 1]));
        }
        members.push(Member::launch(host, number, &arguments, None)?);
    }
    all_connected(&hosts.each_ref())?;
    all_ping(&members.iter().collect::<Vec<_>>())?;
    for (host, port) in hosts.iter().zip(ports) {
        let listening = host.run(["ss", "-Hlntu"])?.stdout;
        ensure!(listening.contains(&format!(":{port} ")), "{listening}");
        ensure!(port == "6783" || !listening.contains(":6783 "), "{listening}");
    }
    Ok(())
}

/// weave-net.md 7: `--listen` binds what comes in and what goes out.
#[test]
fn a_router_can_be_kept_to_one_of_the_hosts_addresses() -> Result<()> {
    let lab = Lab::new("listen")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let (second, _) = h2.add_addresses()?;
    let capture = lab.capture(&h2)?;
    let one = Member::launch(&h1, 1, &[], None)?;
    let (listen, first) = (second.to_string(), h1.ip().to_string());
    let two = Member::launch(&h2, 2, &words(["--listen", &listen, &first]), None)?;
    // Who is called at the other address finds nobody.
    launch(&h3, &words([NO_DISCOVERY, &h2.ip().to_string()]), None)?;
    all_connected(&[&h1, &h2])?;
    all_ping(&[&one, &two])?;
    two.container.ping_with(&Ping::to(one.ip).count(20))?;

    let listening = h2.run(["ss", "-Hlntu", "( sport = :6783 )"])?.stdout;
    let elsewhere = listening.lines().filter(|line| !line.contains(&format!("{listen}:6783"))).count();
    ensure!(elsewhere == 0 && listening.lines().count() >= 2, "{listening}");
    let frames = capture.stop()?;
    let ours = |ip: IpAddr| {
        frames.count(|frame| frame.outgoing && frame.transport().is_some_and(|ends| ends.source.0 == ip))
    };
    ensure!(ours(second.into()) > 10, "{} packets from the address", ours(second.into()));
    ensure!(dials(&frames, Some(h2.ip().into()), h1.ip().into()) == 0, "it dialled from the other address");
    ensure!(neighbours(&h3)?.is_empty(), "{:?}", connections(&h3)?);
    Ok(())
}

/// weave-net.md 34.
#[test]
fn each_state_of_a_connection_is_shown_with_its_reason() -> Result<()> {
    let lab = Lab::new("states")?;
    let (h1, h2, h3, h4, h5) =
        (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?, lab.host("h4")?, lab.host("h5")?);
    let (secret, nobody) = (Some("the one of the others"), nobody(&h1));
    launch(&h2, &words([NO_DISCOVERY]), None)?;
    launch(&h3, &words([NO_DISCOVERY]), secret)?;
    launch(&h4, &words([NO_DISCOVERY]), None)?;
    h4.drop_udp(6783)?;
    // On h5 nobody listens, which it says; nobody says nothing.
    let all = [&h2, &h3, &h4, &h5].map(|host| host.ip().to_string());
    let arguments = [&words([NO_DISCOVERY, &nobody])[..], &all].concat();
    launch(&h1, &arguments, None)?;

    let wanted = [
        (&all[0], &[ConnectionState::Established][..], ""),
        (&all[1], &[ConnectionState::Failed], "password"),
        (&all[2], &[ConnectionState::Pending], ""),
        (&all[3], &[ConnectionState::Retrying], "refused"),
        (&nobody, &[ConnectionState::Connecting, ConnectionState::Retrying], ""),
    ];
    let find = |found: &[ConnectionDocument], ip: &str| {
        let at = |one: &&ConnectionDocument| one.address.is_some_and(|at| at.ip().to_string() == ip);
        found.iter().find(at).cloned()
    };
    for (ip, states, word) in wanted {
        eventually(READY, || {
            let found = connections(&h1)?;
            let found = find(&found, ip).with_context(|| format!("no {ip} in {found:?}"))?;
            ensure!(states.contains(&found.state), "{found:?}");
            ensure!(
                word.is_empty() || found.info.as_deref().is_some_and(|info| info.contains(word)),
                "{found:?}"
            );
            ensure!(
                found.state == ConnectionState::Established || found.info.is_some(),
                "no reason: {found:?}"
            );
            Ok(())
        })?;
    }
    let counts = status(&h1)?.connections;
    ensure!((counts.established, counts.pending, counts.failed) == (1, 1, 1), "{counts:?}");
    h4.allow_udp(6783)?;
    eventually(secs(20), || has_neighbours(&h1, &["h2", "h4"]))
}

/// weave-net.md 42: past its limit a router is content with some of the others, and reaches the rest through them.
#[test]
fn a_limit_of_connections_leaves_a_network_in_which_all_reach_all() -> Result<()> {
    const HOSTS: u8 = 12;
    let lab = Lab::new("limit")?;
    let mut members: Vec<Member> = Vec::new();
    for number in 1..=HOSTS {
        let host = lab.host(&format!("h{number}"))?;
        let mut arguments = words(["--conn-limit", "4"]);
        arguments.extend(members.first().map(|first| first.host.ip().to_string()));
        members.push(Member::launch(&host, number, &arguments, None)?);
    }
    let hosts: Vec<_> = members.iter().map(|member| &member.host).collect();
    let settled = || -> Result<Vec<usize>> {
        have_one_view(&hosts)?;
        hosts.iter().map(|host| Ok(neighbours(host)?.len())).collect()
    };
    // Which pairs stay apart is drawn with the identities: some do, and who comes and goes ends.
    let everybody = usize::from(HOSTS) * usize::from(HOSTS - 1);
    let degrees = eventually(secs(60), || {
        let degrees = settled()?;
        ensure!(degrees.iter().sum::<usize>() < everybody, "it is a full mesh: {degrees:?}");
        std::thread::sleep(secs(2));
        let later = settled()?;
        ensure!(later == degrees, "connections come and go: {degrees:?}, {later:?}");
        Ok(degrees)
    })?;
    println!("measured: connections of each with a limit of 4: {degrees:?}");
    let all: Vec<_> = members.iter().collect();
    all_ping(&all)
}

/// weave-net.md 49: all know the same, in a network of everybody with everybody, and after each change.
#[test]
fn all_hosts_tell_the_same_of_the_network() -> Result<()> {
    let (_lab, [one, two, three, four]) = chain("views", None)?;
    let hosts = [&one.host, &two.host, &three.host, &four.host];
    eventually(READY, || have_one_view(&hosts))?;
    four.host.mesh(["stop"])?;
    eventually(READY, || have_one_view(&hosts[..3]))?;
    launch(&four.host, &[two.host.ip().to_string()], None)?;
    eventually(READY, || have_one_view(&hosts))
}

/// weave-net.md 25: nobody is told that there is a router, and nothing is asked of the world.
#[test]
fn a_router_without_peers_sends_no_packet_to_anybody() -> Result<()> {
    let lab = Lab::new("silent")?;
    let host = lab.host("h1")?;
    let capture = lab.capture(&host)?;
    Member::launch(&host, 1, &[], None)?;
    always(secs(10), || status(&host).map(drop))?;
    let frames = capture.stop()?;
    let sent = frames.count(|frame| frame.transport().is_some());
    ensure!(sent == 0, "{sent} packets of TCP or UDP");
    Ok(())
}
