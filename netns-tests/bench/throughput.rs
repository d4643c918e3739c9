//! How much a mesh of two hosts carries, and how long a round trip takes, beside the bare wire between the hosts.
//!
//! Owns the choice of subjects and the table. Ratios to the wire are what to compare between machines: absolute numbers
//! say more about the machine. All subjects stand at the same time and are measured in turn, so that whatever else the
//! machine does meets them alike; the median of the rounds is shown.
#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

use anyhow::{Context as _, Result};
use mesh_lab::{Container, Host, Iperf, Lab, Namespace, Ping, eventually, secs};

/// A mesh must carry its first packet within this time.
const READY_SECONDS_MAX: u64 = 10;

/// How long and how often to measure.
struct Effort {
    rounds: usize,
    seconds: u64,
    pings: u32,
}

const RECORD: Effort = Effort { rounds: 5, seconds: 5, pings: 200 };
const QUICK: Effort = Effort { rounds: 1, seconds: 2, pings: 50 };

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wire,
    SleeveClear,
    SleeveSealed,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Wire, Self::SleeveClear, Self::SleeveSealed];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Wire => "wire",
            Self::SleeveClear => "sleeve, clear",
            Self::SleeveSealed => "sleeve, sealed",
        })
    }
}

/// Two ends that reach each other in one way. The lab goes when this does.
struct Subject {
    kind: Kind,
    client: Namespace,
    server: Namespace,
    server_address: String,
    gigabits_per_second: Vec<f64>,
    rtt_ms: Vec<f64>,
    _lab: Lab,
}

fn main() -> Result<()> {
    let effort = if std::env::args().any(|argument| argument == "--quick") { QUICK } else { RECORD };
    let mut subjects = Kind::ALL.into_iter().map(Subject::start).collect::<Result<Vec<_>>>()?;
    for round in 1..=effort.rounds {
        for subject in &mut subjects {
            subject.measure(&effort).with_context(|| format!("round {round} of {}", subject.kind))?;
        }
    }
    let table = table(&subjects)?;
    // The labs print their routers' logs as they go; the table is to stand below.
    drop(subjects);
    print!("{table}");
    Ok(())
}

impl Subject {
    fn start(kind: Kind) -> Result<Self> {
        let lab = Lab::new("bench")?;
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let (client, server, server_address) = match kind {
            Kind::Wire => ((*a).clone(), (*b).clone(), b.ip().to_string()),
            Kind::SleeveClear => join(&a, &b, None)?,
            Kind::SleeveSealed => join(&a, &b, Some("a password for a benchmark"))?,
        };
        eventually(secs(READY_SECONDS_MAX), || client.ping(&server_address))?;
        Ok(Self {
            kind,
            client,
            server,
            server_address,
            gigabits_per_second: Vec::new(),
            rtt_ms: Vec::new(),
            _lab: lab,
        })
    }

    fn measure(&mut self, effort: &Effort) -> Result<()> {
        let ping = Ping::to(&self.server_address).count(effort.pings);
        let rtt = self.client.ping_with(&ping)?.rtt.context("no ping was answered")?;
        self.rtt_ms.push(rtt.avg_ms);
        let _server = self.server.iperf_server()?;
        let report = self.client.iperf(&Iperf::to(&self.server_address).seconds(effort.seconds))?;
        self.gigabits_per_second.push(report.bits_per_second / 1e9);
        Ok(())
    }
}

/// A router on each host, a container at each, and the address of the second one.
fn join(a: &Host, b: &Host, password: Option<&str>) -> Result<(Namespace, Namespace, String)> {
    let first_address = a.ip().to_string();
    for (host, arguments) in [(a, vec!["launch"]), (b, vec!["launch", &first_address])] {
        let command = host.mesh_cmd(arguments)?;
        password
            .into_iter()
            .fold(command, |command, password| command.env("MESH_PASSWORD", password))
            .run()?;
    }
    let (c1, c2) = (a.container("c1")?, b.container("c2")?);
    a.mesh(["attach", &c1.spec(), "10.40.0.1/24"])?;
    b.mesh(["attach", &c2.spec(), "10.40.0.2/24"])?;
    Ok((namespace(&c1), namespace(&c2), "10.40.0.2".to_owned()))
}

fn namespace(container: &Container) -> Namespace {
    (**container).clone()
}

fn table(subjects: &[Subject]) -> Result<String> {
    let wire = subjects.iter().find(|subject| subject.kind == Kind::Wire).context("the wire was measured")?;
    let (wire_gigabits, wire_rtt_ms) = (median(&wire.gigabits_per_second), median(&wire.rtt_ms));
    let mut table = String::new();
    writeln!(
        table,
        "{:<16} {:>18} {:>9} {:>13} {:>9}",
        "", "TCP, one stream", "of wire", "round trip", "of wire"
    )?;
    for Subject { kind, gigabits_per_second, rtt_ms, .. } in subjects {
        let (gigabits, rtt_ms) = (median(gigabits_per_second), median(rtt_ms));
        let (share, times) = (gigabits / wire_gigabits, rtt_ms / wire_rtt_ms);
        let rtt_us = rtt_ms * 1e3;
        writeln!(table, "{kind:<16} {gigabits:>11.2} Gbit/s {share:>8.3}× {rtt_us:>10.0} µs {times:>8.1}×")?;
    }
    Ok(table)
}

/// The middle value; of an even number of values the greater of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
