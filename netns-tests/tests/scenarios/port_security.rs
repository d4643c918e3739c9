//! What a container can send: from the MAC and the addresses that it was given, and nothing that only a network does
//! (threats T12, T14, T15 and T18).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Container, Host, Iperf, Lab, eventually};

use crate::support::{IFNAME, READY, attach, drops, launch, status};

/// A host with an attached container that sends what it should not, and one that must not receive it.
struct Port {
    _lab: Lab,
    host: Host,
    sender: Container,
    mac: [u8; 6],
    victim: Container,
    victim_mac: [u8; 6],
}

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 32, 1, 1);
const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 32, 1, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 32, 1, 77);
const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
const EVERYBODY: [u8; 6] = [0xff; 6];

impl Port {
    fn new(title: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let host = lab.host("h1")?;
        launch(&host, &[], None)?;
        let (sender, victim) = (host.container("sender")?, host.container("victim")?);
        attach(&host, &sender, &["10.32.1.1/24", "fd32:1::1/64"])?;
        attach(&host, &victim, &["10.32.1.2/24", "fd32:1::2/64"])?;
        eventually(READY, || sender.ping(VICTIM))?;
        eventually(READY, || sender.ping("fd32:1::2"))?;
        let (mac, victim_mac) = (bytes(&sender.mac(IFNAME)?)?, bytes(&victim.mac(IFNAME)?)?);
        Ok(Self { _lab: lab, host, sender, mac, victim, victim_mac })
    }

    /// Sends a frame, and wants it to be dropped for this reason, and not to arrive.
    fn is_dropped(&self, reason: &str, frame: &[u8]) -> Result<()> {
        let before = drops(&self.host, reason)?;
        let capture = self.victim.capture(IFNAME)?;
        self.sender.send_frame(IFNAME, frame)?;
        eventually(READY, || {
            ensure!(drops(&self.host, reason)? > before, "it is not dropped for {reason}");
            Ok(())
        })?;
        // A frame that may pass comes after it, and must arrive.
        eventually(READY, || self.sender.ping(VICTIM))?;
        let frames = capture.stop()?;
        ensure!(frames.count(|seen| seen.bytes == frame) == 0, "it arrived, though dropped for {reason}");
        Ok(())
    }
}

#[test]
fn a_container_sends_from_its_own_mac_and_addresses_only() -> Result<()> {
    let port = Port::new("spoof")?;
    let (mac, to) = (port.mac, port.victim_mac);
    port.is_dropped("source-mac", &ipv4(to, OTHER_MAC, SENDER, VICTIM, &udp(1000, 2000)))?;
    port.is_dropped("source-address", &ipv4(to, mac, STRANGER, VICTIM, &udp(1000, 2000)))?;
    port.is_dropped("source-address", &ipv6(to, mac, "fd32:1::77", "fd32:1::2", 17, &udp(1000, 2000))?)?;
    // From the victim's own address, and with its MAC, which would move it to another port.
    port.is_dropped("source-address", &ipv4(EVERYBODY, mac, VICTIM, STRANGER, &udp(1000, 2000)))?;
    port.is_dropped("source-mac", &ipv4(EVERYBODY, to, VICTIM, STRANGER, &udp(1000, 2000)))?;
    port.is_dropped("arp-sender", &arp(mac, mac, STRANGER, VICTIM))?;
    port.is_dropped("arp-sender", &arp(mac, OTHER_MAC, SENDER, VICTIM))?;
    port.is_dropped("source-mac", &arp(OTHER_MAC, OTHER_MAC, SENDER, VICTIM))?;
    // An advertisement for the neighbour's address, from its own.
    let advert = neighbour_advert("fd32:1::2")?;
    port.is_dropped("neighbour-advert", &ipv6(to, mac, "fd32:1::1", "fd32:1::2", 58, &advert)?)?;
    Ok(())
}

