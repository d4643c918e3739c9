mod downgrade;

use proptest::prelude::*;

use super::*;
use crate::aead::Suite;
use crate::keys::{DirectionKey, Protection, RekeyStep};
use crate::rng::Rng;

/// Messages of a handshake that succeeds: three from each side, by turns, the initiator's preamble first.
const MESSAGES: usize = 6;

/// The responder's last word, after which it is done.
const CONFIRM: usize = 5;

const INITIATOR: usize = 0;
const RESPONDER: usize = 1;

/// One side's settings. Its keys come from `seed`, and its randomness from `chance`.
#[derive(Clone)]
struct Party {
    seed: u8,
    chance: u8,
    versions: (u8, u8),
    secrets: Vec<u8>,
    allowed: Option<Arc<BTreeSet<PeerId>>>,
    aes: bool,
    payload: Vec<u8>,
}

impl Party {
    fn new(seed: u8, psk: Option<u8>) -> Self {
        Self::with(seed, psk.as_slice())
    }

    fn with(seed: u8, secrets: &[u8]) -> Self {
        Self {
            seed,
            chance: seed ^ 0x80,
            versions: VERSIONS,
            secrets: secrets.to_vec(),
            allowed: None,
            aes: false,
            payload: vec![seed; 5],
        }
    }

    fn identity(&self) -> Identity {
        Identity::generate(&mut Rng::from_seed([self.seed; 32]))
    }

    fn start(&self, role: Role) -> (Handshake, Vec<u8>) {
        let secrets: Vec<_> = self.secrets.iter().map(|byte| secret(*byte)).collect();
        let config = HandshakeConfig {
            role,
            versions: self.versions,
            identity: &self.identity(),
            secrets: &secrets,
            allowed: self.allowed.clone(),
            aes_preferred: self.aes,
            payload: self.payload.clone(),
        };
        Handshake::new(config, &mut Rng::from_seed([self.chance; 32]))
    }
}

fn secret(byte: u8) -> Psk {
    Psk::from_bytes([byte; 32])
}

/// Where a side stands.
enum End {
    Waiting(Handshake),
    Done(Box<Session>, Vec<u8>),
    Failed(HandshakeError),
}

impl End {
    /// Gives the side input in pieces of `chunk` bytes; returns what it answers.
    fn feed(self, input: &[u8], chunk: usize) -> (Self, Vec<u8>) {
        let mut sent = Vec::new();
        let mut end = self;
        for piece in input.chunks(chunk) {
            end = match end {
                Self::Waiting(handshake) => {
                    let (end, send) = step(handshake.handle(piece));
                    sent.extend(send);
                    end
                }
                Self::Done(session, rest) => Self::Done(session, [&rest, piece].concat()),
                Self::Failed(error) => Self::Failed(error),
            };
        }
        (end, sent)
    }

    fn session(self) -> Box<Session> {
        match self {
            Self::Done(session, rest) => {
                assert!(rest.is_empty(), "nothing was sent after the handshake");
                session
            }
            Self::Waiting(_) => panic!("still waiting"),
            Self::Failed(error) => panic!("failed: {error}"),
        }
    }

    fn error(&self) -> Option<&HandshakeError> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Waiting(_) | Self::Done(..) => None,
        }
    }

    fn is_done(&self) -> bool {
        matches!(self, Self::Done(..))
    }

    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}

fn step(step: HandshakeStep) -> (End, Vec<u8>) {
    match step {
        HandshakeStep::More { handshake, send } => {
            assert!(handshake.local.input.len() < HANDSHAKE_BUFFER_LEN_MAX);
            (End::Waiting(handshake), send)
        }
        HandshakeStep::Done { session, send, rest } => (End::Done(session, rest), send),
        HandshakeStep::Failed { error, send } => (End::Failed(error), send),
    }
}

struct Run {
    ends: [End; 2],
    /// What was sent, as the sender sent it.
    sent: Vec<Vec<u8>>,
}

