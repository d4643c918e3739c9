use mesh_wire::PeerId;
use mesh_wire::control::REKEY_LEN_MAX;
use proptest::prelude::*;

use super::*;
use crate::aead::Suite;
use crate::keys::{DirectionKey, Protection};
use crate::rng::Rng;

fn schedule(role: Role) -> KeySchedule {
    let ids = [PeerId::from_bytes([0x11; 16]), PeerId::from_bytes([0x22; 16])];
    KeySchedule::new(&[1; 32], &[2; 64], Suite::ChaCha20Poly1305, role, ids)
}

/// Both sides of a session, with their randomness.
struct Pair {
    initiator: (KeySchedule, Rng),
    responder: (KeySchedule, Rng),
}

impl Pair {
    fn new() -> Self {
        Self {
            initiator: (schedule(Role::Initiator), Rng::from_seed([3; 32])),
            responder: (schedule(Role::Responder), Rng::from_seed([4; 32])),
        }
    }

    fn side(&mut self, role: Role) -> (&mut KeySchedule, &mut Rng) {
        let (schedule, rng) = match role {
            Role::Initiator => &mut self.initiator,
            Role::Responder => &mut self.responder,
        };
        (schedule, rng)
    }

    fn propose(&mut self, role: Role) -> Vec<u8> {
        let (schedule, rng) = self.side(role);
        schedule.propose(rng).expect("no proposal waits")
    }

    fn handle(&mut self, role: Role, epoch: u32, payload: &[u8]) -> Result<RekeyStep, RekeyError> {
        let (schedule, rng) = self.side(role);
        schedule.handle_rekey(epoch, payload, rng)
    }

