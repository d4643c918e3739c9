//! Containers that come and go fast: how long each takes, and that nothing is left of them.
//!
//! Fifty a second for six seconds, or for as many as `MESH_CHURN_SECONDS` says (row 51 of the fault table; C3 of the goals).

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_api::{AttachDocument, Client, Command, IpamDocument};
use mesh_lab::{Container, Docker, Host, Lab, NetworkState, eventually, secs};

use crate::support::{IFNAME, READY, all_connected, launch, words};

/// Containers that come, and as many that go, in a second.
const RATE: usize = 50;

/// How long it goes on, unless the environment says otherwise.
const SECONDS: usize = 6;

/// Containers that there are; half of them are attached at any moment.
const CONTAINERS: usize = 100;

/// Clients of the router at once.
const CLIENTS: usize = 8;

/// A command that takes longer has failed.
const PATIENCE: Duration = secs(20);

/// What is left when all have gone must be gone within this time: some are forgotten only after a time of grace.
const GONE: Duration = secs(20);

/// How long each command took.
#[derive(Default)]
struct Took {
    attach: Mutex<Vec<Duration>>,
    detach: Mutex<Vec<Duration>>,
}

#[test]
fn fifty_containers_a_second_come_and_go_and_leave_nothing() -> Result<()> {
    let seconds = match env::var("MESH_CHURN_SECONDS") {
        Ok(text) => text.parse().context("MESH_CHURN_SECONDS is a number")?,
        Err(_) => SECONDS,
    };
    let lab = Lab::new("churn")?;
    let (host, peer) = (lab.host("h1")?, lab.host("h2")?);
    let options = words(["--ipam-range", "10.32.0.0/16", "--attach-grace", "1"]);
    launch(&host, &options, None)?;
    launch(&peer, &[options, vec![host.ip().to_string()]].concat(), None)?;
    all_connected(&[&host, &peer])?;
    // What is made with the first container and stays, as the name server's address, is made now.
    let first = host.container("first")?;
    host.mesh(["attach", &first.spec()])?;
    host.mesh(["detach", &first.spec()])?;
    let before = Left::of(&host, &peer)?;
    ensure!(before.nothing_of_containers(), "{before:?}");
    let state = host.network_state()?;

    let containers =
        (0..CONTAINERS).map(|number| host.container(&format!("c{number}"))).collect::<Result<Vec<_>>>()?;
    let took = Took::default();
    let begun = Instant::now();
    churn(&host, &containers, RATE * seconds, &took)?;
    let rate = (RATE * seconds) as f64 / begun.elapsed().as_secs_f64();
    println!("measured: {rate:.1} containers a second came, and as many went, for {seconds} s");
    took.tell();
    let listed: Vec<AttachDocument> = host.mesh(["ps", "-o", "json"])?.json()?;
    ensure!(listed.len() == CONTAINERS / 2, "{} are attached", listed.len());
    let addresses: BTreeSet<_> = listed.iter().flat_map(|one| &one.addresses).collect();
    ensure!(addresses.len() == CONTAINERS / 2, "an address is there twice: {listed:?}");

    // Half of those that are left are told to go; the others die.
    for document in listed.iter().step_by(2) {
        host.mesh(["detach", &document.container])?;
    }
    for container in &containers {
        host.run(["ip", "netns", "del", container.name()])?;
    }
    nothing_is_left((&host, &peer), (&before, &state))
}

#[test]
fn containers_of_docker_that_come_and_go_leave_nothing() -> Result<()> {
    /// Containers, each of which is attached and detached so often, and made anew in between.
    const OF_DOCKER: usize = 4;
    const ROUNDS: usize = 8;

    if let Some(reason) = Docker::missing() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    let lab = Lab::new("dockerchurn")?;
    let (host, peer) = (lab.host("h1")?, lab.host("h2")?);
    let docker = Docker::start(&host)?;
    let options = words(["--ipam-range", "10.32.0.0/16", "--attach-grace", "1"]);
    launch(&host, &options, None)?;
    launch(&peer, &[options, vec![host.ip().to_string()]].concat(), None)?;
    all_connected(&[&host, &peer])?;
    docker.run("first", &[])?;
    host.mesh(["attach", "docker:first"])?;
    docker.docker(["rm", "-f", "first"])?;
    eventually(GONE, || Left::of(&host, &peer)?.nothing_of_containers().then_some(()).context("not yet"))?;
    let (before, state) = (Left::of(&host, &peer)?, host.network_state()?);

    let names: Vec<_> = (0..OF_DOCKER).map(|number| format!("c{number}")).collect();
    let took = Took::default();
    for name in &names {
        docker.run(name, &["-h", name])?;
    }
    for _ in 0..ROUNDS {
        for name in &names {
            took.attach(&host, &format!("docker:{name}"), name)?;
        }
        for name in &names {
            took.detach(&host, &format!("docker:{name}"))?;
        }
    }
    took.tell();
    // What is attached when it ends, is restarted, or is no more.
    for name in &names {
        took.attach(&host, &format!("docker:{name}"), name)?;
    }
    docker.docker(["restart", "-t", "0", "c0"])?;
    docker.docker(["kill", "c1"])?;
    docker.docker([&["rm".to_owned(), "-f".to_owned()][..], &names].concat())?;
    nothing_is_left((&host, &peer), (&before, &state))
}

