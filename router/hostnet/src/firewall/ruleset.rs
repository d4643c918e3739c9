//! The walls in nftables' language.
//!
//! Owns the rules, and how two rulesets that differ in elements of sets only are told apart from others: those are
//! changed element by element, whatever else by replacing both tables in one transaction.
//!
//! Each test for something allowed is a positive one that ends in a verdict, and what falls through is dropped: an
//! expression that cannot read a malformed packet does not match, and must not let it pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddrV4};

use ipnet::IpNet;

use super::walls::{Exposure, PortGuard, SealedTunnel, Wall, Walls};
use crate::mac::HOST_PREFIX;
use crate::name::BridgeName;
use crate::sealer::Sealer;
use crate::underlay::RUNTIME_BRIDGE_PREFIXES;
use crate::vxlan::UnderlayFamily;

/// Frames to groups that a port may send, a second, and at once: well above what streaming to a group takes, well
/// below what a CPU spends on copying them to all hosts. Further ones are dropped.
const GROUP_FRAMES_PER_SECOND_MAX: u32 = 10_000;
const GROUP_FRAMES_BURST_MAX: u32 = 20_000;

/// Datagrams that one address may send to the host's name servers, a second, and at once: twice what those answer. They tell
/// who asks too much; what is beyond that is dropped in the time of whoever sends it, so that nobody else's waits behind it.
const QUERIES_PER_SECOND_MAX: u32 = 10_000;
const QUERIES_BURST_MAX: u32 = 2_000;

/// Addresses whose queries are counted. Those of further ones are not held back here.
const ASKERS_MAX: u32 = 4_096;

/// MACs that are known to belong to one set of subnets, and for how long after their last word. Further ones are not learnt:
/// they have all but link-local addresses.
const FRIENDS_MAX: u32 = 65_536;
const FRIEND_TIME: &str = "1h";

/// Ports of one Linux bridge (`BR_MAX_PORTS` of net/bridge/br_private.h), and so the buckets that are kept.
const PORTS_MAX: u32 = 1024;

/// MACs of ports, and the bridge's own. With a size the kernel takes a table of fixed size, in which a search takes half the
/// time (`nft_set_hash.c`).
const PORT_KEYS_MAX: u32 = 2 * PORTS_MAX;

/// Addresses of peers with a tunnel in each family. To further ones the probes get no answer: user space carries their frames.
const TUNNEL_SOURCES_MAX: usize = 16_384;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Frames between ports of a bridge.
    Bridge,
    /// Packets to and through the host.
    Inet,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::Bridge, Self::Inet];

    /// `NFPROTO_BRIDGE` and `NFPROTO_INET` of include/uapi/linux/netfilter.h.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Bridge => 7,
            Self::Inet => 1,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Inet => "inet",
        })
    }
}

/// The name of our tables: `mesh_` and that of the bridge, so that two routers in one namespace do not share any. What an
/// identifier of nftables cannot have is written as its bytes in hexadecimal digits.
pub(crate) fn table_name(bridge: &BridgeName) -> String {
    let mut name = "mesh_".to_owned();
    for byte in bridge.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            name.push(char::from(byte));
        } else {
            write!(name, "_{byte:02x}").expect("writing to a string does not fail");
        }
    }
    name
}

/// A set or map whose elements come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Set {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
}

const fn bridge_set(name: &'static str) -> Set {
    Set { family: Family::Bridge, name }
}

/// Where a frame goes on by the port that it came from.
const INGRESS: Set = bridge_set("ingress");
/// Where a frame goes on by the port that it leaves by.
const EGRESS: Set = bridge_set("egress");
/// MACs of this host: the containers' and the bridge's own.
const MACS: Set = bridge_set("macs");
/// The MAC of each port.
pub(crate) const PORT_MACS: Set = bridge_set("port_macs");
/// The IPv4 addresses of each port, with the length of their prefixes as comments.
pub(crate) const SOURCES4: Set = bridge_set("sources4");
/// The same in IPv6.
pub(crate) const SOURCES6: Set = bridge_set("sources6");
/// IPv6 addresses that each port may advertise.
const TARGETS6: Set = bridge_set("targets6");
const TUNNEL4: Set = Set { family: Family::Inet, name: "tunnel4" };
const TUNNEL6: Set = Set { family: Family::Inet, name: "tunnel6" };
/// Addresses of peers inside of the device that seals.
const SEALED: Set = Set { family: Family::Inet, name: "sealed" };

