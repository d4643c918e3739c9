//! What containers get by `attach`, and lose by `detach`.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use mesh_api::{AttachDocument, DetachDocument};
use mesh_lab::{Container, Host, Lab, eventually, secs};

use crate::support::{IFNAME, READY, all_ping, attach, chain, launch, nameless, refused, words};

#[test]
fn a_container_is_reached_by_each_of_its_addresses_and_gives_them_back_one_by_one() -> Result<()> {
    let (_lab, [one, two]) = chain("addresses", None)?;
    let subnets = ["10.33.0.", "10.34.0."];
    for (member, number) in [(&one, 1), (&two, 2)] {
        let cidrs = subnets.map(|subnet| format!("{subnet}{number}/24"));
        attach(&member.host, &member.container, &cidrs.each_ref().map(String::as_str))?;
    }
    all_ping(&[&one, &two])?;
    for subnet in subnets {
        eventually(READY, || one.container.ping(format!("{subnet}2")))?;
    }

    let (host, container) = (&two.host, two.container.spec());
    let taken = host.mesh(["detach", &container, "10.33.0.2/24"])?.stdout;
    ensure!(taken == "10.33.0.2/24\n", "detach prints {taken:?}");
    eventually(secs(3), || one.container.ping("10.33.0.2").is_err())?;
    one.container.ping("10.34.0.2")?;
    one.container.ping(two.ip)?;

    let rest = host.mesh(["detach", &container])?.stdout;
    let mut lines: Vec<_> = rest.lines().collect();
    lines.sort_unstable();
    ensure!(lines == ["10.32.0.2/24", "10.34.0.2/24", "fd32::2/64"], "detach prints {rest:?}");
    ensure!(interfaces(&two.container)? == ["lo"], "the interface stays in the container");
    host.mesh_fails(4, ["detach", &container])?;
    Ok(())
}

#[test]
fn attaching_again_changes_nothing() -> Result<()> {
    let (_lab, [one, two]) = chain("again", None)?;
    all_ping(&[&one, &two])?;
    let (host_before, container_before) = (two.host.network_state()?, two.container.network_state()?);

    let again = attach(&two.host, &two.container, &[&format!("{}/24", two.ip)])?;

    ensure!(again.mac == two.mac && again.interface == IFNAME, "{again:?}");
    ensure!(again.addresses.len() == 2, "{again:?}");
    host_before.must_equal(&two.host.network_state()?)?;
    container_before.must_equal(&two.container.network_state()?)?;
    one.container.ping(two.ip)?;
    Ok(())
}

#[test]
fn attach_prints_the_addresses_one_a_line() -> Result<()> {
    let lab = Lab::new("prints")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    let container = host.container("c")?;

    let printed = host.mesh(["attach", &container.spec(), "10.32.0.1/12", "fd32::1/64"])?.stdout;

    ensure!(printed == "10.32.0.1/12\nfd32::1/64\n", "{printed:?}");
    Ok(())
}

#[test]
fn two_containers_of_one_host_talk_to_each_other_and_to_others() -> Result<()> {
    let (_lab, [one, two]) = chain("neighbour", None)?;
    let second = one.host.container("d")?;
    attach(&one.host, &second, &["10.32.0.11/24"])?;

    eventually(READY, || second.ping(one.ip))?;
    eventually(READY, || second.ping(two.ip))?;
    eventually(READY, || two.container.ping("10.32.0.11"))?;
    eventually(READY, || two.container.ping(one.ip))?;
    Ok(())
}

#[test]
fn a_process_and_a_path_name_their_containers() -> Result<()> {
    let (_lab, [one]) = chain("names", None)?;
    for (name, address) in [("p", "10.32.0.21"), ("q", "10.32.0.22")] {
        let container = one.host.container(name)?;
        let process = container.spawn(["sleep", "60"])?;
        let spec = match name {
            "p" => format!("pid:{}", process.pid()),
            _path => format!("netns:{}", container.path().display()),
        };
        let cidr = format!("{address}/24");

        let attached: AttachDocument = one.host.mesh(["attach", "-o", "json", &spec, &cidr])?.json()?;
        ensure!(attached.container == spec, "{attached:?}");
        eventually(READY, || one.container.ping(address))?;

        let detached: DetachDocument = one.host.mesh(["detach", "-o", "json", &spec])?.json()?;
        ensure!(detached.addresses == [cidr.parse()?], "{detached:?}");
        ensure!(interfaces(&container)? == ["lo"], "the interface stays in the container");
    }
    Ok(())
}

