//! What a client asks of a router.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{AddressTarget, ContainerTarget, ErrorKind, Failure, PROTOCOL_VERSION, REQUEST_LEN_MAX};

/// How long the router waits for a command of a client that does not say so, in milliseconds.
pub const TIMEOUT_DEFAULT_MS: u64 = 15_000;

/// A command. In JSON an object whose key `command` names it and whose other keys are its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Overview of the router. Answer: [`crate::StatusDocument`].
    Status,
    /// The peers of the network. Answer: array of [`crate::PeerDocument`].
    Peers,
    /// The connections of this router. Answer: array of [`crate::ConnectionDocument`].
    Connections,
    /// The peers that this router was told to connect to. Answer: array of [`crate::TargetDocument`].
    Targets,
    /// Which way frames go. Answer: [`crate::RoutesDocument`].
    Routes,
    /// The hardware addresses that this router has learned. Answer: array of [`crate::MacDocument`].
    Macs,
    /// The flows that the kernel carries. Answer: [`crate::FlowsDocument`].
    Flows,
    /// Connect to these peers in addition to those that were named before, or in their place; remembered across
    /// restarts. Answer: [`crate::TargetListDocument`].
    Connect {
        /// Each as `HOST[:PORT]`.
        targets: Vec<String>,
        /// Whether targets that are not among these are forgotten.
        replace: bool,
    },
    /// Connect to these peers no more; connections that exist stay. When one of them is not known nothing is
    /// forgotten. Answer: [`crate::TargetListDocument`].
    Forget {
        /// Each as it was named; the port may be left out where it is the default.
        targets: Vec<String>,
    },
    /// End the router; containers, their addresses and the bridge stay. Answer: [`crate::StopDocument`], sent before
    /// the process ends.
    Stop,
    /// End the router and remove all that it made on this host. Answer: [`crate::ResetDocument`], sent after the
    /// removal and before the process ends.
    Reset {
        /// Without waiting until its address space is given to a peer.
        force: bool,
        /// Longest wait for that, in milliseconds.
        #[serde(default = "timeout_default_ms")]
        timeout_ms: u64,
    },
    /// Give a container an interface in the network. Answer: [`crate::AttachDocument`].
    Attach {
        /// The container.
        container: ContainerTarget,
        /// Its addresses, or where they are chosen; one of the default subnet when empty.
        addresses: Vec<AddressTarget>,
        /// Name of the interface inside the container; the router checks it again.
        ifname: String,
        /// Whether the container sends multicast to the network (a route for `224.0.0.0/4`).
        multicast_route: bool,
        /// Names that it gets, beside those that it has. One of a single label lies in the network's domain.
        #[serde(default)]
        names: Vec<String>,
        /// Whether it is to reach the host's name server.
        #[serde(default = "yes")]
        dns: bool,
        /// Whether to write, for a named namespace, the `resolv.conf` that `ip netns exec` shows to programs in it.
        #[serde(default)]
        resolv_conf: bool,
        /// Longest wait for addresses, in milliseconds.
        #[serde(default = "timeout_default_ms")]
        timeout_ms: u64,
    },
    /// Take a container's addresses, and with the last one its interface. Answer: [`crate::DetachDocument`].
    Detach {
        /// The container.
        container: ContainerTarget,
        /// The addresses to take, or the subnets that they are in; all when empty.
        addresses: Vec<AddressTarget>,
    },
    /// Give the host itself addresses in the network. Answer: [`crate::AddressesDocument`].
    Expose {
        /// The addresses, or where they are chosen; one of the default subnet when empty.
        addresses: Vec<AddressTarget>,
        /// Names of the host at these addresses.
        names: Vec<String>,
        /// Whether what passes between these subnets and the outside takes on the host's address.
        masquerade: bool,
        /// Longest wait for addresses, in milliseconds.
        #[serde(default = "timeout_default_ms")]
        timeout_ms: u64,
    },
    /// Take addresses from the host. Answer: [`crate::AddressesDocument`].
    Hide {
        /// The addresses to take, or the subnets that they are in; all when empty.
        addresses: Vec<AddressTarget>,
    },
    /// What is attached. Answer: array of [`crate::AttachDocument`].
    Ps {
        /// Only these; all when empty.
        containers: Vec<ContainerTarget>,
    },
    /// Where frames of a container pass on this host. Answer: [`crate::PortDocument`].
    Port {
        /// The container.
        container: ContainerTarget,
        /// Its interface.
        ifname: String,
    },
    /// Which of these networks the host itself has routes to. Answer: array of [`crate::OverlapDocument`].
    Overlaps {
        /// Subnets; at most [`crate::OVERLAPS_ASKED_MAX`], further ones are not looked at.
        networks: Vec<IpNet>,
    },
    /// Give an address to a holder that the user names. Answer: [`crate::AddressesDocument`].
    IpamAllocate {
        /// The holder.
        id: String,
        /// Where; the default subnet when absent.
        subnet: Option<IpNet>,
        /// Longest wait, in milliseconds.
        #[serde(default = "timeout_default_ms")]
        timeout_ms: u64,
    },
    /// Give this very address to a holder. Answer: [`crate::AddressesDocument`].
    IpamClaim {
        /// The holder.
        id: String,
        /// Which, with the prefix length of its subnet.
        address: IpNet,
        /// Longest wait, in milliseconds.
        #[serde(default = "timeout_default_ms")]
        timeout_ms: u64,
    },
    /// The addresses of a holder. Answer: [`crate::AddressesDocument`].
    IpamLookup {
        /// The holder.
        id: String,
        /// Only those in this subnet.
        subnet: Option<IpNet>,
    },
    /// Take a holder's addresses back. Answer: [`crate::AddressesDocument`].
    IpamRelease {
        /// The holder.
        id: String,
        /// Only those in this subnet.
        subnet: Option<IpNet>,
    },
    /// The state of address management. Answer: [`crate::IpamDocument`].
    Ipam,
    /// Name service and all names. Answer: [`crate::DnsDocument`].
    Dns,
    /// Give a name to addresses or to a container; remembered across restarts. Answer: [`crate::DnsNameDocument`].
    DnsAdd {
        /// The name. One of a single label lies in the network's domain.
        name: String,
        /// Its addresses; none when a container is named.
        addresses: Vec<IpAddr>,
        /// The container whose addresses the name has.
        #[serde(default)]
        container: Option<ContainerTarget>,
    },
    /// Take back what was added on this router. Answer: [`crate::DnsNameDocument`].
    DnsRemove {
        /// The name.
        name: String,
        /// At these addresses; everywhere when empty.
        addresses: Vec<IpAddr>,
    },
    /// The addresses of a name. Answer: [`crate::DnsNameDocument`].
    DnsLookup {
        /// The name.
        name: String,
    },
    /// Wait until the network's address range is founded. Answer: [`crate::PrimeDocument`].
    Prime {
        /// Longest wait, in milliseconds.
        #[serde(default = "timeout_default_ms")]
        timeout_ms: u64,
    },
    /// Take over the address space of peers that are gone for good. When one of them is not known, nothing is done.
    /// Answer: [`crate::RemovedPeersDocument`].
    RemovePeers {
        /// Each by its id, a unique prefix of one, or a nickname that only one peer bears.
        peers: Vec<String>,
        /// Longest wait, in milliseconds.
        #[serde(default = "timeout_default_ms")]
        timeout_ms: u64,
    },
}

