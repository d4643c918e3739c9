//! Bytes from one container to another of which each is checked: by TCP all of them, by UDP those that arrive.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_lab::{Container, secs};

/// How long neither end may see a byte move before a transfer has failed.
const STALL_MAX: Duration = secs(60);

/// How long to wait for a datagram that may be late.
const LATE_MAX: Duration = secs(1);

/// Datagrams of so many bytes cross in one piece whatever the path of these scenarios: IP cuts longer ones, and what is cut may
/// take another way through a host than what is whole.
const WHOLE_LEN_MAX: usize = 500;

/// Bytes written or read at a time.
const CHUNK: usize = 64 << 10;

/// A transfer by TCP under way.
#[must_use = "a transfer is judged when it is finished"]
pub(crate) struct Transfer {
    sent: JoinHandle<Result<()>>,
    received: JoinHandle<Result<Duration>>,
}

impl Transfer {
    /// Begins to send `len` bytes, which `seed` tells from those of other transfers.
    pub(crate) fn begin(
        from: &Container,
        to: &Container,
        address: impl Into<IpAddr>,
        len: usize,
        seed: u64,
    ) -> Result<Self> {
        let address = address.into();
        let listener = to.enter(|| TcpListener::bind(SocketAddr::new(address, 0)))??;
        let at = listener.local_addr()?;
        let received = std::thread::spawn(move || {
            let begun = Instant::now();
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(STALL_MAX))?;
            let (mut numbers, mut buffer) = (Numbers(seed), vec![0; CHUNK]);
            for at in (0..len).step_by(CHUNK) {
                let chunk = &mut buffer[..CHUNK.min(len - at)];
                stream.read_exact(chunk).with_context(|| format!("after {at} bytes"))?;
                ensure!(numbers.fill(chunk.len()) == *chunk, "bytes {at} and following differ");
            }
            ensure!(stream.read(&mut buffer)? == 0, "more came than was sent");
            Ok(begun.elapsed())
        });
        let mut stream = from.enter(|| TcpStream::connect_timeout(&at, secs(10)))??;
        let sent = std::thread::spawn(move || {
            stream.set_write_timeout(Some(STALL_MAX))?;
            let mut numbers = Numbers(seed);
            for at in (0..len).step_by(CHUNK) {
                stream.write_all(&numbers.fill(CHUNK.min(len - at)))?;
            }
            Ok(())
        });
        Ok(Self { sent, received })
    }

    /// Whether both ends have done their part, or one has failed.
    pub(crate) fn is_over(&self) -> bool {
        self.sent.is_finished() && self.received.is_finished()
    }

    /// Waits for its end. The time that it took.
    pub(crate) fn finish(self) -> Result<Duration> {
        let sent = self.sent.join().map_err(|_panic| anyhow!("the sender panicked"))?;
        let received = self.received.join().map_err(|_panic| anyhow!("the receiver panicked"))?;
        sent.context("cannot send")?;
        received.context("cannot receive")
    }
}

/// Numbered datagrams under way.
#[must_use = "a stream of datagrams is judged when it is finished"]
pub(crate) struct Datagrams {
    sent: JoinHandle<Result<u64>>,
    received: JoinHandle<Result<(u64, u64)>>,
    sent_bytes: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

/// What became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Those that came in one piece, and after one that was sent later.
    pub(crate) overtaken: u64,
}

impl Datagrams {
    /// Begins to send datagrams of these lengths in turn, at this pace.
    pub(crate) fn begin(
        from: &Container,
        to: &Container,
        address: impl Into<IpAddr>,
        (lens, every): (&'static [usize], Duration),
    ) -> Result<Self> {
        let address = address.into();
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let receiver = to.enter(|| UdpSocket::bind(SocketAddr::new(address, 0)))??;
        let at = receiver.local_addr()?;
        let sender = from.enter(|| UdpSocket::bind(SocketAddr::new(any, 0)))??;
        let is_over = Arc::new(AtomicBool::new(false));
        let sent_bytes = Arc::new(AtomicUsize::new(0));
        let (flag, bytes) = (Arc::clone(&is_over), Arc::clone(&sent_bytes));
        let sent = std::thread::spawn(move || {
            sender.connect(at)?;
            let (mut number, mut failed) = (0, 0);
            while !flag.load(Ordering::Relaxed) {
                let len = lens[usize::try_from(number)? % lens.len()];
                // The path may have become narrower than the datagram; the next one is told to the stack already.
                failed += u64::from(sender.send(&contents(number, len)).is_err());
                bytes.fetch_add(len, Ordering::Relaxed);
                number += 1;
                std::thread::sleep(every);
            }
            Ok(number - failed)
        });
        let flag = Arc::clone(&is_over);
        let received = std::thread::spawn(move || {
            receiver.set_read_timeout(Some(LATE_MAX))?;
            let (mut seen, mut buffer) = (BTreeSet::new(), vec![0; CHUNK]);
            let (mut latest, mut overtaken) = (0, 0);
            loop {
                let Ok(len) = receiver.recv(&mut buffer) else {
                    if flag.load(Ordering::Relaxed) {
                        return Ok((seen.len() as u64, overtaken));
                    }
                    continue;
                };
                let number = buffer[..len].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                let number = number.context("a datagram without a number")?;
                ensure!(contents(number, len) == buffer[..len], "datagram {number} is damaged");
                ensure!(seen.insert(number), "datagram {number} came twice");
                if len <= WHOLE_LEN_MAX {
                    overtaken += u64::from(number < latest);
                    latest = latest.max(number);
                }
            }
        });
        Ok(Self { sent, received, sent_bytes, is_over })
    }

    /// How many bytes were sent so far.
    pub(crate) fn sent_bytes(&self) -> usize {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Ends the stream, and waits for what is late.
    pub(crate) fn finish(self) -> Result<Arrived> {
        self.is_over.store(true, Ordering::Relaxed);
        let sent = self.sent.join().map_err(|_panic| anyhow!("the sender panicked"))??;
        let (received, overtaken) =
            self.received.join().map_err(|_panic| anyhow!("the receiver panicked"))??;
        Ok(Arrived { sent, received, overtaken })
    }
}

fn contents(number: u64, len: usize) -> Vec<u8> {
    let mut contents = Numbers(number).fill(len);
    contents[..8].copy_from_slice(&number.to_le_bytes());
    contents
}

/// Numbers without a pattern that a mistake could repeat (the steps of splitmix64).
struct Numbers(u64);

impl Numbers {
    fn fill(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bytes.extend_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
