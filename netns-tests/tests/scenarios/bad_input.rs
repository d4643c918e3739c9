//! What is wrong with a command is said in words that help, and nothing has changed afterwards.

use anyhow::{Context, Result, ensure};
use mesh_lab::{Container, Host, Lab, NetworkState};

use crate::support::{hints_at, launch, refused, refused_as};

#[test]
fn a_malformed_command_line_is_refused_with_status_2_before_anything_is_done() -> Result<()> {
    let lab = Lab::new("usage")?;
    let host = lab.host("h1")?;
    let before = host.network_state()?;
    let name = "n".repeat(65);
    let commands: &[&[&str]] = &[
        &["sing"],
        &["launch", "--sing"],
        &["launch", "--password", "secret"],
        &["status", "weather"],
        &["status", "--timeout", "0"],
        &["status", "--timeout", "soon"],
        &["completion", "klingon"],
        &["attach"],
        &["detach"],
        &["launch", "--port", "0"],
        &["launch", "--port", "-1"],
        &["launch", "--port", "65536"],
        &["launch", "--port", "many"],
        &["launch", "--listen", "here"],
        &["launch", "--listen", "10.0.0.1:6783"],
        &["launch", "--listen", "10.0.0.0/8"],
        &["launch", "--mtu", "0"],
        &["launch", "--mtu", "100"],
        &["launch", "--mtu", "70000"],
        &["launch", "--mtu", "small"],
        &["launch", "--nickname", ""],
        &["launch", "--nickname", "a b"],
        &["launch", "--nickname", "a\u{1b}[31m"],
        &["launch", "--nickname", &name],
        &["launch", "--bridge", ""],
        &["launch", "--bridge", "a/b"],
        &["launch", "--bridge", ".."],
        &["launch", "--bridge", "a b"],
        &["launch", "--bridge", "twelve-bytes"],
        &["launch", "--log-level", "loud"],
        &["launch", "--log-format", "xml"],
        &["launch", ""],
        &["launch", ":6783"],
        &["launch", "h1:"],
        &["launch", "h1:0"],
        &["launch", "h1:65536"],
        &["launch", "h1:port"],
        &["launch", "h 1"],
        &["launch", "h1-"],
        &["launch", "256.0.0.1"],
        &["launch", "10.0.0"],
        &["launch", "[::1"],
        &["launch", "[::g]:6783"],
        &["launch", "[::1]6783"],
        &["launch", "h1/24"],
        &["attach", "", "10.32.0.1/24"],
        &["attach", "netns:", "10.32.0.1/24"],
        &["attach", "netns:..", "10.32.0.1/24"],
        &["attach", "netns:a/b", "10.32.0.1/24"],
        &["attach", "netns:/a/../b", "10.32.0.1/24"],
        &["attach", "pid:", "10.32.0.1/24"],
        &["attach", "pid:0", "10.32.0.1/24"],
        &["attach", "pid:-1", "10.32.0.1/24"],
        &["attach", "pid:init", "10.32.0.1/24"],
        &["attach", "pid:99999999999", "10.32.0.1/24"],
        &["attach", "netns:c", "10.32.0.1"],
        &["attach", "netns:c", "10.32.0.1/"],
        &["attach", "netns:c", "10.32.0.1/33"],
        &["attach", "netns:c", "10.32.0/24"],
        &["attach", "netns:c", "10.32.0.1/-1"],
        &["attach", "netns:c", "10.32.0.256/24"],
        &["attach", "netns:c", "fd00::1/129"],
        &["attach", "netns:c", "fd00::g/64"],
        &["attach", "netns:c", "somewhere"],
        &["attach", "netns:c", ""],
        &["attach", "netns:c", "10.32.0.1/24", "--ifname", ""],
        &["attach", "netns:c", "10.32.0.1/24", "--ifname", "a/b"],
        &["attach", "netns:c", "10.32.0.1/24", "--ifname", ".."],
        &["attach", "netns:c", "10.32.0.1/24", "--ifname", "sixteen-bytes-xx"],
        &["detach", "pid:x"],
        &["detach", "netns:c", "10.32.0.1"],
        &["detach", "netns:c", "nowhere/24"],
    ];
    for arguments in commands {
        let failure = refused(&host, 2, arguments)?;
        ensure!(!failure.message.contains('\u{1b}'), "{arguments:?} is told with its escapes");
    }
    ensure!(!host.run_dir().exists() && !host.state_dir().exists(), "a directory was made");
    before.must_equal(&host.network_state()?)
}

