//! The network's password as a key.
//!
//! Owns the derivation, which is the same on every router: there is nobody to agree on a salt with before the first
//! contact. Does not own where the password comes from.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::digest::{SHA256, digest};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of the longest password, in bytes.
pub const PASSWORD_LEN_MAX: usize = 1024;

/// Argon2's memory in KiB: 64 MiB, with [`PASSES`] and [`LANES`] the second recommendation of RFC 9106, section 4.
const MEMORY_KIB: u32 = 64 * 1024;

/// Argon2's passes over that memory.
const PASSES: u32 = 3;

/// Argon2's lanes.
const LANES: u32 = 4;

/// Hashed into the salt. It is fixed, so a guesser can try one guess against all networks at once; the cost of a guess
/// is Argon2's, and a generated secret is out of reach of guessing altogether.
const SALT_CONTEXT: &[u8] = b"mesh password v1";

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

    pub(crate) const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// Why a text is no password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// It is empty. To run without a password, give none.
    #[error("the password is empty; leave it out to run without one")]
    Empty,
    /// It is longer than [`PASSWORD_LEN_MAX`] bytes.
    #[error("the password has {0} bytes, more than {PASSWORD_LEN_MAX}")]
    TooLong(usize),
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
}
