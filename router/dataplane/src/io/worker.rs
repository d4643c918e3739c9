//! The loop of one thread of the data plane: wait for frames, datagrams or a call, and pass on what came, a bounded
//! batch of each kind at a time, so that neither kind starves the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh_wire::Moment;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::forwarder::Forwarder;
use super::outbox::Outbox;
use super::tap::TapQueue;
use super::udp::{ReceiveBuffer, UdpQueue};
use crate::engine::Counters;
use crate::report::{Failure, Report};
use crate::shared::{Shared, Snapshot};

/// Frames read from the TAP interface before the socket has its turn again.
const CAPTURE_BATCH: usize = 64;

/// Room for one frame: the longest that an interface with an MTU of 65,535 sends.
const CAPTURE_LEN: usize = 65_535 + 18;

/// Errors in a row after which the socket is given up. One or two may be news of the network (ICMP).
const RECEIVE_ERRORS_MAX: u32 = 64;

/// How often, at least, the first thread looks after the MAC table.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// What one thread has.
pub(crate) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    forwarder: Forwarder,
    udp: Arc<UdpQueue>,
    received: ReceiveBuffer,
    captured: Vec<u8>,
    tap_state: End,
    udp_state: End,
    receive_errors: u32,
    housekeeping: Housekeeping,
}

/// The first thread's calendar.
#[derive(Debug, Default)]
struct Housekeeping {
    next_probing: Option<Moment>,
    next_expiry: Moment,
}

/// Whether an end can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Lost,
}

/// What there is to do.
#[derive(Debug, Clone, Copy)]
struct Ready {
    wake: bool,
    udp: bool,
    tap: bool,
}

impl Worker {
    pub(crate) fn new(
        number: usize,
        shared: Arc<Shared>,
        tap: TapQueue,
        udp: UdpQueue,
        counters: Arc<Counters>,
    ) -> Self {
        let udp = Arc::new(udp);
        let outbox = Outbox::new(Arc::clone(&udp), Arc::clone(&counters));
        let forwarder = Forwarder { shared: Arc::clone(&shared), counters, tap, outbox };
        Self {
            number,
            shared,
            forwarder,
            udp,
            received: ReceiveBuffer::new(),
            captured: vec![0; CAPTURE_LEN],
            tap_state: End::Open,
            udp_state: End::Open,
            receive_errors: 0,
            housekeeping: Housekeeping::default(),
        }
    }

    /// Works until the data plane stops.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while !shared.is_stopping.load(Ordering::Acquire) {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    self.forwarder.report(Report::Failed(Failure::Poll(error)));
                    return;
                }
            };
            if ready.wake {
                shared.wakers[self.number].clear();
            }
            // One look at the clock and the tables for the whole batch.
            let now = shared.clock.now();
            let snapshot = shared.snapshot.load();
            if ready.udp {
                self.receive(&snapshot, now);
            }
            if ready.tap {
                self.capture(&snapshot, now);
            }
            if self.number == 0 {
                self.keep_house(&snapshot, now);
            }
            self.forwarder.outbox.flush();
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let wake = &self.shared.wakers[self.number];
        // A lost end would report its error at once and for ever; the waker stands in for it.
        let udp =
            if self.udp_state == End::Open { PollFd::new(&*self.udp, PollFlags::IN) } else { idle(wake) };
        let tap = if self.tap_state == End::Open {
            PollFd::new(&self.forwarder.tap, PollFlags::IN)
        } else {
            idle(wake)
        };
        let mut fds = [PollFd::new(wake, PollFlags::IN), udp, tap];
        match poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [wake, udp, tap] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready { wake, udp: udp && self.udp_state == End::Open, tap: tap && self.tap_state == End::Open })
    }

    /// How long to wait: for ever, unless this thread keeps house.
    fn timeout(&self) -> Option<Timespec> {
        if self.number != 0 {
            return None;
        }
        let next = self
            .housekeeping
            .next_probing
            .map_or(self.housekeeping.next_expiry, |probing| probing.min(self.housekeeping.next_expiry));
        let wait = next.since(self.shared.clock.now());
        Some(Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }))
    }

    fn receive(&mut self, snapshot: &Snapshot, now: Moment) {
        let forwarder = &mut self.forwarder;
        let result = self
            .received
            .receive(&self.udp, |from, datagram| forwarder.datagram(from, datagram, snapshot, now));
        match result {
            Ok(_) => self.receive_errors = 0,
            Err(error) => {
                self.receive_errors += 1;
                if self.receive_errors >= RECEIVE_ERRORS_MAX {
                    self.udp_state = End::Lost;
                    self.forwarder.report(Report::Failed(Failure::Udp(error)));
                }
            }
        }
    }

    fn capture(&mut self, snapshot: &Snapshot, now: Moment) {
        for _ in 0..CAPTURE_BATCH {
            match self.forwarder.tap.read(&mut self.captured) {
                Ok(captured) => self.forwarder.captured(captured, &self.captured, snapshot, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.tap_state = End::Lost;
                    self.forwarder.report(Report::Failed(Failure::Tap(error)));
                    return;
                }
            }
        }
    }

    fn keep_house(&mut self, snapshot: &Snapshot, now: Moment) {
        let is_wanted = self.shared.prober_is_wanted.swap(false, Ordering::Acquire);
        if is_wanted || self.housekeeping.next_probing.is_some_and(|at| at <= now) {
            self.housekeeping.next_probing = self.forwarder.run_prober(snapshot, now);
        }
        if self.housekeeping.next_expiry <= now {
            self.housekeeping.next_expiry = now + HOUSEKEEPING_INTERVAL;
            self.shared.macs.expire_some(now);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.forwarder.report(Report::Failed(Failure::Panic));
        }
    }
}

fn idle<'fd>(fd: &'fd impl std::os::fd::AsFd) -> PollFd<'fd> {
    PollFd::new(fd, PollFlags::empty())
}
