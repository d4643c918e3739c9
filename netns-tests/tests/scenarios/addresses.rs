//! Addresses that the network chooses.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_api::IpamDocument;
use mesh_lab::{Container, Host, Lab, Signal, eventually, secs};

use crate::support::{READY, attach, launch, neighbours, words};

const RANGE: &str = "10.32.0.0/16";

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
