//! The dialogue that opens a control session, as a state machine on bytes.
//!
//! Owns everything from the first byte of a connection to the first control frame: what each side says, how it is cut,
//! what is checked, and what a refusal tells. Owns no connection and no deadline: the caller closes what takes too long.
//!
//! ```text
//! initiator                                                      responder
//!   preamble ───────────────────────────────────────────────────────►   checks magic, versions, mode
//!   checks them too   ◄─────────────────────────────────────── preamble   (nothing at all if the magic is wrong)
//!   record Noise 1: e ──────────────────────────────────────────────►
//!   checks identity   ◄───────────── record Noise 2: e, ee, s, es, introduction
//!   record Noise 3: s, se, psk, introduction ───────────────────────►   checks identity and password
//!   done              ◄────────────────────── record confirm: one empty control frame, and is done
//! ```
//!
//! * A preamble has 16 bytes, layout in `preamble.rs`. The pattern is `Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s` where both
//!   have a password and `Noise_XX_25519_ChaChaPoly_BLAKE2s` where neither has one. Its prologue is `"mesh 1"` and both
//!   preambles as they crossed the wire, so whoever changes a version, a mode, a cipher or a reserved byte on the way
//!   breaks the handshake. As the initiator needs the other preamble before it can hash the prologue, the dialogue takes
//!   half a round trip more than XX alone.
//! * A record is `type: u8 | length: u16 big-endian | body`. Types: 1 Noise message (at most 4096 bytes), 2 alert (one
//!   byte, see [`Alert`]), 3 confirm.
//! * An introduction, in Noise messages 2 and 3, is the CBOR map `{0: Ed25519 public key, 1: signature over the Noise
//!   static key, 2: the caller's payload}`. Unknown keys are skipped.
//! * The password enters last (psk3): somebody who only listens, or only dials, learns nothing to test passwords
//!   against; only who poses as a responder does. The responder finds out at message 3 whether it is the same. The
//!   confirm is the first frame under the session's keys, by which the initiator knows too.
//! * A responder may have several passwords, while they change. Up to message 3 none of them has left a mark on what it
//!   sent, so it reads that message under each. For that it goes through its own part again from the same randomness,
//!   which gives the same keys and the same message 2; nothing is sent twice. A password fits if the introduction that it
//!   opens reads as one; that it merely decrypts is not enough, or one message made to decrypt under hundreds of guessed
//!   passwords (which the AEAD does not prevent) would tell whether one of them is right. All are tried, also after one
//!   has fitted, so that the time tells how many there are and not which one it was.
//!
//! Alerts and preambles of a dialogue that fails are not authenticated: somebody on the path can forge them. They can
//! prevent a session, as cutting the connection would, and never bring one about.

mod error;
mod introduction;
mod preamble;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use mesh_wire::PeerId;
use zeroize::Zeroizing;

pub use self::error::{Alert, HandshakeError};
use self::introduction::Introduction;
pub use self::preamble::VERSIONS;
use self::preamble::{Agreement, Preamble};
use self::record::Record;
use crate::aead::Suite;
use crate::frame::{FrameOpener, FrameSealer};
use crate::identity::{Identity, PublicKey};
use crate::keys::{KeySchedule, Role};
use crate::noise::{self, NOISE_LEN_MAX, Noise};
use crate::psk::{Psk, PskId};
use crate::rng::Rng;

/// Length of the longest payload that a side may send with its introduction, in bytes.
pub const HANDSHAKE_PAYLOAD_LEN_MAX: usize = 2048;

/// Most bytes that a handshake keeps between two calls: less than one whole record, which is refused by its header if it
/// is longer than it may be.
pub const HANDSHAKE_BUFFER_LEN_MAX: usize = 8 << 10;

const _: () = assert!(record::HEADER_LEN + NOISE_LEN_MAX <= HANDSHAKE_BUFFER_LEN_MAX);