#[test]
fn an_interface_can_have_another_name_and_a_container_two_of_them() -> Result<()> {
    let (_lab, [one, two]) = chain("ifname", None)?;
    let spec = two.container.spec();
    two.host.mesh(["attach", &spec, "10.35.0.2/24", "--ifname", "second"])?;
    ensure!(interfaces(&two.container)? == [IFNAME, "lo", "second"], "{:?}", interfaces(&two.container)?);
    attach(&one.host, &one.container, &["10.35.0.1/24"])?;
    eventually(READY, || one.container.ping("10.35.0.2"))?;

    two.host.mesh(["detach", &spec])?;
    ensure!(interfaces(&two.container)? == ["lo"], "{:?}", interfaces(&two.container)?);
    Ok(())
}

#[test]
fn a_container_that_is_deleted_leaves_nothing_on_the_host() -> Result<()> {
    let lab = Lab::new("deleted")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    let before = ports(&host)?;
    let (_shell, pid) = nameless(&host)?;
    host.mesh(["attach", &format!("pid:{pid}"), "10.32.0.9/24"])?;
    ensure!(ports(&host)?.len() == before.len() + 1, "{:?}", ports(&host)?);

    host.run(["kill", "-KILL", &pid.to_string()])?;

    eventually(secs(5), || ports(&host).is_ok_and(|now| now == before))?;
    Ok(())
}

/// The names of a container's interfaces, sorted.
fn interfaces(container: &Container) -> Result<Vec<String>> {
    names(&container.run(["ip", "-j", "link", "show"])?.stdout)
}

/// The names of the bridge's ports, sorted.
fn ports(host: &Host) -> Result<Vec<String>> {
    names(&host.run(["ip", "-j", "link", "show", "master", "mesh0"])?.stdout)
}

