//! From one epoch to the next, with fresh keys of both ends.
//!
//! ```text
//! proposer                                             acceptor
//!   0x01 | Noise 1: psk, e ─────────────────────────────►   next epoch
//!   next epoch   ◄─────────────────── 0x02 | Noise 2: e, ee
//! ```
//!
//! * The pattern is `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`, its secret the label `rekey` of the present epoch, its
//!   prologue `"mesh 1 rekey"`, its payloads empty. The label's key binds the dialogue to the session and the epoch.
//! * The messages travel in the session's control frames, in order and once. Either side may propose. When proposals
//!   cross, that of the session's initiator stands: its responder drops its own and answers, and the initiator passes
//!   over the one that it gets.
//! * What a thief of one epoch's keys recorded before, and what it only listens to afterwards, stays closed to it: the
//!   old master is overwritten, and the new one follows from a key agreement. A thief who also holds the keys of the
//!   control frames can take part in it.

use zeroize::Zeroizing;

use super::{KeySchedule, Label, Role};
use crate::aead::KEY_LEN;
use crate::noise::{Noise, Unreadable};
use crate::rng::Rng;

const PROLOGUE: &[u8] = b"mesh 1 rekey";

const STEP_PROPOSAL: u8 = 1;
const STEP_ANSWER: u8 = 2;

/// What a peer's message led to.
#[derive(Debug, PartialEq, Eq)]
pub enum RekeyStep {
    /// It proposed, and this side has moved on to the next epoch: the peer must get this answer, and then hear of
    /// anything that belongs to that epoch.
    Accepted(Vec<u8>),
    /// It answered this side's proposal: this side has moved on to the next epoch, too.
    Completed,
    /// It proposed before it got this side's proposal, which it will answer. Nothing was changed.
    Crossed,
}

/// Why a message is no step of the dialogue. The peer is at fault. The epoch has not changed, and a proposal of this
/// side waits no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RekeyError {
    /// It is for another epoch than the next.
    #[error("fresh keys for epoch {theirs} while epoch {next} is the next")]
    OutOfStep {
        /// The epoch that the peer names.
        theirs: u32,
        /// The one after the present.
        next: u32,
    },
    /// It is neither a proposal nor an answer, or answers nothing.
    #[error("a step of the rekey dialogue that does not exist or was not asked for")]
    Unexpected,
    /// It does not decrypt.
    #[error("a step of the rekey dialogue that does not decrypt")]
    Undecryptable,
}

impl KeySchedule {
    /// Proposes fresh keys for the epoch after the present: what the peer must get, with that epoch's number. None while
    /// an earlier proposal waits for its answer.
    #[must_use]
    pub fn propose(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        if self.proposal.is_some() {
            return None;
        }
        let mut noise = self.dialogue(Role::Initiator, rng);
        let message = write(STEP_PROPOSAL, &mut noise);
        self.proposal = Some(Box::new(noise));
        Some(message)
    }

    /// Takes in the peer's step towards `epoch`.
    ///
    /// # Errors
    /// [`RekeyError`], after which the session is to be ended: its two ends no longer agree.
    pub fn handle_rekey(
        &mut self,
        epoch: u32,
        payload: &[u8],
        rng: &mut Rng,
    ) -> Result<RekeyStep, RekeyError> {
        let proposal = self.proposal.take();
        let next = self.next_epoch();
        if epoch != next {
            return Err(RekeyError::OutOfStep { theirs: epoch, next });
        }
        match (payload.split_first(), proposal) {
            (Some((&STEP_PROPOSAL, _)), Some(proposal)) if self.role == Role::Initiator => {
                self.proposal = Some(proposal);
                Ok(RekeyStep::Crossed)
            }
            (Some((&STEP_PROPOSAL, message)), _) => {
                let mut noise = self.dialogue(Role::Responder, rng);
                read(&mut noise, message)?;
                let answer = write(STEP_ANSWER, &mut noise);
                self.advance(&noise.finish().1);
                Ok(RekeyStep::Accepted(answer))
            }
            (Some((&STEP_ANSWER, message)), Some(mut noise)) => {
                read(&mut noise, message)?;
                self.advance(&noise.finish().1);
                Ok(RekeyStep::Completed)
            }
            (Some(_) | None, _) => Err(RekeyError::Unexpected),
        }
    }

    /// The epoch that a dialogue leads to. The number is a label, and masters differ anyhow: that it starts again after
    /// 2^32 epochs repeats no key.
    #[must_use]
    pub const fn next_epoch(&self) -> u32 {
        self.epoch.wrapping_add(1)
    }

    fn dialogue(&self, role: Role, rng: &mut Rng) -> Noise {
        let psk: Zeroizing<[u8; KEY_LEN]> = self.derive(Label::Rekey);
        Noise::nn_psk0(role, &psk, PROLOGUE, rng.fork())
    }
}

fn write(step: u8, noise: &mut Noise) -> Vec<u8> {
    let mut message = vec![step];
    message.extend(noise.write(&[]).expect("an empty payload fits"));
    message
}

fn read(noise: &mut Noise, message: &[u8]) -> Result<(), RekeyError> {
    match noise.read(message) {
        Ok(payload) if payload.is_empty() => Ok(()),
        Ok(_) => Err(RekeyError::Unexpected),
        Err(Unreadable) => Err(RekeyError::Undecryptable),
    }
}

#[cfg(test)]
mod tests;
