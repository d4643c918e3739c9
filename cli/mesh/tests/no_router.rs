//! Where no router runs: what is wrong with a call is said before a router is looked for, and then that there is none.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::os::unix::net::UnixListener;
use std::path::Path;

use common::{Ran, command, mesh, ran};

/// Runs the binary with an empty run directory.
fn without_router(arguments: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    ran(command(arguments).env("MESH_RUN_DIR", dir.path()).output().unwrap())
}

#[test]
fn every_command_that_needs_one_gives_status_3_and_a_hint() {
    for line in [
        "status",
        "status peers",
        "status connections",
        "status targets",
        "status routes",
        "status macs",
        "connect h1",
        "connect --replace h1 [2001:db8::1]:7000",
        "forget h1:7000",
        "stop",
        "status ipam",
        "attach netns:c1",
        "attach docker:web",
        "attach web",
        "ps",
        "ps podman:web",
        "attach netns:c1 net:default net:10.32.2.0/24",
        "attach netns:c1 10.32.1.1/24",
        "ipam allocate db",
        "ipam lookup db 10.32.0.0/24",
        "ipam release db",
        "ipam claim db 10.32.0.9/24",
        "prime",
        "rmpeer h1 abcdef010203",
        "detach netns:c1",
        "detach pid:1 10.32.1.1/24 fd00::1/64",
    ] {
        let arguments: Vec<_> = line.split(' ').collect();
        let ran = without_router(&arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{line}: {ran:?}");
        assert!(ran.stderr.starts_with("error: no router is running here"), "{}", ran.stderr);
        assert!(ran.stderr.contains("\nhint: ") && ran.stderr.contains("mesh launch"), "{}", ran.stderr);
        let (kind, _, hint) = without_router(&[&arguments[..], &["-o", "json"]].concat()).json_error();
        assert_eq!(kind, "not_running", "{line}");
        assert!(hint.contains("mesh launch"), "{hint}");
    }
}

#[test]
fn a_socket_without_a_listener_and_a_missing_directory_mean_the_same() {
    let dir = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(dir.path().join("mesh.sock")).unwrap());
    assert_eq!(mesh(&["status", "--run-dir", dir.path().to_str().unwrap()]).status, 3);
    let missing = dir.path().join("missing");
    assert_eq!(mesh(&["status", "--run-dir", missing.to_str().unwrap()]).status, 3);
}

#[test]
fn a_run_directory_that_no_socket_fits_in_is_named() {
    let long = format!("/{}", "x".repeat(200));
    let ran = mesh(&["status", "--run-dir", &long]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stderr.contains("too long"), "{}", ran.stderr);
}

#[test]
fn a_malformed_container_address_or_interface_gives_status_2() {
    for line in [
        "netns: 10.32.1.1/24",
        "docker:/ 10.32.1.1/24",
        "kubernetes:web 10.32.1.1/24",
        "netns:.. 10.32.1.1/24",
        "netns:a/b 10.32.1.1/24",
        "netns:/run/../c1 10.32.1.1/24",
        "pid: 10.32.1.1/24",
        "pid:0 10.32.1.1/24",
        "pid:x 10.32.1.1/24",
        "pid:99999999 10.32.1.1/24",
        "netns:c1 10.32.1.1",
        "netns:c1 10.32.1.1/33",
        "netns:c1 10.32.1/24",
        "netns:c1 fd00::1",
        "netns:c1 fd00::1/129",
        "netns:c1 ip:",
        "netns:c1 10.32.1.1/24 nonsense",
        "docker:web nonsense",
        "netns:c1 10.32.1.1/24 --ifname sixteen-bytes-xx",
        "netns:c1 10.32.1.1/24 --ifname a/b",
    ] {
        let arguments: Vec<_> = ["attach"].into_iter().chain(line.split(' ')).collect();
        let ran = without_router(&arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{line}: {ran:?}");
        assert!(ran.stderr.contains("\nhint: "), "{line}: {}", ran.stderr);
    }
    let empty = without_router(&["attach", "", "10.32.1.1/24"]);
    assert_eq!(empty.status, 2, "{empty:?}");
}

#[test]
fn a_malformed_peer_gives_status_2() {
    for command in ["connect", "forget"] {
        let ran = without_router(&[command, "h1:0", "ok", "a b"]);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:?}");
        let errors: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 2, "{}", ran.stderr);
    }
}

#[test]
fn all_that_is_wrong_with_a_call_is_said_at_once() {
    let ran = without_router(&["detach", "pid:x", "10.32.1.1", "nonsense"]);
    let errors: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 3, "{}", ran.stderr);
}

