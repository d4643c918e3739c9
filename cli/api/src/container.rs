//! How a container is named: the grammar `netns:NAME | netns:/path | pid:N`, as typed and as it crosses the socket.
//! Opens nothing and asks nobody whether the container exists.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Greatest process id that Linux gives (`PID_MAX_LIMIT` in `include/linux/threads.h`).
pub const PID_MAX: u32 = 4 * 1024 * 1024;

/// Longest file name in bytes (`NAME_MAX` in `include/uapi/linux/limits.h`).
const NAME_LEN_MAX: usize = 255;

/// Longest path in bytes, without the final zero (`PATH_MAX` in `include/uapi/linux/limits.h`).
const PATH_LEN_MAX: usize = 4095;

/// The network namespace of a container. In JSON it is the text that a user types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetnsTarget {
    /// `netns:NAME`: made by `ip netns add NAME`, a file in `/run/netns`.
    Name(NetnsName),
    /// `netns:/path`: a namespace file at this absolute path, in the router's mount namespace.
    Path(PathBuf),
    /// `pid:N`: the namespace of this process, 1 to [`PID_MAX`], in the router's process namespace.
    Pid(u32),
}

/// Name of a network namespace: a file name of 1 to 255 bytes, neither `.` nor `..`, without `/` and control
/// characters. Joined to a directory it stays inside it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsName(String);

/// Why a text names no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// There is no text, or none after the colon.
    #[error("the container's name is missing")]
    Missing,
    /// `netns:NAME` with a name that is no file name.
    #[error("'{0}' is no name of a network namespace")]
    Name(String),
    /// `netns:/path` with a path that is too long, goes up with `..` or holds a zero byte.
    #[error("'{0}' is no usable path of a network namespace")]
    Path(String),
    /// `pid:N` with something else than a process id.
    #[error("'{0}' is no process id from 1 to {PID_MAX}")]
    Pid(String),
    /// A form of a container runtime, or a bare name.
    #[error("'{0}': names of container runtimes are not supported by this version yet")]
    NotSupportedYet(String),
}

impl ContainerError {
    /// What the user can type in its place.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        "name the container's network namespace: netns:NAME, netns:/path or pid:N"
    }
}

impl NetnsName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetnsName {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, ContainerError> {
        let well_formed = text.len() <= NAME_LEN_MAX
            && text != "."
            && text != ".."
            && !text.chars().any(|c| c == '/' || c.is_control());
        match text {
            "" => Err(ContainerError::Missing),
            name if well_formed => Ok(Self(name.to_owned())),
            name => Err(ContainerError::Name(printable(name))),
        }
    }
}

impl FromStr for NetnsTarget {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, ContainerError> {
        match text.split_once(':') {
            Some(("netns", path)) if path.starts_with('/') => parse_path(path).map(Self::Path),
            Some(("netns", name)) => name.parse().map(Self::Name),
            Some(("pid", pid)) => parse_pid(pid).map(Self::Pid),
            None if text.is_empty() => Err(ContainerError::Missing),
            Some(_) | None => Err(ContainerError::NotSupportedYet(printable(text))),
        }
    }
}

impl fmt::Display for NetnsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "netns:{}", name.as_str()),
            Self::Path(path) => write!(f, "netns:{}", path.display()),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

impl TryFrom<String> for NetnsTarget {
    type Error = ContainerError;

    fn try_from(text: String) -> Result<Self, ContainerError> {
        text.parse()
    }
}

impl From<NetnsTarget> for String {
    fn from(target: NetnsTarget) -> Self {
        target.to_string()
    }
}

/// Accepts an absolute path that stays where it points. `..` is refused because a reader would not see where it ends.
fn parse_path(text: &str) -> Result<PathBuf, ContainerError> {
    let path = Path::new(text);
    let goes_up = path.components().any(|component| component == Component::ParentDir);
    if text.len() > PATH_LEN_MAX || goes_up || text.chars().any(char::is_control) {
        return Err(ContainerError::Path(printable(text)));
    }
    Ok(path.to_owned())
}

fn parse_pid(text: &str) -> Result<u32, ContainerError> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(pid @ 1..=PID_MAX) if digits_only => Ok(pid),
        Ok(_) | Err(_) if text.is_empty() => Err(ContainerError::Missing),
        Ok(_) | Err(_) => Err(ContainerError::Pid(printable(text))),
    }
}

/// The text with control characters escaped, so that an error message cannot garble a terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_back_as_it_was_typed() {
        for text in
            ["netns:c1", "netns:a:b", "netns:/run/netns/c1", "netns:/proc/1/ns/net", "pid:1", "pid:4194304"]
        {
            assert_eq!(text.parse::<NetnsTarget>().map(|target| target.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_malformed_name_is_refused_with_what_is_wrong() {
        let long = "a".repeat(256);
        let name = |text: &str| ContainerError::Name(text.to_owned());
        let pid = |text: &str| ContainerError::Pid(text.to_owned());
        for (text, error) in [
            ("", ContainerError::Missing),
            ("netns:", ContainerError::Missing),
            ("netns:..", name("..")),
            ("netns:.", name(".")),
            ("netns:../../proc/1/ns/net", name("../../proc/1/ns/net")),
            ("netns:a/b", name("a/b")),
            ("netns:a\nb", name("a\\nb")),
            ("netns:/a/../b", ContainerError::Path("/a/../b".to_owned())),
            ("netns:/a\0b", ContainerError::Path("/a\\u{0}b".to_owned())),
            (&format!("netns:{long}"), name(&long)),
            ("pid:", ContainerError::Missing),
            ("pid:0", pid("0")),
            ("pid:-1", pid("-1")),
            ("pid:+1", pid("+1")),
            ("pid:4194305", pid("4194305")),
            ("pid:99999999999999", pid("99999999999999")),
            ("pid:x", pid("x")),
        ] {
            assert_eq!(text.parse::<NetnsTarget>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn names_of_container_runtimes_are_told_apart_from_malformed_ones() {
        for text in ["docker:web", "podman:web", "web", "4f2a7be310aa", "NETNS:c1"] {
            let error = text.parse::<NetnsTarget>().unwrap_err();
            assert_eq!(error, ContainerError::NotSupportedYet(text.to_owned()));
        }
    }

    #[test]
    fn a_request_cannot_smuggle_a_path_in_as_a_name() {
        assert!(serde_json::from_str::<NetnsTarget>(r#""netns:../../etc""#).is_err());
        assert!(serde_json::from_str::<NetnsTarget>(r#""pid:0""#).is_err());
    }
}
