//! What is measured of a subject, with the programs' own words.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_lab::Iperf;

use crate::ground::Started;

/// `USER_HZ`, in which `/proc/PID/stat` counts: 100 on all architectures that mesh runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Payload of a round trip, and of the small datagrams.
const SMALL: usize = 64;

/// How long a round trip may take before the measurement has failed.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(5);

/// How long and how often to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) round_trips: u32,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    /// One TCP stream.
    pub(crate) gigabits_per_second: f64,
    /// CPU time of the subject's own processes on both hosts for 10^9 bytes of it; `None` for the kernel.
    pub(crate) cpu_seconds_per_gigabyte: Option<f64>,
    /// Datagrams of 64 bytes that arrive of an unpaced flood, thousands a second.
    pub(crate) kilodatagrams_per_second: f64,
    /// TCP ping-pong of 64 bytes, mean.
    pub(crate) round_trip_us: f64,
    /// Resident memory of one of its processes before the load.
    pub(crate) megabytes: Option<f64>,
}

pub(crate) fn all(started: &Started, effort: &Effort) -> Result<Figures> {
    let megabytes = memory(&started.pids);
    let round_trip_us = round_trip(started, effort.round_trips).context("round trips")?;
    let _server = started.server.iperf_server()?;
    let iperf = || {
        let iperf = Iperf::to(&started.server_address).seconds(effort.seconds);
        let is_alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        if is_alone { iperf } else { iperf.option("--affinity").option("0,1") }
    };
    let before = cpu_seconds(&started.pids);
    let tcp = started.client.iperf(&iperf().option("--congestion").option("cubic")).context("TCP")?;
    let cpu = cpu_seconds(&started.pids).zip(before).map(|(after, before)| after - before);
    let gigabytes = tcp.bits_per_second * effort.seconds as f64 / 8e9;
    let udp = started.client.iperf(&iperf().udp("0", SMALL as u32)).context("UDP")?;
    let sum = udp.json.pointer("/end/sum").context("iperf3 sums nothing up")?;
    let number = |key: &str| sum.get(key).and_then(serde_json::Value::as_f64).with_context(|| key.to_owned());
    let received = number("packets")? - number("lost_packets")?;
    Ok(Figures {
        gigabits_per_second: tcp.bits_per_second / 1e9,
        cpu_seconds_per_gigabyte: cpu.map(|cpu| cpu / gigabytes),
        kilodatagrams_per_second: received / number("seconds")? / 1e3,
        round_trip_us,
        megabytes,
    })
}

/// The mean time of a question and its answer, after as many to warm up.
fn round_trip(started: &Started, count: u32) -> Result<f64> {
    let address: std::net::IpAddr = started.server_address.parse()?;
    let listener = started.server.enter(|| TcpListener::bind(SocketAddr::new(address, 0)))??;
    let at = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; SMALL];
        while stream.read_exact(&mut buffer).is_ok() {
            stream.write_all(&buffer)?;
        }
        Ok(())
    });
    let mut stream = started.client.enter(|| TcpStream::connect_timeout(&at, ROUND_TRIP_MAX))??;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ROUND_TRIP_MAX))?;
    let mut turn = || -> Result<()> {
        let mut buffer = [7; SMALL];
        stream.write_all(&buffer)?;
        Ok(stream.read_exact(&mut buffer)?)
    };
    (0..count / 10).try_for_each(|_| turn())?;
    let begun = Instant::now();
    (0..count).try_for_each(|_| turn())?;
    let mean = begun.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    drop(stream);
    echo.join().map_err(|_panic| anyhow::anyhow!("the echo panicked"))??;
    Ok(mean)
}

/// What these processes have used so far.
fn cpu_seconds(pids: &[u32]) -> Option<f64> {
    let ticks = pids.iter().map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold spaces.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(field(11)? + field(12)?)
    });
    let sum = ticks.sum::<Option<f64>>()?;
    (!pids.is_empty()).then_some(sum / TICKS_PER_SECOND)
}

/// The mean of what these processes hold.
fn memory(pids: &[u32]) -> Option<f64> {
    let kilobytes = pids.iter().map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    });
    let sum = kilobytes.sum::<Option<f64>>()?;
    (!pids.is_empty()).then(|| sum / pids.len() as f64 / 1024.0)
}
