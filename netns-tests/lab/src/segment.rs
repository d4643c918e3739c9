//! One switched network: a bridge in a namespace, with a port for each host.
//!
//! Owns cables, ports, addresses of the segment, and what is wrong with it at a time. The lab's switch is
//! one segment; each NAT router has another behind it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::capture::Capture;
use crate::chaos::{Chaos, ChaosCounts};
use crate::command::Cmd;
use crate::eventually::{eventually, secs};
use crate::faults::{Faults, Port};
use crate::namespace::Namespace;
use crate::packet;
use crate::rate::Rate;
use crate::site::lock;
use crate::wire::Wire;

/// The bridge's name.
pub(crate) const BRIDGE: &str = "switch";

/// Every host's interface to its segment.
pub(crate) const UNDERLAY: &str = "eth0";

/// The MTU of every cable, in bytes, until a test changes it.
const MTU: u16 = 1500;

/// How long a device may take to come up; the kernel looks at most once a second in the worst case.
const UP_DEADLINE: Duration = secs(5);

/// The number of the router of a segment that has one.
pub(crate) const ROUTER_NUMBER: u16 = 1;

/// How hosts of a segment reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Straight, over the bridge: a /24 and a /64.
    Straight,
    /// By IPv4 alone, and by the bridge's own address. Nobody asks for hardware addresses, which the kernel keeps for all
    /// namespaces in one table of 1,024 entries, and nothing goes to all ports.
    ByTheBridge,
}

impl Reach {
    /// Numbers that a segment gives to hosts, from 1; used for the port and for the first address. A bridge has 1,024 ports
    /// (`BR_MAX_PORTS` of the kernel's `net/bridge/br_private.h`).
    const fn number_max(self) -> u16 {
        match self {
            Self::Straight => 250,
            Self::ByTheBridge => 1_010,
        }
    }
}

/// The addresses of a segment: they end by a host's number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subnet {
    pub(crate) v4: [u8; 3],
    pub(crate) v6: [u16; 4],
    pub(crate) reach: Reach,
}

impl Subnet {
    pub(crate) fn ip(self, number: u16) -> Ipv4Addr {
        let [a, b, c] = self.v4;
        Ipv4Addr::from(u32::from_be_bytes([a, b, c, 0]) + u32::from(number))
    }

    pub(crate) fn ip6(self, number: u16) -> Ipv6Addr {
        let [a, b, c, d] = self.v6;
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, number)
    }

    /// `ip` commands that give a device the addresses of `number`.
    pub(crate) fn add_addresses(self, number: u16, device: &str) -> String {
        let (ip, ip6) = (self.ip(number), self.ip6(number));
        match self.reach {
            Reach::Straight => {
                format!("addr add {ip}/24 brd + dev {device}\naddr add {ip6}/64 dev {device} nodad\n")
            }
            Reach::ByTheBridge => format!("addr add {ip}/32 dev {device}\n"),
        }
    }

    /// The reverse of [`add_addresses`](Self::add_addresses).
    pub(crate) fn remove_addresses(self, number: u16, device: &str) -> String {
        let (ip, ip6) = (self.ip(number), self.ip6(number));
        match self.reach {
            Reach::Straight => {
                format!("addr del {ip}/24 dev {device}\naddr del {ip6}/64 dev {device}\n")
            }
            Reach::ByTheBridge => format!("addr del {ip}/32 dev {device}\n"),
        }
    }
}

/// The hardware address of `number`.
fn mac(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("02:6c:61:62:{high:02x}:{low:02x}")
}

/// A bridge with its ports.
#[derive(Debug)]
pub(crate) struct Segment {
    namespace: Namespace,
    pub(crate) subnet: Subnet,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next_number: u16,
    hosts: Vec<Namespace>,
    /// Set when a test has narrowed a port: super-frames are not measured against an MTU.
    whole_frames_only: bool,
    faults: Faults,
    wires: BTreeMap<Port, Wire>,
}

impl Segment {
    /// Makes the bridge in `namespace`. Numbers up to `taken` are not given to hosts.
    pub(crate) fn create(namespace: Namespace, subnet: Subnet, taken: u16) -> Result<Self> {
        // A switch forwards what it is told to, and says nothing itself. Bridged frames are none of the
        // business of IP firewall rules in the same namespace.
        for protocol in ["iptables", "ip6tables", "arptables"] {
            // The setting exists only where the kernel has br_netfilter.
            namespace.set_sysctl(&format!("net.bridge.bridge-nf-call-{protocol}"), "0").ok();
        }
        namespace.ip_batch(&format!(
            "link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {BRIDGE} up\n"
        ))?;
        if subnet.reach == Reach::ByTheBridge {
            // By the way that it came is how everything leaves; nobody need be told of a better one.
            for (setting, value) in [("ip_forward", "1"), ("conf.all.send_redirects", "0")] {
                namespace.set_sysctl(&format!("net.ipv4.{setting}"), value)?;
            }
            namespace.set_sysctl(&format!("net.ipv4.conf.{BRIDGE}.send_redirects"), "0")?;
            let (mac, addresses) = (mac(ROUTER_NUMBER), subnet.add_addresses(ROUTER_NUMBER, BRIDGE));
            namespace.ip_batch(&format!("link set {BRIDGE} address {mac}\n{addresses}"))?;
        }
        let state = Mutex::new(State {
            next_number: taken + 1,
            hosts: Vec::new(),
            whole_frames_only: false,
            faults: Faults::default(),
            wires: BTreeMap::new(),
        });
        Ok(Self { namespace, subnet, state })
    }

