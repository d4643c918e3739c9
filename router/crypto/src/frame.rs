//! Control frames: what flows over the connection after the handshake.
//!
//! ```text
//! length: u24 big-endian, of what follows (tag included) | ciphertext | tag: 16
//! ```
//!
//! The three length bytes are the AEAD's associated data; the nonce is the number of the frame in its direction. A frame
//! that is lost, repeated, moved or changed therefore opens no more, and nothing after it does.
//!
//! Owns framing and its limits. Does not know what a frame says.

use crate::aead::{AeadKey, KEY_LEN, Suite, TAG_LEN, Undecryptable};

/// Greatest value of a frame's length field, in bytes: plaintext and tag.
pub const FRAME_LEN_MAX: usize = 1 << 20;

/// Length of the length field, in bytes.
const HEADER_LEN: usize = 3;

/// Most bytes that a [`FrameOpener`] holds. A caller that drains it after each push of up to 64 KiB never gets there;
/// what goes beyond is refused, and with it the session.
const BUFFER_LEN_MAX: usize = FRAME_LEN_MAX + (64 << 10);

/// Bytes that a [`FrameOpener`] without a frame keeps room for.
const BUFFER_KEPT_MAX: usize = 2 << 10;

/// Frames under one key after which the session must be opened anew. 2^28 frames of at most 2^16 cipher blocks keep an
/// attacker's advantage against AES-GCM under 2^-40; at a thousand frames a second they last three days of nothing
/// else, and the connection's end costs one handshake.
const FRAMES_MAX: u64 = 1 << 28;

/// Seals the frames of one direction, in order.
pub struct FrameSealer {
    key: AeadKey,
    sealed: u64,
}

impl FrameSealer {
    pub(crate) fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        Self { key: AeadKey::new(suite, key), sealed: 0 }
    }

    /// The frame that carries `plaintext`, as bytes to send. Frames must be sent in the order in which they are sealed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] if it does not fit, with no harm done; [`FrameError::Exhausted`] if the key is spent.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, FrameError> {
        let len = plaintext.len().saturating_add(TAG_LEN);
        if len > FRAME_LEN_MAX {
            return Err(FrameError::TooLong(len));
        }
        if self.sealed >= FRAMES_MAX {
            return Err(FrameError::Exhausted);
        }
        let mut frame = Vec::with_capacity(HEADER_LEN + len);
        frame.extend_from_slice(&header(len));
        frame.extend_from_slice(plaintext);
        let tag = self.key.seal(self.sealed, &header(len), &mut frame[HEADER_LEN..]);
        frame.extend_from_slice(&tag);
        self.sealed += 1;
        Ok(frame)
    }
}

/// Opens the frames of one direction, from a stream of bytes cut anywhere.
///
/// After an error nothing more can be opened: the same error comes again, and the connection must be closed.
pub struct FrameOpener {
    key: AeadKey,
    opened: u64,
    /// Bytes received; those before `start` are used up.
    buffer: Vec<u8>,
    start: usize,
    failed: Option<FrameError>,
}

impl FrameOpener {
    pub(crate) fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        Self { key: AeadKey::new(suite, key), opened: 0, buffer: Vec::new(), start: 0, failed: None }
    }

    /// Takes bytes from the connection. Call [`FrameOpener::next`] until it gives none before the next push.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        // A long frame is rare, and a router has many sessions.
        if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_KEPT_MAX {
            self.buffer = Vec::new();
        }
        if self.buffer.len() + bytes.len() > BUFFER_LEN_MAX {
            self.fail(FrameError::Overrun);
            return;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The plaintext of the next frame, or none until more bytes have come.
    ///
    /// # Errors
    /// [`FrameError`], after which the session is over.
    #[expect(clippy::should_implement_trait, reason = "no iterator: none now does not mean none later")]
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.open_next().inspect_err(|error| self.fail(*error))
    }

    fn open_next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let waiting = &self.buffer[self.start..];
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = frame_len(*header)?;
        let Some(sealed) = rest.get(..len) else {
            return Ok(None);
        };
        if self.opened >= FRAMES_MAX {
            return Err(FrameError::Exhausted);
        }
        let mut frame = sealed.to_vec();
        let opened = self.key.open(self.opened, header, &mut frame);
        let plaintext_len = opened.map_err(|Undecryptable| FrameError::Undecryptable)?;
        frame.truncate(plaintext_len);
        self.opened += 1;
        self.start += HEADER_LEN + len;
        Ok(Some(frame))
    }

    fn fail(&mut self, error: FrameError) {
        self.failed = Some(error);
        self.buffer = Vec::new();
        self.start = 0;
    }
}

/// Why a frame can be neither sealed nor opened. Except for [`FrameError::TooLong`] from a sealer, the session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame would have more than [`FRAME_LEN_MAX`] bytes.
    #[error("a control frame of {0} bytes is longer than {FRAME_LEN_MAX}")]
    TooLong(usize),
    /// The frame is too short to hold a tag.
    #[error("a control frame of {0} bytes cannot hold its tag")]
    TooShort(usize),
    /// The frame was changed, repeated, moved, or sealed with another key.
    #[error("a control frame does not decrypt: it was changed on its way")]
    Undecryptable,
    /// The key has served for as many frames as it may.
    #[error("the control session has used up its key")]
    Exhausted,
    /// More bytes were pushed than the opener holds without being drained.
    #[error("more than {BUFFER_LEN_MAX} bytes of control frames wait to be opened")]
    Overrun,
}

