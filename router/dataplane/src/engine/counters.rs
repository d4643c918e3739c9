//! What the data plane counts. Each dropped frame or datagram has a reason with a name; nothing is lost in silence.
//! Owns the names and the numbers; who reads them out is the daemon's matter.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a frame or a datagram went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum DropReason {
    /// A captured frame without a whole Ethernet header.
    FrameTooShort,
    /// A frame whose source is a group or all zero.
    BadSource,
    /// Spanning tree, LACP, LLDP and the like: not for other segments.
    LinkLocalControl,
    /// The local bridge delivers it.
    DestinationIsLocal,
    /// No usable link leads to the destination peer.
    NoRoute,
    /// The frame is from or to an address that each host has for itself.
    NodeLocal,
    /// The kernel handed over a frame that is to be cut or finished in a way that it was not offered.
    SuperFrame,
    /// A datagram that has no header of this protocol and version.
    NotSleeve,
    /// No session has that receiver index.
    UnknownReceiver,
    /// A clear packet for a sealed session, or the other way round.
    WrongProtection,
    /// The counter was seen before, or is too old to know.
    Replayed,
    /// Tag or cookie is wrong.
    NotAuthentic,
    /// So much that was not authentic came from elsewhere than the neighbour that this was not looked at.
    GarbageLimit,
    /// A message whose payload does not fit its kind, or a body that ends inside a message.
    MalformedMessage,
    /// A message of a kind that this version does not know.
    UnknownMessage,
    /// A second probe in one packet: one packet gets one reply at most.
    SurplusProbe,
    /// A frame of this router's own came back.
    OwnFrame,
    /// A relayed frame has crossed too many links.
    TimeToLiveExpired,
    /// The next hop is the neighbour that the frame came from.
    BackToIngress,
    /// The next hop is the source of the frame.
    BackToOrigin,
    /// A relayed broadcast from another neighbour than the parent in the source's tree.
    NotFromParent,
    /// A relayed broadcast from a source of whose tree nothing is known.
    NoTree,
    /// A relayed broadcast that came before.
    Duplicate,
    /// There is no key to send with, or it has been withdrawn.
    NoSession,
    /// The session's key has sealed as many packets as it may.
    KeyExhausted,
    /// The datagram is longer than the path, the socket or the message's length field takes.
    TooLong,
    /// The frame is longer than the path takes, and its sender was told so, unless many others just were.
    TooBig,
    /// A message of which not all parts came.
    Incomplete,
    /// The socket's buffer is full.
    SocketFull,
    /// The host has no way to the neighbour's address.
    Unreachable,
    /// The socket refused the datagram for another reason.
    SendFailed,
    /// The TAP interface refused the frame: it is down, or full.
    InjectFailed,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 32] = [
        Self::FrameTooShort,
        Self::BadSource,
        Self::LinkLocalControl,
        Self::DestinationIsLocal,
        Self::NoRoute,
        Self::NodeLocal,
        Self::SuperFrame,
        Self::NotSleeve,
        Self::UnknownReceiver,
        Self::WrongProtection,
        Self::Replayed,
        Self::NotAuthentic,
        Self::GarbageLimit,
        Self::MalformedMessage,
        Self::UnknownMessage,
        Self::SurplusProbe,
        Self::OwnFrame,
        Self::TimeToLiveExpired,
        Self::BackToIngress,
        Self::BackToOrigin,
        Self::NotFromParent,
        Self::NoTree,
        Self::Duplicate,
        Self::NoSession,
        Self::KeyExhausted,
        Self::TooLong,
        Self::TooBig,
        Self::Incomplete,
        Self::SocketFull,
        Self::Unreachable,
        Self::SendFailed,
        Self::InjectFailed,
    ];

    /// The reason's name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FrameTooShort => "frame_too_short",
            Self::BadSource => "bad_source",
            Self::LinkLocalControl => "link_local_control",
            Self::DestinationIsLocal => "destination_is_local",
            Self::NoRoute => "no_route",
            Self::NodeLocal => "node_local",
            Self::SuperFrame => "super_frame",
            Self::NotSleeve => "not_sleeve",
            Self::UnknownReceiver => "unknown_receiver",
            Self::WrongProtection => "wrong_protection",
            Self::Replayed => "replayed",
            Self::NotAuthentic => "not_authentic",
            Self::GarbageLimit => "garbage_limit",
            Self::MalformedMessage => "malformed_message",
            Self::UnknownMessage => "unknown_message",
            Self::SurplusProbe => "surplus_probe",
            Self::OwnFrame => "own_frame",
            Self::TimeToLiveExpired => "time_to_live_expired",
            Self::BackToIngress => "back_to_ingress",
            Self::BackToOrigin => "back_to_origin",
            Self::NotFromParent => "not_from_parent",
            Self::NoTree => "no_tree",
            Self::Duplicate => "duplicate",
            Self::NoSession => "no_session",
            Self::KeyExhausted => "key_exhausted",
            Self::TooLong => "too_long",
            Self::TooBig => "too_big",
            Self::Incomplete => "incomplete",
            Self::SocketFull => "socket_full",
            Self::Unreachable => "unreachable",
            Self::SendFailed => "send_failed",
            Self::InjectFailed => "inject_failed",
        }
    }
}

