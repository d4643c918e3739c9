//! Two hosts and the wire between them, and what stands on them when a subject was started.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_lab::{Container, Host, Lab, Namespace, Process, eventually, secs};

/// A subject must carry its first packet within this time.
const READY_MAX: Duration = secs(15);

/// What the underlay's interfaces do for those who send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wire {
    /// Each packet has 1,500 bytes; no help.
    Mtu,
    /// The same, and the receiver merges: nearest to an ordinary network card.
    MtuGro,
    /// Super-frames cross whole, as between the namespaces of one machine.
    Gso,
}

impl Wire {
    pub(crate) const ALL: [Self; 3] = [Self::Mtu, Self::MtuGro, Self::Gso];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mtu => "mtu",
            Self::MtuGro => "mtu+gro",
            Self::Gso => "gso",
        }
    }

    const fn features(self) -> &'static [&'static str] {
        match self {
            Self::Mtu => &["tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off"],
            Self::MtuGro => &["tso", "off", "gso", "off", "gro", "on", "tx-udp-segmentation", "off"],
            Self::Gso => &[],
        }
    }
}

/// Two hosts on a switch.
pub(crate) struct Ground {
    pub(crate) a: Host,
    pub(crate) b: Host,
    /// Files of the subject.
    pub(crate) files: tempfile::TempDir,
    _lab: Lab,
}

impl Ground {
    pub(crate) fn new(wire: Wire) -> Result<Self> {
        let lab = Lab::new("bench")?;
        lab.tolerate_errors();
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        for host in [&a, &b] {
            if !wire.features().is_empty() {
                host.cmd("ethtool").args(["-K", "eth0"]).args(wire.features()).run()?;
            }
        }
        Ok(Self { a, b, files: tempfile::tempdir()?, _lab: lab })
    }

    /// Both hosts, with their names.
    pub(crate) const fn both(&self) -> [(&'static str, &Host); 2] {
        [("a", &self.a), ("b", &self.b)]
    }

    /// A name for an interface that no other ground has.
    pub(crate) fn interface(&self, host: &Host, prefix: &str) -> String {
        let ip = host.ip().octets();
        format!("{prefix}{:02x}{:02x}{:02x}", ip[1], ip[2], ip[3])
    }
}

/// Two ends that reach each other.
pub(crate) struct Started {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    pub(crate) server_address: String,
    /// The subject's own processes on both hosts; none if it is the kernel's.
    pub(crate) pids: Vec<u32>,
    pub(crate) _processes: Vec<Process>,
}

impl Started {
    /// The hosts themselves are the ends.
    pub(crate) fn between_hosts(ground: &Ground, server_address: &str, processes: Vec<Process>) -> Self {
        Self {
            client: (*ground.a).clone(),
            server: (*ground.b).clone(),
            server_address: server_address.to_owned(),
            pids: processes.iter().map(Process::pid).collect(),
            _processes: processes,
        }
    }

    /// Containers on them are.
    pub(crate) fn between(ends: [&Container; 2], server_address: &str, pids: Vec<u32>) -> Self {
        let [client, server] = ends.map(|container| (**container).clone());
        Self { client, server, server_address: server_address.to_owned(), pids, _processes: Vec::new() }
    }

    pub(crate) fn wait(&self) -> Result<()> {
        eventually(READY_MAX, || self.client.ping(&self.server_address)).context("carries nothing")?;
        Ok(())
    }
}

/// Whether there is a program of this name.
pub(crate) fn is_installed(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists())
}
