//! How fast names come and go: with their containers, their routers, and the ways to them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_lab::{Signal, eventually, secs};

use crate::names::{Named, RANGE, attach, everywhere, list, network};
use crate::support::{launch, words};

/// Waits until a name has so many addresses on each of these hosts, and says how long that took after `since`.
fn settled(members: &[&Named], name: &str, count: usize, since: Instant) -> Result<Duration> {
    for member in members {
        eventually(secs(15), || {
            let found = member.addresses(name)?;
            ensure!(found.len() == count, "{name} is {found:?} on {}", member.host.label());
            Ok(())
        })?;
    }
    Ok(since.elapsed())
}

#[test]
fn names_come_and_go_with_containers_routers_and_links() -> Result<()> {
    let (lab, members) = network("names-timing", 3, &[])?;
    let all: Vec<_> = members.iter().collect();
    let (host, others) = (&members[2].host, &all[..2]);
    let container = host.container("w")?;
    let measured = |what: &str, took: Duration| eprintln!("measured: {what} after {} ms", took.as_millis());

    let attached = {
        attach(host, &container, &["--name", "web"])?;
        Instant::now()
    };
    measured("a name is known on all hosts", settled(&all, "web.mesh.internal", 1, attached)?);
    host.mesh(["detach", &container.spec()])?;
    measured(
        "a name of a detached container is gone",
        settled(&all, "web.mesh.internal", 0, Instant::now())?,
    );

    host.mesh(["dns", "add", "kept", "192.0.2.1"])?;
    settled(&all, "kept.mesh.internal", 1, Instant::now())?;
    host.kill_router(Signal::KILL)?;
    measured("names of a killed router are gone", settled(others, "kept.mesh.internal", 0, Instant::now())?);
    let mut arguments = words(["--ipam-range", RANGE]);
    arguments.push(members[0].host.ip().to_string());
    launch(host, &arguments, None)?;
    measured("its names are back", settled(&all, "kept.mesh.internal", 1, Instant::now())?);

    lab.isolate(host)?;
    measured("names behind a partition are gone", settled(others, "kept.mesh.internal", 0, Instant::now())?);
    // What is said on one side while it lasts is what holds afterwards.
    host.mesh(["dns", "remove", "kept"])?;
    host.mesh(["dns", "add", "fresh", "192.0.2.2"])?;
    lab.restore(host)?;
    measured("what was said behind it is known", settled(&all, "fresh.mesh.internal", 1, Instant::now())?);
    everywhere(&members, "kept.mesh.internal", &[])?;
    for member in &members {
        ensure!(list(&member.host)?.iter().all(|entry| !entry.name.starts_with("kept")), "a stale name");
    }
    Ok(())
}

#[test]
fn other_names_are_asked_of_servers_that_answer_and_ours_of_nobody() -> Result<()> {
    let lab = mesh_lab::Lab::new("names-upstream")?;
    let (host, up) = (lab.host("h1")?, lab.host("up")?);
    let server = up.ip().to_string();
    let dnsmasq = |zone: &[&str]| {
        let listen = format!("--listen-address={server}");
        let options = [
            "--no-daemon",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
            &listen,
        ];
        up.cmd("dnsmasq").args(options).args(zone).spawn()
    };
    // It knows an ordinary name, puts one on an address of the overlay, and claims to know one of ours.
    let running = dnsmasq(&[
        "--address=/www.example.test/198.51.100.7",
        "--address=/evil.example.test/10.32.0.1",
        "--address=/liar.mesh.internal/198.51.100.66",
        "--ptr-record=7.100.51.198.in-addr.arpa,www.example.test",
    ])?;
    // The first server is nobody, the second answers.
    let upstream = format!("{},{server}", lab.host("none")?.ip());
    launch(&host, &words(["--ipam-range", RANGE, "--dns-upstream", &upstream]), None)?;
    let container = host.container("c")?;
    let address = attach(&host, &container, &["--name", "c1"])?;
    let one = Named { host, container, address };
    eventually(secs(10), || -> Result<()> {
        let answer = one.dig("www.example.test A")?;
        ensure!(answer.contains("status: NOERROR") && answer.contains("198.51.100.7"), "{answer}");
        Ok(())
    })?;
    let evil = one.dig("evil.example.test A")?;
    ensure!(!evil.contains("10.32.0.1"), "an address of the overlay for somebody else's name: {evil}");
    let liar = one.dig("liar.mesh.internal A")?;
    ensure!(liar.contains("status: NXDOMAIN") && liar.contains("flags: qr aa"), "{liar}");

    // Pointers: of the outside, and of the network's range, which nobody else is asked about.
    let outside = one.dig("-x 198.51.100.7")?;
    ensure!(outside.contains("IN\tPTR\twww.example.test."), "{outside}");
    let own = one.dig(&format!("-x {address}"))?;
    ensure!(own.contains("IN\tPTR\tc1.mesh.internal.") && own.contains("flags: qr aa"), "{own}");

    drop(running);
    let began = Instant::now();
    let dead = one.dig("+time=6 +tries=1 other.example.test A")?;
    eprintln!("measured: SERVFAIL after {} ms without any server", began.elapsed().as_millis());
    ensure!(dead.contains("status: SERVFAIL"), "{dead}");
    ensure!(one.addresses("c1.mesh.internal")? == [address.to_string()], "our own names need no server");
    let again = dnsmasq(&["--address=/back.example.test/198.51.100.8"])?;
    eventually(secs(15), || -> Result<()> {
        let answer = one.dig("+time=6 +tries=1 back.example.test A")?;
        ensure!(answer.contains("198.51.100.8"), "{answer}");
        Ok(())
    })?;
    drop(again);
    Ok(())
}

/// weave-net.md 166, 174, 179, 186.
#[test]
fn names_end_with_their_container_and_outlive_their_router_and_none_comes_back_from_the_dead() -> Result<()> {
    let (_lab, members) = network("names-lives", 2, &[])?;
    let (host, peer) = (&members[0].host, members[1].host.ip().to_string());
    let (kept, lost, gone) = (host.container("k")?, host.container("l")?, host.container("g")?);
    let at = |container, name: &str| attach(host, container, &["--name", name]);
    let (kept_at, lost_at, gone_at) = (at(&kept, "kept")?, at(&lost, "Lost")?, at(&gone, "gone")?);
    // One name in two cases is one name, of two containers.
    let again_at = at(&kept, "lost")?;
    everywhere(&members, "LOST.mesh.internal", &[lost_at, again_at])?;
    everywhere(&members, "gone.mesh.internal", &[gone_at])?;

    // A container that ends takes its name along, whoever noticed first.
    host.run(["ip", "netns", "delete", gone.name()])?;
    settled(&[&members[0], &members[1]], "gone.mesh.internal", 0, Instant::now())?;

    // Another ends while the router is dead. What others remember of that life is not what comes back.
    host.kill_router(Signal::KILL)?;
    host.run(["ip", "netns", "delete", lost.name()])?;
    launch(host, &[words(["--ipam-range", RANGE]).as_slice(), &[peer]].concat(), None)?;
    everywhere(&members, "kept.mesh.internal", &[kept_at])?;
    everywhere(&members, "lost.mesh.internal", &[again_at])?;
    for member in &members {
        ensure!(list(&member.host)?.iter().all(|entry| entry.address != lost_at), "a stale name");
    }
    Ok(())
}