/// Both tables, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ruleset {
    table: String,
    /// Both tables with their chains, rules, sets and counters, all sets empty.
    skeleton: String,
    /// How many rules there are in it.
    rules: usize,
    /// The elements of each set: its key, and what follows the key.
    elements: BTreeMap<Set, BTreeMap<String, String>>,
}

impl Ruleset {
    pub(crate) fn of(walls: &Walls) -> Self {
        let table = table_name(&walls.bridge);
        let zones = Zones::of(walls);
        let mut text = Text::default();
        bridge_table(&mut text, &table, walls, &zones);
        inet_table(&mut text, &table, walls);
        Self { table, skeleton: text.out, rules: text.rules, elements: elements(walls, &zones) }
    }

    /// A script that puts this in place of whatever our tables are now.
    pub(crate) fn replace(&self) -> String {
        let mut script = removal(&self.table);
        script.push_str(&self.skeleton);
        for (set, elements) in &self.elements {
            change(
                &mut script,
                "add",
                *set,
                &self.table,
                elements.iter().map(|(key, rest)| format!("{key}{rest}")),
            );
        }
        script
    }

    /// A script that makes this of `before`, if elements are all that differs.
    pub(crate) fn change_from(&self, before: &Self) -> Option<String> {
        if self.skeleton != before.skeleton {
            return None;
        }
        let mut script = String::new();
        let nothing = BTreeMap::new();
        let of = |ruleset: &Self, set| ruleset.elements.get(&set).unwrap_or(&nothing).clone();
        let sets: BTreeSet<_> = self.elements.keys().chain(before.elements.keys()).copied().collect();
        for set in sets {
            let (old, new) = (of(before, set), of(self, set));
            let gone = old.iter().filter(|(key, rest)| new.get(*key) != Some(rest));
            change(&mut script, "delete", set, &self.table, gone.map(|(key, _)| key.clone()));
            let fresh = new.iter().filter(|(key, rest)| old.get(*key) != Some(rest));
            change(&mut script, "add", set, &self.table, fresh.map(|(key, rest)| format!("{key}{rest}")));
        }
        Some(script)
    }

    /// How many rules there are, and how many elements in named sets.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.rules, self.elements.values().map(BTreeMap::len).sum())
    }
}

/// A script that removes both tables, whether they are there or not.
pub(crate) fn removal(table: &str) -> String {
    Family::BOTH.map(|family| format!("table {family} {table}\ndelete table {family} {table}\n")).concat()
}

fn change(script: &mut String, verb: &str, set: Set, table: &str, elements: impl Iterator<Item = String>) {
    let list: Vec<_> = elements.collect();
    if !list.is_empty() {
        let Set { family, name } = set;
        writeln!(script, "{verb} element {family} {table} {name} {{ {} }}", list.join(", "))
            .expect("writing to a string does not fail");
    }
}

/// Ports that share their subnets share the chains that frames to them pass.
struct Zones(Vec<BTreeSet<IpNet>>);

impl Zones {
    fn of(walls: &Walls) -> Self {
        let distinct: BTreeSet<_> = walls.ports.values().map(subnets).collect();
        Self(distinct.into_iter().collect())
    }

    fn index(&self, guard: &PortGuard) -> usize {
        self.0.binary_search(&subnets(guard)).expect("the zones were made of these ports")
    }
}

fn subnets(guard: &PortGuard) -> BTreeSet<IpNet> {
    guard.addresses.iter().map(IpNet::trunc).collect()
}

