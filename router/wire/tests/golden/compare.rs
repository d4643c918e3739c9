//! Compares bytes with those that are written down in a golden file.
//!
//! A golden file holds one value a line, `name = hexadecimal digits`, in the order in which the test makes them. When the
//! protocol changes on purpose, `MESH_GOLDEN=write cargo nextest run golden` writes the files anew; the difference is
//! then read line by line, and PROTOCOL.md says the same.

use std::fmt::Write as _;

/// Values with their names, to be compared with a file.
#[derive(Default)]
pub(crate) struct Golden(String);

impl Golden {
    /// Begins a section.
    pub(crate) fn section(&mut self, title: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        writeln!(self.0, "{gap}# {title}").expect("writing to a String cannot fail");
    }

    /// Appends a value.
    pub(crate) fn add(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        let hex: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.0, "{name} = {hex}").expect("writing to a String cannot fail");
    }

    /// Checks that the file at `path` says the same, or writes it.
    #[expect(clippy::disallowed_methods, reason = "a test may read its files")]
    pub(crate) fn check(&self, path: &str) {
        let wanted = std::env::var_os("MESH_GOLDEN"); // house: a switch for developers
        if wanted.is_some_and(|what| what == "write") {
            std::fs::write(path, &self.0).expect("the folder is there"); // house: its own golden file
            return;
        }
        let written = std::fs::read_to_string(path).expect("the golden file is there"); // house: its own golden file
        for (number, (made, golden)) in self.0.lines().zip(written.lines()).enumerate() {
            assert_eq!(made, golden, "{path}, line {}", number + 1);
        }
        assert_eq!(self.0.lines().count(), written.lines().count(), "lines of {path}");
    }
}
