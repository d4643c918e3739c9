//! Every command with `-o json`: one document on standard output, with the keys of the contract.

use anyhow::{Result, ensure};
use mesh_api::{
    AttachDocument, ConnectionDocument, ConnectionState, DetachDocument, LaunchDocument, MacDocument,
    PeerDocument, ResetDocument, StatusDocument, StopDocument, TargetDocument,
};
use mesh_lab::{Lab, eventually};
use serde_json::Value;

use crate::support::{READY, all_connected, all_ping, chain, launch, refused, words};

#[test]
fn launch_attach_detach_stop_and_reset_answer_in_json() -> Result<()> {
    let lab = Lab::new("documents")?;
    let host = lab.host("h1")?;
    let container = host.container("c")?;

    let launched: LaunchDocument = host.mesh(["launch", "-o", "json"])?.json()?;
    ensure!(launched.nickname == "h1" && launched.pid == host.router_pid()?, "{launched:?}");
    let hexadecimal = launched.peer_id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    ensure!(launched.peer_id.len() == 12 && hexadecimal, "{launched:?}");

    let attach = ["attach", "-o", "json", &container.spec(), "10.32.0.1/12"];
    let attached: AttachDocument = host.mesh(attach)?.json()?;
    ensure!(attached.container == container.spec() && attached.interface == "ethmesh", "{attached:?}");
    ensure!(attached.addresses == ["10.32.0.1/12".parse()?] && attached.names.is_empty(), "{attached:?}");

    let detached: DetachDocument = host.mesh(["detach", "-o", "json", &container.spec()])?.json()?;
    ensure!(detached.addresses == ["10.32.0.1/12".parse()?], "{detached:?}");

    let stopped: StopDocument = host.mesh(["stop", "-o", "json"])?.json()?;
    ensure!(stopped.pid == launched.pid, "{stopped:?}");

    let reset: ResetDocument = host.mesh(["reset", "--force", "-o", "json"])?.json()?;
    ensure!(reset.pid.is_none() && !reset.removed.is_empty(), "{reset:?}");
    Ok(())
}

#[test]
fn each_view_of_status_answers_in_json_and_in_text() -> Result<()> {
    let (_lab, [one, two]) = chain("views", None)?;
    all_ping(&[&one, &two])?;
    let view = |name: &str| two.host.mesh(["status", name, "-o", "json"]);

    let status: StatusDocument = two.host.mesh(["status", "-o", "json"])?.json()?;
    ensure!(status.router.peer_id == two.peer_id && status.router.port == 6783, "{status:?}");
    ensure!(status.router.bridge == "mesh0" && !status.router.encryption, "{status:?}");
    let peers: Vec<PeerDocument> = view("peers")?.json()?;
    ensure!(peers.iter().filter(|peer| peer.is_self).count() == 1, "{peers:?}");
    let connections: Vec<ConnectionDocument> = view("connections")?.json()?;
    ensure!(connections.len() == 1 && connections[0].peer_id == Some(one.peer_id.clone()), "{connections:?}");
    let targets: Vec<TargetDocument> = view("targets")?.json()?;
    let target = format!("{}:6783", one.host.ip());
    ensure!(targets.iter().any(|found| found.target == target), "{targets:?}");
    let macs: Vec<MacDocument> = view("macs")?.json()?;
    let mac = macs.iter().find(|found| found.mac == one.mac);
    ensure!(mac.is_some_and(|found| found.peer_id == one.peer_id), "{macs:?}");

    for (arguments, word) in [
        (vec!["status"], two.peer_id.as_str()),
        (vec!["status", "peers"], one.peer_id.as_str()),
        (vec!["status", "connections"], "established"),
        (vec!["status", "targets"], target.as_str()),
        (vec!["status", "macs"], one.mac.as_str()),
    ] {
        let text = two.host.mesh(&arguments)?.stdout;
        ensure!(text.contains(word), "{arguments:?} prints no {word}:\n{text}");
        ensure!(!text.contains('\u{1b}'), "{arguments:?} prints colour to a file:\n{text}");
    }
    Ok(())
}

