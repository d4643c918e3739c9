//! Many routers in one process on a real network: each [`mesh_node::Node`] has an address of its own, with real TCP connections
//! and real packets between it and whoever else is there. So a whole router can be watched among a thousand peers on a machine
//! that has no room for a thousand whole ones.
//!
//! Owns sockets, and the waiting for them and for the nodes' timers, in one thread. What is missing of a router is what lies
//! behind its data plane: frames are not carried, there is no bridge, no container and no file. Records are opened once for all
//! nodes of the process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_crypto::{Identity, Rng};
use mesh_names::Names;
use mesh_node::{Config, ConnectionId, DialFailure, Input, Node, Output, Plan};
use mesh_topology::{Routes, Target};
use mesh_wire::{BootCount, Moment};
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::network::PORT;
use crate::scale::Memo;
use crate::scenario::CONNECTION_LIMIT;
use crate::sleeve::{Arrival, Sleeve};

/// One more member starts after this time, so that a newcomer finds those before it at work.
const START_EVERY: Duration = Duration::from_millis(50);

/// Longest time that is waited for sockets, so that whoever calls sees progress.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Largest piece that is read at once, in bytes; longest datagram that is taken.
const READ_LEN: usize = 64 * 1024;

/// Connections of one member that may wait to be accepted.
const BACKLOG: i32 = 256;

/// Datagrams that are taken from a socket before others have their turn.
const BATCH: usize = 64;

/// What a socket is for, in the number that the kernel gives back when it is ready.
const LISTENER: u64 = 0;
const DATAGRAMS: u64 = 1 << 32;
const STREAM: u64 = 2 << 32;

/// Routers at addresses that follow each other.
pub struct Crowd {
    epoll: OwnedFd,
    began: Instant,
    members: Vec<Member>,
    /// By number; a number that is free again is given to the next.
    streams: Vec<Option<Stream>>,
    wakes: BTreeSet<(Moment, usize)>,
    /// Those who have not started yet, the next one last.
    waiting: Vec<Newcomer>,
    opener: Memo,
    rng: Rng,
}

struct Newcomer {
    ip: Ipv4Addr,
    targets: Vec<Target>,
}

struct Member {
    ip: Ipv4Addr,
    node: Node,
    sleeve: Option<Sleeve>,
    udp: UdpSocket,
    listener: TcpListener,
    streams: BTreeMap<ConnectionId, usize>,
    accepted: u64,
    wake: Moment,
}

struct Stream {
    socket: TcpStream,
    member: usize,
    id: ConnectionId,
    is_open: bool,
    /// Closed by the node: it goes when what was written has left.
    is_ending: bool,
    out: Vec<u8>,
}

