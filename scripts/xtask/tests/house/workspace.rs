//! What the tests look at: the members of the workspace, the graph of packages, and the files in the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// Crates without clock, dice, sockets, files, threads and locks, by package name and folder.
pub(crate) const PURE: [(&str, &str); 6] = [
    ("mesh-crypto", "router/crypto"),
    ("mesh-ipam", "ipam"),
    ("mesh-names", "dns/names"),
    ("mesh-node", "router/node"),
    ("mesh-topology", "router/topology"),
    ("mesh-wire", "router/wire"),
];

/// Folders that hold nothing of ours.
const SKIPPED_FOLDERS: [&str; 2] = ["target", ".git"];

static METADATA: LazyLock<Metadata> = LazyLock::new(|| {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .expect("cargo metadata reads this workspace")
});

/// A file of the tree, with its path from the workspace's root.
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The resolved graph of all packages.
pub(crate) fn metadata() -> &'static Metadata {
    &METADATA
}

/// The workspace's own packages.
pub(crate) fn members() -> Vec<&'static Package> {
    METADATA.workspace_packages()
}

/// Whether `name` is one of the workspace's own packages.
pub(crate) fn is_member(name: &str) -> bool {
    members().iter().any(|member| member.name.as_str() == name)
}

/// The directory of the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("xtask lies two folders deep").to_owned()
}

/// The text of the file at `path` from the root.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust sources.
pub(crate) fn rust_sources() -> Vec<TextFile> {
    files(|path| path.ends_with(".rs"))
}

/// All files that `wanted` picks by their path from the root, sorted by path.
pub(crate) fn files(wanted: impl Fn(&str) -> bool) -> Vec<TextFile> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree is readable") {
            let entry = entry.expect("a folder of the tree is readable");
            let name = entry.file_name();
            let kind = entry.file_type().expect("a file of the tree has a type");
            if kind.is_dir() && !SKIPPED_FOLDERS.iter().any(|skipped| name == *skipped) {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let path =
                    path.strip_prefix(&root).expect("found below the root").to_string_lossy().into_owned();
                if wanted(&path) {
                    found.push(TextFile { text: read(&path), path });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "the search finds the tree");
    found
}

/// Fails with all of `complaints`, one a line, unless there are none.
#[track_caller]
pub(crate) fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}
