//! The dialogue that opens a session, and the frames of an open one, with a peer that says anything.

use mesh_crypto::{Handshake, HandshakeConfig, HandshakeStep, Identity, Psk, Rng, Role, Session, VERSIONS};

use crate::input::Input;

/// Longest piece of input at once, in bytes.
const PIECE_LEN_MAX: usize = 8 * 1024;

pub(crate) fn responder(bytes: &[u8]) {
    talk(Role::Responder, bytes);
}

pub(crate) fn initiator(bytes: &[u8]) {
    talk(Role::Initiator, bytes);
}

/// Feeds a handshake until it ends. The first byte chooses whether it has a secret.
fn talk(role: Role, bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let secrets = if input.u8() & 1 == 0 { vec![] } else { vec![Psk::from_bytes([3; 32])] };
    let mut handshake = start(role, 1, &secrets).0;
    while !input.is_empty() {
        match handshake.handle(input.piece(PIECE_LEN_MAX)) {
            HandshakeStep::More { handshake: next, .. } => handshake = next,
            HandshakeStep::Done { .. } => panic!("a stranger without a key got through"),
            HandshakeStep::Failed { .. } => return,
        }
    }
}

/// A handshake whose randomness follows from `seed`.
pub(crate) fn start(role: Role, seed: u8, secrets: &[Psk]) -> (Handshake, Vec<u8>) {
    let mut rng = Rng::from_seed([seed; 32]);
    let identity = Identity::generate(&mut rng);
    let config = HandshakeConfig {
        role,
        versions: VERSIONS,
        identity: &identity,
        secrets,
        allowed: None,
        aes_preferred: true,
        payload: Vec::new(),
    };
    Handshake::new(config, &mut rng)
}

/// An honest session, on whose frames the input works: bytes changed, frames repeated, cut or invented.
pub(crate) fn frames(bytes: &[u8]) {
    let (mut here, mut there) = session();
    let mut input = Input::new(bytes);
    let mut sent = Vec::new();
    let mut received = 0;
    while !input.is_empty() && sent.len() < 64 {
        let plaintext = input.piece(2048).to_vec();
        let mut frame = here.sealer.seal(&plaintext).expect("a short frame");
        sent.push(plaintext);
        let change = input.u16();
        let is_changed = change != 0;
        match input.u8() % 4 {
            _ if !is_changed => {}
            0 => {
                let at = usize::from(change) % frame.len();
                frame[at] ^= 1 << (change % 8);
            }
            1 => frame.truncate(usize::from(change) % frame.len()),
            2 => frame.splice(0..0, input.piece(64).iter().copied()).for_each(drop),
            _ => frame.extend_from_within(..),
        }
        there.opener.push(&frame);
        loop {
            match there.opener.next() {
                Ok(Some(plaintext)) => {
                    assert_eq!(Some(&plaintext), sent.get(received), "only what was sent, in order, once");
                    received += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(there.opener.next(), Err(error), "an error is for good");
                    return;
                }
            }
        }
    }
}

/// Both ends of a session.
fn session() -> (Session, Session) {
    let (mut a, mut to_b) = start(Role::Initiator, 1, &[]);
    let (mut b, _nothing) = start(Role::Responder, 2, &[]);
    for _ in 0..4 {
        let (to_a, done) = match b.handle(&to_b) {
            HandshakeStep::More { handshake, send } => {
                b = handshake;
                (send, None)
            }
            HandshakeStep::Done { session, send, .. } => {
                (b, _) = start(Role::Responder, 2, &[]);
                (send, Some(session))
            }
            HandshakeStep::Failed { error, .. } => panic!("an honest handshake failed: {error}"),
        };
        match (a.handle(&to_a), done) {
            (HandshakeStep::More { handshake, send }, None) => {
                a = handshake;
                to_b = send;
            }
            (HandshakeStep::Done { session, .. }, Some(theirs)) => return (*session, *theirs),
            _ => panic!("an honest handshake ends at both ends"),
        }
    }
    panic!("an honest handshake takes four steps");
}