/// Most secrets that a responder tries; it passes over what goes beyond. Each costs it three or four multiplications on
/// the curve when message 3 comes, some tenths of a millisecond.
pub const SECRETS_MAX: usize = 4;

/// What one side brings to the handshake.
pub struct HandshakeConfig<'a> {
    /// Which side it is.
    pub role: Role,
    /// The least and the greatest version of the protocol that it speaks: [`VERSIONS`] for what this crate does. What two sides
    /// with a greater one in common would say is not written yet.
    pub versions: (u8, u8),
    /// Its keys.
    pub identity: &'a Identity,
    /// The network's secrets, if it has any. An initiator shows the first; a responder accepts each of the first
    /// [`SECRETS_MAX`]. Both sides must have one in common, or both none.
    pub secrets: &'a [Psk],
    /// The only peers that the other side may be; anybody with the secret if `None`.
    pub allowed: Option<Arc<BTreeSet<PeerId>>>,
    /// Whether this host has AES instructions. Only if both have is AES-256-GCM used.
    pub aes_preferred: bool,
    /// What the other side is told, sealed: at most [`HANDSHAKE_PAYLOAD_LEN_MAX`] bytes. Bound to this side's identity;
    /// the initiator's is bound to the password too. The responder's reaches whoever dials, before any password.
    pub payload: Vec<u8>,
}

/// A handshake under way.
///
/// **Contract.** Send the bytes that [`Handshake::new`] and each [`HandshakeStep`] give, in order, before anything else.
/// Give it each piece of input as it comes, cut anywhere, until it answers with another step than
/// [`HandshakeStep::More`]. On [`HandshakeStep::Failed`] send what is given and close.
pub struct Handshake {
    local: Box<Local>,
    phase: Phase,
}

/// What comes of a piece of input.
pub enum HandshakeStep {
    /// The handshake goes on.
    More {
        /// The handshake, to go on with.
        handshake: Handshake,
        /// Bytes to send, maybe none.
        send: Vec<u8>,
    },
    /// Both sides have proven who they are, and that they know the password if there is one.
    Done {
        /// The session.
        session: Box<Session>,
        /// Bytes to send before the first control frame, maybe none.
        send: Vec<u8>,
        /// Input that came after the handshake: for the session's opener.
        rest: Vec<u8>,
    },
    /// There will be no session.
    Failed {
        /// Why.
        error: HandshakeError,
        /// Bytes to send before closing, so that the other side can say why too. Empty towards strangers.
        send: Vec<u8>,
    },
}

/// What kept strangers out of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// Nothing: neither side has a password, and anybody may join.
    Open,
    /// Both sides proved to know this one of the network's secrets.
    Psk(PskId),
}

/// An open control session with an authenticated peer.
pub struct Session {
    /// Who the other side is. It holds this key.
    pub peer: PublicKey,
    /// What the other side sent along.
    pub payload: Vec<u8>,
    /// Which side this router is.
    pub role: Role,
    /// What kept strangers out.
    pub secured_by: Membership,
    /// Seals what this router sends.
    pub sealer: FrameSealer,
    /// Opens what it receives.
    pub opener: FrameOpener,
    /// Keys for the data plane.
    pub keys: KeySchedule,
}

/// This side's part, which stays the same from phase to phase.
struct Local {
    role: Role,
    peer_id: PeerId,
    noise_static: Zeroizing<[u8; 32]>,
    secrets: Vec<Psk>,
    allowed: Option<Arc<BTreeSet<PeerId>>>,
    preamble: Preamble,
    introduction: Introduction,
    rng: Rng,
    /// Input that is not a whole preamble or record yet.
    input: Vec<u8>,
}

/// What is waited for.
enum Phase {
    Preamble,
    Record(Expected),
}

