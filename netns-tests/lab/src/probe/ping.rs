//! ICMP and ICMPv6 echo, by the program `ping`.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{Cmd, Output};
use crate::namespace::Namespace;

/// How long a ping waits for the answer to its last request.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// How long an answer that must not come is waited for: far longer than any in a lab without a slow wire.
const SILENCE: Duration = Duration::from_millis(300);

/// A series of echo requests.
#[derive(Debug, Clone)]
#[must_use = "a ping does nothing until it is given to a namespace"]
pub struct Ping {
    to: String,
    count: u32,
    interval_ms: u32,
    size_bytes: u32,
    dont_fragment: bool,
    wait: Duration,
    interface: Option<String>,
}

impl Ping {
    /// One request of 56 bytes.
    pub fn to(address: impl Display) -> Self {
        Self {
            to: address.to_string(),
            count: 1,
            interval_ms: 10,
            size_bytes: 56,
            dont_fragment: false,
            wait: ANSWER_DEADLINE,
            interface: None,
        }
    }

    /// So many requests.
    pub const fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// The time between two requests, in milliseconds; 10 by default.
    pub const fn every_ms(mut self, interval_ms: u32) -> Self {
        self.interval_ms = interval_ms;
        self
    }

    /// The payload of each request, in bytes, without the 8 bytes of the ICMP header.
    pub const fn size(mut self, bytes: u32) -> Self {
        self.size_bytes = bytes;
        self
    }

    /// Requests are not to be fragmented on their way, nor by the sender.
    pub const fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// How long to wait for the last answer; one second by default.
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Leaves by this interface: needed for link-local addresses.
    pub fn from_interface(mut self, interface: &str) -> Self {
        self.interface = Some(interface.to_owned());
        self
    }

    fn command(&self, namespace: &Namespace) -> Cmd {
        let interval = f64::from(self.interval_ms) / 1000.0;
        let sending = Duration::from_millis(u64::from(self.interval_ms) * u64::from(self.count));
        let mut command = namespace.cmd("ping").arg("-n");
        for (option, value) in [
            ("-c", self.count.to_string()),
            ("-i", interval.to_string()),
            ("-s", self.size_bytes.to_string()),
            ("-W", self.wait.as_secs_f64().to_string()),
        ] {
            command = command.args([option, &value]);
        }
        if self.dont_fragment {
            command = command.args(["-M", "do"]);
        }
        if let Some(interface) = &self.interface {
            command = command.args(["-I", interface]);
        }
        // Unanswered requests make ping wait twice: for the next turn, and for the last answer.
        command.arg(&self.to).deadline(sending * 8 + self.wait * 2 + Duration::from_secs(5))
    }
}

/// What became of a series of echo requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PingStats {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// Answers beyond the first to one request.
    pub duplicates: u32,
    /// Round-trip times; `None` if nothing was answered.
    pub rtt: Option<Rtt>,
}

/// Round-trip times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rtt {
    /// The smallest.
    pub min_ms: f64,
    /// The mean.
    pub avg_ms: f64,
    /// The largest.
    pub max_ms: f64,
}

impl PingStats {
    /// How many of a hundred requests were not answered.
    #[must_use]
    pub fn loss_percent(&self) -> f64 {
        100.0 - f64::from(self.received) * 100.0 / f64::from(self.sent.max(1))
    }

    fn parse(text: &str) -> Option<Self> {
        let summary = text.lines().find(|line| line.contains("packets transmitted"))?;
        // "5 packets transmitted, 4 received, +1 duplicates, 20% packet loss, time 41ms"
        let number_of = |unit: &str| {
            let part = summary.split(", ").find(|part| part.ends_with(unit))?;
            part.split(' ').next()?.trim_start_matches('+').parse().ok()
        };
        Some(Self {
            sent: number_of("packets transmitted")?,
            received: number_of("received")?,
            duplicates: number_of("duplicates").unwrap_or(0),
            rtt: text.lines().find_map(Rtt::parse),
        })
    }
}