fn names(json: &str) -> Result<Vec<String>> {
    let links: Vec<serde_json::Value> = serde_json::from_str(json)?;
    let name =
        |link: &serde_json::Value| link["ifname"].as_str().map(str::to_owned).context("a link has a name");
    let mut names = links.iter().map(name).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Study, row 116: it is done, and said on standard error; `mesh doctor` says it as long as it is so.
#[test]
fn an_address_that_the_host_has_a_route_to_is_given_with_a_warning() -> Result<()> {
    let lab = Lab::new("overlap")?;
    let host = lab.host("h1")?;
    host.run(["ip", "link", "add", "lan0", "type", "bridge"])?;
    host.run(["ip", "link", "set", "lan0", "up"])?;
    host.run(["ip", "address", "add", "10.2.1.1/24", "dev", "lan0"])?;
    host.run(["ip", "-6", "route", "add", "fd02::/32", "dev", "lan0"])?;
    launch(&host, &[], None)?;
    let (a, b) = (host.container("a")?, host.container("b")?);
    let doctor = || -> Result<String> { Ok(host.mesh_cmd(["doctor"])?.outcome()?.stdout) };
    let quiet = host.mesh(["attach", &a.spec(), "10.9.0.1/24", "fd09::1/64"])?;
    ensure!(quiet.stderr.is_empty(), "{}", quiet.stderr);
    ensure!(!doctor()?.contains("overlaps a route of this host"), "{}", doctor()?);

    for (address, route) in [
        ("10.2.1.5/24", "10.2.1.0/24 dev lan0"),
        ("10.2.0.5/16", "10.2.1.0/24 dev lan0"),
        ("10.2.1.7/32", "10.2.1.0/24 dev lan0"),
        ("fd02::5/64", "fd02::/32 dev lan0"),
    ] {
        let told = host.mesh(["attach", &a.spec(), address])?;
        ensure!(told.stdout.lines().any(|line| line == address), "it is not done: {}", told.stdout);
        ensure!(told.stderr.starts_with("warning: ") && told.stderr.contains(route), "{}", told.stderr);
        ensure!(doctor()?.contains(route), "{}", doctor()?);
        // The same for programs.
        let told = host.mesh(["attach", &a.spec(), address, "-o", "json"])?;
        let warning: serde_json::Value = serde_json::from_str(&told.stderr)?;
        ensure!(warning["warning"]["message"].as_str().is_some_and(|text| text.contains(route)), "{warning}");
        host.mesh(["detach", &a.spec(), address])?;
    }
    ensure!(!doctor()?.contains("overlaps a route of this host"), "{}", doctor()?);
    host.mesh(["attach", &b.spec(), "10.2.1.6/24"])?;
    let told = host.mesh(["expose", "10.2.1.9/24"])?;
    ensure!(told.stdout == "10.2.1.9/24\n" && told.stderr.contains("dev lan0"), "{}", told.stderr);
    host.mesh(["hide"])?;
    // Containers of the subnet have each other all the same.
    host.mesh(["attach", &a.spec(), "10.2.1.5/24"])?;
    eventually(READY, || a.ping("10.2.1.6"))?;
    Ok(())
}

/// Study, row 130.
#[test]
fn ps_tells_what_is_in_the_namespaces() -> Result<()> {
    let lab = Lab::new("ps")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    let containers = [host.container("a")?, host.container("b")?];
    attach(&host, &containers[0], &["10.32.0.1/24", "10.33.0.1/24", "fd32::1/64"])?;
    attach(&host, &containers[1], &["10.32.0.2/24"])?;
    for gone in [false, true] {
        if gone {
            host.mesh(["detach", &containers[0].spec(), "10.33.0.1/24"])?;
            host.mesh(["detach", &containers[1].spec()])?;
        }
        let listed: Vec<AttachDocument> = host.mesh(["ps", "-o", "json"])?.json()?;
        let text = host.mesh(["ps"])?.stdout;
        ensure!(listed.len() == if gone { 1 } else { 2 }, "{listed:?}");
        for line in listed {
            let container = containers.iter().find(|container| container.spec() == line.container);
            let container = container.with_context(|| format!("{} is none of them", line.container))?;
            ensure!(line.mac == container.mac(&line.interface)? && line.attached, "{line:?}");
            let mut told: Vec<_> = line.addresses.iter().map(|address| address.addr()).collect();
            let mut there = container.addresses(&line.interface)?;
            there.retain(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
            told.sort_unstable();
            there.sort_unstable();
            ensure!(told == there, "{told:?} are told, {there:?} are there");
            for word in [line.container.clone(), line.mac.clone(), line.addresses[0].to_string()] {
                ensure!(text.contains(&word), "{word} is not in {text}");
            }
        }
    }
    Ok(())
}

/// Study, rows 118 and 120: without address management, and where it waits for others, what a user has chosen comes and goes.
#[test]
fn what_a_user_has_chosen_comes_and_goes_whatever_becomes_of_address_management() -> Result<()> {
    let lab = Lab::new("unmanaged")?;
    let (off, waiting, absent) = (lab.host("off")?, lab.host("waits")?, lab.host("absent")?);
    launch(&off, &[], None)?;
    launch(&waiting, &words(["--ipam-range", "10.40.0.0/24", &absent.ip().to_string()]), None)?;
    for (host, status, said) in [(&off, 1, "--ipam-range"), (&waiting, 5, "majority")] {
        let container = host.container("c")?;
        let spec = container.spec();
        for wish in ["net:default", "net:10.40.0.0/28"] {
            let failure = refused(host, status, &["attach", &spec, wish, "--timeout", "1"])?;
            let told = format!("{} {}", failure.message, failure.hint.unwrap_or_default());
            ensure!(told.contains(said), "{wish}: {told}");
        }
        let begun = std::time::Instant::now();
        host.mesh(["attach", &spec, "192.168.77.1/24", "--name", "plain"])?;
        host.mesh(["expose", "192.168.77.9/24"])?;
        eventually(READY, || container.ping("192.168.77.9"))?;
        ensure!(host.mesh(["detach", &spec])?.stdout == "192.168.77.1/24\n");
        ensure!(host.mesh(["hide"])?.stdout == "192.168.77.9/24\n");
        host.mesh_fails(4, ["dns", "lookup", "plain"])?;
        ensure!(begun.elapsed() < secs(30), "{} waits for somebody", host.label());
    }
    Ok(())
}