/// What is worth counting though nothing was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Event {
    /// A relayed broadcast came from a router that sees another topology.
    TopologyDiffers,
    /// A MAC moved to another owner.
    MacMoved,
    /// A frame came from a MAC that had moved too often, and stays where it is.
    MacFrozen,
    /// A MAC was not learnt because the table is full.
    MacTableFull,
    /// A report found the control plane's queue full.
    ReportLost,
    /// A frame for a group of which no other host has members stayed here.
    GroupWithoutMembers,
    /// A message about members of groups stayed here, or went only to hosts that want those of all groups.
    MembershipKept,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 7] = [
        Self::TopologyDiffers,
        Self::MacMoved,
        Self::MacFrozen,
        Self::MacTableFull,
        Self::ReportLost,
        Self::GroupWithoutMembers,
        Self::MembershipKept,
    ];

    /// The event's name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TopologyDiffers => "topology_differs",
            Self::MacMoved => "mac_moved",
            Self::MacFrozen => "mac_frozen",
            Self::MacTableFull => "mac_table_full",
            Self::ReportLost => "report_lost",
            Self::GroupWithoutMembers => "group_without_members",
            Self::MembershipKept => "membership_kept",
        }
    }
}

/// Where frames pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Path {
    /// The local bridge: captured (in) and injected (out).
    Bridge,
    /// Frames in sleeve packets of neighbours, however wrapped.
    Sleeve,
    /// The part of [`Path::Sleeve`] that is sent on for others (out); counted once for each copy.
    Relay,
}

impl Path {
    /// All paths.
    pub const ALL: [Self; 3] = [Self::Bridge, Self::Sleeve, Self::Relay];

    /// The path's name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Sleeve => "sleeve",
            Self::Relay => "relay",
        }
    }
}

/// Which way, seen from this router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Direction {
    /// Into the router.
    In,
    /// Out of it.
    Out,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::In, Self::Out];

    /// The direction's name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// Frames and their bytes (Ethernet header included, wrapping not).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The counters of one thread, written by it alone and read by others: relaxed atomics are enough, and no cache
/// line is fought over.
#[derive(Debug, Default)]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
    events: [AtomicU64; Event::ALL.len()],
    frames: [[AtomicU64; Direction::ALL.len()]; Path::ALL.len()],
    bytes: [[AtomicU64; Direction::ALL.len()]; Path::ALL.len()],
}

impl Counters {
    /// Counts a dropped frame or datagram.
    pub fn dropped(&self, reason: DropReason) {
        self.all_dropped(reason, 1);
    }

    /// Counts `count` dropped frames.
    pub fn all_dropped(&self, reason: DropReason, count: usize) {
        self.drops[reason as usize].fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts an event.
    pub fn happened(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a frame of `len` bytes.
    pub fn passed(&self, path: Path, direction: Direction, len: usize) {
        self.all_passed(path, direction, 1, len);
    }

    /// Counts `frames` frames, of `len` bytes together.
    pub fn all_passed(&self, path: Path, direction: Direction, frames: usize, len: usize) {
        self.frames[path as usize][direction as usize].fetch_add(frames as u64, Ordering::Relaxed);
        self.bytes[path as usize][direction as usize].fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// Counters at one moment, summed over threads.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CounterSnapshot {
    drops: [u64; DropReason::ALL.len()],
    events: [u64; Event::ALL.len()],
    traffic: [[Traffic; Direction::ALL.len()]; Path::ALL.len()],
}

impl CounterSnapshot {
    /// Adds one thread's counters.
    pub fn add(&mut self, counters: &Counters) {
        for reason in DropReason::ALL {
            self.drops[reason as usize] += counters.drops[reason as usize].load(Ordering::Relaxed);
        }
        for event in Event::ALL {
            self.events[event as usize] += counters.events[event as usize].load(Ordering::Relaxed);
        }
        for (path, direction) in
            Path::ALL.into_iter().flat_map(|p| Direction::ALL.map(|d| (p as usize, d as usize)))
        {
            let sum = &mut self.traffic[path][direction];
            sum.frames += counters.frames[path][direction].load(Ordering::Relaxed);
            sum.bytes += counters.bytes[path][direction].load(Ordering::Relaxed);
        }
    }

    /// Frames and datagrams dropped for this reason.
    #[must_use]
    pub const fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// How often this happened.
    #[must_use]
    pub const fn events(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    /// What passed here in this direction.
    #[must_use]
    pub const fn traffic(&self, path: Path, direction: Direction) -> Traffic {
        self.traffic[path as usize][direction as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_counter_has_a_place_and_a_name_of_its_own() {
        assert!(DropReason::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
        assert!(Event::ALL.iter().enumerate().all(|(at, event)| *event as usize == at));
        assert!(Path::ALL.iter().enumerate().all(|(at, path)| *path as usize == at));
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }

    #[test]
    fn a_snapshot_sums_over_threads() {
        let threads = [Counters::default(), Counters::default()];
        for thread in &threads {
            thread.dropped(DropReason::Replayed);
            thread.happened(Event::MacMoved);
            thread.passed(Path::Bridge, Direction::In, 100);
            thread.all_passed(Path::Sleeve, Direction::Out, 3, 250);
        }
        let mut sum = CounterSnapshot::default();
        threads.iter().for_each(|thread| sum.add(thread));
        assert_eq!(sum.drops(DropReason::Replayed), 2);
        assert_eq!(sum.drops(DropReason::NotSleeve), 0);
        assert_eq!(sum.events(Event::MacMoved), 2);
        assert_eq!(sum.traffic(Path::Bridge, Direction::In), Traffic { frames: 2, bytes: 200 });
        assert_eq!(sum.traffic(Path::Sleeve, Direction::Out), Traffic { frames: 6, bytes: 500 });
        assert_eq!(sum.traffic(Path::Bridge, Direction::Out), Traffic::default());
    }
}
