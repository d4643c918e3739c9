//! A NAT router: a host of the lab's switch with a switch of its own behind it.
//!
//! Owns the router's nftables and its connection tracking.

use std::fmt::Write;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};

use crate::conntrack;
use crate::faults::Protocol;
use crate::host::{Gateway, Host};
use crate::segment::{BRIDGE, ROUTER_NUMBER, Segment, Subnet, UNDERLAY};
use crate::site::{Site, lock};

/// How a router picks the port by which a connection from behind it is seen outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NatKind {
    /// The port of the inner host if it is free, for all destinations: as home routers do.
    #[default]
    KeepsPorts,
    /// A random port, another one for each destination: a symmetric NAT, as large ones are.
    RandomPorts,
}

/// A NAT router. It has all methods of a [`Host`], which it is on the lab's switch.
#[derive(Debug, Clone)]
pub struct Nat {
    host: Host,
    inside: Arc<Segment>,
    rules: Arc<Mutex<Rules>>,
}

#[derive(Debug, Default)]
struct Rules {
    kind: NatKind,
    /// Outer port and inner destination.
    forwards: Vec<(Protocol, u16, Host)>,
}

impl Nat {
    pub(crate) fn create(
        site: &Arc<Site>,
        outside: &Arc<Segment>,
        name: &str,
        inner: Subnet,
    ) -> Result<Self> {
        let host = Host::create(site, outside, name, Gateway::Nothing)?;
        for setting in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            host.set_sysctl(setting, "1")?;
        }
        let inside = Arc::new(Segment::create((*host).clone(), inner, ROUTER_NUMBER)?);
        host.ip_batch(&inner.add_addresses(ROUTER_NUMBER, BRIDGE))?;
        let nat = Self { host, inside, rules: Arc::default() };
        nat.apply(&Rules::default())?;
        Ok(nat)
    }

    /// Changes how ports are picked; for new connections, so [`flush`](Self::flush) may be wanted next.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn set_kind(&self, kind: NatKind) -> Result<()> {
        let mut rules = lock(&self.rules);
        rules.kind = kind;
        self.apply(&rules)
    }

    /// Sends what arrives outside at `port` to the same port of a host behind the router, over IPv4 and
    /// IPv6.
    ///
    /// # Errors
    /// When the host is not behind this router.
    pub fn forward(&self, protocol: Protocol, port: u16, to: &Host) -> Result<()> {
        if !Arc::ptr_eq(to.segment(), &self.inside) {
            bail!("{} is not behind {}", to.label(), self.host.label());
        }
        let mut rules = lock(&self.rules);
        rules.forwards.push((protocol, port, to.clone()));
        self.apply(&rules)
    }

    /// Forgets all connections. Those that go on get a mapping anew, by another port if ports are random.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flush(&self) -> Result<()> {
        self.host.enter(conntrack::flush)?
    }

    /// Moves all connections to other outer ports, as a router does that was restarted.
    ///
    /// # Errors
    /// As [`set_kind`](Self::set_kind) and [`flush`](Self::flush).
    pub fn rebind(&self) -> Result<()> {
        self.set_kind(NatKind::RandomPorts)?;
        self.flush()
    }

    pub(crate) const fn inside(&self) -> &Arc<Segment> {
        &self.inside
    }

    pub(crate) fn gateway(&self) -> Gateway {
        let subnet = self.inside.subnet;
        Gateway::Via(subnet.ip(ROUTER_NUMBER), subnet.ip6(ROUTER_NUMBER))
    }

    fn apply(&self, rules: &Rules) -> Result<()> {
        self.host.cmd("nft").args(["-f", "-"]).stdin(rules.ruleset()).run()?;
        Ok(())
    }
}

impl Rules {
    /// The complete table `inet nat`; it replaces the earlier one in one transaction.
    ///
    /// What knocks at the router itself is dropped, as home routers do. Were it refused, the kernel would remember it as
    /// a connection of the router's own, and give whoever is behind and calls back another port than its own.
    fn ruleset(&self) -> String {
        let masquerade = match self.kind {
            NatKind::KeepsPorts => "masquerade",
            NatKind::RandomPorts => "masquerade fully-random",
        };
        let mut forwards = String::new();
        for (protocol, port, host) in &self.forwards {
            let (ip, ip6) = (host.ip(), host.ip6());
            let outside = format!("iifname \"{UNDERLAY}\" {protocol} dport {port}");
            writeln!(forwards, "meta nfproto ipv4 {outside} dnat ip to {ip}").expect("a string takes it");
            writeln!(forwards, "meta nfproto ipv6 {outside} dnat ip6 to {ip6}").expect("a string takes it");
        }
        format!(
            "table inet nat {{}}\ndelete table inet nat\ntable inet nat {{\n\
             chain leaving {{\ntype nat hook postrouting priority srcnat\noifname \"{UNDERLAY}\" {masquerade}\n}}\n\
             chain arriving {{\ntype nat hook prerouting priority dstnat\n{forwards}}}\n\
             chain passing {{\ntype filter hook forward priority filter\n\
             iifname \"{UNDERLAY}\" ct state new ct status ! dnat drop\n}}\n\
             chain knocking {{\ntype filter hook input priority filter\n\
             iifname \"{UNDERLAY}\" meta l4proto {{ tcp, udp }} ct state new drop\n}}\n}}\n"
        )
    }
}

impl Deref for Nat {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}
