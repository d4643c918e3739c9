//! How networks begin, and that two never become one: rows 29 and 32 of the fault table.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use mesh_api::{ErrorKind, IpamState};
use mesh_lab::{Lab, Signal, always, eventually, secs};

use super::{PATIENCE, RANGE, address, agreed, all_differ, all_know, allocate, ipam, owners, start};
use crate::support::{NO_DISCOVERY, READY, hints_at, launch, neighbours, peers, refused, words};

/// Row 29: two networks that were founded apart are joined by mistake. Both go on as they were.
#[test]
fn two_founded_networks_refuse_each_other_with_both_ids_and_a_remedy() -> Result<()> {
    let lab = Lab::new("two-networks")?;
    let hosts = [lab.host("h1")?, lab.host("h2")?];
    for host in &hosts {
        start(host, "10.40.0.0/24", &[])?;
        allocate(host, "first", PATIENCE)?;
    }
    let mut ids = Vec::new();
    for host in &hosts {
        ids.push(ipam(host)?.network_id.context("it is founded")?);
    }
    ensure!(ids[0] != ids[1], "{ids:?}");
    hosts[0].mesh(["connect", &hosts[1].ip().to_string()])?;
    eventually(READY, || {
        let told = hosts[0].mesh(["status", "connections"])?.stdout;
        ensure!(ids.iter().all(|id| told.contains(&id[..12])), "{told}");
        Ok(())
    })?;
    let log = |at: usize| hosts[at].router_log();
    eventually(READY, || (0..2).any(|at| ids.iter().all(|id| log(at).contains(&id[..12]))))?;
    always(secs(2), || {
        for host in &hosts {
            ensure!(neighbours(host)?.is_empty() && peers(host)?.len() == 1, "the two have met");
        }
        Ok(())
    })?;
    for host in &hosts {
        allocate(host, "second", PATIENCE)?;
        ensure!(ipam(host)?.owned.len() == 1, "{:?}", ipam(host)?.owned);
    }
    Ok(())
}

/// Row 32: hosts that are given one list start at once, some are killed meanwhile, and one network comes of it.
#[test]
fn hosts_that_are_given_each_other_found_one_network_however_they_start() -> Result<()> {
    const HOSTS: usize = 5;
    let lab = Lab::new("ipam-start")?;
    let hosts = (1..=HOSTS).map(|n| lab.host(&format!("h{n}"))).collect::<Result<Vec<_>>>()?;
    let all: Vec<_> = hosts.iter().collect();
    std::thread::scope(|scope| {
        let launches: Vec<_> =
            all.iter().map(|host| scope.spawn(|| start(host, "10.40.0.0/24", &all))).collect();
        for launch in launches {
            let Ok(launched) = launch.join() else { bail!("a thread panicked") };
            launched?;
        }
        Ok(())
    })?;
    // Everybody asks at once, and two are killed in the middle of it.
    let given = std::thread::scope(|scope| {
        let ask = |host| scope.spawn(move || allocate(host, "first", PATIENCE));
        let asked: Vec<_> = hosts.iter().map(ask).collect();
        for host in &hosts[3..] {
            host.kill_router(Signal::KILL)?;
            start(host, "10.40.0.0/24", &all)?;
        }
        // Those that were killed may not have been answered.
        Ok::<_, anyhow::Error>(
            asked.into_iter().filter_map(|asked| asked.join().ok()?.ok()).collect::<Vec<_>>(),
        )
    })?;
    ensure!(given.len() >= 3, "{given:?}");
    all_know(&hosts)?;
    let mut last = Vec::new();
    for host in &hosts {
        last.push(allocate(host, "first", PATIENCE)?);
    }
    let last = all_differ(last)?;
    ensure!(given.iter().all(|address| last.contains(address)), "{given:?} are not all among {last:?}");
    let networks = hosts.iter().map(|host| Ok(ipam(host)?.network_id)).collect::<Result<BTreeSet<_>>>()?;
    ensure!(networks.len() == 1 && !networks.contains(&None), "{networks:?}");
    let owned: u64 = agreed(&hosts)?.values().sum();
    ensure!(owned == 256, "{owned} of 256 addresses have an owner");
    Ok(())
}

