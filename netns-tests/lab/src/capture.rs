//! Recording what passes an interface.
//!
//! Owns the recording thread. What was recorded is handed out as [`Frames`].

use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::frames::{Frame, Frames};
use crate::namespace::Namespace;
use crate::packet::{FRAME_BYTES_MAX, OwnFrames, PacketSocket};
use crate::wait::{OffSignal, OnSwitch, on_switch, poll_readable};

/// What the kernel may hold back for the recording thread, in bytes.
const BUFFER_BYTES: usize = 64 << 20;

/// So many bytes of frames are recorded; a capture that sees more fails when it is stopped.
pub const CAPTURE_BYTES_MAX: usize = 512 << 20;

/// How long the thread reads at a stretch: traffic without a pause must not keep a capture from its end.
const DRAIN_SPAN: Duration = Duration::from_millis(200);

/// A running capture. Dropping it throws away what was recorded.
#[derive(Debug)]
#[must_use = "a capture records until it is stopped or dropped"]
pub struct Capture {
    thread: Option<JoinHandle<Result<Frames>>>,
    on: Option<OnSwitch>,
}

impl Capture {
    /// Begins to record `interface` of `namespace`. Every frame that passes after the return is recorded.
    pub(crate) fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let socket = namespace.enter(|| PacketSocket::open(interface, OwnFrames::Seen, BUFFER_BYTES))??;
        let (on, off) = on_switch()?;
        let thread = std::thread::Builder::new().name("lab-capture".to_owned());
        let thread = thread.spawn(move || record(&socket, &off))?;
        Ok(Self { thread: Some(thread), on: Some(on) })
    }

    /// Ends the recording and gives all frames that have passed by now.
    ///
    /// # Errors
    /// When not every frame could be recorded: an assertion that something did *not* pass would be void.
    pub fn stop(mut self) -> Result<Frames> {
        drop(self.on.take());
        let Some(thread) = self.thread.take() else { bail!("the capture was stopped before") };
        thread.join().map_err(|_panic| anyhow!("the thread of a capture panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.on.take());
        if let Some(thread) = self.thread.take() {
            // What went wrong with a recording that nobody wants is of no interest either.
            thread.join().ok();
        }
    }
}

fn record(socket: &PacketSocket, off: &OffSignal) -> Result<Frames> {
    let start = Instant::now();
    let mut recording = Recording { start, buffer: vec![0; FRAME_BYTES_MAX], frames: Vec::new(), bytes: 0 };
    loop {
        // Asked before the socket is drained, so that what passed before the end is in the recording.
        let [over, _] = poll_readable([off.as_fd(), socket.as_fd()], None)?;
        let until = start.elapsed() + DRAIN_SPAN;
        while recording.take_next(socket)? && start.elapsed() < until {}
        if over {
            break;
        }
    }
    match socket.take_lost()? {
        0 => Ok(Frames::new(recording.frames)),
        lost => Err(anyhow!("the capture missed {lost} frames: the machine was too slow")),
    }
}

struct Recording {
    start: Instant,
    buffer: Vec<u8>,
    frames: Vec<Frame>,
    bytes: usize,
}

impl Recording {
    /// Records one frame; `false` if there is none now.
    fn take_next(&mut self, socket: &PacketSocket) -> Result<bool> {
        let received = match socket.receive(&mut self.buffer) {
            Ok(Some(received)) => received,
            Ok(None) => return Ok(false),
            // Said once when the interface goes down, which tests do to it.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        self.bytes += received.length;
        if self.bytes > CAPTURE_BYTES_MAX {
            bail!("more than {CAPTURE_BYTES_MAX} bytes have passed: too many for one capture");
        }
        let bytes = self.buffer[..received.length].to_vec();
        self.frames.push(Frame { at: self.start.elapsed(), outgoing: received.outgoing, bytes });
        Ok(true)
    }
}
