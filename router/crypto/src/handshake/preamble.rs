//! The 16 bytes that each side says first, in clear, and what two of them agree on.
//!
//! ```text
//! 0        4             5             6      7        8           16
//! "MESH" | version min | version max | mode | suites | reserved: 0 |
//! ```
//!
//! Mode: 0 without a password, 1 with one. Suites: bit 0 is set where AES-256-GCM is preferred; other bits, like the
//! reserved bytes, are 0 when sent and ignored when received. All 16 bytes enter the prologue.

use super::HandshakeError;
use crate::aead::Suite;

/// Length of a preamble, in bytes.
pub(super) const LEN: usize = 16;

const MAGIC: &[u8; 4] = b"MESH";

/// The least and the greatest protocol version that this router speaks.
pub const VERSIONS: (u8, u8) = (1, 1);

const MODE_OPEN: u8 = 0;
const MODE_PASSWORD: u8 = 1;

const SUITE_AES_PREFERRED: u8 = 1;

/// Precedes both preambles in the prologue; 1 is the version of the handshake.
const PROLOGUE_LABEL: &[u8; 6] = b"mesh 1";

/// A preamble, as it is or was on the wire.
pub(super) struct Preamble([u8; LEN]);

/// What two preambles settle. The version is not in it as long as there is one.
pub(super) struct Agreement {
    pub(super) suite: Suite,
}

impl Preamble {
    pub(super) fn new(versions: (u8, u8), password: bool, aes_preferred: bool) -> Self {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(MAGIC);
        (bytes[4], bytes[5]) = versions;
        bytes[6] = if password { MODE_PASSWORD } else { MODE_OPEN };
        bytes[7] = if aes_preferred { SUITE_AES_PREFERRED } else { 0 };
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Takes a preamble off the front of `input`, or nothing until it is whole. Whoever does not begin with the magic is
    /// found out by the first byte that differs.
    pub(super) fn take(input: &mut Vec<u8>) -> Result<Option<Self>, HandshakeError> {
        let magic_len = input.len().min(MAGIC.len());
        if input[..magic_len] != MAGIC[..magic_len] {
            return Err(HandshakeError::NotMesh);
        }
        let Some(bytes) = input.first_chunk::<LEN>() else {
            return Ok(None);
        };
        let preamble = Self(*bytes);
        input.drain(..LEN);
        Ok(Some(preamble))
    }

    /// What this router, which sent `self`, and the other, which sent `theirs`, both can. Both sides find the same.
    pub(super) fn agree(&self, theirs: &Self) -> Result<Agreement, HandshakeError> {
        let (our_versions, their_versions) = (self.versions(), theirs.versions());
        if our_versions.0 > their_versions.1 || their_versions.0 > our_versions.1 {
            return Err(HandshakeError::Version { ours: our_versions, theirs: their_versions });
        }
        match (self.mode(), theirs.mode()) {
            (MODE_OPEN, MODE_OPEN) | (MODE_PASSWORD, MODE_PASSWORD) => {}
            (MODE_OPEN, MODE_PASSWORD) => return Err(HandshakeError::PasswordMissingHere),
            (MODE_PASSWORD, MODE_OPEN) => return Err(HandshakeError::PasswordMissingThere),
            _ => return Err(HandshakeError::Malformed),
        }
        let both_prefer_aes = self.suites() & theirs.suites() & SUITE_AES_PREFERRED != 0;
        let suite = if both_prefer_aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
        Ok(Agreement { suite })
    }

    const fn versions(&self) -> (u8, u8) {
        (self.0[4], self.0[5])
    }

    const fn mode(&self) -> u8 {
        self.0[6]
    }

    const fn suites(&self) -> u8 {
        self.0[7]
    }
}

/// What Noise hashes before its first message.
pub(super) fn prologue(initiator: &Preamble, responder: &Preamble) -> Vec<u8> {
    [PROLOGUE_LABEL, &initiator.0[..], &responder.0[..]].concat()
}
