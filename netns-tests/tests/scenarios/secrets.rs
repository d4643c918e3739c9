//! What a password hides, and whom it keeps out.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use mesh_api::{ConnectionDocument, ConnectionState};
use mesh_lab::{Frames, Host, Lab, always, eventually, millis, secs};

use crate::support::{
    IFNAME, Member, READY, all_connected, all_ping, connections, launch, ordered_pairs, peers, status,
};

/// What the containers say to each other.
const PATTERN: &[u8; 32] = b"Ka7#qZ!2vLw9$Xr5&Tn3*Yb8^Uc1(Dm4";

/// So many bytes of the pattern in a row do not come about by chance.
const TRACE_BYTES: usize = 6;

const PASSWORD: &str = "Zw4-correct-horse-battery";

#[test]
fn without_a_password_the_payload_is_seen_on_the_underlay() -> Result<()> {
    for (host, frames) in underlay_of_a_conversation("clear", None)? {
        ensure!(
            frames.contains(PATTERN),
            "no payload in {} frames of {host}: the test is blind",
            frames.len()
        );
    }
    Ok(())
}

#[test]
fn with_a_password_no_byte_of_the_payload_is_seen_on_the_underlay() -> Result<()> {
    for (host, frames) in underlay_of_a_conversation("sealed", Some(PASSWORD))? {
        ensure!(frames.udp_port(6783) > 50, "only {} frames passed {host}", frames.udp_port(6783));
        for trace in PATTERN.windows(TRACE_BYTES).chain(PASSWORD.as_bytes().windows(TRACE_BYTES)) {
            ensure!(!frames.contains(trace), "{:?} passed {host} in clear", trace.escape_ascii().to_string());
        }
    }
    Ok(())
}

/// Three hosts launch, with the password from a file on the first and from the environment on the others; their
/// containers talk. Returns all that has passed each host meanwhile.
fn underlay_of_a_conversation(title: &str, password: Option<&str>) -> Result<Vec<(String, Frames)>> {
    let lab = Lab::new(title)?;
    let hosts = [lab.host("h1")?, lab.host("h2")?, lab.host("h3")?];
    let captures = hosts.iter().map(|host| lab.capture(host)).collect::<Result<Vec<_>>>()?;
    let file = tempfile::NamedTempFile::new()?;
    fs::set_permissions(file.path(), Permissions::from_mode(0o600))?;
    if let Some(password) = password {
        fs::write(file.path(), format!("{password}\n"))?;
        hosts[0].mesh_cmd(["launch", "--password-file"])?.arg(file.path()).run()?;
    } else {
        launch(&hosts[0], &[], None)?;
    }
    let first = [hosts[0].ip().to_string()];
    let two = Member::launch(&hosts[1], 2, &first, password)?;
    let three = Member::launch(&hosts[2], 3, &first, password)?;
    all_connected(&hosts.each_ref())?;
    for host in &hosts {
        ensure!(status(host)?.router.encryption == password.is_some(), "{}", host.label());
        let sealed = connections(host)?.iter().all(|found| found.encrypted == Some(password.is_some()));
        ensure!(sealed, "{}: {:?}", host.label(), connections(host)?);
    }
    let container = hosts[0].container("c")?;
    hosts[0].mesh(["attach", &container.spec(), "10.32.0.1/24"])?;
    all_ping(&[&two, &three])?;
    eventually(READY, || container.ping(two.ip))?;

    let hexadecimal: String = PATTERN[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    for ping in [two.ip, three.ip] {
        container.run([
            "ping",
            "-n",
            "-q",
            "-c",
            "5",
            "-i",
            "0.01",
            "-p",
            &hexadecimal,
            &ping.to_string(),
        ])?;
    }
    let _echo = container.echo_server(7)?;
    for (from, to) in ordered_pairs(&[&two, &three]) {
        let _echo = to.container.echo_server(7)?;
        from.container.echo((to.ip, 7).into(), &PATTERN.repeat(64))?;
        from.container.echo(([10, 32, 0, 1], 7).into(), &PATTERN.repeat(64))?;
        from.container.multicast_send("239.1.2.3:5000".parse()?, IFNAME, PATTERN)?;
    }
    let frames = captures.into_iter().map(mesh_lab::Capture::stop).collect::<Result<Vec<_>>>()?;
    Ok(hosts.iter().map(|host| host.label().to_owned()).zip(frames).collect())
}

#[test]
fn a_wrong_password_is_refused_and_both_sides_say_so() -> Result<()> {
    refuse_each_other("wrong", Some("the first password"), Some("the second password"))
}

#[test]
fn a_password_on_the_dialled_side_only_is_refused_and_both_sides_say_so() -> Result<()> {
    refuse_each_other("listener", Some("the only password"), None)
}

#[test]
fn a_password_on_the_dialling_side_only_is_refused_and_both_sides_say_so() -> Result<()> {
    refuse_each_other("dialler", None, Some("the only password"))
}

fn refuse_each_other(title: &str, dialled: Option<&str>, dialling: Option<&str>) -> Result<()> {
    let lab = Lab::new(title)?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let one = Member::launch(&h1, 1, &[], dialled)?;
    let two = Member::launch(&h2, 2, &[h1.ip().to_string()], dialling)?;

    for host in [&h1, &h2] {
        eventually(READY, || tells_of_the_password(host))?;
        let text = host.mesh(["status", "connections"])?.stdout;
        ensure!(text.contains("failed") && text.contains("password"), "{text}");
        ensure!(peers(host)?.len() == 1, "{:?}", peers(host)?);
    }
    always(secs(1), || one.container.ping(two.ip).is_err() && two.container.ping(one.ip).is_err())?;

    // Refused is not given up: with the right password, the next launch is let in.
    h2.mesh(["stop"])?;
    launch(&h2, &[h1.ip().to_string()], dialled)?;
    all_connected(&[&h1, &h2])?;
    eventually(millis(5000), || one.container.ping(two.ip))?;
    Ok(())
}

/// Wants a connection of state `failed` that names the other host and gives the password as the reason.
fn tells_of_the_password(host: &Host) -> Result<()> {
    let connections = connections(host)?;
    let failed = |found: &&ConnectionDocument| found.state == ConnectionState::Failed;
    let failed =
        connections.iter().find(failed).with_context(|| format!("nothing failed: {connections:?}"))?;
    let info = failed.info.as_deref().unwrap_or_default();
    ensure!(info.contains("password"), "{}: {info:?}", host.label());
    ensure!(failed.address.is_some(), "{}: {failed:?}", host.label());
    Ok(())
}
