//! Rates of links: how a test writes them, and what `tc` is told.

use std::str::FromStr;

use anyhow::{Result, anyhow};

/// How long a frame may wait for its turn, in milliseconds; what would wait longer is dropped.
const QUEUE_MS: u32 = 100;

/// The token bucket must hold what passes between two ticks of a kernel with 100 ticks a second.
const TICKS_PER_SECOND: u64 = 100;

/// The bucket is never smaller than a few frames.
const BURST_BYTES_MIN: u64 = 6_000;

/// A rate in bits a second, at least 1 kbit/s. Written as `tc` does: `500kbit`, `10mbit`, `1gbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    bits_per_second: u64,
}

impl Rate {
    /// The arguments of a `tbf` queueing discipline with this rate.
    pub(crate) fn tbf(self) -> Vec<String> {
        let burst = (self.bits_per_second / 8 / TICKS_PER_SECOND).max(BURST_BYTES_MIN);
        let rate = format!("{}bit", self.bits_per_second);
        let words =
            ["tbf", "rate", &rate, "burst", &format!("{burst}b"), "latency", &format!("{QUEUE_MS}ms")];
        words.map(str::to_owned).to_vec()
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let units = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
        let parsed = units.iter().find_map(|(unit, factor)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(*factor).filter(|bits| *bits > 0)
        });
        let bits_per_second =
            parsed.ok_or_else(|| anyhow!("{text:?} is no rate: write 500kbit, 10mbit or 1gbit"))?;
        Ok(Self { bits_per_second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_units_of_tc() {
        for (text, bits) in [("500kbit", 500_000), ("10mbit", 10_000_000), ("2gbit", 2_000_000_000)] {
            assert_eq!(text.parse::<Rate>().unwrap().bits_per_second, bits);
        }
        for text in ["", "mbit", "0mbit", "-1mbit", "10", "10mbps", "99999999999999gbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn gives_fast_links_a_bucket_for_one_tick() {
        assert!("1gbit".parse::<Rate>().unwrap().tbf().contains(&"1250000b".to_owned()));
        assert!("1mbit".parse::<Rate>().unwrap().tbf().contains(&"6000b".to_owned()));
    }
}