/// Which record is waited for. Noise 1 and 3 come to the responder, Noise 2 and the confirm to the initiator.
enum Expected {
    Noise1(Box<Talk>),
    Noise2(Box<Talk>),
    /// With message 1, to go through the responder's part again.
    Noise3(Box<Talk>, Vec<u8>),
    Confirm(Box<Session>),
}

/// The Noise dialogue, once the preambles have settled its terms.
struct Talk {
    noise: Noise,
    terms: Terms,
}

/// What this side's part of Noise follows from, together with its secret and what the other side says.
struct Terms {
    suite: Suite,
    prologue: Vec<u8>,
    seed: Zeroizing<[u8; 32]>,
}

/// What one preamble or record, or the lack of one, leads to.
enum Progress {
    Waiting(Handshake),
    Advanced(Handshake),
    Done { session: Box<Session>, rest: Vec<u8> },
}

impl Handshake {
    /// A handshake, and the bytes to send first: the initiator's preamble. All randomness of the handshake comes from
    /// `rng`.
    #[must_use]
    pub fn new(config: HandshakeConfig<'_>, rng: &mut Rng) -> (Self, Vec<u8>) {
        let noise_static = config.identity.noise_static();
        let introduction =
            Introduction::new(config.identity, &noise::public_key(&noise_static), config.payload);
        let local = Local {
            role: config.role,
            peer_id: config.identity.peer_id(),
            noise_static,
            secrets: config.secrets.iter().take(SECRETS_MAX).cloned().collect(),
            allowed: config.allowed,
            preamble: Preamble::new(config.versions, !config.secrets.is_empty(), config.aes_preferred),
            introduction,
            rng: rng.fork(),
            input: Vec::new(),
        };
        let send = match config.role {
            Role::Initiator => local.preamble.as_bytes().to_vec(),
            Role::Responder => Vec::new(),
        };
        (Self { local: Box::new(local), phase: Phase::Preamble }, send)
    }

    /// Takes input from the other side, of any length. What is used of it is not kept.
    #[must_use]
    pub fn handle(mut self, input: &[u8]) -> HandshakeStep {
        self.local.input.extend_from_slice(input);
        let role = self.local.role;
        let mut send = Vec::new();
        // Each turn but the last brings the next phase, of which there are four.
        loop {
            match self.advance(&mut send) {
                Ok(Progress::Advanced(next)) => self = next,
                Ok(Progress::Waiting(handshake)) => return HandshakeStep::More { handshake, send },
                Ok(Progress::Done { session, rest }) => return HandshakeStep::Done { session, send, rest },
                Err(error) => {
                    if let Some(alert) = error.alert(role) {
                        Record::Alert(alert).write_to(&mut send);
                    }
                    return HandshakeStep::Failed { error, send };
                }
            }
        }
    }

    fn advance(self, send: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        let Self { mut local, phase } = self;
        let expected = match phase {
            Phase::Preamble => match Preamble::take(&mut local.input)? {
                Some(theirs) => local.on_preamble(&theirs, send)?,
                None => return Ok(Progress::Waiting(Self { local, phase: Phase::Preamble })),
            },
            Phase::Record(expected) => {
                let Some(record) = Record::take(&mut local.input)? else {
                    return Ok(Progress::Waiting(Self { local, phase: Phase::Record(expected) }));
                };
                match (expected, record) {
                    (Expected::Noise1(talk), Record::Noise(body)) => local.on_noise_1(talk, body, send)?,
                    (Expected::Noise2(talk), Record::Noise(body)) => local.on_noise_2(*talk, &body, send)?,
                    (Expected::Noise3(talk, noise_1), Record::Noise(body)) => {
                        let session = local.on_noise_3(*talk, &noise_1, &body, send)?;
                        return Ok(Progress::Done { session, rest: local.input });
                    }
                    (Expected::Confirm(session), Record::Confirm(frame)) => {
                        let session = confirmed(session, &frame)?;
                        return Ok(Progress::Done { session, rest: local.input });
                    }
                    (_, Record::Alert(alert)) => return Err(HandshakeError::from_alert(alert, local.role)),
                    (
                        Expected::Noise1(_) | Expected::Noise2(_) | Expected::Noise3(..),
                        Record::Confirm(_),
                    )
                    | (Expected::Confirm(_), Record::Noise(_)) => return Err(HandshakeError::Malformed),
                }
            }
        };
        Ok(Progress::Advanced(Self { local, phase: Phase::Record(expected) }))
    }
}