/// Plays a handshake to its end. `tamper` may change each message, by its number, on its way.
fn play(starts: [(Handshake, Vec<u8>); 2], chunk: usize, mut tamper: impl FnMut(usize, &mut Vec<u8>)) -> Run {
    let [(initiator, mut message), (responder, silence)] = starts;
    assert!(silence.is_empty(), "a responder says nothing first");
    let mut ends = [End::Waiting(initiator), End::Waiting(responder)];
    let mut sent = Vec::new();
    // One turn more than a handshake has, for the alert that may follow.
    for turn in 0..=MESSAGES {
        if message.is_empty() {
            break;
        }
        sent.push(message.clone());
        tamper(turn, &mut message);
        let [initiator, responder] = ends;
        (ends, message) = if turn % 2 == 0 {
            let (responder, answer) = responder.feed(&message, chunk);
            ([initiator, responder], answer)
        } else {
            let (initiator, answer) = initiator.feed(&message, chunk);
            ([initiator, responder], answer)
        };
    }
    Run { ends, sent }
}

fn starts(initiator: &Party, responder: &Party) -> [(Handshake, Vec<u8>); 2] {
    [initiator.start(Role::Initiator), responder.start(Role::Responder)]
}

fn run(initiator: &Party, responder: &Party) -> Run {
    play(starts(initiator, responder), usize::MAX, |_, _| {})
}

fn pair(psk: Option<u8>) -> (Party, Party) {
    (Party::new(1, psk), Party::new(2, psk))
}

fn key_bytes(key: &DirectionKey) -> (Option<Suite>, Vec<u8>) {
    match key {
        DirectionKey::Sealed { suite, key } => (Some(*suite), key.to_vec()),
        DirectionKey::Clear { cookie } => (None, cookie.to_vec()),
    }
}

