//! A small bench for the data plane: network namespaces of the test's own, without names, so that nothing is left of
//! them when the test ends, however it ends.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mesh_crypto::{DirectionKey, Suite};
use mesh_dataplane::engine::{LinkPlan, ReceivePlan, SendPlan};
use mesh_dataplane::{Config, Dataplane, Report, StartError, Uplink};
use mesh_wire::{PeerId, ReceiverIndex};
use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

/// Longest that anything in a test may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Name of the TAP interface in each namespace.
pub(crate) const TAP: &str = "mesh0-tap";

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, and a thread in it that does what it is told.
pub(crate) struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    path: String,
}

impl Namespace {
    /// A new one, with loopback up. Needs root.
    pub(crate) fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: a new network and mount namespace for this thread alone; file descriptors stay shared.
            let entered = unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) };
            entered.expect("these tests make network namespaces, and so need root");
            tell.send(gettid()).expect("the creator waits");
            todo.into_iter().for_each(|job| job());
        });
        let tid = told.recv().expect("these tests need root");
        let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), tid.as_raw_nonzero());
        let namespace = Self { jobs: Some(jobs), thread: Some(thread), path };
        namespace.sh("mount --make-rprivate /; ip link set lo up");
        namespace
    }

    /// Runs `job` in the namespace and returns what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = Box::new(move || drop(tell.send(job())));
        self.jobs.as_ref().unwrap().send(job).expect("the thread lives as long as the namespace");
        told.recv().expect("the job does not panic")
    }

    /// Runs a shell command, which must succeed.
    pub(crate) fn sh(&self, command: &str) -> String {
        let output = self.try_sh(command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell command.
    pub(crate) fn try_sh(&self, command: &str) -> Output {
        let command = command.to_owned();
        self.run(move || Command::new("sh").args(["-ec", &command]).output().unwrap())
    }

    /// Joins this namespace's interface `name` with `other`'s `other_name`.
    pub(crate) fn cable(&self, name: &str, other: &Self, other_name: &str) {
        self.sh(&format!("ip link add {name} type veth peer name {other_name} netns {}", other.path));
        self.sh(&format!("ip link set {name} up"));
        other.sh(&format!("ip link set {other_name} up"));
    }

    /// Starts a data plane in the namespace; its reports come out of the receiver.
    pub(crate) fn dataplane(
        &self,
        workers: usize,
        mtu: u32,
    ) -> Result<(Dataplane, Receiver<Report>), StartError> {
        let config = Config {
            uplink: Uplink::Tap(TAP.to_owned()),
            listen: None,
            port: 6783,
            workers,
            mtu,
            node_local: Vec::new(),
        };
        let (tell, told): (SyncSender<Report>, _) = mpsc::sync_channel(1024);
        let dataplane =
            self.run(move || Dataplane::start(config, move |report| tell.try_send(report).is_ok()))?;
        Ok((dataplane, told))
    }

    /// Makes a bridge with the data plane's TAP interface and a container at `address` in it.
    pub(crate) fn bridge_with_container(&self, address: &str, mtu: u32) -> Self {
        self.sh(&format!(
            "ip link add mesh0 type bridge; ip link set {TAP} master mesh0 up; ip link set mesh0 up"
        ));
        let container = Self::new();
        container.cable("ethmesh", self, "mv0");
        self.sh(&format!("ip link set mv0 mtu {mtu}; ip link set mv0 master mesh0"));
        container.sh(&format!("ip link set ethmesh mtu {mtu}; ip addr add {address} dev ethmesh nodad"));
        container
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs.take();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// Calls `look` until it gives something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The peer with this number.
pub(crate) fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; PeerId::LEN])
}

/// How a link between two peers is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    Sealed(Suite),
    Clear,
}

/// The name that `to` gave the session with `from`.
pub(crate) fn index(from: u8, to: u8) -> ReceiverIndex {
    ReceiverIndex(u32::from_be_bytes([0, 77, from, to]))
}

impl Keys {
    /// The key for packets `from` one peer `to` another.
    pub(crate) fn direction(self, from: u8, to: u8) -> DirectionKey {
        match self {
            Self::Sealed(suite) => {
                let mut key = [9; 32];
                [key[0], key[1]] = [from, to];
                DirectionKey::Sealed { suite, key }
            }
            Self::Clear => DirectionKey::Clear { cookie: [from, to, 3, 4, 5, 6, 7, 8] },
        }
    }

    /// `me`'s link to `other` at `remote`.
    pub(crate) fn link(self, me: u8, other: u8, remote: SocketAddr) -> LinkPlan {
        let receive = ReceivePlan { epoch: 0, index: index(other, me), key: self.direction(other, me) };
        let send = SendPlan { epoch: 0, index: index(me, other), key: self.direction(me, other) };
        LinkPlan {
            peer: peer(other),
            remote,
            candidates: Vec::new(),
            roams: true,
            in_doubt: false,
            receive: vec![receive],
            send: Some(send),
        }
    }
}