fn elements(walls: &Walls, zones: &Zones) -> BTreeMap<Set, BTreeMap<String, String>> {
    let mut elements: BTreeMap<Set, BTreeMap<String, String>> = BTreeMap::new();
    let mut add = |set, key: String, rest: String| drop(elements.entry(set).or_default().insert(key, rest));
    let bare = String::new;
    add(MACS, walls.bridge_mac.to_string(), bare());
    for (port, PortGuard { mac, addresses }) in &walls.ports {
        let zone = zones.index(&walls.ports[port]);
        add(INGRESS, format!("\"{port}\""), " : goto from_container".to_owned());
        add(EGRESS, format!("\"{port}\""), format!(" : goto to_zone_{zone}"));
        add(MACS, mac.to_string(), bare());
        add(PORT_MACS, format!("\"{port}\" . {mac}"), bare());
        let link_local = mac.link_local();
        add(SOURCES6, format!("\"{port}\" . {mac} . {link_local}"), bare());
        add(TARGETS6, format!("\"{port}\" . {}", hex(link_local)), bare());
        for address in addresses {
            let (key, length) = (format!("\"{port}\" . {mac} . {}", address.addr()), address.prefix_len());
            let comment = format!(" comment \"{length}\"");
            match address {
                IpNet::V4(_) => add(SOURCES4, key, comment),
                IpNet::V6(v6) => {
                    add(SOURCES6, key, comment);
                    add(TARGETS6, format!("\"{port}\" . {}", hex(v6.addr())), bare());
                }
            }
        }
    }
    for uplink in &walls.uplinks {
        add(INGRESS, format!("\"{uplink}\""), " : goto from_uplink".to_owned());
        add(EGRESS, format!("\"{uplink}\""), " : goto to_uplink".to_owned());
    }
    let mut sources = BTreeMap::<_, usize>::new();
    for source in walls.tunnel.iter().flat_map(|tunnel| &tunnel.sources) {
        let set = match UnderlayFamily::of(*source) {
            UnderlayFamily::V4 => TUNNEL4,
            UnderlayFamily::V6 => TUNNEL6,
            UnderlayFamily::Sealed => SEALED,
        };
        let count = sources.entry(set).or_default();
        *count += 1;
        if *count <= TUNNEL_SOURCES_MAX {
            add(set, source.to_string(), bare());
        }
    }
    elements
}

/// nftables' name for a field without a name of its own is a number.
fn hex(address: Ipv6Addr) -> String {
    format!("0x{:032x}", u128::from(address))
}

/// A ruleset while it is written.
#[derive(Default)]
struct Text {
    out: String,
    rules: usize,
}

impl Text {
    fn line(&mut self, line: impl fmt::Display) {
        writeln!(self.out, "{line}").expect("writing to a string does not fail");
    }

    fn open_table(&mut self, family: Family, table: &str) {
        self.line(format_args!("table {family} {table} {{"));
        for wall in Wall::ALL.iter().filter(|wall| wall.is_inet() == (family == Family::Inet)) {
            self.line(format_args!("counter {} {{ }}", wall.name()));
        }
    }

    fn set(&mut self, set: Set, kind: &str) {
        let word = if kind.contains("verdict") { "map" } else { "set" };
        self.line(format_args!("{word} {} {{ {kind}; }}", set.name));
    }

    fn chain<R: AsRef<str>>(&mut self, name: &str, rules: impl IntoIterator<Item = R>) {
        self.line(format_args!("chain {name} {{"));
        for rule in rules {
            self.line(rule.as_ref());
            self.rules += 1;
        }
        self.line("}");
    }

    fn base_chain<R: AsRef<str>>(&mut self, hook: &str, kind: &str, rules: impl IntoIterator<Item = R>) {
        self.line(format_args!("chain {hook} {{ type {kind}; policy accept;"));
        for rule in rules {
            self.line(rule.as_ref());
            self.rules += 1;
        }
        self.line("}");
    }
}

fn dropped(wall: Wall) -> String {
    format!("counter name \"{}\" drop", wall.name())
}

