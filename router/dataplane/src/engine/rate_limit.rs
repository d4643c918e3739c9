//! How much work others may cause. Owns the limits; what counts against them, whoever does the work says.

use std::time::Duration;

use mesh_wire::Moment;

/// Opening a packet costs a thread about a microsecond, and whoever has seen one packet of a link knows a receiver index with
/// which to ask for it: so many packets in a second may fail to open...
const GARBAGE_INTERVAL: Duration = Duration::from_micros(100);

/// ...and so many at once, after a quiet time.
const GARBAGE_BURST: u32 = 1_000;

/// Senders of frames that are too long are told so often...
const ANSWER_INTERVAL: Duration = Duration::from_millis(1);

/// ...and so often at once.
const ANSWER_BURST: u32 = 100;

/// The limit of one thread: a token bucket, kept as the time at which it will be full (the generic cell rate algorithm,
/// ITU-T I.371, annex A).
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    interval: Duration,
    burst: u32,
    full_at: Moment,
}

impl RateLimit {
    /// For packets that come from elsewhere than the link's address and fail to open.
    #[must_use]
    pub const fn of_garbage() -> Self {
        Self::new(GARBAGE_INTERVAL, GARBAGE_BURST)
    }

    /// For words to senders whose frames are too long.
    #[must_use]
    pub const fn of_answers() -> Self {
        Self::new(ANSWER_INTERVAL, ANSWER_BURST)
    }

    const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst, full_at: Moment::ORIGIN }
    }

    /// Whether there is work left to be had now.
    #[must_use]
    pub fn allows(&self, now: Moment) -> bool {
        self.full_at.since(now) <= self.interval * (self.burst - 1)
    }

    /// The work of one was done.
    pub fn spend(&mut self, now: Moment) {
        self.full_at = self.full_at.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_pass_in_a_burst_and_then_at_their_pace() {
        let mut limit = RateLimit::of_garbage();
        let mut opened = 0;
        for ms in 0..1_000 {
            let now = Moment::from_origin(Duration::from_millis(5_000 + ms));
            for _ in 0..100 {
                if limit.allows(now) {
                    limit.spend(now);
                    opened += 1;
                }
            }
        }
        assert_eq!(opened, 1_000 + 9_990);
        let later = Moment::from_origin(Duration::from_secs(7));
        let mut burst = 0;
        while limit.allows(later) {
            limit.spend(later);
            burst += 1;
        }
        assert_eq!(burst, 1_000);
    }

    #[test]
    fn what_opens_costs_nothing() {
        let limit = RateLimit::of_garbage();
        assert!((0..100_000).all(|_| limit.allows(Moment::ORIGIN)));
    }
}
