//! What pure crates, and sources in general, may name.
//!
//! clippy's lists of disallowed methods and types say the same of what the compiler resolves. This reads the text, so
//! it also sees macros and code that is configured out.

use cargo_metadata::TargetKind;

use crate::tokens::{Token, lines_naming, tokens};
use crate::workspace::{PURE, TextFile, assert_none, members, read, root, rust_sources};

/// Not to be named in a pure crate, nor in its tests, and what takes its place.
const IMPURE: [(&str, &str); 26] = [
    ("HashMap", "BTreeMap"),
    ("HashSet", "BTreeSet"),
    ("Instant", "the argument `now: Moment`"),
    ("SystemTime", "no wall clock orders or expires anything"),
    ("Mutex", "one owner, &mut self"),
    ("RwLock", "one owner, &mut self"),
    ("Condvar", "one owner, &mut self"),
    ("thread_local", "no global state"),
    ("OnceLock", "no global state"),
    ("LazyLock", "no global state"),
    ("UdpSocket", "the shell's sockets"),
    ("TcpStream", "the shell's sockets"),
    ("TcpListener", "the shell's sockets"),
    ("thread_rng", "the argument `&mut Rng`"),
    ("OsRng", "the argument `&mut Rng`"),
    ("SysRng", "the argument `&mut Rng`"),
    ("SystemRandom", "the argument `&mut Rng`"),
    ("getrandom", "the argument `&mut Rng`"),
    ("rand::rng", "the argument `&mut Rng`"),
    ("rand::random", "the argument `&mut Rng`"),
    ("println", "an output or a tracing event"),
    ("std::env", "arguments"),
    ("std::fs", "inputs and outputs of the shell"),
    ("std::process", "inputs and outputs of the shell"),
    ("std::thread", "one owner, no thread"),
    ("std::os", "inputs and outputs of the shell"),
];

/// The parts of impure crates that are pure.
const PURE_FOLDERS: [&str; 2] = ["router/dataplane/src/engine", "router/fastpath/src/model"];

/// Where `unsafe` has its address.
const UNSAFE_FOLDERS: [&str; 5] = [
    "router/dataplane/src/io",
    "router/dataplane/tests/",
    "router/fastpath/",
    "router/hostnet/",
    "netns-tests/lab/",
];

/// Crates whose roots cannot forbid `unsafe`.
const UNSAFE_CRATES: [&str; 4] = ["mesh-dataplane", "mesh-fastpath", "mesh-hostnet", "mesh-lab"];

/// What ends up in the binary.
const SHIPPED: [&str; 4] = ["router/", "ipam/", "dns/", "cli/"];

/// The one file that may read the wall clock.
const WALL_CLOCK: &str = "cli/mesh/src/doctor/host.rs";

/// A line that ends in this, followed by a reason, may name what the rules above forbid.
const EXCEPTION: &str = "// house: ";

#[test]
fn pure_code_names_nothing_impure() {
    let mut complaints = Vec::new();
    for file in rust_sources().iter().filter(|file| is_pure(&file.path)) {
        let tokens = tokens(&file.text);
        for (path, instead) in IMPURE {
            complaints.extend(
                places(file, &tokens, path).map(|place| format!("{place} names {path}; instead: {instead}")),
            );
        }
    }
    assert_none(&complaints);
}

#[test]
fn unsafe_has_an_address() {
    let mut complaints = Vec::new();
    for file in rust_sources() {
        if !UNSAFE_FOLDERS.iter().any(|folder| file.path.starts_with(folder)) {
            complaints.extend(
                places(&file, &tokens(&file.text), "unsafe")
                    .map(|place| format!("{place} is unsafe outside {UNSAFE_FOLDERS:?}")),
            );
        }
    }
    assert_none(&complaints);
}

/// A clock that somebody sets must order and expire nothing: only `doctor` looks at it, to say that it is wrong.
#[test]
fn nobody_but_the_doctor_reads_the_wall_clock() {
    let mut complaints = Vec::new();
    let is_shipped = |path: &str| SHIPPED.iter().any(|folder| path.starts_with(folder));
    for file in rust_sources().iter().filter(|file| is_shipped(&file.path) && file.path != WALL_CLOCK) {
        let tokens = tokens(&file.text);
        for name in ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME", "ClockId::Realtime"] {
            complaints.extend(places(file, &tokens, name).map(|place| format!("{place} names {name}")));
        }
    }
    assert_none(&complaints);
}

#[test]
fn crate_roots_forbid_unsafe_code() {
    let mut complaints = Vec::new();
    for member in members().into_iter().filter(|member| !UNSAFE_CRATES.contains(&member.name.as_str())) {
        // What needs a feature is for developers: the fuzzer's entry is a C function, which a macro makes.
        for target in member.targets.iter().filter(|target| target.required_features.is_empty()) {
            let is_root = target.kind.iter().any(|kind| matches!(kind, TargetKind::Lib | TargetKind::Bin));
            let path = target.src_path.as_std_path().strip_prefix(root()).expect("below the root");
            if is_root && !read(&path.to_string_lossy()).contains("\n#![forbid(unsafe_code)]\n") {
                complaints.push(format!("{}: #![forbid(unsafe_code)] is missing", path.display()));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn nothing_is_left_undone_in_silence() {
    let mut complaints = Vec::new();
    for file in rust_sources() {
        let tokens = tokens(&file.text);
        for three in tokens.windows(3) {
            let [a, b, c] = three else { continue };
            let undone = matches!(a.text, "todo" | "unimplemented") && b.text == "!";
            let ignored = a.text == "[" && b.text == "ignore" && matches!(c.text, "]" | "=");
            if undone || ignored {
                complaints.push(format!("{}:{}: {} {} {}", file.path, a.line, a.text, b.text, c.text));
            }
        }
    }
    assert_none(&complaints);
}

fn is_pure(path: &str) -> bool {
    PURE_FOLDERS.iter().any(|folder| path.starts_with(folder))
        || PURE.iter().any(|(_, folder)| path.starts_with(&format!("{folder}/src/")))
}

/// Places in `file`, whose tokens are `tokens`, that name `path`, as `file:line`.
fn places<'a>(
    file: &'a TextFile,
    tokens: &[Token<'_>],
    path: &str,
) -> impl Iterator<Item = String> + use<'a> {
    let lines: Vec<&str> = file.text.lines().collect();
    lines_naming(tokens, path)
        .into_iter()
        .filter(move |line| !lines[line - 1].contains(EXCEPTION))
        .map(|line| format!("{}:{line}", file.path))
}
