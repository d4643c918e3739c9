//! Addresses that the network chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_api::{AddressesDocument, Client, Command, Failure, IpamDocument, RemovedPeersDocument};
use mesh_lab::{Container, Host, Lab, Signal, eventually, secs};

use crate::support::{READY, attach, launch, neighbours, words};

mod conflicts;
mod forms;
mod founding;
mod sleep;
mod space;
mod state;

const RANGE: &str = "10.32.0.0/16";

/// How long a client waits for an address of a network where nothing is wrong.
const PATIENCE: Duration = secs(20);

/// `count` hosts, `h1` and so on, of which each is given all others, or, if `by_first`, the first is given none and the
/// others the first alone. All know each other.
fn network(title: &str, count: usize, range: &str, by_first: bool) -> Result<(Lab, Vec<Host>)> {
    let lab = Lab::new(title)?;
    let hosts = (1..=count).map(|number| lab.host(&format!("h{number}"))).collect::<Result<Vec<_>>>()?;
    for (at, host) in hosts.iter().enumerate() {
        let peers: Vec<&Host> =
            if by_first { hosts[..at.min(1)].iter().collect() } else { hosts.iter().collect() };
        start(host, range, &peers)?;
    }
    all_know(&hosts)?;
    Ok((lab, hosts))
}

/// Launches a router that manages addresses of `range`, with these peers.
fn start(host: &Host, range: &str, peers: &[&Host]) -> Result<()> {
    let mut options = words(["--ipam-range", range]);
    options
        .extend(peers.iter().filter(|peer| peer.label() != host.label()).map(|peer| peer.ip().to_string()));
    launch(host, &options, None).map(drop)
}

/// Waits until each of these has a connection with each other.
fn all_know(hosts: &[Host]) -> Result<()> {
    eventually(READY, || {
        hosts.iter().try_for_each(|host| {
            let known = neighbours(host)?;
            ensure!(known.len() + 1 == hosts.len(), "{} knows {known:?}", host.label());
            Ok(())
        })
    })
}

/// A connection to a host's router, for a command that waits so long.
fn client(host: &Host, wait: Duration) -> Result<Client, Failure> {
    Ok(Client::connect(&host.run_dir(), wait + secs(10))?)
}

fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

/// Asks a host for an address for `id`.
fn allocate(host: &Host, id: &str, wait: Duration) -> Result<IpAddr, Failure> {
    let command = Command::IpamAllocate { id: id.to_owned(), subnet: None, timeout_ms: milliseconds(wait) };
    let document: AddressesDocument = client(host, wait)?.call(command)?;
    Ok(document.addresses[0].addr())
}

/// The addresses that `id` has on a host; none if it has none.
fn held(host: &Host, id: &str) -> Vec<IpAddr> {
    let command = Command::IpamLookup { id: id.to_owned(), subnet: None };
    let found = client(host, secs(5)).and_then(|client| Ok(client.call::<AddressesDocument>(command)?));
    found.map_or_else(|_unknown| Vec::new(), |found| found.addresses.iter().map(|net| net.addr()).collect())
}

fn release(host: &Host, id: &str) -> Result<()> {
    let command = Command::IpamRelease { id: id.to_owned(), subnet: None };
    Ok(client(host, secs(5))?.call::<AddressesDocument>(command).map(drop)?)
}

fn rmpeer(host: &Host, peer: &str, wait: Duration) -> Result<u64, Failure> {
    let command = Command::RemovePeers { peers: vec![peer.to_owned()], timeout_ms: milliseconds(wait) };
    let document: RemovedPeersDocument = client(host, wait)?.call(command)?;
    Ok(document.removed.iter().map(|removed| removed.addresses).sum())
}

fn ipam(host: &Host) -> Result<IpamDocument> {
    host.mesh(["status", "ipam", "-o", "json"])?.json()
}

/// Who owns how many addresses as a host sees it, by peer id.
fn owners(host: &Host) -> Result<BTreeMap<String, u64>> {
    Ok(ipam(host)?.owned.into_iter().map(|owned| (owned.peer_id, owned.addresses)).collect())
}