impl Local {
    /// Answers the initiator's preamble, or its answer by Noise message 1, if the two can talk at all. The responder's
    /// preamble goes out even if they cannot, for by it the initiator learns why.
    fn on_preamble(&mut self, theirs: &Preamble, send: &mut Vec<u8>) -> Result<Expected, HandshakeError> {
        if self.role == Role::Responder {
            send.extend_from_slice(self.preamble.as_bytes());
        }
        let Agreement { suite } = self.preamble.agree(theirs)?;
        let (initiator, responder) = match self.role {
            Role::Initiator => (&self.preamble, theirs),
            Role::Responder => (theirs, &self.preamble),
        };
        let prologue = preamble::prologue(initiator, responder);
        let mut terms = Terms { suite, prologue, seed: Zeroizing::new([0; 32]) };
        self.rng.fill(&mut *terms.seed);
        let noise = self.noise(&terms, self.secrets.first());
        let mut talk = Box::new(Talk { noise, terms });
        match self.role {
            Role::Initiator => {
                Record::Noise(write(&mut talk.noise, &[])?).write_to(send);
                Ok(Expected::Noise2(talk))
            }
            Role::Responder => Ok(Expected::Noise1(talk)),
        }
    }

    /// This side's part of the dialogue from its beginning: the same each time, but for the secret.
    fn noise(&self, terms: &Terms, psk: Option<&Psk>) -> Noise {
        Noise::xx(self.role, &self.noise_static, psk, &terms.prologue, Rng::from_seed(*terms.seed))
    }

    /// The responder answers the initiator's ephemeral key with its identity.
    fn on_noise_1(
        &self,
        mut talk: Box<Talk>,
        body: Vec<u8>,
        send: &mut Vec<u8>,
    ) -> Result<Expected, HandshakeError> {
        Record::Noise(self.answer(&mut talk.noise, &body)?).write_to(send);
        Ok(Expected::Noise3(talk, body))
    }

    /// Noise message 2, for the initiator's message 1.
    fn answer(&self, noise: &mut Noise, noise_1: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        if !read(noise, noise_1)?.is_empty() {
            return Err(HandshakeError::Malformed);
        }
        write(noise, &self.introduction.encode()?)
    }

