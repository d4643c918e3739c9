//! Hosts on which a router cannot be: it says why, and leaves them as they were.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result, ensure};
use mesh_api::{ErrorKind, Failure};
use mesh_lab::{Host, Lab};

use crate::support::{hints_at, launch, mesh_binary, refused, refused_as};

/// The user `nobody`.
const NOBODY: &str = "65534";

/// Wants a launch to fail with status 1 and to leave no trace in the host's network and no process.
fn cannot_launch(lab: &Lab, host: &Host, launch: impl Fn() -> Result<Failure>) -> Result<Failure> {
    let before = host.network_state()?;
    let failure = launch()?;
    before.must_equal(&host.network_state()?)?;
    ensure!(lab.processes().is_empty(), "processes {:?} stay", lab.processes());
    for file in ["mesh.sock", "mesh.pid"] {
        ensure!(!host.run_dir().join(file).exists(), "{file} stays");
    }
    Ok(failure)
}

#[test]
fn a_bridge_name_that_is_in_use_is_refused() -> Result<()> {
    for (kind, arguments) in
        [("bridge", &["type", "bridge"][..]), ("veth", &["type", "veth", "peer", "name", "other"])]
    {
        let lab = Lab::new(kind)?;
        let host = lab.host("h1")?;
        host.cmd("ip").args(["link", "add", "mesh0"]).args(arguments).run()?;
        let failure = cannot_launch(&lab, &host, || refused(&host, 1, &["launch"]))?;
        ensure!(failure.kind == ErrorKind::InUse && failure.message.contains("mesh0"), "{failure:?}");
        hints_at(&failure, &["--bridge"])?;
        host.mesh(["launch", "--bridge", "mesh1"])?;
        host.mesh(["reset", "--force"])?;
    }
    Ok(())
}

#[test]
fn a_tap_name_that_is_in_use_is_refused() -> Result<()> {
    let lab = Lab::new("tap")?;
    let host = lab.host("h1")?;
    host.run(["ip", "link", "add", "mesh0-tap", "type", "bridge"])?;
    let failure = cannot_launch(&lab, &host, || refused(&host, 1, &["launch"]))?;
    ensure!(failure.message.contains("mesh0-tap"), "{failure:?}");
    Ok(())
}

#[test]
fn a_port_that_is_in_use_is_refused() -> Result<()> {
    let lab = Lab::new("ports")?;
    let host = lab.host("h1")?;
    let addresses =
        [SocketAddr::from((Ipv4Addr::UNSPECIFIED, 6783)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 6783))];
    for address in addresses {
        let taken = host.enter(|| TcpListener::bind(address))??;
        let failure = cannot_launch(&lab, &host, || refused(&host, 1, &["launch"]))?;
        ensure!(
            failure.kind == ErrorKind::InUse && failure.message.contains("6783"),
            "TCP {address}: {failure:?}"
        );
        hints_at(&failure, &["--port"])?;
        drop(taken);

        let taken = host.enter(|| UdpSocket::bind(address))??;
        let failure = cannot_launch(&lab, &host, || refused(&host, 1, &["launch"]))?;
        ensure!(
            failure.kind == ErrorKind::InUse && failure.message.contains("6783"),
            "UDP {address}: {failure:?}"
        );
        hints_at(&failure, &["--port"])?;
        host.mesh(["launch", "--port", "7000"])?;
        host.mesh(["reset", "--force"])?;
        drop(taken);
    }
    Ok(())
}

#[test]
fn an_address_that_is_not_the_hosts_is_refused() -> Result<()> {
    let lab = Lab::new("listen")?;
    let host = lab.host("h1")?;
    for address in ["10.77.0.1", "fd77::1"] {
        let failure = cannot_launch(&lab, &host, || refused(&host, 1, &["launch", "--listen", address]))?;
        hints_at(&failure, &["--listen"])?;
    }
    Ok(())
}

#[test]
fn without_root_a_launch_is_refused() -> Result<()> {
    let lab = Lab::new("nobody")?;
    let host = lab.host("h1")?;
    let directory = tempfile::tempdir()?;
    let failure = cannot_launch(&lab, &host, || {
        refused_as(1, |format| Ok(as_nobody(&host, directory.path())?.args(["launch"]).args(format)))
    })?;
    ensure!(failure.kind == ErrorKind::Permission, "{failure:?}");
    hints_at(&failure, &["sudo", "root"])?;

    // Nor may others command a router that is there.
    launch(&host, &[], None)?;
    for command in [&["status"][..], &["stop"], &["reset", "--force"]] {
        let nobody =
            || refused_as(1, |format| Ok(as_nobody(&host, &host.run_dir())?.args(command).args(format)));
        let failure = nobody()?;
        ensure!(failure.kind == ErrorKind::Permission && failure.hint.is_some(), "{command:?}: {failure:?}");
    }
    host.mesh(["status"])?;
    Ok(())
}

/// `mesh`, run by a user without any rights, with this run directory.
fn as_nobody(host: &Host, run_dir: &std::path::Path) -> Result<mesh_lab::Cmd> {
    let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
    let command = host.cmd("setpriv").args([&user, &group, "--clear-groups"]).arg(mesh_binary()?);
    Ok(command.env("MESH_RUN_DIR", run_dir).env("MESH_STATE_DIR", host.state_dir()))
}

#[test]
fn without_dev_net_tun_a_launch_is_refused_with_what_to_do() -> Result<()> {
    let lab = Lab::new("notun")?;
    let host = lab.host("h1")?;
    let binary = mesh_binary()?;
    let script = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let failure = cannot_launch(&lab, &host, || {
        refused_as(1, |format| {
            let hidden = host.cmd("unshare").args(["--mount", "sh", "-c", script, "sh"]).arg(&binary);
            let hidden = hidden.env("MESH_RUN_DIR", host.run_dir()).env("MESH_STATE_DIR", host.state_dir());
            Ok(hidden.args(["launch"]).args(format))
        })
    })?;
    ensure!(failure.message.contains("/dev/net/tun"), "{failure:?}");
    hints_at(&failure, &["modprobe tun", "/dev/net/tun", "--capture pcap"])
}

#[test]
fn a_damaged_identity_is_refused_and_left_as_it_is() -> Result<()> {
    let lab = Lab::new("identity")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    host.mesh(["stop"])?;
    let path = host.state_dir().join("identity");
    let whole = std::fs::read(&path).context("the identity lies in the state directory")?;
    std::fs::write(&path, &whole[..whole.len() / 2])?;

    let failure = refused(&host, 1, &["launch"])?;

    ensure!(failure.message.contains("identity") && failure.hint.is_some(), "{failure:?}");
    ensure!(std::fs::read(&path)? == whole[..whole.len() / 2], "the file was touched");
    Ok(())
}
