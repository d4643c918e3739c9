//! One TCP connection from its first byte to its last: dialing, the handshake, the session. Owns what belongs to this
//! connection alone; what several connections must agree on is the node's.
//!
//! ```text
//!  Dialing ──► Handshaking ──► Open ──► (removed)
//!     └──────────────┴──────────────────►   with a CloseCause
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_crypto::{
    Alert, FrameError, FrameOpener, FrameSealer, Handshake, HandshakeError, Membership, RekeyError,
};
use mesh_topology::Target;
use mesh_wire::control::{DecodeError, Farewell, Hello, Message};
use mesh_wire::{Moment, NetworkId, PeerId};

use crate::data_link::DataLink;
use crate::interface::{ConnectionId, DialFailure};
use crate::limits::{HANDSHAKE_TIME_MAX, PING_AFTER, SESSION_SILENCE_MAX};
use crate::outbound::Outbound;

pub(crate) struct Connection {
    /// What was dialed; `None` when the other side dialed.
    pub(crate) target: Option<Target>,
    /// The address of this end, once known.
    pub(crate) local: Option<IpAddr>,
    /// The other end, once known.
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) phase: Phase,
}

pub(crate) enum Phase {
    Dialing,
    /// `received` bytes have come from somebody who has not authenticated itself yet.
    Handshaking {
        handshake: Handshake,
        deadline: Moment,
        received: usize,
    },
    Open(Box<Open>),
}

/// A session with an authenticated peer.
pub(crate) struct Open {
    pub(crate) peer: PeerId,
    pub(crate) hello: Hello,
    pub(crate) secured_by: Membership,
    pub(crate) sealer: FrameSealer,
    pub(crate) opener: FrameOpener,
    pub(crate) since: Moment,
    pub(crate) data: DataLink,
    pub(crate) pulse: Pulse,
    pub(crate) outbound: Outbound,
    /// The secret that opened the session is no longer valid: it ends then, unless another takes over before.
    pub(crate) retired: Option<Moment>,
    /// Another life of the peer waits for this one to be silent.
    pub(crate) challenge: Option<Challenge>,
}

/// A question whether the peer is there, which another life of it has led to.
pub(crate) struct Challenge {
    /// The other life's session.
    pub(crate) rival: ConnectionId,
    /// What the answer must bear.
    pub(crate) number: u64,
    /// By when it must come.
    pub(crate) deadline: Moment,
}

/// Signs of life of a session.
#[derive(Debug)]
pub(crate) struct Pulse {
    last_heard: Moment,
    last_ping: Option<Moment>,
}

/// What a session's silence asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PulseAction {
    Nothing,
    Ping,
    GiveUp,
}

/// Why a connection ended, in words that `status` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseCause {
    /// The address could not be reached.
    Dial(DialFailure),
    /// The two ends could not agree, or one of them could not prove what it must.
    Handshake(HandshakeError),
    /// The handshake took too long.
    HandshakeTimeout,
    /// The handshake's payload is malformed.
    Hello(DecodeError),
    /// The other end closed without a word, or the connection broke.
    Closed,
    /// The other end said why it closed.
    Farewell(Farewell),
    /// Nothing was heard for so long.
    Silent(Duration),
    /// The peer sent what cannot be opened.
    Frame(FrameError),
    /// The peer sent what cannot be read.
    Message(DecodeError),
    /// The peer's step towards fresh keys is none.
    Rekey(RekeyError),
    /// A piece of a relayed stream is missing, or belongs to somebody else.
    StreamBroken,
    /// No packet went straight to the peer within this time; frames to it stay on their relays.
    NotReachedDirectly(Duration),
    /// Another connection to the same peer is kept.
    Duplicate,
    /// The two ends belong to two networks.
    OtherNetwork {
        /// This router's.
        ours: NetworkId,
        /// The other's.
        theirs: NetworkId,
    },
    /// This peer is connected already, and at work: who calls itself so is a copy, or the original.
    Cloned(PeerId),
    /// The secret that opened the session is not among those of this router any more.
    SecretRetired,
    /// The host has lost the address of this end.
    AddressGone(IpAddr),
    /// Too many connections wait for their handshake.
    TooManyHalfOpen,
    /// Too many connections came in a short time, from there or from all sides.
    TooManyAttempts,
    /// The other end sent more than a handshake has.
    HandshakeTooLong,
    /// This router has connections enough.
    Surplus,
    /// This router stops.
    Stopping,
}

