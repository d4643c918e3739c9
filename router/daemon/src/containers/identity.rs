//! Who a container is, by whatever name it was called: the same across its lives, as far as that can be seen.
//!
//! Owns the texts of identities, and the look for a namespace's name. Asks no runtime.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use mesh_api::{NetnsName, NetnsTarget, Runtime};
use mesh_hostnet::{Netns, NetnsId};
use mesh_ipam::Ident;

use crate::runtime::is_id;

/// Where `ip netns` keeps named namespaces; the second is the older name of the first.
const NAMED_DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Named namespaces that are looked at for the name of one. Where there are more, it goes by its number.
const NAMED_MAX: usize = 10_000;

/// A container, as one that outlives its namespaces where it has a name or a runtime.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Identity {
    /// A runtime's, by its full id.
    Of(Runtime, String),
    /// Whatever namespace bears this name.
    Named(NetnsName),
    /// Whatever namespace lies at this path.
    At(String),
    /// This very namespace, which has no name. Its number can be another's once it has ended.
    Nameless(NetnsId),
}

/// A process by which a nameless namespace can be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks from the start of the host to that of the process: no other process has had both.
    pub(crate) started: u64,
}

impl Identity {
    /// The container whose namespace is named so, and has been opened.
    pub(crate) fn of(target: &NetnsTarget, netns: &Netns) -> Self {
        let named = |name: String| name.parse().ok().map(Self::Named);
        let identity = match target {
            NetnsTarget::Name(name) => Some(Self::Named(name.clone())),
            NetnsTarget::Path(path) => match name_of(path) {
                Some(name) => named(name),
                None if path.starts_with("/proc") => None,
                None => path.to_str().map(|path| Self::At(path.to_owned())),
            },
            NetnsTarget::Pid(_) => None,
        };
        // A name that is too long to hold an address is none.
        let usable = |identity: &Self| identity.to_string().parse::<Ident>().is_ok();
        let found = identity.or_else(|| name_of_number(netns.id()).and_then(named));
        found.filter(usable).unwrap_or_else(|| Self::Nameless(netns.id()))
    }

    /// The container that is named so, though it has no namespace now.
    pub(crate) fn of_absent(target: &NetnsTarget) -> Option<Self> {
        match target {
            NetnsTarget::Name(name) => Some(Self::Named(name.clone())),
            NetnsTarget::Path(path) if path.starts_with("/proc") => None,
            NetnsTarget::Path(path) => match name_of(path) {
                Some(name) => name.parse().ok().map(Self::Named),
                None => path.to_str().map(|path| Self::At(path.to_owned())),
            },
            NetnsTarget::Pid(_) => None,
        }
    }

    /// The name by which it holds its addresses.
    pub(crate) fn ident(&self) -> Ident {
        let text = match self {
            Self::Nameless(id) => id.to_string(),
            Self::Of(..) | Self::Named(_) | Self::At(_) => self.to_string(),
        };
        text.parse().expect("ids and numbers are short, and names were measured")
    }

    /// How a namespace of it is opened, where that takes no runtime and no process.
    pub(crate) fn target(&self) -> Option<NetnsTarget> {
        match self {
            Self::Named(name) => Some(NetnsTarget::Name(name.clone())),
            Self::At(path) => Some(NetnsTarget::Path(path.into())),
            Self::Of(..) | Self::Nameless(_) => None,
        }
    }
}

/// As it stands in the file.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(runtime, id) => write!(f, "{runtime}:{id}"),
            Self::Named(name) => write!(f, "netns:{}", name.as_str()),
            Self::At(path) => write!(f, "netns:{path}"),
            Self::Nameless(id) => {
                let (device, inode) = id.parts();
                write!(f, "net:{device}:{inode}")
            }
        }
    }
}

/// A text is no identity.
#[derive(Debug)]
pub(crate) struct IdentityError;

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let (kind, rest) = text.split_once(':').ok_or(IdentityError)?;
        let of = |runtime| is_id(rest).then(|| Self::Of(runtime, rest.to_owned()));
        let identity = match kind {
            "docker" => of(Runtime::Docker),
            "podman" => of(Runtime::Podman),
            "netns" if rest.starts_with('/') => Some(Self::At(rest.to_owned())),
            "netns" => rest.parse().ok().map(Self::Named),
            "net" => rest.split_once(':').and_then(|(device, inode)| {
                Some(Self::Nameless(NetnsId::from_parts(device.parse().ok()?, inode.parse().ok()?)))
            }),
            _unknown => None,
        };
        let usable = |identity: &Self| {
            matches!(identity, Self::Nameless(_)) || identity.to_string().parse::<Ident>().is_ok()
        };
        identity.filter(usable).ok_or(IdentityError)
    }
}

impl Process {
    /// The process of this id that runs now.
    pub(crate) fn now(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Field 22 of proc_pid_stat(5). The command's name, field 2, may hold blanks and brackets: it is counted from its end.
        let (_, after_name) = stat.rsplit_once(") ")?;
        Some(Self { pid, started: after_name.split(' ').nth(19)?.parse().ok()? })
    }

    /// The process that a way to name a namespace leads through.
    pub(crate) fn of(target: &NetnsTarget) -> Option<Self> {
        match target {
            NetnsTarget::Pid(pid) => Self::now(*pid),
            NetnsTarget::Path(path) => {
                let below = path.strip_prefix("/proc").ok()?;
                Self::now(below.components().next()?.as_os_str().to_str()?.parse().ok()?)
            }
            NetnsTarget::Name(_) => None,
        }
    }
}

/// The name of a namespace whose file is at this path, if it has one.
fn name_of(path: &Path) -> Option<String> {
    let dir = path.parent()?;
    let named = NAMED_DIRECTORIES.iter().any(|named| dir == Path::new(named));
    named.then(|| path.file_name()?.to_str().map(str::to_owned)).flatten()
}

/// The name of a namespace, if it has one.
fn name_of_number(id: NetnsId) -> Option<String> {
    let entries = NAMED_DIRECTORIES.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let named = entries
        .take(NAMED_MAX)
        .find(|entry| fs::metadata(entry.path()).is_ok_and(|file| (file.dev(), file.ino()) == id.parts()));
    named.and_then(|entry| name_of(&entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_namespace_has_one_name_by_whatever_path() {
        assert_eq!(name_of(Path::new("/run/netns/c1")).as_deref(), Some("c1"));
        assert_eq!(name_of(Path::new("/var/run/netns/c1")).as_deref(), Some("c1"));
        assert_eq!(name_of(Path::new("/run/netns/a/c1")), None);
        assert_eq!(name_of(Path::new("/run/docker/netns/c1")), None);
    }

    #[test]
    fn an_identity_is_read_back_as_it_was_written() {
        for text in ["docker:4f2a7be310aa", "podman:00ff", "netns:c1", "netns:/run/x/y", "net:4:4026532177"] {
            assert_eq!(text.parse::<Identity>().expect(text).to_string(), text);
        }
        for text in ["", "docker:", "docker:web", "netns:", "netns:..", "net:4", "net:x:1", "pid:7", "c1"] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
        let nameless: Identity = "net:4:4026532177".parse().expect("an identity");
        assert_eq!(nameless.ident().as_str(), "net:[4026532177]");
    }

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let me = Process::now(std::process::id()).expect("this process runs");
        assert_eq!(Process::of(&NetnsTarget::Pid(me.pid)), Some(me));
        assert_eq!(Process::of(&NetnsTarget::Path(format!("/proc/{}/ns/net", me.pid).into())), Some(me));
        assert_eq!(Process::of(&NetnsTarget::Path("/run/netns/c1".into())), None);
    }
}
