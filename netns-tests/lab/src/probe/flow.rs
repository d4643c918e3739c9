//! A TCP connection on which two ends talk without a pause, and what it went through.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::namespace::Namespace;
use crate::site::lock;
use crate::wait::{OffSignal, OnSwitch, on_switch, poll_readable};

/// How long the connection may take to come up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// The pause between an answer and the next question.
const QUESTION_EVERY: Duration = Duration::from_millis(20);

/// A conversation over one TCP connection: numbers go to the other end and come back. It lasts until it is
/// [finished](Self::finish) or dropped, however long the network stands still meanwhile.
#[derive(Debug)]
#[must_use = "the conversation ends when this is dropped"]
pub struct Flow {
    client: Option<JoinHandle<Result<()>>>,
    server: Option<JoinHandle<()>>,
    switches: Vec<OnSwitch>,
    report: Arc<Mutex<FlowReport>>,
}

/// What became of a conversation so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowReport {
    /// Numbers that came back.
    pub answers: u64,
    /// The longest time from a question to its answer.
    pub longest_wait: Duration,
}

impl Flow {
    /// What became of it so far.
    #[must_use]
    pub fn report(&self) -> FlowReport {
        *lock(&self.report)
    }

    /// Ends the conversation.
    ///
    /// # Errors
    /// When the connection broke before, or something else came back than what was sent.
    pub fn finish(mut self) -> Result<FlowReport> {
        self.switches.clear();
        let Some(client) = self.client.take() else { bail!("the conversation was finished before") };
        client.join().map_err(|_panic| anyhow!("the thread of a conversation panicked"))??;
        Ok(self.report())
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.switches.clear();
        // A conversation that nobody finishes may have broken.
        let client = self.client.take().map(|thread| thread.join().is_ok());
        let server = self.server.take().map(|thread| thread.join().is_ok());
        if client == Some(false) || server == Some(false) {
            eprintln!("lab: a thread of a conversation panicked");
        }
    }
}

impl Namespace {
    /// Begins a conversation with an address of `other`, at whose port a server is started.
    ///
    /// # Errors
    /// When the port is taken or the connection does not come up.
    pub fn converse(&self, other: &Self, address: SocketAddr) -> Result<Flow> {
        let listener = other.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port())))?;
        let listener = listener.with_context(|| format!("cannot listen in {}", other.label()))?;
        let connected = self.enter(|| TcpStream::connect_timeout(&address, CONNECT_DEADLINE))?;
        let stream =
            connected.with_context(|| format!("cannot connect from {} to {address}", self.label()))?;
        stream.set_nodelay(true)?;
        let (accepted, _) = listener.accept()?;
        let (server_on, server_off) = on_switch()?;
        let (client_on, client_off) = on_switch()?;
        let report = Arc::new(Mutex::new(FlowReport::default()));
        let written = Arc::clone(&report);
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let server = named("lab-flow-server").spawn(move || answer(accepted, &server_off))?;
        let client = named("lab-flow").spawn(move || ask(stream, &client_off, &written))?;
        let switches = vec![client_on, server_on];
        Ok(Flow { client: Some(client), server: Some(server), switches, report })
    }
}

/// The client sees what becomes of the connection, so that this end is silent about it.
fn answer(mut stream: TcpStream, off: &OffSignal) {
    while let Ok(Some(question)) = next_number(&mut stream, off) {
        if stream.write_all(&question).is_err() {
            return;
        }
    }
}

fn ask(mut stream: TcpStream, off: &OffSignal, report: &Mutex<FlowReport>) -> Result<()> {
    for number in 0_u64.. {
        let asked = Instant::now();
        stream.write_all(&number.to_be_bytes()).context("the connection of a conversation broke")?;
        let Some(came) = next_number(&mut stream, off)? else { return Ok(()) };
        ensure!(came == number.to_be_bytes(), "{came:?} came back in place of {number}");
        {
            let mut report = lock(report);
            report.answers += 1;
            report.longest_wait = report.longest_wait.max(asked.elapsed());
        }
        let [over] = poll_readable([off.as_fd()], Some(QUESTION_EVERY))?;
        if over {
            return Ok(());
        }
    }
    Ok(())
}

/// The next number, or nothing when the conversation is to end.
fn next_number(stream: &mut TcpStream, off: &OffSignal) -> Result<Option<[u8; 8]>> {
    let (mut number, mut filled) = ([0; 8], 0);
    while filled < number.len() {
        let [over, readable] = poll_readable([off.as_fd(), stream.as_fd()], None)?;
        if over {
            return Ok(None);
        }
        if !readable {
            continue;
        }
        match stream.read(&mut number[filled..]).context("the connection of a conversation broke")? {
            0 => bail!("the other end of a conversation has closed it"),
            length => filled += length,
        }
    }
    Ok(Some(number))
}
