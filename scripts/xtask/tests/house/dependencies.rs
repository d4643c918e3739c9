//! Licences, sources and bans of what we depend on: deny.toml, held by `cargo metadata` where cargo-deny is not at hand.

use std::collections::{BTreeMap, BTreeSet};

use crate::workspace::{assert_none, metadata, read};

#[test]
fn every_dependency_has_an_allowed_licence() {
    let allowed = allowed_licences();
    let mut complaints = Vec::new();
    for package in &metadata().packages {
        match package.license.as_deref() {
            None => complaints.push(format!("{} {} states no licence", package.name, package.version)),
            Some(licence) if !satisfies(licence, &allowed) => {
                complaints.push(format!("{} {}: {licence}", package.name, package.version));
            }
            Some(_) => {}
        }
    }
    assert_none(&complaints);
}

#[test]
fn everything_from_outside_comes_from_the_public_registry() {
    let foreign = metadata().packages.iter().filter_map(|package| {
        let source = package.source.as_ref()?;
        (!source.is_crates_io()).then(|| format!("{} comes from {source}", package.name))
    });
    assert_none(&foreign.collect::<Vec<_>>());
}

#[test]
fn banned_crates_come_only_through_their_wrappers() {
    let bans = bans();
    let mut complaints = Vec::new();
    let graph = metadata().resolve.as_ref().expect("cargo metadata resolves the graph");
    for node in &graph.nodes {
        let user = metadata()[&node.id].name.as_str();
        for dependency in &node.dependencies {
            let name = metadata()[dependency].name.as_str();
            if let Some(wrappers) = bans.get(name)
                && !wrappers.contains(user)
            {
                complaints.push(format!("{user} depends on {name}, which deny.toml bans"));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn a_licence_expression_is_read_as_it_is_meant() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "MIT AND ISC",
        "(GPL-3.0 OR MIT) AND ISC",
        "ISC AND (X OR MIT)",
    ] {
        assert!(satisfies(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR GPL-3.0) AND X", "MIT WITH linking-exception"] {
        assert!(!satisfies(bad, &allowed), "{bad}");
    }
}

/// The licences that deny.toml allows.
fn allowed_licences() -> BTreeSet<String> {
    let text = read("deny.toml");
    let list = text
        .split_once("\nallow = [")
        .and_then(|(_, after)| after.split_once(']'))
        .expect("deny.toml allows licences");
    let licences: BTreeSet<String> = quoted(list.0).map(str::to_owned).collect();
    assert!(licences.contains("Apache-2.0"), "our own licence is among them");
    licences
}

/// The crates that deny.toml bans, each with those that may bring it.
fn bans() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("deny.toml");
    let (_, list) = text.split_once("\ndeny = [\n").expect("deny.toml bans crates");
    let (list, _) = list.split_once("\n]").expect("the list ends");
    let bans = list.lines().map(|line| {
        let name = quoted(line).next().expect("each line names a crate").to_owned();
        let wrappers = line.split_once("wrappers = [").and_then(|(_, after)| after.split_once(']'));
        (name, wrappers.map(|(inner, _)| quoted(inner).map(str::to_owned).collect()).unwrap_or_default())
    });
    let bans: BTreeMap<_, _> = bans.collect();
    assert!(bans.contains_key("bincode"), "the list was read");
    bans
}

/// What stands between double quotes in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// Whether a licence expression (SPDX, or with the older `/` for OR) can be met by the `allowed` licences alone.
/// An exception widens what a licence permits, yet is not taken for the plain licence.
fn satisfies(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest, allowed) && rest.is_empty()
}

fn any_of(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(rest, allowed);
    while let Some(after) = rest.strip_prefix(&["OR"]) {
        *rest = after;
        met |= all_of(rest, allowed);
    }
    met
}

fn all_of(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = one(rest, allowed);
    while let Some(after) = rest.strip_prefix(&["AND"]) {
        *rest = after;
        met &= one(rest, allowed);
    }
    met
}

fn one(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let Some((word, after)) = rest.split_first() else { return false };
    *rest = after;
    if *word == "(" {
        let met = any_of(rest, allowed);
        *rest = rest.strip_prefix(&[")"]).unwrap_or(rest);
        return met;
    }
    match rest {
        ["WITH", _, after @ ..] => {
            *rest = after;
            false
        }
        _ => allowed.contains(*word),
    }
}
