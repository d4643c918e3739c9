//! What the data plane tells the control plane.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_wire::PeerId;

use crate::engine::LinkReport;

/// One piece of news. [`Report::Alive`], [`Report::Dead`] and [`Report::Idle`] are offered again until they are taken,
/// and so is [`Report::RekeyWanted`]; the others are lost, and counted, when the control plane's queue is full.
#[derive(Debug)]
pub enum Report {
    /// A probe to the neighbour was answered: the link carries in both directions.
    Alive {
        /// The neighbour.
        peer: PeerId,
        /// Round-trip time.
        rtt: Duration,
    },
    /// Nothing authentic was heard of the neighbour for too long.
    Dead {
        /// The neighbour.
        peer: PeerId,
        /// For how long.
        silent_for: Duration,
    },
    /// The neighbour's packets come from another address, to which its own are now sent.
    Roamed {
        /// The neighbour.
        peer: PeerId,
        /// The address so far.
        from: SocketAddr,
        /// The address from now on.
        to: SocketAddr,
    },
    /// The key for packets to the neighbour has sealed so many that a new epoch should follow soon.
    RekeyWanted {
        /// The neighbour.
        peer: PeerId,
        /// The epoch to be replaced.
        epoch: u32,
    },
    /// Frames captured here go to a peer through others. Each thread says so once a second at most for each peer.
    Relayed {
        /// To whom.
        peer: PeerId,
    },
    /// No frame has passed on a link for [`IDLE_AFTER`](crate::engine::prober::IDLE_AFTER). Said once, until one passes.
    Idle {
        /// With whom.
        peer: PeerId,
    },
    /// How long the datagrams to the neighbour may be has settled.
    PathMtu {
        /// The neighbour.
        peer: PeerId,
        /// Bytes of UDP payload.
        datagram_len: u16,
    },
    /// A thread cannot use one of its ends; the rest goes on.
    Failed(Failure),
}

/// What a thread of the data plane has lost.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The uplink: removed, most likely. Nothing is captured or injected by this thread any more.
    #[error("the bridge's uplink is gone")]
    Uplink(#[source] io::Error),
    /// The UDP socket. It is opened anew, now and then until that helps.
    #[error("the UDP socket cannot be read")]
    Udp(#[source] io::Error),
    /// Waiting for input itself; the thread has ended.
    #[error("waiting for frames and datagrams failed")]
    Poll(#[source] io::Error),
    /// The thread, by a bug of its own.
    #[error("a thread of the data plane panicked")]
    Panic,
}

impl From<LinkReport> for Report {
    fn from(report: LinkReport) -> Self {
        match report {
            LinkReport::Alive { peer, rtt } => Self::Alive { peer, rtt },
            LinkReport::Dead { peer, silent_for } => Self::Dead { peer, silent_for },
            LinkReport::Idle { peer } => Self::Idle { peer },
        }
    }
}
