//! Three routers become one network, and all kinds of frames cross it.

use std::time::Instant;

use anyhow::{Result, ensure};
use mesh_api::{ConnectionDocument, Overlay};
use mesh_lab::{Iperf, Lab, Ping, eventually, secs};

use crate::support::{
    IFNAME, READY, all_ping, are_connected, chain, connections, launch, multicast_arrives_once,
    ordered_pairs, peers, status,
};

/// Throughput in bits a second that is called running.
const RUNNING_BITS_PER_SECOND: f64 = 1e6;

#[test]
fn three_routers_launched_in_a_chain_connect_to_each_other_within_a_second() -> Result<()> {
    let lab = Lab::new("chain")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    launch(&h1, &[], None)?;
    launch(&h2, &[h1.ip().to_string()], None)?;
    launch(&h3, &[h2.ip().to_string()], None)?;

    let launched = Instant::now();
    eventually(secs(3), || are_connected(&[&h1, &h2, &h3]))?;
    eprintln!("measured: connected {} ms after the last launch", launched.elapsed().as_millis());

    for host in [&h1, &h2, &h3] {
        let status = status(host)?;
        ensure!((status.peers, status.connections.established) == (3, 2), "{status:?}");
        for ConnectionDocument { peer_id, overlay, encrypted, mtu, info, .. } in connections(host)? {
            // The kernel's path is tried once there is a connection.
            let is_usual = match overlay {
                Some(Overlay::Vxlan | Overlay::Ovs) => info.is_none(),
                Some(Overlay::Sleeve) => info.as_ref().is_none_or(|info| info.contains("VXLAN")),
                None => false,
            };
            ensure!(peer_id.is_some() && is_usual, "{peer_id:?}: {overlay:?}, {info:?}");
            ensure!(encrypted == Some(false), "{encrypted:?}");
            ensure!(mtu.is_none_or(|mtu| mtu == 1390), "MTU {mtu:?}");
        }
        eventually(secs(3), || {
            let mtus: Vec<_> = connections(host)?.iter().map(|connection| connection.mtu).collect();
            ensure!(mtus == [Some(1390); 2], "{mtus:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn each_router_names_all_three_peers_with_two_established_connections_each() -> Result<()> {
    let (_lab, [one, two, three]) = chain("peers", None)?;
    let mut ids = [&one, &two, &three].map(|member| member.peer_id.as_str());
    ids.sort_unstable();
    for member in [&one, &two, &three] {
        eventually(secs(3), || {
            let peers = peers(&member.host)?;
            let mut found: Vec<_> = peers.iter().map(|peer| peer.peer_id.as_str()).collect();
            found.sort_unstable();
            ensure!(found == ids, "{found:?}");
            for peer in &peers {
                let others: Vec<_> = ids.iter().filter(|id| **id != peer.peer_id).copied().collect();
                let established = peer.connections.iter().filter(|connection| connection.established);
                let mut connected: Vec<_> =
                    established.map(|connection| connection.peer_id.as_str()).collect();
                connected.sort_unstable();
                ensure!(connected == others, "{} tells of {connected:?}", peer.nickname);
                ensure!(peer.is_self == (peer.peer_id == member.peer_id), "{peer:?}");
            }
            Ok(())
        })?;
        let text = member.host.mesh(["status", "peers"])?.stdout;
        ensure!(["h1", "h2", "h3"].iter().all(|name| text.contains(name)), "{text}");
    }
    Ok(())
}

#[test]
fn containers_on_three_hosts_ping_each_other() -> Result<()> {
    let (_lab, [one, two, three]) = chain("ping", None)?;
    all_ping(&[&one, &two, &three])?;
    for (from, to) in ordered_pairs(&[&one, &two, &three]) {
        let stats = from.container.ping_with(&Ping::to(to.ip).count(50))?;
        ensure!((stats.received, stats.duplicates) == (50, 0), "{stats:?}");
    }
    Ok(())
}

#[test]
fn arp_and_neighbour_discovery_find_containers_on_other_hosts() -> Result<()> {
    let (_lab, [one, two, three]) = chain("neighbours", None)?;
    for (from, to) in ordered_pairs(&[&one, &two, &three]) {
        let mac = eventually(READY, || from.container.arping(IFNAME, to.ip))?;
        ensure!(mac == to.mac, "{} has {}, and ARP says {mac}", to.ip, to.mac);
        eventually(READY, || from.container.ping(to.ip6))?;
        let link_local = Ping::to(to.link_local()?).from_interface(IFNAME);
        eventually(READY, || from.container.ping_with(&link_local).is_ok_and(|stats| stats.received == 1))?;
    }
    Ok(())
}

#[test]
fn multicast_reaches_each_container_once() -> Result<()> {
    let (_lab, [one, two, three]) = chain("multicast", None)?;
    all_ping(&[&one, &two, &three])?;
    for group in ["239.1.2.3:5000", "[ff02::4:5]:5001"] {
        multicast_arrives_once(&one, &[&two, &three], group, 100)?;
        multicast_arrives_once(&three, &[&one, &two], group, 100)?;
    }
    Ok(())
}

#[test]
fn a_ping_of_9000_bytes_passes() -> Result<()> {
    let (_lab, [one, two]) = chain("large", None)?;
    all_ping(&[&one, &two])?;
    for (from, to) in ordered_pairs(&[&one, &two]) {
        let stats = from.container.ping_with(&Ping::to(to.ip).size(9000).count(20))?;
        ensure!(stats.received == 20, "IPv4: {stats:?}");
        let stats = from.container.ping_with(&Ping::to(to.ip6).size(9000).count(20))?;
        ensure!(stats.received == 20, "IPv6: {stats:?}");
    }
    Ok(())
}

#[test]
fn iperf3_runs_both_ways() -> Result<()> {
    for (title, password) in [("clear", None), ("sealed", Some("a password for iperf3"))] {
        let (_lab, [one, two]) = chain(title, password)?;
        all_ping(&[&one, &two])?;
        let _server = two.container.iperf_server()?;
        for (way, iperf) in [("there", Iperf::to(two.ip)), ("back", Iperf::to(two.ip).reverse())] {
            let speed = one.container.iperf(&iperf.seconds(2))?.bits_per_second;
            eprintln!("measured: {title}, {way}: {:.1} Mbit/s", speed / 1e6);
            ensure!(speed > RUNNING_BITS_PER_SECOND, "{title}, {way}: {speed} bit/s");
        }
    }
    Ok(())
}
