//! A network's secret as a key: from a password that somebody thought of, or from a token that was generated.
//!
//! Owns the derivation, which is the same on every router: there is nobody to agree on a salt with before the first
//! contact. Owns the token's form:
//!
//! ```text
//! "mesh1." | base32 of (key: 32 bytes | check: 3 bytes)       RFC 4648, section 6, lower case; 56 characters
//! check = the first 3 bytes of SHA-256("mesh token v1" | 0x00 | key)
//! ```
//!
//! Does not own where a secret comes from.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::digest::{self, SHA256, digest};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::rng::Rng;

/// Length of the longest password, in bytes.
pub const PASSWORD_LEN_MAX: usize = 1024;

/// Passwords of fewer characters deserve a warning. Twelve random letters and digits take more than 2^60 guesses.
const STRONG_PASSWORD_CHARS_MIN: usize = 12;

/// What a generated secret begins with, so that it is not taken for a password.
pub const TOKEN_PREFIX: &str = "mesh1.";

/// Length of the check at the end of a token, in bytes: three, so that key and check fill whole groups of five bytes,
/// which are eight characters.
const TOKEN_CHECK_LEN: usize = 3;

/// Length of a token after its prefix, in characters.
const TOKEN_LEN: usize = (Psk::LEN + TOKEN_CHECK_LEN) * 8 / 5;

/// Hashed before the key to make a token's check.
const TOKEN_CONTEXT: &[u8] = b"mesh token v1\0";

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Argon2's memory in KiB: 64 MiB, with [`PASSES`] and [`LANES`] the second recommendation of RFC 9106, section 4.
const MEMORY_KIB: u32 = 64 * 1024;

/// Argon2's passes over that memory.
const PASSES: u32 = 3;

/// Argon2's lanes.
const LANES: u32 = 4;

/// Hashed into the salt. It is fixed, so a guesser can try one guess against all networks at once; the cost of a guess
/// is Argon2's, and a generated secret is out of reach of guessing altogether.
const SALT_CONTEXT: &[u8] = b"mesh password v1";

/// Hashed before a key to make its [`PskId`].
const ID_CONTEXT: &[u8] = b"mesh psk id v1\0";

/// The key that proves membership of a network. Overwritten when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Psk([u8; Self::LEN]);

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

impl Psk {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// A new random key, out of reach of guessing.
    #[must_use]
    pub fn generate(rng: &mut Rng) -> Self {
        let mut key = Self([0; Self::LEN]);
        rng.fill(&mut key.0);
        key
    }

    /// The key that a user's text stands for: a token from [`Self::to_token`] at once, anything else as by
    /// [`Self::from_password`].
    ///
    /// # Errors
    /// [`PasswordError`] if it begins like a token and is none, or is no password either.
    pub fn from_text(text: &str) -> Result<Self, PasswordError> {
        match text.strip_prefix(TOKEN_PREFIX) {
            Some(token) => Self::from_token(token).ok_or(PasswordError::DamagedToken),
            None => Self::from_password(text),
        }
    }

    /// Whether a text is a password short enough that it may be guessed by trying. Whoever poses as a router gets the
    /// means to try out of reach of everybody else, and has to spend 64 MiB and some tenths of a second on each guess.
    #[must_use]
    pub fn is_weak(text: &str) -> bool {
        !text.starts_with(TOKEN_PREFIX) && text.chars().count() < STRONG_PASSWORD_CHARS_MIN
    }

