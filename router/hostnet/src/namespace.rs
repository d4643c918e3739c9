//! Network namespaces: naming, opening, entering.
//!
//! Owns the file descriptor that keeps a namespace alive, and the thread that enters one. Does not make namespaces, and
//! does not know containers' runtimes.

use std::fmt;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::HostError;

/// `NSFS_MAGIC` of include/uapi/linux/magic.h: the file system of namespaces' files.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Where `ip netns` keeps named namespaces; the second is the older name of the first.
const NAMED_DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    id: NetnsId,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, HostError> {
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let netns = NetnsRef::Path(path.clone());
        Self::open_file(&path).map_err(|error| error.about(netns))
    }

    /// Opens the namespace that `netns` names.
    ///
    /// # Errors
    /// [`HostError::NoSuchProcess`] and [`HostError::NamespaceNotFound`] when there is nothing of that name,
    /// [`HostError::NotANamespace`] when it is something else, [`HostError::Namespace`] when it cannot be opened.
    pub fn open(netns: &NetnsRef) -> Result<Self, HostError> {
        let candidates: Vec<PathBuf> = match netns {
            NetnsRef::Name(name) => {
                NAMED_DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).collect()
            }
            NetnsRef::Path(path) => vec![path.clone()],
            NetnsRef::Pid(pid) => vec![format!("/proc/{pid}/ns/net").into()],
        };
        let mut result = Err(OpenError::Errno(Errno::NOENT));
        for path in &candidates {
            result = Self::open_file(path);
            if !matches!(result, Err(OpenError::Errno(Errno::NOENT))) {
                break;
            }
        }
        result.map_err(|error| error.about(netns.clone()))
    }

    /// What tells this namespace from all others that live now.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `f` on a thread of its own that has entered this namespace and ends afterwards. A panic in `f` goes on in the
    /// caller.
    ///
    /// A socket that `f` opens and returns stays bound to this namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, HostError> {
        thread::scope(|scope| {
            let enter_and_run =
                || match move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network)) {
                    Ok(()) => Ok(f()),
                    Err(errno) => Err(HostError::EnterNamespace { netns: self.id, source: errno.into() }),
                };
            let worker = thread::Builder::new()
                .name("mesh-netns".to_owned())
                .spawn_scoped(scope, enter_and_run)
                .map_err(|source| HostError::Thread { source })?;
            worker.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Looks before it opens: what is no namespace (a device, a pipe) is never opened for reading, as that alone can
    /// have effects or block.
    fn open_file(path: &Path) -> Result<Self, OpenError> {
        let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // The width and sign of `f_type` differ between architectures; the magic number fits all of them.
        #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
        let file_system = rustix::fs::fstatfs(&handle)?.f_type as u64;
        if file_system != NSFS_MAGIC {
            return Err(OpenError::NotANamespace);
        }
        let own = format!("/proc/thread-self/fd/{}", handle.as_raw_fd());
        let file = rustix::fs::open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        if !is_network(file.as_fd())? {
            return Err(OpenError::NotANamespace);
        }
        let stat = rustix::fs::fstat(&file)?;
        let id = NetnsId { device: stat.st_dev, inode: stat.st_ino };
        Ok(Self { file, id })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The identity of a namespace while it lives: its file's device and inode. The kernel may give both to another one
/// after it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// The identity of a namespace whose file had this device and inode.
    #[must_use]
    pub const fn from_parts(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    /// Device and inode of the namespace's file.
    #[must_use]
    pub fn parts(self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// How a user names a network namespace: `netns:NAME`, `netns:/path` or `pid:N`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetnsRef {
    /// A namespace of `ip netns`, kept in /run/netns.
    Name(String),
    /// The file of a namespace.
    Path(PathBuf),
    /// The namespace of a process, by its id as seen from here.
    Pid(u32),
}

impl FromStr for NetnsRef {
    type Err = NetnsRefError;

    fn from_str(text: &str) -> Result<Self, NetnsRefError> {
        if let Some(pid) = text.strip_prefix("pid:") {
            let pid: NonZeroU32 = pid.parse().map_err(|source| NetnsRefError::BadPid { source })?;
            return Ok(Self::Pid(pid.get()));
        }
        let name = text.strip_prefix("netns:").ok_or(NetnsRefError::UnknownScheme)?;
        if name.contains('\0') {
            return Err(NetnsRefError::BadName);
        }
        if name.starts_with('/') {
            return Ok(Self::Path(name.into()));
        }
        if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
            return Err(NetnsRefError::BadName);
        }
        Ok(Self::Name(name.to_owned()))
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "netns:{name}"),
            Self::Path(path) => write!(f, "netns:{}", path.display()),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

/// Why a text names no network namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetnsRefError {
    /// It begins with neither `netns:` nor `pid:`.
    #[error("a network namespace is named by netns:NAME, netns:/path or pid:N")]
    UnknownScheme,
    /// After `netns:` comes neither a plain name nor an absolute path.
    #[error("after netns: comes a plain name, or an absolute path")]
    BadName,
    /// After `pid:` comes no process id.
    #[error("after pid: comes a process id: {source}")]
    BadPid {
        /// Why it is none.
        source: std::num::ParseIntError,
    },
}

#[derive(Debug)]
enum OpenError {
    NotANamespace,
    Errno(Errno),
}

impl OpenError {
    fn about(self, netns: NetnsRef) -> HostError {
        match (self, netns) {
            (Self::NotANamespace, netns) => HostError::NotANamespace { netns },
            // A process that has ended but is not yet waited for still has its directory, without namespaces in it.
            (Self::Errno(Errno::NOENT | Errno::SRCH), NetnsRef::Pid(pid)) => HostError::NoSuchProcess { pid },
            (Self::Errno(Errno::NOENT | Errno::NOTDIR), netns) => HostError::NamespaceNotFound { netns },
            (Self::Errno(errno), netns) => HostError::Namespace { netns, source: errno.into() },
        }
    }
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Whether a file of nsfs is that of a network namespace, and not of a mount or user namespace (ioctl_ns(2)).
fn is_network(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    // SAFETY: `file` is open for the whole call, and this request takes no argument and writes to no memory of ours.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind < 0 { Err(last_errno()) } else { Ok(kind == libc::CLONE_NEWNET) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_ways_to_name_a_namespace() {
        assert_eq!("netns:c1".parse(), Ok(NetnsRef::Name("c1".to_owned())));
        assert_eq!("netns:/run/netns/c1".parse(), Ok(NetnsRef::Path("/run/netns/c1".into())));
        assert_eq!("pid:42".parse(), Ok(NetnsRef::Pid(42)));
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["netns:c1", "netns:/run/netns/c1", "pid:42"] {
            assert_eq!(text.parse::<NetnsRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_other_texts() {
        for text in ["", "c1", "docker:c1", "Pid:1"] {
            assert_eq!(text.parse::<NetnsRef>(), Err(NetnsRefError::UnknownScheme), "{text:?}");
        }
        for text in ["netns:", "netns:..", "netns:a/b", "netns:a\0"] {
            assert_eq!(text.parse::<NetnsRef>(), Err(NetnsRefError::BadName), "{text:?}");
        }
        for text in ["pid:", "pid:0", "pid:-1", "pid:x", "pid:4294967296"] {
            assert!(matches!(text.parse::<NetnsRef>(), Err(NetnsRefError::BadPid { .. })), "{text:?}");
        }
    }
}
