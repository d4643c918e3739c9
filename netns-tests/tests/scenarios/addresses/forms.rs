//! The forms in which addresses are asked for, and which are not handed out.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_api::IpamState;
use mesh_lab::{Container, Host, Lab, eventually};

use super::{PATIENCE, agreed, all_know, allocate, ipam};
use crate::support::{READY, attach, hints_at, launch, refused, status, words};

/// The addresses that `attach` prints for these words.
fn given(host: &Host, container: &Container, addresses: &[&str]) -> Result<Vec<String>> {
    Ok(attach(host, container, addresses)?.addresses.iter().map(ToString::to_string).collect())
}

fn one(host: &Host, container: &Container, addresses: &[&str]) -> Result<String> {
    let given = given(host, container, addresses)?;
    ensure!(given.len() == 1, "{given:?}");
    Ok(given.concat())
}

/// weave-net.md 137, 138, 146.
#[test]
fn addresses_are_had_in_each_form_and_stay_their_containers() -> Result<()> {
    let lab = Lab::new("ipam-forms")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let options = words(["--ipam-range", "10.40.0.0/24", "--ipam-subnet", "10.40.0.128/25"]);
    launch(&h1, &options, None)?;
    launch(&h2, &[options, vec![h1.ip().to_string()]].concat(), None)?;
    all_know(&[h1.clone(), h2.clone()])?;
    let container = |name: &str| h1.container(name);
    let (a, b, c, d, e) =
        (container("a")?, container("b")?, container("c")?, container("d")?, container("e")?);

    let first = one(&h1, &a, &[])?;
    ensure!(first == "10.40.0.129/25", "the lowest of the default subnet, but not its own address: {first}");
    ensure!(one(&h1, &a, &[])? == first && one(&h1, &a, &["net:default"])? == first, "the same again");
    ensure!(one(&h1, &b, &["net:default"])? == "10.40.0.130/25");
    ensure!(one(&h1, &c, &["net:10.40.0.0/28"])? == "10.40.0.1/28");
    ensure!(given(&h1, &d, &["10.40.0.77/24", "net:10.40.0.0/28"])? == ["10.40.0.2/28", "10.40.0.77/24"]);
    ensure!(one(&h1, &e, &["ip:10.40.0.78/24"])? == "10.40.0.78/24");

    // An address of somebody else, on this host or another; the edges of a subnet; outside of the range.
    let other = h2.container("f")?.spec();
    for (host, target, said) in [
        (&h1, "10.40.0.77/24", "10.40.0.77"),
        (&h2, "10.40.0.77/24", "10.40.0.77"),
        (&h2, "10.40.0.0/24", "10.40.0.0"),
        (&h2, "10.40.0.255/24", "10.40.0.255"),
        (&h2, "net:10.41.0.0/24", "10.41.0.0"),
    ] {
        let container = if host.label() == h1.label() { e.spec() } else { other.clone() };
        let failure = refused(host, 1, &["attach", &container, target])?;
        ensure!(failure.message.contains(said), "{target}: {failure:?}");
    }

    // A subnet of two has no edges (RFC 3021).
    let pair = h2.mesh(["ipam", "allocate", "p", "10.40.0.100/31"])?.stdout;
    ensure!(["10.40.0.100/31\n", "10.40.0.101/31\n"].contains(&pair.as_str()), "{pair}");
    // A subnet of four has two addresses; what is free again has to cool first.
    let small = |id: &str| h2.mesh(["ipam", "allocate", id, "10.40.0.64/30"]);
    let two: BTreeSet<String> =
        ["x", "y"].map(small).into_iter().map(|out| Ok(out?.stdout)).collect::<Result<_>>()?;
    ensure!(two == BTreeSet::from(["10.40.0.65/30\n".to_owned(), "10.40.0.66/30\n".to_owned()]), "{two:?}");
    let failure = refused(&h2, 1, &["ipam", "allocate", "z", "10.40.0.64/30"])?;
    ensure!(failure.message.contains("no address left"), "{failure:?}");
    ensure!(h2.mesh(["ipam", "release", "x"])?.stdout.contains("/30"), "it prints what it takes");
    refused(&h2, 4, &["ipam", "lookup", "x"])?;
    refused(&h2, 5, &["ipam", "allocate", "z", "10.40.0.64/30", "--timeout", "1"])?;
    let back = h2.mesh(["ipam", "allocate", "x", "10.40.0.64/30"])?.stdout;
    ensure!(two.contains(&back), "whoever had it may have it back at once: {back}");
    ensure!(h2.mesh(["ipam", "claim", "w", "10.40.0.99/24"])?.stdout == "10.40.0.99/24\n");
    ensure!(h2.mesh(["ipam", "lookup", "w"])?.stdout == "10.40.0.99/24\n");

    h1.mesh(["detach", &a.spec()])?;
    ensure!(one(&h1, &a, &[])? == first, "the same after a detachment");
    Ok(())
}