/// Waits until all see the same owners, and returns them.
fn agreed(hosts: &[Host]) -> Result<BTreeMap<String, u64>> {
    eventually(secs(30), || {
        let views = hosts.iter().map(owners).collect::<Result<Vec<_>>>()?;
        ensure!(views.windows(2).all(|two| two[0] == two[1]), "{views:?}");
        Ok(views[0].clone())
    })
}

/// Wants no address to be there twice.
fn all_differ(given: impl IntoIterator<Item = IpAddr>) -> Result<BTreeSet<IpAddr>> {
    let mut seen = BTreeSet::new();
    for address in given {
        ensure!(seen.insert(address), "{address} was given twice");
    }
    Ok(seen)
}

/// Three hosts, the second and third of which name the first, each with a container.
fn three(title: &str) -> Result<(Lab, Vec<(Host, Container)>)> {
    let lab = Lab::new(title)?;
    let mut hosts: Vec<(Host, Container)> = Vec::new();
    for name in ["h1", "h2", "h3"] {
        let host = lab.host(name)?;
        let container = host.container("c")?;
        let mut options = words(["--ipam-range", RANGE]);
        options.extend(hosts.first().map(|(first, _)| first.ip().to_string()));
        launch(&host, &options, None)?;
        hosts.push((host, container));
    }
    for (host, _) in &hosts {
        eventually(READY, || {
            let known = neighbours(host)?;
            ensure!(known.len() == 2, "{} knows {known:?}", host.label());
            Ok(())
        })?;
    }
    Ok((lab, hosts))
}

/// What `attach` without an address gives, without the prefix length.
fn address(host: &Host, container: &Container) -> Result<String> {
    let given = attach(host, container, &[])?.addresses;
    let first = given.first().context("no address")?.to_string();
    Ok(first.split('/').next().unwrap_or_default().to_owned())
}

#[test]
fn containers_get_different_addresses_and_reach_each_other() -> Result<()> {
    let (_lab, hosts) = three("ipam")?;
    let mut addresses = Vec::new();
    for (host, container) in &hosts {
        addresses.push(address(host, container)?);
    }
    ensure!(addresses.iter().collect::<BTreeSet<_>>().len() == 3, "{addresses:?}");
    for (_, container) in &hosts {
        for other in &addresses {
            let stats = container.ping(other)?;
            ensure!(stats.received > 0, "{other}: {stats:?}");
        }
    }
    Ok(())
}

#[test]
fn a_container_keeps_its_address_when_its_router_was_killed() -> Result<()> {
    let (_lab, hosts) = three("ipam-kill")?;
    let (first, _) = &hosts[0];
    let (host, container) = &hosts[1];
    let before = address(host, container)?;
    host.kill_router(Signal::KILL)?;
    let mut options = words(["--ipam-range", RANGE]);
    options.push(first.ip().to_string());
    launch(host, &options, None)?;
    ensure!(address(host, container)? == before, "it was {before}");
    let looked_up = host.mesh(["ipam", "allocate", "another"])?.stdout;
    ensure!(!looked_up.starts_with(&before), "{looked_up}");
    Ok(())
}

#[test]
fn space_of_a_peer_that_is_gone_for_good_is_taken_over() -> Result<()> {
    let (_lab, hosts) = three("ipam-gone")?;
    for (host, container) in &hosts {
        address(host, container)?;
    }
    let (gone, _) = &hosts[2];
    let (host, _) = &hosts[0];
    gone.kill_router(Signal::KILL)?;
    eventually(secs(20), || -> Result<()> { host.mesh(["rmpeer", "h3"]).map(drop) })?;
    let status: IpamDocument = host.mesh(["status", "ipam", "-o", "json"])?.json()?;
    let left: Vec<_> = status.owned.iter().filter_map(|owned| owned.nickname.as_deref()).collect();
    ensure!(left.contains(&"h1") && !left.contains(&"h3"), "{status:?}");
    Ok(())
}
