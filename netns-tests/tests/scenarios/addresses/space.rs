//! Space that runs out, falls apart, and outlives those who had it: rows 5, 6, 30 and 31 of the fault table.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use mesh_api::{ErrorKind, Failure};
use mesh_lab::{Host, Signal, eventually, secs};

use super::{PATIENCE, agreed, all_differ, all_know, allocate, held, ipam, network, release, rmpeer, start};

/// What can be handed out of a /24: all but the subnet's first and last address.
const HOSTS_OF_24: usize = 254;

/// Takes addresses on a host, for `PREFIX-1` and so on, until it is refused; returns them and the refusal.
fn take_all(host: &Host, prefix: &str) -> (Vec<IpAddr>, Failure) {
    let mut taken = Vec::new();
    loop {
        match allocate(host, &format!("{prefix}-{}", taken.len()), PATIENCE) {
            Ok(address) => taken.push(address),
            Err(failure) => return (taken, failure),
        }
    }
}

/// Lets all hosts take `count` addresses at once.
fn take_some(hosts: &[Host], prefix: &str, count: usize) -> Result<Vec<IpAddr>> {
    std::thread::scope(|scope| {
        let take = |host: &Host| -> Result<Vec<IpAddr>, Failure> {
            (0..count).map(|n| allocate(host, &format!("{prefix}-{n}"), PATIENCE)).collect()
        };
        let takers: Vec<_> = hosts.iter().map(|host| scope.spawn(move || take(host))).collect();
        let mut all = Vec::new();
        for taker in takers {
            let Ok(taken) = taker.join() else { bail!("a thread panicked") };
            all.extend(taken?);
        }
        Ok(all)
    })
}