impl Crowd {
    /// `count` members at `first` and the addresses after it, which must be this machine's. The first one dials `peers`; all
    /// others dial the first, and the one before them.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn new(first: Ipv4Addr, count: usize, peers: &[SocketAddr]) -> io::Result<Self> {
        let at = |number: usize| Ipv4Addr::from(u32::from(first) + u32::try_from(number).unwrap_or(0));
        let target = |ip: Ipv4Addr, port| Target::Named { host: ip.to_string(), port };
        let newcomer = |number: usize| Newcomer {
            ip: at(number),
            targets: match number {
                0 => peers
                    .iter()
                    .map(|peer| Target::Named { host: peer.ip().to_string(), port: peer.port() })
                    .collect(),
                _ => vec![target(first, PORT), target(at(number - 1), PORT)],
            },
        };
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            began: Instant::now(),
            members: Vec::new(),
            streams: Vec::new(),
            wakes: BTreeSet::new(),
            waiting: (0..count).rev().map(newcomer).collect(),
            opener: Memo::default(),
            rng: Rng::from_seed([6; 32]),
        })
    }

    /// Runs for a moment. Call it again and again.
    ///
    /// # Errors
    /// When the kernel refuses a socket to a member that starts, or does not say which ones are ready.
    pub fn turn(&mut self) -> io::Result<()> {
        let now = self.now();
        let due = START_EVERY * u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        if now.since_origin() >= due
            && let Some(newcomer) = self.waiting.pop()
        {
            self.start(newcomer)?;
        }
        let next = self.wakes.first().map_or(LOOK_EVERY, |(at, _)| at.since(self.now()));
        let patience = if self.waiting.is_empty() { LOOK_EVERY } else { START_EVERY };
        let wait = Timespec::try_from(next.min(patience)).ok();
        let mut ready = Vec::with_capacity(1024);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in ready {
            let token = event.data.u64();
            let number = (token & u64::from(u32::MAX)) as usize;
            match token - number as u64 {
                LISTENER => self.accept(number),
                DATAGRAMS => self.datagrams(number),
                _stream => self.stream_ready(number),
            }
        }
        let now = self.now();
        let due: Vec<_> =
            self.wakes.iter().take_while(|(at, _)| *at <= now).map(|(_, index)| *index).collect();
        due.into_iter().for_each(|index| self.wake(index));
        Ok(())
    }

    /// How many have started, and how many peers the one that knows fewest knows.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        let least = self.members.iter().map(|member| member.node.peer_count()).min();
        (self.members.len(), least.unwrap_or(0))
    }

    fn now(&self) -> Moment {
        Moment::from_origin(self.began.elapsed())
    }

    fn start(&mut self, Newcomer { ip, targets }: Newcomer) -> io::Result<()> {
        let (index, now) = (self.members.len(), self.now());
        let identity = Identity::generate(&mut self.rng);
        let names = Names::new(identity.peer_id(), BootCount(1), crate::names::zone());
        let config = Config {
            identity,
            boot: BootCount(1),
            nickname: format!("m{index}").parse().expect("a letter and digits"),
            port: PORT,
            nonce: self.rng.u64(),
            secrets: Vec::new(),
            network: None,
            allowed: None,
            trusted_subnets: Vec::new(),
            ipam: None,
            names: names.expect("the domain is short"),
            connection_limit: CONNECTION_LIMIT,
            rekey_after: mesh_node::limits::REKEY_AFTER,
            aes_preferred: true,
            discovery: true,
            targets,
        };
        let node = Node::with_opener(config, Box::new(self.opener.clone()), self.rng.fork(), now);
        let udp = UdpSocket::bind((ip, PORT))?;
        let listener = listen((ip, PORT).into())?;
        udp.set_nonblocking(true)?;
        self.watch(&udp, DATAGRAMS + index as u64)?;
        self.watch(&listener, LISTENER + index as u64)?;
        let (streams, wake) = (BTreeMap::new(), now);
        self.members.push(Member { ip, node, sleeve: None, udp, listener, streams, accepted: 0, wake });
        self.wakes.insert((wake, index));
        Ok(())
    }

    fn watch(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)?)
    }

    /// Runs what is due at a member: its timers and its probes.
    fn wake(&mut self, index: usize) {
        let now = self.now();
        let member = &mut self.members[index];
        self.wakes.remove(&(member.wake, index));
        let mut inputs = VecDeque::new();
        inputs.extend(member.node.poll_timeout().filter(|at| *at <= now).map(|_due| Input::Timeout));
        if let Some(sleeve) = &mut member.sleeve
            && sleeve.poll_timeout().is_some_and(|at| at <= now)
        {
            let (probes, reports) = sleeve.handle_timeout(now);
            for (to, probe) in probes {
                // Lost, as any packet may be.
                member.udp.send_to(&probe, to).ok();
            }
            inputs.extend(reports.into_iter().map(Input::Report));
        }
        self.step(index, inputs);
    }

    /// Some inputs, and all that follows.
    fn step(&mut self, index: usize, mut inputs: VecDeque<Input>) {
        let now = self.now();
        while let Some(input) = inputs.pop_front() {
            self.members[index].node.handle(input, now);
            while let Some(output) = self.members[index].node.poll_output() {
                self.output(index, output, &mut inputs, now);
            }
        }
        let member = &mut self.members[index];
        self.wakes.remove(&(member.wake, index));
        let probing = member.sleeve.as_ref().and_then(Sleeve::poll_timeout);
        if let Some(at) = member.node.poll_timeout().into_iter().chain(probing).min() {
            member.wake = at;
            self.wakes.insert((at, index));
        }
    }

    fn output(&mut self, index: usize, output: Output, inputs: &mut VecDeque<Input>, now: Moment) {
        match output {
            Output::Dial { id, target } => {
                if let Err(error) = self.dial(index, id, &target) {
                    let failure = DialFailure::System(error.kind());
                    inputs.push_back(Input::DialFailed { id, failure });
                }
            }
            Output::Write { id, bytes } => {
                if let Some(number) = self.members[index].streams.get(&id).copied()
                    && let Some(stream) = &mut self.streams[number]
                {
                    stream.out.extend(bytes);
                    self.flush(number);
                }
            }
            Output::Close { id } => {
                if let Some(number) = self.members[index].streams.remove(&id)
                    && let Some(stream) = &mut self.streams[number]
                {
                    stream.is_ending = true;
                    self.flush(number);
                }
            }
            Output::PlanChanged => {
                let member = &mut self.members[index];
                let (me, links) = (member.node.peer_id(), member.node.links());
                let plan = Plan { me, links, routes: Routes::default(), groups: Arc::default() };
                match &mut member.sleeve {
                    Some(sleeve) => sleeve.install(plan, now),
                    None => member.sleeve = Some(Sleeve::new(plan, now)),
                }
            }
            Output::MacsChanged | Output::Joined(_) | Output::Ipam(_) | Output::Event(_) => {}
        }
    }

    fn dial(&mut self, index: usize, id: ConnectionId, target: &Target) -> io::Result<()> {
        let to = match target {
            Target::Discovered { address, .. } => *address,
            Target::Named { host, port } => {
                SocketAddr::new(host.parse().map_err(|_name| ErrorKind::InvalidInput)?, *port)
            }
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddr::from((self.members[index].ip, 0)))?;
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.keep(Stream {
            socket: socket.into(),
            member: index,
            id,
            is_open: false,
            is_ending: false,
            out: Vec::new(),
        })?;
        Ok(())
    }

    /// Gives a stream a number.
    fn keep(&mut self, stream: Stream) -> io::Result<()> {
        let number = match self.streams.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.streams.push(None);
                self.streams.len() - 1
            }
        };
        stream.socket.set_nodelay(true)?;
        self.watch(&stream.socket, STREAM + number as u64)?;
        self.members[stream.member].streams.insert(stream.id, number);
        self.streams[number] = Some(stream);
        self.flush(number);
        Ok(())
    }

    fn accept(&mut self, index: usize) {
        while let Ok((socket, remote)) = self.members[index].listener.accept() {
            let member = &mut self.members[index];
            let id = ConnectionId::Accepted(member.accepted);
            member.accepted += 1;
            let local = SocketAddr::from((member.ip, PORT));
            let is_kept = socket.set_nonblocking(true).and_then(|()| {
                let (is_open, is_ending, out) = (true, false, Vec::new());
                self.keep(Stream { socket, member: index, id, is_open, is_ending, out })
            });
            if is_kept.is_ok() {
                self.step(index, [Input::Accepted { id, local, remote }].into());
            }
        }
    }

    fn datagrams(&mut self, index: usize) {
        let mut buffer = [0; 2048];
        let now = self.now();
        let mut reports = Vec::new();
        let member = &mut self.members[index];
        for _ in 0..BATCH {
            let Ok((len, from)) = member.udp.recv_from(&mut buffer) else { break };
            let Some(sleeve) = &mut member.sleeve else { continue };
            match sleeve.receive(from, &buffer[..len], now) {
                Arrival::Authentic(Some((to, answer))) => drop(member.udp.send_to(&answer, to)),
                Arrival::Authentic(None)
                | Arrival::Unknown
                | Arrival::Replayed
                | Arrival::Undecryptable(_) => {}
            }
            reports.extend(sleeve.reports(now));
        }
        self.step(index, reports.into_iter().map(Input::Report).collect());
    }

    fn stream_ready(&mut self, number: usize) {
        let Some(stream) = &mut self.streams[number] else { return };
        let (index, id) = (stream.member, stream.id);
        if !stream.is_open {
            let error = stream.socket.take_error();
            let failed = match (error, stream.socket.peer_addr(), stream.socket.local_addr()) {
                (Ok(None), Ok(remote), Ok(local)) => {
                    stream.is_open = true;
                    self.flush(number);
                    return self.step(index, [Input::Dialed { id, local, remote }].into());
                }
                (Ok(None), Err(_), _) => return,
                (Ok(Some(error)) | Err(error), ..) | (_, _, Err(error)) => error,
            };
            self.forget(number);
            let is_refused = failed.kind() == ErrorKind::ConnectionRefused;
            let failure = if is_refused { DialFailure::Refused } else { DialFailure::System(failed.kind()) };
            return self.step(index, [Input::DialFailed { id, failure }].into());
        }
        self.flush(number);
        let mut bytes = vec![0; READ_LEN];
        let Some(stream) = &mut self.streams[number] else { return };
        match stream.socket.read(&mut bytes) {
            Ok(len @ 1..) => {
                bytes.truncate(len);
                self.step(index, [Input::Received { id, bytes }].into());
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => {
                self.forget(number);
                self.step(index, [Input::Closed { id }].into());
            }
        }
    }

    /// Writes what waits, and asks to hear of room for the rest.
    fn flush(&mut self, number: usize) {
        let Some(stream) = &mut self.streams[number] else { return };
        if stream.is_open {
            match stream.socket.write(&stream.out) {
                Ok(written) => drop(stream.out.drain(..written)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                // The end that reads hears of it.
                Err(_) => stream.out.clear(),
            }
        }
        if stream.is_ending && (stream.out.is_empty() || !stream.is_open) {
            return self.forget(number);
        }
        let writes = if stream.is_open && stream.out.is_empty() {
            epoll::EventFlags::empty()
        } else {
            epoll::EventFlags::OUT
        };
        let data = epoll::EventData::new_u64(STREAM + number as u64);
        // A socket that the kernel no longer watches is broken, and found so by the next read.
        epoll::modify(&self.epoll, &stream.socket, data, epoll::EventFlags::IN | writes).ok();
    }

    /// Closes a stream.
    fn forget(&mut self, number: usize) {
        if let Some(stream) = self.streams[number].take() {
            self.members[stream.member].streams.remove(&stream.id);
        }
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
