//! The data plane of a played peer: it answers probes, and plays a container that answers ARP and pings.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_crypto::{DataKeys, OpeningKey, SealingKey};
use mesh_wire::sleeve::{Envelope, HEADER_LEN, Header, Message, Messages, PacketKind, Probe, TimeToLive};
use mesh_wire::{PeerId, ReceiverIndex};

/// The player's own probes, and looks whether the play is over, come so often.
const EVERY: Duration = Duration::from_millis(100);

/// Where in a frame of ARP for IPv4 (RFC 826) and of a ping (RFC 791 without options, RFC 792) things stand.
const ETHER_TYPE: std::ops::Range<usize> = 12..14;
const ARP_OPERATION: usize = 21;
const ARP_SENDER: usize = 22;
const ARP_TARGET: usize = 32;
const ARP_TARGET_IP: std::ops::Range<usize> = 38..42;
const IP_PROTOCOL: usize = 23;
const IP_DESTINATION: std::ops::Range<usize> = 30..34;
const ICMP_TYPE: usize = 34;
const ICMP_CHECKSUM: std::ops::Range<usize> = 36..38;

/// The container that a played peer has.
#[derive(Clone, Copy)]
pub(crate) struct PlayedContainer {
    pub(crate) mac: [u8; 6],
    pub(crate) ip: Ipv4Addr,
}

impl PlayedContainer {
    /// What the container answers to a frame: who asks for its address, and who pings it.
    fn answer(self, frame: &[u8]) -> Option<Vec<u8>> {
        let ip = self.ip.octets();
        let mut answer = frame.to_vec();
        answer[..6].copy_from_slice(frame.get(6..12)?);
        answer[6..12].copy_from_slice(&self.mac);
        if frame.get(ETHER_TYPE)? == [8, 6] && frame.get(ARP_TARGET_IP)? == ip && frame[ARP_OPERATION] == 1 {
            answer[ARP_OPERATION] = 2;
            answer[ARP_SENDER..ARP_SENDER + 10].copy_from_slice(&[&self.mac[..], &ip].concat());
            answer[ARP_TARGET..ARP_TARGET + 10].copy_from_slice(&frame[ARP_SENDER..ARP_SENDER + 10]);
            return Some(answer);
        }
        let is_ping = frame.get(ETHER_TYPE)? == [8, 0] && frame.get(IP_PROTOCOL) == Some(&1);
        if is_ping && frame.get(IP_DESTINATION)? == ip && frame.get(ICMP_TYPE) == Some(&8) {
            answer[26..30].copy_from_slice(&ip);
            answer[IP_DESTINATION].copy_from_slice(&frame[26..30]);
            answer[ICMP_TYPE] = 0;
            // The type has become less by 8, so the sum's complement is greater by as much (RFC 1624).
            let sum = u16::from_be_bytes(frame.get(ICMP_CHECKSUM)?.try_into().ok()?);
            let (sum, carry) = sum.overflowing_add(8 << 8);
            answer[ICMP_CHECKSUM].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
            return Some(answer);
        }
        None
    }
}

/// A link of a played peer with one router, sealed.
pub(crate) struct Overlay {
    pub(crate) me: PeerId,
    pub(crate) neighbour: PeerId,
    pub(crate) socket: UdpSocket,
    pub(crate) to: SocketAddr,
    /// What the router has offered.
    pub(crate) index: ReceiverIndex,
    pub(crate) keys: DataKeys,
    pub(crate) container: PlayedContainer,
    /// Comes before the messages of each packet: what the router does not know, and passes over.
    pub(crate) unknown: Vec<u8>,
}

impl Overlay {
    /// Plays until it is over. Messages of which the player knows nothing are passed over.
    pub(crate) fn play(self, over: &AtomicBool) -> Result<()> {
        let sealing = SealingKey::new(&self.keys.send).context("frames are sealed")?;
        let opening = OpeningKey::new(&self.keys.receive).context("frames are sealed")?;
        self.socket.set_read_timeout(Some(EVERY))?;
        let mut counter = 0;
        let mut send = |messages: &[Message<'_>]| -> Result<()> {
            counter += 1;
            let header = Header { kind: PacketKind::Sealed, receiver: self.index, counter }.encode();
            let mut body = self.unknown.clone();
            messages.iter().try_for_each(|message| message.encode(&mut body))?;
            let tag = sealing.seal_in_place(counter, &header, &mut body);
            self.socket.send_to(&[&header[..], &body, &tag].concat(), self.to)?;
            Ok(())
        };
        while !over.load(Ordering::Relaxed) {
            let mut datagram = [0; 2048];
            let len = match self.socket.recv(&mut datagram) {
                Ok(len) => len,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    send(&[Message::Probe(Probe { sequence: 1, sent_ns: 1 })])?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Ok(header) = Header::decode(&datagram[..len]) else { continue };
            let Some((head, body)) = datagram[..len].split_first_chunk_mut::<HEADER_LEN>() else { continue };
            let Ok(len) = opening.open_in_place(header.counter, head, body) else { continue };
            for message in Messages::new(&body[..len]).filter_map(Result::ok) {
                match message {
                    Message::Probe(probe) => send(&[Message::ProbeReply(probe)])?,
                    Message::Frame { envelope, frame } => {
                        if let Some(frame) = self.container.answer(frame) {
                            send(&[Message::Frame { envelope: self.back(envelope), frame: &frame }])?;
                        }
                    }
                    // As one of an earlier version, it knows nothing of sizes and parts.
                    Message::ProbeReply(_)
                    | Message::Part(_)
                    | Message::Deaf
                    | Message::SizeProbe { .. }
                    | Message::SizeReply { .. } => {}
                }
            }
        }
        Ok(())
    }

    /// How an answer to what came in `envelope` goes back.
    fn back(&self, envelope: Envelope) -> Envelope {
        match envelope {
            Envelope::Direct => Envelope::Direct,
            Envelope::Unicast { source, .. } | Envelope::Broadcast { source, .. }
                if source == self.neighbour =>
            {
                Envelope::Direct
            }
            Envelope::Unicast { source, .. } | Envelope::Broadcast { source, .. } => {
                Envelope::Unicast { ttl: TimeToLive::MAX, source: self.me, destination: source }
            }
        }
    }
}
