//! Hosts and containers for tests: network namespaces that nothing but the test's own file descriptors keep alive.
//!
//! Nothing is named or mounted, so nothing is left over, even when a test is killed. All commands run in the namespace
//! of the thread that starts them.

#![allow(dead_code, reason = "each user of this module needs another part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use mesh_hostnet::{AttachSpec, Bridge, BridgeName, HostError, InterfaceName, Netns, ensure_bridge};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;

/// How long to wait for what the kernel does in its own time.
const PATIENCE: Duration = Duration::from_secs(5);

/// A new network namespace.
pub(crate) fn new_netns() -> Netns {
    let make = || {
        // SAFETY: without `FILES`, nothing is unshared that another thread could notice.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("these tests need root");
        Netns::current().unwrap()
    };
    thread::spawn(make).join().unwrap()
}

/// Runs `test` in a new namespace, which plays the host.
pub(crate) fn on_a_host<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    new_netns().run(test).unwrap()
}

/// A container's namespace, with `lo` up as a runtime leaves it.
pub(crate) fn new_container() -> Netns {
    let container = new_netns();
    container.run(|| ip("link set lo up")).unwrap();
    container
}

pub(crate) fn bridge_name() -> BridgeName {
    "mesh0".parse().unwrap()
}

pub(crate) fn ifname() -> InterfaceName {
    "ethmesh".parse().unwrap()
}

pub(crate) fn bridge() -> Bridge {
    ensure_bridge(&bridge_name(), 1370).unwrap()
}

pub(crate) fn spec(addresses: &[&str]) -> AttachSpec {
    AttachSpec {
        ifname: ifname(),
        mac: None,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        mtu: 1370,
        multicast_route: true,
        node_local: None,
    }
}

/// Runs a command with arguments that contain no spaces.
pub(crate) fn run(command: &str) -> Output {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap()
}

/// Runs `ip` and returns what it prints.
pub(crate) fn ip(arguments: &str) -> String {
    let output = run(&format!("ip {arguments}"));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn ip_json(arguments: &str) -> Value {
    let text = ip(&format!("-j {arguments}"));
    if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).unwrap() }
}

/// The details of one interface.
pub(crate) fn link(name: &str) -> Value {
    ip_json(&format!("-d link show dev {name}"))[0].clone()
}

pub(crate) fn has_link(name: &str) -> bool {
    run(&format!("ip link show dev {name}")).status.success()
}

/// The addresses of one interface that are valid beyond its link.
pub(crate) fn addresses(name: &str) -> Vec<String> {
    let shown = ip_json(&format!("address show dev {name} scope global"));
    let infos = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let mut texts: Vec<_> = infos
        .iter()
        .filter(|info| info["local"].is_string())
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect();
    texts.sort_unstable();
    texts
}

pub(crate) fn sysctl(path: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap().trim().to_owned()
}

pub(crate) fn set_sysctl(path: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}

/// One ping that must be answered.
pub(crate) fn ping(from: &Netns, to: &str) {
    let output = from.run(|| run(&format!("ping -n -c 1 -W 2 {to}"))).unwrap();
    assert!(output.status.success(), "no answer from {to}: {}", String::from_utf8_lossy(&output.stdout));
}

/// All that a change of the network could leave behind in the calling thread's namespace.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    links: Value,
    addresses: Value,
    routes: [Value; 2],
    sysctls: BTreeMap<String, String>,
}

impl Snapshot {
    pub(crate) fn take() -> Self {
        let mut sysctls = BTreeMap::new();
        for directory in ["ipv4", "ipv6", "bridge"] {
            collect(&Path::new("/proc/sys/net").join(directory), &mut sysctls);
        }
        Self {
            links: lasting(ip_json("-d link")),
            addresses: lasting(ip_json("address")),
            routes: [ip_json("-4 route show table all"), ip_json("-6 route show table all")],
            sysctls,
        }
    }

    /// Waits until everything is as it was. Some of it the kernel restores in its own time.
    pub(crate) fn assert_restored(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Self::take();
            if now == *self {
                return;
            }
            if Instant::now() >= deadline {
                assert_eq!(now.links, self.links);
                assert_eq!(now.addresses, self.addresses);
                assert_eq!(now.routes, self.routes);
                assert_eq!(now.sysctls, self.sysctls);
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The error of a call that must fail.
pub(crate) fn error_of<T>(result: Result<T, HostError>) -> HostError {
    match result {
        Ok(_) => panic!("this must fail"),
        Err(error) => error,
    }
}

/// What the kernel changes by itself is no trace: a bridge's timers, the offloads that it computes from the ports that it
/// has or had, the carrier, which it follows in its own time, and the lifetimes of addresses.
fn lasting(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let passes = |item: &Value| item == "NO-CARRIER" || item == "LOWER_UP";
            items.into_iter().filter(|item| !passes(item)).map(lasting).collect()
        }
        Value::Object(fields) => {
            let passes = |name: &str| {
                name.ends_with("_timer")
                    || name.ends_with("_life_time")
                    || name.starts_with("tso_max_")
                    || name == "operstate"
            };
            let kept = fields.into_iter().filter(|(name, _)| !passes(name));
            Value::Object(kept.map(|(name, field)| (name, lasting(field))).collect())
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

fn collect(directory: &Path, into: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            let value = fs::read_to_string(&path).unwrap_or_else(|error| error.to_string());
            into.insert(path.display().to_string(), value);
        }
    }
}