#[test]
fn both_patterns_and_both_suites_open_a_session() {
    for psk in [None, Some(7)] {
        for (aes_i, aes_r) in [(false, false), (true, false), (false, true), (true, true)] {
            let (mut initiator, mut responder) = pair(psk);
            (initiator.aes, responder.aes) = (aes_i, aes_r);
            let played = run(&initiator, &responder);
            assert_eq!(played.sent.len(), MESSAGES);
            let [mut i, mut r] = played.ends.map(End::session);

            assert_eq!(
                (i.peer, &i.payload, i.role),
                (responder.identity().public_key(), &responder.payload, Role::Initiator)
            );
            assert_eq!(
                (r.peer, &r.payload, r.role),
                (initiator.identity().public_key(), &initiator.payload, Role::Responder)
            );
            let expected = psk.map_or(Membership::Open, |byte| Membership::Psk(secret(byte).id()));
            assert_eq!((i.secured_by, r.secured_by), (expected, expected));
            let suite = if aes_i && aes_r { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
            assert_eq!((i.keys.suite(), r.keys.suite()), (suite, suite));

            r.opener.push(&i.sealer.seal(b"to the responder").unwrap());
            assert_eq!(r.opener.next(), Ok(Some(b"to the responder".to_vec())));
            i.opener.push(&r.sealer.seal(b"to the initiator").unwrap());
            assert_eq!(i.opener.next(), Ok(Some(b"to the initiator".to_vec())));
        }
    }
}

#[test]
fn both_sides_derive_the_same_data_keys_in_every_epoch() {
    let (initiator, responder) = pair(Some(7));
    let [mut i, mut r] = run(&initiator, &responder).ends.map(End::session);
    let mut rng = Rng::from_seed([5; 32]);
    let mut earlier = Vec::new();
    for epoch in 1..=3 {
        for protection in [Protection::Sealed, Protection::Clear] {
            let (keys_i, keys_r) = (i.keys.data_keys(protection), r.keys.data_keys(protection));
            assert_eq!(keys_i.epoch, keys_r.epoch);
            assert_eq!(key_bytes(&keys_i.send), key_bytes(&keys_r.receive));
            assert_eq!(key_bytes(&keys_i.receive), key_bytes(&keys_r.send));
            assert!(!earlier.contains(&key_bytes(&keys_i.send)), "an epoch repeats a key");
            earlier.push(key_bytes(&keys_i.send));
        }
        let proposal = i.keys.propose(&mut rng).unwrap();
        let Ok(RekeyStep::Accepted(answer)) = r.keys.handle_rekey(epoch, &proposal, &mut rng) else {
            panic!("not accepted")
        };
        assert_eq!(i.keys.handle_rekey(epoch, &answer, &mut rng), Ok(RekeyStep::Completed));
    }
}

#[test]
fn one_seed_gives_one_dialogue_and_another_seed_other_keys() {
    let (initiator, responder) = pair(Some(7));
    let first = run(&initiator, &responder);
    let again = run(&initiator, &responder);
    assert_eq!(first.sent, again.sent);

    let [i, r] = [&initiator, &responder].map(|party| Party { chance: 99, ..party.clone() });
    let fresh = run(&i, &r);
    assert_ne!(first.sent[2], fresh.sent[2], "the initiator's ephemeral key");
    assert_ne!(first.sent[3], fresh.sent[3], "the responder's ephemeral key");
    let [first, fresh] = [first, fresh].map(|run| {
        let [initiator, _] = run.ends.map(End::session);
        key_bytes(&initiator.keys.data_keys(Protection::Sealed).send)
    });
    assert_ne!(first, fresh);
}

#[test]
fn input_may_be_cut_anywhere() {
    for psk in [None, Some(7)] {
        let (initiator, responder) = pair(psk);
        let whole = run(&initiator, &responder).sent;
        for chunk in [1, 2, 3, 5, 17, 100] {
            let cut = play(starts(&initiator, &responder), chunk, |_, _| {});
            assert_eq!(cut.sent, whole, "pieces of {chunk}");
            assert!(cut.ends.iter().all(End::is_done));
        }
    }
}

#[test]
fn frames_that_come_with_the_confirm_are_handed_over() {
    let (initiator, responder) = pair(None);
    let sent = run(&initiator, &responder).sent;
    let [(waiting, _), (answering, _)] = starts(&initiator, &responder);
    let (waiting, _) = End::Waiting(waiting).feed(&[&sent[1][..], &sent[3]].concat(), usize::MAX);
    let (done, confirm) =
        End::Waiting(answering).feed(&[&sent[0][..], &sent[2], &sent[4]].concat(), usize::MAX);
    assert_eq!(confirm, [&sent[1][..], &sent[3], &sent[5]].concat(), "records may come together");
    let mut theirs = done.session();
    let frame = theirs.sealer.seal(b"early").unwrap();
    let (end, _) = waiting.feed(&[&sent[5][..], &frame[..4]].concat(), usize::MAX);
    let End::Done(mut session, rest) = end else { panic!("not done") };
    assert_eq!(rest, frame[..4]);
    session.opener.push(&rest);
    session.opener.push(&frame[4..]);
    assert_eq!(session.opener.next(), Ok(Some(b"early".to_vec())));
}

#[test]
fn different_passwords_are_named_on_both_sides() {
    let run = run(&Party::new(1, Some(7)), &Party::new(2, Some(8)));
    for end in &run.ends {
        assert_eq!(end.error(), Some(&HandshakeError::PasswordDiffers));
    }
}

#[test]
fn a_peer_that_is_not_among_the_allowed_is_told_so_from_either_side() {
    let id = |seed| Party::new(seed, None).identity().peer_id();
    let only = |peer| Some(Arc::new(BTreeSet::from([id(9), peer])));
    let (mut initiator, mut responder) = pair(Some(7));
    (initiator.allowed, responder.allowed) = (only(id(2)), only(id(1)));
    assert!(run(&initiator, &responder).ends.iter().all(End::is_done));
    let told = HandshakeError::RefusedByPeer(Alert::NotAllowed);
    responder.allowed = only(id(3));
    let by_responder = run(&initiator, &responder);
    assert_eq!(by_responder.ends[RESPONDER].error(), Some(&HandshakeError::NotAllowed(id(1))));
    assert_eq!(by_responder.ends[INITIATOR].error(), Some(&told));
    initiator.allowed = only(id(3));
    let by_initiator = run(&initiator, &responder);
    assert_eq!(by_initiator.ends[INITIATOR].error(), Some(&HandshakeError::NotAllowed(id(2))));
    assert_eq!(by_initiator.ends[RESPONDER].error(), Some(&told));
}

#[test]
fn a_password_on_one_side_only_is_named_on_both() {
    let with = Party::new(1, Some(7));
    let without = Party::new(2, None);
    let run_with = run(&with, &without);
    assert_eq!(run_with.ends[INITIATOR].error(), Some(&HandshakeError::PasswordMissingThere));
    assert_eq!(run_with.ends[RESPONDER].error(), Some(&HandshakeError::PasswordMissingHere));
    let run_without = run(&without, &with);
    assert_eq!(run_without.ends[INITIATOR].error(), Some(&HandshakeError::PasswordMissingHere));
    assert_eq!(run_without.ends[RESPONDER].error(), Some(&HandshakeError::PasswordMissingThere));
    assert_eq!(run_without.sent.len(), 2, "no Noise message was sent");
}

/// Neither side is done, except the responder once it has sent its last word.
fn assert_not_done(run: &Run, message: usize, what: &str) {
    assert!(!run.ends[INITIATOR].is_done(), "the initiator is done: message {message}, {what}");
    assert_eq!(run.ends[RESPONDER].is_done(), message == CONFIRM, "the responder: message {message}, {what}");
}

#[test]
fn any_changed_byte_of_any_message_prevents_the_session() {
    for (shown, known) in [(&[][..], &[][..]), (&[7], &[7]), (&[7], &[8, 7])] {
        let (initiator, responder) = (Party::with(1, shown), Party::with(2, known));
        let lens: Vec<usize> = run(&initiator, &responder).sent.iter().map(Vec::len).collect();
        assert_eq!(lens.len(), MESSAGES);
        for (message, len) in lens.into_iter().enumerate() {
            for at in 0..len {
                // X25519 ignores the highest bit of a key, so that one must be caught by the hash.
                for bit in [0x01, 0x80] {
                    let run = play(starts(&initiator, &responder), usize::MAX, |turn, bytes| {
                        if turn == message {
                            bytes[at] ^= bit;
                        }
                    });
                    assert_not_done(&run, message, &format!("byte {at}, bit {bit:#x}"));
                }
            }
        }
    }
}

#[test]
fn a_message_cut_short_is_waited_for() {
    let (initiator, responder) = pair(Some(7));
    let lens: Vec<usize> = run(&initiator, &responder).sent.iter().map(Vec::len).collect();
    for (message, len) in lens.into_iter().enumerate() {
        for keep in 0..len {
            let run = play(starts(&initiator, &responder), usize::MAX, |turn, bytes| {
                if turn == message {
                    bytes.truncate(keep);
                }
            });
            assert_not_done(&run, message, &format!("{keep} bytes kept"));
            assert!(run.ends[INITIATOR].is_waiting(), "message {message}, {keep} bytes kept");
        }
    }
}

#[test]
fn a_recorded_dialogue_convinces_nobody_again() {
    let (initiator, responder) = pair(Some(7));
    let recorded = run(&initiator, &responder).sent;
    let [i, r] = [&initiator, &responder].map(|party| Party { chance: 99, ..party.clone() });

    let (dialling, _) = i.start(Role::Initiator);
    let (end, _) = End::Waiting(dialling).feed(&[&recorded[1][..], &recorded[3]].concat(), usize::MAX);
    assert_eq!(end.error(), Some(&HandshakeError::Undecryptable));

    let (dialled, _) = r.start(Role::Responder);
    let said = [&recorded[0][..], &recorded[2], &recorded[4]].concat();
    let (end, _) = End::Waiting(dialled).feed(&said, usize::MAX);
    assert_eq!(end.error(), Some(&HandshakeError::Undecryptable));
}

#[test]
fn a_stranger_gets_no_answer_from_its_first_wrong_byte_on() {
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-OpenSSH", b"M\0", b"MESS", b"\0", &[0xff; 70_000]]
    {
        let (_, responder) = pair(None);
        let (end, send) = End::Waiting(responder.start(Role::Responder).0).feed(garbage, 1);
        assert_eq!(end.error(), Some(&HandshakeError::NotMesh));
        assert!(send.is_empty());
    }
    let (initiator, _) = pair(None);
    let (end, send) =
        End::Waiting(initiator.start(Role::Initiator).0).feed(b"HTTP/1.1 400 Bad Request", usize::MAX);
    assert_eq!(end.error(), Some(&HandshakeError::NotMesh));
    assert!(send.is_empty());
}

#[test]
fn versions_that_do_not_meet_are_named_on_both_sides() {
    let (initiator, responder) = pair(None);
    let [mut i, r] = starts(&initiator, &responder);
    (i.0.local.preamble, i.1) = {
        let mut bytes = *i.0.local.preamble.as_bytes();
        (bytes[4], bytes[5]) = (2, 3);
        (preamble_from(bytes), bytes.to_vec())
    };
    let run = play([i, r], usize::MAX, |_, _| {});
    let seen_by_initiator = HandshakeError::Version { ours: (2, 3), theirs: VERSIONS };
    let seen_by_responder = HandshakeError::Version { ours: VERSIONS, theirs: (2, 3) };
    assert_eq!(run.ends[INITIATOR].error(), Some(&seen_by_initiator));
    assert_eq!(run.ends[RESPONDER].error(), Some(&seen_by_responder));
    assert_eq!(
        seen_by_responder.to_string(),
        "the protocol versions do not meet: this router speaks 1, the other 2 to 3"
    );
}

#[test]
fn a_later_routers_reserved_bytes_and_suites_do_no_harm() {
    let (initiator, responder) = pair(Some(7));
    let [mut i, r] = starts(&initiator, &responder);
    let mut bytes = *i.0.local.preamble.as_bytes();
    bytes[5] = 9;
    bytes[7] = 0b1111_1110;
    bytes[8..].fill(0xaa);
    (i.0.local.preamble, i.1) = (preamble_from(bytes), bytes.to_vec());
    let run = play([i, r], usize::MAX, |_, _| {});
    let [session, _] = run.ends.map(End::session);
    assert_eq!(session.keys.suite(), Suite::ChaCha20Poly1305);
}

fn preamble_from(bytes: [u8; preamble::LEN]) -> Preamble {
    Preamble::take(&mut bytes.to_vec()).unwrap().unwrap()
}

#[test]
fn a_router_that_dials_itself_says_so() {
    for psk in [None, Some(7)] {
        let party = Party::new(1, psk);
        let run = run(&party, &party);
        assert_eq!(run.ends[INITIATOR].error(), Some(&HandshakeError::SelfConnection));
        let told = HandshakeError::RefusedByPeer(Alert::SelfConnection);
        assert_eq!(run.ends[RESPONDER].error(), Some(&told));
    }
}

#[test]
fn anothers_identity_cannot_be_borrowed() {
    let victim = Party::new(9, None).identity();
    let (initiator, responder) = pair(None);
    // A true introduction of the victim's own, over the victim's static key, shown by somebody else.
    let stolen = || {
        let victims_static = noise::public_key(&victim.noise_static());
        Introduction::new(&victim, &victims_static, Vec::new())
    };
    let mut from_initiator = starts(&initiator, &responder);
    from_initiator[INITIATOR].0.local.introduction = stolen();
    let run = play(from_initiator, usize::MAX, |_, _| {});
    assert_eq!(run.ends[RESPONDER].error(), Some(&HandshakeError::BadIdentity));
    let told = HandshakeError::RefusedByPeer(Alert::BadIdentity);
    assert_eq!(run.ends[INITIATOR].error(), Some(&told));

    let mut from_responder = starts(&initiator, &responder);
    from_responder[RESPONDER].0.local.introduction = stolen();
    let run = play(from_responder, usize::MAX, |_, _| {});
    assert_eq!(run.ends[INITIATOR].error(), Some(&HandshakeError::BadIdentity));
    assert!(!run.ends[RESPONDER].is_done());
}

#[test]
fn the_longest_payload_passes_and_one_byte_more_is_this_routers_own_fault() {
    let (mut initiator, mut responder) = pair(Some(7));
    initiator.payload = vec![1; HANDSHAKE_PAYLOAD_LEN_MAX];
    responder.payload = vec![2; HANDSHAKE_PAYLOAD_LEN_MAX];
    assert!(run(&initiator, &responder).ends.iter().all(End::is_done));
    responder.payload.push(2);
    let run = run(&initiator, &responder);
    let own_fault = HandshakeError::PayloadTooLong(HANDSHAKE_PAYLOAD_LEN_MAX + 1);
    assert_eq!(run.ends[RESPONDER].error(), Some(&own_fault));
    assert_eq!(run.ends[INITIATOR].error(), Some(&HandshakeError::RefusedByPeer(Alert::Unable)));
}

/// A responder that has answered a preamble, and waits for Noise 1.
fn waiting_for_noise_1(psk: Option<u8>) -> Handshake {
    let (initiator, responder) = pair(psk);
    let [(_, preamble), (handshake, _)] = starts(&initiator, &responder);
    match step(handshake.handle(&preamble)) {
        (End::Waiting(handshake), answer) => {
            assert_eq!(answer.len(), preamble::LEN);
            handshake
        }
        (End::Done(..) | End::Failed(_), _) => panic!("not waiting"),
    }
}

#[test]
fn a_record_is_refused_by_its_header() {
    for (header, error) in [
        ([1, 0x10, 1], HandshakeError::TooLong),
        ([1, 0xff, 0xff], HandshakeError::TooLong),
        ([2, 0, 0], HandshakeError::Malformed),
        ([2, 0, 2], HandshakeError::Malformed),
        ([3, 0, 18], HandshakeError::Malformed),
        ([3, 0xff, 0xff], HandshakeError::Malformed),
        ([0, 0, 1], HandshakeError::Malformed),
        ([4, 0, 1], HandshakeError::Malformed),
    ] {
        let (end, send) = End::Waiting(waiting_for_noise_1(None)).feed(&header, 1);
        assert_eq!(end.error(), Some(&error), "{header:?}");
        assert_eq!(send, [2, 0, 1, Alert::Malformed.code()]);
    }
}

#[test]
fn a_record_out_of_turn_is_malformed() {
    let confirm: Vec<u8> = [3, 0, 19].into_iter().chain([0; 19]).collect();
    let (end, _) = End::Waiting(waiting_for_noise_1(None)).feed(&confirm, usize::MAX);
    assert_eq!(end.error(), Some(&HandshakeError::Malformed));

    let (initiator, responder) = pair(None);
    let run = play(starts(&initiator, &responder), usize::MAX, |turn, bytes| {
        if turn == CONFIRM {
            *bytes = vec![1, 0, 1, 0];
        }
    });
    assert_eq!(run.ends[INITIATOR].error(), Some(&HandshakeError::Malformed));
}

#[test]
fn a_first_noise_message_with_a_payload_is_malformed() {
    // Without a password nothing of message 1 is sealed, so whatever follows the ephemeral key is its payload.
    let body: Vec<u8> = [1, 0, 33].into_iter().chain([9; 33]).collect();
    let (end, _) = End::Waiting(waiting_for_noise_1(None)).feed(&body, usize::MAX);
    assert_eq!(end.error(), Some(&HandshakeError::Malformed));
}

#[test]
fn an_ephemeral_key_of_low_order_opens_no_session() {
    let (initiator, responder) = pair(None);
    let run = play(starts(&initiator, &responder), usize::MAX, |turn, bytes| {
        if turn == 2 {
            bytes[record::HEADER_LEN..].fill(0);
        }
    });
    assert_not_done(&run, 2, "a key of zeros");
}

#[test]
fn alerts_end_the_handshake_in_every_phase() {
    let (initiator, responder) = pair(Some(7));
    for code in 0..=u8::MAX {
        let alert = Alert::from_code(code);
        assert_eq!(alert.code(), code);
        for message in [2, 3, 4, 5] {
            let run = play(starts(&initiator, &responder), usize::MAX, |turn, bytes| {
                if turn == message {
                    *bytes = vec![2, 0, 1, code];
                }
            });
            let (receiver, role) =
                if message % 2 == 0 { (RESPONDER, Role::Responder) } else { (INITIATOR, Role::Initiator) };
            assert_eq!(run.ends[receiver].error(), Some(&HandshakeError::from_alert(alert, role)));
            assert!(run.sent.len() == message + 1, "an alert is not answered");
        }
    }
}

#[test]
fn an_introduction_skips_what_a_later_router_adds_and_refuses_bytes_after_it() {
    let identity = Party::new(1, None).identity();
    let introduction = Introduction::new(&identity, &[5; 32], b"payload".to_vec());
    let encoded = introduction.encode().unwrap();
    assert_eq!(encoded[0], 0xa3, "a map of three");
    // A fourth entry: {3: [true]}.
    let mut later = [&encoded[..], &[0x03, 0x81, 0xf5]].concat();
    assert_eq!(Introduction::decode(&later).err(), Some(HandshakeError::Malformed));
    later[0] = 0xa4;
    let decoded = Introduction::decode(&later).unwrap();
    assert_eq!(decoded.payload, b"payload");
    assert_eq!(decoded.check(&[5; 32]), Ok(()));
    assert_eq!(decoded.check(&[6; 32]), Err(HandshakeError::BadIdentity));
    for len in 0..encoded.len() {
        assert_eq!(Introduction::decode(&encoded[..len]).err(), Some(HandshakeError::Malformed));
    }
}

#[test]
fn every_error_is_one_sentence_without_a_secret() {
    assert_eq!(
        HandshakeError::RefusedByPeer(Alert::Unknown(77)).to_string(),
        "the other router refused: for a reason unknown here (code 77)"
    );
    let (initiator, responder) = pair(Some(7));
    let [session, _] = run(&initiator, &responder).ends.map(End::session);
    let shown = format!("{session:?}");
    let id = responder.identity().peer_id();
    assert_eq!(shown, format!("Session {{ peer: {id}, role: Initiator, secured_by: Psk(..), .. }}"));
}

/// Pieces of a dialogue in any order: real messages, records of random bytes, and plain noise.
fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        3 => (0..MESSAGES, any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(message, at, flip)| Piece::Recorded { message, at, flip }),
        2 => (1_u8..=4, prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(kind, body)| Piece::Record { kind, body }),
        1 => prop::collection::vec(any::<u8>(), 0..5000).prop_map(Piece::Bytes),
    ]
}

