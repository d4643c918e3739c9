//! The Noise XX handshake through `snow`, with our randomness and without its transport.
//!
//! Owns the choice of pattern. Does not interpret payloads.

use std::cell::RefCell;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use super::record::NOISE_LEN_MAX;
use super::{HandshakeError, Role};
use crate::aead::Suite;
use crate::psk::Psk;
use crate::rng::Rng;

const PATTERN_OPEN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
const PATTERN_PSK: &str = "Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s";

/// The place of the password in [`PATTERN_PSK`].
const PSK_PLACE: u8 = 3;

/// A Noise handshake under way, and the suite that the session will use after it.
pub(super) struct Noise {
    state: snow::HandshakeState,
    suite: Suite,
}

impl Noise {
    pub(super) fn new(
        role: Role,
        noise_static: &[u8; 32],
        psk: Option<&Psk>,
        prologue: &[u8],
        suite: Suite,
        rng: Rng,
    ) -> Self {
        let pattern = if psk.is_some() { PATTERN_PSK } else { PATTERN_OPEN };
        let params: NoiseParams = pattern.parse().expect("snow knows both patterns");
        let build = || {
            let resolver = Box::new(SeededResolver(RefCell::new(rng)));
            let mut builder = snow::Builder::with_resolver(params, resolver)
                .local_private_key(noise_static)?
                .prologue(prologue)?;
            if let Some(psk) = psk {
                builder = builder.psk(PSK_PLACE, psk.as_bytes())?;
            }
            match role {
                Role::Initiator => builder.build_initiator(),
                Role::Responder => builder.build_responder(),
            }
        };
        let state = build().expect("the patterns get all the keys that they need, once each");
        Self { state, suite }
    }

    pub(super) const fn suite(&self) -> Suite {
        self.suite
    }

    /// The next message of ours.
    pub(super) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut message = vec![0; NOISE_LEN_MAX];
        let len = self
            .state
            .write_message(payload, &mut message)
            .map_err(|_snow: snow::Error| HandshakeError::PayloadTooLong(payload.len()))?;
        message.truncate(len);
        Ok(message)
    }

    /// The payload of the next message of theirs.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut payload = vec![0; NOISE_LEN_MAX];
        let len = self
            .state
            .read_message(message, &mut payload)
            .map_err(|_snow: snow::Error| HandshakeError::Undecryptable)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// The other side's static key, once it has been read.
    pub(super) fn remote_static(&self) -> Option<[u8; 32]> {
        self.state.get_remote_static().and_then(|key| key.try_into().ok())
    }

    /// The hash over the whole handshake, and the two keys that Noise ends with, one after the other.
    pub(super) fn finish(mut self) -> ([u8; 32], Zeroizing<[u8; 64]>) {
        debug_assert!(self.state.is_handshake_finished(), "keys come from a finished handshake only");
        let hash = self.state.get_handshake_hash().try_into().expect("BLAKE2s hashes have 32 bytes");
        let (first, second) = self.state.dangerously_get_raw_split();
        let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
        let mut split = Zeroizing::new([0; 64]);
        split[..32].copy_from_slice(&*first);
        split[32..].copy_from_slice(&*second);
        (hash, split)
    }
}

/// The public key to an X25519 private key.
pub(super) fn public_key(noise_static: &[u8; 32]) -> [u8; 32] {
    let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("snow is built with X25519");
    dh.set(noise_static);
    dh.pubkey().try_into().expect("X25519 public keys have 32 bytes")
}

/// The default primitives, with randomness from our generator in place of the operating system's.
struct SeededResolver(RefCell<Rng>);

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(self.0.borrow_mut().fork())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRandom(Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}
