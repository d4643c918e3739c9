//! The files by which the kernel tells of itself, below a root that tests can make.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest of these files that matters here, in bytes; module lists are the longest.
const LEN_MAX: u64 = 4 * 1024 * 1024;

/// A tree with `proc`, `sys` and `lib`.
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn of_this_host() -> Self {
        Self { root: "/".into() }
    }

    #[cfg(test)]
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The text of a file without blanks around it; `None` when it cannot be read.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = self.root.join(path);
        let short = fs::metadata(&path).is_ok_and(|file| file.len() <= LEN_MAX);
        short.then(|| fs::read_to_string(&path).ok()).flatten().map(|text| text.trim().to_owned())
    }

    /// The number in a file.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.root.join(path).exists()
    }

    /// The names in a directory, sorted; none when it cannot be read.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }
}
