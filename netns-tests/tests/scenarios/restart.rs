//! Routers that are killed, stopped, and launched again.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use mesh_api::Datapath;
use mesh_lab::{Host, Lab, NetworkState, Ping, Signal, eventually, secs};
use serde_json::Value;

use crate::heartbeat::{Heartbeat, now};
use crate::support::{
    Member, READY, all_connected, all_ping, attach, chain, hints_at, launch, refused, status,
};

#[test]
fn a_killed_router_launched_again_carries_traffic_within_two_seconds() -> Result<()> {
    let (lab, [one, two, three]) = chain("kill", None)?;
    all_ping(&[&one, &two, &three])?;
    // The second dials when it is back; the first was launched without peers and has to be found again.
    let peers = [one.host.ip().to_string()];
    for (victim, peers) in [(&two, &peers[..]), (&one, &[])] {
        let before = Belongings::of(&lab, victim)?;
        let heartbeat = Heartbeat::start(&three.container, victim)?;
        eventually(secs(3), || heartbeat.last_answer())?;

        victim.host.kill_router(Signal::KILL)?;
        let killed = now()?;
        let launched = launch(&victim.host, peers, None)?;
        let ready = now()?;
        let answer = eventually(secs(4), || heartbeat.first_answer_after(killed))?;
        let last = heartbeat.last_answer_before(killed).context("there were answers before")?;

        let name = victim.host.label();
        eprintln!(
            "measured: {name} killed: silent for {:.2} s, back {:.2} s after the launch",
            answer - last,
            answer - ready
        );
        ensure!(launched.peer_id == victim.peer_id, "{} was {}", launched.peer_id, victim.peer_id);
        all_connected(&[&one.host, &two.host, &three.host])?;
        drop(heartbeat);
        before.must_equal(&Belongings::of(&lab, victim)?)?;
    }
    all_ping(&[&one, &two, &three])
}

#[test]
fn a_second_launch_is_refused_and_the_first_goes_on() -> Result<()> {
    let (lab, [one, two]) = chain("second", None)?;
    all_ping(&[&one, &two])?;
    let (pid, before) = (two.host.router_pid()?, Belongings::of(&lab, &two)?);
    let heartbeat = Heartbeat::start(&one.container, &two)?;
    eventually(secs(3), || heartbeat.last_answer())?;

    let failure = refused(&two.host, 1, &["launch", &one.host.ip().to_string()])?;
    ensure!(failure.message.contains("already running"), "{failure:?}");
    hints_at(&failure, &["mesh stop", "mesh status"])?;

    let after = now()?;
    eventually(secs(3), || heartbeat.first_answer_after(after))?;
    ensure!(heartbeat.longest_silence() < 1.0, "{:.2} s without an answer", heartbeat.longest_silence());
    drop(heartbeat);
    ensure!(two.host.router_pid()? == pid && status(&two.host)?.router.pid == pid, "another router runs");
    before.must_equal(&Belongings::of(&lab, &two)?)
}

#[test]
fn two_launches_at_once_make_one_router() -> Result<()> {
    let lab = Lab::new("race")?;
    let host = lab.host("h1")?;
    let mut racers = Vec::new();
    for _ in 0..4 {
        racers.push(host.mesh_cmd(["launch"])?.spawn()?);
    }
    let mut ends = Vec::new();
    for racer in racers {
        ends.push(racer.wait(secs(20))?.code());
    }
    ends.sort_unstable();
    ensure!(ends == [Some(0), Some(1), Some(1), Some(1)], "{ends:?}");
    ensure!(status(&host)?.router.pid == host.router_pid()?, "the winner does not answer");
    eventually(secs(3), || lab.processes() == [host.router_pid().unwrap_or_default()])
}

