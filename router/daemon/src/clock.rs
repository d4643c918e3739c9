//! The one clock of the node, and the alarm that goes by it. Nothing else reads a clock on the node's behalf.
//!
//! Both go by `CLOCK_BOOTTIME`, which runs on while the host sleeps (clock_gettime(2)). A laptop that wakes after an hour
//! thus sees at once that an hour has passed: its sessions are silent for too long and its keys are old, and it dials
//! again. By `CLOCK_MONOTONIC`, on which tokio's timers rest, it would take the hour for nothing, and find out by
//! time-outs that start only then. So the node's next timeout is a timer of the kernel (timerfd_create(2)) on the same clock,
//! which rings right after the host has woken. Tokio's own timers only bound single reads, writes and dials; for those it
//! is right that sleep does not count.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use mesh_wire::Moment;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Tells the node's time, counted from the router's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: boottime() }
    }

    pub(crate) fn now(self) -> Moment {
        Moment::from_origin(boottime().saturating_sub(self.origin))
    }
}

/// Rings when a moment has come.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: AsyncFd<OwnedFd>,
    clock: Clock,
    set_to: Option<Moment>,
}

impl Alarm {
    /// An alarm that is not set.
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, since some types change or close their descriptor \
                                       while it is registered; an OwnedFd does neither"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, clock, set_to: None })
    }

    /// Rings at `moment` in place of the moment that it was set to before, at once when that has passed; never when
    /// `None`.
    pub(crate) fn set(&mut self, moment: Option<Moment>) -> io::Result<()> {
        if moment == self.set_to {
            return Ok(());
        }
        // Zero would switch the timer off; no moment of a host that has booted is zero.
        let at =
            moment.map_or(Duration::ZERO, |moment| self.clock.origin.saturating_add(moment.since_origin()));
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(at).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let time = Itimerspec { it_interval: never, it_value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &time)?;
        self.set_to = moment;
        Ok(())
    }

    /// Waits until it rings. It rings once each time that it is set. May be dropped and called again.
    pub(crate) async fn rings(&mut self) {
        loop {
            // An error means that the runtime ends; then nothing rings any more.
            let Ok(mut ready) = self.timer.readable().await else { return std::future::pending().await };
            let mut count = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
            // Setting it anew takes back a ring that was not read yet; then the wait goes on.
            if matches!(read, Ok(Ok(_))) {
                self.set_to = None;
                return;
            }
        }
    }
}

fn boottime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).expect("time since boot is not negative")
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Longest wait for a ring that must come.
    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn an_alarm_rings_once_and_not_before_its_time() {
        let clock = Clock::start();
        let mut alarm = Alarm::new(clock).expect("a timer");
        let at = clock.now() + Duration::from_millis(20);
        alarm.set(Some(at)).expect("a valid time");
        timeout(PATIENCE, alarm.rings()).await.expect("it rings");
        assert!(clock.now() >= at);
        assert!(timeout(Duration::from_millis(50), alarm.rings()).await.is_err(), "it rings again");
    }

    #[tokio::test]
    async fn an_alarm_rings_at_once_for_what_has_passed_and_for_the_same_moment_again() {
        let clock = Clock::start();
        let mut alarm = Alarm::new(clock).expect("a timer");
        for _ in 0..2 {
            alarm.set(Some(Moment::ORIGIN)).expect("a valid time");
            timeout(PATIENCE, alarm.rings()).await.expect("it rings");
        }
    }

    #[tokio::test]
    async fn an_alarm_that_was_set_anew_forgets_its_earlier_time() {
        let clock = Clock::start();
        let mut alarm = Alarm::new(clock).expect("a timer");
        alarm.set(Some(Moment::ORIGIN)).expect("a valid time");
        alarm.set(Some(clock.now() + Duration::from_secs(3600))).expect("a valid time");
        assert!(timeout(Duration::from_millis(50), alarm.rings()).await.is_err());
        alarm.set(Some(Moment::ORIGIN)).expect("a valid time");
        alarm.set(None).expect("switched off");
        assert!(timeout(Duration::from_millis(50), alarm.rings()).await.is_err());
    }
}
