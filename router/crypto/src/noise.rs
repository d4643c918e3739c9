//! Noise through `snow`, with our randomness and without its transport.
//!
//! Owns the patterns: XX with or without a password opens a session, NN with a key that both have changes its keys. Does
//! not interpret payloads.

use std::cell::RefCell;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use crate::keys::Role;
use crate::psk::Psk;
use crate::rng::Rng;

/// Length of the longest Noise message that is written or read here, in bytes.
pub(crate) const NOISE_LEN_MAX: usize = 4096;

const XX: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
const XX_PSK3: &str = "Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s";
const NN_PSK0: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// A Noise handshake under way.
pub(crate) struct Noise(snow::HandshakeState);

/// The payload does not fit into a message.
#[derive(Debug)]
pub(crate) struct PayloadTooLong;

/// The message is cut short, changed, or made with other keys.
#[derive(Debug)]
pub(crate) struct Unreadable;

impl Noise {
    /// XX, with `psk` in place 3 if there is one.
    pub(crate) fn xx(
        role: Role,
        noise_static: &[u8; 32],
        psk: Option<&Psk>,
        prologue: &[u8],
        rng: Rng,
    ) -> Self {
        let pattern = if psk.is_some() { XX_PSK3 } else { XX };
        Self::build(role, pattern, prologue, rng, |builder| {
            let builder = builder.local_private_key(noise_static)?;
            match psk {
                Some(psk) => builder.psk(3, psk.as_bytes()),
                None => Ok(builder),
            }
        })
    }

    /// NN with `psk` in place 0. `role` is that in this dialogue, which either side of a session may begin.
    pub(crate) fn nn_psk0(role: Role, psk: &[u8; 32], prologue: &[u8], rng: Rng) -> Self {
        Self::build(role, NN_PSK0, prologue, rng, |builder| builder.psk(0, psk))
    }

    fn build<'a>(
        role: Role,
        pattern: &str,
        prologue: &'a [u8],
        rng: Rng,
        keys: impl FnOnce(snow::Builder<'a>) -> Result<snow::Builder<'a>, snow::Error>,
    ) -> Self {
        let params: NoiseParams = pattern.parse().expect("snow knows the patterns");
        let resolver = Box::new(SeededResolver(RefCell::new(rng)));
        let build = || {
            let builder = keys(snow::Builder::with_resolver(params, resolver).prologue(prologue)?)?;
            match role {
                Role::Initiator => builder.build_initiator(),
                Role::Responder => builder.build_responder(),
            }
        };
        Self(build().expect("the patterns get all the keys that they need, once each"))
    }

    /// The next message of ours.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, PayloadTooLong> {
        let mut message = vec![0; NOISE_LEN_MAX];
        let len = self.0.write_message(payload, &mut message).map_err(|_snow: snow::Error| PayloadTooLong)?;
        message.truncate(len);
        Ok(message)
    }

    /// The payload of the next message of theirs. After an error the state is of no use but for
    /// [`Self::remote_static`].
    pub(crate) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let mut payload = vec![0; NOISE_LEN_MAX];
        let len = self.0.read_message(message, &mut payload).map_err(|_snow: snow::Error| Unreadable)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// The other side's static key, once it has been read.
    pub(crate) fn remote_static(&self) -> Option<[u8; 32]> {
        self.0.get_remote_static().and_then(|key| key.try_into().ok())
    }

    /// The hash over the whole dialogue, and the two keys that Noise ends with, one after the other.
    pub(crate) fn finish(mut self) -> ([u8; 32], Zeroizing<[u8; 64]>) {
        debug_assert!(self.0.is_handshake_finished(), "keys come from a finished handshake only");
        let hash = self.0.get_handshake_hash().try_into().expect("BLAKE2s hashes have 32 bytes");
        let (first, second) = self.0.dangerously_get_raw_split();
        let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
        let mut split = Zeroizing::new([0; 64]);
        split[..32].copy_from_slice(&*first);
        split[32..].copy_from_slice(&*second);
        (hash, split)
    }
}

/// The public key to an X25519 private key.
pub(crate) fn public_key(noise_static: &[u8; 32]) -> [u8; 32] {
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
