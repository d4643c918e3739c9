//! Who a peer is, how two peers agree on keys, and how those keys protect bytes.
//!
//! Owns identities and signatures, the keys of the network's secrets, the handshake that opens a control session, the
//! key schedule and the dialogue that brings fresh keys into it, the sealing of control frames and of datagrams, and the
//! replay window. Owns no socket, clock or file, and no rekeying policy: when to leave an epoch is the data plane's
//! decision, by the limits in [`packet`].
//!
//! **Invariants.** Randomness comes only from the [`Rng`] that the caller gives, so a simulation repeats to the byte.
//! Nothing that a stranger sends panics or is buffered without bound. Types that hold secrets have no `Debug` that
//! shows them, and overwrite them when dropped. One key never meets one nonce twice: sealers of frames count by
//! themselves, callers that seal datagrams give a counter that only rises.
#![forbid(unsafe_code)]

mod aead;
pub mod frame;
pub mod handshake;
pub mod identity;
pub mod keys;
mod noise;
pub mod packet;
pub mod psk;
pub mod replay;
pub mod rng;

pub use aead::{KEY_LEN, Suite, TAG_LEN};
pub use frame::{FRAME_LEN_MAX, FrameError, FrameOpener, FrameSealer};
pub use handshake::{
    Alert, HANDSHAKE_BUFFER_LEN_MAX, HANDSHAKE_PAYLOAD_LEN_MAX, Handshake, HandshakeConfig, HandshakeError,
    HandshakeStep, Membership, SECRETS_MAX, Session, VERSIONS,
};
pub use identity::{BadSignature, Identity, IdentityError, PublicKey, SecretBytes, Signature};
pub use keys::{
    COOKIE_LEN, DataKeys, DirectionKey, ESP_KEY_LEN, EspKey, EspKeys, KeySchedule, Protection, RekeyError,
    RekeyStep, Role, WireguardKey,
};
pub use packet::{
    OpenError, OpeningKey, PACKET_HEADER_LEN, REJECT_AFTER_PACKETS, REKEY_AFTER_PACKETS, SealingKey,
    cookie_matches,
};
pub use psk::{PASSWORD_LEN_MAX, PasswordError, Psk, PskId, TOKEN_PREFIX};
pub use replay::{REPLAY_WINDOW, ReplayError, ReplayWindow};
pub use rng::Rng;
