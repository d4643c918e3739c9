//! Limits and times of the control plane. Protocol constants first: both ends must agree on their order of size.

use std::time::Duration;

use crate::bucket::Pace;

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

/// The initiator of a session moves both ends to fresh data keys this often, spread by ±10 %, unless its user says otherwise.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);

/// Packets under the keys of an earlier epoch are accepted this long after the next was agreed on.
pub const OLD_EPOCH_KEPT: Duration = Duration::from_secs(60);

/// Epochs of one link whose packets are accepted at once. With one more the oldest is forgotten before its time, so that a peer
/// that asks for fresh keys without end costs no memory.
pub const EPOCHS_MAX: usize = 3;

/// A digest of the topology goes to one neighbour this often, spread by ±20 %, to repair what was lost.
pub const ANTI_ENTROPY_EVERY: Duration = Duration::from_secs(10);

/// Secrets that a router accepts at once: the one in use, the next, and two more.
pub const SECRETS_MAX: usize = mesh_crypto::SECRETS_MAX;

/// A session whose secret is no longer valid is kept this long at most for another to take its place.
pub const RETIRED_KEPT: Duration = Duration::from_secs(10);

/// Packets under the keys of a session are accepted this long after another has taken its place: they were on their way,
/// or the peer did not know yet.
pub const OLD_SESSION_KEPT: Duration = Duration::from_secs(10);

/// The data link of a session that broke without a word is kept this long: by then the peer has dialed again, or is gone.
pub const ORPHAN_KEPT: Duration = Duration::from_secs(1);

/// When a second session with a peer has opened, the first has this long to show that it is still there.
pub const RIVAL_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

// Implementation constants: a router alone may change them.

/// A router that is run so much later than it asked for was asleep itself, and blames nobody for the time.
pub const ASLEEP_AFTER: Duration = Duration::from_millis(500);

/// News is collected this long before it is sent, so that a burst of changes makes one message.
pub const GOSSIP_COALESCED_FOR: Duration = Duration::from_millis(10);

/// After news of an origin was passed on, the next of the same origin waits this long; only the newest is sent then.
pub const PUSHED_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Gossip that a neighbour may have left unread, in bytes; one message more at most. The rest waits, so that a slow
/// line of 1 Mbit/s is never more than a few seconds behind, and a question by [`PING_AFTER`] is answered in time.
pub const UNREAD_LEN_MAX: u64 = 512 * 1024;

/// After so many bytes of gossip a neighbour is asked whether it has read them.
pub const UNREAD_ASKED_AFTER: u64 = 128 * 1024;

/// Records that wait to be passed on, in all and for each neighbour. Further ones are not pushed; anti-entropy carries them.
pub const NEWS_MAX: usize = 16_384;

/// What was passed on is mentioned to some neighbours so much later: by then it has come to all whom nothing keeps from it.
pub const MENTIONED_AFTER: Duration = Duration::from_millis(500);

/// To how many neighbours it is mentioned, chosen at random. Of those that missed it 98 % hear of it so, for each of
/// their neighbours does the same; the others find it by the next comparison of hashes.
pub const MENTIONED_TO: usize = 4;

/// Connections that others opened, of all sides together: 200 at once, then 50 a second. Further ones are closed at
/// once.
pub(crate) const ACCEPT_PACE: Pace = Pace { burst: 200, interval: Duration::from_millis(20) };

/// Connections from one IPv4 address or one IPv6 network of 64 bits: 10 at once, then 5 a second.
pub(crate) const SOURCE_PACE: Pace = Pace { burst: 10, interval: Duration::from_millis(200) };

/// Sources that are remembered. Each is forgotten 2 s after its last connection at the latest, and no more than 300
/// strangers and as many known hosts get in within 2 s, so that this is never reached; if it were, new ones would wait.
pub const SOURCES_MAX: usize = 1_024;

/// Connections that others opened and that have not completed the handshake. One more is closed at once.
pub const HALF_OPEN_MAX: usize = 128;

