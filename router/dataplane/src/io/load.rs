//! What one read of the TAP interface, or one message, is in terms of frames for the wire.

use crate::engine::offload::BadOffload;
use crate::engine::{Offload, Pieces};

/// One frame or more, of which all but their number, length and checksums is common.
#[derive(Debug, Clone, Copy)]
pub(super) enum Load<'f> {
    /// A frame as it is.
    Frame(&'f [u8]),
    /// The pieces of a super-frame.
    Pieces(Pieces<'f>),
}

impl<'f> Load<'f> {
    /// What `frame` is, with what is still to be done; a checksum that is missing is filled in here.
    pub(super) fn new(frame: &'f mut [u8], offload: Offload) -> Result<Self, BadOffload> {
        match offload {
            Offload::Nothing => Ok(Self::Frame(frame)),
            Offload::Checksum(checksum) => {
                checksum.complete(frame)?;
                Ok(Self::Frame(frame))
            }
            Offload::Segmentation(segmentation) => Pieces::new(frame, segmentation).map(Self::Pieces),
        }
    }

    /// The same, in frames of at most `frame_len_max` if it is a stream.
    pub(super) fn at_most(self, frame_len_max: usize) -> Self {
        match self {
            Self::Frame(frame) => Self::Frame(frame),
            Self::Pieces(pieces) => Self::Pieces(pieces.at_most(frame_len_max)),
        }
    }

    /// At least the Ethernet header, if there is one.
    pub(super) const fn head(&self) -> &'f [u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Pieces(pieces) => pieces.head(),
        }
    }

    /// How many frames.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Frame(_) => 1,
            Self::Pieces(pieces) => pieces.count(),
        }
    }

    /// Length of frame `number`.
    pub(super) fn frame_len(&self, number: usize) -> usize {
        match self {
            Self::Frame(frame) => frame.len(),
            Self::Pieces(pieces) => pieces.frame_len(number),
        }
    }

    /// Length of all of them.
    pub(super) fn frames_len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.len(),
            Self::Pieces(pieces) => pieces.frames_len(),
        }
    }

    /// Appends frame `number` to `out`.
    pub(super) fn write(&self, number: usize, out: &mut Vec<u8>) {
        match self {
            Self::Frame(frame) => out.extend_from_slice(frame),
            Self::Pieces(pieces) => pieces.write(number, out),
        }
    }
}
