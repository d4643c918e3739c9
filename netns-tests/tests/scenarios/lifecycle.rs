//! A router from its launch to its end, by the rows of the study of Weave Net (section 1.A) that no other scenario shows.

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Signal, eventually};
use serde_json::Value;

use crate::support::{READY, all_ping, chain, launch, words};

/// Rows 17 and 19: a router is killed, and what it has made is taken away in part or wholly before the next one comes.
#[test]
fn what_was_taken_from_a_dead_router_is_there_again_after_the_launch() -> Result<()> {
    let (_lab, [one, two]) = chain("ruins", None)?;
    all_ping(&[&one, &two])?;
    // Interfaces that are made anew have other addresses of their own, and namespaces are the whole machine's.
    let state = || -> Result<Vec<String>> {
        let (lines, own) = (one.host.network_state()?.lines().to_vec(), one.host.mac("mesh0")?);
        let is_own = |line: &&String| {
            line.starts_with("namespace ")
                || line.starts_with("link ")
                    && [".address = ", ".bridge_id = ", ".root_id = "].iter().any(|key| line.contains(key))
        };
        let lasting = lines.iter().filter(|line| !is_own(line));
        Ok(lasting.map(|line| line.replace(&own, "the bridge's")).collect())
    };
    let before = state()?;
    let port = one.host.run(["ip", "-br", "link", "show", "master", "mesh0", "type", "veth"])?.stdout;
    let port = port.split(['@', ' ']).next().context("the container's port")?.to_owned();
    for ruin in [
        "ip link set mesh0 down",
        "ip link set mesh0 down && nft flush ruleset",
        "ip link set mesh0 mtu 576 && ip link set mesh0-vx nomaster",
        "ip link delete mesh0-vx",
        "ip link delete mesh0",
        &format!("ip link set {port} nomaster"),
        &format!("ip link delete {port}"),
        &format!("ip link delete mesh0 && ip link delete {port} && nft flush ruleset"),
    ] {
        one.host.kill_router(Signal::KILL)?;
        one.host.run(["sh", "-c", ruin])?;
        let launched = launch(&one.host, &[two.host.ip().to_string()], None)?;
        ensure!(launched.peer_id == one.peer_id, "{ruin}: {launched:?}");
        all_ping(&[&one, &two]).context(ruin.to_owned())?;
        eventually(READY, || {
            let after = state()?;
            let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
            let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
            ensure!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}, new: {new:#?}");
            Ok(())
        })
        .context(ruin.to_owned())?;
    }
    Ok(())
}

/// Row 21.
#[test]
fn a_log_is_as_long_as_was_asked_for_and_of_the_form_that_was_asked_for() -> Result<()> {
    let lab = Lab::new("logs")?;
    for (number, (level, shown, hidden)) in
        [("warn", "WARN", "INFO"), ("info", "INFO", "DEBUG"), ("debug", "DEBUG", "TRACE")]
            .into_iter()
            .enumerate()
    {
        let host = lab.host(&format!("text{number}"))?;
        launch(&host, &words(["--log-level", level]), None)?;
        host.mesh(["status"])?;
        let log = host.router_log();
        let levels: Vec<_> = log.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        ensure!(levels.contains(&shown) && !levels.contains(&hidden), "{level}: {log}");
        // Row 265: each line begins with its time.
        let timed =
            |line: &str| line.get(..4).is_some_and(|year| year.bytes().all(|byte| byte.is_ascii_digit()));
        ensure!(log.lines().all(timed), "{log}");
    }
    let host = lab.host("json")?;
    launch(&host, &words(["--log-format", "json"]), None)?;
    let log = host.router_log();
    ensure!(!log.is_empty(), "nothing is logged");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    Ok(())
}
