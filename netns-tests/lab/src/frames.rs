//! Captured frames, and the questions that tests ask of them.
//!
//! Owns reading of Ethernet, IP and port numbers as far as the questions need it, and writing of pcap files.
//! The product's own parsers are not used: a test should not share its errors with what it tests.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::faults::Protocol;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERNET_HEADER_BYTES: usize = 14;
const IPV6_HEADER_BYTES: usize = 40;

/// One captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When it was read, since the capture began.
    pub at: Duration,
    /// Whether the captured host sent it; it received it otherwise.
    pub outgoing: bool,
    /// The frame from its Ethernet header on. It can be longer than the MTU where the kernel hands on
    /// super-frames.
    pub bytes: Vec<u8>,
}

/// The transport addresses of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
}

impl Frame {
    /// The Ethernet type; 0 if the frame is too short to have one.
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        self.bytes.get(12..).and_then(be16).unwrap_or(0)
    }

    /// Protocol, addresses and ports; `None` for anything but TCP and UDP over IP, for later fragments, and
    /// behind IPv6 extension headers.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        let packet = self.bytes.get(ETHERNET_HEADER_BYTES..)?;
        match self.ethertype() {
            ETHERTYPE_IPV4 => {
                let is_later_fragment = be16(packet.get(6..)?)? & 0x1fff != 0;
                if is_later_fragment {
                    return None;
                }
                let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
                let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
                transport(
                    *packet.get(9)?,
                    address(12)?.into(),
                    address(16)?.into(),
                    packet.get(header_bytes..)?,
                )
            }
            ETHERTYPE_IPV6 => {
                let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
                transport(
                    *packet.get(6)?,
                    address(8)?.into(),
                    address(24)?.into(),
                    packet.get(IPV6_HEADER_BYTES..)?,
                )
            }
            _other => None,
        }
    }

    /// The number of the protocol above IP; `None` for other frames. That of IPv6 extension headers counts as one.
    #[must_use]
    pub fn ip_protocol(&self) -> Option<u8> {
        let packet = self.bytes.get(ETHERNET_HEADER_BYTES..)?;
        match self.ethertype() {
            ETHERTYPE_IPV4 => packet.get(9).copied(),
            ETHERTYPE_IPV6 => packet.get(6).copied(),
            _other => None,
        }
    }

    /// Whether the bytes stand anywhere in the frame.
    #[must_use]
    pub fn contains(&self, bytes: &[u8]) -> bool {
        bytes.is_empty() || self.bytes.windows(bytes.len()).any(|window| window == bytes)
    }

    fn has_port(&self, protocol: Protocol, port: u16) -> bool {
        let at_port = |ends: Transport| ends.source.1 == port || ends.destination.1 == port;
        self.transport().is_some_and(|ends| ends.protocol == protocol && at_port(ends))
    }
}

/// All frames of a capture, in the order in which they passed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frames {
    frames: Vec<Frame>,
}

impl Frames {
    pub(crate) const fn new(frames: Vec<Frame>) -> Self {
        Self { frames }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing was captured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Each frame.
    pub fn iter(&self) -> std::slice::Iter<'_, Frame> {
        self.frames.iter()
    }

    /// Whether the bytes stand anywhere in any single frame.
    #[must_use]
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.frames.iter().any(|frame| frame.contains(bytes))
    }

    /// How many frames come from or go to this UDP port.
    #[must_use]
    pub fn udp_port(&self, port: u16) -> usize {
        self.count(|frame| frame.has_port(Protocol::Udp, port))
    }

    /// How many frames come from or go to this TCP port.
    #[must_use]
    pub fn tcp_port(&self, port: u16) -> usize {
        self.count(|frame| frame.has_port(Protocol::Tcp, port))
    }

    /// How many frames are as wanted.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(&Frame) -> bool) -> usize {
        self.frames.iter().filter(|frame| wanted(frame)).count()
    }

    /// Writes the frames to a pcap file, for people to look at.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let write = || -> Result<()> {
            let mut file = BufWriter::new(File::create(path)?);
            // The header of a pcap file, see pcap-savefile(5): magic for microseconds, version 2.4, two
            // unused words, the longest frame, link type Ethernet.
            for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
                file.write_all(&word.to_le_bytes())?;
            }
            for frame in &self.frames {
                let length = u32::try_from(frame.bytes.len())?;
                let seconds = u32::try_from(frame.at.as_secs())?;
                for word in [seconds, frame.at.subsec_micros(), length, length] {
                    file.write_all(&word.to_le_bytes())?;
                }
                file.write_all(&frame.bytes)?;
            }
            Ok(file.flush()?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

impl<'a> IntoIterator for &'a Frames {
    type Item = &'a Frame;
    type IntoIter = std::slice::Iter<'a, Frame>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn transport(number: u8, source: IpAddr, destination: IpAddr, segment: &[u8]) -> Option<Transport> {
    let protocol = match number {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _other => return None,
    };
    let (from, to) = (be16(segment)?, be16(segment.get(2..)?)?);
    Some(Transport { protocol, source: (source, from), destination: (destination, to) })
}

fn be16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with a UDP datagram over IPv4, from 10.0.0.1:1000 to 10.0.0.2:6783.
    fn udp_frame(payload: &[u8]) -> Frame {
        let mut bytes = vec![0; 12];
        bytes.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend([0x03, 0xe8, 0x1a, 0x7f, 0, 0, 0, 0]);
        bytes.extend(payload);
        Frame { at: Duration::from_millis(1_500), outgoing: true, bytes }
    }

    #[test]
    fn finds_ports_and_payload() {
        let frames = Frames::new(vec![udp_frame(b"some payload")]);

        assert_eq!((frames.udp_port(6783), frames.udp_port(1000), frames.tcp_port(6783)), (1, 1, 0));
        assert!(frames.contains(b"payload"));
        assert!(!frames.contains(b"other"));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut frame = udp_frame(b"");
        frame.bytes[ETHERNET_HEADER_BYTES + 7] = 1;

        assert_eq!(frame.transport(), None);
    }

    #[test]
    fn a_frame_cut_off_anywhere_is_read_without_panic() {
        let whole = udp_frame(b"xy");
        for length in 0..whole.bytes.len() {
            let cut = Frame { bytes: whole.bytes[..length].to_vec(), ..whole.clone() };
            let complete = length >= ETHERNET_HEADER_BYTES + 24;
            assert_eq!(cut.transport().is_some(), complete, "{length}");
        }
    }

    #[test]
    fn a_pcap_file_has_the_header_and_every_frame() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        Frames::new(vec![udp_frame(b"abc")]).write_pcap(&path).unwrap();

        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(bytes.len(), 24 + 16 + 45);
    }
}
