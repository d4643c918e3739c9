//! TCP connections: two pipes of bytes that keep their order whatever the network does, and cut them anywhere. Owns
//! what is on its way; who gets it is the world's business.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use mesh_crypto::Rng;
use mesh_node::ConnectionId;
use mesh_wire::Moment;

use crate::HostId;
use crate::network::{Network, RETRANSMIT_MAX, RETRANSMIT_MIN};

/// Most pieces into which one write is cut.
const PIECES_MAX: u64 = 4;

/// A connection; its first end dialed.
pub(crate) struct Stream {
    pub(crate) ends: [End; 2],
    /// The pipe of each end carries what that end sends.
    pub(crate) pipes: [Pipe; 2],
}

/// One end of a connection, as a life of a router holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) host: HostId,
    pub(crate) life: u64,
    pub(crate) id: ConnectionId,
    pub(crate) state: EndState,
    /// The address that the other end sees. A host that has another one by now hears nothing of this connection.
    pub(crate) address: IpAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndState {
    /// Dialed; the answer has not come.
    Dialing,
    /// In use.
    Open,
    /// Closed or lost with its router. Whatever arrives is answered by a reset.
    Closed,
}

/// What is on its way in one direction.
pub(crate) struct Pipe {
    segments: VecDeque<(Moment, Segment)>,
    retransmit: Duration,
}

/// A piece of what one end sends.
pub(crate) enum Segment {
    /// The answer to a dial.
    Established,
    /// Bytes.
    Bytes(Vec<u8>),
    /// The end, orderly or not.
    Closed,
}

impl Stream {
    /// Whether nobody waits for anything on it.
    pub(crate) fn is_over(&self) -> bool {
        self.ends.iter().all(|end| end.state == EndState::Closed)
    }
}

impl Default for Pipe {
    fn default() -> Self {
        Self { segments: VecDeque::new(), retransmit: RETRANSMIT_MIN }
    }
}

impl Pipe {
    /// Puts a segment behind those on their way. Returns when it arrives if the pipe was empty.
    pub(crate) fn push(&mut self, segment: Segment, earliest: Moment) -> Option<Moment> {
        let was_empty = self.segments.is_empty();
        let at = self.segments.back().map_or(earliest, |(at, _)| earliest.max(*at));
        self.segments.push_back((at, segment));
        was_empty.then_some(at)
    }

    /// What has arrived by `now`: neighbouring bytes as one piece.
    pub(crate) fn pop(&mut self, now: Moment) -> Option<Segment> {
        self.retransmit = RETRANSMIT_MIN;
        let (_, mut first) = self.segments.pop_front_if(|(at, _)| *at <= now)?;
        if let Segment::Bytes(bytes) = &mut first {
            while let Some((_, Segment::Bytes(more))) =
                self.segments.pop_front_if(|(at, next)| *at <= now && matches!(next, Segment::Bytes(_)))
            {
                bytes.extend(more);
            }
        }
        Some(first)
    }

    /// When the next segment arrives.
    pub(crate) fn next_arrival(&self) -> Option<Moment> {
        self.segments.front().map(|(at, _)| *at)
    }

    /// The first segment did not get through: when it is tried again.
    pub(crate) fn stall(&mut self, now: Moment) -> Moment {
        let again = now + self.retransmit;
        self.retransmit = (self.retransmit * 2).min(RETRANSMIT_MAX);
        for (at, _) in &mut self.segments {
            *at = (*at).max(again);
        }
        again
    }
}

/// Cuts a write at random places and says when each piece arrives if nothing is ahead of it.
pub(crate) fn pieces(
    bytes: Vec<u8>,
    (from, to): (HostId, HostId),
    network: &Network,
    rng: &mut Rng,
    now: Moment,
) -> Vec<(Moment, Vec<u8>)> {
    let cuts = if rng.below(2) == 0 { 0 } else { rng.below(PIECES_MAX) };
    let mut places: Vec<_> =
        (0..cuts).map(|_| index_below(rng, bytes.len())).filter(|place| *place > 0).collect();
    places.sort_unstable();
    places.dedup();
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for place in places.into_iter().rev() {
        pieces.push(rest.split_off(place));
    }
    pieces.push(rest);
    let timed = |piece| (now + network.latency_with_loss(from, to, RETRANSMIT_MIN, rng), piece);
    pieces.into_iter().rev().map(timed).collect()
}

/// A number in `0..len`; `len` is not zero.
pub(crate) fn index_below(rng: &mut Rng, len: usize) -> usize {
    let drawn = rng.below(u64::try_from(len).expect("lengths fit 64 bits"));
    usize::try_from(drawn).expect("it is below a length")
}
