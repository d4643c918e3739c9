//! The stages there are, and which task runs which of them.

use std::process::{Command, Stdio};

use crate::stage::Stage;

/// Seeds of the simulation in `ci`. With the simulator's default size they take well under a minute.
const CI_SIM_SEEDS: u64 = 50;

/// What every commit passes.
pub(crate) fn check() -> Vec<Stage> {
    let mut stages = lints();
    stages.push(Stage::cargo("unit", "nextest run --workspace --locked"));
    stages
}

/// What every push passes.
pub(crate) fn ci() -> Vec<Stage> {
    let mut stages = vec![Stage::new("setup", "scripts/setup", "test")];
    stages.extend(lints());
    stages.push(deny());
    stages.push(Stage::cargo("unit", "nextest run --workspace --locked --profile ci"));
    stages.push(sim([("--seeds", Some(CI_SIM_SEEDS))]));
    stages.push(Stage::cargo("release build", "build --release --locked --package mesh"));
    stages.extend(netns(Vec::new()));
    stages
}

fn lints() -> Vec<Stage> {
    vec![
        Stage::cargo("fmt", "fmt --all --check"),
        Stage::cargo("clippy", "clippy --workspace --all-targets --locked -- -D warnings"),
        Stage::cargo("doc", "doc --workspace --no-deps --locked --quiet").env("RUSTDOCFLAGS", "-D warnings"),
    ]
}

fn deny() -> Stage {
    if succeeds("cargo", &["deny", "--version"]) {
        Stage::cargo("deny", "deny --locked check bans licenses sources")
    } else {
        Stage::skip("deny", "cargo-deny is not installed; the tests of xtask hold the same rules")
    }
}

/// Whole routers in namespaces, on the debug build, whose arithmetic is checked and whose assertions run.
pub(crate) fn netns(filter: Vec<String>) -> Vec<Stage> {
    if !is_root() {
        return vec![Stage::skip("netns", "network namespaces need root")];
    }
    vec![
        Stage::cargo("debug build", "build --locked --package mesh --package mesh-lab --bins"),
        Stage::cargo(
            "netns",
            "nextest run --locked --package mesh-netns-tests --package mesh-lab --profile netns",
        )
        .args(filter),
    ]
}

/// The simulator, with those of its options that are given.
pub(crate) fn sim<const N: usize>(options: [(&str, Option<u64>); N]) -> Stage {
    let given =
        options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?.to_string()]));
    Stage::cargo("sim", "run --locked --quiet --package mesh-sim --").args(given.flatten())
}

/// The comparison of throughput in namespaces, on the release build.
pub(crate) fn bench(quick: bool) -> Vec<Stage> {
    if !is_root() {
        return vec![Stage::skip("bench", "network namespaces need root")];
    }
    let quick = quick.then(|| "--quick".to_owned());
    vec![
        Stage::cargo("release build", "build --release --locked --package mesh --package mesh-lab --bins"),
        Stage::cargo("bench", "bench --locked --package mesh-netns-tests --bench throughput --").args(quick),
    ]
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}
