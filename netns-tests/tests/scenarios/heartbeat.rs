//! Traffic that goes on while something happens, to tell how long it stood still.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use mesh_lab::{Namespace, Process, eventually, patience};

use crate::support::{Member, READY};

/// So many times a second a heartbeat beats.
pub(crate) const BEATS_PER_SECOND: u32 = 50;

/// A heartbeat ends by itself after so many seconds, times the machine's patience, whatever becomes of the test.
const SECONDS_MAX: u32 = 120;

/// A ping that goes on beside the test.
pub(crate) struct Heartbeat {
    ping: Process,
}

impl Heartbeat {
    pub(crate) fn start(from: &Namespace, to: &Member) -> Result<Self> {
        // A slow machine has enough to do with fewer.
        let interval = f64::from(patience()) / f64::from(BEATS_PER_SECOND);
        let (ip, interval) = (to.ip.to_string(), interval.to_string());
        let count = (SECONDS_MAX * BEATS_PER_SECOND).to_string();
        let ping = from.spawn(["ping", "-n", "-D", "-i", &interval, "-c", &count, &ip])?;
        Ok(Self { ping })
    }

    /// Starts one and waits until it beats.
    pub(crate) fn beating(from: &Namespace, to: &Member) -> Result<Self> {
        let heartbeat = Self::start(from, to)?;
        eventually(READY, || heartbeat.last_answer())?;
        Ok(heartbeat)
    }

    /// All answers so far, copies included.
    fn beats(&self) -> Vec<Beat> {
        self.ping.stdout().lines().filter_map(Beat::parse).collect()
    }

    /// When each answer came, in seconds since the epoch.
    fn answers(&self) -> Vec<f64> {
        self.beats().into_iter().map(|beat| beat.at).collect()
    }

    pub(crate) fn last_answer(&self) -> Option<f64> {
        self.answers().last().copied()
    }

    pub(crate) fn first_answer_after(&self, moment: f64) -> Option<f64> {
        self.answers().into_iter().find(|answer| *answer > moment)
    }

    pub(crate) fn last_answer_before(&self, moment: f64) -> Option<f64> {
        self.answers().into_iter().rfind(|answer| *answer < moment)
    }

    /// The longest time between two answers, in seconds.
    pub(crate) fn longest_silence(&self) -> f64 {
        self.longest_silence_since(0.0)
    }

    /// The same of those times that ended after this moment.
    pub(crate) fn longest_silence_since(&self, moment: f64) -> f64 {
        let answers = self.answers();
        let pairs = answers.windows(2).filter(|pair| pair[1] > moment);
        pairs.map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
    }

    /// What became of the requests up to the last one that was answered.
    pub(crate) fn tally(&self) -> Tally {
        let beats = self.beats();
        let answered: BTreeSet<u32> = beats.iter().map(|beat| beat.number).collect();
        let sent = answered.last().copied().unwrap_or(0);
        let lost = sent as usize - answered.len();
        Tally { sent, lost, copies: beats.len() - answered.len() }
    }
}

/// Numbers of echo requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) sent: u32,
    pub(crate) lost: usize,
    /// Answers beyond the first to one request.
    pub(crate) copies: usize,
}

/// One answer.
struct Beat {
    /// In seconds since the epoch.
    at: f64,
    /// The request's, counted from 1.
    number: u32,
}

impl Beat {
    /// `[1700000000.123456] 64 bytes from 10.32.0.2: icmp_seq=7 ttl=64 time=0.5 ms`
    fn parse(line: &str) -> Option<Self> {
        if !line.contains("bytes from") {
            return None;
        }
        let at = line.strip_prefix('[')?.split(']').next()?.parse().ok()?;
        let number = line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok()?;
        Some(Self { at, number })
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}