fn bridge_table(text: &mut Text, table: &str, walls: &Walls, zones: &Zones) {
    text.open_table(Family::Bridge, table);
    text.set(INGRESS, &format!("type ifname : verdict; size {PORT_KEYS_MAX}"));
    text.set(EGRESS, &format!("type ifname : verdict; size {PORT_KEYS_MAX}"));
    text.set(MACS, &format!("typeof ether saddr; size {PORT_KEYS_MAX}"));
    text.set(PORT_MACS, &format!("typeof iifname . ether saddr; size {PORT_KEYS_MAX}"));
    text.set(SOURCES4, "typeof iifname . ether saddr . ip saddr");
    text.set(SOURCES6, "typeof iifname . ether saddr . ip6 saddr");
    text.set(TARGETS6, "typeof iifname . @th,64,128");
    text.line(format_args!(
        "set buckets {{ typeof iifname; flags dynamic, timeout; size {PORTS_MAX}; timeout 1m; }}"
    ));
    from_container(text);
    for (zone, subnets) in zones.0.iter().enumerate() {
        to_zone(text, zone, subnets);
    }
    uplinks(text, walls);
    text.base_chain(
        "prerouting",
        "filter hook prerouting priority filter",
        [
            "iifname vmap @ingress".to_owned(),
            // Not a port of ours: plugged in by hand, or of another bridge.
            format!("ether saddr @macs {}", dropped(Wall::MacMoved)),
        ],
    );
    text.base_chain("input", "filter hook input priority filter", not_through_the_host(walls));
    text.base_chain("postrouting", "filter hook postrouting priority filter", ["oifname vmap @egress"]);
    text.line("}");
}

/// What a container's port lets in. A base chain has jumped here by the port's name.
fn from_container(text: &mut Text) {
    let own_mac = "iifname . ether saddr @port_macs";
    text.chain("from_container", [
        "ether type vmap { ip : goto from_container_ip, arp : goto from_container_arp, ip6 : goto from_container_ip6 }"
            .to_owned(),
        dropped(Wall::EtherType),
    ]);
    text.chain(
        "from_container_ip",
        [
            "iifname . ether saddr . ip saddr @sources4 goto sane_ip".to_owned(),
            format!("{own_mac} ip saddr 0.0.0.0 udp sport 68 udp dport 67 goto group"),
            format!("{own_mac} {}", dropped(Wall::SourceAddress)),
            dropped(Wall::SourceMac),
        ],
    );
    text.chain(
        "sane_ip",
        [
            format!("udp dport 68 udp sport 67 {}", dropped(Wall::DhcpAnswer)),
            "meta pkttype { broadcast, multicast } goto group".to_owned(),
            "accept".to_owned(),
        ],
    );
    text.chain(
        "from_container_arp",
        [
            format!("iifname . ether saddr != @port_macs {}", dropped(Wall::SourceMac)),
            "arp htype 1 arp ptype ip arp hlen 6 arp plen 4 goto sane_arp".to_owned(),
            dropped(Wall::ArpSender),
        ],
    );
    text.chain(
        "sane_arp",
        [
            "iifname . arp saddr ether . arp saddr ip @sources4 goto group".to_owned(),
            // A probe for its own address (RFC 5227).
            "arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @sources4 goto group".to_owned(),
            dropped(Wall::ArpSender),
        ],
    );
    text.chain(
        "from_container_ip6",
        [
            "iifname . ether saddr . ip6 saddr @sources6 goto sane_ip6".to_owned(),
            format!("{own_mac} ip6 saddr :: goto unaddressed"),
            format!("{own_mac} {}", dropped(Wall::SourceAddress)),
            dropped(Wall::SourceMac),
        ],
    );
    text.chain(
        "sane_ip6",
        [
            format!("icmpv6 type {{ nd-router-advert, nd-redirect }} {}", dropped(Wall::RouterAdvert)),
            "icmpv6 type nd-neighbor-advert goto advert".to_owned(),
            format!("udp dport 546 udp sport 547 {}", dropped(Wall::DhcpAnswer)),
            "meta pkttype { broadcast, multicast } goto group".to_owned(),
            "accept".to_owned(),
        ],
    );
    // It looks whether an address is free (RFC 4862 section 5.4), and joins the groups for that, which snooping sees.
    text.chain(
        "unaddressed",
        [
            "icmpv6 type { nd-neighbor-solicit, mld-listener-report, mld2-listener-report } goto group"
                .to_owned(),
            dropped(Wall::SourceAddress),
        ],
    );
    text.chain("advert", ["iifname . @th,64,128 @targets6 goto group".to_owned(), dropped(Wall::Neighbour)]);
    text.chain(
        "group",
        [
            format!(
                "update @buckets {{ iifname limit rate over {GROUP_FRAMES_PER_SECOND_MAX}/second burst \
             {GROUP_FRAMES_BURST_MAX} packets }} {}",
                dropped(Wall::PortFlood)
            ),
            "accept".to_owned(),
        ],
    );
}

