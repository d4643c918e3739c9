//! Who may depend on whom: the arrows of ARCHITECTURE.md as a table.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::DependencyKind;

use crate::workspace::{PURE, assert_none, is_member, members, metadata};

/// Each of our crates, and those of ours that it may name, in tests too.
const OURS: [(&str, &[&str]); 18] = [
    ("mesh-wire", &[]),
    ("mesh-crypto", &["mesh-wire"]),
    ("mesh-topology", &["mesh-crypto", "mesh-wire"]),
    ("mesh-ipam", &["mesh-crypto", "mesh-wire"]),
    ("mesh-names", &["mesh-crypto", "mesh-wire"]),
    ("mesh-node", &["mesh-crypto", "mesh-ipam", "mesh-names", "mesh-topology", "mesh-wire"]),
    ("mesh-dataplane", &["mesh-crypto", "mesh-wire"]),
    ("mesh-hostnet", &["mesh-wire"]),
    ("mesh-fastpath", &["mesh-hostnet", "mesh-wire"]),
    ("mesh-dns", &["mesh-names", "mesh-wire"]),
    ("mesh-api", &[]),
    (
        "mesh-daemon",
        &[
            "mesh-api",
            "mesh-crypto",
            "mesh-dataplane",
            "mesh-dns",
            "mesh-fastpath",
            "mesh-hostnet",
            "mesh-ipam",
            "mesh-names",
            "mesh-node",
            "mesh-topology",
            "mesh-wire",
        ],
    ),
    (
        "mesh-sim",
        &[
            "mesh-crypto",
            "mesh-dataplane",
            "mesh-ipam",
            "mesh-names",
            "mesh-node",
            "mesh-topology",
            "mesh-wire",
        ],
    ),
    ("mesh-fuzz", &["mesh-crypto", "mesh-dns", "mesh-names", "mesh-node", "mesh-topology", "mesh-wire"]),
    ("mesh", &["mesh-api", "mesh-daemon"]),
    ("mesh-lab", &["mesh-api"]),
    ("mesh-netns-tests", &["mesh-api", "mesh-crypto", "mesh-lab", "mesh-wire"]),
    ("xtask", &[]),
];

/// Crates from outside that any pure crate may name.
const OUTSIDE_OF_PURE: [&str; 4] = ["ipnet", "minicbor", "thiserror", "tracing"];

/// Crates from outside that one pure crate may name beside those.
const OUTSIDE_OF_PURE_BY_CRATE: [(&str, &[&str]); 1] =
    [("mesh-crypto", &["argon2", "aws-lc-rs", "rand_chacha", "rand_core", "snow", "zeroize"])];

/// Crates from outside that a pure crate's tests may name beside those.
const OUTSIDE_OF_PURE_TESTS: [&str; 2] = ["proptest", "stateright"];

/// Crates from outside that only these of ours may name.
const RESERVED: [(&str, &[&str]); 12] = [
    ("anyhow", &["mesh", "mesh-daemon", "mesh-lab", "mesh-netns-tests", "mesh-sim", "xtask"]),
    ("aws-lc-rs", &["mesh-crypto"]),
    ("clap", &["mesh", "mesh-sim", "xtask"]),
    ("libc", &["mesh-dataplane", "mesh-fastpath", "mesh-hostnet", "mesh-lab"]),
    ("netlink-packet-core", &["mesh-fastpath", "mesh-hostnet"]),
    ("netlink-packet-route", &["mesh-fastpath", "mesh-hostnet"]),
    ("netlink-sys", &["mesh-fastpath", "mesh-hostnet"]),
    ("quinn-udp", &["mesh-dataplane"]),
    ("serde", &["mesh", "mesh-api", "mesh-lab"]),
    ("snow", &["mesh-crypto"]),
    ("socket2", &["mesh-api", "mesh-daemon", "mesh-dataplane", "mesh-dns"]),
    ("tokio", &["mesh-daemon", "mesh-dns"]),
];

