//! How the dialogue after the preambles is cut into records, and how long each may be.
//!
//! Owns the layout `type: u8 | length: u16 big-endian | body`. Does not know which record may come when.

use super::{Alert, HandshakeError};
use crate::noise::NOISE_LEN_MAX;

/// Length of a record's header, in bytes.
pub(super) const HEADER_LEN: usize = 3;

/// Length of an alert's body, in bytes.
const ALERT_LEN: usize = 1;

/// Length of a confirm's body, in bytes: an empty control frame, which is a length of 3 bytes and a tag of 16.
const CONFIRM_LEN: usize = 19;

const TYPE_NOISE: u8 = 1;
const TYPE_ALERT: u8 = 2;
const TYPE_CONFIRM: u8 = 3;

/// One record.
pub(super) enum Record {
    Noise(Vec<u8>),
    Alert(Alert),
    Confirm(Vec<u8>),
}

impl Record {
    /// Takes a record off the front of `input`, or nothing until it is whole. Type and length are checked as soon as the
    /// header is there, so no more than one record of permitted length is ever waited for.
    pub(super) fn take(input: &mut Vec<u8>) -> Result<Option<Self>, HandshakeError> {
        let Some([kind, high, low]) = input.first_chunk::<HEADER_LEN>().copied() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        match (kind, len) {
            (TYPE_NOISE, 0..=NOISE_LEN_MAX) | (TYPE_ALERT, ALERT_LEN) | (TYPE_CONFIRM, CONFIRM_LEN) => {}
            (TYPE_NOISE, _) => return Err(HandshakeError::TooLong),
            _ => return Err(HandshakeError::Malformed),
        }
        let Some(body) = input.get(HEADER_LEN..HEADER_LEN + len) else {
            return Ok(None);
        };
        let record = match kind {
            TYPE_NOISE => Self::Noise(body.to_vec()),
            TYPE_ALERT => Self::Alert(Alert::from_code(body[0])),
            _ => Self::Confirm(body.to_vec()),
        };
        input.drain(..HEADER_LEN + len);
        Ok(Some(record))
    }

    /// Appends the record to what is to be sent.
    pub(super) fn write_to(&self, send: &mut Vec<u8>) {
        let alert;
        let (kind, body) = match self {
            Self::Noise(body) => (TYPE_NOISE, &body[..]),
            Self::Alert(reason) => {
                alert = [reason.code()];
                (TYPE_ALERT, &alert[..])
            }
            Self::Confirm(body) => (TYPE_CONFIRM, &body[..]),
        };
        let len =
            u16::try_from(body.len()).expect("this router writes no record longer than a Noise message");
        send.push(kind);
        send.extend_from_slice(&len.to_be_bytes());
        send.extend_from_slice(body);
    }
}
