//! What a node counts, for `status` and metrics. Owns the names and the numbers; nothing is decided by them.

use std::collections::BTreeMap;

use mesh_crypto::HandshakeError;
use mesh_topology::carried::CHANNELS_MAX;
use mesh_wire::control::{Channel, Message};

use crate::connection::CloseCause;

/// Something that a node counts, from its start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Count {
    /// Connections of others that were let in.
    Accepted,
    /// Connections closed at once: too many came from all sides.
    RefusedByRate,
    /// Connections closed at once: too many came from there.
    RefusedBySource,
    /// Connections closed at once: too many had not completed their handshake.
    RefusedHalfOpen,
    /// Connections of others that sent more than a handshake has before they were authenticated.
    HandshakeTooLong,
    /// Handshakes that took too long.
    HandshakeTimedOut,
    /// Handshakes with something that is no router, or none of this protocol's versions.
    HandshakeNotMesh,
    /// Handshakes that failed over the secret.
    HandshakeSecret,
    /// Handshakes whose other end did not prove its identity, or has this router's own.
    HandshakeIdentity,
    /// Handshakes that broke off, or broke the protocol.
    HandshakeBroken,
    /// Peers refused after their handshake: of another network, not allowed, or a copy.
    PeerRefused,
    /// Dials that reached nobody.
    DialFailed,
    /// Sessions that began.
    SessionOpened,
    /// Sessions that ended.
    SessionClosed,
    /// Sessions ended because the peer broke the protocol.
    Violation,
    /// Sessions ended because this router has enough others.
    SessionSurplus,
    /// How often fresh data keys took the place of others within a session.
    KeysRenewed,
    /// Records that were news.
    RecordMerged,
    /// Records that were known already, or older than what is known.
    RecordKnown,
    /// Records of this router's own identity that outranked its present one.
    RecordGhost,
    /// Records that cannot be read, are too long, or find no room.
    RecordRefused,
    /// Records that their origin did not sign.
    RecordForged,
    /// News that found no room in the queue; anti-entropy carries it.
    NewsDropped,
    /// Questions whether anything differs, received.
    SummaryReceived,
    /// Those to which the answer was yes.
    SummaryDiffered,
    /// Lists of what a neighbour has, received.
    DigestReceived,
    /// Messages of a kind that this version does not know.
    MessageUnknown,
    /// Pieces of relayed sessions that went on to their next hop.
    RelayForwarded,
    /// Bytes of those pieces.
    RelayForwardedBytes,
    /// Pieces of relayed sessions that went nowhere: no way, no hops left, or too many.
    RelayDropped,
    /// Mail that its source did not sign, that nobody can read, or that was too long to be sent.
    MailRefused,
    /// How often routes were computed.
    RoutesComputed,
}

impl Count {
    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::Accepted,
        Self::RefusedByRate,
        Self::RefusedBySource,
        Self::RefusedHalfOpen,
        Self::HandshakeTooLong,
        Self::HandshakeTimedOut,
        Self::HandshakeNotMesh,
        Self::HandshakeSecret,
        Self::HandshakeIdentity,
        Self::HandshakeBroken,
        Self::PeerRefused,
        Self::DialFailed,
        Self::SessionOpened,
        Self::SessionClosed,
        Self::Violation,
        Self::SessionSurplus,
        Self::KeysRenewed,
        Self::RecordMerged,
        Self::RecordKnown,
        Self::RecordGhost,
        Self::RecordRefused,
        Self::RecordForged,
        Self::NewsDropped,
        Self::SummaryReceived,
        Self::SummaryDiffered,
        Self::DigestReceived,
        Self::MessageUnknown,
        Self::RelayForwarded,
        Self::RelayForwardedBytes,
        Self::RelayDropped,
        Self::MailRefused,
        Self::RoutesComputed,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::RefusedByRate => "refused_by_rate",
            Self::RefusedBySource => "refused_by_source",
            Self::RefusedHalfOpen => "refused_half_open",
            Self::HandshakeTooLong => "handshake_too_long",
            Self::HandshakeTimedOut => "handshake_timed_out",
            Self::HandshakeNotMesh => "handshake_not_mesh",
            Self::HandshakeSecret => "handshake_secret",
            Self::HandshakeIdentity => "handshake_identity",
            Self::HandshakeBroken => "handshake_broken",
            Self::PeerRefused => "peer_refused",
            Self::DialFailed => "dial_failed",
            Self::SessionOpened => "session_opened",
            Self::SessionClosed => "session_closed",
            Self::Violation => "violation",
            Self::SessionSurplus => "session_surplus",
            Self::KeysRenewed => "keys_renewed",
            Self::RecordMerged => "record_merged",
            Self::RecordKnown => "record_known",
            Self::RecordGhost => "record_ghost",
            Self::RecordRefused => "record_refused",
            Self::RecordForged => "record_forged",
            Self::NewsDropped => "news_dropped",
            Self::SummaryReceived => "summary_received",
            Self::SummaryDiffered => "summary_differed",
            Self::DigestReceived => "digest_received",
            Self::MessageUnknown => "message_unknown",
            Self::RelayForwarded => "relay_forwarded",
            Self::RelayForwardedBytes => "relay_forwarded_bytes",
            Self::RelayDropped => "relay_dropped",
            Self::MailRefused => "mail_refused",
            Self::RoutesComputed => "routes_computed",
        }
    }
}

