//! Why there is no session, and the one byte that tells the other side.

use std::fmt;

use mesh_wire::PeerId;

use super::HANDSHAKE_PAYLOAD_LEN_MAX;
use crate::keys::Role;

/// Why a handshake failed. The text is what an operator reads beside the address.
///
/// After any of them the handshake is gone, and nothing was learnt about the other side that could be relied on, except
/// with [`HandshakeError::SelfConnection`], [`HandshakeError::BadIdentity`] and [`HandshakeError::NotAllowed`]. The rest
/// an attacker on the path could have brought about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The first bytes are not those of a router.
    #[error("something other than a mesh router answers there")]
    NotMesh,
    /// There is no protocol version that both speak. Each pair is (least, greatest).
    #[error(
        "the protocol versions do not meet: this router speaks {}, the other {}",
        Range(*ours),
        Range(*theirs)
    )]
    Version {
        /// What this router speaks.
        ours: (u8, u8),
        /// What the other speaks.
        theirs: (u8, u8),
    },
    /// The other router has a password, and this one has none.
    #[error("the other router has a password and this one has none")]
    PasswordMissingHere,
    /// This router has a password, and the other has none.
    #[error("this router has a password and the other has none")]
    PasswordMissingThere,
    /// Both have a password, not the same. To the initiator an alert says so, which is not authenticated.
    #[error("the passwords differ")]
    PasswordDiffers,
    /// The other router gave up, and said why. Not authenticated.
    #[error("the other router refused: {0}")]
    RefusedByPeer(Alert),
    /// The other side has this router's own identity.
    #[error("that is this router itself, or a copy of its state")]
    SelfConnection,
    /// The other side broke the protocol.
    #[error("the other side's handshake is malformed")]
    Malformed,
    /// The other side's message is longer than it may be.
    #[error("the other side's handshake message is too long")]
    TooLong,
    /// A message does not decrypt: it, or a preamble before it, was changed on its way.
    #[error("the other side's handshake message does not decrypt: it was changed on its way")]
    Undecryptable,
    /// The other side does not own the identity that it shows.
    #[error("the other side could not prove its identity")]
    BadIdentity,
    /// The other side proved to be this peer, which is none of those that this router accepts.
    #[error("this router accepts certain peers only, and {0:x} is none of them")]
    NotAllowed(PeerId),
    /// This router wants to send more than fits.
    #[error("this router's own handshake payload has {0} bytes, more than {HANDSHAKE_PAYLOAD_LEN_MAX}")]
    PayloadTooLong(usize),
}

impl HandshakeError {
    /// What the other side is told. Nothing, if it is a stranger, knows it already from the preambles, or said it itself.
    pub(super) const fn alert(&self, role: Role) -> Option<Alert> {
        match self {
            Self::NotMesh
            | Self::Version { .. }
            | Self::PasswordMissingHere
            | Self::PasswordMissingThere
            | Self::RefusedByPeer(_) => None,
            Self::PasswordDiffers => match role {
                Role::Initiator => None,
                Role::Responder => Some(Alert::PasswordDiffers),
            },
            Self::SelfConnection => Some(Alert::SelfConnection),
            Self::Malformed | Self::TooLong => Some(Alert::Malformed),
            Self::Undecryptable => Some(Alert::Undecryptable),
            Self::BadIdentity => Some(Alert::BadIdentity),
            Self::NotAllowed(_) => Some(Alert::NotAllowed),
            Self::PayloadTooLong(_) => Some(Alert::Unable),
        }
    }

    /// What an alert means to the side that receives it. Only a responder can find that passwords differ.
    pub(super) const fn from_alert(alert: Alert, role: Role) -> Self {
        match (alert, role) {
            (Alert::PasswordDiffers, Role::Initiator) => Self::PasswordDiffers,
            (
                Alert::PasswordDiffers
                | Alert::SelfConnection
                | Alert::Malformed
                | Alert::Undecryptable
                | Alert::BadIdentity
                | Alert::Unable
                | Alert::NotAllowed
                | Alert::Unknown(_),
                Role::Initiator | Role::Responder,
            ) => Self::RefusedByPeer(alert),
        }
    }
}

/// Why the other side gave up: one byte, not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// 1: the passwords differ.
    PasswordDiffers,
    /// 2: we have the same identity as it.
    SelfConnection,
    /// 3: we broke the protocol.
    Malformed,
    /// 4: our message does not decrypt.
    Undecryptable,
    /// 5: we do not own the identity that we showed.
    BadIdentity,
    /// 6: it cannot go on, by a fault of its own.
    Unable,
    /// 7: it accepts certain peers only, and we are none of them.
    NotAllowed,
    /// Another byte, from a later version.
    Unknown(u8),
}

impl Alert {
    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::PasswordDiffers,
            2 => Self::SelfConnection,
            3 => Self::Malformed,
            4 => Self::Undecryptable,
            5 => Self::BadIdentity,
            6 => Self::Unable,
            7 => Self::NotAllowed,
            unknown => Self::Unknown(unknown),
        }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::PasswordDiffers => 1,
            Self::SelfConnection => 2,
            Self::Malformed => 3,
            Self::Undecryptable => 4,
            Self::BadIdentity => 5,
            Self::Unable => 6,
            Self::NotAllowed => 7,
            Self::Unknown(code) => code,
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PasswordDiffers => f.write_str("the passwords differ"),
            Self::SelfConnection => f.write_str("both have the same identity"),
            Self::Malformed => f.write_str("it finds this router's handshake malformed"),
            Self::Undecryptable => f.write_str("this router's message reached it changed"),
            Self::BadIdentity => f.write_str("it does not accept this router's identity"),
            Self::Unable => f.write_str("it cannot complete the handshake"),
            Self::NotAllowed => f.write_str("it accepts certain peers only, and this router is none of them"),
            Self::Unknown(code) => write!(f, "for a reason unknown here (code {code})"),
        }
    }
}

/// Versions from the least to the greatest, as people write them.
struct Range((u8, u8));

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, greatest) = self.0;
        if least == greatest { write!(f, "{least}") } else { write!(f, "{least} to {greatest}") }
    }
}