/// The length field's bytes; `len` is at most [`FRAME_LEN_MAX`].
fn header(len: usize) -> [u8; HEADER_LEN] {
    let len = u32::try_from(len).expect("a frame is at most 1 MiB");
    let [_, high, middle, low] = len.to_be_bytes();
    [high, middle, low]
}

/// The length that a header names, checked before anything waits for that many bytes.
fn frame_len([high, middle, low]: [u8; HEADER_LEN]) -> Result<usize, FrameError> {
    let len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    match len {
        0..TAG_LEN => Err(FrameError::TooShort(len)),
        TAG_LEN..=FRAME_LEN_MAX => Ok(len),
        too_long => Err(FrameError::TooLong(too_long)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    fn pair(suite: Suite) -> (FrameSealer, FrameOpener) {
        (FrameSealer::new(suite, &[9; 32]), FrameOpener::new(suite, &[9; 32]))
    }

    #[test]
    fn opens_frames_in_the_order_in_which_they_were_sealed() {
        for suite in SUITES {
            let (mut sealer, mut opener) = pair(suite);
            for plaintext in [&b"first"[..], b"", b"third"] {
                opener.push(&sealer.seal(plaintext).unwrap());
            }
            assert_eq!(opener.next(), Ok(Some(b"first".to_vec())));
            assert_eq!(opener.next(), Ok(Some(Vec::new())));
            assert_eq!(opener.next(), Ok(Some(b"third".to_vec())));
            assert_eq!(opener.next(), Ok(None));
        }
    }

    #[test]
    fn takes_its_input_byte_by_byte() {
        let (mut sealer, mut opener) = pair(SUITES[1]);
        let stream = [sealer.seal(b"one").unwrap(), sealer.seal(b"two").unwrap()].concat();
        let mut opened = Vec::new();
        for byte in stream {
            opener.push(&[byte]);
            opened.extend(opener.next().unwrap());
        }
        assert_eq!(opened, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn the_longest_frame_passes_and_one_byte_more_is_refused_without_harm() {
        let (mut sealer, mut opener) = pair(SUITES[0]);
        let longest = vec![1; FRAME_LEN_MAX - TAG_LEN];
        let longer = vec![1; FRAME_LEN_MAX - TAG_LEN + 1];
        assert_eq!(sealer.seal(&longer), Err(FrameError::TooLong(FRAME_LEN_MAX + 1)));
        opener.push(&sealer.seal(&longest).unwrap());
        assert_eq!(opener.next(), Ok(Some(longest)));
    }

    #[test]
    fn refuses_an_impossible_length_from_its_header_alone() {
        for (header, error) in [
            ([0x10, 0, 1], FrameError::TooLong(FRAME_LEN_MAX + 1)),
            ([0xff, 0xff, 0xff], FrameError::TooLong(0xff_ffff)),
            ([0, 0, 15], FrameError::TooShort(15)),
            ([0, 0, 0], FrameError::TooShort(0)),
        ] {
            let (_, mut opener) = pair(SUITES[0]);
            opener.push(&header);
            assert_eq!(opener.next(), Err(error));
        }
    }

    #[test]
    fn any_changed_byte_ends_the_session() {
        for suite in SUITES {
            let whole = pair(suite).0.seal(b"a message").unwrap();
            for at in 0..whole.len() {
                let (_, mut opener) = pair(suite);
                let mut frame = whole.clone();
                frame[at] ^= 1;
                // A greater length waits for bytes that the next frames bring.
                opener.push(&frame);
                opener.push(&vec![0; FRAME_LEN_MAX / 2]);
                let error = opener.next().expect_err("a changed frame opened");
                opener.push(&whole);
                assert_eq!(opener.next(), Err(error), "the error stays");
            }
        }
    }

    #[test]
    fn refuses_a_frame_that_is_repeated_missing_or_moved() {
        let (mut sealer, _) = pair(SUITES[1]);
        let frames: Vec<_> = (0..3).map(|n| sealer.seal(&[n]).unwrap()).collect();
        for order in [&[0, 0][..], &[1], &[0, 2], &[2, 1, 0]] {
            let (_, mut opener) = pair(SUITES[1]);
            order.iter().for_each(|n| opener.push(&frames[*n]));
            let outcome: Result<Vec<_>, _> = order.iter().map(|_| opener.next()).collect();
            assert_eq!(outcome, Err(FrameError::Undecryptable), "order {order:?}");
        }
    }

    #[test]
    fn refuses_more_input_than_it_may_hold() {
        let (_, mut opener) = pair(SUITES[0]);
        opener.push(&[0x10, 0, 0]);
        opener.push(&vec![0; BUFFER_LEN_MAX]);
        assert_eq!(opener.next(), Err(FrameError::Overrun));
        assert_eq!(opener.buffer.capacity(), 0);
    }

    #[test]
    fn a_spent_key_neither_seals_nor_opens() {
        let (mut sealer, mut opener) = pair(SUITES[0]);
        (sealer.sealed, opener.opened) = (FRAMES_MAX - 1, FRAMES_MAX - 1);
        let last = sealer.seal(b"last").unwrap();
        assert_eq!(sealer.seal(b"too many"), Err(FrameError::Exhausted));
        opener.push(&last);
        assert_eq!(opener.next(), Ok(Some(b"last".to_vec())));
        opener.push(&last);
        assert_eq!(opener.next(), Err(FrameError::Exhausted));
    }
}
