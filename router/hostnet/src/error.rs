//! What can go wrong while the host's network is changed, and what to do about it.
//!
//! Owns the wording. Every variant says what happened to the host: unless it is [`HostError::UndoIncomplete`], a failed
//! call of `attach` or `detach`, or of `ensure_bridge` where there was no bridge, has left the host as it was. The
//! others can be repeated, and go on where they stopped.

use std::fmt;
use std::io;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::address::AddressFault;
use crate::name::{BridgeName, InterfaceName};
use crate::namespace::{NetnsId, NetnsRef};
use crate::program::ProgramError;

/// Why a change to the host's network was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused a request, or did not answer it.
    #[error("cannot {action} {interface}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// On which interface, or other object of the kernel.
        interface: String,
        /// The kernel's answer.
        source: KernelError,
    },
    /// A switch of an interface could not be read or written.
    #[error("cannot set {}: {source}", path.display())]
    Sysctl {
        /// The switch.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No random address could be drawn.
    #[error("cannot read /dev/urandom: {source}")]
    Random {
        /// The system's answer.
        source: io::Error,
    },
    /// No thread could be started to enter a namespace.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// The system's answer.
        source: io::Error,
    },
    /// Nothing bears this name of a namespace.
    #[error("there is no network namespace {netns}")]
    NamespaceNotFound {
        /// As it was named.
        netns: NetnsRef,
    },
    /// There is no such process, or it has ended.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// Its id.
        pid: u32,
    },
    /// The name leads to something that is no network namespace.
    #[error("{netns} is not a network namespace")]
    NotANamespace {
        /// As it was named.
        netns: NetnsRef,
    },
    /// The namespace could not be opened.
    #[error("cannot open the network namespace {netns}: {source}")]
    Namespace {
        /// As it was named.
        netns: NetnsRef,
        /// The system's answer.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace {netns}: {source}")]
    EnterNamespace {
        /// Which one.
        netns: NetnsId,
        /// The system's answer.
        source: io::Error,
    },
    /// The name of the bridge belongs to an interface that the router did not make.
    #[error("the name {name} is in use by an interface that is not the router's (a {kind})")]
    NameInUse {
        /// The name.
        name: InterfaceName,
        /// The kernel's word for what bears it: `bridge`, `veth`, or `device` when it has none.
        kind: String,
    },
    /// The bridge is no longer there, or no longer ours.
    #[error("the bridge {name} is gone")]
    BridgeGone {
        /// Its name.
        name: BridgeName,
    },
    /// There is no interface of this name to make a port of.
    #[error("there is no interface {port}")]
    PortMissing {
        /// Its name.
        port: InterfaceName,
    },
    /// The interface is a port of something else.
    #[error("the interface {port} belongs to another bridge or bond")]
    PortTaken {
        /// Its name.
        port: InterfaceName,
    },
    /// The MTU is outside of what an interface can have, or below what its addresses need.
    #[error("an MTU of {mtu} bytes is not within {min} to {max}")]
    MtuOutOfRange {
        /// The MTU in bytes.
        mtu: u32,
        /// The smallest that would do, in bytes.
        min: u32,
        /// The largest, in bytes.
        max: u32,
    },
    /// The namespace to attach is the one that the router runs in.
    #[error("this is the router's own network namespace")]
    OwnNamespace,
    /// The container has an interface of this name that the router did not make.
    #[error("the container has an interface {ifname} already that is not the router's")]
    InterfaceInUse {
        /// Its name.
        ifname: InterfaceName,
    },
    /// The host has an interface of the name that the host end would get.
    #[error("the host has an interface {name} already, which is not the other end of the container's")]
    HostInterfaceInUse {
        /// Its name.
        name: InterfaceName,
    },
    /// The address is on an interface of the container already, and not as it was asked for.
    #[error("the address {address} is on the container's interface {interface} already, as {present}")]
    AddressInUse {
        /// What was asked for.
        address: IpNet,
        /// What is there.
        present: IpNet,
        /// Where it is.
        interface: String,
    },
    /// The address cannot be that of an interface.
    #[error("{address} cannot be attached: {fault}")]
    UnusableAddress {
        /// What was asked for.
        address: IpNet,
        /// Why not.
        fault: AddressFault,
    },
    /// The same address was asked for twice.
    #[error("the address {address} is given twice")]
    DuplicateAddress {
        /// Its second occurrence.
        address: IpNet,
    },
    /// An IPv6 address for a namespace without IPv6.
    #[error("the container has no IPv6 for the address {address}")]
    Ipv6Off {
        /// What was asked for.
        address: IpNet,
    },
    /// Nothing of ours is there to detach.
    #[error("the container is not attached by an interface {ifname}")]
    NotAttached {
        /// The interface that was looked for.
        ifname: InterfaceName,
    },
    /// The container has no interface of ours.
    #[error("the container is not attached")]
    NothingAttached,
    /// The interface does not have this address.
    #[error("the address {address} is not on the container's interface {ifname}")]
    AddressNotThere {
        /// What was to be removed.
        address: IpNet,
        /// From where.
        ifname: InterfaceName,
    },
    /// A program of the system did not do its part.
    #[error("cannot {action} by `{program}`: {source}")]
    Program {
        /// What was tried.
        action: &'static str,
        /// The program.
        program: &'static str,
        /// What came of it.
        source: ProgramError,
    },
    /// A change failed, and so did undoing what had been done of it.
    #[error("{cause}; and not all could be undone: {}", join(left))]
    UndoIncomplete {
        /// Why the change failed.
        #[source]
        cause: Box<Self>,
        /// What could not be undone, last step first.
        left: Vec<Self>,
    },
}

