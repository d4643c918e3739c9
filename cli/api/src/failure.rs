//! What went wrong, in the form in which it crosses the control socket and reaches scripts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The class of an error: it decides the exit status of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The command line is wrong.
    Usage,
    /// No router is running here.
    NotRunning,
    /// The peer, container, address or name is not known.
    Unknown,
    /// What was waited for did not happen in time.
    Timeout,
    /// Well-formed, but not possible in the present state.
    Refused,
    /// Well-formed for the command line, but not a value that the router or the kernel takes.
    Invalid,
    /// A name, port, address or directory is taken by somebody else.
    InUse,
    /// The caller, or the router, lacks a right.
    Permission,
    /// This version of the program does not do it.
    Unsupported,
    /// A fault of the router or of the system below it; also every kind that a later version may add.
    #[serde(other)]
    Internal,
}

impl ErrorKind {
    /// The exit status that the command line ends with.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::Unknown => 4,
            Self::Timeout => 5,
            Self::Refused
            | Self::Invalid
            | Self::InUse
            | Self::Permission
            | Self::Unsupported
            | Self::Internal => 1,
        }
    }
}

/// An error as the command line shows it: `{kind, message, hint}`.
///
/// Unlike the errors inside the program this one carries text, because it is made to be read, and because the reader
/// may be of another version than the writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The class.
    pub kind: ErrorKind,
    /// What happened: one sentence without a capital and without a full stop.
    pub message: String,
    /// What the user can do about it, when there is something.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same failure with this hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_exit_status_of_the_contract() {
        use ErrorKind::{
            InUse, Internal, Invalid, NotRunning, Permission, Refused, Timeout, Unknown, Unsupported, Usage,
        };
        let statuses = [Usage, NotRunning, Unknown, Timeout].map(ErrorKind::exit_status);
        assert_eq!(statuses, [2, 3, 4, 5]);
        for kind in [Refused, Invalid, InUse, Permission, Unsupported, Internal] {
            assert_eq!(kind.exit_status(), 1, "{kind:?}");
        }
    }

    #[test]
    fn a_kind_of_a_later_version_reads_as_internal() {
        let failure: Failure =
            serde_json::from_str(r#"{"kind":"eclipsed","message":"m","hint":null}"#).unwrap();
        assert_eq!(failure, Failure::new(ErrorKind::Internal, "m"));
    }

    #[test]
    fn a_failure_has_the_three_keys_of_the_contract() {
        let failure =
            Failure::new(ErrorKind::InUse, "port 6783 is taken").with_hint("choose another with --port");
        assert_eq!(
            serde_json::to_string(&failure).unwrap(),
            r#"{"kind":"in_use","message":"port 6783 is taken","hint":"choose another with --port"}"#
        );
    }
}
