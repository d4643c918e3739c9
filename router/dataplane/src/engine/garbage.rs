//! How much work strangers may cause: opening a packet costs a thread about a microsecond, and whoever has seen one
//! packet of a link knows a receiver index with which to ask for it. It owns the limit; what is garbage, whoever
//! opens packets says.

use std::time::Duration;

use mesh_wire::Moment;

/// One packet in so long may fail to open: 10,000 in a second.
const INTERVAL: Duration = Duration::from_micros(100);

/// And so many at once, after a quiet time.
const BURST: u32 = 1_000;

/// The limit of one thread, for packets that come from elsewhere than the link's address and fail to open: a token
/// bucket, kept as the time at which it will be full (the generic cell rate algorithm, ITU-T I.371, annex A).
#[derive(Debug, Default, Clone, Copy)]
pub struct GarbageLimit {
    full_at: Moment,
}

impl GarbageLimit {
    /// Whether such a packet may be opened now.
    #[must_use]
    pub fn allows(&self, now: Moment) -> bool {
        self.full_at.since(now) <= INTERVAL * (BURST - 1)
    }

    /// One has failed to open.
    pub fn failed(&mut self, now: Moment) {
        self.full_at = self.full_at.max(now) + INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_pass_in_a_burst_and_then_at_their_pace() {
        let mut limit = GarbageLimit::default();
        let mut opened = 0;
        for ms in 0..1_000 {
            let now = Moment::from_origin(Duration::from_millis(5_000 + ms));
            for _ in 0..100 {
                if limit.allows(now) {
                    limit.failed(now);
                    opened += 1;
                }
            }
        }
        assert_eq!(opened, 1_000 + 9_990);
        let later = Moment::from_origin(Duration::from_secs(7));
        let mut burst = 0;
        while limit.allows(later) {
            limit.failed(later);
            burst += 1;
        }
        assert_eq!(burst, 1_000);
    }

    #[test]
    fn what_opens_costs_nothing() {
        let limit = GarbageLimit::default();
        assert!((0..100_000).all(|_| limit.allows(Moment::ORIGIN)));
    }
}