#[test]
fn a_container_plays_neither_router_nor_dhcp_server_nor_bridge() -> Result<()> {
    let port = Port::new("rogue")?;
    let mac = port.mac;
    let link_local = format!(
        "fe80::{:x}:{:x}ff:fe{:02x}:{:x}",
        u16::from_be_bytes([mac[0] ^ 2, mac[1]]),
        mac[2],
        mac[3],
        u16::from_be_bytes([mac[4], mac[5]])
    );
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let router = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    port.is_dropped("router-advert", &ipv6(group, mac, &link_local, "ff02::1", 58, &router)?)?;
    port.is_dropped("router-advert", &ipv6(group, mac, "fd32:1::1", "ff02::1", 58, &router)?)?;
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &[0; 32]].concat();
    port.is_dropped("router-advert", &ipv6(port.victim_mac, mac, &link_local, "fd32:1::2", 58, &redirect)?)?;
    port.is_dropped("dhcp-answer", &ipv4(EVERYBODY, mac, SENDER, Ipv4Addr::BROADCAST, &udp(67, 68)))?;
    port.is_dropped(
        "dhcp-answer",
        &ipv6(port.victim_mac, mac, &link_local, "fd32:1::2", 17, &udp(547, 546))?,
    )?;
    // A bridge's own (IEEE 802.1D), one with a tag, and one of a protocol that nobody knows.
    let bpdu = [&[0x01, 0x80, 0xc2, 0, 0, 0][..], &mac, &[0, 38, 0x42, 0x42, 3], &[0; 49]].concat();
    port.is_dropped("ether-type", &bpdu)?;
    let inner = ipv4(port.victim_mac, mac, SENDER, VICTIM, &udp(1, 2));
    let tagged = [&inner[..12], &[0x81, 0, 0, 7], &inner[12..]].concat();
    port.is_dropped("ether-type", &tagged)?;
    port.is_dropped("ether-type", &[&port.victim_mac[..], &mac, &[0x88, 0xb5], &[7; 50]].concat())?;
    Ok(())
}

#[test]
fn a_container_floods_groups_only_so_fast() -> Result<()> {
    let port = Port::new("flood")?;
    let send =
        ["socat", "-u", "-b", "100", "OPEN:/dev/zero,readbytes=10000000", "UDP-DATAGRAM:239.7.7.7:5000"];
    port.sender.run(send)?;
    eventually(READY, || {
        ensure!(drops(&port.host, "port-flood")? > 0, "nothing of the flood is dropped");
        Ok(())
    })?;
    eventually(READY, || port.sender.ping(VICTIM))?;
    Ok(())
}

#[test]
fn what_is_plugged_in_by_hand_works_is_shown_and_takes_nobodys_mac() -> Result<()> {
    let port = Port::new("by-hand")?;
    let (host, plugged) = (&port.host, port.host.container("plugged")?);
    host.run([
        "ip",
        "link",
        "add",
        "hand0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        plugged.name(),
    ])?;
    host.run(["ip", "link", "set", "hand0", "master", "mesh0", "up"])?;
    plugged.run(["ip", "address", "add", "10.32.1.9/24", "dev", "eth0"])?;
    plugged.run(["ip", "link", "set", "eth0", "up"])?;
    eventually(READY, || plugged.ping(VICTIM))?;
    eventually(READY, || port.sender.ping("10.32.1.9"))?;
    let firewall = status(host)?.firewall.context("a firewall")?;
    ensure!(firewall.unguarded_ports == ["hand0"] && firewall.guarded_ports == 2, "{firewall:?}");

    let stolen = ipv4(EVERYBODY, port.victim_mac, VICTIM, STRANGER, &udp(1, 2));
    plugged.send_frame("eth0", &stolen)?;
    eventually(READY, || {
        ensure!(drops(host, "mac-moved")? > 0, "it is not dropped");
        Ok(())
    })?;
    port.sender.ping(VICTIM)?;
    Ok(())
}