#[test]
fn four_hosts_exhaust_a_range_at_once_and_what_is_freed_comes_back() -> Result<()> {
    let (_lab, hosts) = network("exhaust", 4, "10.40.0.0/24", true)?;
    // Each has a part before the run on the rest begins.
    let first = take_some(&hosts, "first", 1)?;
    let begun = Instant::now();
    let outcomes = std::thread::scope(|scope| {
        let takers: Vec<_> =
            hosts.iter().map(|host| scope.spawn(move || take_all(host, host.label()))).collect();
        takers.into_iter().filter_map(|taker| taker.join().ok()).collect::<Vec<_>>()
    });
    println!("measured: a /24 was exhausted from four sides in {:.2} s", begun.elapsed().as_secs_f64());
    let taken = outcomes.iter().flat_map(|(taken, _)| taken.iter().copied());
    let all = all_differ(first.into_iter().chain(taken))?;
    ensure!(all.len() == HOSTS_OF_24, "{} addresses were given", all.len());
    for (taken, failure) in &outcomes {
        ensure!(!taken.is_empty(), "a host got none");
        ensure!(
            failure.kind == ErrorKind::Refused && failure.message.contains("no address left"),
            "{failure:?}"
        );
        for host in &hosts {
            ensure!(failure.message.contains(&format!("{} has ", host.label())), "who has what: {failure:?}");
        }
        ensure!(failure.hint.as_deref().is_some_and(|hint| hint.contains("release")), "{failure:?}");
    }
    // How much others have in use is told now and then.
    eventually(secs(40), || {
        let in_use: u64 = ipam(&hosts[0])?.owned.iter().filter_map(|owned| owned.active).sum();
        ensure!(in_use == all.len() as u64, "status counts {in_use} addresses in use");
        Ok(())
    })?;

    // What is freed cools down, and then comes back to whoever asks.
    let mut freed = BTreeSet::new();
    for host in &hosts[1..] {
        let id = format!("{}-0", host.label());
        freed.extend(held(host, &id));
        release(host, &id)?;
    }
    let Err(early) = allocate(&hosts[0], "late-0", secs(1)) else {
        bail!("an address was reused while it was warm")
    };
    ensure!(
        early.kind == ErrorKind::Timeout && early.message.contains("freed less than a minute ago"),
        "{early:?}"
    );
    for n in 0..freed.len() {
        let address = allocate(&hosts[0], &format!("late-{n}"), secs(80))?;
        ensure!(freed.remove(&address), "{address} was not free");
    }
    println!("measured: freed addresses of others came after {:.1} s in all", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Row 5: both parts of a network hand out what they own, and agree when they meet again.
#[test]
fn both_parts_of_a_network_hand_out_addresses_and_none_is_given_twice() -> Result<()> {
    // So large that a part of a part of it is enough for whoever is given no more before the cut.
    let (lab, hosts) = network("ipam-parts", 5, "10.40.0.0/18", false)?;
    let mut given = take_some(&hosts, "before", 2)?;
    agreed(&hosts)?;
    let all: Vec<&Host> = hosts.iter().collect();
    lab.partition(&[&all[..2], &all[2..]])?;
    given.extend(take_some(&hosts, "apart", 25)?);
    for (host, others) in [(&hosts[0], &hosts[2..]), (&hosts[4], &hosts[..2])] {
        eventually(secs(30), || {
            let owned = ipam(host)?.owned;
            let unreachable = owned.iter().filter(|owned| !owned.reachable).count();
            ensure!(unreachable == others.len(), "{} sees {owned:?}", host.label());
            Ok(())
        })?;
    }
    given.extend(take_some(&hosts, "far", 3)?);
    lab.heal_everything()?;
    let healed = Instant::now();
    agreed(&hosts)?;
    all_know(&hosts)?;
    println!("measured: one view {:.2} s after the parts were joined", healed.elapsed().as_secs_f64());
    given.extend(take_some(&hosts, "after", 5)?);
    all_differ(given)?;
    for host in &hosts {
        ensure!(ipam(host)?.conflicts.is_empty(), "{:?}", ipam(host)?.conflicts);
        ensure!(held(host, "apart-7").len() == 1, "{} has forgotten what it gave", host.label());
    }
    Ok(())
}

/// Row 6, some of its thousand cycles; all of them are run in virtual time by the tests of mesh-ipam.
#[test]
fn hosts_that_are_cut_off_in_turn_give_nothing_twice_and_lose_nothing() -> Result<()> {
    let (lab, hosts) = network("ipam-turns", 3, "10.40.0.0/24", false)?;
    let mut given = take_some(&hosts, "first", 1)?;
    for cycle in 0..9 {
        let alone = &hosts[cycle % hosts.len()];
        lab.isolate(alone)?;
        let name = format!("cycle{cycle}");
        let others: Vec<_> = hosts.iter().filter(|host| host.label() != alone.label()).cloned().collect();
        given.extend(take_some(&others, &name, 1)?);
        // What it owns may be used up, and nobody can give it more.
        match allocate(alone, &name, secs(2)) {
            Ok(address) => given.push(address),
            Err(failure) => ensure!(failure.kind == ErrorKind::Timeout, "{failure:?}"),
        }
        lab.restore(alone)?;
    }
    all_know(&hosts)?;
    let owned: u64 = agreed(&hosts)?.values().sum();
    ensure!(owned == 256, "{owned} of 256 addresses have an owner");
    all_differ(given)?;
    Ok(())
}

/// Rows 30 and 31: a peer that is gone is retired on two hosts at once, while one that must be heard is cut off.
#[test]
fn a_peer_that_is_retired_on_two_hosts_at_once_leaves_its_space_to_one() -> Result<()> {
    let (lab, hosts) = network("ipam-retire", 4, "10.40.0.0/24", false)?;
    let given = take_some(&hosts, "first", 2)?;
    agreed(&hosts)?;
    let (gone, living) = (&hosts[3], &hosts[..3]);
    let before = super::owners(&hosts[0])?;
    gone.kill_router(Signal::KILL)?;
    let space = ipam(&hosts[0])?
        .owned
        .iter()
        .find(|owned| owned.nickname.as_deref() == Some("h4"))
        .map(|o| o.addresses);
    let Some(space @ 1..) = space else { bail!("h4 owned nothing: {before:?}") };

    // A living peer is not retired by mistake.
    let Err(alive) = rmpeer(&hosts[0], "h2", secs(5)) else { bail!("a living peer was retired") };
    ensure!(alive.message.contains("can be reached"), "{alive:?}");

    // Row 31: as long as a member cannot be heard, nothing is taken over, and the command says whom it waits for.
    lab.isolate(&hosts[2])?;
    eventually(secs(30), || {
        let missing: Vec<_> = ipam(&hosts[0])?.owned.into_iter().filter(|owned| !owned.reachable).collect();
        ensure!(missing.len() == 2, "{missing:?}");
        Ok(())
    })?;
    for host in &hosts[..2] {
        let Err(blocked) = rmpeer(host, "h4", secs(3)) else { bail!("space was taken over unheard") };
        ensure!(blocked.kind == ErrorKind::Timeout, "{blocked:?}");
        ensure!(
            blocked.message.contains("waiting for") || blocked.message.contains("before these"),
            "{blocked:?}"
        );
    }
    lab.restore(&hosts[2])?;
    let restored = Instant::now();
    std::thread::scope(|scope| {
        let both: Vec<_> =
            hosts[..2].iter().map(|host| scope.spawn(move || rmpeer(host, "h4", secs(40)))).collect();
        for done in both {
            let Ok(done) = done.join() else { bail!("a thread panicked") };
            let taken = done?;
            ensure!(taken <= space, "{taken} of {space} addresses were taken over");
        }
        Ok(())
    })?;
    println!("measured: taken over {:.2} s after the last member was back", restored.elapsed().as_secs_f64());
    let owned: u64 = agreed(living)?.values().sum();
    ensure!(owned == 256, "{owned} of 256 addresses have an owner");

    // All of it can be used again, and what the living hold is not given anew.
    let mut all: Vec<IpAddr> = given[..6].to_vec();
    all.extend(take_some(living, "more", 60)?);
    all_differ(all)?;

    // Row 30: whoever was retired and comes back hands out nothing, and says why.
    start(gone, "10.40.0.0/24", &[&hosts[0]])?;
    let fenced = eventually(secs(20), || match allocate(gone, "ghost", secs(1)) {
        Err(failure) if failure.message.contains("gone for good") => Ok(failure),
        other => bail!("{other:?}"),
    })?;
    ensure!(fenced.message.contains("reset"), "{fenced:?}");
    ensure!(ipam(gone)?.detail.contains("rmpeer"), "{:?}", ipam(gone)?.detail);
    Ok(())
}