/// Runs `launch` with directories of its own; all these calls fail before a router would begin to be one.
fn launch(arguments: &[&str]) -> (Ran, bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(&["launch", "--timeout", "10"]);
    command.args(arguments).env("MESH_RUN_DIR", dir.path().join("run"));
    command.env("MESH_STATE_DIR", dir.path().join("state"));
    let ran = ran(command.output().unwrap());
    let untouched = std::fs::read_dir(dir.path()).unwrap().next().is_none();
    (ran, untouched)
}

#[test]
fn a_malformed_launch_gives_status_2_and_makes_nothing() {
    for argument in [
        "--port=0",
        "--port=65536",
        "--port=x",
        "--listen=host",
        "--mtu=100",
        "--conn-limit=0",
        "--conn-limit=10001",
        "--trusted-subnets=10.1.2.3/16",
        "--trusted-subnets=10.1.0.0",
        "--trusted-subnets=",
        "--allow-peers=abcdef010203",
        "--mtu=many",
        "--bridge=",
        "--bridge=a/b",
        "--bridge=twelve-bytes",
        "--nickname=",
        "--nickname=a b",
        ":6783",
        "h1:",
        "h1:0",
        "h1:port",
        "h1:65536",
        "300.1.1.1",
        "a b",
        "[::1",
        "[h1]:6783",
        "[::1]6783",
    ] {
        for mode in [&[][..], &["--foreground"]] {
            let (ran, untouched) =
                launch(&[mode, &["--", argument][usize::from(argument.starts_with("--"))..]].concat());
            assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{argument} {mode:?}: {ran:?}");
            assert!(ran.stderr.starts_with("error: "), "{argument}: {}", ran.stderr);
            assert!(untouched, "{argument} {mode:?} left something");
        }
    }
}

#[test]
fn the_peers_of_the_last_launch_leave_no_room_for_others() {
    for mode in [&[][..], &["--foreground"]] {
        let (ran, untouched) = launch(&[mode, &["--resume", "h1"]].concat());
        assert_eq!((ran.status, untouched), (2, true), "{ran:?}");
        assert!(ran.stderr.contains("--resume"), "{}", ran.stderr);
    }
}

#[test]
fn a_password_in_the_environment_is_refused_like_one_in_a_file() {
    let long = "x".repeat(1025);
    let very_long = "x".repeat(100_000);
    for (password, says) in
        [("", "empty"), (&long, "1025 bytes"), (&very_long, "more than 1024"), ("mesh1.xx", "mistyped")]
    {
        for mode in [&[][..], &["--foreground"]] {
            let mut command =
                command(&["launch", "--run-dir", "/dev/null/run", "--state-dir", "/dev/null/state"]);
            let ran = ran(command.args(mode).env("MESH_PASSWORD", password).output().unwrap());
            assert_eq!(ran.status, 1, "{mode:?}: {ran:?}");
            assert!(ran.stderr.contains("MESH_PASSWORD") && ran.stderr.contains(says), "{}", ran.stderr);
            assert!(!ran.stderr.contains("xx"), "{}", ran.stderr);
        }
    }
}

#[test]
fn a_password_that_cannot_be_had_gives_status_1_and_makes_nothing() {
    for mode in [&[][..], &["--foreground"]] {
        let (ran, untouched) = launch(&[mode, &["--password-file", "/nonexistent/password"]].concat());
        assert_eq!((ran.status, untouched), (1, true), "{ran:?}");
        assert!(ran.stderr.contains("/nonexistent/password"), "{}", ran.stderr);
        let (ran, untouched) = launch(&[mode, &["--password-file", "/dev/null"]].concat());
        assert_eq!((ran.status, untouched), (1, true), "{ran:?}");
        assert!(ran.stderr.contains("empty"), "{}", ran.stderr);
    }
}

#[test]
fn a_launch_that_fails_in_the_background_says_all_of_it_as_json() {
    let (ran, _) = launch(&["--port", "0", "-o", "json", "h1:0", "ok"]);
    let (kind, message, hint) = ran.json_error();
    assert_eq!((ran.status, kind.as_str()), (2, "usage"));
    assert_eq!(message.lines().count(), 2, "{message}");
    assert!(hint.contains("mesh launch --help"), "{hint}");
}

#[test]
fn a_password_file_that_others_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "swordfish\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    // The state directory cannot be made below a file, so the launch ends there.
    let state = Path::new("/dev/null/state");
    let mut command = command(&["launch", "--run-dir", "/dev/null/run"]);
    let ran = ran(command.arg("--password-file").arg(&file).arg("--state-dir").arg(state).output().unwrap());
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stderr.starts_with("warning: the password file "), "{}", ran.stderr);
    assert!(!ran.stderr.contains("swordfish"), "{}", ran.stderr);
}
