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
use super::recovery::Recovery;
use super::udp::{ReceiveBuffer, UdpQueue};
use super::uplink::UplinkQueue;
use crate::engine::Counters;
use crate::report::{Failure, Report};
use crate::shared::{Shared, Snapshot};

/// Frames read from the uplink before the socket has its turn again...
const CAPTURE_BATCH: usize = 64;

/// ...and bytes of them, for each may be a super-frame.
const CAPTURE_BATCH_LEN: usize = 256 << 10;

/// Room for one frame: the longest that an interface with an MTU of 65,535 sends, and the longest super-frame.
const CAPTURE_LEN: usize = 65_535 + 18;

/// The prober is not run more often than this on its own account: with many links their probes are bundled.
const PROBING_INTERVAL_MIN: Duration = Duration::from_millis(5);

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
    uplink_state: End,
    recovery: Recovery,
    housekeeping: Housekeeping,
}

/// The first thread's calendar.
#[derive(Debug, Default, Clone, Copy)]
struct Housekeeping {
    next_probing: Option<Moment>,
    next_expiry: Moment,
}

/// Whether the uplink can be read.
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
    uplink: bool,
}

impl Worker {
    pub(crate) fn new(
        number: usize,
        shared: Arc<Shared>,
        uplink: UplinkQueue,
        udp: UdpQueue,
        counters: Arc<Counters>,
    ) -> Self {
        let udp = Arc::new(udp);
        let outbox = Outbox::new(Arc::clone(&udp), Arc::clone(&counters));
        let forwarder = Forwarder::new(number, Arc::clone(&shared), counters, uplink, outbox);
        Self {
            number,
            shared,
            forwarder,
            udp,
            received: ReceiveBuffer::new(),
            captured: vec![0; CAPTURE_LEN],
            uplink_state: End::Open,
            recovery: Recovery::default(),
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
            if ready.udp {
                self.receive(now);
            }
            let snapshot = shared.snapshot.load();
            if self.recovery.retry_at().is_some_and(|at| at <= now) {
                self.reopen(now);
            }
            if ready.uplink {
                self.capture(&snapshot, now);
            }
            self.forwarder.outbox.flush();
            self.forwarder.doubt_refused(&snapshot, now);
            if self.number == 0 {
                self.keep_house(&snapshot, now);
                self.forwarder.outbox.flush();
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let wake = &self.shared.wakers[self.number];
        // A lost end would report its error at once and for ever; the waker stands in for it.
        let is_open = self.recovery.retry_at().is_none();
        let udp = if is_open { PollFd::new(&*self.udp, PollFlags::IN) } else { idle(wake) };
        let uplink = if self.uplink_state == End::Open {
            PollFd::new(&self.forwarder.uplink, PollFlags::IN)
        } else {
            idle(wake)
        };
        let mut fds = [PollFd::new(wake, PollFlags::IN), udp, uplink];
        match poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [wake, udp, uplink] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready { wake, udp: udp && is_open, uplink: uplink && self.uplink_state == End::Open })
    }

    /// How long to wait: for ever, unless this thread keeps house or has a socket to open.
    fn timeout(&self) -> Option<Timespec> {
        let Housekeeping { next_probing, next_expiry } = self.housekeeping;
        let house = next_probing.into_iter().chain([next_expiry]).filter(|_| self.number == 0);
        let next = house.chain(self.recovery.retry_at()).min()?;
        let wait = next.since(self.shared.clock.now());
        Some(Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }))
    }

    fn receive(&mut self, now: Moment) {
        let mut merger = self.forwarder.uplink.merger();
        let (forwarder, shared) = (&mut self.forwarder, &self.shared);
        // Looked up once the batch has come. Whoever sends under new keys was told of them after they were published, so
        // tables as new as the datagrams have them, and older ones may not.
        let mut snapshot = None;
        let result = self.received.receive(&self.udp, |from, datagram| {
            let snapshot = snapshot.get_or_insert_with(|| shared.snapshot.load());
            forwarder.datagram(from, datagram, &mut merger, snapshot, now);
        });
        forwarder.inject(&mut merger);
        // What is sent on does not wait for what will be captured.
        forwarder.outbox.flush();
        match result {
            Ok(_) => self.recovery.succeeded(),
            Err(error) => self.receiving_failed(error, now),
        }
    }

    fn receiving_failed(&mut self, error: io::Error, now: Moment) {
        if self.recovery.failed(now) {
            self.forwarder.report(Report::Failed(Failure::Udp(error)));
        }
    }

    fn reopen(&mut self, now: Moment) {
        match self.udp.reopen() {
            Ok(socket) => {
                self.udp = Arc::new(socket);
                self.forwarder.outbox.use_socket(Arc::clone(&self.udp));
                self.recovery.reopened();
            }
            Err(error) => self.receiving_failed(error, now),
        }
    }

    fn capture(&mut self, snapshot: &Snapshot, now: Moment) {
        let mut len = 0;
        for _ in 0..CAPTURE_BATCH {
            if len >= CAPTURE_BATCH_LEN {
                return;
            }
            match self.forwarder.uplink.read(&mut self.captured) {
                Ok(captured) => {
                    len += captured.len;
                    self.forwarder.captured(captured, &mut self.captured, snapshot, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.uplink_state = End::Lost;
                    self.forwarder.report(Report::Failed(Failure::Uplink(error)));
                    return;
                }
            }
        }
    }

    fn keep_house(&mut self, snapshot: &Snapshot, now: Moment) {
        let is_wanted = self.shared.prober_is_wanted.swap(false, Ordering::Acquire);
        if is_wanted || self.housekeeping.next_probing.is_some_and(|at| at <= now) {
            let next = self.forwarder.run_prober(snapshot, now);
            self.housekeeping.next_probing = next.map(|at| at.max(now + PROBING_INTERVAL_MIN));
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

#[cfg(test)]
mod frames;
