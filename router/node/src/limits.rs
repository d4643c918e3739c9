//! Limits and times of the control plane. Protocol constants first: both ends must agree on their order of size.

use std::time::Duration;

/// A connection that has not completed its handshake by then is closed.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// A session that has been silent this long is asked for a sign of life.
pub const PING_AFTER: Duration = Duration::from_secs(3);

/// A session that has been silent this long is dead. Data links notice a dead host much earlier, by their own probes;
/// this bounds how long its control session is kept.
pub const SESSION_SILENCE_MAX: Duration = Duration::from_secs(10);

/// Two routers may dial each other at the same moment. A session is given this long to carry packets before a second
/// one with the same peer replaces it.
pub const SIMULTANEOUS_DIAL: Duration = Duration::from_secs(2);

/// The initiator of a session moves both ends to fresh data keys this often, spread by ±10 %.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);

/// Packets under the keys of an earlier epoch are accepted this long after the next was agreed on.
pub const OLD_EPOCH_KEPT: Duration = Duration::from_secs(60);

/// A digest of the topology goes to one neighbour this often, spread by ±20 %, to repair what was lost.
pub const ANTI_ENTROPY_EVERY: Duration = Duration::from_secs(10);

/// Secrets that a router accepts at once: the one in use, the next, and two more.
pub const SECRETS_MAX: usize = 4;

// Implementation constants: a router alone may change them.

/// News is collected this long before it is sent, so that a burst of changes makes one message.
pub const GOSSIP_COALESCED_FOR: Duration = Duration::from_millis(10);

/// Up to so many neighbours, news goes to all of them; past it, to a random subset of this size.
pub const GOSSIP_FANOUT: usize = 8;

/// Connections that others opened and that have not completed the handshake. One more is closed at once.
pub const HALF_OPEN_MAX: usize = 128;

/// Refused connections that are remembered for `status`; the oldest makes room.
pub const REFUSALS_KEPT_MAX: usize = 16;

/// A refused connection is shown this long.
pub const REFUSAL_SHOWN_FOR: Duration = Duration::from_secs(60);

/// Entries that go into one gossip message, in bytes together; a greater one goes alone. A record of
/// [`LINKS_MAX`](mesh_wire::control::LINKS_MAX) links has about 450 kB, so that all stay below the frame limit of 1 MiB.
pub const GOSSIP_LEN: usize = 256 * 1024;

/// A peer that no chain of connections reaches is forgotten after this long. Until then its record waits for the one
/// that names it, which may come a moment later by another way.
pub const UNREACHABLE_KEPT: Duration = Duration::from_secs(1);