#[test]
fn guards_hold_while_the_router_is_away_and_in_its_next_life() -> Result<()> {
    let port = Port::new("lives")?;
    let spoofed = ipv4(port.victim_mac, port.mac, STRANGER, VICTIM, &udp(1000, 2000));
    port.host.mesh(["stop"])?;
    let capture = port.victim.capture(IFNAME)?;
    port.sender.send_frame(IFNAME, &spoofed)?;
    port.sender.ping(VICTIM)?;
    ensure!(capture.stop()?.count(|seen| seen.bytes == spoofed) == 0, "it arrived");
    launch(&port.host, &[], None)?;
    ensure!(status(&port.host)?.firewall.context("a firewall")?.guarded_ports == 2);
    port.is_dropped("source-address", &spoofed)
}

#[test]
fn what_the_guards_cost_between_two_containers_is_measured() -> Result<()> {
    let port = Port::new("cost")?;
    port.host.mesh(["stop"])?;
    let server = port.victim.iperf_server()?;
    let tables = port.host.run(["nft", "-s", "list", "ruleset"])?.stdout;
    let mut rates: BTreeMap<bool, Vec<f64>> = BTreeMap::new();
    for round in 0..6 {
        let guarded = round % 2 == 0;
        if guarded {
            port.host.cmd("nft").args(["-f", "-"]).stdin(tables.clone()).run()?;
        } else {
            port.host.run(["nft", "flush", "ruleset"])?;
        }
        let rate = port.sender.iperf(&Iperf::to(VICTIM).seconds(2))?.bits_per_second;
        rates.entry(guarded).or_default().push(rate / 1e9);
    }
    drop(server);
    let median = |guarded: bool| {
        let mut all = rates[&guarded].clone();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (with, without) = (median(true), median(false));
    println!("measured: {with:.2} Gbit/s with guards, {without:.2} without: {:.2} times", with / without);
    Ok(())
}

pub(crate) fn bytes(mac: &str) -> Result<[u8; 6]> {
    let bytes = mac.split(':').map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().context("six bytes")
}

pub(crate) fn udp(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0, 16, 0, 0], b"contents"].concat()
}

pub(crate) fn ipv4(
    to: [u8; 6],
    from: [u8; 6],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    payload: &[u8],
) -> Vec<u8> {
    datagram([0, 1, 0, 0], (to, from), (source, destination), payload)
}

/// The first fragment of a datagram with this number, whose others never come.
pub(crate) fn fragment(number: u8, macs: ([u8; 6], [u8; 6]), addresses: (Ipv4Addr, Ipv4Addr)) -> Vec<u8> {
    datagram([0, number, 0x20, 0], macs, addresses, &[0; 8])
}

/// A datagram with this number, flags and offset.
fn datagram(
    [high, low, flags, offset]: [u8; 4],
    (to, from): ([u8; 6], [u8; 6]),
    (source, destination): (Ipv4Addr, Ipv4Addr),
    payload: &[u8],
) -> Vec<u8> {
    let length = u8::try_from(20 + payload.len()).expect("these are short");
    let head = [0x45, 0, 0, length, high, low, flags, offset, 64, 17, 0, 0];
    let mut header = [&head[..], &source.octets(), &destination.octets()].concat();
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
    header[10..12].copy_from_slice(&(!folded).to_be_bytes());
    [&to[..], &from, &[0x08, 0], &header, payload].concat()
}

pub(crate) fn ipv6(
    to: [u8; 6],
    from: [u8; 6],
    source: &str,
    destination: &str,
    next: u8,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let (source, destination): (Ipv6Addr, Ipv6Addr) = (source.parse()?, destination.parse()?);
    let length = u16::try_from(payload.len())?.to_be_bytes();
    let header =
        [&[0x60, 0, 0, 0][..], &length, &[next, 255], &source.octets(), &destination.octets()].concat();
    Ok([&to[..], &from, &[0x86, 0xdd], &header, payload].concat())
}

/// An ARP announcement by `from`, which says that `address` is at `mac`.
pub(crate) fn arp(from: [u8; 6], mac: [u8; 6], address: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    [&EVERYBODY[..], &from, &[8, 6], &head, &mac, &address.octets(), &EVERYBODY, &target.octets()].concat()
}

pub(crate) fn neighbour_advert(target: &str) -> Result<Vec<u8>> {
    let target: Ipv6Addr = target.parse()?;
    Ok([&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets()].concat())
}