/// What reaches containers of one set of subnets.
///
/// Link-local addresses tell no subnet, nor does a frame that asks whether an address is free. Such a frame passes when its
/// MAC has told an address of these subnets before, by ARP or neighbour discovery: those are checked where they come from.
fn to_zone(text: &mut Text, zone: usize, subnets: &BTreeSet<IpNet>) {
    let (v4, v6): (Vec<_>, Vec<_>) = subnets.iter().partition(|subnet| subnet.addr().is_ipv4());
    let friend = format!("@friends_{zone}");
    text.line(format_args!(
        "set friends_{zone} {{ typeof ether saddr; flags dynamic, timeout; size {FRIENDS_MAX}; timeout {FRIEND_TIME}; }}"
    ));
    let mut rules = Vec::new();
    if let Some(within) = any_of(&v4) {
        rules.push(format!("ip saddr {within} accept"));
        // Two rules: when the set is full, the first one does not match.
        rules.push(format!("arp saddr ip {within} update {friend} {{ ether saddr }}"));
        rules.push(format!("arp saddr ip {within} accept"));
    }
    if let Some(within) = any_of(&v6) {
        let discovery = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }";
        rules.push(format!("ip6 saddr {within} {discovery} update {friend} {{ ether saddr }}"));
        rules.push(format!("ip6 saddr {within} accept"));
    }
    rules.push(format!("ether saddr & ff:ff:00:00:00:00 == {HOST_PREFIX} accept"));
    rules.push(format!("ip6 saddr {{ ::, fe80::/10 }} ether saddr {friend} accept"));
    rules.push(format!("arp saddr ip 0.0.0.0 ether saddr {friend} accept"));
    rules.push(dropped(Wall::OtherSubnet));
    text.chain(&format!("to_zone_{zone}"), &rules);
}

/// One as it is, several as a set, none as nothing.
fn any_of(subnets: &[&IpNet]) -> Option<String> {
    match subnets {
        [] => None,
        [one] => Some(one.to_string()),
        many => {
            let list: Vec<_> = many.iter().map(ToString::to_string).collect();
            Some(format!("{{ {} }}", list.join(", ")))
        }
    }
}

/// Frames from and to other hosts.
fn uplinks(text: &mut Text, walls: &Walls) {
    // What names an address that each host has for itself stays on its host. Of what goes out, port security has seen the
    // sources, and each rule fewer is worth having where every frame passes.
    let wall = dropped(Wall::NodeLocal);
    let stays = |fields: &[&str]| {
        let addresses: BTreeSet<_> = walls.name_servers.iter().map(SocketAddrV4::ip).collect();
        let rules = fields.iter().flat_map(|field| addresses.iter().map(move |address| (field, address)));
        rules.map(|(field, address)| format!("{field} {address} {wall}")).collect::<Vec<_>>()
    };
    text.chain("node_local_arp", stays(&["arp daddr ip", "arp saddr ip"]));
    text.chain("node_local_in", stays(&["ip saddr", "ip daddr"]));
    text.chain("node_local_out", stays(&["ip daddr"]));
    text.chain(
        "from_uplink",
        [
            format!("ether saddr @macs {}", dropped(Wall::MacMoved)),
            "ether type vmap { ip : goto node_local_in, arp : goto node_local_arp }".to_owned(),
        ],
    );
    text.chain("to_uplink", ["ether type vmap { ip : goto node_local_out, arp : goto node_local_arp }"]);
}

/// The host is no way from one subnet of the overlay to another, even where it has an address in both: what is
/// addressed to the bridge's MAC is for the host itself, or leaves the overlay.
fn not_through_the_host(walls: &Walls) -> Vec<String> {
    let mut rules = Vec::new();
    for (word, is_v4) in [("ip", true), ("ip6", false)] {
        let (addresses, subnets) = exposed(walls, is_v4, |_| true);
        if let (Some(addresses), Some(subnets)) = (addresses, subnets) {
            let (mac, wall) = (walls.bridge_mac, dropped(Wall::OtherSubnet));
            rules
                .push(format!("ether daddr {mac} {word} daddr {subnets} {word} daddr != {addresses} {wall}"));
        }
    }
    rules
}

