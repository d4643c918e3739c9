//! A server with some names, and clients that speak to it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use mesh_dns::{Config, Listen, Rates, Rng, Server, Upstream};
use mesh_names::{Entry, Names, Order, Zone};
use mesh_wire::{BootCount, PeerId};

/// No answer takes longer, whatever becomes of upstream servers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) const NSID: &[u8] = b"host-1";

/// A server and where it is.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
}

impl Fixture {
    /// A server without upstream servers.
    pub(crate) fn alone() -> Self {
        Self::with_upstream(Upstream::Servers(Vec::new()))
    }

    /// A server that asks `servers`.
    pub(crate) fn asking(servers: &[SocketAddr]) -> Self {
        Self::with_upstream(Upstream::Servers(servers.to_vec()))
    }

    pub(crate) fn with_upstream(upstream: Upstream) -> Self {
        Self::start(config(upstream))
    }

    pub(crate) fn start(config: Config) -> Self {
        let server = Server::start(config, Arc::new(ArcSwap::new(names().snapshot()))).unwrap();
        let address = server.addresses()[0];
        Self { server, address }
    }

    /// The answer to the question about `name`, over UDP.
    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&query(name, kind))
    }

    /// The answer to `message`, over UDP.
    pub(crate) fn send(&self, message: &Message) -> Message {
        Message::from_vec(&self.exchange(&message.to_vec().unwrap()).expect("an answer")).unwrap()
    }

    /// What comes back for `bytes`, over UDP, if something does.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let client = client(1);
        client.send_to(bytes, self.address).unwrap();
        receive(&client)
    }

    /// A connection from 127.0.0.`last`.
    pub(crate) fn connect_from(&self, last: u8) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The answer to `message`, over TCP.
    pub(crate) fn send_tcp(&self, message: &Message) -> Message {
        let mut stream = self.connect_from(1);
        write_frame(&mut stream, &message.to_vec().unwrap());
        Message::from_vec(&read_frame(&mut stream).expect("an answer")).unwrap()
    }

    /// Asserts that the server still answers.
    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        let answer = self.ask("web.mesh.internal.", RecordType::A);
        assert_eq!(addresses(&answer), ["10.32.0.1"]);
    }
}

/// The settings of a server on a loopback address that serves everybody there.
pub(crate) fn config(upstream: Upstream) -> Config {
    Config {
        listen: vec![Listen::Address(SocketAddr::from(([127, 0, 0, 1], 0)))],
        clients: vec!["127.0.0.0/8".parse().unwrap()],
        upstream,
        private: vec!["10.32.0.0/12".parse().unwrap()],
        rates: Rates::default(),
        nsid: NSID.to_vec(),
        rng: Rng::from_seed([7; 32]),
    }
}

/// Names of each sort.
fn names() -> Names {
    let zone = Zone {
        domain: "mesh.internal".parse().unwrap(),
        ranges: vec!["10.32.0.0/12".parse().unwrap()],
        ttl: 1,
        negative_ttl: 2,
        servers: vec!["169.254.32.53".parse().unwrap()],
        order: Order::Shuffled,
    };
    let mut names = Names::new(PeerId::from_bytes([1; 16]), BootCount(1), zone).unwrap();
    let mut add = |name: &str, address: IpAddr, port| {
        names.add(Entry::new(name, address, "c".parse().unwrap(), port).unwrap()).unwrap();
    };
    add("web.mesh.internal", "10.32.0.1".parse().unwrap(), Some(8080));
    add("both.mesh.internal", "10.32.0.2".parse().unwrap(), None);
    add("both.mesh.internal", "fd00:12::2".parse().unwrap(), None);
    add("a.deep.name.mesh.internal", "10.32.0.3".parse().unwrap(), None);
    for last in 0..50 {
        add("many.mesh.internal", Ipv4Addr::new(10, 33, 0, last).into(), Some(9000));
        add("many.mesh.internal", Ipv6Addr::new(0xfd00, 0x12, 0, 0, 0, 0, 0, last.into()).into(), None);
    }
    names
}

/// A query with recursion desired and without EDNS, as glibc sends it.
pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The same with EDNS.
pub(crate) fn edns_query(name: &str, kind: RecordType, payload: u16) -> Message {
    let mut message = query(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.edns = Some(edns);
    message
}

/// A socket at 127.0.0.`last` that waits as long as an answer may take.
pub(crate) fn client(last: u8) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next datagram, if one comes in time.
pub(crate) fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 65_535];
    let len = socket.recv(&mut buffer).ok()?;
    Some(buffer[..len].to_vec())
}

pub(crate) fn write_frame(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&u16::try_from(message.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(message).unwrap();
}

/// The next message, or none if the connection ends.
pub(crate) fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// The addresses of an answer, sorted.
pub(crate) fn addresses(message: &Message) -> Vec<String> {
    let data = message.answers.iter().map(|record| &record.data);
    let mut found: Vec<String> = data.filter_map(RData::ip_addr).map(|address| address.to_string()).collect();
    found.sort();
    found
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}
