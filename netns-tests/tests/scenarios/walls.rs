//! What keeps containers of different subnets apart, and from the host; and that it stands whatever others do to the
//! host's firewall (rows 123 and 267 of the study of Weave Net, rows 46 and 47 of the table of faults).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Container, Host, Lab, Ping, eventually, millis, secs};

use crate::support::{IFNAME, READY, all_connected, attach, launch, status};

/// Two hosts with a container each in the subnets `10.32.1.0/24` (`fd32:1::/64`) and `10.32.2.0/24` (`fd32:2::/64`).
struct Walled {
    _lab: Lab,
    hosts: [Host; 2],
    /// Of the first subnet, one on each host.
    ones: [Container; 2],
    /// Of the second.
    twos: [Container; 2],
}

impl Walled {
    fn new(title: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let hosts = [lab.host("h1")?, lab.host("h2")?];
        launch(&hosts[0], &[], None)?;
        launch(&hosts[1], &[hosts[0].ip().to_string()], None)?;
        all_connected(&[&hosts[0], &hosts[1]])?;
        let make = |host: &Host, subnet: u8, number: u8| -> Result<Container> {
            let container = host.container(&format!("s{subnet}"))?;
            let addresses = [format!("10.32.{subnet}.{number}/24"), format!("fd32:{subnet}::{number}/64")];
            attach(host, &container, &addresses.each_ref().map(String::as_str))?;
            // It believes that everything is near.
            for subnet in [1, 2] {
                container.run(["ip", "route", "replace", &format!("10.32.{subnet}.0/24"), "dev", IFNAME])?;
                container.run(["ip", "route", "replace", &format!("fd32:{subnet}::/64"), "dev", IFNAME])?;
            }
            Ok(container)
        };
        let ones = [make(&hosts[0], 1, 1)?, make(&hosts[1], 1, 2)?];
        let twos = [make(&hosts[0], 2, 1)?, make(&hosts[1], 2, 2)?];
        let walled = Self { _lab: lab, hosts, ones, twos };
        for (from, address) in [(&walled.ones[0], "10.32.1.2"), (&walled.twos[0], "10.32.2.2")] {
            eventually(READY, || from.ping(address))?;
        }
        for (from, address) in [(&walled.ones[0], "fd32:1::2"), (&walled.twos[0], "fd32:2::2")] {
            eventually(READY, || from.ping(address))?;
        }
        Ok(walled)
    }

    fn keeps_apart(&self) -> Result<()> {
        let cannot = |from: &Container, to: &str| {
            let stats = from.ping_with(&Ping::to(to).count(1).wait(millis(300)));
            // Without an answer to ARP, or a route, ping fails in its own way.
            ensure!(stats.is_ok_and(|stats| stats.received == 0), "{to} answers {}", from.label());
            Ok(())
        };
        for from in &self.ones {
            for to in ["10.32.2.1", "10.32.2.2", "fd32:2::1", "fd32:2::2"] {
                cannot(from, to)?;
            }
        }
        for from in &self.twos {
            for to in ["10.32.1.1", "10.32.1.2", "fd32:1::1", "fd32:1::2"] {
                cannot(from, to)?;
            }
        }
        Ok(())
    }
}

#[test]
fn containers_of_different_subnets_do_not_reach_each_other_on_one_host_or_on_two() -> Result<()> {
    let walled = Walled::new("apart")?;
    walled.keeps_apart()?;

    // Neighbours that it was told of by hand, so that nothing has to be asked for.
    let addresses = [("10.32.2.1", &walled.twos[0]), ("10.32.2.2", &walled.twos[1])];
    for (address, to) in addresses {
        walled.ones[0].run(["ip", "neigh", "replace", address, "lladdr", &to.mac(IFNAME)?, "dev", IFNAME])?;
    }
    let captures = [walled.twos[0].capture(IFNAME)?, walled.twos[1].capture(IFNAME)?];
    walled.keeps_apart()?;
    // Frames of any kind and to everybody: of another protocol, tagged, an ARP request, a broadcast.
    let mac = mac_bytes(&walled.ones[0].mac(IFNAME)?)?;
    for kind in [[0x88, 0xb5], [0x81, 0x00], [0x08, 0x06], [0x08, 0x00], [0x86, 0xdd]] {
        let mut frame = [0xff; 6].to_vec();
        frame.extend(mac);
        frame.extend(kind);
        frame.extend(b"nobody-of-the-other-subnet-may-read-this-secret-text-of-a-container");
        walled.ones[0].send_frame(IFNAME, &frame)?;
    }
    walled.keeps_apart()?;
    for capture in captures {
        let frames = capture.stop()?;
        let foreign = frames.count(|frame| !frame.outgoing && frame.bytes.get(6..12) == Some(&mac));
        ensure!(foreign == 0, "{foreign} frames of the other subnet arrived");
    }
    ensure!(status(&walled.hosts[0])?.traffic.drops.contains_key("other-subnet"));
    Ok(())
}

