//! What containers get by `attach`, and lose by `detach`.

use anyhow::{Context, Result, ensure};
use mesh_api::{AttachDocument, DetachDocument};
use mesh_lab::{Container, Host, Lab, eventually, secs};

use crate::support::{IFNAME, READY, all_ping, attach, chain, launch, nameless};

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
