//! The stages there are, and which task runs which of them.

use std::process::{Command, Stdio};

use crate::stage::{Stage, workspace_root};

/// Seeds of the simulation in `ci`, and routers in each: some two minutes on two cores.
const CI_SIM: [(&str, Option<u64>); 2] = [("--seeds", Some(2_000)), ("--nodes", Some(5))];

/// The same with addresses, and with names: half a minute each.
const CI_SIM_ADDRESSES: [(&str, Option<u64>); 2] = [("--seeds", Some(200)), ("--nodes", Some(5))];
const CI_SIM_NAMES: [(&str, Option<u64>); 2] = [("--seeds", Some(20)), ("--nodes", Some(30))];

/// What `ci` and `model` ask of address management when nothing else is said: random histories of each kind, and steps of each
/// model that has no end, ten million states in all. Some seven minutes on two cores.
const HISTORIES: u64 = 100_000;
const MODEL_STEPS: u64 = 12_000_000;

/// Scenarios that `ci` runs in the virtual machine too, whose emulated CPU is some ten times slower.
const CI_VM: [&str; 5] =
    ["attach::", "mesh::containers_on_three_hosts", "ovs::", "never_in_clear::", "sealed_frames_pass"];

/// And those that it runs there where the kernel has no WireGuard, and seals by ESP.
const CI_VM_ESP: [&str; 3] = ["never_in_clear::", "sealed_frames_pass", "keys::"];

/// And where it has no VXLAN, so that user space carries all.
const CI_VM_SLEEVE: [&str; 1] = ["kernels::a_kernel_without_vxlan"];

/// How many times as long as elsewhere things may take there.
const VM_PATIENCE: u32 = 4;

/// For how long the virtual machine may run, in seconds.
const VM_TIME_MAX_S: u32 = 1_800;

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
    stages.push(model(None, None));
    stages.push(instructions());
    stages.push(sim(CI_SIM, None));
    stages.push(sim(CI_SIM_ADDRESSES, Some("--addresses")));
    stages.push(sim(CI_SIM_NAMES, Some("--names")));
    stages.push(Stage::cargo("release build", "build --release --locked --package mesh"));
    stages.extend(netns(None, Vec::new()));
    stages.push(vm(Vec::new(), None, &[]));
    stages.push(vm(CI_VM_ESP.map(str::to_owned).to_vec(), None, &["wireguard".to_owned()]));
    stages.push(vm(CI_VM_SLEEVE.map(str::to_owned).to_vec(), None, &["vxlan".to_owned()]));
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

/// What the unit tests' build takes for frames, against what is written down.
fn instructions() -> Stage {
    if succeeds("valgrind", &["--version"]) {
        Stage::cargo("instructions", "xtask instructions")
    } else {
        Stage::skip("instructions", "valgrind is not installed: scripts/setup test")
    }
}

/// Whole routers in namespaces, on the debug build, whose arithmetic is checked and whose assertions run.
pub(crate) fn netns(repeat: Option<u32>, filter: Vec<String>) -> Vec<Stage> {
    if !is_root() {
        return vec![Stage::skip("netns", "network namespaces need root")];
    }
    vec![
        debug_build(),
        Stage::cargo(
            "netns",
            "nextest run --locked --package mesh-netns-tests --package mesh-lab --profile netns",
        )
        .args(
            repeat
                .into_iter()
                .flat_map(|count| ["--retries=0".to_owned(), format!("--stress-count={count}")]),
        )
        .args(filter),
    ]
}

/// The binaries that scenarios run.
pub(crate) fn debug_build() -> Stage {
    Stage::cargo("debug build", "build --locked --package mesh --package mesh-lab --bins")
}

/// Scenarios under another kernel: cargo hands the test binary to `scripts/vm`, and all of them share one boot.
pub(crate) fn vm(filter: Vec<String>, kernel: Option<&str>, without: &[String]) -> Stage {
    if !is_root() || !succeeds("qemu-system-x86_64", &["--version"]) {
        return Stage::skip("vm", "it needs root and QEMU: scripts/setup test");
    }
    let kernel = kernel.map(|package| format!(" --kernel {package}")).unwrap_or_default();
    let without: String = without.iter().map(|module| format!(" --without {module}")).collect();
    let runner =
        format!("{}/scripts/vm{kernel}{without} --timeout {VM_TIME_MAX_S} --", workspace_root().display());
    let filter = if filter.is_empty() { CI_VM.map(str::to_owned).to_vec() } else { filter };
    let tests = "test --locked --package mesh-netns-tests --test scenarios -- --test-threads 1";
    Stage::cargo("vm", tests)
        .args(filter)
        .env("MESH_PATIENCE", VM_PATIENCE.to_string())
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner)
}