impl Rtt {
    /// `rtt min/avg/max/mdev = 0.025/0.031/0.040/0.006 ms`
    fn parse(line: &str) -> Option<Self> {
        let (_, values) = line.strip_prefix("rtt ")?.split_once(" = ")?;
        let mut values = values.split('/').map(str::parse);
        let mut next = || values.next()?.ok();
        Some(Self { min_ms: next()?, avg_ms: next()?, max_ms: next()? })
    }
}

impl Namespace {
    /// Sends one echo request and wants an answer within a second. Made for
    /// [`eventually`](crate::eventually).
    ///
    /// # Errors
    /// When no answer comes.
    pub fn ping(&self, to: impl Display) -> Result<PingStats> {
        let ping = Ping::to(&to);
        let output = ping.command(self).outcome()?;
        let stats = read(&output)?;
        if stats.received == 0 {
            bail!("{to} does not answer a ping from {}: {}", self.label(), output.stdout.trim());
        }
        Ok(stats)
    }

    /// Sends three echo requests and wants silence. To have no route is silence, too.
    ///
    /// # Errors
    /// When one of them is answered.
    pub fn cannot_ping(&self, to: impl Display) -> Result<()> {
        let output = Ping::to(&to).count(3).wait(SILENCE).command(self).outcome()?;
        if PingStats::parse(&output.stdout).is_none() && output.stderr.contains("unreachable") {
            return Ok(());
        }
        ensure!(read(&output)?.received == 0, "{to} answers a ping from {}, and should not", self.label());
        Ok(())
    }

    /// Sends a series of echo requests and tells what became of them, even if none was answered.
    ///
    /// # Errors
    /// When the requests cannot be sent at all.
    pub fn ping_with(&self, ping: &Ping) -> Result<PingStats> {
        read(&ping.command(self).outcome()?)
    }
}

fn read(output: &Output) -> Result<PingStats> {
    let stats = PingStats::parse(&output.stdout)
        .with_context(|| format!("ping failed: {} {}", output.stdout.trim(), output.stderr.trim()))?;
    if 0 < stats.received && stats.received < stats.sent {
        println!("unanswered: requests {:?} of {}", unanswered(&output.stdout, stats.sent), stats.sent);
    }
    Ok(stats)
}

/// Which of `sent` requests, counted from 1, have no answer: where in a series a loss lies says much about its cause.
fn unanswered(text: &str, sent: u32) -> Vec<u32> {
    let number = |line: &str| {
        let (_, rest) = line.split_once("icmp_seq=")?;
        rest.split(' ').next()?.parse().ok()
    };
    let answered: BTreeSet<u32> =
        text.lines().filter(|line| line.contains("time=")).filter_map(number).collect();
    (1..=sent).filter(|request| !answered.contains(request)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_requests_without_an_answer() {
        let text = "64 bytes from 192.0.2.1: icmp_seq=1 ttl=64 time=0.1 ms\n\
                    From 192.0.2.9 icmp_seq=2 Destination Host Unreachable\n\
                    64 bytes from 192.0.2.1: icmp_seq=4 ttl=64 time=0.2 ms\n";
        assert_eq!(unanswered(text, 4), [2, 3]);
    }

    #[test]
    fn reads_the_summary_with_and_without_duplicates_and_answers() {
        let text = "PING x\n\n--- x ping statistics ---\n\
                    5 packets transmitted, 4 received, +3 duplicates, 20% packet loss, time 41ms\n\
                    rtt min/avg/max/mdev = 0.025/0.031/0.040/0.006 ms\n";
        let rtt = Rtt { min_ms: 0.025, avg_ms: 0.031, max_ms: 0.040 };
        let stats = PingStats { sent: 5, received: 4, duplicates: 3, rtt: Some(rtt) };
        assert_eq!(PingStats::parse(text), Some(stats));

        let text = "1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n";
        let stats = PingStats::parse(text).unwrap();
        assert_eq!(stats, PingStats { sent: 1, received: 0, duplicates: 0, rtt: None });
        assert_eq!(stats.loss_percent(), 100.0);
    }
}
