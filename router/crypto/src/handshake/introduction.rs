//! Who a side says it is, with the proof: what Noise messages 2 and 3 carry.

use minicbor::{Decode, Decoder, Encode};

use super::{HANDSHAKE_PAYLOAD_LEN_MAX, HandshakeError};
use crate::identity::{Identity, PublicKey, Signature};

/// What the signature over a Noise static key is good for.
const CONTEXT: &str = "mesh noise static v1";

/// A signing key, its signature over the Noise static key of this handshake, and what the caller adds. By the signature
/// the two keys belong together: whoever holds the static key speaks for the identity.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct Introduction {
    #[n(0)]
    pub(super) public_key: PublicKey,
    #[n(1)]
    signature: Signature,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(super) payload: Vec<u8>,
}

impl Introduction {
    pub(super) fn new(identity: &Identity, noise_public: &[u8; 32], payload: Vec<u8>) -> Self {
        Self { public_key: identity.public_key(), signature: identity.sign(CONTEXT, noise_public), payload }
    }

    /// The introduction as CBOR.
    pub(super) fn encode(&self) -> Result<Vec<u8>, HandshakeError> {
        if self.payload.len() > HANDSHAKE_PAYLOAD_LEN_MAX {
            return Err(HandshakeError::PayloadTooLong(self.payload.len()));
        }
        Ok(minicbor::to_vec(self).expect("writing to a Vec cannot fail"))
    }

    /// Reads an introduction, of which nothing is proven yet. Refuses bytes after it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let mut decoder = Decoder::new(bytes);
        let introduction: Self = decoder.decode().map_err(|_cbor| HandshakeError::Malformed)?;
        if decoder.position() != bytes.len() {
            return Err(HandshakeError::Malformed);
        }
        if introduction.payload.len() > HANDSHAKE_PAYLOAD_LEN_MAX {
            return Err(HandshakeError::TooLong);
        }
        Ok(introduction)
    }

    /// Checks that the identity vouches for the static key that this handshake was done with.
    pub(super) fn check(&self, remote_static: &[u8; 32]) -> Result<(), HandshakeError> {
        self.public_key
            .verify(CONTEXT, remote_static, &self.signature)
            .map_err(|_bad| HandshakeError::BadIdentity)
    }
}
