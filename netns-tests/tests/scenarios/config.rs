//! The configuration file of a router: launched from it, changed while it runs.

use std::fs;

use anyhow::{Result, ensure};
use mesh_lab::{Host, Lab, Signal, eventually};

use crate::support::{READY, has_neighbours, status};

/// Writes the host's file and returns the option that names it.
fn write(host: &Host, directory: &tempfile::TempDir, contents: &str) -> Result<[String; 2]> {
    let path = directory.path().join(format!("{}.toml", host.label()));
    fs::write(&path, contents)?;
    Ok(["--config".to_owned(), path.display().to_string()])
}

fn logs(host: &Host, words: &str) -> Result<()> {
    let log = host.router_log();
    ensure!(log.contains(words), "{} does not log {words:?}", host.label());
    Ok(())
}

#[test]
fn a_router_is_launched_from_its_file_and_follows_what_can_change_in_it() -> Result<()> {
    let lab = Lab::new("toml")?;
    let directory = tempfile::tempdir()?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    fs::write(directory.path().join("secret"), "a long enough secret of this network\n")?;
    let common = "password-file = \"secret\"\nno-discovery = true\n";
    for host in [&h1, &h2] {
        let option = write(host, &directory, common)?;
        host.mesh_cmd(["launch"])?.args(option).run()?;
    }
    let peers = |peers: &[&Host], rest: &str| {
        let addresses: Vec<_> = peers.iter().map(|peer| format!("\"{}\"", peer.ip())).collect();
        format!("{common}peers = [{}]\n{rest}", addresses.join(", "))
    };
    let option = write(&h3, &directory, &peers(&[&h1], "mtu = 1300\nfoundation = 1\n"))?;
    let refused = h3.mesh_cmd(["launch"])?.args(&option).outcome()?;
    ensure!(refused.code() == Some(1) && refused.stderr.contains("h3.toml:5:1: unknown key"), "{refused:?}");
    write(&h3, &directory, &peers(&[&h1], "mtu = 1300\n"))?;
    // The option goes before the file.
    h3.mesh_cmd(["launch", "--mtu", "1310"])?.args(&option).run()?;
    eventually(READY, || has_neighbours(&h3, &["h1"]))?;
    let router = status(&h3)?.router;
    ensure!(router.mtu == 1310 && router.encryption && !router.discovery, "{router:?}");

    // What is wrong changes nothing, and is told with its place.
    write(&h3, &directory, &peers(&[&h2], "conn-limit = 0\n"))?;
    h3.kill_router(Signal::HUP)?;
    eventually(READY, || logs(&h3, "h3.toml:4:14: conn-limit '0'"))?;
    has_neighbours(&h3, &["h1"])?;

    // Peers and the log's level follow; a port does not, and the log says so.
    write(&h3, &directory, &peers(&[&h1, &h2], "log-level = \"debug\"\nport = 7000\n"))?;
    h3.kill_router(Signal::HUP)?;
    eventually(READY, || has_neighbours(&h3, &["h1", "h2"]))?;
    eventually(READY, || logs(&h3, "settings=\"port\""))?;
    eventually(READY, || logs(&h3, "level=Debug"))?;
    ensure!(status(&h3)?.router.port == 6783, "a port cannot change");
    let targets = |count: usize| -> Result<()> {
        let targets = h3.mesh(["status", "targets", "-o", "json"])?.json::<serde_json::Value>()?;
        ensure!(targets.as_array().is_some_and(|targets| targets.len() == count), "{targets}");
        Ok(())
    };
    targets(2)?;
    write(&h3, &directory, &peers(&[&h2], ""))?;
    h3.kill_router(Signal::HUP)?;
    eventually(READY, || targets(1))
}
