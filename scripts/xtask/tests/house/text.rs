//! How files look.

use crate::workspace::{assert_none, files, members, read, root, rust_sources};

/// Longer files hold more than one thing.
const LINES_MAX: usize = 900;

/// Documents that others point to.
const DOCUMENTS: [&str; 8] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "deny.toml",
    "netns-tests/README.md",
    "router/wire/PROTOCOL.md",
];

/// A short script stays readable; what is longer becomes a task of this crate.
const SCRIPT_LINES_MAX: usize = 150;

#[test]
fn the_documents_exist() {
    let missing = DOCUMENTS.iter().filter(|path| !root().join(path).is_file());
    assert_none(&missing.map(|path| format!("{path} is missing")).collect::<Vec<_>>());
}

/// A `tests.rs` belongs to the module whose tests it holds, which has spoken already.
#[test]
fn every_module_says_what_it_owns() {
    let modules = rust_sources().into_iter().filter(|file| !file.path.ends_with("/tests.rs"));
    let silent = modules.filter(|file| !file.text.starts_with("//! "));
    assert_none(&silent.map(|file| format!("{} does not start with `//! `", file.path)).collect::<Vec<_>>());
}

#[test]
fn files_are_small() {
    let mut complaints = Vec::new();
    for (found, limit) in [(rust_sources(), LINES_MAX), (files(is_script), SCRIPT_LINES_MAX)] {
        let long = found
            .into_iter()
            .map(|file| (file.text.lines().count(), file.path))
            .filter(|(lines, _)| *lines > limit);
        complaints.extend(long.map(|(lines, path)| format!("{path} has {lines} lines, {limit} are allowed")));
    }
    assert_none(&complaints);
}

/// A scenario that was renamed is still found by who looks for what it shows.
#[test]
fn the_table_of_scenarios_names_tests_that_there_are() {
    let sources = files(|path| path.starts_with("netns-tests/tests/scenarios/"));
    let table = read("netns-tests/README.md");
    let quoted = table.split('`').skip(1).step_by(2).filter_map(|name| name.rsplit_once("::"));
    let exists = |module: &str, test: &str| {
        let file = format!("netns-tests/tests/scenarios/{}.rs", module.replace("::", "/"));
        sources.iter().any(|source| source.path == file && source.text.contains(&format!("fn {test}")))
    };
    let unknown = quoted.filter(|(module, test)| !exists(module, test));
    assert_none(&unknown.map(|(module, test)| format!("there is no {module}::{test}")).collect::<Vec<_>>());
}

#[test]
fn text_is_clean() {
    // Written apart, so that this file does not find itself.
    let marks = [concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO")];
    let mut complaints = Vec::new();
    for file in files(|path| [".rs", ".toml", ".md"].iter().any(|end| path.ends_with(end)) || is_script(path))
    {
        let mut complain = |line: usize, what: &str| complaints.push(format!("{}:{line}: {what}", file.path));
        for (number, line) in file.text.lines().enumerate() {
            if line.contains('\t') {
                complain(number + 1, "a tab");
            }
            if line.ends_with([' ', '\r']) {
                complain(number + 1, "blanks at the end");
            }
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric()).collect();
            if let Some(mark) = marks.iter().find(|mark| words.contains(mark)) {
                complain(number + 1, mark);
            }
        }
        if !file.text.ends_with('\n') || file.text.ends_with("\n\n") {
            complain(file.text.lines().count(), "must end in one line feed");
        }
    }
    assert_none(&complaints);
}

#[test]
fn manifests_take_lints_and_versions_from_the_workspace() {
    let mut complaints = Vec::new();
    for member in members() {
        let path = member
            .manifest_path
            .as_std_path()
            .strip_prefix(root())
            .expect("below the root")
            .to_string_lossy();
        let text = read(&path);
        if !text.contains("\n[lints]\nworkspace = true\n") {
            complaints.push(format!("{path} does not inherit the workspace's lints"));
        }
        let mut in_dependencies = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && !line.is_empty() && !line.contains("workspace = true") {
                complaints.push(format!("{path}: `{line}` does not come from [workspace.dependencies]"));
            }
        }
    }
    assert_none(&complaints);
}

fn is_script(path: &str) -> bool {
    path.starts_with(".ci/") || (path.starts_with("scripts/") && path.matches('/').count() == 1)
}
