//! Running routers: with a script in place of the binary, since the lab is tested without `mesh`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use mesh_lab::{Host, Lab, Signal, eventually, secs};

/// Behaves like `mesh` as far as the lab can tell. A killed process may be a zombie for a while, which `kill -0`
/// takes for alive.
const SCRIPT: &str = r#"#!/bin/sh
pidfile="$MESH_RUN_DIR/mesh.pid"
case "$1" in
launch)
    mkdir -p "$MESH_RUN_DIR" "$MESH_STATE_DIR"
    setsid sleep 600 &
    echo $! > "$pidfile"
    echo "INFO started" >> "$MESH_STATE_DIR/mesh.log"
    echo "{\"pid\": $!, \"nickname\": \"$MESH_NICKNAME\"}" ;;
status)
    grep -q '^State:.[SR]' "/proc/$(cat "$pidfile")/status" 2>/dev/null || { echo "error: no router" >&2; exit 3; } ;;
names)
    exec cat /etc/hosts ;;
uptime)
    exec cut -d. -f1 /proc/uptime ;;
print-secret)
    printf '%s %s' "$MESH_PASSWORD" "$(cat)" ;;
esac
"#;

fn host_with_script(lab: &Lab, directory: &tempfile::TempDir, name: &str) -> Result<Host> {
    let script = directory.path().join("mesh");
    fs::write(&script, SCRIPT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let host = lab.host(name)?;
    host.use_binary(script);
    Ok(host)
}

#[test]
fn each_host_runs_a_router_of_its_own_that_can_be_found_and_killed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let lab = Lab::new("routers")?;
    let (a, b) = (host_with_script(&lab, &directory, "a")?, host_with_script(&lab, &directory, "b")?);
    a.mesh_fails(3, ["status"])?;
    assert!(a.router_pid().is_err());

    let launched: BTreeMap<String, serde_json::Value> = a.mesh(["launch"])?.json()?;
    b.mesh(["launch", &a.ip().to_string()])?;
    assert_eq!(launched["nickname"], "a");
    assert_eq!(launched["pid"], a.router_pid()?);
    assert_eq!(a.processes(), [a.router_pid()?]);
    assert_ne!(a.router_pid()?, b.router_pid()?);
    a.mesh(["status"])?;
    assert!(a.mesh_fails(1, ["status"]).is_err());

    a.kill_router(Signal::KILL)?;
    assert!(a.processes().is_empty());
    assert!(a.router_pid().is_err());
    a.mesh_fails(3, ["status"])?;
    b.mesh(["status"])?;
    assert_eq!(b.router_log(), "INFO started\n");
    Ok(())
}

#[test]
fn a_stopped_router_stays_until_it_is_continued() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let lab = Lab::new("stopped")?;
    let a = host_with_script(&lab, &directory, "a")?;
    a.mesh(["launch"])?;
    let pid = a.router_pid()?;
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();

    a.kill_router(Signal::STOP)?;
    eventually(secs(2), || state().contains(") T "))?;
    a.kill_router(Signal::CONT)?;
    eventually(secs(2), || state().contains(") S "))?;
    Ok(())
}

#[test]
fn a_command_takes_variables_and_standard_input() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let lab = Lab::new("variables")?;
    let a = host_with_script(&lab, &directory, "a")?;

    let command = a.mesh_cmd(["print-secret"])?.env("MESH_PASSWORD", "open").stdin("sesame");
    assert_eq!(command.run()?.stdout, "open sesame");
    let spawned = a.mesh_cmd(["print-secret"])?.stdin("sesame").spawn()?;
    assert_eq!(spawned.wait(secs(5))?.stdout, " sesame");
    Ok(())
}

#[test]
fn a_host_can_have_names_and_clocks_of_its_own() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let lab = Lab::new("names")?;
    let a = host_with_script(&lab, &directory, "a")?;
    let (machines, uptime) = (fs::read_to_string("/etc/hosts")?, fs::read_to_string("/proc/uptime")?);
    assert_eq!(a.mesh(["names"])?.stdout, machines);

    a.set_names(&[("web", "10.0.0.1".parse()?), ("web", "fd00::1".parse()?)])?;
    assert_eq!(a.mesh(["names"])?.stdout, "10.0.0.1 web\nfd00::1 web\n");
    a.set_clocks_ahead(secs(1_000_000));
    let ahead: u64 = a.mesh(["uptime"])?.stdout.trim().parse()?;
    let machine: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
    assert!((-1.0..1000.0).contains(&(ahead as f64 - 1e6 - machine)), "{ahead} after {machine}");
    assert_eq!(a.mesh(["names"])?.stdout, "10.0.0.1 web\nfd00::1 web\n");
    assert_eq!(fs::read_to_string("/etc/hosts")?, machines);
    Ok(())
}

#[test]
fn a_missing_binary_is_said_to_be_missing() -> Result<()> {
    let lab = Lab::new("missing")?;
    let a = lab.host("a")?;
    a.use_binary("/no/such/mesh");

    let error = a.mesh(["launch"]).unwrap_err();
    assert!(error.to_string().contains("there is no program /no/such/mesh"), "{error:#}");
    Ok(())
}
