//! Which two routers get together, by versions, modes and secrets, and that nobody in between changes that.

use super::*;
use crate::psk::Psk;

const VERSIONS: [(u8, u8); 5] = [(1, 1), (0, 1), (1, 3), (2, 3), (0, 0)];

const SECRETS: [&[u8]; 6] = [&[], &[7], &[8], &[7, 8], &[8, 7], &[9, 7, 8, 6]];

/// What both ends should find, if they should not find each other.
fn expected(initiator: &Party, responder: &Party) -> Option<[HandshakeError; 2]> {
    let (ours, theirs) = (initiator.versions, responder.versions);
    if ours.0 > theirs.1 || theirs.0 > ours.1 {
        let error = |ours, theirs| HandshakeError::Version { ours, theirs };
        return Some([error(ours, theirs), error(theirs, ours)]);
    }
    match (initiator.secrets.first(), &responder.secrets[..]) {
        (None, []) => None,
        (None, [..]) => Some([HandshakeError::PasswordMissingHere, HandshakeError::PasswordMissingThere]),
        (Some(_), []) => Some([HandshakeError::PasswordMissingThere, HandshakeError::PasswordMissingHere]),
        (Some(shown), known) if known.contains(shown) => None,
        (Some(_), _) => Some([HandshakeError::PasswordDiffers, HandshakeError::PasswordDiffers]),
    }
}

fn matrix() -> impl Iterator<Item = (Party, Party)> {
    let sides = || VERSIONS.into_iter().flat_map(|versions| SECRETS.map(|secrets| (versions, secrets)));
    sides().flat_map(move |(versions_i, secrets_i)| {
        sides().map(move |(versions_r, secrets_r)| {
            let initiator = Party { versions: versions_i, ..Party::with(1, secrets_i) };
            (initiator, Party { versions: versions_r, ..Party::with(2, secrets_r) })
        })
    })
}

#[test]
fn two_routers_get_together_exactly_when_versions_modes_and_secrets_meet() {
    for (initiator, responder) in matrix() {
        let run = run(&initiator, &responder);
        match expected(&initiator, &responder) {
            None => {
                let [i, r] = run.ends.map(End::session);
                let shown = initiator.secrets.first();
                let secured = shown.map_or(Membership::Open, |byte| Membership::Psk(secret(*byte).id()));
                assert_eq!((i.secured_by, r.secured_by), (secured, secured));
            }
            Some(errors) => {
                for (end, error) in run.ends.iter().zip(&errors) {
                    assert_eq!(end.error(), Some(error), "{:?} {:?}", initiator.secrets, responder.secrets);
                }
            }
        }
    }
}

#[test]
fn nobody_in_between_talks_two_routers_into_less_or_more() {
    // Each side is shown other versions, another mode or another suite of the other side than it has.
    const CHANGES: [(usize, u8); 9] =
        [(4, 0), (4, 2), (5, 1), (5, 2), (6, 0), (6, 1), (7, 0), (7, 1), (8, 1)];
    for secrets in [&[][..], &[7]] {
        let party = |seed| Party { versions: (1, 3), aes: true, ..Party::with(seed, secrets) };
        let (initiator, responder) = (party(1), party(2));
        for to_responder in CHANGES.into_iter().map(Some).chain([None]) {
            for to_initiator in CHANGES.into_iter().map(Some).chain([None]) {
                let mut changed = false;
                let run = play(starts(&initiator, &responder), usize::MAX, |turn, bytes| {
                    let change = [to_responder, to_initiator].get(turn).copied().flatten();
                    if let Some((at, value)) = change {
                        changed |= bytes[at] != value;
                        bytes[at] = value;
                    }
                });
                let open = run.ends.iter().all(End::is_done);
                let half_open = run.ends.iter().any(End::is_done);
                assert_eq!((open, half_open), (!changed, !changed), "{to_responder:?} {to_initiator:?}");
            }
        }
    }
}

#[test]
fn a_secret_past_the_limit_is_not_tried() {
    let responder = Party::with(2, &[1, 2, 3, 4, 5]);
    assert!(run(&Party::with(1, &[4]), &responder).ends.iter().all(End::is_done));
    let refused = run(&Party::with(1, &[5]), &responder);
    assert_eq!(refused.ends[RESPONDER].error(), Some(&HandshakeError::PasswordDiffers));
}