#[test]
fn a_host_that_is_exposed_in_two_subnets_joins_them_no_more_than_one_in_none() -> Result<()> {
    let walled = Walled::new("two-subnets")?;
    let [one, two] = &walled.hosts;
    one.mesh(["expose", "10.32.1.100/24", "10.32.2.100/24", "--no-masquerade"])?;
    two.mesh(["expose", "10.32.1.101/24", "10.32.2.101/24"])?;
    for (containers, subnet, other) in [(&walled.ones, 1, 2), (&walled.twos, 2, 1)] {
        for (container, gate) in containers.iter().zip([100, 101]) {
            eventually(READY, || container.ping(format!("10.32.{subnet}.{gate}")))?;
            let (to, by) = (format!("10.32.{other}.0/24"), format!("10.32.{subnet}.{gate}"));
            container.run(["ip", "route", "replace", &to, "via", &by])?;
        }
    }
    walled.keeps_apart()
}

#[test]
fn a_container_reaches_no_port_of_the_host_but_what_exposing_is_for() -> Result<()> {
    let lab = Lab::new("ports")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    let container = host.container("c")?;
    attach(&host, &container, &["10.32.1.1/24"])?;
    let _service = host.echo_server(8080)?;
    let (of_host, within) = (host.ip(), millis(500));
    let connect = |to: String| -> Result<()> {
        let to: SocketAddr = to.parse().context("an address")?;
        container.connect_from("10.32.1.1".parse()?, to, within).map(drop)
    };
    // The host's other address is reached by the bridge's MAC, on hosts that do not expose anything, too.
    let bridge = host.mac("mesh0")?;
    container.run(["ip", "route", "add", &format!("{of_host}/32"), "dev", IFNAME])?;
    container.run(["ip", "neigh", "add", &of_host.to_string(), "lladdr", &bridge, "dev", IFNAME])?;
    host.run(["ip", "route", "add", "10.32.1.1/32", "dev", "mesh0"])?;
    for port in [6783, 6782, 8080] {
        ensure!(connect(format!("{of_host}:{port}")).is_err(), "port {port} can be reached");
    }
    container.cannot_ping(of_host)?;
    host.run(["ip", "route", "del", "10.32.1.1/32"])?;

    host.mesh(["expose", "10.32.1.100/24"])?;
    eventually(READY, || container.ping("10.32.1.100"))?;
    connect("10.32.1.100:8080".to_owned())?;
    for address in ["10.32.1.100".to_owned(), of_host.to_string()] {
        for port in [6783, 6782] {
            ensure!(connect(format!("{address}:{port}")).is_err(), "{address}:{port} can be reached");
        }
    }
    ensure!(connect(format!("{of_host}:8080")).is_err(), "the host's other address can be reached");
    ensure!(status(&host)?.traffic.drops.contains_key("host-port"));
    Ok(())
}

/// Study, rows 71 and 271.
#[test]
fn a_group_has_its_members_in_the_subnet_of_whoever_speaks() -> Result<()> {
    let walled = Walled::new("groups")?;
    let group = "239.1.2.3:5000".parse()?;
    let [speaker, member] = &walled.ones;
    let listens = |container: &Container| container.multicast_listen(group, IFNAME);
    let (near, foreign) = (listens(member)?, [listens(&walled.twos[0])?, listens(&walled.twos[1])?]);
    eventually(READY, || {
        speaker.multicast_send(group, IFNAME, b"to whom it concerns")?;
        near.next(millis(100)).map(drop)
    })?;
    for number in 0..20_u8 {
        speaker.multicast_send(group, IFNAME, &[number])?;
    }
    while let Ok((payload, _)) = near.next(secs(1)) {
        if payload == [19] {
            break;
        }
    }
    for listener in &foreign {
        ensure!(listener.next(millis(300)).is_err(), "the other subnet hears it");
    }
    Ok(())
}

