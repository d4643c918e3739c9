//! The two ciphers of a session, with the nonce built from a counter in one place.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Length of an AEAD key, in bytes.
pub const KEY_LEN: usize = 32;

/// Length of an AEAD tag, in bytes.
pub const TAG_LEN: usize = 16;

/// The AEAD that both ends of a session use, for frames and datagrams alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM: several times faster where both processors have AES instructions, and slow and open to timing
    /// attacks where one has not.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): even speed and constant time on any processor.
    ChaCha20Poly1305,
}

impl Suite {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

/// A key, expanded for use. The library overwrites its memory when it is dropped.
pub(crate) struct AeadKey(LessSafeKey);

/// The tag does not match: wrong key, wrong counter, or changed bytes.
pub(crate) struct Undecryptable;

impl AeadKey {
    pub(crate) fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(suite.algorithm(), key).expect("both suites take keys of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `body` in place and returns its tag. No `counter` may be used twice with one key.
    pub(crate) fn seal(&self, counter: u64, associated: &[u8], body: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(associated), body)
            .expect("a body in memory is shorter than the ciphers' limit of 2^36 bytes");
        tag.as_ref().try_into().expect("both suites have tags of 16 bytes")
    }

    /// Checks the tag at the end of `body_and_tag`, decrypts in place, and returns the plaintext's length. On failure
    /// the bytes are of no use.
    pub(crate) fn open(
        &self,
        counter: u64,
        associated: &[u8],
        body_and_tag: &mut [u8],
    ) -> Result<usize, Undecryptable> {
        let opened = self.0.open_in_place(nonce(counter), Aad::from(associated), body_and_tag);
        opened.map(|plaintext| plaintext.len()).map_err(|aws_lc_rs::error::Unspecified| Undecryptable)
    }
}

/// Four zero bytes, then the counter in little-endian order.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_equal_those_of_another_implementation() {
        // From Python's `cryptography`: key 00..1f, nonce 00000000 || 0807060504030201, associated data "header".
        for (suite, golden) in [
            (Suite::Aes256Gcm, "7e979b3c431267d58e6d61beee8930e3523e2391"),
            (Suite::ChaCha20Poly1305, "9226c99d79cf3a4ac94e40f2e3f13f608e36c332"),
        ] {
            let key = AeadKey::new(suite, &std::array::from_fn(|i| u8::try_from(i).unwrap()));
            let mut body = *b"body";
            let tag = key.seal(0x0102_0304_0506_0708, b"header", &mut body);
            let sealed: String = body.iter().chain(&tag).map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(sealed, golden, "{suite}");
        }
    }
}
