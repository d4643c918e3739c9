//! Token buckets: so many at once, then so many a second. Owns the arithmetic; who is counted is the caller's matter.

use std::time::Duration;

use mesh_wire::Moment;

/// What a bucket allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// So many may come at once.
    pub(crate) burst: u32,
    /// One more each time that this has passed.
    pub(crate) interval: Duration,
}

/// The state of one bucket; a new one is full. It need not be kept once it is full again.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Bucket {
    full_at: Moment,
}

impl Bucket {
    /// Takes one token. False when there is none; nothing is taken then.
    pub(crate) fn take(&mut self, pace: Pace, now: Moment) -> bool {
        let full_at = self.full_at.max(now) + pace.interval;
        let allowed = full_at.since(now) <= pace.interval * pace.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    pub(crate) fn is_full(self, now: Moment) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { burst: 10, interval: Duration::from_millis(200) };

    #[test]
    fn gives_a_burst_and_then_one_at_each_interval() {
        let start = Moment::ORIGIN + Duration::from_secs(9);
        let mut bucket = Bucket::default();
        assert!(bucket.is_full(start));
        assert_eq!((0..100).filter(|_| bucket.take(PACE, start)).count(), 10);
        let later = |ms| start + Duration::from_millis(ms);
        assert!(!bucket.take(PACE, later(199)));
        assert!(bucket.take(PACE, later(200)));
        assert!(!bucket.take(PACE, later(399)));
        assert_eq!((400..1_400).filter(|ms| bucket.take(PACE, later(*ms))).count(), 5);
        assert!(!bucket.is_full(later(3_199)) && bucket.is_full(later(3_200)));
    }
}
