//! What the command line says of itself, and how it takes a wrong call.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::fs::File;

use common::{command, mesh, ran};

const COMMANDS: [&str; 21] = [
    "launch",
    "stop",
    "reset",
    "connect",
    "forget",
    "attach",
    "detach",
    "ps",
    "ipam",
    "prime",
    "rmpeer",
    "status",
    "secret",
    "config",
    "report",
    "doctor",
    "top",
    "capture",
    "man",
    "completion",
    "version",
];

#[test]
fn help_names_every_command_and_explains_each() {
    let help = mesh(&["--help"]);
    assert_eq!((help.status, help.stderr.as_str()), (0, ""));
    for name in COMMANDS {
        assert!(help.stdout.contains(&format!("\n  {name} ")), "{name}: {}", help.stdout);
        let own = mesh(&[name, "--help"]);
        assert_eq!((own.status, own.stderr.as_str()), (0, ""), "{name}");
        assert!(own.stdout.contains(&format!("Usage: mesh {name}")), "{}", own.stdout);
        assert!(own.stdout.contains("--output <FORMAT>"), "{}", own.stdout);
    }
    let launch = mesh(&["launch", "--help"]).stdout;
    assert!(!launch.contains("detached") && !launch.contains("stdin"), "a hidden option is shown");
}

#[test]
fn a_wrong_command_line_gives_status_2() {
    for line in [
        "",
        "sing",
        "--sing",
        "-o xml version",
        "launch --sing",
        "launch --port",
        "launch --log-level loud",
        "launch --log-format xml",
        "launch --timeout 0",
        "launch --foreground=1",
        "launch --password swordfish",
        "launch --conn-limit",
        "launch --password-on-stdin",
        "connect",
        "connect --replace",
        "forget",
        "forget --replace h1",
        "launch --config",
        "config",
        "config check one two",
        "report everything",
        "man",
        "doctor h1:0",
        "secret",
        "secret generate now",
        "stop now",
        "stop --timeout x",
        "stop --timeout inf",
        "reset --forcefully",
        "attach",
        "attach --ifname",
        "detach",
        "status everything",
        "ipam",
        "ipam allocate",
        "ipam claim db",
        "ipam claim db 10.32.0.1",
        "ipam lookup db 10.32.0.1/24",
        "prime now",
        "rmpeer",
        "status --timeout -1",
        "completion",
        "completion tcsh",
        "version 2",
    ] {
        let arguments: Vec<_> = line.split_whitespace().collect();
        let ran = mesh(&arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{line:?}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "{line:?}");
    }
}

