//! Sealing of datagrams, one by one and in place, for the data plane.
//!
//! Owns the two keys of a direction and the limits of their use. Owns no counter, no window and no header layout: the
//! 16 header bytes are authenticated as they are. A receiver's order is always: [`ReplayWindow::check`], open,
//! [`ReplayWindow::commit`], so that a forged counter cannot move the window.
//!
//! [`ReplayWindow::check`]: crate::ReplayWindow::check
//! [`ReplayWindow::commit`]: crate::ReplayWindow::commit

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::aead::{AeadKey, KEY_LEN, Suite, TAG_LEN, Undecryptable};
use crate::keys::{COOKIE_LEN, DirectionKey};

/// Length of the header that is authenticated with each datagram, in bytes.
pub const PACKET_HEADER_LEN: usize = 16;

/// Datagrams under one key after which the sender asks for the next epoch: a quarter of [`REJECT_AFTER_PACKETS`], so
/// that at 10 million packets a second there are still 20 minutes to change keys in.
pub const REKEY_AFTER_PACKETS: u64 = 1 << 32;

/// Datagrams under one key after which neither side uses it any more. With datagrams of at most 64 KiB an attacker's
/// advantage against AES-256-GCM stays under 2^-36 up to here; ChaCha20-Poly1305 would bear more. The counter, of 64
/// bits, stays 2^30 times away from its end, where a nonce would repeat.
pub const REJECT_AFTER_PACKETS: u64 = 1 << 34;

/// Seals what is sent in one direction during one epoch. Shareable between threads that draw from one counter.
pub struct SealingKey(AeadKey);

impl SealingKey {
    /// The key of a direction, or none where datagrams travel in clear.
    #[must_use]
    pub fn new(key: &DirectionKey) -> Option<Self> {
        match key {
            DirectionKey::Sealed { suite, key } => Some(Self::from_parts(*suite, key)),
            DirectionKey::Clear { .. } => None,
        }
    }

    /// The key from the fields of a [`DirectionKey::Sealed`], for who has matched it already.
    #[must_use]
    pub fn from_parts(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        Self(AeadKey::new(suite, key))
    }

    /// Encrypts `body` in place and returns the tag, which authenticates `header` too. `counter` must be below
    /// [`REJECT_AFTER_PACKETS`] and never come twice with this key: a second time gives both bodies away.
    pub fn seal_in_place(
        &self,
        counter: u64,
        header: &[u8; PACKET_HEADER_LEN],
        body: &mut [u8],
    ) -> [u8; TAG_LEN] {
        self.0.seal(counter, header, body)
    }
}

/// Opens what was sealed in one direction during one epoch.
pub struct OpeningKey(AeadKey);

impl OpeningKey {
    /// The key of a direction, or none where datagrams travel in clear.
    #[must_use]
    pub fn new(key: &DirectionKey) -> Option<Self> {
        match key {
            DirectionKey::Sealed { suite, key } => Some(Self::from_parts(*suite, key)),
            DirectionKey::Clear { .. } => None,
        }
    }

    /// The key from the fields of a [`DirectionKey::Sealed`], for who has matched it already.
    #[must_use]
    pub fn from_parts(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        Self(AeadKey::new(suite, key))
    }

    /// Checks header, body and the tag at the end of `body_and_tag`, decrypts in place, and returns the length of the
    /// plaintext, which starts at the front.
    ///
    /// # Errors
    /// [`OpenError`] if anything was changed or the key is another; the bytes are then of no use.
    pub fn open_in_place(
        &self,
        counter: u64,
        header: &[u8; PACKET_HEADER_LEN],
        body_and_tag: &mut [u8],
    ) -> Result<usize, OpenError> {
        self.0.open(counter, header, body_and_tag).map_err(|Undecryptable| OpenError)
    }
}

/// The datagram was not sealed with this key, counter and header, or was changed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the datagram does not decrypt")]
pub struct OpenError;

