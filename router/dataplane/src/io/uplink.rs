//! The end of the bridge's uplink that the data plane holds: a queue of a TAP interface, or packet capture on a veth.
//! Owns what the two have in common, and nothing of how either works.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::pcap::PcapQueue;
use super::tap::TapQueue;
use crate::engine::merge::SuperFrames;
use crate::engine::offload::{BadOffload, Offload};
use crate::engine::{Injection, Merger};

/// Where frames are captured and injected. Reading and writing never wait.
pub(crate) enum UplinkQueue {
    Tap(TapQueue),
    Pcap(PcapQueue),
}

/// A frame was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Captured {
    /// Its length.
    pub(crate) len: usize,
    /// What the kernel left to be done.
    pub(crate) offload: Result<Offload, BadOffload>,
}

impl UplinkQueue {
    /// Reads a frame into `buffer`, of which 65,553 bytes are always enough.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; anything else means that the interface is of no use any more.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Captured> {
        match self {
            Self::Tap(queue) => queue.read(buffer),
            Self::Pcap(queue) => queue.read(buffer),
        }
    }

    /// Hands a frame to the bridge, or a super-frame, if it comes from a [`merger`](Self::merger) of this queue.
    ///
    /// # Errors
    /// As the kernel says: `EIO` or `ENETDOWN` while the interface is down.
    pub(crate) fn write(&self, injection: &Injection<'_>) -> io::Result<()> {
        match self {
            Self::Tap(queue) => queue.write(injection),
            Self::Pcap(queue) => queue.write(injection.head),
        }
    }

    /// What makes of frames what this queue takes.
    pub(crate) fn merger<'f>(&self) -> Merger<'f> {
        match self {
            Self::Tap(queue) => Merger::new(queue.takes()),
            Self::Pcap(_) => Merger::new(SuperFrames::Nothing),
        }
    }
}

impl AsFd for UplinkQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tap(queue) => queue.as_fd(),
            Self::Pcap(queue) => queue.as_fd(),
        }
    }
}