#[test]
fn all_that_is_wrong_with_a_launch_is_told_at_once() -> Result<()> {
    let lab = Lab::new("all")?;
    let host = lab.host("h1")?;
    let failure =
        refused(&host, 2, &["launch", "--port", "0", "--mtu", "1", "--bridge", "a/b", "h1:0", "h 2"])?;
    for part in ["--port", "--mtu", "--bridge", "h1:0", "h 2"] {
        ensure!(failure.message.contains(part), "no word about {part}: {failure:?}");
    }
    hints_at(&failure, &["--help"])
}

#[test]
fn a_password_that_cannot_be_used_is_refused_and_not_shown() -> Result<()> {
    let lab = Lab::new("passwords")?;
    let host = lab.host("h1")?;
    let long = "secret".repeat(200);
    for password in ["", long.as_str()] {
        let failure = refused_as(1, |format| {
            Ok(host.mesh_cmd(["launch"].iter().chain(format))?.env("MESH_PASSWORD", password))
        })?;
        ensure!(failure.message.contains("password") && !failure.message.contains("secret"), "{failure:?}");
    }
    let directory = host.state_dir().display().to_string();
    for path in ["/nonexistent/password", "/", directory.as_str()] {
        let failure = refused(&host, 1, &["launch", "--password-file", path])?;
        ensure!(failure.message.contains("--password-file"), "{failure:?}");
    }
    host.mesh_fails(3, ["status"])?;
    Ok(())
}

#[test]
fn containers_of_a_runtime_that_is_left_alone_or_absent_are_refused_with_a_hint() -> Result<()> {
    let lab = Lab::new("runtimes")?;
    let host = lab.host("h1")?;
    let absent = host.state_dir().join("no.sock");
    launch(&host, &["--podman-socket".to_owned(), absent.display().to_string()], None)?;
    for (status, arguments) in [
        (1, &["attach", "docker:web", "10.32.0.1/24"][..]),
        (1, &["attach", "podman:web", "10.32.0.1/24"]),
        (4, &["attach", "web", "10.32.0.1/24"]),
        (4, &["detach", "docker:web"]),
        (4, &["detach", "web"]),
        (4, &["ps", "web"]),
    ] {
        let failure = refused(&host, status, arguments)?;
        ensure!(failure.hint.is_some(), "{failure:?}");
    }
    Ok(())
}

/// A running router with one container that is not attached, and a picture of both.
struct Bench {
    host: Host,
    container: Container,
    before: [NetworkState; 2],
    _lab: Lab,
}

impl Bench {
    fn set_up(title: &str, prepare: impl Fn(&Host, &Container) -> Result<()>) -> Result<Self> {
        let lab = Lab::new(title)?;
        let host = lab.host("h1")?;
        launch(&host, &[], None)?;
        let container = host.container("c")?;
        prepare(&host, &container)?;
        let before = [host.network_state()?, container.network_state()?];
        Ok(Self { host, container, before, _lab: lab })
    }

    fn must_be_unchanged(&self) -> Result<()> {
        self.before[0].must_equal(&self.host.network_state()?)?;
        self.before[1].must_equal(&self.container.network_state()?)?;
        self.host.mesh(["status"])?;
        Ok(())
    }
}

#[test]
fn a_container_that_is_not_there_is_not_known() -> Result<()> {
    let bench = Bench::set_up("unknown", |_, _| Ok(()))?;
    let ended = bench.host.spawn(["true"])?;
    let dead = format!("pid:{}", ended.pid());
    ended.wait(mesh_lab::secs(5))?;
    for container in ["netns:no-such-namespace", "netns:/no/such/path", &dead] {
        for command in [&["attach", container, "10.32.0.1/24"][..], &["detach", container]] {
            let failure = refused(&bench.host, 4, command)?;
            ensure!(failure.hint.is_some(), "{failure:?}");
        }
    }
    let failure = refused(&bench.host, 4, &["detach", &bench.container.spec()])?;
    ensure!(failure.message.contains("not attached"), "{failure:?}");
    bench.must_be_unchanged()
}

