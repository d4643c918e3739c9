//! Why a router did not start, or stopped; and how errors of its parts reach a client.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use mesh_api::{ErrorKind, Failure};
use mesh_dataplane::{StartError, TapError};
use mesh_fastpath::esp::Error as EspError;
use mesh_fastpath::seal::Error as SealError;
use mesh_fastpath::vxlan::StartError as FastPathError;
use mesh_fastpath::wireguard::Error as WireguardError;
use mesh_hostnet::{HostError, HostRoute};

/// An error that ends the router, or keeps it from starting. The host is as it was before, but for the bridge and
/// the containers' interfaces of an earlier life, which stay.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process does not run as root.
    #[error("a router needs root")]
    NotRoot,
    /// Another router holds the run directory.
    #[error("a router is already running here{}", pid.map_or_else(String::new, |pid| format!(" (pid {pid})")))]
    AlreadyRunning {
        /// Its process, if it could be read.
        pid: Option<u32>,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The identity file is not one that this program wrote.
    #[error("the identity in {} is damaged", path.display())]
    IdentityDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The list of targets is not one that this program wrote, or it was edited wrongly.
    #[error("the list of targets in {} is damaged in line {line}", path.display())]
    TargetsDamaged {
        /// The file.
        path: PathBuf,
        /// The first line that is not as it should be, counted from 1.
        line: usize,
    },
    /// The list of what the host exposes is not one that this program wrote, or it was edited wrongly.
    #[error("the list of exposed addresses in {} is damaged in line {line}", path.display())]
    ExposedDamaged {
        /// The file.
        path: PathBuf,
        /// The first line that is not as it should be, counted from 1.
        line: usize,
    },
    /// The list of attachments is not one that this program wrote, or it was edited wrongly.
    #[error("the list of attachments in {} is damaged in line {line}", path.display())]
    AttachmentsDamaged {
        /// The file.
        path: PathBuf,
        /// The first line that is not as it should be, counted from 1.
        line: usize,
    },
    /// The list of added names is not one that this program wrote, or it was edited wrongly.
    #[error("the list of names in {} is damaged in line {line}", path.display())]
    NamesDamaged {
        /// The file.
        path: PathBuf,
        /// The first line that is not as it should be, counted from 1.
        line: usize,
    },
    /// The domain is so long that no name fits below it.
    #[error("the domain cannot be used: {0}")]
    Domain(#[from] mesh_names::NameError),
    /// The name server could not listen.
    #[error("cannot listen for DNS queries on {address}: {source}")]
    DnsListen {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The name server is to listen at an address that the host does not have and cannot be given.
    #[error("{address} is no address of this host to listen on for DNS queries")]
    DnsAddress {
        /// Where.
        address: SocketAddr,
    },
    /// The name server did not start.
    #[error(transparent)]
    Dns(mesh_dns::Error),
    /// The file with the network's id is not one that this program wrote.
    #[error("the network's id in {} is damaged", path.display())]
    NetworkDamaged {
        /// The file.
        path: PathBuf,
    },
    /// No password can be made into a key.
    #[error("the password cannot be used: {0}")]
    Password(#[from] mesh_crypto::PasswordError),
    /// The control port could not be bound.
    #[error("cannot listen on TCP port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// The system's answer.
        source: io::Error,
    },
    /// The address of the status page and metrics could not be bound.
    #[error("cannot serve metrics on {address}: {source}")]
    Http {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The host itself has a route to addresses of the network's range.
    #[error("the address range {range} overlaps with a route of this host: {route}")]
    RangeRouted {
        /// The range.
        range: IpNet,
        /// The route.
        route: HostRoute,
    },
    /// The network that this host belongs to has another range.
    #[error("this host belongs to a network with the address range {stored}, and {given} was given")]
    RangeDiffers {
        /// That of the network, as the state directory has it.
        stored: IpNet,
        /// That of this launch.
        given: IpNet,
    },
    /// The data plane did not start.
    #[error("{}", with_source(.0))]
    Dataplane(StartError),
    /// The host's network refused a change.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel has no Open vSwitch datapath, and the user wants one.
    #[error("there is no Open vSwitch datapath: {0}")]
    NoOvs(#[source] FastPathError),
    /// The system refused what every program needs.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Logging could not be set up twice in one process.
    #[error("logging is set up already")]
    LoggingTwice,
    /// Something of the router could not be removed; the rest was.
    #[error("not all could be removed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Reset(Vec<HostError>),
}

impl Error {
    /// The class that decides the exit status.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRoot => ErrorKind::Permission,
            Self::AlreadyRunning { .. } | Self::RangeDiffers { .. } => ErrorKind::Refused,
            Self::RangeRouted { .. } => ErrorKind::InUse,
            Self::File { source, .. } | Self::System { source, .. } => io_kind(source),
            Self::Listen { source, .. } | Self::Http { source, .. } | Self::DnsListen { source, .. } => {
                io_kind(source)
            }
            Self::IdentityDamaged { .. }
            | Self::TargetsDamaged { .. }
            | Self::NamesDamaged { .. }
            | Self::Domain(_)
            | Self::DnsAddress { .. }
            | Self::ExposedDamaged { .. }
            | Self::AttachmentsDamaged { .. }
            | Self::NetworkDamaged { .. }
            | Self::Password(_) => ErrorKind::Invalid,
            Self::Dataplane(error) => start_kind(error),
            Self::Host(error) => kind_of(error),
            Self::NoOvs(error) => fast_path_kind(error),
            Self::LoggingTwice | Self::Reset(_) | Self::Dns(_) => ErrorKind::Internal,
        }
    }

    /// The error as a client sees it.
    pub(crate) fn failure(&self) -> Failure {
        let failure = Failure::new(self.kind(), self.to_string());
        match self.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot => Some("run it with sudo".to_owned()),
            Self::AlreadyRunning { .. } => Some(
                "`mesh status` shows it, `mesh stop` ends it; a second one needs its own --run-dir"
                    .to_owned(),
            ),
            Self::IdentityDamaged { path } => Some(format!(
                "restore it from a copy; or remove {}, and this host becomes a new peer",
                path.display()
            )),
            Self::TargetsDamaged { .. } => Some(
                "correct it, or launch without --resume and name the peers: the list is written anew then"
                    .to_owned(),
            ),
            Self::ExposedDamaged { path, .. } => {
                Some(format!("correct it; or remove {}, and expose the host again", path.display()))
            }
            Self::NamesDamaged { path, .. } => {
                Some(format!("correct it; or remove {}, and add the names again", path.display()))
            }
            Self::Domain(_) => Some("choose a shorter one with --dns-domain".to_owned()),
            Self::DnsListen { .. } => Some(
                "`ss -lunp sport = 53` names the program that listens there; --dns-listen takes another address, --no-dns none"
                    .to_owned(),
            ),
            Self::DnsAddress { .. } => {
                Some("--dns-listen takes addresses of this host, and IPv4 addresses that no host has".to_owned())
            }
            Self::AttachmentsDamaged { path, .. } => Some(format!(
                "correct it; or remove {}, and containers stay as they are, until they are attached again",
                path.display()
            )),
            Self::NetworkDamaged { path } => Some(format!(
                "restore it from a copy; or remove {}, and this host joins the network of its peers again",
                path.display()
            )),
            Self::RangeRouted { .. } => Some(
                "choose another range with --ipam-range, the same on all hosts, or name this one to have it all the same"
                    .to_owned(),
            ),
            Self::RangeDiffers { stored, .. } => Some(format!(
                "launch it with --ipam-range {stored}; or `mesh reset` this host first, and it joins or founds another \
                 network"
            )),
            Self::Listen { source, .. } => listen_hint(source),
            Self::Http { .. } => Some("choose another address with --http, or --http none".to_owned()),
            Self::NoOvs(_) => Some(
                "try `modprobe -a openvswitch vport-vxlan`, or --datapath vxlan, which every Linux has".to_owned(),
            ),
            Self::Dataplane(error) => start_hint(error),
            Self::Host(error) => error.hint(),
            Self::Reset(errors) => errors.iter().find_map(HostError::hint),
            Self::File { .. } | Self::Password(_) | Self::Dns(_) | Self::System { .. } | Self::LoggingTwice => None,
        }
    }
}

/// An error of the host's network as a client sees it.
pub(crate) fn failure_of(error: &HostError) -> Failure {
    let failure = Failure::new(kind_of(error), error.to_string());
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

pub(crate) fn kind_of(error: &HostError) -> ErrorKind {
    match error {
        HostError::NamespaceNotFound { .. }
        | HostError::NoSuchProcess { .. }
        | HostError::NotAttached { .. }
        | HostError::NothingAttached
        | HostError::AddressNotThere { .. } => ErrorKind::Unknown,
        HostError::NameInUse { .. }
        | HostError::InterfaceInUse { .. }
        | HostError::HostInterfaceInUse { .. }
        | HostError::AddressInUse { .. }
        | HostError::PortTaken { .. } => ErrorKind::InUse,
        HostError::NotANamespace { .. }
        | HostError::MtuOutOfRange { .. }
        | HostError::UnusableAddress { .. }
        | HostError::DuplicateAddress { .. } => ErrorKind::Invalid,
        HostError::OwnNamespace | HostError::Ipv6Off { .. } | HostError::BridgeGone { .. } => {
            ErrorKind::Refused
        }
        HostError::Namespace { source, .. }
        | HostError::EnterNamespace { source, .. }
        | HostError::Sysctl { source, .. } => io_kind(source),
        HostError::Kernel { source, .. } => io_kind(&source.error),
        HostError::Random { .. } | HostError::Thread { .. } | HostError::PortMissing { .. } => {
            ErrorKind::Internal
        }
        HostError::Program { .. } => ErrorKind::Unsupported,
        HostError::UndoIncomplete { cause, .. } => kind_of(cause),
    }
}

fn fast_path_kind(error: &FastPathError) -> ErrorKind {
    match error {
        FastPathError::Host(error)
        | FastPathError::Seal(
            SealError::Host(error)
            | SealError::Wireguard(WireguardError::Host(error))
            | SealError::Esp(EspError::Host(error)),
        ) => kind_of(error),
        FastPathError::Thread(source)
        | FastPathError::Seal(
            SealError::Wireguard(WireguardError::Kernel(source)) | SealError::Esp(EspError::Kernel(source)),
        ) => io_kind(source),
        FastPathError::Seal(SealError::Esp(EspError::Moved | EspError::Spent) | SealError::OtherWay) => {
            ErrorKind::Internal
        }
    }
}

fn io_kind(error: &io::Error) -> ErrorKind {
    let known = [
        (io::ErrorKind::PermissionDenied, ErrorKind::Permission),
        (io::ErrorKind::AddrInUse, ErrorKind::InUse),
        (io::ErrorKind::TimedOut, ErrorKind::Timeout),
    ];
    let found = known.into_iter().find(|(of_system, _)| *of_system == error.kind());
    found.map_or(ErrorKind::Internal, |(_, kind)| kind)
}

fn start_kind(error: &StartError) -> ErrorKind {
    match error {
        StartError::Tap(TapError::NoDevice(_)) => ErrorKind::Unsupported,
        StartError::Tap(TapError::NotPermitted(_)) => ErrorKind::Permission,
        StartError::Tap(TapError::NameInUse(_)) => ErrorKind::InUse,
        StartError::Tap(TapError::Name(_) | TapError::Mtu { .. }) => ErrorKind::Invalid,
        StartError::Pcap(_) => ErrorKind::Unsupported,
        StartError::Tap(TapError::Other(source))
        | StartError::Bind { source, .. }
        | StartError::Thread(source) => io_kind(source),
        StartError::Workers(_) => ErrorKind::Internal,
    }
}

fn start_hint(error: &StartError) -> Option<String> {
    let hint = match error {
        StartError::Tap(TapError::NoDevice(_)) => {
            "load the driver with `modprobe tun`; in a container, pass the device through with --device /dev/net/tun; or launch with --capture pcap, which is slower"
        }
        StartError::Tap(TapError::NotPermitted(_)) => "run it with sudo, or with CAP_NET_ADMIN",
        StartError::Tap(TapError::NameInUse(_)) => {
            "`ip -d link` shows what it is; another --bridge gives the TAP interface another name"
        }
        StartError::Bind { source, .. } => return listen_hint(source),
        StartError::Pcap(_) => "it needs packet sockets, and CAP_NET_RAW",
        StartError::Tap(TapError::Name(_) | TapError::Mtu { .. } | TapError::Other(_))
        | StartError::Thread(_)
        | StartError::Workers(_) => return None,
    };
    Some(hint.to_owned())
}

fn listen_hint(error: &io::Error) -> Option<String> {
    if error.kind() == io::ErrorKind::AddrInUse {
        return Some(
            "another program has the port: `ss -ltunp` names it; choose another with --port".to_owned(),
        );
    }
    (error.kind() == io::ErrorKind::AddrNotAvailable)
        .then(|| "--listen takes an address of this host".to_owned())
}

fn with_source(error: &StartError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