    /// Records what passes a port.
    pub(crate) fn capture(&self, port: Port) -> Result<Capture> {
        self.namespace.capture(&port.cable())
    }

    /// Takes the next free number.
    pub(crate) fn take_number(&self) -> Result<u16> {
        let mut state = lock(&self.state);
        let (number, most) = (state.next_number, self.subnet.reach.number_max());
        ensure!(
            number <= most,
            "the switch in {} has no port left: {most} are taken",
            self.namespace.label()
        );
        state.next_number += 1;
        Ok(number)
    }

    /// Lays a cable between the switch and the interface [`UNDERLAY`] of `host`, whose addresses are those
    /// of `number`.
    pub(crate) fn plug_in(&self, host: &Namespace, number: u16) -> Result<Port> {
        let port = Port(number);
        let (cable, switch) = (port.cable(), self.namespace.name());
        let mac = mac(number);
        let host_end = format!("link add {UNDERLAY} netns {} address {mac} mtu {MTU} type veth", host.name());
        let line = format!("{host_end} peer name {cable} netns {switch} mtu {MTU}\n");
        Cmd::on_the_machine("ip").args(["-batch", "-"]).stdin(line).run()?;
        self.make_mute(&cable)?;
        self.namespace.ip_batch(&format!("link set {cable} master {BRIDGE}\nlink set {cable} up\n"))?;
        if self.subnet.reach == Reach::ByTheBridge {
            host.set_sysctl(&format!("net.ipv6.conf.{UNDERLAY}.disable_ipv6"), "1")?;
        }
        let addresses = self.subnet.add_addresses(number, UNDERLAY);
        host.ip_batch(&format!("{addresses}link set {UNDERLAY} up\n"))?;
        wait_until_up(host, UNDERLAY)?;
        wait_until_up(&self.namespace, &cable)?;
        if self.subnet.reach == Reach::ByTheBridge {
            self.route(host, number)?;
        }
        let mut state = lock(&self.state);
        if state.whole_frames_only {
            send_whole_frames_only(host, UNDERLAY)?;
        }
        state.hosts.push(host.clone());
        Ok(port)
    }

    /// Has the bridge hand on, as a router, what a host sends to others and they to it.
    fn route(&self, host: &Namespace, number: u16) -> Result<()> {
        let (ip, router) = (self.subnet.ip(number), self.subnet.ip(ROUTER_NUMBER));
        let (mac, bridge) = (mac(number), mac(ROUTER_NUMBER));
        host.ip_batch(&format!(
            "neigh replace {router} lladdr {bridge} dev {UNDERLAY} nud permanent\n\
             route replace default via {router} dev {UNDERLAY} onlink\n"
        ))?;
        self.namespace.ip_batch(&format!(
            "neigh replace {ip} lladdr {mac} dev {BRIDGE} nud permanent\nroute replace {ip} dev {BRIDGE}\n"
        ))?;
        Ok(())
    }

    /// Has a host be all addresses of a network that is nobody else's, of a segment that reaches by the bridge.
    pub(crate) fn lead(&self, network: &str, host: &Namespace, ip: Ipv4Addr) -> Result<()> {
        host.ip_batch(&format!("route add local {network} dev lo\n"))?;
        self.namespace.ip_batch(&format!("route add {network} via {ip} dev {BRIDGE} onlink\n"))?;
        Ok(())
    }

    /// Changes what is wrong with the switch.
    pub(crate) fn change_faults(&self, change: impl FnOnce(&mut Faults)) -> Result<()> {
        let mut state = lock(&self.state);
        change(&mut state.faults);
        self.namespace.cmd("nft").args(["-f", "-"]).stdin(state.faults.ruleset()).run()?;
        Ok(())
    }

    /// Pulls the cable out of the switch, or puts it back.
    pub(crate) fn set_carrier(&self, port: Port, carrier: bool) -> Result<()> {
        let up_or_down = if carrier { "up" } else { "down" };
        let cable = port.cable();
        self.namespace.ip_batch(&format!("link set {cable} {up_or_down}\n"))?;
        if carrier { wait_until_up(&self.namespace, &cable) } else { Ok(()) }
    }

