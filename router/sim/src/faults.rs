//! What can break, and the plan by which it does. Applying it is the world's business.

use std::fmt;
use std::time::Duration;

use mesh_crypto::Rng;
use mesh_wire::BootCount;

use crate::HostId;
use crate::network::below;
use crate::tcp::index_below;

/// A change of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A router ends. Nothing happens if it does not run.
    Crash {
        /// Whose.
        host: HostId,
        /// How.
        how: Crash,
    },
    /// A router starts, its host with it. Nothing happens if it runs.
    Start {
        /// Whose.
        host: HostId,
        /// With which count of lives.
        boot: Boot,
    },
    /// Packets no longer pass from one host to another.
    Block {
        /// The sender.
        from: HostId,
        /// The receiver.
        to: HostId,
    },
    /// They pass again.
    Unblock {
        /// The sender.
        from: HostId,
        /// The receiver.
        to: HostId,
    },
    /// Hosts on different sides no longer reach each other; all on one side heals.
    Partition(Vec<bool>),
    /// So many packets of a hundred are lost.
    Loss(u64),
    /// So many datagrams of a hundred arrive twice.
    Duplicates(u64),
    /// A router does nothing for a while: its process is stopped. What comes for it waits.
    Pause {
        /// Whose.
        host: HostId,
        /// For how long.
        length: Duration,
    },
    /// A host sleeps: nothing reaches it, and when it wakes its router finds the clock so much later at one stroke.
    Sleep {
        /// Which.
        host: HostId,
        /// For how long.
        length: Duration,
    },
    /// A host gets another address.
    Move(HostId),
    /// A host's NAT loses its table.
    ForgetMappings(HostId),
    /// A host's clock jumps, as after a sleep in which nobody missed it.
    ClockJump {
        /// Whose.
        host: HostId,
        /// How far.
        by: Duration,
    },
    /// All is repaired, and every router runs.
    Calm,
}

/// How a router ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// It says goodbye.
    Stopped,
    /// The process dies; its kernel resets the connections.
    Killed,
    /// The host falls silent.
    PowerCut,
}

/// The count of lives with which a router starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// One more than in the life before.
    Next,
    /// As found in a state directory that was restored from a copy.
    Restored(BootCount),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash { host, how } => write!(f, "{host} crash {how:?}"),
            Self::Start { host, boot: Boot::Next } => write!(f, "{host} start"),
            Self::Start { host, boot: Boot::Restored(boot) } => write!(f, "{host} start restored {}", boot.0),
            Self::Block { from, to } => write!(f, "block {from} -> {to}"),
            Self::Unblock { from, to } => write!(f, "unblock {from} -> {to}"),
            Self::Partition(side) => {
                f.write_str("partition ")?;
                side.iter().try_for_each(|side| f.write_str(if *side { "1" } else { "0" }))
            }
            Self::Loss(percent) => write!(f, "loss {percent} %"),
            Self::Duplicates(percent) => write!(f, "duplicates {percent} %"),
            Self::Pause { host, length } => write!(f, "{host} pauses for {} ms", length.as_millis()),
            Self::Sleep { host, length } => write!(f, "{host} sleeps for {} ms", length.as_millis()),
            Self::Move(host) => write!(f, "{host} moves"),
            Self::ForgetMappings(host) => write!(f, "the NAT of {host} forgets"),
            Self::ClockJump { host, by } => write!(f, "the clock of {host} jumps by {} s", by.as_secs()),
            Self::Calm => f.write_str("calm"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Crash,
    Partition,
    Cut,
    Loss,
    Duplicates,
    Pause,
    Sleep,
    Move,
    Mappings,
}

const KINDS: [Kind; 9] = [
    Kind::Crash,
    Kind::Partition,
    Kind::Cut,
    Kind::Loss,
    Kind::Duplicates,
    Kind::Pause,
    Kind::Sleep,
    Kind::Move,
    Kind::Mappings,
];

/// Faults during `span`, in order, from a random subset of all kinds; calm at its end.
pub(crate) fn chaos(rng: &mut Rng, hosts: usize, span: Duration) -> Vec<(Duration, Fault)> {
    let mut kinds: Vec<_> = KINDS.into_iter().filter(|_| rng.below(2) == 0).collect();
    if kinds.is_empty() {
        kinds.push(Kind::Crash);
    }
    let gap_max = Duration::from_millis(200 + rng.below(4_000));
    let mut faults = Vec::new();
    let mut at = below(rng, gap_max);
    while at < span {
        let kind = kinds[index_below(rng, kinds.len())];
        faults.extend(episode(rng, hosts, kind, at));
        at += below(rng, gap_max) + Duration::from_millis(10);
    }
    faults.retain(|(at, _)| *at < span);
    faults.push((span, Fault::Calm));
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// A fault and its end.
fn episode(rng: &mut Rng, hosts: usize, kind: Kind, at: Duration) -> Vec<(Duration, Fault)> {
    let a = HostId(index_below(rng, hosts));
    let b = HostId(index_below(rng, hosts));
    let length_max = Duration::from_secs(1 + rng_up_to(rng, 12));
    let end = at + Duration::from_millis(50) + below(rng, length_max);
    match kind {
        Kind::Crash => {
            let how = [Crash::Stopped, Crash::Killed, Crash::PowerCut][index_below(rng, 3)];
            let restored = Boot::Restored(BootCount(1 + rng.below(2)));
            let boot = if rng.below(8) == 0 { restored } else { Boot::Next };
            vec![(at, Fault::Crash { host: a, how }), (end, Fault::Start { host: a, boot })]
        }
        Kind::Partition => {
            let side = (0..hosts).map(|_| rng.below(2) == 0).collect();
            vec![(at, Fault::Partition(side)), (end, Fault::Partition(vec![false; hosts]))]
        }
        Kind::Cut => {
            let mut faults =
                vec![(at, Fault::Block { from: a, to: b }), (end, Fault::Unblock { from: a, to: b })];
            if rng.below(3) > 0 {
                faults.extend([
                    (at, Fault::Block { from: b, to: a }),
                    (end, Fault::Unblock { from: b, to: a }),
                ]);
            }
            faults
        }
        Kind::Loss => vec![(at, Fault::Loss(rng_up_to(rng, 30)))],
        Kind::Duplicates => vec![(at, Fault::Duplicates(rng_up_to(rng, 100)))],
        Kind::Pause => vec![(at, Fault::Pause { host: a, length: end - at })],
        Kind::Sleep => vec![(at, Fault::Sleep { host: a, length: end - at })],
        Kind::Move => vec![(at, Fault::Move(a))],
        Kind::Mappings => vec![(at, Fault::ForgetMappings(a))],
    }
}

fn rng_up_to(rng: &mut Rng, max: u64) -> u64 {
    rng.below(max + 1)
}
