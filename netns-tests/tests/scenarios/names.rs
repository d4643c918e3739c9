//! Names: containers find each other by them, with the resolvers that people have, and users add and take them back.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_api::{DnsDocument, DnsEntryDocument, DnsNameDocument, Overlay};
use mesh_lab::{Container, Host, Lab, eventually, secs};
use serde_json::Value;

use crate::support::{READY, all_connected, connections, hints_at, launch, refused, status, words};

/// Where each host has its name server.
pub(crate) const SERVER: &str = "169.254.32.53";

/// All addresses of these networks.
pub(crate) const RANGE: &str = "10.32.0.0/16";

/// A host with a router, and a container on it that has a name.
pub(crate) struct Named {
    pub(crate) host: Host,
    pub(crate) container: Container,
    pub(crate) address: IpAddr,
}

impl Named {
    /// Asks the name server of this container's host with `dig`.
    pub(crate) fn dig(&self, arguments: &str) -> Result<String> {
        dig(&self.container, arguments)
    }

    /// The addresses of a name as `dig` gets them here, sorted.
    pub(crate) fn addresses(&self, name: &str) -> Result<Vec<String>> {
        let mut lines: Vec<_> = self.dig(&format!("+short {name} A"))?.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }
}

/// Asks a host's name server from a container.
pub(crate) fn dig(container: &Container, arguments: &str) -> Result<String> {
    let server = format!("@{SERVER}");
    let words = ["+time=2", "+tries=2", server.as_str()].into_iter().chain(arguments.split_whitespace());
    Ok(container.cmd("dig").args(words).run()?.stdout)
}

/// A lab with hosts `h1`, `h2` and so on, all connected, each with a container that is called like its host with a `c` for
/// the `h`. `options` are those of each router.
pub(crate) fn network(title: &str, count: usize, options: &[&str]) -> Result<(Lab, Vec<Named>)> {
    let lab = Lab::new(title)?;
    let mut members: Vec<Named> = Vec::new();
    for number in 1..=count {
        let host = lab.host(&format!("h{number}"))?;
        let mut arguments = words(["--ipam-range", RANGE]);
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        arguments.extend(members.first().map(|first| first.host.ip().to_string()));
        launch(&host, &arguments, None)?;
        let container = host.container("c")?;
        let address = attach(&host, &container, &["--name", &format!("c{number}")])?;
        members.push(Named { host, container, address });
    }
    all_connected(&members.iter().map(|member| &member.host).collect::<Vec<_>>())?;
    Ok((lab, members))
}

/// Attaches a container with these options, and gives its address.
pub(crate) fn attach(host: &Host, container: &Container, options: &[&str]) -> Result<IpAddr> {
    let command = host.mesh_cmd(["attach", "-o", "json", &container.spec()])?.args(options);
    let document: mesh_api::AttachDocument = command.run()?.json()?;
    Ok(document.addresses.first().context("an address")?.addr())
}

/// All names as a host's router knows them.
pub(crate) fn list(host: &Host) -> Result<Vec<DnsEntryDocument>> {
    host.mesh(["dns", "list", "-o", "json"])?.json()
}

