//! Which groups of IPv4 and IPv6 have members on the bridge, and word of each change of them.
//!
//! The kernel's bridge listens to what containers say of themselves in IGMP and MLD, and keeps a table of it. It believes
//! that table only while somebody asks for members now and then, and forgets those who are not asked: so this asks, in the
//! place of the router of groups that the bridge does not have. Owns those questions and the thread that asks and looks.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use mesh_wire::MacAddr;

use crate::bridge::{Bridge, open_host};
use crate::error::{HostError, KernelError};
use crate::events::{Drained, Events, Waiting, Woken};
use crate::mac::MacAddress;
use crate::netlink::Netlink;
use crate::netlink::link::Link;
use crate::probe::{self, checksum, ethernet};

/// The groups of rtnetlink that tell of interfaces and of the members of groups (`RTNLGRP_LINK`, `RTNLGRP_MDB` of
/// include/uapi/linux/rtnetlink.h).
const EVENTS: [u32; 2] = [1, 26];

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;

/// Changes come in bursts: what follows the first within this time is looked at together with it.
const SETTLE: Duration = Duration::from_millis(10);

/// When the kernel's table cannot be read, or nobody could be asked, it is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Members are asked for this often. The kernel forgets those who have not answered for 260 s, and floods when nobody has
/// asked for 255 s.
const ASKED_EVERY: Duration = Duration::from_secs(60);

/// A port that has joined the bridge is asked after this time, together with those that join meanwhile.
const NEW_PORT_ASKED_AFTER: Duration = Duration::from_millis(100);

/// Members answer within this time, each after a random part of it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// How often a query or a report may be lost (QRV of RFC 3376, section 4.1.6, and RFC 3810, section 5.1.8): the default.
const ROBUSTNESS: u8 = 2;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;

/// The groups whose frames are of use on the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedGroups {
    /// Every one: there is a router of groups, or the bridge does not look who is a member.
    All,
    /// Those that have members behind other ports than our uplinks, by their MACs.
    Only(BTreeSet<MacAddr>),
}

/// Asks for members of groups, and tells of them, until it is dropped.
#[derive(Debug)]
pub struct GroupWatch {
    _waiting: Waiting,
}

impl GroupWatch {
    /// Watches the bridge, in the calling thread's namespace. `tell` is called, on a thread of the watch's own, within a moment
    /// with what is wanted now, and then after each change. It must not block for long: dropping the watch waits for it.
    ///
    /// # Errors
    /// [`HostError::Kernel`] when rtnetlink refuses, [`HostError::Thread`] when there can be no further thread.
    pub fn start(
        bridge: &Bridge,
        tell: impl FnMut(WantedGroups) + Send + 'static,
    ) -> Result<Self, HostError> {
        let events = Events::subscribe(&EVENTS)?;
        let watching = Watching {
            host: open_host()?,
            bridge: bridge.clone(),
            ports: BTreeSet::new(),
            ask_at: Instant::now(),
            told: None,
        };
        let waiting = events.wait_on_thread("mesh-groups", move |events| watching.run(&events, tell))?;
        Ok(Self { _waiting: waiting })
    }
}

/// What the thread has.
struct Watching {
    host: Netlink,
    bridge: Bridge,
    /// The bridge's ports of which events have told.
    ports: BTreeSet<u32>,
    ask_at: Instant,
    told: Option<WantedGroups>,
}

impl Watching {
    fn run(mut self, events: &Events, mut tell: impl FnMut(WantedGroups)) {
        let mut retry = None;
        loop {
            let now = Instant::now();
            if self.ask_at <= now {
                let asked = ask(&self.bridge);
                if let Err(error) = &asked {
                    tracing::debug!(%error, "members of groups could not be asked for");
                }
                self.ask_at = now + if asked.is_ok() { ASKED_EVERY } else { RETRY };
            }
            let due = self.ask_at.saturating_duration_since(now);
            match events.wait(Some(retry.map_or(due, |retry| due.min(retry)))) {
                Ok(Woken::Stop) => return,
                Ok(Woken::Late | Woken::Events) => {}
                Err(errno) => {
                    tracing::error!(%errno, "members of groups are no longer noticed");
                    return;
                }
            }
            if events.stopped_within(SETTLE) {
                return;
            }
            self.hear(events);
            retry = self.look(&mut tell).err().map(|error| {
                let error = error.during("read the groups of", &self.bridge.name);
                tracing::warn!(%error, "members of groups are not known");
                RETRY
            });
        }
    }

    /// Takes in the events that wait. A port that they tell of for the first time is asked soon.
    fn hear(&mut self, events: &Events) {
        let (bridge, ports) = (self.bridge.index, &mut self.ports);
        let mut has_new_port = false;
        let drained = events.drain(|kind, payload| match (kind, Link::decode(payload)) {
            (RTM_NEWLINK, Some(link)) if link.master == Some(bridge) && link.is_up => {
                has_new_port |= ports.insert(link.index);
            }
            (RTM_NEWLINK | RTM_DELLINK, Some(link)) => {
                ports.remove(&link.index);
            }
            _ => {}
        });
        if has_new_port || drained == Drained::Overrun {
            self.ask_at = self.ask_at.min(Instant::now() + NEW_PORT_ASKED_AFTER);
        }
    }

    fn look(&mut self, tell: &mut impl FnMut(WantedGroups)) -> Result<(), KernelError> {
        let wanted = self.wanted()?;
        if self.told.as_ref() != Some(&wanted) {
            tell(wanted.clone());
            self.told = Some(wanted);
        }
        Ok(())
    }

