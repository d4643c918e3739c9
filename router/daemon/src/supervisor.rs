//! The service manager that started this router, if one did: it is told when the router is ready, that its control thread lives,
//! and that it ends (sd_notify(3)).
//!
//! Owns the socket and the interval. Without a service manager nothing is told.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

/// A word for the service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The router carries frames and answers.
    Ready,
    /// The thread that says so is at work.
    Alive,
    /// It ends, as it should.
    Stopping,
}

/// The way to the service manager.
pub(crate) struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that the router lives.
    every: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names.
    pub(crate) fn of_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|path| {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(&path),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let micros = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        // Twice as often as it must be, so that one late word is none too few.
        let every = micros.map(|micros| Duration::from_micros(micros) / 2).filter(|every| !every.is_zero());
        Self { every: every.filter(|_| socket.is_some()), socket }
    }

    /// Says it. A service manager that does not listen ends a router that needs no telling.
    pub(crate) fn tell(&self, word: Word) {
        let text = match word {
            Word::Ready => "READY=1",
            Word::Alive => "WATCHDOG=1",
            Word::Stopping => "STOPPING=1",
        };
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            debug!(%error, text, "the service manager does not listen");
        }
    }

    /// Ticks when it wants to hear that the router lives.
    pub(crate) fn ticks(&self) -> Ticks {
        Ticks(self.every.map(|every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }
}

/// See [`Supervisor::ticks`].
pub(crate) struct Ticks(Option<Interval>);

impl Ticks {
    /// Waits for the next tick, for ever when there is none. May be dropped and called again.
    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }
}
