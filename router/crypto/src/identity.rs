//! A peer's long-term keys, its public name, and what it signs.
//!
//! Owns the Ed25519 signing key and the X25519 key of the Noise handshake, which are made together and live and die
//! together. Does not own their file.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use mesh_wire::PeerId;
use minicbor::{CborLen, Decode, Encode};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::rng::Rng;

/// What is hashed before a public key to make its [`PeerId`].
const PEER_ID_CONTEXT: &[u8] = b"mesh peer id v1\0";

/// Length of each of the two secret keys, in bytes.
const SECRET_LEN: usize = 32;

/// A peer's own keys: Ed25519 to sign, X25519 as the static key of the Noise handshake.
pub struct Identity {
    secret: SecretBytes,
    signer: Ed25519KeyPair,
}

impl Identity {
    /// A new identity with keys drawn from `rng`.
    #[must_use]
    pub fn generate(rng: &mut Rng) -> Self {
        let mut secret = SecretBytes([0; SecretBytes::LEN]);
        rng.fill(&mut secret.0);
        Self::from_secret(&secret).expect("random keys are not all zero")
    }

    /// The identity that [`Identity::secret`] gave.
    ///
    /// # Errors
    /// [`IdentityError::Blank`] if one of the keys is all zero, as in a file that was made but never written.
    pub fn from_secret(secret: &SecretBytes) -> Result<Self, IdentityError> {
        let (seed, noise_static) = secret.0.split_at(SECRET_LEN);
        if [seed, noise_static].iter().any(|key| key.iter().all(|byte| *byte == 0)) {
            return Err(IdentityError::Blank);
        }
        let signer = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 seed");
        Ok(Self { secret: secret.clone(), signer })
    }

    /// Both secret keys, to be kept in a file that only the router can read.
    #[must_use]
    pub fn secret(&self) -> SecretBytes {
        self.secret.clone()
    }

    /// The name under which all peers know this one.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.public_key().peer_id()
    }

    /// The key that others check signatures by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        let bytes = self.signer.public_key().as_ref();
        PublicKey(bytes.try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs `message` for one purpose, named by `context`; it verifies under no other context.
    #[must_use]
    pub fn sign(&self, context: &'static str, message: &[u8]) -> Signature {
        let signature = self.signer.sign(&in_context(context, message));
        Signature(signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"))
    }

    /// The X25519 private key of the Noise handshake.
    pub(crate) fn noise_static(&self) -> Zeroizing<[u8; SECRET_LEN]> {
        Zeroizing::new(self.secret.0[SECRET_LEN..].try_into().expect("a secret holds two keys of 32 bytes"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer_id", &self.peer_id()).finish_non_exhaustive()
    }
}

/// The two secret keys of an [`Identity`]: Ed25519 seed, then X25519 private key. Overwritten when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes([u8; Self::LEN]);

impl SecretBytes {
    /// Length in bytes.
    pub const LEN: usize = 2 * SECRET_LEN;

    /// These bytes as a secret. The caller overwrites its own copy.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be written into the state directory and nowhere else.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl From<[u8; Self::LEN]> for SecretBytes {
    fn from(bytes: [u8; Self::LEN]) -> Self {
        Self::from_bytes(bytes)
    }
}

impl TryFrom<&[u8]> for SecretBytes {
    type Error = IdentityError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdentityError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_wrong_length: std::array::TryFromSliceError| IdentityError::Length(bytes.len()))
    }
}

/// Why bytes are no [`Identity`]; the state directory that held them is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// They have another length.
    #[error("an identity has {len} bytes, not {0}", len = SecretBytes::LEN)]
    Length(usize),
    /// A key is all zero.
    #[error("the identity holds a key of zero bytes: the file was never fully written")]
    Blank,
}