#[test]
fn what_is_no_containers_namespace_is_refused() -> Result<()> {
    let bench = Bench::set_up("namespaces", |_, _| Ok(()))?;
    let pid = bench.host.router_pid()?;
    for container in [
        "netns:/etc/passwd".to_owned(),
        "netns:/etc".to_owned(),
        "netns:/dev/null".to_owned(),
        format!("netns:/proc/{pid}/ns/mnt"),
        format!("netns:/proc/{pid}/ns/net"),
        format!("pid:{pid}"),
        bench.host.spec(),
    ] {
        let failure = refused(&bench.host, 1, &["attach", &container, "10.32.0.1/24"])?;
        ensure!(failure.hint.is_some(), "{failure:?}");
    }
    bench.must_be_unchanged()
}

#[test]
fn an_address_that_no_container_can_have_is_refused() -> Result<()> {
    let bench = Bench::set_up("addresses", |_, _| Ok(()))?;
    for address in [
        "0.0.0.0/0",
        "0.1.2.3/8",
        "10.32.0.0/24",
        "10.32.0.255/24",
        "10.32.0.1/0",
        "127.0.0.1/8",
        "224.0.0.1/24",
        "255.255.255.255/32",
        "::/64",
        "::1/128",
        "ff02::1/64",
        "fd00::/64",
    ] {
        let failure = refused(&bench.host, 1, &["attach", &bench.container.spec(), address])?;
        ensure!(failure.message.contains(address), "{failure:?}");
        // A good one beside it is not attached either.
        refused(&bench.host, 1, &["attach", &bench.container.spec(), "10.40.0.1/24", address])?;
    }
    bench.must_be_unchanged()
}

#[test]
fn an_address_that_is_there_already_with_another_prefix_is_refused() -> Result<()> {
    let bench = Bench::set_up("twice", |host, container| {
        host.mesh(["attach", &container.spec(), "10.32.0.1/24"])?;
        container.run(["ip", "address", "add", "10.50.0.1/24", "dev", "lo"])?;
        Ok(())
    })?;
    let container = bench.container.spec();
    for addresses in [
        &["10.33.0.1/24", "10.33.0.1/16"][..],
        &["10.32.0.1/12"],
        &["10.50.0.1/24"],
        &["10.33.0.1/24", "10.32.0.1/16"],
    ] {
        let arguments: Vec<_> = ["attach", container.as_str()].iter().chain(addresses).copied().collect();
        refused(&bench.host, 1, &arguments)?;
    }
    refused(&bench.host, 4, &["detach", &container, "10.60.0.1/24"])?;
    bench.must_be_unchanged()
}

#[test]
fn an_interface_that_the_container_has_already_is_refused() -> Result<()> {
    let bench = Bench::set_up("taken", |_, container| {
        container.run(["ip", "link", "add", "ethmesh", "type", "bridge"])?;
        Ok(())
    })?;
    let failure = refused(&bench.host, 1, &["attach", &bench.container.spec(), "10.32.0.1/24"])?;
    hints_at(&failure, &["--ifname"])?;
    bench.must_be_unchanged()
}

#[test]
fn a_container_without_ipv6_is_refused_an_ipv6_address() -> Result<()> {
    let bench = Bench::set_up("noipv6", |_, container| {
        for interfaces in ["all", "default"] {
            container.set_sysctl(&format!("net.ipv6.conf.{interfaces}.disable_ipv6"), "1")?;
        }
        Ok(())
    })?;
    let container = bench.container.spec();
    let failure = refused(&bench.host, 1, &["attach", &container, "10.32.0.1/24", "fd32::1/64"])?;
    hints_at(&failure, &["disable_ipv6"])?;
    bench.must_be_unchanged()?;
    bench.host.mesh(["attach", &container, "10.32.0.1/24"]).context("IPv4 alone")?;
    Ok(())
}
