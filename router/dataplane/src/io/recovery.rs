//! When a socket that errs is opened anew. Owns the patience; opening is the worker's.

use std::time::Duration;

use mesh_wire::Moment;

/// Errors in a row after which the socket is taken for broken. One or two may be news of the network (ICMP).
const ERRORS_MAX: u32 = 64;

/// A broken socket is opened anew after so long...
const WAIT_MIN: Duration = Duration::from_millis(100);

/// ...and if that does not help, after twice the time, up to this.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The state of one socket.
#[derive(Debug)]
pub(super) struct Recovery {
    errors: u32,
    wait: Duration,
    retry_at: Option<Moment>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { errors: 0, wait: WAIT_MIN, retry_at: None }
    }
}

impl Recovery {
    /// The socket works.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The socket erred, or could not be opened. True when that is how an outage begins.
    pub(super) fn failed(&mut self, now: Moment) -> bool {
        self.errors = self.errors.saturating_add(1);
        if self.errors < ERRORS_MAX {
            return false;
        }
        self.retry_at = Some(now + self.wait);
        self.wait = (self.wait * 2).min(WAIT_MAX);
        self.errors == ERRORS_MAX
    }

    /// There is a new socket. It has to prove itself: its first error breaks it.
    pub(super) const fn reopened(&mut self) {
        self.retry_at = None;
    }

    /// When to open a new socket; `None` while this one is in use.
    pub(super) const fn retry_at(&self) -> Option<Moment> {
        self.retry_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_keeps_failing_is_opened_anew_ever_more_rarely_and_told_once() {
        let mut recovery = Recovery::default();
        let now = Moment::ORIGIN;
        assert!((1..ERRORS_MAX).all(|_| !recovery.failed(now)));
        assert_eq!(recovery.retry_at(), None);
        assert!(recovery.failed(now));
        for wait_ms in [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            assert_eq!(recovery.retry_at(), Some(now + Duration::from_millis(wait_ms)));
            recovery.reopened();
            assert_eq!(recovery.retry_at(), None);
            assert!(!recovery.failed(now));
        }
    }

    #[test]
    fn success_ends_an_outage() {
        let mut recovery = Recovery::default();
        let told = (0..ERRORS_MAX + 5).filter(|_| recovery.failed(Moment::ORIGIN)).count();
        assert_eq!(told, 1);
        recovery.reopened();
        recovery.succeeded();
        assert!(!recovery.failed(Moment::ORIGIN));
        assert_eq!(recovery.retry_at(), None);
    }
}
