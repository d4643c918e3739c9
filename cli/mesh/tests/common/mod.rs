//! Runs the binary as a user would, without the environment of whoever runs the tests.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::process::{Command, Output};

/// What a run of the binary left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit status.
    pub(crate) status: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error on standard error as JSON, as `(kind, message, hint)`.
    #[track_caller]
    pub(crate) fn json_error(&self) -> (String, String, String) {
        let document: serde_json::Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let text = |key: &str| document["error"][key].as_str().unwrap_or_default().to_owned();
        (text("kind"), text("message"), text("hint"))
    }
}

/// The binary with these arguments, without the configuration of this machine, and where no router can be started: a test that
/// is wrong must not make a bridge here.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
    command.args(arguments).env_clear().env("MESH_CONFIG", "/dev/null");
    command.env("MESH_RUN_DIR", "/dev/null/run").env("MESH_STATE_DIR", "/dev/null/state");
    command
}

/// Runs the binary with these arguments.
pub(crate) fn mesh(arguments: &[&str]) -> Ran {
    ran(command(arguments).output().unwrap())
}

/// The outcome of a finished run.
pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        status: output.status.code().expect("not killed by a signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