/// The models and histories of address management, longer than `check` takes for them, on code with its assertions. Not by
/// nextest, which ends what takes minutes.
pub(crate) fn model(histories: Option<u64>, steps: Option<u64>) -> Stage {
    let tests = "model:: histories::no_history histories::one_network";
    Stage::cargo("model", &format!("test --locked --package mesh-ipam --lib -- --nocapture {tests}"))
        .env("MESH_IPAM_HISTORIES", histories.unwrap_or(HISTORIES).to_string())
        .env("MESH_IPAM_STEPS", steps.unwrap_or(MODEL_STEPS).to_string())
}

/// The simulator, with those of its options that are given, in one of its modes if it is named; as many seeds at once as there
/// are cores.
pub(crate) fn sim<const N: usize>(options: [(&str, Option<u64>); N], mode: Option<&str>) -> Stage {
    let given =
        options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?.to_string()]));
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string();
    Stage::cargo("sim", "run --locked --quiet --package mesh-sim --")
        .args(given.flatten())
        .args(["--jobs".to_owned(), jobs])
        .args(mode.map(str::to_owned))
}

/// What `-C passes=sancov-module` instruments, as libFuzzer wants it; all of it is stable.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// libFuzzer over one target or all of them, on an optimized build with assertions; what reaches something new is kept.
pub(crate) fn fuzz(target: Option<&str>, seconds: u32) -> Vec<Stage> {
    let files = std::fs::read_dir("router/fuzz/corpus").into_iter().flatten().flatten();
    let mut names: Vec<_> = files
        .filter_map(|file| file.file_name().to_str()?.strip_suffix(".txt").map(str::to_owned))
        .filter(|name| target.is_none_or(|wanted| wanted == name))
        .collect();
    names.sort();
    if names.is_empty() {
        return vec![Stage::skip("fuzz", "no such target: its corpus would be a file of router/fuzz/corpus")];
    }
    // With a target named, the flags hold for our code alone and not for build scripts.
    let Some(host) = host() else {
        return vec![Stage::skip("fuzz", "rustc does not say what it builds for")];
    };
    names.iter().flat_map(|name| fuzz_one(name, &host, seconds)).collect()
}

fn fuzz_one(name: &str, host: &str, seconds: u32) -> [Stage; 4] {
    let (all, least) = (format!("target/fuzz/corpus/{name}"), format!("target/fuzz/least/{name}"));
    let corpus = |action, dir: &str| {
        let options =
            format!("run --locked --quiet --package mesh-fuzz --bin corpus -- {action} {name} {dir}");
        Stage::cargo("corpus", &options)
    };
    let fuzzer = |options: &str| {
        let options = format!(
            "run --release --locked --quiet --package mesh-fuzz --bin mesh-fuzz --features libfuzzer \
             --target {host} --target-dir target/fuzz -- -timeout=10 -rss_limit_mb=2048 -max_len=16384 \
             -artifact_prefix=target/fuzz/ {options}"
        );
        Stage::cargo("fuzz", &options).env("MESH_FUZZ_TARGET", name).env("RUSTFLAGS", COVERAGE)
    };
    [
        corpus("unpack", &all),
        fuzzer(&format!("-max_total_time={seconds} {all}")),
        fuzzer(&format!("-merge=1 -create_missing_dirs=1 {least} {all}")),
        corpus("pack", &least),
    ]
}

/// The comparison of throughput in namespaces, on the release build.
pub(crate) fn bench(quick: bool) -> Vec<Stage> {
    if !is_root() {
        return vec![Stage::skip("bench", "network namespaces need root")];
    }
    let quick = quick.then(|| "--quick".to_owned());
    let of_names = quick.clone();
    vec![
        Stage::cargo("release build", "build --release --locked --package mesh --package mesh-lab --bins"),
        Stage::cargo("bench", "bench --locked --package mesh-netns-tests --bench throughput --").args(quick),
        Stage::cargo("addresses", "bench --locked --package mesh-netns-tests --bench addresses"),
        Stage::cargo("server of names", "build --release --locked --package mesh-dns --example serve"),
        Stage::cargo("names", "bench --locked --package mesh-netns-tests --bench names --").args(of_names),
    ]
}

/// The triple that rustc builds for when nobody says otherwise.
fn host() -> Option<String> {
    let output = Command::new("rustc").arg("-vV").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
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