/// Crates that never run an asynchronous task, not even through a dependency of a dependency.
const WITHOUT_TOKIO: [&str; 3] = ["mesh-dataplane", "mesh-fastpath", "mesh-hostnet"];

#[test]
fn our_crates_depend_on_each_other_in_one_direction_only() {
    let allowed = BTreeMap::from(OURS);
    let mut complaints = Vec::new();
    for member in members() {
        let Some(row) = allowed.get(member.name.as_str()) else {
            complaints.push(format!("{} has no row in the table of edges", member.name));
            continue;
        };
        for dependency in member.dependencies.iter().filter(|dependency| is_member(&dependency.name)) {
            if !row.contains(&dependency.name.as_str()) {
                complaints.push(format!("{} may not depend on {}", member.name, dependency.name));
            }
        }
    }
    complaints.extend(
        allowed.keys().filter(|name| !is_member(name)).map(|name| format!("{name} is no crate of ours")),
    );
    assert_none(&complaints);
}

#[test]
fn pure_crates_name_only_listed_crates_from_outside() {
    let extra = BTreeMap::from(OUTSIDE_OF_PURE_BY_CRATE);
    let mut complaints = Vec::new();
    for member in members().into_iter().filter(|member| is_pure(&member.name)) {
        let own = extra.get(member.name.as_str()).copied().unwrap_or_default();
        for dependency in member.dependencies.iter().filter(|dependency| !is_member(&dependency.name)) {
            let name = dependency.name.as_str();
            let in_test =
                dependency.kind == DependencyKind::Development && OUTSIDE_OF_PURE_TESTS.contains(&name);
            if !OUTSIDE_OF_PURE.contains(&name) && !own.contains(&name) && !in_test {
                complaints.push(format!("{} is pure and may not depend on {name}", member.name));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn reserved_crates_are_named_only_where_they_belong() {
    let reserved = BTreeMap::from(RESERVED);
    let mut complaints = Vec::new();
    for member in members() {
        for dependency in &member.dependencies {
            if let Some(owners) = reserved.get(dependency.name.as_str())
                && !owners.contains(&member.name.as_str())
            {
                complaints
                    .push(format!("{} may not depend on {}: {owners:?} do", member.name, dependency.name));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn pure_crates_and_the_data_plane_reach_no_async_runtime() {
    let mut complaints = Vec::new();
    for member in members() {
        let name = member.name.as_str();
        if !is_pure(name) && !WITHOUT_TOKIO.contains(&name) {
            continue;
        }
        let reached = reached_by(name);
        assert!(reached.contains(name), "the walk starts at {name}");
        for runtime in ["tokio", "mio", "smol", "async-std"] {
            if reached.contains(runtime) {
                complaints.push(format!("{name} reaches {runtime}"));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn pure_crates_reach_only_pure_crates_of_ours() {
    let mut complaints = Vec::new();
    for (name, _) in PURE {
        let reached = reached_by(name);
        complaints.extend(
            reached
                .iter()
                .filter(|other| is_member(other) && !is_pure(other))
                .map(|other| format!("{name} reaches {other}")),
        );
    }
    assert_none(&complaints);
}

fn is_pure(name: &str) -> bool {
    PURE.iter().any(|(pure, _)| *pure == name)
}

/// Names of all packages that are linked into `name`, itself among them.
fn reached_by(name: &str) -> BTreeSet<&'static str> {
    let graph = metadata().resolve.as_ref().expect("cargo metadata resolves the graph");
    let start = members().into_iter().find(|member| member.name.as_str() == name).expect("a member");
    let mut reached = BTreeSet::from([&start.id]);
    let mut waiting = vec![&start.id];
    while let Some(id) = waiting.pop() {
        let node = graph.nodes.iter().find(|node| node.id == *id).expect("each package has a node");
        for dependency in &node.deps {
            let linked = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if linked && reached.insert(&dependency.pkg) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    reached.into_iter().map(|id| metadata()[id].name.as_str()).collect()
}