#[test]
fn a_wrong_command_line_is_told_as_json_when_json_is_wanted() {
    for line in ["-o json sing", "launch --sing -o json", "status --output=json everything", "attach -ojson"]
    {
        let arguments: Vec<_> = line.split_whitespace().collect();
        let ran = mesh(&arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{line}");
        let (kind, message, hint) = ran.json_error();
        assert_eq!(kind, "usage", "{line}");
        assert!(
            !message.is_empty() && !message.starts_with("error:") && !message.contains('\n'),
            "{message}"
        );
        assert!(hint.contains("--help"), "{hint}");
    }
}

#[test]
fn the_environment_stands_in_for_an_option_and_yields_to_it() {
    let version = |arguments: &[&str]| ran(command(arguments).env("MESH_OUTPUT", "json").output().unwrap());
    assert_eq!(version(&["version"]).json()["version"], env!("CARGO_PKG_VERSION"));
    assert!(version(&["version", "-o", "human"]).stdout.starts_with("mesh "));
    let wrong = ran(command(&["status"]).env("MESH_TIMEOUT", "soon").output().unwrap());
    assert_eq!(wrong.status, 2, "{wrong:?}");
}

#[test]
fn every_option_of_launch_has_its_variable() {
    let help = mesh(&["launch", "--help"]).stdout;
    let options = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    let names: Vec<_> = options.map(|option| option.split([' ', '=']).next().unwrap()).collect();
    assert!(names.len() > 10 && names.contains(&"resume"), "{names:?}");
    let is_name = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    for name in names.into_iter().filter(is_name).filter(|name| *name != "help") {
        let variable = format!("[env: MESH_{}]", name.to_uppercase().replace('-', "_"));
        assert!(help.contains(&variable), "--{name}: {help}");
    }
    let wrong = |variable: &str, value: &str| {
        let mut command =
            command(&["launch", "--run-dir", "/dev/null/run", "--state-dir", "/dev/null/state"]);
        ran(command.env(variable, value).output().unwrap())
    };
    for (variable, value) in [
        ("MESH_PORT", "0"),
        ("MESH_CONN_LIMIT", "none"),
        ("MESH_TRUSTED_SUBNETS", "10.1.0.0/16,here"),
        ("MESH_ALLOW_PEERS", "h1"),
        ("MESH_RESUME", "perhaps"),
    ] {
        let ran = wrong(variable, value);
        assert_eq!(ran.status, 2, "{variable}: {ran:?}");
    }
}

#[test]
fn a_generated_secret_is_one_line_and_never_the_same() {
    let secret = || mesh(&["secret", "generate"]);
    let (one, other) = (secret(), secret());
    assert_eq!((one.status, one.stderr.as_str()), (0, ""));
    let is_word = |text: &str| text.len() > 40 && text.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(one.stdout.strip_suffix('\n').is_some_and(is_word), "{}", one.stdout);
    assert_ne!(one.stdout, other.stdout);
    let json = mesh(&["secret", "generate", "-o", "json"]).json();
    assert!(json["secret"].as_str().is_some_and(is_word), "{json}");
}

#[test]
fn the_help_of_a_generated_secret_teaches_to_use_and_to_change_it() {
    let help = mesh(&["secret", "generate", "--help"]).stdout;
    for taught in ["umask 077", "--password-file", "kill -HUP", "without an outage"] {
        assert!(help.contains(taught), "{taught}: {help}");
    }
}

#[test]
fn version_has_both_forms() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(mesh(&["version"]).stdout, format!("mesh {version}\n"));
    assert_eq!(mesh(&["--version"]).stdout, format!("mesh {version}\n"));
    assert_eq!(mesh(&["version", "-o", "json"]).json()["version"], version);
}

#[test]
fn every_shell_has_a_completion_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = mesh(&["completion", shell]);
        assert_eq!((script.status, script.stderr.as_str()), (0, ""), "{shell}");
        for name in COMMANDS {
            assert!(script.stdout.contains(name), "{shell} does not know {name}");
        }
        let hidden = ["--detached", "--password-on-stdin"];
        assert!(!hidden.iter().any(|option| script.stdout.contains(option)), "{shell} shows a hidden option");
        assert_eq!(mesh(&["completion", shell, "-o", "json"]).json()["script"], script.stdout);
    }
}

#[test]
fn each_command_has_its_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("man1");
    let ran = mesh(&["man", into.to_str().unwrap()]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    for page in COMMANDS
        .map(|name| format!("mesh-{name}.1"))
        .into_iter()
        .chain(["mesh.1".to_owned(), "mesh-secret-generate.1".to_owned()])
    {
        let text = std::fs::read_to_string(into.join(&page)).unwrap();
        assert!(text.contains(".TH") && !text.contains("detached"), "{page}");
        assert!(ran.stdout.lines().any(|line| line == page), "{page} is not told");
    }
    let launch = std::fs::read_to_string(into.join("mesh-launch.1")).unwrap();
    assert!(
        launch.contains("conn\\-limit") && launch.contains("SIGHUP"),
        "the page of launch says less than its help"
    );
    assert_eq!(mesh(&["man", "/dev/null/man"]).status, 1);
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    for line in [&["version"][..], &["--help"], &["completion", "bash"], &["version", "-o", "json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = ran(command(line).stdout(writer).output().unwrap());
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{line:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ran = ran(command(&["version"]).stdout(full).output().unwrap());
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.starts_with("error: cannot write to standard output"), "{}", ran.stderr);
}

#[test]
fn output_that_is_no_terminal_has_no_colour() {
    for line in [&["--help"][..], &["launch", "--help"], &["sing"]] {
        let ran = mesh(line);
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains('\x1b'), "{line:?}");
    }
}