#[test]
fn status_without_a_router_ends_with_3_and_a_hint() -> Result<()> {
    let lab = Lab::new("nobody")?;
    let host = lab.host("h1")?;
    let container = host.container("c")?.spec();
    let commands: [&[&str]; 6] = [
        &["status"],
        &["status", "peers"],
        &["status", "connections"],
        &["attach", &container, "10.32.0.1/24"],
        &["detach", &container],
        &["stop"],
    ];
    for arguments in commands {
        hints_at(&refused(&host, 3, arguments)?, &["mesh launch"])?;
    }
    // A socket that nobody serves any more is no router either.
    launch(&host, &[], None)?;
    host.kill_router(Signal::KILL)?;
    for arguments in commands {
        hints_at(&refused(&host, 3, arguments)?, &["mesh launch"])?;
    }
    Ok(())
}

#[test]
fn stop_leaves_containers_of_the_host_talking_and_launch_takes_them_up_again() -> Result<()> {
    let (_lab, [one, two]) = chain("stop", None)?;
    let second = two.host.container("d")?;
    let attached = attach(&two.host, &second, &["10.32.0.12/24"])?;
    all_ping(&[&one, &two])?;
    eventually(READY, || one.container.ping("10.32.0.12"))?;

    two.host.mesh(["stop"])?;

    two.host.mesh_fails(3, ["status"])?;
    ensure!(run_files(&two.host)?.is_empty(), "{:?} stay", run_files(&two.host)?);
    let stats = second.ping_with(&Ping::to(two.ip).count(20))?;
    ensure!(stats.received == 20, "{stats:?}");
    let stats = two.container.ping_with(&Ping::to("10.32.0.12").count(20))?;
    ensure!(stats.received == 20, "{stats:?}");
    // What the kernels carry goes on for half a minute, in which the router may be launched again.
    if status(&one.host)?.router.datapath == Datapath::Sleeve {
        ensure!(one.container.ping(two.ip).is_err(), "a stopped router carries traffic");
    }

    let again = launch(&two.host, &[one.host.ip().to_string()], None)?;
    ensure!(again.peer_id == two.peer_id, "{} was {}", again.peer_id, two.peer_id);
    eventually(secs(4), || one.container.ping(two.ip))?;
    eventually(secs(4), || one.container.ping("10.32.0.12"))?;
    ensure!(
        attach(&two.host, &second, &["10.32.0.12/24"])? == attached,
        "the container is not known any more"
    );
    Ok(())
}

#[test]
fn a_router_in_the_foreground_ends_tidily_at_a_signal() -> Result<()> {
    let lab = Lab::new("foreground")?;
    let host = lab.host("h1")?;
    for signal in [Signal::INT, Signal::TERM] {
        let mut router = host.mesh_cmd(["launch", "--foreground"])?.spawn()?;
        eventually(READY, || router.stdout().contains("is ready"))?;
        ensure!(host.router_pid()? == router.pid(), "the pid file names another process");
        router.signal(signal)?;
        let ended = router.wait(secs(5))?;
        ensure!(ended.success(), "{ended:?}");
        ensure!(run_files(&host)?.is_empty(), "{:?} stay", run_files(&host)?);
    }
    Ok(())
}

/// All that one life of a router must not leave to the next in a greater number.
#[derive(Debug)]
struct Belongings {
    links: BTreeSet<(String, String)>,
    processes: usize,
    run_files: Vec<String>,
    container: NetworkState,
}

impl Belongings {
    fn of(lab: &Lab, member: &Member) -> Result<Self> {
        let links: Vec<Value> = member.host.run(["ip", "-j", "link", "show"])?.json()?;
        let text = |link: &Value, key: &str| link[key].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            links: links.iter().map(|link| (text(link, "ifname"), text(link, "master"))).collect(),
            processes: lab.processes().len(),
            run_files: run_files(&member.host)?,
            container: member.container.network_state()?,
        })
    }

    fn must_equal(&self, later: &Self) -> Result<()> {
        ensure!(self.links == later.links, "links were {:?}, are {:?}", self.links, later.links);
        ensure!(self.processes == later.processes, "{} processes, now {}", self.processes, later.processes);
        ensure!(self.run_files == later.run_files, "{:?}, now {:?}", self.run_files, later.run_files);
        self.container.must_equal(&later.container)
    }
}

/// What lies in the run directory, sorted; nothing when there is no such directory.
fn run_files(host: &Host) -> Result<Vec<String>> {
    let directory = host.run_dir();
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory)?;
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}
