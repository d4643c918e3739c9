//! clippy reads only the nearest clippy.toml, so those of pure crates repeat the workspace's, and equal each other.

use crate::workspace::{PURE, assert_none, read};

#[test]
fn pure_crates_carry_one_and_the_same_clippy_toml() {
    let files: Vec<(String, String)> = PURE
        .iter()
        .map(|(_, folder)| format!("{folder}/clippy.toml"))
        .map(|path| (read(&path), path))
        .collect();
    let (first, _) = &files[0];
    let different = files.iter().filter(|(text, _)| text != first);
    assert_none(
        &different.map(|(_, path)| format!("{path} differs from {}", files[0].1)).collect::<Vec<_>>(),
    );
}

#[test]
fn clippy_toml_of_pure_crates_repeats_the_workspaces() {
    let (workspace, pure) = (read("clippy.toml"), read("router/wire/clippy.toml"));
    let settings = workspace.lines().filter(|line| !line.starts_with('#') && line.contains(" = "));
    let mut missing = settings.filter(|line| !pure.contains(line)).map(str::to_owned).peekable();
    assert_none(&missing.by_ref().collect::<Vec<_>>());
}