/// The exposed addresses of a family, and their subnets, each as a set.
fn exposed(
    walls: &Walls,
    is_v4: bool,
    counts: impl Fn(&Exposure) -> bool,
) -> (Option<String>, Option<String>) {
    let of_family = |exposure: &&Exposure| exposure.address.addr().is_ipv4() == is_v4 && counts(exposure);
    let all: Vec<_> = walls.exposed.iter().filter(of_family).map(|exposure| exposure.address).collect();
    let set = |mut list: Vec<String>| {
        list.sort_unstable();
        list.dedup();
        (!list.is_empty()).then(|| format!("{{ {} }}", list.join(", ")))
    };
    let addresses = all.iter().map(|address| address.addr().to_string()).collect();
    let disjoint = IpNet::aggregate(&all.iter().map(IpNet::trunc).collect());
    (set(addresses), set(disjoint.iter().map(ToString::to_string).collect()))
}

fn inet_table(text: &mut Text, table: &str, walls: &Walls) {
    let bridge = &walls.bridge;
    text.open_table(Family::Inet, table);
    for (set, key) in [(TUNNEL4, "ip saddr"), (TUNNEL6, "ip6 saddr"), (SEALED, "ip saddr")] {
        text.set(set, &format!("typeof {key}; size {TUNNEL_SOURCES_MAX}"));
    }
    to_host(text, walls);
    if let Some(sealed) = walls.tunnel.as_ref().and_then(|tunnel| tunnel.sealed.as_ref()) {
        sealing(text, bridge, sealed);
    }
    let mut input = Vec::new();
    if let Some(tunnel) = &walls.tunnel {
        // Every packet of the tunnel comes here, one by one: its way is the shortest.
        let port = tunnel.port;
        input.push(format!("udp dport {port} ip saddr @tunnel4 accept"));
        input.push(format!("udp dport {port} ip6 saddr @tunnel6 accept"));
        input.push(format!("udp dport {port} {}", dropped(Wall::TunnelSource)));
        let only_at = tunnel.sealed.as_ref().and_then(|sealed| sealed.only_at);
        input.extend(only_at.into_iter().flat_map(elsewhere));
        input
            .extend(tunnel.sealed.as_ref().map(|sealed| format!("udp dport {} goto unsealing", sealed.port)));
    }
    input.push(format!("iifname \"{bridge}\" goto from_overlay"));
    text.base_chain("input", "filter hook input priority filter", &input);
    forwarding(text, walls);
    text.base_chain(
        "forward",
        "filter hook forward priority filter",
        [format!("iifname \"{bridge}\" goto leaving"), format!("oifname \"{bridge}\" goto entering")],
    );
    if !walls.exposed.is_empty() {
        text.base_chain("postrouting", "nat hook postrouting priority srcnat", masquerading(walls));
    }
    text.line("}");
}

/// Drops what comes to a UDP port by another address of this host than this.
fn elsewhere((port, address): (u16, IpAddr)) -> [String; 2] {
    let (word, other) = if address.is_ipv4() { ("ip", "ipv6") } else { ("ip6", "ipv4") };
    let wall = dropped(Wall::TunnelSource);
    [
        format!("{word} daddr != {address} udp dport {port} {wall}"),
        format!("meta nfproto {other} udp dport {port} {wall}"),
    ]
}

/// What is to be sealed is taken from a device that has opened it, and leaves by none but those.
fn sealing(text: &mut Text, bridge: &BridgeName, SealedTunnel { address, .. }: &SealedTunnel) {
    let devices = Sealer::ALL.map(|sealer| format!("\"{}\"", bridge.sealer(sealer))).join(", ");
    text.chain(
        "unsealing",
        [
            format!("iifname {{ {devices} }} ip daddr {address} ip saddr @sealed accept"),
            dropped(Wall::Unsealed),
        ],
    );
    text.base_chain(
        "output",
        "filter hook output priority filter",
        [format!("ip saddr {address} oifname != {{ {devices} }} {}", dropped(Wall::Unsealed))],
    );
}

