//! What the threads of the data plane share: sessions and links that outlive a publication of the tables, the
//! published snapshot itself, the MAC table, the clock and the way back to the control plane. It owns every lock and
//! atomic of the data plane except the counters; decisions are the engine's, system calls are `io`'s.
#![forbid(unsafe_code)]

mod links;
mod macs;
mod publisher;
mod sessions;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use mesh_wire::Moment;

use crate::engine::{Duplicates, Prober, Sizes};
use crate::io::wake::Waker;
use crate::report::Report;

pub(crate) use links::{Link, Roaming, canonical};
pub(crate) use macs::{Macs, Memory};
pub(crate) use publisher::{Outlet, Publisher, Snapshot};
pub(crate) use sessions::{OpenPacket, SendSession};

/// Everything that all threads see.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) macs: Macs,
    pub(crate) node_local: Vec<Ipv4Addr>,
    pub(crate) duplicates: Duplicates,
    /// Locked for each probe and each run of the prober, some times a second and link, never for a frame.
    pub(crate) prober: Mutex<Prober>,
    /// Locked for each size probe and each run of the prober.
    pub(crate) sizes: Mutex<Sizes>,
    /// Set when the prober must be run before its time, because a report waits, the links changed, or a frame passes on
    /// an idle one.
    pub(crate) prober_is_wanted: AtomicBool,
    pub(crate) reports: Box<dyn Fn(Report) -> bool + Send + Sync>,
    pub(crate) is_stopping: AtomicBool,
    /// One for each thread; the first thread is the one that runs the prober.
    pub(crate) wakers: Vec<Waker>,
}

impl Shared {
    /// Has the prober run at once.
    pub(crate) fn want_prober(&self) {
        self.prober_is_wanted.store(true, Ordering::Release);
        self.wakers.iter().take(1).for_each(Waker::wake);
    }

    /// Has all threads end.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.wakers.iter().for_each(Waker::wake);
    }
}

/// The monotonic clock; its origin is the data plane's start.
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::from_origin(self.0.elapsed())
    }
}

/// Locks, also after a thread panicked while it held the lock: what these locks guard is valid after each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