/// An address that the user chooses needs the network as any other does; what it waits for is said.
#[test]
fn a_host_whose_peers_never_come_says_what_it_waits_for_and_what_can_be_done() -> Result<()> {
    let lab = Lab::new("ipam-alone")?;
    let (host, absent) = (lab.host("h1")?, lab.host("h2")?);
    let container = host.container("c")?;
    start(&host, "10.40.0.0/24", &[&absent])?;
    let failure = refused(&host, 5, &["attach", &container.spec(), "10.40.0.9/24", "--timeout", "1"])?;
    ensure!(failure.message.contains("majority") && failure.message.contains("1 of 2"), "{failure:?}");
    let peer = absent.ip().to_string();
    ensure!(failure.message.contains(&format!("not connected: {peer}")), "{failure:?}");
    for way in ["mesh prime", "--ipam-init consensus=1", "seed=PEER_ID", "--ipam-range none"] {
        hints_at(&failure, &[way])?;
    }
    // Meanwhile those who wait are told on standard error what for, and `status ipam` says so too.
    let waiting = host.mesh_cmd(["ipam", "allocate", "c", "--timeout", "30"])?.spawn()?;
    eventually(READY, || {
        let told = waiting.stderr();
        ensure!(told.contains("majority") && told.contains(&peer), "{told:?}");
        let document = ipam(&host)?;
        ensure!(
            document.state == IpamState::AwaitingConsensus && document.detail.contains(&peer),
            "{document:?}"
        );
        let reason = document.pending.first().and_then(|pending| pending.waiting_for.clone());
        ensure!(reason.is_some_and(|reason| reason.contains(&peer)), "{:?}", document.pending);
        Ok(())
    })?;
    drop(waiting);
    let failure = refused(&host, 5, &["prime", "--timeout", "1"])?;
    ensure!(failure.kind == ErrorKind::Timeout, "{failure:?}");
    // An address outside the range is the user's own affair.
    host.mesh(["attach", &container.spec(), "192.168.77.1/24"])?;

    // One of the ways: this host founds the network by itself.
    host.mesh(["stop"])?;
    launch(&host, &words(["--ipam-range", "10.40.0.0/24", "--ipam-init", "consensus=1"]), None)?;
    host.mesh(["attach", &container.spec(), "10.40.0.9/24"])?;
    Ok(())
}

/// The range belongs to the network: another one at the next launch is refused, and changes nothing.
#[test]
fn another_range_than_that_of_the_network_is_refused_with_both_and_the_remedy() -> Result<()> {
    let lab = Lab::new("ipam-range")?;
    let host = lab.host("h1")?;
    start(&host, "10.40.0.0/24", &[])?;
    let before = allocate(&host, "first", PATIENCE)?;
    host.mesh(["stop"])?;
    let failure = refused(&host, 1, &["launch", "--ipam-range", "10.41.0.0/24"])?;
    for range in ["10.40.0.0/24", "10.41.0.0/24"] {
        ensure!(failure.message.contains(range), "{failure:?}");
    }
    hints_at(&failure, &["--ipam-range 10.40.0.0/24"])?;
    hints_at(&failure, &["mesh reset"])?;
    start(&host, "10.40.0.0/24", &[])?;
    ensure!(allocate(&host, "first", PATIENCE)? == before, "it was {before}");
    ensure!(ipam(&host)?.state == IpamState::Ready, "{:?}", ipam(&host)?);
    Ok(())
}

/// weave-net.md 53, 54: who manages no addresses hands on what others say of theirs, along the way that there is.
#[test]
fn two_hosts_share_a_range_over_one_that_manages_no_addresses() -> Result<()> {
    let lab = Lab::new("ipam-relay")?;
    let hosts = [lab.host("h1")?, lab.host("h2")?, lab.host("h3")?];
    lab.cut(&hosts[0], &hosts[2])?;
    for (index, range) in [RANGE, "none", RANGE].into_iter().enumerate() {
        let mut options = words([NO_DISCOVERY, "--ipam-range", range]);
        options.extend(index.checked_sub(1).map(|before| hosts[before].ip().to_string()));
        launch(&hosts[index], &options, None)?;
    }
    let ends = [(&hosts[0], hosts[0].container("c")?), (&hosts[2], hosts[2].container("c")?)];
    let [one, three] = [address(ends[0].0, &ends[0].1)?, address(ends[1].0, &ends[1].1)?];
    ensure!(one != three, "both have {one}");
    eventually(READY, || ends[0].1.ping(&three))?;
    eventually(READY, || {
        let [one, three] = [owners(&hosts[0])?, owners(&hosts[2])?];
        ensure!(one == three && one.len() == 2, "{one:?} and {three:?}");
        Ok(())
    })?;
    ensure!(ipam(&hosts[1])?.state == IpamState::Disabled, "{:?}", ipam(&hosts[1])?);
    Ok(())
}