#[test]
fn version_and_completion_need_no_router() -> Result<()> {
    let lab = Lab::new("version")?;
    let host = lab.host("h1")?;
    let version: Value = host.mesh(["version", "-o", "json"])?.json()?;
    let version = version["version"].as_str().unwrap_or_default().to_owned();
    ensure!(!version.is_empty() && host.mesh(["version"])?.stdout.contains(&version), "{version:?}");
    for shell in ["bash", "zsh", "fish"] {
        ensure!(host.mesh(["completion", shell])?.stdout.contains("launch"), "{shell}");
    }
    Ok(())
}

#[test]
fn a_peer_that_cannot_be_resolved_or_reached_is_tried_again_and_shown() -> Result<()> {
    let lab = Lab::new("targets")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let (late, unknown) = (h2.ip().to_string(), "no-such-host.invalid");
    h1.mesh(["launch", &late, unknown])?;

    let targets = || -> Result<Vec<TargetDocument>> { h1.mesh(["status", "targets", "-o", "json"])?.json() };
    eventually(READY, || {
        let targets = targets()?;
        ensure!(targets.len() == 2, "{targets:?}");
        let waits = |target: &TargetDocument| {
            target.state == ConnectionState::Retrying && target.last_error.is_some()
        };
        ensure!(targets.iter().all(waits), "{targets:?}");
        Ok(())
    })?;

    // The late one is dialled until it is there; the other one does not keep it from that.
    h2.mesh(["launch"])?;
    all_connected(&[&h1, &h2])
}

/// Study, rows 231 to 247: what is not there, and what is done twice, is told by the status that the contract has for it.
#[test]
fn what_is_asked_for_in_vain_or_twice_ends_with_the_status_that_says_so() -> Result<()> {
    let lab = Lab::new("vain")?;
    let host = lab.host("h1")?;
    launch(&host, &words(["--ipam-range", "10.40.0.0/24"]), None)?;
    let container = host.container("c")?;
    let spec = container.spec();
    for (status, command) in [
        (4, &["forget", "192.0.2.1"][..]),
        (4, &["detach", &spec]),
        (4, &["ps", &spec]),
        (4, &["ipam", "lookup", "nobody"]),
        (4, &["ipam", "release", "nobody"]),
        (4, &["dns", "lookup", "nobody"]),
        (4, &["dns", "remove", "nobody"]),
        (4, &["rmpeer", "nobody"]),
        (2, &["status", "nothing"]),
        (2, &["ipam", "claim", "me", "10.40.0.9"]),
    ] {
        refused(&host, status, command)?;
    }
    // The same once more is the same.
    for command in [
        &["ipam", "allocate", "me"][..],
        &["ipam", "claim", "you", "10.40.0.9/24"],
        &["attach", &spec, "10.40.0.10/24"],
        &["expose", "10.40.0.11/24"],
        &["dns", "add", "db", "192.0.2.9"],
        &["connect", "192.0.2.1"],
    ] {
        let first = host.mesh(command)?.stdout;
        ensure!(host.mesh(command)?.stdout == first, "{command:?} says something else the second time");
    }
    // Somebody else's is nobody's to have.
    let failure = refused(&host, 1, &["ipam", "claim", "other", "10.40.0.9/24"])?;
    ensure!(failure.message.contains("10.40.0.9") && failure.message.contains("you"), "{failure:?}");
    for (command, status) in [
        (&["hide"][..], 0),
        (&["detach", &spec], 4),
        (&["ipam", "release", "me"], 4),
        (&["dns", "remove", "db"], 4),
        (&["forget", "192.0.2.1"], 4),
    ] {
        host.mesh(command)?;
        let again = host.mesh_cmd(command)?.outcome()?;
        ensure!(again.code() == Some(status), "{command:?} ends with {:?} the second time", again.code());
    }
    Ok(())
}