/// An Ed25519 public key (RFC 8032): in CBOR a byte string of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, CborLen)]
#[cbor(transparent)]
pub struct PublicKey(#[cbor(with = "minicbor::bytes")] [u8; Self::LEN]);

impl PublicKey {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// The key with these bytes. Bytes that are no point on the curve verify nothing.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The name of the peer with this key: the first 16 bytes of SHA-256 over a fixed prefix and the key.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        let hash = digest(&SHA256, &[PEER_ID_CONTEXT, &self.0].concat());
        PeerId::from_bytes(hash.as_ref()[..PeerId::LEN].try_into().expect("SHA-256 gives 32 bytes"))
    }

    /// Checks that this key's owner signed `message` for the purpose `context`.
    ///
    /// # Errors
    /// [`BadSignature`] if it did not, or if this is no valid key.
    pub fn verify(
        &self,
        context: &'static str,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(&in_context(context, message), &signature.0)
            .map_err(|aws_lc_rs::error::Unspecified| BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An Ed25519 signature: in CBOR a byte string of 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(transparent)]
pub struct Signature(#[cbor(with = "minicbor::bytes")] [u8; Self::LEN]);

impl Signature {
    /// Length in bytes.
    pub const LEN: usize = 64;

    /// The signature with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The signature's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The signature is not that key's over that message and context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// The bytes that are signed. A context holds no zero byte, so the first one separates it from the message and no
/// signature for one purpose can be shown for another.
fn in_context(context: &'static str, message: &[u8]) -> Vec<u8> {
    debug_assert!(!context.contains('\0'), "a zero byte ends the context");
    [context.as_bytes(), &[0], message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::generate(&mut Rng::from_seed([seed; 32]))
    }

    #[test]
    fn an_identity_survives_its_file() {
        let identity = identity(1);
        let again = Identity::from_secret(&SecretBytes::try_from(&identity.secret().0[..]).unwrap()).unwrap();
        assert_eq!(identity.peer_id(), again.peer_id());
        assert_eq!(identity.noise_static(), again.noise_static());
        assert_ne!(identity.peer_id(), self::identity(2).peer_id());
    }

    #[test]
    fn refuses_a_file_of_the_wrong_length_or_never_written() {
        let short = SecretBytes::try_from(&[1; 63][..]);
        assert_eq!(short.err(), Some(IdentityError::Length(63)));
        let mut secret = identity(1).secret();
        secret.0[SECRET_LEN..].fill(0);
        assert_eq!(Identity::from_secret(&secret).err(), Some(IdentityError::Blank));
    }

    #[test]
    fn signs_as_rfc_8032_says_with_the_context_before_the_message() {
        // The key of RFC 8032, section 7.1, test 1.
        let mut secret = SecretBytes::from_bytes([1; 64]);
        secret.0[..32]
            .copy_from_slice(&hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
        let identity = Identity::from_secret(&secret).unwrap();
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(identity.public_key().as_bytes()[..], public);
        let signature = identity.sign("purpose", b"message");
        let plain = UnparsedPublicKey::new(&ED25519, &public);
        plain.verify(b"purpose\0message", signature.as_bytes()).unwrap();
    }

    #[test]
    fn a_signature_holds_only_for_its_key_context_and_message() {
        let (alice, bob) = (identity(1), identity(2));
        let signature = alice.sign("a", b"message");
        assert_eq!(alice.public_key().verify("a", b"message", &signature), Ok(()));
        assert_eq!(alice.public_key().verify("b", b"message", &signature), Err(BadSignature));
        assert_eq!(alice.public_key().verify("a", b"massage", &signature), Err(BadSignature));
        assert_eq!(bob.public_key().verify("a", b"message", &signature), Err(BadSignature));
        assert_eq!(PublicKey::from_bytes([0xff; 32]).verify("a", b"message", &signature), Err(BadSignature));
    }

    #[test]
    fn the_peer_id_is_a_fixed_function_of_the_key() {
        // sha256(b"mesh peer id v1\0" + bytes(range(32)))[:16], by another implementation.
        let key = PublicKey::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        assert_eq!(key.peer_id().as_bytes()[..], hex("23e7285be997a0d6efafddd43f331166"));
    }

    #[test]
    fn keys_and_signatures_are_cbor_byte_strings_of_exact_length() {
        let key = identity(1).public_key();
        let encoded = minicbor::to_vec(key).unwrap();
        assert_eq!(encoded[..2], [0x58, 32]);
        assert_eq!(minicbor::decode::<PublicKey>(&encoded).unwrap(), key);
        assert_eq!(minicbor::len(key), encoded.len());
        assert!(minicbor::decode::<Signature>(&encoded).is_err());
        let signature = identity(1).sign("a", b"");
        let encoded = minicbor::to_vec(signature).unwrap();
        assert_eq!(minicbor::decode::<Signature>(&encoded).unwrap(), signature);
        assert!(minicbor::decode::<PublicKey>(&encoded).is_err());
    }

    #[test]
    fn debug_shows_the_peer_id_and_no_secret() {
        let identity = identity(1);
        assert_eq!(format!("{identity:?}"), format!("Identity {{ peer_id: {}, .. }}", identity.peer_id()));
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }
}