impl HostError {
    /// What the user can do about it, as a sentence without a full stop.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kernel { source, .. } => source.hint(),
            Self::Sysctl { source, .. }
            | Self::Namespace { source, .. }
            | Self::EnterNamespace { source, .. } => errno_hint(source),
            Self::NamespaceNotFound { .. } => Some(
                "`ip netns` lists the named namespaces; a running container can be named by pid:N".to_owned(),
            ),
            Self::NoSuchProcess { .. } => {
                Some("give the id of a running process of the container".to_owned())
            }
            Self::NotANamespace { .. } => Some("give the path of a file like /proc/PID/ns/net".to_owned()),
            Self::NameInUse { name, .. } => {
                Some(format!("choose another name with --bridge, or remove it with `ip link delete {name}`"))
            }
            Self::BridgeGone { .. } => Some("restart the router: it makes the bridge again".to_owned()),
            Self::PortTaken { port } => Some(format!("free it with `ip link set {port} nomaster`")),
            Self::OwnNamespace => {
                Some("the host itself takes part in the network by `mesh expose`".to_owned())
            }
            Self::InterfaceInUse { .. } => Some("choose another name with --ifname".to_owned()),
            Self::HostInterfaceInUse { .. } => {
                Some("the container's interface was renamed or replaced: detach it first".to_owned())
            }
            Self::Ipv6Off { .. } => {
                Some("set net.ipv6.conf.default.disable_ipv6=0 in the container before attaching".to_owned())
            }
            Self::UndoIncomplete { .. } => Some("`mesh reset` removes all that the router made".to_owned()),
            Self::Program { program, source: ProgramError::Absent, .. } => Some(format!(
                "install {program}, with Debian and Ubuntu `apt-get install {}`",
                package(program)
            )),
            Self::Program { .. }
            | Self::Random { .. }
            | Self::Thread { .. }
            | Self::PortMissing { .. }
            | Self::MtuOutOfRange { .. }
            | Self::NotAttached { .. }
            | Self::NothingAttached
            | Self::AddressNotThere { .. }
            | Self::AddressInUse { .. }
            | Self::UnusableAddress { .. }
            | Self::DuplicateAddress { .. } => None,
        }
    }
}

/// The kernel's answer to a request: an errno, and what it says beyond that (extended acknowledgement).
#[derive(Debug)]
pub struct KernelError {
    /// The errno; of kind [`io::ErrorKind::TimedOut`] or [`io::ErrorKind::InvalidData`] when it is not the kernel's.
    pub error: io::Error,
    /// The kernel's own words about it.
    pub detail: Option<String>,
}

impl KernelError {
    pub(crate) fn is(&self, errno: rustix::io::Errno) -> bool {
        self.error.raw_os_error() == Some(errno.raw_os_error())
    }

    /// Whether what was to be altered or removed is not there.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        self.is(rustix::io::Errno::NOENT) || self.is(rustix::io::Errno::NODEV)
    }

    /// Says what was tried when this happened.
    pub(crate) fn during(self, action: &'static str, interface: impl fmt::Display) -> HostError {
        HostError::Kernel { action, interface: interface.to_string(), source: self }
    }

    fn hint(&self) -> Option<String> {
        errno_hint(&self.error)
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{} ({detail})", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for KernelError {}

impl From<io::Error> for KernelError {
    fn from(error: io::Error) -> Self {
        Self { error, detail: None }
    }
}

impl From<rustix::io::Errno> for KernelError {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

fn errno_hint(error: &io::Error) -> Option<String> {
    use rustix::io::Errno;
    let hint = match Errno::from_io_error(error)? {
        Errno::PERM | Errno::ACCESS => "this needs root, or CAP_NET_ADMIN and CAP_SYS_ADMIN",
        Errno::OPNOTSUPP => "the kernel lacks this kind of interface: try `modprobe bridge veth`",
        Errno::ROFS => "/proc/sys is read-only here: the router's own container needs it writable",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The package that has a program.
fn package(program: &str) -> &str {
    if program == "nft" { "nftables" } else { "iptables" }
}

fn join(errors: &[HostError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: rustix::io::Errno, detail: Option<&str>) -> HostError {
        let error = KernelError { error: errno.into(), detail: detail.map(str::to_owned) };
        error.during("create", "mesh0")
    }

    #[test]
    fn says_which_operation_on_which_interface_failed_and_why() {
        let text = refused(rustix::io::Errno::EXIST, Some("name taken")).to_string();
        assert_eq!(text, "cannot create mesh0: File exists (os error 17) (name taken)");
    }

    #[test]
    fn hints_at_missing_rights_and_modules() {
        assert!(refused(rustix::io::Errno::PERM, None).hint().unwrap().contains("root"));
        assert!(refused(rustix::io::Errno::OPNOTSUPP, None).hint().unwrap().contains("modprobe"));
        assert_eq!(refused(rustix::io::Errno::IO, None).hint(), None);
    }

    #[test]
    fn names_all_that_could_not_be_undone() {
        let left = vec![HostError::NoSuchProcess { pid: 1 }, HostError::NoSuchProcess { pid: 2 }];
        let error = HostError::UndoIncomplete { cause: Box::new(HostError::OwnNamespace), left };
        let text = error.to_string();
        assert!(
            text.contains("own network namespace") && text.ends_with("no process 1; there is no process 2"),
            "{text}"
        );
    }
}