#[test]
fn a_responder_with_many_secrets_says_the_same_as_one_with_one() {
    let shown = Party::with(1, &[7]);
    let lists: [&[u8]; 4] = [&[7], &[7, 8], &[8, 7], &[9, 8, 6, 7]];
    let accepted = lists.map(|list| run(&shown, &Party::with(2, list)).sent);
    assert!(accepted.windows(2).all(|pair| pair[0] == pair[1]), "a session that opens");
    let stranger = Party::with(1, &[5]);
    let refused = lists.map(|list| run(&stranger, &Party::with(2, list)).sent);
    assert!(refused.windows(2).all(|pair| pair[0][..4] == pair[1][..4]), "up to message 2");
    assert!(refused.iter().all(|sent| sent[CONFIRM] == [2, 0, 1, Alert::PasswordDiffers.code()]));
}

#[test]
fn an_answer_repeated_for_another_secret_is_the_same_answer() {
    let (initiator, responder) = (Party::with(1, &[8]), Party::with(2, &[7, 8]));
    let sent = run(&initiator, &responder).sent;
    let (end, _) = End::Waiting(responder.start(Role::Responder).0).feed(&sent[0], usize::MAX);
    let End::Waiting(Handshake { local, phase: Phase::Record(Expected::Noise1(talk)) }) = end else {
        panic!("not waiting for message 1")
    };
    for byte in 0..=u8::MAX {
        let mut again = local.noise(&talk.terms, Some(&secret(byte)));
        let answer = local.answer(&mut again, &sent[2][record::HEADER_LEN..]).unwrap();
        assert_eq!(answer, sent[3][record::HEADER_LEN..], "nothing of a secret is in message 2");
    }
}

/// An initiator's part with any payload in message 3, as nobody honest has.
fn message_3_with(payload: &[u8], psk: Psk, responder: Handshake) -> (End, Vec<u8>) {
    let (initiator, hello) = Party::with(1, &[7]).start(Role::Initiator);
    let mut hello_bytes = hello.clone();
    let ours = Preamble::take(&mut hello_bytes).unwrap().unwrap();
    let (end, mut answer) = End::Waiting(responder).feed(&hello, usize::MAX);
    let theirs = Preamble::take(&mut answer).unwrap().unwrap();
    let prologue = preamble::prologue(&ours, &theirs);
    let rng = Rng::from_seed([3; 32]);
    let mut noise = Noise::xx(Role::Initiator, &initiator.local.noise_static, Some(&psk), &prologue, rng);
    let record = |body: Vec<u8>| {
        let mut bytes = Vec::new();
        Record::Noise(body).write_to(&mut bytes);
        bytes
    };
    let (end, answer) = end.feed(&record(noise.write(&[]).unwrap()), usize::MAX);
    noise.read(&answer[record::HEADER_LEN..]).unwrap();
    end.feed(&record(noise.write(payload).unwrap()), usize::MAX)
}

#[test]
fn a_message_that_merely_decrypts_tells_no_more_than_one_that_does_not() {
    // Else one message that decrypts under many guessed passwords would test them all at once.
    for payload in [&b""[..], &[0; 200], &[0xa0]] {
        for shown in [7, 5] {
            let responder = Party::with(2, &[8, 7]).start(Role::Responder).0;
            let (end, alert) = message_3_with(payload, secret(shown), responder);
            assert_eq!(end.error(), Some(&HandshakeError::PasswordDiffers));
            assert_eq!(alert, [2, 0, 1, Alert::PasswordDiffers.code()]);
        }
    }
}

#[test]
fn whoever_shows_the_identity_of_another_is_refused_though_it_has_the_secret() {
    let stolen = Introduction::new(&Party::new(3, None).identity(), &[9; 32], Vec::new()).encode().unwrap();
    let responder = Party::with(2, &[8, 7]).start(Role::Responder).0;
    let (end, alert) = message_3_with(&stolen, secret(7), responder);
    assert_eq!(end.error(), Some(&HandshakeError::BadIdentity));
    assert_eq!(alert, [2, 0, 1, Alert::BadIdentity.code()]);
}
