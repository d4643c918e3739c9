//! `mesh capture`: what crosses the overlay, as a file that tcpdump and Wireshark read (pcap, version 2.4, in nanoseconds).
//!
//! It looks at the interfaces by which frames leave and enter the bridge, whatever carries them from there. A router's own work
//! is none of it: when nobody captures it costs nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime}; // house: a capture says when a frame passed

use mesh_api::{Command, ErrorKind, Failure, MacDocument, PeerDocument, PortDocument, StatusDocument};
use mesh_daemon::{BridgeName, NameError, Sniffer};

use crate::args::CaptureArgs;
use crate::control::connect;
use crate::problems::Problems;
use crate::{address, launch, process};

/// Longest frame that is kept whole, in bytes: a super-frame of 64 KiB with its headers.
const SNAP_LEN: u32 = 256 << 10;

/// Link type of Ethernet in a pcap file.
const LINKTYPE_ETHERNET: u32 = 1;

/// Marks a pcap file with nanoseconds, in the byte order of whoever wrote it.
const MAGIC: u32 = 0xa1b2_3c4d;

/// How often it is asked which hardware addresses a peer has, and whether somebody still reads.
const TURN: Duration = Duration::from_secs(1);

/// Which frames are wanted.
enum Filter {
    All,
    /// From and to these hardware addresses, which are those of a peer's containers.
    Peer {
        peer_id: String,
        macs: BTreeSet<[u8; 6]>,
    },
}

/// Writes frames until it is interrupted, nobody reads any more, or there are as many as were wanted.
pub(crate) fn capture(args: &CaptureArgs) -> Result<(), Failure> {
    let mut file: Box<dyn Write> = match &args.write {
        Some(path) => Box::new(File::create(path).map_err(|error| not_written(path, &error))?),
        None if io::stdout().is_terminal() => {
            return Err(Failure::new(ErrorKind::Refused, "frames are no text for a terminal")
                .with_hint("mesh capture | tcpdump -nr -, or -w FILE"));
        }
        None => Box::new(io::stdout()),
    };
    let (sniffers, mut filter) = wanted(args)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut buffer = vec![0; SNAP_LEN as usize];
    let mut dropped = 0;
    let result = write_head(&mut file).and_then(|()| {
        while left > 0 {
            filter.refresh(args);
            let turn_ends = Instant::now() + TURN;
            while left > 0 && Instant::now() < turn_ends {
                let mut idle = true;
                for sniffer in &sniffers {
                    let Some(sniffed) = sniffer.read(&mut buffer)? else { continue };
                    idle = false;
                    if left > 0 && filter.wants(&buffer[..sniffed.len]) {
                        write_frame(&mut file, &buffer[..sniffed.len], sniffed.original_len)?;
                        left -= 1;
                    }
                }
                if idle {
                    file.flush()?;
                    process::any_readable(&sniffers, turn_ends)?;
                }
            }
            dropped += sniffers.iter().map(Sniffer::take_dropped).sum::<u64>();
        }
        file.flush()
    });
    if dropped > 0 {
        crate::output::warn(
            &format!("{dropped} frames came too fast and were not written"),
            crate::args::Output::Human,
        );
    }
    match result {
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(ErrorKind::Internal, format!("the capture ends: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Where to look, and for what.
fn wanted(args: &CaptureArgs) -> Result<(Vec<Sniffer>, Filter), Failure> {
    let status: StatusDocument = connect(&args.router)?.call(Command::Status)?;
    let failed = |error: mesh_daemon::Error| launch::failure(&error);
    if let Some(container) = &args.container {
        let mut problems = Problems::default();
        let Some(target) = address::container(container, &mut problems) else {
            return Err(problems.into_failure("CONTAINER is named as for 'mesh attach'"));
        };
        let command = Command::Port { container: target, ifname: args.ifname.clone() };
        let place: PortDocument = connect(&args.router)?.call(command)?;
        let sniffer = mesh_daemon::sniff_port(&place.port).map_err(failed)?;
        let unknown = || Failure::new(ErrorKind::Unknown, format!("{container} is not attached"));
        return Ok((vec![sniffer.ok_or_else(unknown)?], Filter::All));
    }
    let filter = match &args.peer {
        None => Filter::All,
        Some(name) => {
            let peers: Vec<PeerDocument> = connect(&args.router)?.call(Command::Peers)?;
            let named: Vec<_> = peers
                .iter()
                .filter(|peer| peer.nickname == *name || peer.peer_id.starts_with(name.as_str()))
                .collect();
            let [peer] = named[..] else {
                return Err(Failure::new(
                    ErrorKind::Unknown,
                    format!("{} peers are called {}", named.len(), name.escape_debug()),
                )
                .with_hint("'mesh status peers' shows their ids"));
            };
            Filter::Peer { peer_id: peer.peer_id.clone(), macs: BTreeSet::new() }
        }
    };
    let no_bridge = |error: NameError| Failure::new(ErrorKind::Internal, error.to_string());
    let bridge: BridgeName = status.router.bridge.parse().map_err(no_bridge)?;
    Ok((mesh_daemon::sniff_uplinks(&bridge).map_err(failed)?, filter))
}

impl Filter {
    /// Asks the router anew which hardware addresses the peer has; without an answer they stay as they were.
    fn refresh(&mut self, args: &CaptureArgs) {
        let Self::Peer { peer_id, macs } = self else { return };
        let answer = connect(&args.router).and_then(|client| client.call::<Vec<MacDocument>>(Command::Macs));
        if let Ok(known) = answer {
            *macs = known
                .iter()
                .filter(|entry| entry.peer_id == *peer_id)
                .filter_map(|entry| mac(&entry.mac))
                .collect();
        }
    }

    fn wants(&self, frame: &[u8]) -> bool {
        let Self::Peer { macs, .. } = self else { return true };
        frame.len() >= 12 && macs.iter().any(|mac| frame[..6] == *mac || frame[6..12] == *mac)
    }
}

/// Six pairs of hexadecimal digits with colons.
fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn write_head(file: &mut dyn Write) -> io::Result<()> {
    for word in [MAGIC, 2 | 4 << 16, 0, 0, SNAP_LEN, LINKTYPE_ETHERNET] {
        file.write_all(&word.to_le_bytes())?;
    }
    Ok(())
}

fn write_frame(file: &mut dyn Write, frame: &[u8], original_len: usize) -> io::Result<()> {
    let epoch = SystemTime::UNIX_EPOCH; // house: from which pcap counts
    let now = SystemTime::now().duration_since(epoch).unwrap_or_default(); // house: nothing is ordered by it
    let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
    for word in [seconds, now.subsec_nanos(), frame.len() as u32, original_len as u32] {
        file.write_all(&word.to_le_bytes())?;
    }
    file.write_all(frame)
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Invalid, format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_that_of_version_2_4() {
        let mut head = Vec::new();
        write_head(&mut head).unwrap();
        assert_eq!(head[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!((head.len(), head[20]), (24, 1));
    }

    #[test]
    fn a_peers_frames_are_those_from_and_to_its_addresses() {
        let own = mac("02:00:00:00:00:07").unwrap();
        let filter = Filter::Peer { peer_id: "a1".to_owned(), macs: BTreeSet::from([own]) };
        let frame = |to: [u8; 6], from: [u8; 6]| [to, from].concat();
        assert!(filter.wants(&frame(own, [1; 6])) && filter.wants(&frame([0xff; 6], own)));
        assert!(!filter.wants(&frame([1; 6], [2; 6])) && !filter.wants(&own));
        assert_eq!(mac("02:00:00:00:00"), None);
    }
}
