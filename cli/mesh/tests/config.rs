//! The configuration file: what it takes, what it refuses and how, and what goes before it.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Ran, command, mesh, ran};
use tempfile::TempDir;

/// A file with these contents, in a directory of its own.
fn file(contents: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.toml");
    fs::write(&path, contents).unwrap();
    (dir, path)
}

fn check(contents: &str) -> (Ran, String) {
    let (_dir, path) = file(contents);
    let path = path.to_str().unwrap().to_owned();
    (mesh(&["config", "check", &path]), path)
}

/// The errors that `config check` tells, each without the file's name.
fn errors(contents: &str) -> Vec<String> {
    let (ran, path) = check(contents);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{ran:?}");
    let errors = ran.stderr.lines().filter_map(|line| line.strip_prefix("error: "));
    errors.map(|error| error.strip_prefix(&format!("{path}:")).unwrap_or(error).to_owned()).collect()
}

#[test]
fn every_option_of_launch_is_a_key() {
    let help = mesh(&["launch", "--help"]).stdout;
    let options = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
    let names =
        options.map(|option| option.split(|c| !is_name(c)).next().unwrap()).filter(|name| !name.is_empty());
    let names: Vec<_> = names.filter(|name| !["config", "help", "output"].contains(name)).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        // A value that no option takes: whoever knows the key complains of the value.
        let errors = errors(&format!("{name} = [[1979-05-27]]"));
        assert!(errors[0].starts_with("1:") && !errors[0].contains("unknown key"), "{name}: {errors:?}");
    }
}

#[test]
fn a_good_file_is_called_good() {
    let (ran, path) = check(
        "# our network\nnickname = \"h1\"\nport = 7000\npeers = [\"h2\", \"192.0.2.7:7000\"]\ntimeout = 0.5\n\
         trusted-subnets = [\"10.1.0.0/16\"]\nno-discovery = true\nlog-level = \"debug\"\n",
    );
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert_eq!(ran.stdout, format!("{path}: good, 7 settings\n"));
    let (_dir, path) = file("port = 7000\n");
    let json = mesh(&["config", "check", path.to_str().unwrap(), "-o", "json"]).json();
    assert_eq!(json["keys"], serde_json::json!(["port"]));
}

#[test]
fn all_that_is_wrong_is_told_at_once_each_with_its_line_and_column() {
    let wrong = "\
nickname = \"a b\"
prot = 7000
port = 0
peers = [\"ok\", \"h1:0\", \"a..b\"]
  mtu = true
no-discovery = \"yes\"
trusted-subnets = \"10.1.0.0/16\"
log-level = \"loud\"
timeout = \"soon\"
password = \"swordfish\"
[ipam]
range = \"none\"
";
    let errors = errors(wrong);
    let starts = [
        "2:1: unknown key 'prot': did you mean 'port'?",
        "5:9: mtu: takes a text in quotes or a number",
        "6:16: no-discovery: takes true or false",
        "7:19: trusted-subnets: takes a list",
        "8:13: log-level: takes error, warn, info, debug or trace, not 'loud'",
        "9:11: timeout: 'soon' is not taken: a number of seconds above 0",
        "10:1: unknown key 'password': a secret has a file of its own, named by 'password-file'",
        "11:2: unknown key 'ipam': ",
        "1:12: nickname 'a b': ",
        "3:8: port '0': ",
        "4:16: peers 'h1:0': ",
        "4:24: peers 'a..b': ",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}\nshould begin with {start}");
    }
    assert!(!errors.iter().any(|error| error.contains("swordfish")), "{errors:?}");
}

#[test]
fn what_is_no_toml_is_told_with_its_place_and_nothing_that_follows_from_it() {
    let errors = errors("port = 7000\nnickname = \nmtu = 1400\nmtu = 1500\n");
    let lines: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
    assert_eq!(lines, ["2", "4"], "{errors:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_and_the_default_one_need_not_exist() {
    let missing = mesh(&["config", "check", "/nonexistent/mesh.toml"]);
    assert_eq!(missing.status, 1, "{missing:?}");
    assert!(missing.stderr.starts_with("error: cannot read /nonexistent/mesh.toml: "), "{missing:?}");
    assert_eq!(mesh(&["config", "check", "/dev/zero"]).status, 1);
    let launch = mesh(&["launch", "--foreground", "--config", "/nonexistent/mesh.toml"]);
    assert_eq!(launch.status, 1, "{launch:?}");
}

#[test]
fn an_option_goes_before_its_variable_that_before_the_file_and_that_before_the_default() {
    let (_dir, path) = file("port = 0\nnickname = \"a b\"\n");
    // What is refused tells which value was looked at; the wrong nickname keeps the router from starting.
    let launch = |option: &[&str], variable: Option<&str>| {
        let mut command = command(&["launch", "--foreground", "--config", path.to_str().unwrap()]);
        command.args(option).envs(variable.map(|value| ("MESH_PORT", value)));
        ran(command.output().unwrap()).stderr
    };
    let refused_port = |stderr: &str| stderr.lines().find(|line| line.contains("no port")).map(str::to_owned);
    let of_file = refused_port(&launch(&[], None)).unwrap();
    assert!(of_file.contains("mesh.toml:1:8: port '0'"), "{of_file}");
    assert_eq!(refused_port(&launch(&[], Some("7000"))), None);
    let of_variable = refused_port(&launch(&[], Some("x"))).unwrap();
    assert!(of_variable.contains("MESH_PORT 'x'"), "{of_variable}");
    assert_eq!(refused_port(&launch(&["--port", "7000"], Some("x"))), None);
    let of_option = refused_port(&launch(&["--port", "y"], Some("7000"))).unwrap();
    assert!(of_option.contains("--port 'y'"), "{of_option}");
}

#[test]
fn a_relative_path_is_meant_from_the_directory_of_the_file() {
    let (dir, path) = file("password-file = \"secret\"\n");
    fs::write(dir.path().join("secret"), "a long enough secret of this network\n").unwrap();
    let ran = mesh(&["config", "check", path.to_str().unwrap()]);
    assert_eq!(ran.status, 0, "{ran:?}");
    fs::remove_file(dir.path().join("secret")).unwrap();
    let ran = mesh(&["config", "check", path.to_str().unwrap()]);
    assert!(ran.status == 1 && ran.stderr.contains("mesh.toml:1:17: password-file"), "{ran:?}");
}

#[test]
fn variables_have_no_part_in_a_check() {
    let (_dir, path) = file("port = 7000\n");
    let mut command = command(&["config", "check", path.to_str().unwrap()]);
    let ran = ran(command.env("MESH_PORT", "0").env("MESH_RESUME", "perhaps").output().unwrap());
    assert_eq!(ran.status, 0, "{ran:?}");
}
