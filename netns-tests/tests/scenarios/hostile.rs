//! Strangers on the underlay who send what they like to a router's ports.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Frame, Host, Ping, Protocol, eventually, secs};

use crate::support::{Member, all_connected, all_ping, chain, chain_by_sleeve, connections, neighbours};

/// How long the strangers go on.
const SIEGE: Duration = secs(10);

/// Connections that a stranger holds open at a time.
const HELD_MAX: usize = 300;

/// The pause between two connections, and between two bursts of datagrams.
const PAUSE: Duration = Duration::from_millis(4);

/// Datagrams in a burst.
const BURST: usize = 8;

/// Growth of the router's memory that is taken for ordinary, in KiB.
const GROWTH_KIB_MAX: u64 = 20 * 1024;

/// What a router may log about strangers, in bytes.
const LOG_BYTES_MAX: usize = 20_000;

/// The first 16 bytes of a control session, without a secret: PROTOCOL.md, "Preamble".
pub(crate) const PREAMBLE: [u8; 16] = *b"MESH\x01\x01\x00\x00\0\0\0\0\0\0\0\0";

/// Where a sleeve packet in clear has the link's cookie: PROTOCOL.md, "Sleeve packets".
const COOKIE: std::ops::Range<usize> = 16..24;

/// The byte of a sleeve packet whose lowest bit is bit 32 of the counter.
const COUNTER_BIT_32: usize = 11;

/// Bytes of an Ethernet, an IPv4 and a UDP header.
const HEADERS_BYTES: usize = 14 + 20 + 8;

#[test]
fn ten_seconds_of_garbage_harm_nobody_without_a_password() -> Result<()> {
    harm_nobody("clear", None)
}

#[test]
fn ten_seconds_of_garbage_harm_nobody_with_a_password() -> Result<()> {
    harm_nobody("sealed", Some("keep out"))
}

/// Who listens to a link in clear can speak on it, and throw an end out of step. That must not last.
#[test]
fn a_forged_packet_on_a_link_in_clear_silences_it_for_seconds_at_most() -> Result<()> {
    let (lab, [one, two]) = chain_by_sleeve("forged", None)?;
    let eve = lab.host("eve")?;
    all_ping(&[&one, &two])?;
    let genuine = genuine_datagrams(&lab, &one, &two)?;
    let target = SocketAddr::from((one.host.ip(), 6783));
    for mut datagram in genuine {
        // Counters seem to have leapt 2^32 ahead, so that all that follow are of long ago.
        datagram[COUNTER_BIT_32] ^= 1;
        eve.enter(|| UdpSocket::bind("0.0.0.0:0")?.send_to(&datagram, target))??;
    }
    let since = Instant::now();
    ensure!(one.container.ping_with(&Ping::to(two.ip).count(3))?.loss_percent() > 0.0, "nothing was forged");
    eventually(secs(10), || one.container.ping(two.ip))?;
    eprintln!("measured: back {:.1} s after the forgery", since.elapsed().as_secs_f64());
    all_connected(&[&one.host, &two.host])?;
    all_ping(&[&one, &two])
}

fn harm_nobody(title: &str, password: Option<&str>) -> Result<()> {
    let (lab, [one, two]) = chain(title, password)?;
    let eve = lab.host("eve")?;
    all_ping(&[&one, &two])?;
    let mut genuine = genuine_datagrams(&lab, &one, &two)?;
    if password.is_none() {
        // Whoever can listen to a link in clear can also speak on it. A stranger who cannot does not know its cookie.
        genuine.iter_mut().for_each(|datagram| datagram[COOKIE].fill(0));
    }
    let before = Footprint::of(&one.host)?;

    let target = SocketAddr::from((one.host.ip(), 6783));
    let until = Instant::now() + SIEGE;
    let count = u32::try_from(SIEGE.as_millis() / 50)?;
    let (connections_made, datagrams, stats) = std::thread::scope(|scope| -> Result<_> {
        let knocking = scope.spawn(|| eve.enter(|| knock(target, until)));
        let spraying = scope.spawn(|| eve.enter(|| spray(target, &genuine, until)));
        let stats = one.container.ping_with(&Ping::to(two.ip).count(count).every_ms(50));
        let knocked = knocking.join().expect("a stranger does not panic")?;
        let sprayed = spraying.join().expect("a stranger does not panic")??;
        Ok((knocked, sprayed, stats?))
    })?;
    eprintln!(
        "measured: {connections_made} connections and {datagrams} datagrams of garbage; ping: {stats:?}"
    );

    ensure!(stats.loss_percent() <= 1.0 && stats.duplicates == 0, "{stats:?}");
    ensure!(neighbours(&one.host)? == ["h2"], "{:?}", connections(&one.host)?);
    eventually(secs(15), || {
        let after = Footprint::of(&one.host)?;
        ensure!(
            after.descriptors <= before.descriptors,
            "{} descriptors, before {}",
            after.descriptors,
            before.descriptors
        );
        ensure!(after.threads <= before.threads, "{} threads, before {}", after.threads, before.threads);
        Ok(())
    })?;
    let after = Footprint::of(&one.host)?;
    eprintln!("measured: memory before {} KiB, after {} KiB", before.resident_kib, after.resident_kib);
    ensure!(after.resident_kib <= before.resident_kib + GROWTH_KIB_MAX, "{before:?}, then {after:?}");

    // The door is open to others again.
    let three = Member::launch(&lab.host("h3")?, 3, &[one.host.ip().to_string()], password)?;
    all_connected(&[&one.host, &two.host, &three.host])?;
    all_ping(&[&one, &three])?;
    let log = one.host.router_log().len();
    ensure!(log < LOG_BYTES_MAX, "{connections_made} strangers have filled {log} bytes of the log");
    Ok(())
}