/// weave-net.md 135, 136.
#[test]
fn a_range_that_the_host_has_a_route_to_is_refused_with_it_unless_it_is_given() -> Result<()> {
    let lab = Lab::new("ipam-route")?;
    let host = lab.host("h1")?;
    host.run(["ip", "route", "add", "10.33.1.0/24", "dev", "lo"])?;
    let before = host.network_state()?;
    let output = host.mesh_cmd(["launch"])?.env_remove("MESH_IPAM_RANGE").outcome()?;
    ensure!(output.code() == Some(1) && output.stderr.contains("10.33.1.0/24"), "{output:?}");
    ensure!(output.stderr.contains("hint: ") && output.stderr.contains("--ipam-range"), "{output:?}");
    before.must_equal(&host.network_state()?)?;
    let failure =
        refused(&host, 2, &["launch", "--ipam-range", "10.40.0.0/24", "--ipam-subnet", "10.41.0.0/24"])?;
    ensure!(failure.message.contains("10.41.0.0/24"), "{failure:?}");
    launch(&host, &words(["--ipam-range", "10.32.0.0/12"]), None)?;
    ensure!(ipam(&host)?.range == Some("10.32.0.0/12".parse()?), "{:?}", ipam(&host)?);
    Ok(())
}

/// weave-net.md 139, 142, 151: seeds divide the range without a word to each other; an observer waits for somebody else.
#[test]
fn seeds_found_the_network_apart_and_an_observer_never_does() -> Result<()> {
    let lab = Lab::new("ipam-seeds")?;
    let hosts = [lab.host("h1")?, lab.host("h2")?, lab.host("h3")?];
    let [one, two, observer] = &hosts;
    let range = words(["--ipam-range", "fd00:40::/120"]);
    let mut seeds = Vec::new();
    for host in [one, two] {
        launch(host, &range, None)?;
        seeds.push(status(host)?.router.identity);
        host.mesh(["stop"])?;
    }
    launch(observer, &[range.clone(), words(["--ipam-init", "observer"])].concat(), None)?;
    let failure = refused(observer, 5, &["prime", "--timeout", "1"])?;
    ensure!(failure.message.contains("observer"), "{failure:?}");
    hints_at(&failure, &["--ipam-init"])?;
    ensure!(ipam(observer)?.state == IpamState::Observing, "{:?}", ipam(observer)?);

    // The seeds do not know each other yet, and are one network all the same.
    let by_seeds = ["--ipam-init".to_owned(), format!("seed={}", seeds.join(","))];
    for host in [one, two] {
        launch(host, &[range.as_slice(), &by_seeds].concat(), None)?;
        allocate(host, "first", PATIENCE)?;
    }
    let network = |host: &Host| ipam(host)?.network_id.context("no network");
    ensure!(network(one)? == network(two)?, "two networks");
    for host in [one, two] {
        observer.mesh(["connect", &host.ip().to_string()])?;
    }
    all_know(&hosts)?;
    observer.mesh(["prime", "--timeout", "30"])?;
    eventually(READY, || {
        ensure!(network(observer)? == network(one)?, "it is not in the network");
        Ok(())
    })?;
    let all =
        hosts.iter().map(|host| Ok(allocate(host, "second", PATIENCE)?)).collect::<Result<BTreeSet<_>>>()?;
    ensure!(all.len() == 3 && agreed(&hosts)?.values().sum::<u64>() == 256, "{all:?}");
    Ok(())
}
