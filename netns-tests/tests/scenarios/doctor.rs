//! `mesh doctor` and `mesh report`: what they find, and what they do not show.

use std::fs;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Lab, eventually};
use serde_json::Value;

use crate::support::{READY, has_neighbours, launch, words};

const PASSWORD: &str = "Qx7-a-secret-that-nobody-shows";

/// What the doctor says, and whether a check failed.
fn findings(host: &Host, arguments: &[&str]) -> Result<(Vec<Value>, bool)> {
    let output = host.mesh_cmd(["doctor", "-o", "json", "--timeout", "30"])?.args(arguments).outcome()?;
    let document: Value = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    let failed = output.code() == Some(1);
    ensure!(failed != (document["healthy"] == true) && (failed || output.code() == Some(0)), "{output:?}");
    let checks = document["checks"].as_array().context("checks")?.clone();
    for check in &checks {
        let remedied =
            check["result"] == "ok" || check["remedy"].as_str().is_some_and(|text| !text.is_empty());
        ensure!(remedied, "no remedy: {check}");
    }
    Ok((checks, failed))
}

/// Wants a finding of this check with this result and these words.
fn finds(checks: &[Value], check: &str, result: &str, words: &str) -> Result<()> {
    let matches = |found: &&Value| {
        found["check"] == check
            && found["result"] == result
            && found["message"].as_str().is_some_and(|message| message.contains(words))
    };
    checks
        .iter()
        .find(matches)
        .map(|_| ())
        .with_context(|| format!("no {check} {result} {words:?} in {checks:#?}"))
}

#[test]
fn a_host_that_is_fit_is_told_so_before_and_while_a_router_runs() -> Result<()> {
    let lab = Lab::new("fit")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let (checks, failed) = findings(&h1, &[])?;
    ensure!(!failed, "{checks:#?}");
    for port in ["TCP 6783", "UDP 6783", "UDP 6784", "TCP 6782"] {
        finds(&checks, "ports", "ok", port)?;
    }
    finds(&checks, "router", "ok", "none is running")?;
    launch(&h1, &[], Some(PASSWORD))?;
    let (checks, failed) = findings(&h2, &[&h1.ip().to_string()])?;
    ensure!(!failed, "{checks:#?}");
    finds(&checks, "peer", "ok", "TCP answers")?;
    launch(&h2, &[h1.ip().to_string()], Some(PASSWORD))?;
    eventually(READY, || {
        let (checks, failed) = findings(&h2, &[])?;
        ensure!(!failed, "{checks:#?}");
        finds(&checks, "ports", "ok", "belong to the router")?;
        finds(&checks, "peer", "ok", "frames pass")
    })?;
    let human = h2.mesh(["doctor"])?.stdout;
    ensure!(human.starts_with("CHECK") && human.contains("  ok "), "{human}");
    Ok(())
}

#[test]
fn what_is_wrong_is_told_with_a_remedy() -> Result<()> {
    let lab = Lab::new("unfit")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let peer = h1.ip().to_string();
    let taken = h2.cmd("socat").args(["TCP-LISTEN:6783,fork", "EXEC:true"]).spawn()?;
    eventually(READY, || {
        let (checks, failed) = findings(&h2, &[&peer])?;
        ensure!(failed, "{checks:#?}");
        finds(&checks, "ports", "fail", "TCP 6783 belongs to another program")
    })?;
    drop(taken);
    let (checks, _) = findings(&h2, &[&peer, "no-such-host.invalid"])?;
    finds(&checks, "peer", "fail", "TCP")?;
    finds(&checks, "peer", "fail", "has no address")?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), "prot = 1\n")?;
    let (checks, failed) = findings(&h2, &["--config", file.path().to_str().context("a path")?])?;
    ensure!(failed, "{checks:#?}");
    finds(&checks, "configuration", "fail", "did you mean 'port'?")?;

    // A firewall that lets TCP through and UDP not.
    let rules = "table inet t { chain c { type filter hook input priority 0; udp dport 6783 drop; }; }";
    h1.run(["nft", rules])?;
    launch(&h1, &[], None)?;
    launch(&h2, &[peer], None)?;
    eventually(READY, || {
        let (checks, failed) = findings(&h2, &[])?;
        ensure!(failed, "{checks:#?}");
        finds(&checks, "peer", "fail", "no frames pass over UDP")?;
        finds(&checks, "router", "warn", "no password")
    })
}

#[test]
fn a_report_has_every_view_and_the_secret_is_seen_nowhere() -> Result<()> {
    let lab = Lab::new("secret")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n"))?;
    let debug = words(["--log-level", "debug"]);
    launch(&h1, &debug, Some(PASSWORD))?;
    let of_file =
        ["--password-file", file.to_str().context("a path")?, &h1.ip().to_string()].map(str::to_owned);
    launch(&h2, &[debug, of_file.to_vec()].concat(), None)?;
    eventually(READY, || has_neighbours(&h1, &["h2"]))?;
    for host in [&h1, &h2] {
        let report = host.mesh(["report"])?.stdout;
        let document: Value = serde_json::from_str(&report)?;
        for key in ["program", "status", "peers", "connections", "targets", "ipam", "routes", "macs"] {
            ensure!(!document[key].is_null() && document[key]["error"].is_null(), "{key}: {document}");
        }
        let pid = host.router_pid()?;
        let of_process = ["cmdline", "environ"].map(|name| fs::read(format!("/proc/{pid}/{name}")));
        let metrics = host.run(["curl", "-s", "http://127.0.0.1:6782/metrics"])?.stdout;
        let doctor = host.mesh(["doctor"])?.stdout;
        let mut places = vec![report, host.router_log(), metrics, doctor];
        for bytes in of_process {
            places.push(String::from_utf8_lossy(&bytes?).into_owned());
        }
        for place in places {
            ensure!(!place.is_empty() && !place.contains(PASSWORD), "{}: {place}", host.label());
        }
        let socket = fs::metadata(host.run_dir().join("mesh.sock"))?;
        let directory = fs::metadata(host.run_dir())?;
        use std::os::unix::fs::PermissionsExt;
        ensure!(directory.permissions().mode() & 0o777 == 0o700, "{:o}", directory.permissions().mode());
        ensure!(socket.permissions().mode() & 0o077 == 0, "{:o}", socket.permissions().mode());
    }
    Ok(())
}
