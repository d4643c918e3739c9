//! Two data planes and what they allocate while frames cross: nothing, once all buffers have found their size.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test file uses its part of the bench")]
mod bench;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bench::{DEADLINE, Keys, Namespace, TAP, eventually, peer};
use mesh_crypto::Suite;
use mesh_dataplane::engine::{Direction, Path, Plan, Tree};
use mesh_dataplane::{Config, Dataplane, Uplink};
use rustix::net::sockopt::Ipv4PathMtuDiscovery;

/// The MTU of the containers, which is more than one datagram of the underlay takes: long frames go in parts.
const MTU: u32 = 4_000;

/// Bytes of each TCP stream.
const STREAM_LEN: usize = 4 << 20;

/// Datagrams of each length.
const DATAGRAMS: usize = 500;

/// The system's allocator, which counts what the threads of data planes ask for while it is told to.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is left to the system's allocator; what is added neither unwinds nor touches the memory in question.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTING.load(Ordering::Relaxed) && is_of_a_data_plane() {
            count();
        }
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; what `alloc` gave came from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn is_of_a_data_plane() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes 16 bytes at most, which `name` has.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"mesh-data-")
}

/// Whoever fails is told where it was first.
fn count() {
    if ALLOCATIONS.fetch_add(1, Ordering::Relaxed) > 0 {
        return;
    }
    // From here on this counts its own allocations too, and is not entered again.
    let trace = Backtrace::force_capture();
    if let Ok(mut first) = FIRST.try_lock() {
        *first = Some(trace);
    }
}

/// How often the threads of data planes allocate while `work` is done.
fn allocations_during(work: impl FnOnce()) -> u64 {
    ALLOCATIONS.store(0, Ordering::Relaxed);
    FIRST.lock().unwrap().take();
    IS_COUNTING.store(true, Ordering::Relaxed);
    work();
    IS_COUNTING.store(false, Ordering::Relaxed);
    ALLOCATIONS.load(Ordering::Relaxed)
}

struct Host {
    namespace: Namespace,
    container: Namespace,
    dataplane: Dataplane,
}

impl Host {
    /// A host 192.0.2.`number` with a container 10.9.0.`number` and fd00::`number`.
    fn new(number: u8) -> Self {
        let namespace = Namespace::new();
        // Its interfaces need say nothing of themselves: whoever is learnt takes memory.
        namespace.sh("for of in all default; do echo 1 > /proc/sys/net/ipv6/conf/$of/disable_ipv6; done");
        let config = Config {
            uplink: Uplink::Tap(TAP.to_owned()),
            listen: None,
            port: 6783,
            workers: 1,
            mtu: MTU,
            node_local: Vec::new(),
        };
        // What becomes of a report is the control plane's matter, and so is what it allocates for it.
        let dataplane = namespace.run(|| Dataplane::start(config, |_| true)).unwrap();
        let container = namespace.bridge_with_container(&format!("10.9.0.{number}/24"), MTU);
        namespace.sh(&format!("ip link set mesh0 mtu {MTU}; ip addr add 10.9.0.10{number}/24 dev mesh0"));
        container.sh(&format!("ip addr add fd00::{number}/64 dev ethmesh nodad"));
        Self { namespace, container, dataplane }
    }

    fn frames_out(&self) -> u64 {
        self.dataplane.counters().traffic(Path::Bridge, Direction::Out).frames
    }
}

/// Two hosts whose one link has this protection, with its path measured.
fn two_hosts(keys: Keys) -> [Host; 2] {
    let hosts = [1, 2].map(Host::new);
    hosts[0].namespace.cable("u0", &hosts[1].namespace, "u0");
    let tree = |parent: Option<u8>, children: &[u8]| Tree {
        parent: parent.map(peer),
        children: children.iter().copied().map(peer).collect(),
    };
    for (host, me, other) in [(&hosts[0], 1, 2), (&hosts[1], 2, 1)] {
        host.namespace.sh(&format!("ip addr add 192.0.2.{me}/24 dev u0"));
        let remote = SocketAddr::new([192, 0, 2, other].into(), 6783);
        host.dataplane.publish(Plan {
            me: peer(me),
            digest: 1,
            links: vec![keys.link(me, other, remote)],
            next_hop: [(peer(other), peer(other))].into(),
            trees: [(peer(me), tree(None, &[other])), (peer(other), tree(Some(other), &[]))].into(),
            groups: Arc::default(),
        });
    }
    for host in &hosts {
        eventually("the path is measured", || {
            let links = host.dataplane.links();
            links.iter().all(|link| link.is_alive && link.mtu.is_some()).then_some(())
        });
    }
    // The bridges do so in any case, for groups.
    hosts[0].namespace.sh("ping -q -c 1 -W 5 10.9.0.102");
    hosts
}

/// A stream of TCP from one container to the other: super-frames one way, acknowledgements the other.
fn stream(from: &Host, to: &Host, address: &str) {
    let at: SocketAddr = (address.parse::<IpAddr>().unwrap(), 5000).into();
    let listener = to.container.run(move || TcpListener::bind(at).unwrap());
    let received = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let mut stream = from.container.run(move || TcpStream::connect(at).unwrap());
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&vec![7; STREAM_LEN]).unwrap();
    drop(stream);
    assert_eq!(received.join().unwrap(), STREAM_LEN as u64);
}

/// Datagrams of this length, which go in parts where they are longer than the path; each second one waits for the one before.
fn datagrams(from: &Host, to: &Host, address: &str, len: usize) {
    let at: SocketAddr = (address.parse::<IpAddr>().unwrap(), 5001).into();
    let any: SocketAddr = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let receiver = to.container.run(move || UdpSocket::bind(at).unwrap());
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let sender = from.container.run(move || UdpSocket::bind(any).unwrap());
    // Parts are for frames that may be fragmented.
    rustix::net::sockopt::set_ip_mtu_discover(&sender, Ipv4PathMtuDiscovery::DONT).unwrap();
    let (contents, mut buffer) = (vec![7; len], vec![0; 1 << 16]);
    for _ in 0..DATAGRAMS / 2 {
        for _ in 0..2 {
            sender.send_to(&contents, at).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), len);
        }
    }
}

/// All kinds of frames, both ways.
fn traffic([a, b]: &[Host; 2]) {
    for (from, to, address, address_v6) in [(a, b, "10.9.0.2", "fd00::2"), (b, a, "10.9.0.1", "fd00::1")] {
        stream(from, to, address);
        stream(from, to, address_v6);
        datagrams(from, to, address, 18);
        datagrams(from, to, address_v6, 18);
        datagrams(from, to, address, 1_200);
        datagrams(from, to, address, 3_900);
    }
}

#[test]
fn frames_cross_without_an_allocation() {
    for keys in [Keys::Sealed(Suite::Aes256Gcm), Keys::Sealed(Suite::ChaCha20Poly1305), Keys::Clear] {
        let hosts = two_hosts(keys);
        // Buffers grow to what they need, neighbours and hardware addresses are found.
        traffic(&hosts);
        let before = hosts.each_ref().map(Host::frames_out);
        let allocations = allocations_during(|| traffic(&hosts));
        let frames: u64 = hosts.iter().zip(before).map(|(host, before)| host.frames_out() - before).sum();
        assert!(frames > 10_000, "{keys:?}: {frames} frames");
        let first = FIRST.lock().unwrap().take();
        assert_eq!(allocations, 0, "{keys:?}: for {frames} frames, first\n{}", first.unwrap());
    }
}
