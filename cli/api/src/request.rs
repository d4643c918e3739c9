//! What a client asks of a router.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Failure, NetnsTarget, PROTOCOL_VERSION, REQUEST_LEN_MAX};

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
        /// Also when its address space could not be given to a peer.
        force: bool,
    },
    /// Give a container an interface in the network. Answer: [`crate::AttachDocument`].
    Attach {
        /// The container.
        netns: NetnsTarget,
        /// Its addresses, each with the prefix length of its subnet.
        addresses: Vec<IpNet>,
        /// Name of the interface inside the container; the router checks it again.
        ifname: String,
        /// Whether the container sends multicast to the network (a route for `224.0.0.0/4`).
        multicast_route: bool,
    },
    /// Take a container's addresses, and with the last one its interface. Answer: [`crate::DetachDocument`].
    Detach {
        /// The container.
        netns: NetnsTarget,
        /// The addresses to take; all when empty.
        addresses: Vec<IpNet>,
    },
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
            netns: "netns:c1".parse().unwrap(),
            addresses: vec!["10.32.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()],
            ifname: "ethmesh".to_owned(),
            multicast_route: true,
        }
    }

    #[test]
    fn each_command_has_its_line() {
        let detach = Command::Detach { netns: NetnsTarget::Pid(7), addresses: vec![] };
        for (command, line) in [
            (Command::Status, r#"{"version":1,"command":"status"}"#),
            (Command::Peers, r#"{"version":1,"command":"peers"}"#),
            (Command::Connections, r#"{"version":1,"command":"connections"}"#),
            (Command::Targets, r#"{"version":1,"command":"targets"}"#),
            (Command::Routes, r#"{"version":1,"command":"routes"}"#),
            (Command::Macs, r#"{"version":1,"command":"macs"}"#),
            (
                Command::Connect { targets: vec!["h2".to_owned(), "[::1]:7".to_owned()], replace: true },
                r#"{"version":1,"command":"connect","targets":["h2","[::1]:7"],"replace":true}"#,
            ),
            (
                Command::Forget { targets: vec!["h2".to_owned()] },
                r#"{"version":1,"command":"forget","targets":["h2"]}"#,
            ),
            (Command::Stop, r#"{"version":1,"command":"stop"}"#),
            (Command::Reset { force: true }, r#"{"version":1,"command":"reset","force":true}"#),
            (
                attach(),
                concat!(
                    r#"{"version":1,"command":"attach","netns":"netns:c1","#,
                    r#""addresses":["10.32.0.1/24","fd00::1/64"],"ifname":"ethmesh","multicast_route":true}"#
                ),
            ),
            (detach, r#"{"version":1,"command":"detach","netns":"pid:7","addresses":[]}"#),
        ] {
            let encoded = Request::encode(command.clone()).unwrap();
            assert_eq!(String::from_utf8(encoded.clone()).unwrap(), format!("{line}\n"));
            assert_eq!(Request::decode(&encoded).unwrap(), command);
        }
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
            br#"{"version":1,"command":"detach","netns":"netns:c1","addresses":["10.0.0.1"]}"#,
            br#"{"version":1,"command":"detach","netns":"docker:web","addresses":[]}"#,
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
        let command = Command::Detach { netns: NetnsTarget::Pid(7), addresses };
        assert!(matches!(Request::encode(command), Err(RequestError::TooLong(_))));
        assert!(matches!(Request::decode(&[b' '; REQUEST_LEN_MAX + 1]), Err(RequestError::TooLong(_))));
    }
}