impl CloseCause {
    /// Whether trying again is pointless until somebody changes a setting.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Handshake(_)
                | Self::Hello(_)
                | Self::OtherNetwork { .. }
                | Self::Cloned(_)
                | Self::Farewell(Farewell::OtherNetwork | Farewell::NotAllowed | Farewell::Cloned)
        )
    }

    /// Whether one of the two ends has connections enough without this one.
    pub(crate) const fn is_enough(&self) -> bool {
        matches!(self, Self::Surplus | Self::Farewell(Farewell::Enough))
    }

    /// Whether the two ends are one router, as either of them has found out.
    pub(crate) const fn is_self_connection(&self) -> bool {
        matches!(
            self,
            Self::Handshake(
                HandshakeError::SelfConnection | HandshakeError::RefusedByPeer(Alert::SelfConnection)
            )
        )
    }
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(failure) => write!(f, "{failure}"),
            Self::Handshake(error) => write!(f, "{error}"),
            Self::HandshakeTimeout => {
                write!(
                    f,
                    "no handshake within {} s: is a mesh router listening there?",
                    HANDSHAKE_TIME_MAX.as_secs()
                )
            }
            Self::Hello(error) => write!(f, "an unreadable greeting: {error}"),
            Self::Closed => f.write_str("the connection was closed"),
            Self::Farewell(farewell) => write!(f, "{farewell}"),
            Self::Silent(silent) => write!(f, "nothing was heard for {} s", silent.as_secs()),
            Self::Frame(error) => write!(f, "{error}"),
            Self::Message(error) => write!(f, "{error}"),
            Self::Rekey(error) => write!(f, "{error}"),
            Self::StreamBroken => f.write_str("a piece of the relayed session is missing"),
            Self::NotReachedDirectly(tried) => {
                write!(f, "no packet reached the peer directly within {} s", tried.as_secs())
            }
            Self::Duplicate => f.write_str("another connection to the peer is kept"),
            Self::OtherNetwork { ours, theirs } => {
                write!(f, "the other router belongs to network {theirs}, and this one to network {ours}")
            }
            Self::Cloned(peer) => {
                write!(f, "peer {peer} is connected already: another router has a copy of its identity")
            }
            Self::SecretRetired => f.write_str("the secret that opened the session is no longer valid"),
            Self::AddressGone(local) => write!(f, "this host has no longer the address {local}"),
            Self::TooManyHalfOpen => f.write_str("too many connections wait for their handshake"),
            Self::TooManyAttempts => f.write_str("too many connection attempts in a short time"),
            Self::HandshakeTooLong => f.write_str("more bytes came than a handshake has"),
            Self::Surplus => {
                f.write_str("this router has connections enough; the peer is reached over others")
            }
            Self::Stopping => f.write_str("this router stops"),
        }
    }
}

impl Connection {
    pub(crate) const fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::Handshaking { .. }) && self.target.is_none() && self.remote.is_some()
    }

    pub(crate) fn open(&self) -> Option<&Open> {
        match &self.phase {
            Phase::Open(open) => Some(open),
            Phase::Dialing | Phase::Handshaking { .. } => None,
        }
    }

    pub(crate) fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.phase {
            Phase::Open(open) => Some(open),
            Phase::Dialing | Phase::Handshaking { .. } => None,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Dialing => None,
            Phase::Handshaking { deadline, .. } => Some(*deadline),
            Phase::Open(open) => {
                let asked = open.challenge.as_ref().map(|challenge| challenge.deadline);
                let pulse = Some(open.pulse.poll_timeout());
                [pulse, open.data.poll_timeout(), open.retired, asked].into_iter().flatten().min()
            }
        }
    }
}

impl Phase {
    /// Gives everybody who is waited for that much more time.
    pub(crate) fn excuse(&mut self, late: Duration) {
        match self {
            Self::Dialing => {}
            Self::Handshaking { deadline, .. } => *deadline = *deadline + late,
            Self::Open(open) => {
                open.pulse.excuse(late);
                if let Some(challenge) = &mut open.challenge {
                    challenge.deadline = challenge.deadline + late;
                }
            }
        }
    }
}

impl Open {
    /// A session that has just opened.
    pub(crate) fn new(
        peer: PeerId,
        hello: Hello,
        secured_by: Membership,
        sealer: FrameSealer,
        opener: FrameOpener,
        data: DataLink,
        now: Moment,
    ) -> Self {
        let pulse = Pulse::new(now);
        Self {
            peer,
            hello,
            secured_by,
            sealer,
            opener,
            since: now,
            data,
            pulse,
            outbound: Outbound::default(),
            retired: None,
            challenge: None,
        }
    }

    /// The frame that carries `message`.
    pub(crate) fn seal(&mut self, message: &Message) -> Result<Vec<u8>, FrameError> {
        self.sealer.seal(&message.encode())
    }
}

impl Pulse {
    pub(crate) const fn new(now: Moment) -> Self {
        Self { last_heard: now, last_ping: None }
    }

    pub(crate) const fn heard(&mut self, now: Moment) {
        self.last_heard = now;
    }

    pub(crate) fn check(&mut self, now: Moment) -> PulseAction {
        let silent = now.since(self.last_heard);
        if silent >= SESSION_SILENCE_MAX {
            return PulseAction::GiveUp;
        }
        let asked_since = self.last_ping.is_some_and(|sent| now.since(sent) < PING_AFTER);
        if silent >= PING_AFTER && !asked_since {
            self.last_ping = Some(now);
            return PulseAction::Ping;
        }
        PulseAction::Nothing
    }

    /// Nobody listened for that long.
    fn excuse(&mut self, late: Duration) {
        self.last_heard = self.last_heard + late;
        self.last_ping = self.last_ping.map(|sent| sent + late);
    }

    pub(crate) fn poll_timeout(&self) -> Moment {
        let last_sign = self.last_ping.map_or(self.last_heard, |sent| sent.max(self.last_heard));
        (last_sign + PING_AFTER).min(self.last_heard + SESSION_SILENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_session_is_asked_and_then_given_up() {
        let at = |s| Moment::from_origin(Duration::from_secs(s));
        let mut pulse = Pulse::new(at(0));
        assert_eq!(pulse.check(at(2)), PulseAction::Nothing);
        assert_eq!(pulse.check(at(3)), PulseAction::Ping);
        assert_eq!(pulse.check(at(4)), PulseAction::Nothing);
        assert_eq!(pulse.poll_timeout(), at(6));
        pulse.heard(at(5));
        assert_eq!(pulse.check(at(8)), PulseAction::Ping);
        assert_eq!(pulse.check(at(15)), PulseAction::GiveUp);
    }
}
