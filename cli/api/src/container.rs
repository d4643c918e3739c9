//! How a container is named: the grammar `netns:NAME | netns:/path | pid:N | docker:NAME | podman:NAME | NAME`, as typed
//! and as it crosses the socket. Opens nothing and asks nobody whether the container exists.

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

/// Longest name or id of a runtime's container, in bytes. Ids have 64; runtimes bound names by what fits a file name.
const RUNTIME_NAME_LEN_MAX: usize = 128;

/// A container. In JSON it is the text that a user types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ContainerTarget {
    /// `netns:NAME`, `netns:/path`, `pid:N`: its network namespace.
    Netns(NetnsTarget),
    /// `docker:NAME`, `podman:NAME`: one of this runtime.
    Of(Runtime, RuntimeName),
    /// `NAME`: one of whichever runtime has it.
    Bare(RuntimeName),
}

/// A program that runs containers and is asked for them over a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// dockerd.
    Docker,
    /// The service of Podman.
    Podman,
}

/// Name or id of a runtime's container, or the beginning of an id: 1 to 128 of letters, digits, `_`, `.`, `-`, the first a
/// letter or digit. It can stand in a URL as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuntimeName(String);

/// The network namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// A name that no runtime gives to a container.
    #[error("'{0}' is no name or id of a container")]
    RuntimeName(String),
}

impl ContainerError {
    /// What the user can type in its place.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        "name the container as docker:NAME, podman:NAME, or by its network namespace: netns:NAME, netns:/path or pid:N"
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

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Podman];

    /// The word before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// Its name, for people to read.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
        }
    }
}

impl RuntimeName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RuntimeName {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, ContainerError> {
        let well_formed = text.len() <= RUNTIME_NAME_LEN_MAX
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        match text {
            "" => Err(ContainerError::Missing),
            name if well_formed => Ok(Self(name.to_owned())),
            name => Err(ContainerError::RuntimeName(printable(name))),
        }
    }
}

impl FromStr for ContainerTarget {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, ContainerError> {
        match text.split_once(':') {
            Some(("netns", path)) if path.starts_with('/') => {
                parse_path(path).map(|path| Self::Netns(NetnsTarget::Path(path)))
            }
            Some(("netns", name)) => name.parse().map(|name| Self::Netns(NetnsTarget::Name(name))),
            Some(("pid", pid)) => parse_pid(pid).map(|pid| Self::Netns(NetnsTarget::Pid(pid))),
            Some(("docker", name)) => name.parse().map(|name| Self::Of(Runtime::Docker, name)),
            Some(("podman", name)) => name.parse().map(|name| Self::Of(Runtime::Podman, name)),
            Some(_) | None => text.parse().map(Self::Bare),
        }
    }
}

impl fmt::Display for ContainerTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(netns) => netns.fmt(f),
            Self::Of(runtime, name) => write!(f, "{runtime}:{}", name.as_str()),
            Self::Bare(name) => f.write_str(name.as_str()),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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

impl TryFrom<String> for ContainerTarget {
    type Error = ContainerError;

    fn try_from(text: String) -> Result<Self, ContainerError> {
        text.parse()
    }
}

impl From<ContainerTarget> for String {
    fn from(target: ContainerTarget) -> Self {
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
        for text in [
            "netns:c1",
            "netns:a:b",
            "netns:/run/netns/c1",
            "netns:/proc/1/ns/net",
            "pid:1",
            "pid:4194304",
            "docker:web",
            "podman:a_b.c-d",
            "web",
            "4f2a7be310aa",
        ] {
            assert_eq!(text.parse::<ContainerTarget>().map(|target| target.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_malformed_name_is_refused_with_what_is_wrong() {
        let long = "a".repeat(256);
        let name = |text: &str| ContainerError::Name(text.to_owned());
        let pid = |text: &str| ContainerError::Pid(text.to_owned());
        let runtime = |text: &str| ContainerError::RuntimeName(text.to_owned());
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
            ("docker:", ContainerError::Missing),
            ("docker:/etc", runtime("/etc")),
            ("podman:-rm", runtime("-rm")),
            ("web/json?x", runtime("web/json?x")),
            ("NETNS:c1", runtime("NETNS:c1")),
            ("docker:a b", runtime("a b")),
        ] {
            assert_eq!(text.parse::<ContainerTarget>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_request_cannot_smuggle_a_path_in_as_a_name() {
        assert!(serde_json::from_str::<ContainerTarget>(r#""netns:../../etc""#).is_err());
        assert!(serde_json::from_str::<ContainerTarget>(r#""pid:0""#).is_err());
    }
}