impl Count {
    const fn of_handshake(error: &HandshakeError) -> Self {
        match error {
            HandshakeError::NotMesh | HandshakeError::Version { .. } => Self::HandshakeNotMesh,
            HandshakeError::PasswordMissingHere
            | HandshakeError::PasswordMissingThere
            | HandshakeError::PasswordDiffers => Self::HandshakeSecret,
            HandshakeError::SelfConnection | HandshakeError::BadIdentity => Self::HandshakeIdentity,
            HandshakeError::NotAllowed(_) => Self::PeerRefused,
            HandshakeError::RefusedByPeer(_)
            | HandshakeError::Malformed
            | HandshakeError::TooLong
            | HandshakeError::Undecryptable
            | HandshakeError::PayloadTooLong(_) => Self::HandshakeBroken,
        }
    }
}

/// The counts of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    counts: [u64; Count::ALL.len()],
    gossip: BTreeMap<Channel, GossipTraffic>,
}

/// What went over control sessions for one channel: records, and questions about them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct GossipTraffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let gossip = BTreeMap::from([(Channel::TOPOLOGY, GossipTraffic::default())]);
        Self { counts: [0; Count::ALL.len()], gossip }
    }

    /// How often it happened.
    #[must_use]
    pub const fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    /// The traffic of each channel that this router carries.
    pub fn gossip(&self) -> impl Iterator<Item = (Channel, GossipTraffic)> {
        self.gossip.iter().map(|(channel, traffic)| (*channel, *traffic))
    }

    pub(crate) const fn count(&mut self, count: Count) {
        self.add(count, 1);
    }

    pub(crate) const fn add(&mut self, count: Count, amount: u64) {
        self.counts[count as usize] = self.counts[count as usize].saturating_add(amount);
    }

    /// Counts the end of a session, or of the attempt at one.
    pub(crate) const fn count_end(&mut self, cause: &CloseCause, was_open: bool) {
        if was_open {
            self.count(Count::SessionClosed);
        }
        match cause {
            CloseCause::Dial(_) => self.count(Count::DialFailed),
            CloseCause::Handshake(error) => self.count(Count::of_handshake(error)),
            CloseCause::HandshakeTooLong => self.count(Count::HandshakeTooLong),
            CloseCause::HandshakeTimeout => self.count(Count::HandshakeTimedOut),
            CloseCause::Hello(_) => self.count(Count::HandshakeBroken),
            CloseCause::Closed if !was_open => self.count(Count::HandshakeBroken),
            CloseCause::OtherNetwork { .. } | CloseCause::Cloned(_) => self.count(Count::PeerRefused),
            CloseCause::Frame(_) | CloseCause::Message(_) | CloseCause::Rekey(_) => {
                self.count(Count::Violation);
            }
            CloseCause::Closed
            | CloseCause::Farewell(_)
            | CloseCause::Silent(_)
            | CloseCause::StreamBroken
            | CloseCause::NotReachedDirectly(_)
            | CloseCause::Duplicate
            | CloseCause::SecretRetired
            | CloseCause::AddressGone(_)
            | CloseCause::TooManyHalfOpen
            | CloseCause::TooManyAttempts
            | CloseCause::Surplus
            | CloseCause::Stopping => {}
        }
    }

    pub(crate) fn received(&mut self, message: &Message, len: usize) {
        if let Some(traffic) = self.traffic(message) {
            traffic.received = traffic.received.saturating_add(len as u64);
        }
    }

    pub(crate) fn sent(&mut self, message: &Message, len: usize) {
        if let Some(traffic) = self.traffic(message) {
            traffic.sent = traffic.sent.saturating_add(len as u64);
        }
    }

    /// Makes room for a channel that this router carries from now on. The traffic of others is not counted, so that
    /// nobody can fill this table.
    pub(crate) fn carry(&mut self, channel: Channel) {
        if self.gossip.len() <= CHANNELS_MAX {
            self.gossip.entry(channel).or_default();
        }
    }

    fn traffic(&mut self, message: &Message) -> Option<&mut GossipTraffic> {
        let channel = match message {
            Message::Gossip(gossip) => gossip.channel,
            Message::Summary(summary) => summary.channel,
            Message::Digest(digest) => digest.channel,
            Message::Ping(_)
            | Message::Pong(_)
            | Message::DataOffer(_)
            | Message::Rekey(_)
            | Message::Observed(_)
            | Message::Candidates(_)
            | Message::Network(_)
            | Message::Vxlan(_)
            | Message::Relay(_)
            | Message::Mail(_)
            | Message::Bye(_)
            | Message::Unknown(_) => return None,
        };
        self.gossip.get_mut(&channel)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_count_has_a_place_and_a_name_of_its_own() {
        let names: BTreeSet<_> = Count::ALL.iter().map(|count| count.name()).collect();
        assert_eq!(names.len(), Count::ALL.len());
        for (place, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(place, count as usize);
        }
    }
}