    /// The initiator checks the responder's identity, and shows its own and the password.
    fn on_noise_2(
        &self,
        mut talk: Talk,
        body: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Expected, HandshakeError> {
        let theirs = Introduction::decode(&read(&mut talk.noise, body)?)?;
        self.check(&theirs, &talk.noise)?;
        Record::Noise(write(&mut talk.noise, &self.introduction.encode()?)?).write_to(send);
        Ok(Expected::Confirm(self.session(talk.noise, talk.terms.suite, self.secrets.first(), theirs)))
    }

    /// The responder checks the initiator's password and identity, and confirms both.
    fn on_noise_3(
        &self,
        talk: Talk,
        noise_1: &[u8],
        body: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Box<Session>, HandshakeError> {
        let suite = talk.terms.suite;
        let (noise, psk, theirs) = if self.secrets.is_empty() {
            let mut noise = talk.noise;
            let theirs = Introduction::decode(&read(&mut noise, body)?)?;
            (noise, None, theirs)
        } else {
            self.find_secret(talk, noise_1, body)?
        };
        self.check(&theirs, &noise)?;
        let mut session = self.session(noise, suite, psk, theirs);
        let frame = session.sealer.seal(&[]).expect("a fresh key seals an empty frame");
        Record::Confirm(frame).write_to(send);
        Ok(session)
    }

    /// Reads message 3 under each secret. It has two sealed parts: the initiator's static key, sealed without the
    /// password, and its introduction, sealed with it. If the first opens and the second does under none, the passwords
    /// differ (or somebody on the path wants it to look so).
    fn find_secret(
        &self,
        talk: Talk,
        noise_1: &[u8],
        body: &[u8],
    ) -> Result<(Noise, Option<&Psk>, Introduction), HandshakeError> {
        let Talk { noise, terms } = talk;
        let mut begun = Some(noise);
        let mut fitting = None;
        for psk in &self.secrets {
            let mut noise = begun.take().unwrap_or_else(|| self.noise_after_2(&terms, psk, noise_1));
            let introduction = read(&mut noise, body).and_then(|payload| Introduction::decode(&payload));
            if noise.remote_static().is_none() {
                return Err(HandshakeError::Undecryptable);
            }
            if let (Ok(theirs), None) = (introduction, &fitting) {
                fitting = Some((noise, Some(psk), theirs));
            }
        }
        fitting.ok_or(HandshakeError::PasswordDiffers)
    }

    /// The responder's part as it stood after message 2, had `psk` been its secret.
    fn noise_after_2(&self, terms: &Terms, psk: &Psk, noise_1: &[u8]) -> Noise {
        let mut noise = self.noise(terms, Some(psk));
        self.answer(&mut noise, noise_1).expect("the same bytes were read and written before");
        noise
    }

    fn check(&self, theirs: &Introduction, noise: &Noise) -> Result<(), HandshakeError> {
        theirs.check(&noise.remote_static().ok_or(HandshakeError::Malformed)?)?;
        let peer = theirs.public_key.peer_id();
        if peer == self.peer_id {
            return Err(HandshakeError::SelfConnection);
        }
        match &self.allowed {
            Some(allowed) if !allowed.contains(&peer) => Err(HandshakeError::NotAllowed(peer)),
            Some(_) | None => Ok(()),
        }
    }

    fn session(&self, noise: Noise, suite: Suite, psk: Option<&Psk>, theirs: Introduction) -> Box<Session> {
        let ids = match self.role {
            Role::Initiator => [self.peer_id, theirs.public_key.peer_id()],
            Role::Responder => [theirs.public_key.peer_id(), self.peer_id],
        };
        let (hash, split) = noise.finish();
        let keys = KeySchedule::new(&hash, &split, suite, self.role, ids);
        let (send, receive) = keys.frame_keys();
        Box::new(Session {
            peer: theirs.public_key,
            payload: theirs.payload,
            role: self.role,
            secured_by: psk.map_or(Membership::Open, |psk| Membership::Psk(psk.id())),
            sealer: FrameSealer::new(suite, &send),
            opener: FrameOpener::new(suite, &receive),
            keys,
        })
    }
}

fn read(noise: &mut Noise, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    noise.read(message).map_err(|noise::Unreadable| HandshakeError::Undecryptable)
}

fn write(noise: &mut Noise, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    noise.write(payload).map_err(|noise::PayloadTooLong| HandshakeError::PayloadTooLong(payload.len()))
}

/// The session, if `frame` is the responder's first: empty, and under the session's keys.
fn confirmed(mut session: Box<Session>, frame: &[u8]) -> Result<Box<Session>, HandshakeError> {
    session.opener.push(frame);
    match session.opener.next() {
        Ok(Some(plaintext)) if plaintext.is_empty() => Ok(session),
        Ok(_) => Err(HandshakeError::Malformed),
        Err(_unopened) => Err(HandshakeError::Undecryptable),
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer.peer_id())
            .field("role", &self.role)
            .field("secured_by", &self.secured_by)
            .finish_non_exhaustive()
    }
}