#[derive(Debug, Clone)]
enum Piece {
    Recorded { message: usize, at: prop::sample::Index, flip: u8 },
    Record { kind: u8, body: Vec<u8> },
    Bytes(Vec<u8>),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nothing_a_stranger_sends_panics_is_believed_or_is_hoarded(
        as_initiator in any::<bool>(),
        psk in any::<bool>(),
        pieces in prop::collection::vec(piece(), 1..8),
        chunk in prop_oneof![Just(1_usize), Just(7), Just(usize::MAX)],
    ) {
        let (initiator, responder) = pair(psk.then_some(7));
        let recorded = run(&initiator, &responder).sent;
        // The side under test is another peer than the recorded one, so none of the recording is meant for it.
        let role = if as_initiator { Role::Initiator } else { Role::Responder };
        let known: &[u8] = if psk { &[8, 7] } else { &[] };
        let mut end = End::Waiting(Party::with(3, known).start(role).0);
        let mut input = recorded[usize::from(as_initiator)].clone();
        for piece in pieces {
            // `feed` checks that the handshake keeps less than its limit.
            (end, _) = end.feed(&input, chunk);
            input = match piece {
                Piece::Recorded { message, at, flip } => {
                    let mut bytes = recorded[message].clone();
                    let at = at.index(bytes.len());
                    bytes[at] ^= flip;
                    bytes
                }
                Piece::Record { kind, body } => {
                    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
                    [&[kind, len[0], len[1]], &body[..]].concat()
                }
                Piece::Bytes(bytes) => bytes,
            };
        }
        (end, _) = end.feed(&input, chunk);
        prop_assert!(!end.is_done());
    }
}
