//! Containers of a real dockerd: what a name is enough for, and what is kept when anything restarts.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_api::AttachDocument;
use mesh_lab::{Docker, Host, Lab, Signal, eventually, secs};

use crate::support::{READY, hints_at, launch, refused, words};

const RANGE: &str = "10.32.0.0/16";

/// How long a runtime's containers may take to be in the network again.
const AGAIN: std::time::Duration = secs(20);

/// Says why a scenario is not run, if it cannot be.
fn is_skipped() -> bool {
    let missing = Docker::missing();
    if let Some(reason) = &missing {
        eprintln!("skipped: {reason}");
    }
    missing.is_some()
}

/// A host with dockerd and a router that manages addresses.
fn host_with_docker(lab: &Lab, name: &str, peers: &[String]) -> Result<(Host, Docker)> {
    let host = lab.host(name)?;
    let docker = Docker::start(&host)?;
    launch(&host, &[words(["--ipam-range", RANGE, "--attach-grace", "1"]), peers.to_vec()].concat(), None)?;
    Ok((host, docker))
}

/// Attaches by name, and tells what came of it.
fn attach(host: &Host, name: &str) -> Result<AttachDocument> {
    host.mesh(["attach", "-o", "json", name])?.json()
}

/// Without the prefix length.
fn address(document: &AttachDocument) -> Result<String> {
    Ok(document.addresses.first().context("no address")?.addr().to_string())
}

fn ps(host: &Host) -> Result<Vec<AttachDocument>> {
    host.mesh(["ps", "-o", "json"])?.json()
}

/// Wants this very container to be in the network, by the list and by what it has inside.
fn is_in(host: &Host, docker: &Docker, name: &str, wanted: &AttachDocument) -> Result<()> {
    let listed = ps(host)?;
    ensure!(listed.contains(wanted), "{wanted:?} is not among {listed:?}");
    let inside = docker.exec(name, &["/bin/ip", "addr", "show", "ethmesh"])?.stdout;
    ensure!(inside.contains(&wanted.mac), "another MAC than {}: {inside}", wanted.mac);
    for address in &wanted.addresses {
        ensure!(inside.contains(&format!(" {address} ")), "{address} is not there: {inside}");
    }
    Ok(())
}

#[test]
fn containers_on_two_hosts_are_attached_by_name_and_reach_each_other() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let lab = Lab::new("docker")?;
    let (h1, d1) = host_with_docker(&lab, "h1", &[])?;
    let (h2, d2) = host_with_docker(&lab, "h2", &[h1.ip().to_string()])?;
    let id = d1.run("web", &["-h", "web"])?;
    d2.run("db", &[])?;
    let start = Instant::now();
    let web = attach(&h1, "docker:web")?;
    eprintln!("measured: attach of a Docker container with the command around it: {:?}", start.elapsed());
    ensure!(web.container == "docker:web" && web.attached, "{web:?}");
    let db = attach(&h2, "db")?;
    eventually(READY, || d1.ping("web", &address(&db)?))?;
    eventually(READY, || d2.ping("db", &address(&web)?))?;
    for name in ["web", &id, &id[..12], "docker:web", &format!("docker:{}", &id[..6])] {
        ensure!(attach(&h1, name)? == web, "{name} is another container");
        let listed: Vec<AttachDocument> = h1.mesh(["ps", name, "-o", "json"])?.json()?;
        ensure!(listed == [web.clone()], "{name}: {listed:?}");
    }
    let capture = h1.mesh_cmd(["capture", "--container", "docker:web", "--count", "1", "-w"])?;
    let file = tempfile::NamedTempFile::new()?;
    let mut capture = capture.arg(file.path()).spawn()?;
    eventually(READY, || {
        d1.ping("web", &address(&db)?)?;
        ensure!(!capture.is_running(), "nothing is captured yet");
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(fs::metadata(file.path())?.len() > 24, "no frame was written");
    refused(&h1, 4, &["capture", "--container", "docker:nobody", "-w", "/dev/null"])?;
    refused(&h1, 4, &["attach", "docker:nobody"])?;
    refused(&h1, 4, &["attach", "nobody"])?;
    refused(&h1, 4, &["ps", "docker:nobody"])?;
    hints_at(&refused(&h1, 1, &["attach", "podman:web"])?, &["netns:"])?;
    d1.run("still", &[])?;
    d1.docker(["stop", "-t", "0", "still"])?;
    refused(&h1, 1, &["attach", "docker:still"])?;
    h1.mesh(["detach", "docker:web"])?;
    refused(&h1, 4, &["detach", "docker:web"])?;
    ensure!(ps(&h1)?.is_empty(), "{:?}", ps(&h1)?);
    Ok(())
}

#[test]
fn containers_of_two_dockerds_find_each_other_by_name_as_long_as_they_run() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let lab = Lab::new("dockerdns")?;
    let (h1, d1) = host_with_docker(&lab, "h1", &[])?;
    let (h2, d2) = host_with_docker(&lab, "h2", &[h1.ip().to_string()])?;
    let arguments = h1.mesh(["dns", "args"])?.stdout;
    let options: Vec<_> = arguments.split_whitespace().collect();
    d1.run("one", &[&["-h", "web"][..], &options].concat())?;
    d2.run("two", &[&["-h", "db"][..], &options].concat())?;
    let (web, db) = (attach(&h1, "docker:one")?, attach(&h2, "docker:two")?);
    ensure!(web.names.contains(&"web.mesh.internal.".to_owned()), "{web:?}");
    let finds = |docker: &Docker, from: &str, name: &str, to: &AttachDocument| {
        let answer = docker.exec(from, &["/bin/nslookup", name])?.stdout;
        ensure!(answer.contains(&format!(" {}\n", address(to)?)), "{from} finds {name} at {answer:?}");
        Ok::<_, anyhow::Error>(())
    };
    d1.run("three", &["-h", "a.example.com"])?;
    let outside = attach(&h1, "docker:three")?;
    ensure!(outside.names.iter().all(|name| name.ends_with(".mesh.internal.")), "{outside:?}");
    ensure!(
        h1.router_log().contains("a.example.com"),
        "a name outside the domain is left out without a word"
    );
    eventually(READY, || finds(&d1, "one", "db.mesh.internal", &db))?;
    eventually(READY, || finds(&d2, "two", "web.mesh.internal", &web))?;
    eventually(READY, || d1.ping("one", &address(&db)?))?;

    d1.docker(["kill", "one"])?;
    eventually(AGAIN, || d2.exec("two", &["/bin/nslookup", "web.mesh.internal"]).is_err())?;
    d1.docker(["start", "one"])?;
    eventually(AGAIN, || finds(&d2, "two", "web.mesh.internal", &web))?;
    Ok(())
}