    fn accept(&mut self, role: Role, epoch: u32, proposal: &[u8]) -> Vec<u8> {
        match self.handle(role, epoch, proposal) {
            Ok(RekeyStep::Accepted(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn epochs(&self) -> [u32; 2] {
        [self.initiator.0.epoch(), self.responder.0.epoch()]
    }

    /// The key of each direction, which both ends must have in common.
    fn keys(&self) -> [Vec<u8>; 2] {
        let (i, r) = (&self.initiator.0, &self.responder.0);
        let (i, r) = (i.data_keys(Protection::Sealed), r.data_keys(Protection::Sealed));
        assert_eq!(i.epoch, r.epoch);
        assert_eq!((bytes(&i.send), bytes(&i.receive)), (bytes(&r.receive), bytes(&r.send)));
        [bytes(&i.send), bytes(&i.receive)]
    }
}

fn bytes(key: &DirectionKey) -> Vec<u8> {
    match key {
        DirectionKey::Sealed { key, .. } => key.to_vec(),
        DirectionKey::Clear { cookie } => cookie.to_vec(),
    }
}

const OTHER: fn(Role) -> Role = |role| match role {
    Role::Initiator => Role::Responder,
    Role::Responder => Role::Initiator,
};

#[test]
fn either_side_leads_both_to_the_same_fresh_keys() {
    let mut pair = Pair::new();
    let mut seen = vec![pair.keys()];
    for (epoch, proposer) in [(1, Role::Initiator), (2, Role::Responder), (3, Role::Responder)] {
        let proposal = pair.propose(proposer);
        let answer = pair.accept(OTHER(proposer), epoch, &proposal);
        assert!(proposal.len().max(answer.len()) <= REKEY_LEN_MAX);
        assert_eq!(pair.handle(proposer, epoch, &answer), Ok(RekeyStep::Completed));
        assert_eq!(pair.epochs(), [epoch; 2]);
        let keys = pair.keys();
        assert!(!seen.contains(&keys));
        seen.push(keys);
    }
}

#[test]
fn the_next_keys_follow_from_the_dialogue_and_not_from_the_master_alone() {
    let keys = [3, 5].map(|seed| {
        let mut pair = Pair::new();
        pair.initiator.1 = Rng::from_seed([seed; 32]);
        let proposal = pair.propose(Role::Initiator);
        let answer = pair.accept(Role::Responder, 1, &proposal);
        assert_eq!(pair.handle(Role::Initiator, 1, &answer), Ok(RekeyStep::Completed));
        pair.keys()
    });
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn crossing_proposals_end_in_one_epoch_as_the_initiator_proposed() {
    let mut pair = Pair::new();
    let from_initiator = pair.propose(Role::Initiator);
    let from_responder = pair.propose(Role::Responder);
    assert_eq!(pair.handle(Role::Initiator, 1, &from_responder), Ok(RekeyStep::Crossed));
    let answer = pair.accept(Role::Responder, 1, &from_initiator);
    assert_eq!(pair.handle(Role::Initiator, 1, &answer), Ok(RekeyStep::Completed));
    assert_eq!(pair.epochs(), [1, 1]);
    let _agreed = pair.keys();
    // Nothing is left over: the next dialogue starts afresh, from either side.
    let proposal = pair.propose(Role::Responder);
    let answer = pair.accept(Role::Initiator, 2, &proposal);
    assert_eq!(pair.handle(Role::Responder, 2, &answer), Ok(RekeyStep::Completed));
    let _agreed = pair.keys();
}

#[test]
fn one_proposal_waits_at_a_time() {
    let (mut schedule, mut rng) = (schedule(Role::Initiator), Rng::from_seed([3; 32]));
    assert!(schedule.propose(&mut rng).is_some());
    assert_eq!(schedule.propose(&mut rng), None);
}

#[test]
fn any_changed_byte_is_refused_and_changes_nothing() {
    let mut pair = Pair::new();
    let proposal = pair.propose(Role::Initiator);
    let answer = pair.accept(Role::Responder, 1, &proposal);
    for at in 0..proposal.len() {
        for bit in [0x01, 0x80] {
            let mut pair = Pair::new();
            let _same = pair.propose(Role::Initiator);
            for (role, whole) in [(Role::Responder, &proposal), (Role::Initiator, &answer)] {
                let mut changed = whole.clone();
                changed[at] ^= bit;
                let outcome = pair.handle(role, 1, &changed);
                assert!(outcome.is_err(), "byte {at}, bit {bit:#x}: {outcome:?}");
            }
            assert_eq!(pair.epochs(), [0, 0]);
        }
    }
}

#[test]
fn a_step_for_another_epoch_or_out_of_turn_is_refused() {
    let mut pair = Pair::new();
    let proposal = pair.propose(Role::Initiator);
    for theirs in [0, 2, u32::MAX] {
        let refused = pair.handle(Role::Responder, theirs, &proposal);
        assert_eq!(refused, Err(RekeyError::OutOfStep { theirs, next: 1 }));
    }
    let answer = pair.accept(Role::Responder, 1, &proposal);
    assert_eq!(pair.handle(Role::Responder, 2, &answer), Err(RekeyError::Unexpected), "nothing was proposed");
    assert_eq!(pair.handle(Role::Responder, 2, &proposal), Err(RekeyError::Undecryptable), "an old proposal");
    assert_eq!(pair.handle(Role::Responder, 2, &[]), Err(RekeyError::Unexpected));
    assert_eq!(pair.handle(Role::Responder, 2, &[3, 1]), Err(RekeyError::Unexpected));
}

#[test]
fn another_session_cannot_take_part() {
    let mut pair = Pair::new();
    let proposal = pair.propose(Role::Initiator);
    let ids = [PeerId::from_bytes([0x11; 16]), PeerId::from_bytes([0x22; 16])];
    let mut stranger = KeySchedule::new(&[9; 32], &[2; 64], Suite::ChaCha20Poly1305, Role::Responder, ids);
    let outcome = stranger.handle_rekey(1, &proposal, &mut Rng::from_seed([4; 32]));
    assert_eq!(outcome, Err(RekeyError::Undecryptable));
}

proptest! {
    #[test]
    fn no_bytes_panic_or_move_the_epoch(
        as_initiator in any::<bool>(),
        proposed in any::<bool>(),
        step in 0_u8..4,
        message in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let role = if as_initiator { Role::Initiator } else { Role::Responder };
        let (mut schedule, mut rng) = (schedule(role), Rng::from_seed([3; 32]));
        if proposed {
            let _proposal = schedule.propose(&mut rng);
        }
        let payload = [&[step][..], &message].concat();
        let _outcome = schedule.handle_rekey(1, &payload, &mut rng);
        prop_assert_eq!(schedule.epoch(), 0);
    }
}