/// What the overlay reaches of the host: its DNS server, and where it is exposed all but the router's own ports.
fn to_host(text: &mut Text, walls: &Walls) {
    text.line(format_args!(
        "set askers {{ typeof ip saddr; flags dynamic, timeout; size {ASKERS_MAX}; timeout 1m; }}"
    ));
    let of_server = |server: &SocketAddrV4| {
        let (address, port) = (server.ip(), server.port());
        [
            format!(
                "ip daddr {address} udp dport {port} update @askers {{ ip saddr limit rate over \
                 {QUERIES_PER_SECOND_MAX}/second burst {QUERIES_BURST_MAX} packets }} {}",
                dropped(Wall::NameFlood)
            ),
            format!("ip daddr {address} meta l4proto {{ tcp, udp }} th dport {port} accept"),
            format!("ip daddr {address} meta l4proto icmp accept"),
        ]
    };
    let mut rules: Vec<_> = walls.name_servers.iter().flat_map(of_server).collect();
    if let (Some(addresses), _) = exposed(walls, true, |_| true) {
        rules.push(format!("ip daddr {addresses} goto to_exposed"));
    }
    if let (Some(addresses), _) = exposed(walls, false, |_| true) {
        rules.push(format!("ip6 daddr {addresses} goto to_exposed"));
        rules.push("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept".to_owned());
    }
    // What goes to everybody is not meant for the host, and says nothing about whoever sent it.
    rules.push(format!("meta pkttype {{ broadcast, multicast }} {}", dropped(Wall::HostGroup)));
    rules.push(dropped(Wall::HostPort));
    if !walls.exposed.is_empty() {
        let ports: Vec<_> = walls.host_ports.iter().map(ToString::to_string).collect();
        let mut rules = Vec::new();
        if !ports.is_empty() {
            let (ports, wall) = (ports.join(", "), dropped(Wall::HostPort));
            rules.push(format!("meta l4proto {{ tcp, udp }} th dport {{ {ports} }} {wall}"));
        }
        rules.push("accept".to_owned());
        text.chain("to_exposed", &rules);
    }
    text.chain("from_overlay", &rules);
}

/// What passes between the overlay and other networks by way of this host. Frames within the bridge come here, too,
/// where br_netfilter hands them to the host's filters; they leave by the bridge by which they came.
fn forwarding(text: &mut Text, walls: &Walls) {
    let bridge = &walls.bridge;
    let wall = dropped(Wall::Forwarding);
    let mut leaving = vec![format!("oifname \"{bridge}\" accept")];
    let mut entering = Vec::new();
    if !walls.exposed.is_empty() {
        let replies = "ct state established,related accept".to_owned();
        leaving.push(replies.clone());
        entering.push(replies);
        // Other networks of containers on this host have walls of their own: their published ports are the way in.
        for prefix in RUNTIME_BRIDGE_PREFIXES {
            leaving.push(format!("oifname \"{prefix}*\" ct status & dnat == 0 {wall}"));
            entering.push(format!("iifname \"{prefix}*\" {wall}"));
        }
        for (word, is_v4) in [("ip", true), ("ip6", false)] {
            if let (_, Some(subnets)) = exposed(walls, is_v4, |_| true) {
                leaving.push(format!("{word} saddr {subnets} accept"));
                entering.push(format!("{word} daddr {subnets} accept"));
            }
        }
    }
    leaving.push(wall.clone());
    entering.push(wall);
    text.chain("leaving", &leaving);
    text.chain("entering", &entering);
}

/// Containers have no route to whoever is outside, and whoever is outside none to them. Within the overlay nothing is
/// rewritten.
fn masquerading(walls: &Walls) -> Vec<String> {
    let bridge = &walls.bridge;
    let mut rules = Vec::new();
    for (word, is_v4) in [("ip", true), ("ip6", false)] {
        if let (_, Some(subnets)) = exposed(walls, is_v4, |exposure| exposure.masquerade) {
            rules.push(format!("oifname != \"{bridge}\" {word} saddr {subnets} masquerade"));
            // Where br_netfilter is, frames within the bridge come here, too, and without an incoming interface.
            rules.push(format!(
                "iifname != \"{bridge}\" oifname \"{bridge}\" {word} daddr {subnets} {word} saddr != {subnets} masquerade"
            ));
        }
    }
    rules
}