/// Whether a clear datagram shows the cookie of its link, in time that tells nothing of where they differ.
#[must_use]
pub fn cookie_matches(expected: &[u8; COOKIE_LEN], shown: &[u8; COOKIE_LEN]) -> bool {
    verify_slices_are_equal(expected, shown).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    fn sealing(suite: Suite, key: u8) -> SealingKey {
        SealingKey::new(&DirectionKey::Sealed { suite, key: [key; 32] }).unwrap()
    }

    fn opening(suite: Suite, key: u8) -> OpeningKey {
        OpeningKey::new(&DirectionKey::Sealed { suite, key: [key; 32] }).unwrap()
    }

    fn sealed(suite: Suite, counter: u64, header: &[u8; 16], plaintext: &[u8]) -> Vec<u8> {
        let mut body = plaintext.to_vec();
        let tag = sealing(suite, 7).seal_in_place(counter, header, &mut body);
        [&body[..], &tag].concat()
    }

    #[test]
    fn opens_what_was_sealed_whatever_its_length() {
        for suite in SUITES {
            let opener = opening(suite, 7);
            for len in [0, 1, 15, 16, 17, 1400, 65_507] {
                let plaintext: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
                let mut datagram = sealed(suite, 5, &[3; 16], &plaintext);
                assert_eq!(opener.open_in_place(5, &[3; 16], &mut datagram), Ok(len));
                assert_eq!(datagram[..len], plaintext[..]);
            }
        }
    }

    #[test]
    fn refuses_any_changed_byte_header_counter_or_key() {
        for suite in SUITES {
            let opener = opening(suite, 7);
            let whole = sealed(suite, 5, &[3; 16], b"a frame");
            for at in 0..whole.len() {
                let mut datagram = whole.clone();
                datagram[at] ^= 1;
                assert_eq!(opener.open_in_place(5, &[3; 16], &mut datagram), Err(OpenError));
            }
            for at in 0..16 {
                let mut header = [3; 16];
                header[at] ^= 1;
                assert_eq!(opener.open_in_place(5, &header, &mut whole.clone()), Err(OpenError));
            }
            assert_eq!(opener.open_in_place(6, &[3; 16], &mut whole.clone()), Err(OpenError));
            let other = opening(suite, 8);
            assert_eq!(other.open_in_place(5, &[3; 16], &mut whole.clone()), Err(OpenError));
        }
    }

    #[test]
    fn refuses_a_datagram_shorter_than_a_tag() {
        for suite in SUITES {
            let opener = opening(suite, 7);
            for len in 0..=TAG_LEN {
                assert_eq!(opener.open_in_place(0, &[0; 16], &mut vec![0; len]), Err(OpenError));
            }
        }
    }

    #[test]
    fn the_suites_do_not_open_each_others_datagrams() {
        let mut datagram = sealed(Suite::Aes256Gcm, 0, &[0; 16], b"x");
        let opener = opening(Suite::ChaCha20Poly1305, 7);
        assert_eq!(opener.open_in_place(0, &[0; 16], &mut datagram), Err(OpenError));
    }

    #[test]
    fn a_clear_direction_has_no_cipher() {
        let clear = DirectionKey::Clear { cookie: [1; 8] };
        assert!(SealingKey::new(&clear).is_none());
        assert!(OpeningKey::new(&clear).is_none());
    }

    #[test]
    fn a_cookie_matches_only_itself() {
        assert!(cookie_matches(&[1, 2, 3, 4, 5, 6, 7, 8], &[1, 2, 3, 4, 5, 6, 7, 8]));
        for at in 0..COOKIE_LEN {
            let mut shown = [1, 2, 3, 4, 5, 6, 7, 8];
            shown[at] ^= 0x80;
            assert!(!cookie_matches(&[1, 2, 3, 4, 5, 6, 7, 8], &shown));
        }
    }

    #[test]
    fn keys_can_be_shared_between_threads() {
        fn shareable<T: Send + Sync>() {}
        shareable::<SealingKey>();
        shareable::<OpeningKey>();
    }
}