/// What the first router hears from the second over UDP when their containers talk.
pub(crate) fn genuine_datagrams(lab: &mesh_lab::Lab, one: &Member, two: &Member) -> Result<Vec<Vec<u8>>> {
    let capture = lab.capture(&one.host)?;
    one.container.ping_with(&Ping::to(two.ip).count(20))?;
    let is_sleeve = |frame: &&Frame| {
        !frame.outgoing && frame.transport().is_some_and(|ends| ends.protocol == Protocol::Udp)
    };
    let payload = |frame: &Frame| frame.bytes.get(HEADERS_BYTES..).map(<[u8]>::to_vec);
    let datagrams: Vec<_> = capture.stop()?.iter().filter(is_sleeve).filter_map(payload).collect();
    ensure!(datagrams.len() >= 15, "only {} datagrams passed", datagrams.len());
    Ok(datagrams)
}

/// Opens connections of five kinds in turn, and tells how many there were.
fn knock(target: SocketAddr, until: Instant) -> usize {
    let mut chance = Chance(1);
    let (mut made, mut held) = (0, Vec::new());
    while Instant::now() < until {
        if let Ok(mut stream) = TcpStream::connect_timeout(&target, Duration::from_millis(200)) {
            made += 1;
            // The router may close at any byte, so that writing fails.
            let sent = match made % 5 {
                0 => stream.write_all(&chance.bytes(4000)),
                1 => stream.write_all(&PREAMBLE[..7]),
                2 => stream.write_all(&[&PREAMBLE[..], &chance.bytes(3000)].concat()),
                // A Noise message of the greatest length, of which the second half never comes.
                3 => stream.write_all(&[&PREAMBLE[..], &[1, 0x10, 0x00], &chance.bytes(2000)].concat()),
                _silent => Ok(()),
            };
            // Junk is thrown in and left; the silent and the half-finished are held open.
            if sent.is_ok() && matches!(made % 5, 1 | 3 | 4) && held.len() < HELD_MAX {
                held.push(stream);
            }
        }
        std::thread::sleep(PAUSE);
    }
    made
}

/// Sends datagrams that are random, cut short, changed in one bit, or said by somebody else before; tells how many.
fn spray(target: SocketAddr, genuine: &[Vec<u8>], until: Instant) -> Result<usize> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut chance = Chance(2);
    let mut sent = 0;
    while Instant::now() < until {
        for _ in 0..BURST {
            let mut datagram = genuine[chance.below(genuine.len())].clone();
            match chance.below(4) {
                0 => {
                    let length = chance.below(1473);
                    datagram = chance.bytes(length);
                }
                1 => datagram.truncate(chance.below(datagram.len() + 1)),
                2 if !datagram.is_empty() => {
                    let (at, bit) = (chance.below(datagram.len()), chance.below(8));
                    datagram[at] ^= 1 << bit;
                }
                _replayed => {}
            }
            // A full buffer of our own loses garbage only.
            sent += usize::from(socket.send_to(&datagram, target).is_ok());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(sent)
}

/// What a router's process holds of the machine.
#[derive(Debug)]
pub(crate) struct Footprint {
    pub(crate) resident_kib: u64,
    threads: u64,
    pub(crate) descriptors: usize,
}

impl Footprint {
    pub(crate) fn of(host: &Host) -> Result<Self> {
        let process = format!("/proc/{}", host.router_pid()?);
        let status = fs::read_to_string(format!("{process}/status"))?;
        let number = |key: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let word = line.and_then(|line| line.split_whitespace().next());
            Ok(word.with_context(|| format!("no {key} in /proc"))?.parse()?)
        };
        let descriptors = fs::read_dir(format!("{process}/fd"))?.count();
        Ok(Self { resident_kib: number("VmRSS:")?, threads: number("Threads:")?, descriptors })
    }
}

/// Numbers that look random, the same in each run: xorshift64 (Marsaglia 2003).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % end
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[4]).collect()
    }
}