/// Those of them that come from addresses which this router does not know: the other half is kept for those it does.
pub const HALF_OPEN_STRANGERS_MAX: usize = HALF_OPEN_MAX / 2;

/// Addresses of targets and of peers that are told apart from strangers'; those beyond are taken for strangers.
pub const KNOWN_ADDRESSES_MAX: usize = 16_384;

/// Most that somebody may send before it has authenticated itself, in bytes. A handshake has some 500.
pub const UNAUTHENTICATED_LEN_MAX: usize = 4 * 1024;

/// Refused gossip that is told in the log: 16 lines at once, then one a minute. All of it is counted.
pub(crate) const COMPLAINT_PACE: Pace = Pace { burst: 16, interval: Duration::from_secs(60) };

/// A record of this router's own identity that another life numbers above its present one so many times within
/// [`CLONE_JUDGED_WITHIN`], each time higher, is the work of a copy.
pub const CLONE_ADVANCES: usize = 3;

/// See [`CLONE_ADVANCES`].
pub const CLONE_JUDGED_WITHIN: Duration = Duration::from_secs(30);

/// Other lives of this router's identity that are watched; the one longest silent makes room.
pub const CLONES_WATCHED_MAX: usize = 8;

/// A router with more connections than it wants lets one go, and then the next after this time: so that its neighbours
/// hear of each before the next is chosen.
pub const SURPLUS_EVERY: Duration = Duration::from_millis(250);

/// Routes are computed, and the data plane told, at most once in this time for each peer: a topology of 1,000 settles
/// ten times a second at most, whatever it goes through.
pub const SETTLED_PER_PEER: Duration = Duration::from_micros(100);

/// Refused connections that are remembered for `status`; the oldest makes room.
pub const REFUSALS_KEPT_MAX: usize = 16;

/// A refused connection is shown this long.
pub const REFUSAL_SHOWN_FOR: Duration = Duration::from_secs(60);

/// Announcements of MACs by all peers, in bytes together; what would not fit is refused. 10,000 peers with 300 MACs each
/// have as many.
pub const MACS_LEN_MAX: usize = 32 * 1024 * 1024;

/// Announcements of groups by all peers, in bytes together; what would not fit is refused, and its origin gets the frames of all
/// groups. 10,000 peers with 100 groups each have as many.
pub const GROUPS_LEN_MAX: usize = 8 * 1024 * 1024;

/// Records of names in one channel, in bytes together; what would not fit is refused. The number of names, in all channels
/// together, is limited by [`ENTRIES_MAX`](mesh_names::ENTRIES_MAX).
pub const NAMES_LEN_MAX: usize = 64 * 1024 * 1024;

/// Names of a peer to whom frames find no way any more are shown for so long: another way may open, and one lost probe is no
/// reason to deny what others still reach. Together with what it takes to notice, names are gone within three seconds.
pub const NAMES_WITHOUT_WAY_SHOWN: Duration = Duration::from_secs(1);

/// Entries that go into one gossip message, in bytes together; a greater one goes alone. A record of
/// [`LINKS_MAX`](mesh_wire::control::LINKS_MAX) links has about 450 kB, so that all stay below the frame limit of 1 MiB.
pub const GOSSIP_LEN: usize = 256 * 1024;

/// A peer that no chain of connections reaches is forgotten after this long. Until then its record waits for the one
/// that names it, which may come a moment later by another way.
pub const UNREACHABLE_KEPT: Duration = Duration::from_secs(1);

/// Sessions over the control sessions of others. Traffic with one more peer stays on its relays.
pub const RELAYED_SESSIONS_MAX: usize = 1_024;

/// A relayed session whose data link does not carry within this time is given up: the two cannot reach each other.
pub const PUNCH_TIME_MAX: Duration = Duration::from_secs(10);

/// Whoever comes from where a session has ended is let in before strangers for so long.
pub const ADDRESS_KNOWN_FOR: Duration = Duration::from_secs(600);
