//! Addresses that somebody uses without having them from anybody: they are shown, and nothing is taken from anyone.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use mesh_api::{ConflictDocument, IpamState};
use mesh_lab::{Host, always, eventually, secs};

use super::state::{containers, frames_pass};
use super::{PATIENCE, allocate, ipam, network};
use crate::support::attach;

/// Plugs a namespace into a host's bridge by hand, with these addresses, as a virtual machine or a careless user might.
fn squat(host: &Host, addresses: &[&str]) -> Result<String> {
    let squatter = host.container("squatter")?;
    host.run(["ip", "link", "add", "sq0", "type", "veth", "peer", "name", "sq1", "netns", squatter.name()])?;
    host.run(["ip", "link", "set", "sq0", "master", "mesh0", "up"])?;
    squatter.run(["ip", "link", "set", "sq1", "up"])?;
    for address in addresses {
        squatter.run(["ip", "address", "add", address, "dev", "sq1"])?;
    }
    squatter.mac("sq1")
}

fn conflict(host: &Host, address: IpAddr) -> Result<ConflictDocument> {
    let document = ipam(host)?;
    let found = document.conflicts.iter().find(|conflict| conflict.address == address).cloned();
    found.with_context(|| format!("{} shows {:?}", host.label(), document.conflicts))
}

/// The probe of RFC 5227, which nobody waits for: a container has its address at once, and then it is seen whose else it is.
#[test]
fn an_address_that_a_squatter_on_another_host_uses_is_shown_on_all_hosts() -> Result<()> {
    let (_lab, hosts) = network("squatter", 3, "10.40.0.0/24", true)?;
    let first = allocate(&hosts[0], "first", PATIENCE)?;
    allocate(&hosts[1], "other", PATIENCE)?;
    frames_pass(&containers(&hosts)?)?;
    // The next address that the first host will give, and one that a user will choose.
    let IpAddr::V4(first) = first else { anyhow::bail!("the range is of IPv4") };
    let next = IpAddr::from(std::net::Ipv4Addr::from_bits(first.to_bits() + 1));
    let mac = squat(&hosts[1], &[&format!("{next}/24"), "fd40::77/64"])?;

    let container = hosts[0].container("victim")?;
    let given = attach(&hosts[0], &container, &[])?;
    ensure!(given.addresses[0].addr() == next, "{given:?}");
    for host in &hosts {
        let shown = eventually(secs(20), || conflict(host, next))?;
        ensure!(shown.seen_at.as_deref() == Some(mac.as_str()), "{shown:?}, not {mac}");
        ensure!(shown.nickname.as_deref() == Some("h1") && shown.id == given.container, "{shown:?}");
    }
    let log = hosts[0].router_log();
    let line = log.lines().find(|line| line.contains("WARN") && line.contains(&next.to_string()));
    ensure!(line.is_some_and(|line| line.contains(&mac)), "{line:?}");
    let told = hosts[2].mesh(["status", "ipam"])?.stdout;
    ensure!(told.contains(&mac) && told.contains("CONFLICT"), "{told}");
    // Nothing is repaired in silence.
    always(secs(1), || {
        let again = attach(&hosts[0], &container, &[])?;
        ensure!(again == given && ipam(&hosts[0])?.state == IpamState::Ready, "{again:?}");
        Ok(())
    })?;
    // Whoever takes another address ends it.
    hosts[0].mesh(["detach", &container.spec()])?;
    for host in &hosts {
        eventually(secs(20), || ipam(host).map(|document| document.conflicts.is_empty()).unwrap_or(false))?;
    }
    let other = attach(&hosts[0], &container, &[])?;
    ensure!(other.addresses[0].addr() == next, "the same container has the same address: {other:?}");
    eventually(secs(20), || conflict(&hosts[0], next))?;
    Ok(())
}
