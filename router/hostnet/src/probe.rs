//! Whether somebody in the network uses an address already: ARP probes (RFC 5227, section 2.1.1), and neighbour
//! solicitations as for duplicate address detection (RFC 4862, section 5.4), sent from the bridge.
//!
//! Owns packet sockets for a fraction of a second, and nothing that outlasts it. Decides nothing: who answers may be wrong,
//! and who does not may be asleep.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::bridge::Bridge;
use crate::mac::MacAddress;

/// How often each address is asked for.
pub const PROBES: u32 = 2;

/// Time between two questions, and after the last. All hosts of the network are a few milliseconds away.
pub const PROBE_EVERY: Duration = Duration::from_millis(100);

/// Frames that are looked at in one probing; what a flood brings beyond them is not.
const FRAMES_MAX: u32 = 4096;

/// Longest part of a frame that is looked at, in bytes: Ethernet, IPv6 and a neighbour advertisement.
const FRAME_LEN_MAX: usize = 128;

const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_ARP: u16 = 0x0806;
const ETHER_TYPE_IPV6: u16 = 0x86dd;

/// Next header of an IPv6 packet (RFC 4443, section 1).
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Offsets in a frame: behind the Ethernet header, and behind an IPv6 header without extensions.
const NETWORK: usize = 14;
const TRANSPORT: usize = NETWORK + 40;

/// An address, and the interface that is to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Which.
    pub address: IpAddr,
    /// Whose answer is no surprise.
    pub own: MacAddress,
}

/// Asks for all these addresses, and returns those for which others than their own interfaces and the bridge answered, with
/// whoever answered last. Takes [`PROBES`] times [`PROBE_EVERY`].
///
/// # Errors
/// Those of packet(7): without `CAP_NET_RAW` there is no such socket, and the bridge may be gone or down.
pub fn probe(bridge: &Bridge, wanted: &[Probe]) -> io::Result<BTreeMap<IpAddr, MacAddress>> {
    let of_family = |is_v4: bool| wanted.iter().filter(move |probe| probe.address.is_ipv4() == is_v4);
    let mut sockets = Vec::new();
    for (ether_type, is_v4) in [(ETHER_TYPE_ARP, true), (ETHER_TYPE_IPV6, false)] {
        if of_family(is_v4).next().is_some() {
            sockets.push((open(bridge.index, ether_type)?, is_v4));
        }
    }
    let mut seen = BTreeMap::new();
    let mut frames_left = FRAMES_MAX;
    for _ in 0..PROBES {
        for (socket, is_v4) in &sockets {
            for probe in of_family(*is_v4) {
                let _sent = rustix::io::write(socket, &question(probe.address, bridge.mac))?;
            }
        }
        let until = Instant::now() + PROBE_EVERY;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            wait(&sockets, left)?;
            for (socket, _) in &sockets {
                take(socket, &mut frames_left, |address, from| {
                    let asked = wanted.iter().find(|probe| probe.address == address);
                    if asked.is_some_and(|probe| probe.own != from) && from != bridge.mac {
                        seen.insert(address, from);
                    }
                })?;
            }
        }
    }
    Ok(seen)
}

/// A socket for frames of one kind to and from an interface.
pub(crate) fn open(index: u32, ether_type: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Without a protocol it hears nothing before it is bound.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let invalid = |_too_great| io::Error::from(io::ErrorKind::InvalidInput);
    let address = libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).map_err(invalid)?,
        sll_protocol: ether_type.to_be(),
        sll_ifindex: i32::try_from(index).map_err(invalid)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(invalid)?;
    // SAFETY: the descriptor is open while it is borrowed, and the pointer is to `len` bytes of a `sockaddr_ll` that live
    // until the call has returned; the kernel only reads them.
    let bound = unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), len) };
    if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// Waits until a frame is there, or this time has passed.
fn wait(sockets: &[(OwnedFd, bool)], left: Duration) -> io::Result<()> {
    let mut polled: Vec<_> = sockets.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::IN)).collect();
    let left = Timespec::try_from(left).map_err(|_too_long| io::Error::from(io::ErrorKind::InvalidInput))?;
    match poll(&mut polled, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes the frames that are there, and tells of each that shows the use of an address.
fn take(socket: &OwnedFd, frames_left: &mut u32, mut tell: impl FnMut(IpAddr, MacAddress)) -> io::Result<()> {
    let mut frame = [0; FRAME_LEN_MAX];
    while *frames_left > 0 {
        match rustix::io::read(socket, &mut frame) {
            Ok(len) => {
                *frames_left -= 1;
                if let Some((address, from)) = use_shown_by(&frame[..len]) {
                    tell(address, from);
                }
            }
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // What still comes is left in the socket; there is nothing to wait for until the time is over.
    std::thread::sleep(PROBE_EVERY);
    Ok(())
}

fn question(address: IpAddr, from: MacAddress) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_probe(address, from),
        IpAddr::V6(address) => solicitation(address, from),
    }
}

/// An ARP request without a sender's address (RFC 826; RFC 5227, section 1.1).
fn arp_probe(address: Ipv4Addr, from: MacAddress) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], from, ETHER_TYPE_ARP);
    frame.extend([0, 1]);
    frame.extend(ETHER_TYPE_IPV4);
    frame.extend([6, 4, 0, 1]);
    frame.extend(from.0);
    frame.extend([0; 4 + 6]);
    frame.extend(address.octets());
    frame
}