/// Study, row 266: a host that exposes nothing is no way into the network, nor out of it, for Docker's other networks and the
/// outside alike.
#[test]
fn a_host_that_exposes_nothing_forwards_nothing_into_the_network_or_out_of_it() -> Result<()> {
    let lab = Lab::new("noway")?;
    let (host, outside) = (lab.host("h1")?, lab.host("outside")?);
    launch(&host, &[], None)?;
    let (container, docked) = (host.container("c")?, host.container("docked")?);
    attach(&host, &container, &["10.32.1.1/24"])?;
    // As Docker makes it, with a container on it.
    for command in [
        &["ip", "link", "add", "docker0", "type", "bridge"][..],
        &["ip", "address", "add", "172.17.0.1/16", "dev", "docker0"],
        &["ip", "link", "set", "docker0", "up"],
        &["ip", "link", "add", "vd", "type", "veth", "peer", "name", "eth0", "netns", docked.name()],
        &["ip", "link", "set", "vd", "master", "docker0", "up"],
        // Whoever would have the host forward does all that it takes.
        &["sysctl", "-qw", "net.ipv4.ip_forward=1"],
        &["ip", "route", "add", "10.32.1.1/32", "dev", "mesh0"],
    ] {
        host.run(command.iter().copied())?;
    }
    for command in [
        &["ip", "address", "add", "172.17.0.2/16", "dev", "eth0"][..],
        &["ip", "link", "set", "eth0", "up"],
        &["ip", "route", "add", "default", "via", "172.17.0.1"],
    ] {
        docked.run(command.iter().copied())?;
    }
    outside.run(["ip", "route", "add", "10.32.1.0/24", "via", &host.ip().to_string()])?;
    let bridge = host.mac("mesh0")?;
    container.run(["ip", "route", "replace", "default", "dev", IFNAME])?;
    for other in [outside.ip().to_string(), "172.17.0.2".to_owned()] {
        container.run(["ip", "neigh", "replace", &other, "lladdr", &bridge, "dev", IFNAME])?;
    }
    let mac = container.mac(IFNAME)?;
    host.run(["ip", "neigh", "replace", "10.32.1.1", "lladdr", &mac, "dev", "mesh0"])?;
    eventually(READY, || docked.ping(host.ip()))?;
    outside.cannot_ping("10.32.1.1")?;
    docked.cannot_ping("10.32.1.1")?;
    container.cannot_ping(outside.ip())?;
    container.cannot_ping("172.17.0.2")?;
    ensure!(status(&host)?.traffic.drops.contains_key("forwarding"), "nothing is counted");
    Ok(())
}

#[test]
fn the_firewall_is_back_within_a_second_after_somebody_flushes_it() -> Result<()> {
    let walled = Walled::new("flush")?;
    let host = &walled.hosts[0];
    let neighbour = walled.twos[0].mac(IFNAME)?;
    walled.ones[0].run(["ip", "neigh", "replace", "10.32.2.1", "lladdr", &neighbour, "dev", IFNAME])?;
    let back = walled.ones[0].mac(IFNAME)?;
    walled.twos[0].run(["ip", "neigh", "replace", "10.32.1.1", "lladdr", &back, "dev", IFNAME])?;
    let flow = walled.ones[0].converse(&walled.ones[1], "10.32.1.2:7777".parse()?)?;
    let before = host.run(["nft", "-s", "list", "tables"])?.stdout;
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let flushed = Instant::now();
        host.run(["nft", "flush", "ruleset"])?;
        eventually(secs(5), || {
            ensure!(host.run(["nft", "-s", "list", "tables"])?.stdout == before, "it is not back");
            Ok(())
        })?;
        longest = longest.max(flushed.elapsed());
    }
    walled.keeps_apart()?;
    let report = flow.finish()?;
    println!(
        "measured: the firewall is back after {longest:?} at most, the flow waited {:?}",
        report.longest_wait
    );
    ensure!(report.longest_wait < secs(2), "the flow stood still for {:?}", report.longest_wait);
    ensure!(host.router_log().contains("somebody changed the firewall"), "the log says nothing of it");
    Ok(())
}

#[test]
fn tables_of_others_are_as_they_were() -> Result<()> {
    let lab = Lab::new("others-tables")?;
    let host = lab.host("h1")?;
    for command in [
        "add table inet firewalld",
        "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10 ; policy accept ; }",
        "add rule inet firewalld filter_FORWARD ct state established,related accept",
        "add table bridge other",
    ] {
        host.run(["nft", command])?;
    }
    let of_others = || host.run(["nft", "-s", "list", "table", "inet", "firewalld"]);
    let (before, theirs) = (host.network_state()?, of_others()?.stdout);
    launch(&host, &[], None)?;
    let container = host.container("c")?;
    attach(&host, &container, &["10.32.1.1/24"])?;
    host.mesh(["expose", "10.32.1.100/24"])?;
    ensure!(of_others()?.stdout == theirs, "a table of others has changed");
    host.mesh(["reset", "--force"])?;
    before.must_equal(&host.network_state()?)
}

#[test]
fn without_nft_the_router_goes_on_and_says_that_it_has_no_firewall() -> Result<()> {
    let lab = Lab::new("no-nft")?;
    let host = lab.host("h1")?;
    host.mesh_cmd(["launch"])?.env("PATH", "/nonexistent").run()?;
    let (one, two) = (host.container("a")?, host.container("b")?);
    attach(&host, &one, &["10.32.1.1/24"])?;
    attach(&host, &two, &["10.32.1.2/24"])?;
    eventually(READY, || one.ping("10.32.1.2"))?;
    let firewall = status(&host)?.firewall.context("a firewall")?;
    let why = firewall.detail.context("a reason")?;
    ensure!(!firewall.up && why.contains("not installed"), "{why}");
    ensure!(host.router_log().contains("there is no firewall"), "the log says nothing of it");
    Ok(())
}

fn mac_bytes(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().context("six bytes")
}