/// Wants a host, and what a peer knows of it, to be as before.
fn nothing_is_left((host, peer): (&Host, &Host), (before, state): (&Left, &NetworkState)) -> Result<()> {
    eventually(GONE, || {
        let after = Left::of(host, peer)?;
        ensure!(after.is_as(before), "{before:?} has become {after:?}");
        Ok(())
    })?;
    eventually(READY, || state.must_equal(&host.network_state()?))
}

/// Attaches one container after the other, at [`RATE`], and detaches each when half of all have come after it.
fn churn(host: &Host, containers: &[Container], count: usize, took: &Took) -> Result<()> {
    let half = containers.len() / 2;
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let client = || -> Result<()> {
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= count {
                return Ok(());
            }
            let due = begun + Duration::from_secs_f64(turn as f64 / RATE as f64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let number = turn % containers.len();
            took.attach(host, &containers[number].spec(), &format!("c{number}"))?;
            if turn >= half {
                took.detach(host, &containers[(turn - half) % containers.len()].spec())?;
            }
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        for client in clients {
            let Ok(done) = client.join() else { bail!("a client panicked") };
            done?;
        }
        Ok(())
    })
}

impl Took {
    fn attach(&self, host: &Host, container: &str, name: &str) -> Result<()> {
        let command = Command::Attach {
            container: container.parse()?,
            addresses: Vec::new(),
            ifname: IFNAME.to_owned(),
            multicast_route: true,
            names: vec![name.to_owned()],
            dns: true,
            resolv_conf: false,
            timeout_ms: 10_000,
        };
        note(&self.attach, host, command)
    }

    fn detach(&self, host: &Host, container: &str) -> Result<()> {
        let command = Command::Detach { container: container.parse()?, addresses: Vec::new() };
        note(&self.detach, host, command)
    }

    fn tell(&self) {
        for (what, times) in [("attach", &self.attach), ("detach", &self.detach)] {
            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
            times.sort_unstable();
            let at =
                |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
            println!(
                "measured: {what}: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms, of {}",
                at(50),
                at(99),
                at(100),
                times.len()
            );
        }
    }
}

/// Asks a router, and notes how long it took.
fn note(times: &Mutex<Vec<Duration>>, host: &Host, command: Command) -> Result<()> {
    let begun = Instant::now();
    Client::connect(&host.run_dir(), PATIENCE)?.call_value(command)?;
    times.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed());
    Ok(())
}

/// What a router holds of containers, beside what the host's network shows.
#[derive(Debug)]
struct Left {
    listed: usize,
    /// Addresses that somebody has.
    active: u64,
    /// Names as both hosts know them.
    names: usize,
    /// Lines of the list of attachments on disk.
    lines: usize,
    descriptors: usize,
    threads: usize,
}

impl Left {
    fn of(host: &Host, peer: &Host) -> Result<Self> {
        let listed: Vec<AttachDocument> = host.mesh(["ps", "-o", "json"])?.json()?;
        let ipam: IpamDocument = host.mesh(["status", "ipam", "-o", "json"])?.json()?;
        let names = |host: &Host| -> Result<usize> {
            let entries: Vec<serde_json::Value> = host.mesh(["dns", "list", "-o", "json"])?.json()?;
            Ok(entries.len())
        };
        let process = format!("/proc/{}", host.router_pid()?);
        let attachments = fs::read_to_string(host.state_dir().join("attachments")).unwrap_or_default();
        Ok(Self {
            listed: listed.len(),
            active: ipam.owned.iter().filter_map(|owned| owned.active).sum(),
            names: names(host)? + names(peer)?,
            lines: attachments.lines().count(),
            descriptors: fs::read_dir(format!("{process}/fd"))?.count(),
            threads: fs::read_dir(format!("{process}/task"))?.count(),
        })
    }

    fn nothing_of_containers(&self) -> bool {
        (self.listed, self.active, self.names) == (0, 0, 0)
    }

    /// Threads of the blocking pool end when they have been idle for a while, and one more may hold a descriptor of its own.
    fn is_as(&self, before: &Self) -> bool {
        self.nothing_of_containers()
            && self.lines == before.lines
            && self.descriptors <= before.descriptors + 2
            && self.threads <= before.threads + CLIENTS
    }
}