/// A neighbour solicitation from the unspecified address to the solicited-node group (RFC 4861, section 4.3; RFC 4291,
/// section 2.7.1).
fn solicitation(address: Ipv6Addr, from: MacAddress) -> Vec<u8> {
    let target = address.octets();
    let group =
        Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, target[13], target[14], target[15]]);
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    let sum = checksum(Ipv6Addr::UNSPECIFIED, group, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet([0x33, 0x33, 0xff, target[13], target[14], target[15]], from, ETHER_TYPE_IPV6);
    let len = u16::try_from(message.len()).expect("24 bytes");
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

pub(crate) fn ethernet(to: [u8; 6], from: MacAddress, ether_type: u16) -> Vec<u8> {
    [&to[..], &from.0, &ether_type.to_be_bytes()].concat()
}

/// The checksum of an ICMPv6 message of whole 16-bit words (RFC 4443, section 2.3).
pub(crate) fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let len = u32::try_from(message.len()).expect("a few bytes").to_be_bytes();
    let parts = [&from.octets()[..], &to.octets(), &len, &[0, 0, 0, ICMPV6], message];
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the carries are added")
}

/// Whose use of which address a frame shows: any ARP packet by its sender's address, a probe for one by the address that
/// somebody else is about to use, a neighbour advertisement by its target.
fn use_shown_by(frame: &[u8]) -> Option<(IpAddr, MacAddress)> {
    let ether_type = u16::from_be_bytes(bytes(frame, 12)?);
    match ether_type {
        ETHER_TYPE_ARP => {
            let of_ethernet = bytes::<4>(frame, NETWORK)? == [0, 1, ETHER_TYPE_IPV4[0], ETHER_TYPE_IPV4[1]];
            let (from, sender) =
                (MacAddress(bytes(frame, NETWORK + 8)?), Ipv4Addr::from(bytes(frame, NETWORK + 14)?));
            let target = Ipv4Addr::from(bytes(frame, NETWORK + 24)?);
            let used = if sender.is_unspecified() { target } else { sender };
            of_ethernet.then_some((used.into(), from))
        }
        ETHER_TYPE_IPV6 => {
            let is_advertisement = bytes::<1>(frame, NETWORK + 6)? == [ICMPV6]
                && bytes::<1>(frame, TRANSPORT)? == [NEIGHBOUR_ADVERTISEMENT];
            let target = Ipv6Addr::from(bytes::<16>(frame, TRANSPORT + 8)?);
            is_advertisement.then_some((target.into(), MacAddress(bytes(frame, 6)?)))
        }
        _ => None,
    }
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);

    #[test]
    fn questions_look_as_the_standards_say() {
        let arp = question("10.32.0.9".parse().unwrap(), FROM);
        let wanted = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0,
            0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 32, 0, 9,
        ];
        assert_eq!(arp, wanted);

        let v6: Ipv6Addr = "fd00::12:3456".parse().unwrap();
        let solicitation = question(v6.into(), FROM);
        assert_eq!(solicitation.len(), TRANSPORT + 24);
        assert_eq!(solicitation[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(solicitation[NETWORK + 7], 255, "a lesser hop limit is ignored by all");
        let group = Ipv6Addr::from(bytes::<16>(&solicitation, NETWORK + 24).unwrap());
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        // With its own sum in it a message sums up to nothing.
        assert_eq!(checksum(Ipv6Addr::UNSPECIFIED, group, &solicitation[TRANSPORT..]), 0);
    }

    #[test]
    fn answers_and_the_probes_of_others_show_an_address_and_nothing_else_does() {
        let address: Ipv4Addr = "10.32.0.9".parse().unwrap();
        let mut frame = arp_probe(address, FROM);
        assert_eq!(use_shown_by(&frame), Some((address.into(), FROM)), "another host's probe");
        frame[NETWORK + 7] = 2;
        frame[NETWORK + 14..NETWORK + 18].copy_from_slice(&[10, 32, 0, 8]);
        assert_eq!(use_shown_by(&frame), Some(("10.32.0.8".parse().unwrap(), FROM)), "a reply");

        let v6: Ipv6Addr = "fd00::9".parse().unwrap();
        let mut frame = solicitation(v6, FROM);
        assert_eq!(use_shown_by(&frame), None, "a question says nothing of its sender");
        frame[TRANSPORT] = NEIGHBOUR_ADVERTISEMENT;
        assert_eq!(use_shown_by(&frame), Some((v6.into(), FROM)));
        for len in 0..frame.len() {
            assert_eq!(use_shown_by(&frame[..len]), None, "{len} bytes");
        }
    }
}
