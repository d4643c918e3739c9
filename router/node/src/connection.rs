//! One TCP connection from its first byte to its last: dialing, the handshake, the session. Owns what belongs to this
//! connection alone; what several connections must agree on is the node's.
//!
//! ```text
//!  Dialing ──► Handshaking ──► Open ──► (removed)
//!     └──────────────┴──────────────────►   with a CloseCause
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::{Alert, FrameError, FrameOpener, FrameSealer, Handshake, HandshakeError};
use mesh_topology::Target;
use mesh_wire::control::{DecodeError, Farewell, Hello, Message};
use mesh_wire::{Moment, PeerId};

use crate::data_link::DataLink;
use crate::interface::DialFailure;
use crate::limits::{HANDSHAKE_TIME_MAX, PING_AFTER, SESSION_SILENCE_MAX};

pub(crate) struct Connection {
    /// What was dialed; `None` when the other side dialed.
    pub(crate) target: Option<Target>,
    /// The other end, once known.
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) phase: Phase,
}

pub(crate) enum Phase {
    Dialing,
    Handshaking { handshake: Handshake, deadline: Moment },
    Open(Box<Open>),
}

/// A session with an authenticated peer.
pub(crate) struct Open {
    pub(crate) peer: PeerId,
    pub(crate) hello: Hello,
    pub(crate) sealer: FrameSealer,
    pub(crate) opener: FrameOpener,
    pub(crate) since: Moment,
    pub(crate) data: DataLink,
    pub(crate) pulse: Pulse,
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
    /// Another connection to the same peer is kept.
    Duplicate,
    /// Too many connections wait for their handshake.
    TooManyHalfOpen,
    /// This router stops.
    Stopping,
}

impl CloseCause {
    /// Whether trying again is pointless until somebody changes a setting.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Handshake(_) | Self::Hello(_))
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
            Self::Duplicate => f.write_str("another connection to the peer is kept"),
            Self::TooManyHalfOpen => f.write_str("too many connections wait for their handshake"),
            Self::Stopping => f.write_str("this router stops"),
        }
    }
}

impl Connection {
    pub(crate) const fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::Handshaking { .. }) && self.target.is_none()
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
                [Some(open.pulse.poll_timeout()), open.data.poll_timeout()].into_iter().flatten().min()
            }
        }
    }
}

impl Open {
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

    fn poll_timeout(&self) -> Moment {
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
