//! Tests that span modules: the model, the laws, the histories, the disk.

mod cluster;
mod disk;
mod histories;
mod laws;
mod model;
mod scenarios;
mod weave;

/// A number from the environment, for tests whose length is the developer's choice.
#[expect(clippy::disallowed_methods, reason = "how long a test runs is the developer's choice")]
fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name); // house: how long a test runs is the developer's choice
    text.ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Figures for whoever runs a test with its output shown.
#[expect(clippy::disallowed_macros, reason = "a test has no other output")]
fn say(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}