impl Command {
    /// What a router tells of itself beside the overview, by the names of `mesh status`. They change nothing.
    pub const VIEWS: [(&str, Self); 8] = [
        ("peers", Self::Peers),
        ("connections", Self::Connections),
        ("targets", Self::Targets),
        ("ipam", Self::Ipam),
        ("routes", Self::Routes),
        ("macs", Self::Macs),
        ("flows", Self::Flows),
        ("dns", Self::Dns),
    ];

    /// The command of a view.
    #[must_use]
    pub fn view(name: &str) -> Option<Self> {
        Self::VIEWS.into_iter().find_map(|(view, command)| (view == name).then_some(command))
    }
}

const fn yes() -> bool {
    true
}

const fn timeout_default_ms() -> u64 {
    TIMEOUT_DEFAULT_MS
}

/// A command with the version of the protocol, as it crosses the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// [`PROTOCOL_VERSION`] of the client.
    version: u32,
    #[serde(flatten)]
    command: Command,
}

/// Why a line is no request. The client is at fault; the router has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is longer than [`REQUEST_LEN_MAX`].
    #[error("the request has {0} bytes, more than {REQUEST_LEN_MAX}")]
    TooLong(usize),
    /// It is of another version.
    #[error(
        "the request is of version {0} of the control protocol, this router speaks version {PROTOCOL_VERSION}"
    )]
    Version(u32),
    /// It is no JSON, names no known command, or an argument is malformed.
    #[error("malformed request: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl RequestError {
    /// The answer that the client gets.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::TooLong(_) | Self::Malformed(_) => Failure::new(ErrorKind::Invalid, self.to_string()),
            Self::Version(_) => Failure::new(ErrorKind::Unsupported, self.to_string())
                .with_hint("use the program that the router was started with, or start the router again"),
        }
    }
}

