//! A TCP server that sends back what it gets, and a client that checks it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::wait::{OffSignal, OnSwitch, on_switch, poll_readable};

/// How long one read or write of either side may take.
const STEP_DEADLINE: Duration = Duration::from_secs(5);

/// What the server reads at once, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// A running server, for IPv4 and IPv6; it serves one connection after the other. It ends when it is
/// dropped.
#[derive(Debug)]
#[must_use = "the server ends when it is dropped"]
pub struct EchoServer {
    thread: Option<JoinHandle<()>>,
    on: Option<OnSwitch>,
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        drop(self.on.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("lab: the thread of an echo server panicked");
        }
    }
}

impl Namespace {
    /// Starts a server in here. It listens when this returns.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn echo_server(&self, port: u16) -> Result<EchoServer> {
        let listener = self.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        let listener =
            listener.with_context(|| format!("cannot listen at port {port} in {}", self.label()))?;
        listener.set_nonblocking(true)?;
        let (on, off) = on_switch()?;
        let thread = std::thread::Builder::new().name("lab-echo".to_owned());
        let thread = thread.spawn(move || serve(&listener, &off))?;
        Ok(EchoServer { thread: Some(thread), on: Some(on) })
    }

    /// Connects to a server from here, sends the payload, and wants it back unchanged.
    ///
    /// # Errors
    /// When the connection fails, stalls for five seconds, or gives back something else.
    pub fn echo(&self, server: SocketAddr, payload: &[u8]) -> Result<()> {
        let exchange = || -> Result<()> {
            let stream = TcpStream::connect_timeout(&server, STEP_DEADLINE)?;
            limit(&stream)?;
            let mut answer = vec![0; payload.len()];
            // Both directions at once, as a large payload does not fit the buffers on the way.
            std::thread::scope(|scope| -> Result<()> {
                let writer = scope.spawn(|| (&stream).write_all(payload));
                (&stream).read_exact(&mut answer)?;
                Ok(writer.join().expect("writing to a socket does not panic")?)
            })?;
            ensure!(answer == payload, "the answer differs from what was sent");
            Ok(())
        };
        self.enter(exchange)?.with_context(|| format!("no echo from {server} to {}", self.label()))
    }
}

fn serve(listener: &TcpListener, off: &OffSignal) {
    loop {
        match poll_readable([off.as_fd(), listener.as_fd()], None) {
            Ok([false, _]) => {}
            Ok([true, _]) | Err(_) => return,
        }
        if let Ok((stream, _)) = listener.accept() {
            // The client sees what becomes of its connection and fails the test if it must.
            send_back(&stream, off).ok();
        }
    }
}

fn send_back(mut stream: &TcpStream, off: &OffSignal) -> Result<()> {
    stream.set_nonblocking(false)?;
    limit(stream)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let [over, _] = poll_readable([off.as_fd(), stream.as_fd()], Some(STEP_DEADLINE))?;
        if over {
            return Ok(());
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => stream.write_all(&chunk[..length])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn limit(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(STEP_DEADLINE))?;
    stream.set_write_timeout(Some(STEP_DEADLINE))?;
    Ok(())
}
