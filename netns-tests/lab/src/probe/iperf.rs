//! Throughput, by the program `iperf3`.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::eventually::{eventually, secs};
use crate::namespace::Namespace;
use crate::process::Process;

/// The port of every server: each has a namespace of its own.
const PORT: u16 = 5201;

/// How long a measurement of a number of bytes may take.
const BYTES_DEADLINE: Duration = Duration::from_secs(30);

/// A running server; it ends when it is dropped.
#[derive(Debug)]
#[must_use = "the server ends when it is dropped"]
pub struct IperfServer {
    _process: Process,
}

/// What a client shall do.
#[derive(Debug, Clone)]
#[must_use = "a measurement does nothing until it is given to a namespace"]
pub struct Iperf {
    to: String,
    extent: Extent,
    options: Vec<String>,
}

impl Iperf {
    /// One TCP stream to this address, for a second.
    pub fn to(address: impl Display) -> Self {
        Self { to: address.to_string(), extent: Extent::Seconds(1), options: Vec::new() }
    }

    /// So many seconds.
    pub const fn seconds(mut self, seconds: u64) -> Self {
        self.extent = Extent::Seconds(seconds);
        self
    }

    /// So many bytes, however long they take, within half a minute.
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.extent = Extent::Bytes(bytes);
        self
    }

    /// From the server to the client.
    pub fn reverse(self) -> Self {
        self.option("-R")
    }

    /// So many streams at once.
    pub fn streams(self, streams: u32) -> Self {
        self.option("-P").option(streams)
    }

    /// UDP datagrams of this payload in bytes, at a rate as `10M`.
    pub fn udp(self, rate: &str, payload_bytes: u32) -> Self {
        self.option("-u").option("-b").option(rate).option("-l").option(payload_bytes)
    }

    /// Any other option of `iperf3`.
    pub fn option(mut self, option: impl Display) -> Self {
        self.options.push(option.to_string());
        self
    }
}

#[derive(Debug, Clone, Copy)]
enum Extent {
    Seconds(u64),
    Bytes(u64),
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct IperfReport {
    /// What the receiver got, in bits a second of payload.
    pub bits_per_second: f64,
    /// How many of a hundred datagrams were lost; `None` for TCP.
    pub lost_percent: Option<f64>,
    /// All that `iperf3` printed.
    pub json: Value,
}

impl IperfReport {
    fn read(json: Value) -> Option<Self> {
        let end = json.get("end")?;
        let received = end.get("sum_received").or_else(|| end.get("sum"))?;
        let bits_per_second = received.get("bits_per_second")?.as_f64()?;
        let lost_percent = end.get("sum").and_then(|sum| sum.get("lost_percent")?.as_f64());
        Some(Self { bits_per_second, lost_percent, json })
    }
}

impl Namespace {
    /// Starts an `iperf3` server in here. It listens when this returns.
    ///
    /// # Errors
    /// When it does not start.
    pub fn iperf_server(&self) -> Result<IperfServer> {
        let port = PORT.to_string();
        let process = self.spawn(["iperf3", "--server", "--forceflush", "--port", &port])?;
        eventually(secs(5), || process.stdout().contains("Server listening"))
            .with_context(|| format!("iperf3 does not listen in {}: {}", self.label(), process.stderr()))?;
        Ok(IperfServer { _process: process })
    }

    /// Runs an `iperf3` client in here.
    ///
    /// # Errors
    /// When it cannot connect or is interrupted.
    pub fn iperf(&self, iperf: &Iperf) -> Result<IperfReport> {
        let (option, amount, deadline) = match iperf.extent {
            Extent::Seconds(seconds) => ("--time", seconds, Duration::from_secs(seconds + 15)),
            Extent::Bytes(bytes) => ("--bytes", bytes, BYTES_DEADLINE),
        };
        let (port, amount) = (PORT.to_string(), amount.to_string());
        let command =
            self.cmd("iperf3").args(["--json", "--client", &iperf.to, "--port", &port, option, &amount]);
        let output = command.args(&iperf.options).deadline(deadline).run()?;
        IperfReport::read(output.json()?)
            .with_context(|| format!("iperf3 reports no result: {}", output.stdout))
    }
}
