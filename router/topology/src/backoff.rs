//! How long to wait before trying again.

use std::time::Duration;

use mesh_crypto::Rng;
use mesh_wire::Moment;

/// Shortest wait.
pub const WAIT_MIN: Duration = Duration::from_millis(200);

/// Longest wait.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// A wait that grows with the trouble: an eighth of the time since the first failure, between [`WAIT_MIN`] and
/// [`WAIT_MAX`], ±20 % so that many peers do not retry in step. Whatever the outage lasted, its end is noticed
/// within an eighth of that.
#[derive(Debug, Default, Clone, Copy)]
pub struct Backoff {
    first_failure: Option<Moment>,
}

impl Backoff {
    /// Records a failure and returns when to try again.
    pub fn fail(&mut self, rng: &mut Rng, now: Moment) -> Moment {
        let first = *self.first_failure.get_or_insert(now);
        let wait = (now.since(first) / 8).clamp(WAIT_MIN, WAIT_MAX);
        let spread_ms = u64::try_from(wait.as_millis() * 2 / 5).unwrap_or(u64::MAX).max(1);
        now + wait * 4 / 5 + Duration::from_millis(rng.below(spread_ms))
    }

    /// Forgets all failures.
    pub fn succeed(&mut self) {
        self.first_failure = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_an_eighth_of_the_outage_within_bounds() {
        let mut rng = Rng::from_seed([1; 32]);
        let mut backoff = Backoff::default();
        let start = Moment::ORIGIN + Duration::from_secs(5);
        for (elapsed_ms, wait_ms) in
            [(0, 200), (800, 200), (8_000, 1_000), (80_000, 10_000), (8_000_000, 30_000)]
        {
            let now = start + Duration::from_millis(elapsed_ms);
            let wait = backoff.fail(&mut rng, now).since(now).as_millis();
            assert!((wait_ms * 4 / 5..=wait_ms * 6 / 5).contains(&wait), "{elapsed_ms}: {wait}");
        }
        backoff.succeed();
        let now = start + Duration::from_secs(10_000);
        assert!(backoff.fail(&mut rng, now).since(now) <= WAIT_MIN * 6 / 5);
    }
}