impl Request {
    /// The command as one line, its newline included.
    pub fn encode(command: Command) -> Result<Vec<u8>, RequestError> {
        let mut line = serde_json::to_vec(&Self { version: PROTOCOL_VERSION, command })?;
        line.push(b'\n');
        if line.len() > REQUEST_LEN_MAX {
            return Err(RequestError::TooLong(line.len()));
        }
        Ok(line)
    }

    /// The command of a line, whose newline may be missing.
    pub fn decode(line: &[u8]) -> Result<Command, RequestError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if line.len() > REQUEST_LEN_MAX {
            return Err(RequestError::TooLong(line.len()));
        }
        // The version comes first, since a later version may spell commands in ways that do not parse here.
        let Version { version } = serde_json::from_slice(line)?;
        if version != PROTOCOL_VERSION {
            return Err(RequestError::Version(version));
        }
        Ok(serde_json::from_slice(line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach() -> Command {
        Command::Attach {
            container: "netns:c1".parse().unwrap(),
            addresses: vec!["10.32.0.1/24".parse().unwrap(), "net:fd00::/64".parse().unwrap()],
            ifname: "ethmesh".to_owned(),
            multicast_route: true,
            names: vec!["web".to_owned()],
            dns: true,
            resolv_conf: false,
            timeout_ms: 7,
        }
    }

    #[test]
    fn each_command_has_its_line() {
        let detach = Command::Detach { container: "pid:7".parse().unwrap(), addresses: vec![] };
        for (command, line) in [
            (Command::Status, r#"{"version":1,"command":"status"}"#),
            (Command::Peers, r#"{"version":1,"command":"peers"}"#),
            (Command::Connections, r#"{"version":1,"command":"connections"}"#),
            (Command::Targets, r#"{"version":1,"command":"targets"}"#),
            (Command::Routes, r#"{"version":1,"command":"routes"}"#),
            (Command::Macs, r#"{"version":1,"command":"macs"}"#),
            (Command::Flows, r#"{"version":1,"command":"flows"}"#),
            (
                Command::Connect { targets: vec!["h2".to_owned(), "[::1]:7".to_owned()], replace: true },
                r#"{"version":1,"command":"connect","targets":["h2","[::1]:7"],"replace":true}"#,
            ),
            (
                Command::Forget { targets: vec!["h2".to_owned()] },
                r#"{"version":1,"command":"forget","targets":["h2"]}"#,
            ),
            (Command::Stop, r#"{"version":1,"command":"stop"}"#),
            (
                Command::Reset { force: true, timeout_ms: 7 },
                r#"{"version":1,"command":"reset","force":true,"timeout_ms":7}"#,
            ),
            (
                Command::IpamAllocate { id: "db".to_owned(), subnet: None, timeout_ms: 7 },
                r#"{"version":1,"command":"ipam_allocate","id":"db","subnet":null,"timeout_ms":7}"#,
            ),
            (
                Command::IpamClaim {
                    id: "db".to_owned(),
                    address: "10.32.0.9/24".parse().unwrap(),
                    timeout_ms: 7,
                },
                r#"{"version":1,"command":"ipam_claim","id":"db","address":"10.32.0.9/24","timeout_ms":7}"#,
            ),
            (
                Command::IpamLookup { id: "db".to_owned(), subnet: None },
                r#"{"version":1,"command":"ipam_lookup","id":"db","subnet":null}"#,
            ),
            (
                Command::IpamRelease { id: "db".to_owned(), subnet: Some("10.32.0.0/24".parse().unwrap()) },
                r#"{"version":1,"command":"ipam_release","id":"db","subnet":"10.32.0.0/24"}"#,
            ),
            (Command::Ipam, r#"{"version":1,"command":"ipam"}"#),
            (Command::Prime { timeout_ms: 7 }, r#"{"version":1,"command":"prime","timeout_ms":7}"#),
            (Command::Dns, r#"{"version":1,"command":"dns"}"#),
            (
                Command::DnsAdd {
                    name: "db".to_owned(),
                    addresses: vec!["192.0.2.9".parse().unwrap()],
                    container: None,
                },
                r#"{"version":1,"command":"dns_add","name":"db","addresses":["192.0.2.9"],"container":null}"#,
            ),
            (
                Command::DnsRemove { name: "db".to_owned(), addresses: vec![] },
                r#"{"version":1,"command":"dns_remove","name":"db","addresses":[]}"#,
            ),
            (
                Command::DnsLookup { name: "db".to_owned() },
                r#"{"version":1,"command":"dns_lookup","name":"db"}"#,
            ),
            (
                Command::RemovePeers { peers: vec!["h2".to_owned()], timeout_ms: 7 },
                r#"{"version":1,"command":"remove_peers","peers":["h2"],"timeout_ms":7}"#,
            ),
            (
                attach(),
                concat!(
                    r#"{"version":1,"command":"attach","container":"netns:c1","#,
                    r#""addresses":["10.32.0.1/24","net:fd00::/64"],"ifname":"ethmesh","multicast_route":true,"#,
                    r#""names":["web"],"dns":true,"resolv_conf":false,"timeout_ms":7}"#
                ),
            ),
            (detach, r#"{"version":1,"command":"detach","container":"pid:7","addresses":[]}"#),
            (
                Command::Ps { containers: vec!["docker:web".parse().unwrap()] },
                r#"{"version":1,"command":"ps","containers":["docker:web"]}"#,
            ),
            (
                Command::Port { container: "pid:7".parse().unwrap(), ifname: "ethmesh".to_owned() },
                r#"{"version":1,"command":"port","container":"pid:7","ifname":"ethmesh"}"#,
            ),
        ] {
            let encoded = Request::encode(command.clone()).unwrap();
            assert_eq!(String::from_utf8(encoded.clone()).unwrap(), format!("{line}\n"));
            assert_eq!(Request::decode(&encoded).unwrap(), command);
        }
    }

    #[test]
    fn a_client_that_names_no_timeout_gets_the_default() {
        let reset = Request::decode(br#"{"version":1,"command":"reset","force":false}"#).unwrap();
        assert_eq!(reset, Command::Reset { force: false, timeout_ms: TIMEOUT_DEFAULT_MS });
    }

    #[test]
    fn another_version_is_named_even_when_the_rest_cannot_be_read() {
        let error = Request::decode(br#"{"version":2,"command":{"new":"shape"}}"#).unwrap_err();
        assert!(matches!(error, RequestError::Version(2)), "{error}");
        assert_eq!(error.failure().kind, ErrorKind::Unsupported);
    }

    #[test]
    fn garbage_is_refused() {
        for line in [
            &b""[..],
            b"\n",
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            br#"{"command":"status"}"#,
            br#"{"version":"1","command":"status"}"#,
            br#"{"version":-1,"command":"status"}"#,
            br#"{"version":1}"#,
            br#"{"version":1,"command":"sing"}"#,
            br#"{"version":1,"command":"reset"}"#,
            br#"{"version":1,"command":"connect","targets":["h2"]}"#,
            br#"{"version":1,"command":"forget","targets":"h2"}"#,
            br#"{"version":1,"command":"detach","container":"netns:c1","addresses":["10.0.0.1"]}"#,
            br#"{"version":1,"command":"detach","container":"docker:/","addresses":[]}"#,
            br#"{"version":1,"command":"status"} {}"#,
        ] {
            let error = Request::decode(line).unwrap_err();
            assert!(matches!(error, RequestError::Malformed(_)), "{}: {error}", line.escape_ascii());
            assert_eq!(error.failure().kind, ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_request_too_long_is_neither_sent_nor_read() {
        let addresses = vec!["10.32.0.1/24".parse().unwrap(); REQUEST_LEN_MAX / 8];
        let command = Command::Detach { container: "pid:7".parse().unwrap(), addresses };
        assert!(matches!(Request::encode(command), Err(RequestError::TooLong(_))));
        assert!(matches!(Request::decode(&[b' '; REQUEST_LEN_MAX + 1]), Err(RequestError::TooLong(_))));
    }
}