    fn wanted(&mut self) -> Result<WantedGroups, KernelError> {
        let bridge = self.host.link_at(self.bridge.index)?;
        if !bridge.is_some_and(|bridge| bridge.is_snooping) {
            return Ok(WantedGroups::All);
        }
        let table = self.host.multicast_table(self.bridge.index)?;
        let uplinks = self.uplinks()?;
        if table.router_ports.iter().any(|port| !uplinks.contains(port)) {
            return Ok(WantedGroups::All);
        }
        let here = table.members.iter().filter(|(port, _)| !uplinks.contains(port));
        Ok(WantedGroups::Only(here.map(|(_, group)| mac_of(*group)).collect()))
    }

    fn uplinks(&mut self) -> Result<BTreeSet<u32>, KernelError> {
        let mut uplinks = BTreeSet::new();
        for name in self.bridge.name.uplinks() {
            uplinks.extend(self.host.link_named(name.as_str())?.map(|link| link.index));
        }
        Ok(uplinks)
    }
}

/// The MAC that frames for a group bear (RFC 1112, section 6.4; RFC 2464, section 7).
fn mac_of(group: IpAddr) -> MacAddr {
    MacAddr::from_bytes(match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let octets = group.octets();
            [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
        }
    })
}

/// Asks all members of all groups to tell of themselves. The bridge hears the questions, too, and believes its table then.
fn ask(bridge: &Bridge) -> io::Result<()> {
    for (ether_type, query) in
        [(ETHER_TYPE_IPV4, igmp_query(bridge.mac)), (ETHER_TYPE_IPV6, mld_query(bridge.mac))]
    {
        let socket = probe::open(bridge.index, ether_type)?;
        let _sent = rustix::io::write(&socket, &query)?;
    }
    Ok(())
}

/// A general query of IGMPv3 (RFC 3376, section 4.1), from nobody's address, as switches ask (RFC 4541, section 2.1.1): a router
/// of groups that comes one day is the one to ask then.
fn igmp_query(from: MacAddress) -> Vec<u8> {
    let tenths = u8::try_from(ANSWERED_WITHIN.as_millis() / 100).expect("a second");
    let mut message = vec![0x11, tenths, 0, 0, 0, 0, 0, 0, ROBUSTNESS, interval(), 0, 0];
    let sum = internet_checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let header_and_message = u8::try_from(24 + message.len()).expect("36 bytes");
    let mut packet = vec![0x46, 0xc0, 0, header_and_message, 0, 0, 0x40, 0, 1, 2, 0, 0];
    packet.extend(Ipv4Addr::UNSPECIFIED.octets());
    packet.extend(Ipv4Addr::new(224, 0, 0, 1).octets());
    packet.extend([0x94, 4, 0, 0]);
    let sum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet([0x01, 0x00, 0x5e, 0, 0, 1], from, ETHER_TYPE_IPV4);
    frame.extend(packet);
    frame.extend(message);
    frame
}

/// A general query of MLDv2 (RFC 3810, section 5.1). It has to come from a link-local address, or nobody heeds it.
fn mld_query(from: MacAddress) -> Vec<u8> {
    let [high, low] = u16::try_from(ANSWERED_WITHIN.as_millis()).expect("a second").to_be_bytes();
    let mut message = vec![130, 0, 0, 0, high, low, 0, 0];
    message.extend(Ipv6Addr::UNSPECIFIED.octets());
    message.extend([ROBUSTNESS, interval(), 0, 0]);
    let (source, all_nodes) = (link_local(from), Ipv6Addr::from_bits((0xff02 << 112) | 1));
    let sum = checksum(source, all_nodes, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let hop_by_hop = [58, 0, 5, 2, 0, 0, 1, 0];
    let len = u16::try_from(hop_by_hop.len() + message.len()).expect("36 bytes");
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], from, ETHER_TYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(source.octets());
    frame.extend(all_nodes.octets());
    frame.extend(hop_by_hop);
    frame.extend(message);
    frame
}

/// The time between two queries, in seconds, as both protocols encode it.
fn interval() -> u8 {
    u8::try_from(ASKED_EVERY.as_secs()).expect("less than 128 s are encoded as they are")
}

/// The link-local address of an interface with this MAC (RFC 4291, appendix A).
fn link_local(MacAddress([a, b, c, d, e, f]): MacAddress) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The checksum of whole 16-bit words (RFC 1071).
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("the carries are added")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: MacAddress = MacAddress([2, 0x6d, 0, 0, 0, 7]);

    #[test]
    fn groups_have_the_macs_that_the_standards_say() {
        let mac = |group: &str| mac_of(group.parse().unwrap()).to_string();
        assert_eq!(mac("239.129.2.3"), "01:00:5e:01:02:03");
        assert_eq!(mac("ff05::1234:5678"), "33:33:12:34:56:78");
    }

    #[test]
    fn queries_have_right_lengths_and_checksums() {
        let igmp = igmp_query(FROM);
        let (header, message) = igmp[14..].split_at(24);
        assert_eq!(usize::from(header[3]), igmp.len() - 14);
        assert_eq!((internet_checksum(header), internet_checksum(message)), (0, 0));

        let mld = mld_query(FROM);
        let (header, rest) = mld[14..].split_at(40);
        assert_eq!(usize::from(header[5]), rest.len());
        let address = |at: usize| Ipv6Addr::from(*header[at..].first_chunk::<16>().unwrap());
        assert_eq!(address(8), "fe80::6d:ff:fe00:7".parse::<Ipv6Addr>().unwrap());
        assert_eq!(address(24), "ff02::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(checksum(address(8), address(24), &rest[8..]), 0);
    }
}