    /// Makes the switch drop, in silence, what is longer than `mtu` bytes.
    pub(crate) fn set_mtu(&self, port: Port, mtu: u16) -> Result<()> {
        let mut state = lock(&self.state);
        state.whole_frames_only = true;
        for host in &state.hosts {
            send_whole_frames_only(host, UNDERLAY)?;
        }
        send_whole_frames_only(&self.namespace, BRIDGE)?;
        self.namespace.ip_batch(&format!("link set {} mtu {mtu}\n", port.cable()))?;
        Ok(())
    }

    /// Limits both directions of a cable, or lifts the limit.
    pub(crate) fn set_rate(&self, port: Port, host: &Namespace, rate: Option<Rate>) -> Result<()> {
        let cable = port.cable();
        for (namespace, device) in [(&self.namespace, cable.as_str()), (host, UNDERLAY)] {
            match rate {
                Some(rate) => {
                    let limit = rate.tbf();
                    namespace
                        .cmd("tc")
                        .args(["qdisc", "replace", "dev", device, "root"])
                        .args(limit)
                        .run()?;
                }
                // There is nothing to delete when no limit was set.
                None => drop(namespace.cmd("tc").args(["qdisc", "del", "dev", device, "root"]).outcome()?),
            }
        }
        Ok(())
    }

    /// Puts a wire between the host and the switch, or changes the one that is there.
    pub(crate) fn put_wire(&self, port: Port, host: &Namespace, chaos: Chaos) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(wire) = state.wires.get(&port) {
            wire.change(chaos);
            return Ok(());
        }
        let (cable, outer, inner) = (port.cable(), port.behind_wire(), format!("x{}", port.0));
        // What the wire corrupts must fail a checksum, so it has to be computed before; and a super-frame
        // is not one frame.
        send_whole_frames_only(host, UNDERLAY)?;
        self.namespace.ip_batch(&format!("link add {outer} type veth peer name {inner}\n"))?;
        send_whole_frames_only(&self.namespace, &outer)?;
        self.make_mute(&outer)?;
        self.make_mute(&inner)?;
        self.namespace.ip_batch(&format!(
            "link set {cable} nomaster\nlink set {inner} up\nlink set {outer} master {BRIDGE}\nlink set {outer} up\n"
        ))?;
        wait_until_up(&self.namespace, &inner)?;
        wait_until_up(&self.namespace, &outer)?;
        let wire = self.namespace.enter(|| Wire::between(&cable, &inner, chaos))??;
        state.wires.insert(port, wire);
        Ok(())
    }

    /// Takes the wire away again, with the frames that are in it.
    pub(crate) fn remove_wire(&self, port: Port) -> Result<()> {
        let Some(wire) = lock(&self.state).wires.remove(&port) else {
            bail!("there is no wire to be taken away")
        };
        drop(wire);
        let (cable, outer) = (port.cable(), port.behind_wire());
        self.namespace.ip_batch(&format!("link del {outer}\nlink set {cable} master {BRIDGE}\n"))?;
        wait_until_up(&self.namespace, &cable)
    }

    pub(crate) fn wire_counts(&self, port: Port) -> Result<ChaosCounts> {
        lock(&self.state).wires.get(&port).map(Wire::counts).context("there is no wire")
    }

    /// Ends the threads of all wires.
    pub(crate) fn remove_wires(&self) {
        lock(&self.state).wires.clear();
    }

    /// Keeps a port from sending frames of its own, such as router solicitations.
    fn make_mute(&self, device: &str) -> Result<()> {
        self.namespace.set_sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), "1")
    }
}

/// Makes a device send frames of its MTU only, with complete checksums.
fn send_whole_frames_only(namespace: &Namespace, device: &str) -> Result<()> {
    namespace.enter(|| packet::switch_offloads_off(device))?
}

/// Waits until a device passes frames: the kernel brings its queue, and its port of the bridge, to life a
/// moment after the other end of the cable has come up, and drops frames until then.
fn wait_until_up(namespace: &Namespace, device: &str) -> Result<()> {
    let passes = || -> Result<()> {
        let output = namespace.cmd("ip").args(["-d", "-j", "link", "show", "dev", device]).run()?;
        let links: Vec<Value> = output.json()?;
        let link = links.first().context("ip shows nothing")?;
        let operational = link.get("operstate").and_then(Value::as_str);
        ensure!(operational == Some("UP"), "it is {}", operational.unwrap_or("in no state"));
        match link.pointer("/linkinfo/info_slave_data/state").and_then(Value::as_str) {
            None | Some("forwarding") => Ok(()),
            Some(other) => bail!("its port is {other}"),
        }
    };
    eventually(UP_DEADLINE, passes)
        .with_context(|| format!("{device} in {} does not come up", namespace.label()))
}
