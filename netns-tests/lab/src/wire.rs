//! The thread that carries frames between a host and the switch through a bad wire.
//!
//! Owns the two sockets and the clock; what happens to the frames is decided in [`chaos`](crate::chaos).

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Result;

use crate::chaos::{Chaos, ChaosCounts, ChaosQueue};
use crate::packet::{FRAME_BYTES_MAX, OwnFrames, PacketSocket};
use crate::site::lock;
use crate::wait::{OffSignal, OnSwitch, on_switch, poll_readable};

/// So many frames are read from one end before those that are due are sent.
const BATCH_FRAMES: usize = 64;

/// What each socket may hold before the thread reads it, in bytes.
const BUFFER_BYTES: usize = 8 << 20;

/// A running wire. Dropping it ends the thread; frames in the wire are lost.
#[derive(Debug)]
pub(crate) struct Wire {
    directions: Arc<[Mutex<ChaosQueue>; 2]>,
    thread: Option<JoinHandle<()>>,
    on: Option<OnSwitch>,
}

impl Wire {
    /// Connects two interfaces of the calling thread's namespace.
    pub(crate) fn between(one: &str, other: &str, chaos: Chaos) -> Result<Self> {
        let ends = [one, other].map(|end| PacketSocket::open(end, OwnFrames::Ignored, BUFFER_BYTES));
        let [one, other] = ends;
        let ends = [one?, other?];
        let directions = Arc::new([0, 1].map(|stream| Mutex::new(ChaosQueue::new(chaos, stream))));
        let (on, off) = on_switch()?;
        let carrier = Carrier { ends, directions: Arc::clone(&directions), start: Instant::now() };
        let thread =
            std::thread::Builder::new().name("lab-wire".to_owned()).spawn(move || carrier.run(&off))?;
        Ok(Self { directions, thread: Some(thread), on: Some(on) })
    }

    /// Changes what happens to later frames.
    pub(crate) fn change(&self, chaos: Chaos) {
        for direction in self.directions.iter() {
            lock(direction).change(chaos);
        }
    }

    /// What has happened so far, in both directions together.
    pub(crate) fn counts(&self) -> ChaosCounts {
        let counts = self.directions.iter().map(|direction| lock(direction).counts());
        counts.fold(ChaosCounts::default(), std::ops::Add::add)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.on.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("lab: the thread of a wire panicked");
        }
    }
}

/// What the thread works with. Direction 0 leads from end 0 to end 1, direction 1 back.
struct Carrier {
    ends: [PacketSocket; 2],
    directions: Arc<[Mutex<ChaosQueue>; 2]>,
    start: Instant,
}

impl Carrier {
    fn run(&self, off: &OffSignal) {
        if let Err(error) = self.carry_until(off) {
            // The interfaces are gone: so is the lab, or the test has deleted its host.
            eprintln!("lab: a wire ends: {error:#}");
        }
    }

    fn carry_until(&self, off: &OffSignal) -> Result<()> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            for direction in [0, 1] {
                self.take_in(direction, &mut buffer)?;
                self.give_out(direction);
            }
            let next = self.directions.iter().filter_map(|queue| lock(queue).next_due()).min();
            let pause = next.map(|due| due.saturating_sub(self.start.elapsed()));
            let [over, _, _] =
                poll_readable([off.as_fd(), self.ends[0].as_fd(), self.ends[1].as_fd()], pause)?;
            if over {
                return Ok(());
            }
        }
    }

    fn take_in(&self, direction: usize, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..BATCH_FRAMES {
            let received = match self.ends[direction].receive(buffer) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // A test has pulled the cable: the wire is still there when it is put back.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => break,
                Err(error) => return Err(error.into()),
            };
            lock(&self.directions[direction]).push(&buffer[..received.length], self.start.elapsed());
        }
        Ok(())
    }

    /// A frame that the kernel does not take, for a full queue or a cable that is out, is lost as on any
    /// wire.
    fn give_out(&self, direction: usize) {
        let mut queue = lock(&self.directions[direction]);
        while let Some(frame) = queue.pop(self.start.elapsed()) {
            self.ends[1 - direction].send(&frame).ok();
        }
    }
}