/// Waits until every host has these addresses for a name.
pub(crate) fn everywhere(members: &[Named], name: &str, addresses: &[IpAddr]) -> Result<()> {
    let mut wanted: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    wanted.sort();
    for member in members {
        eventually(READY, || {
            let found = member.addresses(name)?;
            ensure!(found == wanted, "{name} is {found:?} on {}, not {wanted:?}", member.host.label());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn containers_on_three_hosts_find_each_other_with_every_resolver() -> Result<()> {
    let (_lab, members) = network("names", 3, &[])?;
    for (number, member) in (1..).zip(&members) {
        everywhere(&members, &format!("c{number}.mesh.internal"), &[member.address])?;
        // Also without the domain, whatever the resolver's search list.
        everywhere(&members, &format!("c{number}."), &[member.address])?;
    }
    let (asked, wanted) = ("c3.mesh.internal", members[2].address.to_string());
    let server = format!("@{SERVER}");
    for member in &members {
        let run = |line: &str| -> Result<String> {
            let mut line = line.split_whitespace();
            let program = line.next().context("a program")?;
            Ok(member.container.cmd(program).args(line).run()?.stdout)
        };
        let drill = run(&format!("drill {asked} {server} A"))?;
        ensure!(drill.contains("rcode: NOERROR") && drill.contains("flags: qr aa rd ra"), "{drill}");
        ensure!(drill.contains(&wanted), "{drill}");
        let kdig = run(&format!("kdig {server} {asked} A +edns"))?;
        ensure!(kdig.contains("status: NOERROR") && kdig.contains(&wanted), "{kdig}");
        let busybox = run(&format!("busybox nslookup {asked} {SERVER}"))?;
        ensure!(busybox.contains(&format!("Address: {wanted}")), "{busybox}");
        let reverse = run(&format!("dig +short {server} -x {wanted}"))?;
        ensure!(reverse.trim() == "c3.mesh.internal.", "{reverse}");
    }
    Ok(())
}

#[test]
fn programs_in_a_namespace_resolve_by_the_file_that_attach_writes_and_detach_removes() -> Result<()> {
    let (_lab, members) = network("names-files", 2, &[])?;
    let (one, two) = (&members[0], &members[1]);
    let container = one.host.container("f")?;
    let file = Path::new("/etc/netns").join(container.name()).join("resolv.conf");
    attach(&one.host, &container, &["--name", "f", "--resolv-conf"])?;
    let text = fs::read_to_string(&file)?;
    ensure!(text.contains("nameserver 169.254.32.53\nsearch mesh.internal\n"), "{text}");
    everywhere(&members, "c2.mesh.internal", &[two.address])?;
    for name in ["c2", "c2.mesh.internal", "C2.Mesh.Internal"] {
        // The C library, by both of its ways, and busybox's own.
        let got = container.run(["getent", "ahostsv4", name])?.stdout;
        ensure!(
            got.lines().next().is_some_and(|line| line.starts_with(&two.address.to_string())),
            "{name}: {got}"
        );
        let got = container.run(["getent", "hosts", name])?.stdout;
        ensure!(got.starts_with(&two.address.to_string()), "{name}: {got}");
    }
    let got = container.run(["busybox", "nslookup", "c2.mesh.internal"])?.stdout;
    ensure!(got.contains(&two.address.to_string()), "{got}");
    ensure!(container.ping("c2")?.received > 0, "ping by name");
    let back = container.run(["getent", "hosts", &two.address.to_string()])?.stdout;
    ensure!(back.contains("c2.mesh.internal"), "{back}");

    one.host.mesh(["detach", &container.spec()])?;
    ensure!(!file.exists() && !file.parent().is_some_and(Path::exists), "{} is left", file.display());

    // A file of somebody else's is left alone.
    fs::create_dir_all(file.parent().context("a directory")?)?;
    fs::write(&file, "nameserver 192.0.2.1\n")?;
    let failure = refused(&one.host, 1, &["attach", &container.spec(), "--resolv-conf"])?;
    hints_at(&failure, &["--resolv-conf"])?;
    ensure!(fs::read_to_string(&file)? == "nameserver 192.0.2.1\n", "it was changed");
    fs::remove_dir_all(file.parent().context("a directory")?)?;
    // It stays while other tests have something in it.
    let _gone_if_empty = fs::remove_dir("/etc/netns");
    Ok(())
}

#[test]
fn a_container_has_the_names_that_it_was_given_until_it_is_detached() -> Result<()> {
    let (_lab, members) = network("names-given", 2, &[])?;
    let host = &members[0].host;
    let (one, two) = (host.container("a")?, members[1].host.container("b")?);
    let deep = "x.y.z.mesh.internal";
    let first = attach(host, &one, &["--name", "web", "--name", deep])?;
    let second = attach(&members[1].host, &two, &["--name", "web"])?;
    everywhere(&members, "web.mesh.internal", &[first, second])?;
    everywhere(&members, deep, &[first])?;
    // Names above a name exist and have nothing.
    let above = members[1].dig("y.z.mesh.internal A")?;
    ensure!(above.contains("status: NOERROR") && above.contains("ANSWER: 0"), "{above}");
    // Once more with another name: it comes on top.
    let document: Value = host.mesh(["attach", "-o", "json", &one.spec(), "--name", "www"])?.json()?;
    let names = document["names"].as_array().context("names")?.iter().filter_map(Value::as_str);
    ensure!(
        names.collect::<Vec<_>>() == ["web.mesh.internal.", "www.mesh.internal.", "x.y.z.mesh.internal."]
    );
    everywhere(&members, "www.mesh.internal", &[first])?;
    host.mesh(["dns", "add", "alias", "--container", &one.spec()])?;
    everywhere(&members, "alias.mesh.internal", &[first])?;

    host.mesh(["detach", &one.spec()])?;
    everywhere(&members, "web.mesh.internal", &[second])?;
    for gone in ["www", "alias", deep] {
        everywhere(&members, gone, &[])?;
    }
    ensure!(list(host)?.iter().all(|entry| !entry.name.starts_with("alias")));
    for wrong in ["web.example.com", "a b", "mesh.internal", ""] {
        let failure = refused(host, 1, &["attach", &one.spec(), "--name", wrong])?;
        hints_at(&failure, &["mesh.internal"])?;
    }
    ensure!(one.addresses("ethmesh").map_or(true, |found| found.is_empty()), "nothing was attached");
    Ok(())
}

#[test]
fn names_are_added_listed_looked_up_and_taken_back_and_outlive_the_router() -> Result<()> {
    let (_lab, members) = network("names-added", 2, &[])?;
    let host = &members[0].host;
    let addresses: Vec<IpAddr> =
        ["192.0.2.8", "192.0.2.9"].iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let printed = host.mesh(["dns", "add", "db", "192.0.2.9", "192.0.2.8", "2001:db8::9"])?.stdout;
    ensure!(printed == "192.0.2.8\n192.0.2.9\n2001:db8::9\n", "{printed}");
    everywhere(&members, "db.mesh.internal", &addresses)?;
    let six = members[1].dig("+short db.mesh.internal AAAA")?;
    ensure!(six.trim() == "2001:db8::9", "{six}");
    for name in ["db", "db.mesh.internal", "DB.mesh.internal."] {
        let human = members[1].host.mesh(["dns", "lookup", name])?.stdout;
        ensure!(human == "192.0.2.8\n192.0.2.9\n2001:db8::9\n", "{human}");
    }
    let document: DnsNameDocument = members[1].host.mesh(["dns", "lookup", "db", "-o", "json"])?.json()?;
    ensure!(document.name == "db.mesh.internal." && document.addresses.len() == 3, "{document:?}");
    let entry = list(&members[1].host)?.into_iter().find(|entry| entry.name == "db.mesh.internal.");
    ensure!(entry.context("it is listed")?.container == "external");
    let status: DnsDocument = host.mesh(["status", "dns", "-o", "json"])?.json()?;
    ensure!(status.summary.domain == "mesh.internal." && status.summary.ttl == 1, "{status:?}");
    ensure!(status.summary.listen == ["169.254.32.53:53".parse()?], "{status:?}");
    ensure!(status.summary.names == status.entries.len() as u64 && status.entries.len() == 5, "{status:?}");
    let human = host.mesh(["status", "dns"])?.stdout;
    ensure!(human.contains("169.254.32.53:53") && human.contains("db.mesh.internal."), "{human}");
    let overview = host.mesh(["status"])?.stdout;
    ensure!(overview.contains("mesh.internal., 5 names, on 169.254.32.53:53"), "{overview}");
    let report: Value = members[1].host.mesh(["report"])?.json()?;
    let reported = report["dns"]["entries"].as_array().context("names")?;
    let origin = self::status(host)?.router.peer_id;
    let is_it =
        |entry: &&Value| entry["name"] == "db.mesh.internal." && entry["origin_peer_id"] == origin.as_str();
    ensure!(reported.iter().filter(is_it).count() == 3, "{report}");
    let args = host.mesh(["dns", "args"])?.stdout;
    ensure!(args == "--dns 169.254.32.53 --dns-search mesh.internal.\n", "{args}");

    refused(&members[1].host, 4, &["dns", "remove", "db"])?;
    refused(host, 4, &["dns", "remove", "db", "192.0.2.1"])?;
    refused(host, 4, &["dns", "lookup", "nobody"])?;
    refused(host, 2, &["dns", "add", "db", "192.0.2.300"])?;
    refused(host, 1, &["dns", "add", "db.example.com", "192.0.2.1"])?;
    refused(host, 1, &["dns", "add", "db", "224.0.0.1"])?;

    host.mesh(["dns", "remove", "db", "192.0.2.8"])?;
    everywhere(&members, "db.mesh.internal", &addresses[1..])?;
    host.mesh(["stop"])?;
    everywhere(&members[1..], "db.mesh.internal", &[])?;
    launch(host, &[words(["--ipam-range", RANGE]), words(["--resume"])].concat(), None)?;
    let human = host.mesh(["dns", "lookup", "db"])?.stdout;
    ensure!(human == "192.0.2.9\n2001:db8::9\n", "{human}");
    eventually(READY, || {
        let found = members[1].host.mesh(["dns", "lookup", "db"]);
        found.map(drop).or_else(|_| members[1].host.mesh(["connect", &host.ip().to_string()]).map(drop))
    })?;
    host.mesh(["dns", "remove", "db"])?;
    everywhere(&members, "db.mesh.internal", &[])
}

#[test]
fn each_host_answers_for_itself_and_nothing_of_that_crosses_the_overlay() -> Result<()> {
    let (lab, members) = network("names-local", 2, &[])?;
    everywhere(&members, "c2.mesh.internal", &[members[1].address])?;
    let captures = [lab.capture(&members[0].host)?, lab.capture(&members[1].host)?];
    for member in &members {
        let label = member.host.label();
        let answer = member.dig("+nsid mesh.internal SOA")?;
        ensure!(answer.contains(&format!("(\"{label}\")")), "not {label}: {answer}");
        // ARP finds the own host's bridge, and nobody else.
        let found = member.container.cmd("arping").args(["-c", "3", "-I", "ethmesh", SERVER]).run()?.stdout;
        let bridge = member.host.mac("mesh0")?.to_ascii_uppercase();
        let replies: Vec<_> = found.lines().filter(|line| line.contains("reply from")).collect();
        ensure!(!replies.is_empty() && replies.iter().all(|line| line.contains(&bridge)), "{found}");
    }
    for capture in captures {
        let frames = capture.stop()?;
        ensure!(!frames.contains(&[169, 254, 32, 53]), "the address is on the wire");
    }
    Ok(())
}

/// A container can send a packet for the name server's address to any MAC. On its way to another host's container it is
/// dropped, whether the kernel carries frames or user space does, and an answer from there never comes.
#[test]
fn a_packet_for_the_name_servers_address_that_is_sent_to_another_host_is_dropped() -> Result<()> {
    let (lab, members) = network("names-astray", 2, &[])?;
    let [one, two] = &members[..] else { anyhow::bail!("two members") };
    let by_kernel = || {
        one.container.ping(two.address)?;
        let all = connections(&one.host)?;
        ensure!(all.iter().any(|link| link.overlay == Some(Overlay::Vxlan)), "{all:?}");
        Ok(())
    };
    eventually(READY, by_kernel)?;
    let elsewhere = two.container.mac("ethmesh")?;
    let neighbour = ["ip", "neigh", "replace", SERVER, "lladdr", &elsewhere, "dev", "ethmesh"];
    one.container.run(neighbour.into_iter().chain(["nud", "permanent"]))?;
    // Whoever has the address over there would answer.
    two.container.run(["ip", "address", "add", &format!("{SERVER}/32"), "dev", "lo"])?;
    let captures = [lab.capture(&one.host)?, lab.capture(&two.host)?];
    let lost =
        one.container.cmd("dig").args(["+time=1", "+tries=2", &format!("@{SERVER}"), "c2."]).outcome()?;
    ensure!(lost.code() != Some(0) && lost.stdout.contains("no servers could be reached"), "{lost:?}");
    one.container.cannot_ping(SERVER)?;
    // The other way round: a name server's answer that a container makes up for one of another host.
    let forged = format!("ping -c 2 -W 1 -I {SERVER} {}", one.address);
    two.container.cmd("sh").args(["-c", &forged]).outcome()?;
    for capture in captures {
        let frames = capture.stop()?;
        ensure!(!frames.contains(&[169, 254, 32, 53]), "the address is on the wire");
    }
    by_kernel()
}

#[test]
fn names_are_answered_where_and_how_the_options_say() -> Result<()> {
    let lab = Lab::new("names-options")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let options = "--dns-domain example.test --dns-ttl 30 --dns-listen 169.254.9.9:53,127.0.0.1:5353";
    let options: Vec<_> = options.split_whitespace().map(str::to_owned).collect();
    launch(&h1, &options, None)?;
    launch(
        &h2,
        &[words(["--no-dns", "--dns-domain", "example.test"]).to_vec(), vec![h1.ip().to_string()]].concat(),
        None,
    )?;
    all_connected(&[&h1, &h2])?;
    let (c1, c2) = (h1.container("c")?, h2.container("c")?);
    attach(&h1, &c1, &["10.32.0.1/24", "--name", "c1"])?;
    attach(&h2, &c2, &["10.32.0.2/24", "--name", "c2.example.test"])?;
    let ask =
        |name: &str| -> Result<String> { Ok(c1.run(["dig", "+time=2", "@169.254.9.9", name, "A"])?.stdout) };
    eventually(READY, || -> Result<()> {
        let answer = ask("c2.example.test")?;
        ensure!(answer.contains("30\tIN\tA\t10.32.0.2"), "{answer}");
        Ok(())
    })?;
    let local = h1.run(["dig", "+short", "+time=2", "-p", "5353", "@127.0.0.1", "c2.example.test"])?.stdout;
    ensure!(local.trim() == "10.32.0.2", "{local}");
    ensure!(h1.mesh(["dns", "args"])?.stdout == "--dns 169.254.9.9 --dns-search example.test.\n");

    // Nothing listens where there is to be no server, and containers have no route to one.
    ensure!(h2.mesh(["dns", "args"])?.stdout.is_empty());
    ensure!(h2.run(["ss", "-Hlnu", "sport = :53"])?.stdout.is_empty());
    ensure!(!c2.run(["ip", "route"])?.stdout.contains("169.254"), "a route to no server");
    ensure!(
        h2.mesh(["dns", "lookup", "c1"])?.stdout == "10.32.0.1\n",
        "the router knows the names all the same"
    );
    let c3 = h1.container("d")?;
    attach(&h1, &c3, &["10.32.0.3/24", "--no-dns"])?;
    ensure!(!c3.run(["ip", "route"])?.stdout.contains("169.254"), "a route that was not wanted");
    for wrong in [
        &["launch", "--dns-domain", "a..b"][..],
        &["launch", "--dns-domain", "home.local"],
        &["launch", "--dns-ttl", "-1"],
        &["launch", "--dns-listen", "0.0.0.0:53"],
        &["launch", "--dns-upstream", "example.com"],
        &["launch", "--no-dns", "--dns-listen", "127.0.0.1:53"],
    ] {
        refused(&h2, 2, wrong)?;
    }
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_named_and_nothing_is_left() -> Result<()> {
    let lab = Lab::new("names-taken")?;
    let host = lab.host("h1")?;
    let taken = host.cmd("socat").args(["-u", "UDP4-RECV:53,bind=0.0.0.0", "STDOUT"]).spawn()?;
    eventually(secs(5), || -> Result<()> {
        ensure!(!host.run(["ss", "-Hlnu", "sport = :53"])?.stdout.is_empty());
        Ok(())
    })?;
    let before = host.network_state()?;
    let failure = refused(&host, 1, &["launch"])?;
    hints_at(&failure, &["--dns-listen"])?;
    before.must_equal(&host.network_state()?)?;
    drop(taken);
    Ok(())
}

#[test]
fn docker_s_bridge_is_served_as_soon_as_it_is_there_and_as_long() -> Result<()> {
    let (_lab, members) = network("names-docker", 1, &[])?;
    let (host, name) = (&members[0].host, "c1.mesh.internal");
    let listens = || -> Result<usize> {
        let status: DnsDocument = host.mesh(["status", "dns", "-o", "json"])?.json()?;
        Ok(status.summary.listen.len())
    };
    ensure!(listens()? == 1);
    // A container as Docker makes one: on its bridge, with the bridge as gateway.
    let container = host.container("d")?;
    host.run(["ip", "link", "add", "docker0", "type", "bridge"])?;
    host.run(["ip", "address", "add", "172.17.0.1/16", "dev", "docker0"])?;
    host.run(["ip", "link", "set", "docker0", "up"])?;
    host.run(["ip", "link", "add", "vd", "type", "veth", "peer", "name", "eth0", "netns", container.name()])?;
    host.run(["ip", "link", "set", "vd", "master", "docker0", "up"])?;
    container.run(["ip", "address", "add", "172.17.0.2/16", "dev", "eth0"])?;
    container.run(["ip", "link", "set", "eth0", "up"])?;
    eventually(READY, || -> Result<()> {
        ensure!(listens()? == 2);
        let answer = container.run(["dig", "+short", "+time=1", "+tries=1", "@172.17.0.1", name])?.stdout;
        ensure!(answer.trim() == members[0].address.to_string(), "{answer}");
        Ok(())
    })?;
    host.run(["ip", "link", "del", "docker0"])?;
    eventually(READY, || -> Result<()> {
        ensure!(listens()? == 1);
        Ok(())
    })?;
    host.run(["ip", "link", "del", "vd"])?;
    Ok(())
}