    /// The key as a text to be copied to other routers, which [`Self::from_text`] reads.
    #[must_use]
    pub fn to_token(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(Self::LEN + TOKEN_CHECK_LEN));
        bytes.extend_from_slice(&self.0);
        bytes.extend(self.token_check());
        let mut token = Zeroizing::new(String::with_capacity(TOKEN_PREFIX.len() + TOKEN_LEN));
        token.push_str(TOKEN_PREFIX);
        for five in bytes.chunks_exact(5) {
            let bits = five.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
            token.extend((0..8).rev().map(|place| char::from(BASE32[(bits >> (5 * place)) as usize % 32])));
        }
        token
    }

    fn from_token(token: &str) -> Option<Self> {
        if token.len() != TOKEN_LEN {
            return None;
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(Self::LEN + TOKEN_CHECK_LEN));
        for eight in token.as_bytes().chunks_exact(8) {
            let mut bits = 0;
            for character in eight {
                let value = BASE32.iter().position(|known| known.eq_ignore_ascii_case(character))?;
                bits = bits << 5 | value as u64;
            }
            bytes.extend_from_slice(&bits.to_be_bytes()[3..]);
        }
        let (key, check) = bytes.split_first_chunk::<{ Self::LEN }>()?;
        let key = Self(*key);
        (check == key.token_check()).then_some(key)
    }

    fn token_check(&self) -> [u8; TOKEN_CHECK_LEN] {
        self.hash(TOKEN_CONTEXT)
    }

    /// The first `LEN` bytes of SHA-256 over `context` and the key.
    fn hash<const LEN: usize>(&self, context: &[u8]) -> [u8; LEN] {
        let mut hash = digest::Context::new(&SHA256);
        hash.update(context);
        hash.update(&self.0);
        hash.finish().as_ref()[..LEN].try_into().expect("no more is asked for than the 32 bytes of SHA-256")
    }

    /// Derives the key from a password of 1 to [`PASSWORD_LEN_MAX`] bytes by Argon2id. It takes 64 MiB and a good part
    /// of a second, by design: call it once, at start.
    ///
    /// # Errors
    /// [`PasswordError`] if the password is empty or too long.
    pub fn from_password(password: &str) -> Result<Self, PasswordError> {
        match password.len() {
            0 => return Err(PasswordError::Empty),
            1..=PASSWORD_LEN_MAX => {}
            too_long => return Err(PasswordError::TooLong(too_long)),
        }
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(Self::LEN))
            .expect("the parameters are those of the RFC");
        let salt = digest(&SHA256, SALT_CONTEXT);
        let mut psk = Self([0; Self::LEN]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), &salt.as_ref()[..16], &mut psk.0)
            .expect("the lengths of password, salt and key lie within Argon2's limits");
        Ok(psk)
    }

    /// A key that is already uniform: a generated token, or a test's.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// What this key is known by where only the key itself would do harm.
    #[must_use]
    pub fn id(&self) -> PskId {
        PskId(self.hash(ID_CONTEXT))
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// Names a [`Psk`] within this process: equal for equal keys. It is not shown, for whoever sees it can test guessed
/// passwords against it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PskId([u8; Self::LEN]);

impl PskId {
    const LEN: usize = 16;
}

impl fmt::Debug for PskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// Why a text is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// It is empty. To run without a password, give none.
    #[error("the password is empty; leave it out to run without one")]
    Empty,
    /// It is longer than [`PASSWORD_LEN_MAX`] bytes.
    #[error("the password has {0} bytes, more than {PASSWORD_LEN_MAX}")]
    TooLong(usize),
    /// It begins with [`TOKEN_PREFIX`] but is no token.
    #[error("the secret begins with {TOKEN_PREFIX} as a generated one does, but is incomplete or mistyped")]
    DamagedToken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_gives_the_same_key_on_every_router() {
        // One derivation only, for it is slow. The value is from OpenSSL's Argon2id.
        let psk = Psk::from_password("correct horse").unwrap();
        let hex: String = psk.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "4951d1ae5951e99980ecf4d13471dc8a96cf00c7f1b5ecb2f845ea29e23e6ae7");
    }

    #[test]
    fn refuses_a_password_that_is_empty_or_too_long() {
        assert_eq!(Psk::from_password("").err(), Some(PasswordError::Empty));
        let long = "x".repeat(PASSWORD_LEN_MAX + 1);
        assert_eq!(Psk::from_password(&long).err(), Some(PasswordError::TooLong(1025)));
    }

    #[test]
    fn a_token_is_read_back_and_has_the_form_that_is_written_down() {
        let psk = Psk(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        // From Python's base64.b32encode and hashlib.
        let token = "mesh1.aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dyp2c5rd";
        assert_eq!(*psk.to_token(), token);
        assert_eq!(Psk::from_text(token), Ok(psk.clone()));
        assert_eq!(Psk::from_text(&token.to_uppercase().replace("MESH1", "mesh1")), Ok(psk));
        let random = Psk::generate(&mut Rng::from_seed([1; 32]));
        assert_eq!(Psk::from_text(&random.to_token()), Ok(random.clone()));
        assert_ne!(random, Psk::generate(&mut Rng::from_seed([2; 32])));
    }

    #[test]
    fn any_changed_missing_or_added_character_of_a_token_is_noticed() {
        let token = Psk::from_bytes([7; 32]).to_token();
        for at in TOKEN_PREFIX.len()..token.len() {
            for other in ["0", "a", "q", "é"] {
                let changed = [&token[..at], other, &token[at + 1..]].concat();
                if *token != changed {
                    assert_eq!(Psk::from_text(&changed), Err(PasswordError::DamagedToken), "{changed}");
                }
            }
            assert_eq!(Psk::from_text(&token[..at]), Err(PasswordError::DamagedToken));
        }
        assert_eq!(Psk::from_text(&format!("{}a", *token)), Err(PasswordError::DamagedToken));
    }

    #[test]
    fn a_short_password_is_weak_and_a_token_is_not() {
        assert!(Psk::is_weak("swordfish"));
        assert!(!Psk::is_weak("correct horse battery"));
        assert!(!Psk::is_weak("mesh1."), "which is refused anyhow");
    }

    #[test]
    fn keys_are_told_apart_by_ids_that_show_nothing() {
        let (a, b) = (Psk::from_bytes([1; 32]), Psk::from_bytes([2; 32]));
        assert_eq!(a.id(), Psk::from_bytes([1; 32]).id());
        assert_ne!(a.id(), b.id());
        assert_eq!(format!("{:?} {a:?}", a.id()), ".. Psk(..)");
    }
}