#[test]
fn a_container_that_is_restarted_killed_or_removed_keeps_or_loses_its_place() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let lab = Lab::new("dockerlife")?;
    let (host, docker) = host_with_docker(&lab, "h1", &[])?;
    let id = docker.run("web", &[])?;
    docker.run("other", &[])?;
    let (web, other) = (attach(&host, "docker:web")?, attach(&host, "docker:other")?);
    let to_web = address(&web)?;
    eventually(READY, || docker.ping("other", &to_web))?;

    let start = Instant::now();
    docker.docker(["restart", "-t", "0", "web"])?;
    eventually(AGAIN, || is_in(&host, &docker, "web", &web))?;
    eprintln!("measured: docker restart, and in the network again: {:?}", start.elapsed());
    eventually(READY, || docker.ping("other", &to_web))?;

    docker.docker(["kill", "web"])?;
    let away = AttachDocument { attached: false, ..web.clone() };
    eventually(AGAIN, || {
        let listed = ps(&host)?;
        ensure!(listed.contains(&away), "{listed:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(docker.ping("other", &to_web).is_err(), "a killed container answers");
    docker.docker(["start", "web"])?;
    eventually(AGAIN, || is_in(&host, &docker, "web", &web))?;
    eventually(READY, || docker.ping("other", &to_web))?;

    docker.docker(["rm", "-f", "web"])?;
    eventually(AGAIN, || ps(&host).is_ok_and(|listed| listed == [other.clone()]))?;
    host.mesh_fails(4, ["ipam", "lookup", &format!("docker:{id}")])?;
    Ok(())
}

#[test]
fn containers_are_in_their_places_after_restarts_of_the_router_and_of_dockerd() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let lab = Lab::new("dockerd")?;
    let (host, mut docker) = host_with_docker(&lab, "h1", &[])?;
    for name in ["stays", "restarts", "goes", "stops"] {
        docker.run(name, &["--restart", if name == "stops" { "no" } else { "always" }])?;
    }
    let before = ["stays", "restarts", "goes", "stops"].map(|name| attach(&host, &format!("docker:{name}")));
    let [stays, restarts, _goes, stops] = before.map(|document| document.expect("attached"));

    // What happens while no router looks is made good when one does.
    host.kill_router(Signal::KILL)?;
    docker.docker(["restart", "-t", "0", "restarts"])?;
    docker.docker(["rm", "-f", "goes"])?;
    docker.docker(["stop", "-t", "0", "stops"])?;
    launch(&host, &words(["--ipam-range", RANGE, "--attach-grace", "1"]), None)?;
    eventually(AGAIN, || is_in(&host, &docker, "stays", &stays))?;
    eventually(AGAIN, || is_in(&host, &docker, "restarts", &restarts))?;
    let away = AttachDocument { attached: false, ..stops.clone() };
    let places = |expected: &[&AttachDocument]| {
        let listed = ps(&host)?;
        ensure!(
            listed.len() == expected.len() && expected.iter().all(|one| listed.contains(one)),
            "{listed:?}"
        );
        Ok::<_, anyhow::Error>(())
    };
    eventually(AGAIN, || places(&[&stays, &restarts, &away]))?;

    // A dockerd that is stopped is a normal state; one that comes back has started its containers anew.
    docker.stop_daemon()?;
    let failure = refused(&host, 1, &["attach", "docker:new"])?;
    ensure!(failure.message.contains("Docker"), "{failure:?}");
    docker.start_daemon()?;
    eventually(AGAIN, || is_in(&host, &docker, "stays", &stays))?;
    eventually(AGAIN, || is_in(&host, &docker, "restarts", &restarts))?;
    docker.docker(["start", "stops"])?;
    eventually(AGAIN, || is_in(&host, &docker, "stops", &stops))?;
    eventually(READY, || docker.ping("stays", &address(&stops)?))?;

    // One that hangs keeps nobody waiting for ever, and loses nothing.
    docker.signal_daemon(Signal::STOP)?;
    let failure = refused(&host, 1, &["attach", "docker:new"])?;
    ensure!(failure.message.contains("does not answer"), "{failure:?}");
    host.mesh(["detach", "docker:stops"])?;
    docker.signal_daemon(Signal::CONT)?;
    eventually(AGAIN, || places(&[&stays, &restarts]))?;
    host.mesh(["reset", "--force"])?;
    Ok(())
}
