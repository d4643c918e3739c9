//! Traffic that goes on while something happens, to tell how long it stood still.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use mesh_lab::{Namespace, Process};

use crate::support::Member;

/// A ping that goes on beside the test, twenty times a second.
pub(crate) struct Heartbeat {
    ping: Process,
}

impl Heartbeat {
    pub(crate) fn start(from: &Namespace, to: &Member) -> Result<Self> {
        let ip = to.ip.to_string();
        // It ends by itself after 60 seconds, whatever becomes of the test.
        let ping = from.spawn(["ping", "-n", "-D", "-i", "0.05", "-c", "1200", &ip])?;
        Ok(Self { ping })
    }

    /// When each answer came, in seconds since the epoch: "[1700000000.123456] 64 bytes from 10.32.0.2: ..."
    fn answers(&self) -> Vec<f64> {
        let time = |line: &str| {
            line.contains("bytes from").then(|| line.strip_prefix('[')?.split(']').next()?.parse().ok())
        };
        self.ping.stdout().lines().filter_map(|line| time(line).flatten()).collect()
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
        self.answers().windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}
