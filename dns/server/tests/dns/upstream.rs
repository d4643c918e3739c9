//! An upstream name server that behaves as a test wants: well, slowly, falsely, or not at all.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};

use crate::fixture::{read_frame, write_frame};

/// How a query came to the upstream server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Udp,
    Tcp,
}

/// A query as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) way: Way,
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// A server on loopback addresses, at UDP and TCP. It ends when it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a server sends for a query: any number of messages.
type Behaviour = dyn Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync;

/// How often a server looks whether it shall end.
const POLL: Duration = Duration::from_millis(20);

impl Upstream {
    /// One that does as `behave` says, but for questions that test whether it asks in turn: it does not hear those.
    pub(crate) fn start(behave: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::hearing_all(
            move |seen| if name_of(&seen.bytes).ends_with(".test.") { Vec::new() } else { behave(seen) },
        )
    }

    /// One that does as `behave` says, with all that it hears.
    pub(crate) fn hearing_all(behave: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(POLL)).unwrap();
        let (seen, stop) = (Arc::default(), Arc::default());
        let behave: Arc<Behaviour> = Arc::new(behave);
        let threads = vec![
            std::thread::spawn({
                let (behave, seen, stop) = (behave.clone(), Arc::clone(&seen), Arc::clone(&stop));
                move || serve_udp(&udp, &*behave, &seen, &stop)
            }),
            std::thread::spawn({
                let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
                move || serve_tcp(&tcp, &*behave, &seen, &stop)
            }),
        ];
        Self { address, seen, stop, threads }
    }

    /// One that answers every question about addresses with `address`.
    pub(crate) fn answering(address: Ipv4Addr) -> Self {
        Self::start(move |seen| vec![answer(&seen.bytes, address)])
    }

    /// One that never answers.
    pub(crate) fn silent() -> Self {
        Self::start(|_| Vec::new())
    }

    /// The queries that came about names in `domain`, such as `example.com.`.
    pub(crate) fn seen(&self, domain: &str) -> Vec<Seen> {
        let all = self.seen.lock().unwrap().clone();
        all.into_iter().filter(|seen| name_of(&seen.bytes).ends_with(domain)).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the server has been told already, and a second one would hide it.
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

/// The name that a query asks about, in lower case.
pub(crate) fn name_of(query: &[u8]) -> String {
    Message::from_vec(query).unwrap().queries[0].name().to_string().to_lowercase()
}

/// The answer of an honest server that knows one address, to be kept for a minute.
pub(crate) fn answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut message = Message::from_vec(query).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 60, RData::A(A(address))));
    message.to_vec().unwrap()
}

fn serve_udp(socket: &UdpSocket, behave: &Behaviour, all: &Mutex<Vec<Seen>>, stop: &AtomicBool) {
    let mut buffer = [0; 65_535];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let seen = Seen { way: Way::Udp, from, bytes: buffer[..len].to_vec() };
        all.lock().unwrap().push(seen.clone());
        for message in behave(&seen) {
            socket.send_to(&message, from).unwrap();
        }
    }
}

fn serve_tcp(listener: &TcpListener, behave: &Behaviour, all: &Mutex<Vec<Seen>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let (mut stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(POLL);
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let Some(bytes) = read_frame(&mut stream) else { continue };
        let seen = Seen { way: Way::Tcp, from, bytes };
        all.lock().unwrap().push(seen.clone());
        for message in behave(&seen) {
            write_frame(&mut stream, &message);
        }
    }
}
