//! What a damaged disk leads to: nothing acknowledged is lost, nothing garbled is used.

use std::time::Duration;

use super::cluster::Cluster;
use super::laws::peer;
use crate::founding::Founding;
use crate::interface::{Answer, Input, Output, Refusal, Request, Ticket};
use crate::log::{Corrupt, recover};
use crate::mutant::Mutants;

/// A host with some history, and the positions in its log where batches end.
fn written() -> (Cluster, Vec<usize>) {
    let mut cluster = Cluster::new(1, "10.0.0.0/28", |_| Founding::Alone, 1, Mutants::default());
    let mut ends = vec![0];
    for number in 0..6 {
        let ticket = cluster.allocate(0, &format!("c{number}"));
        cluster.wait(ticket).unwrap();
        ends.push(cluster.hosts[0].disk.log.len());
        if number % 2 == 0 {
            let request = Request::Release { ident: format!("c{number}").parse().unwrap(), subnet: None };
            let ticket = cluster.request(0, request, Duration::from_secs(1));
            cluster.wait(ticket).unwrap();
            ends.push(cluster.hosts[0].disk.log.len());
        }
    }
    (cluster, ends)
}

#[test]
fn a_log_cut_anywhere_loses_only_the_batch_that_was_cut() {
    let (cluster, ends) = written();
    let log = &cluster.hosts[0].disk.log;
    let mut seqs = std::collections::BTreeMap::new();
    for len in 0..=log.len() {
        let (state, valid) = recover(peer(1), None, &log[..len]).unwrap();
        assert!(valid <= len);
        seqs.entry(valid).or_insert_with(|| state.seq());
        assert_eq!(seqs[&valid], state.seq(), "what is recovered depends on whole batches alone");
        let zeros: Vec<u8> = log[..len].iter().copied().chain(std::iter::repeat_n(0, 50)).collect();
        let (same, same_valid) = recover(peer(1), None, &zeros).unwrap();
        assert_eq!((same, same_valid), (state, valid), "zeros of a file that was extended and not filled");
    }
    assert!(ends.iter().skip(1).all(|end| seqs.contains_key(end)), "{ends:?} {seqs:?}");
    assert_eq!(recover(peer(1), None, log).unwrap().0, *cluster.ipam(0).state());
}

/// Row 23 of the fault table.
#[test]
fn the_last_four_kib_of_a_log_cut_at_each_byte_lose_nothing_that_was_acknowledged() {
    const CUT_MAX: usize = 4096;
    let mut cluster = Cluster::new(1, "10.0.0.0/24", |_| Founding::Alone, 1, Mutants::default());
    // What a client was told, and how long the log was then.
    let mut told = Vec::new();
    while cluster.hosts[0].disk.log.len() <= CUT_MAX + 200 {
        let ident = format!("a-container-with-a-name-of-some-length-{}", told.len());
        let ticket = cluster.allocate(0, &ident);
        let Ok(Answer::Addresses(addresses)) = cluster.wait(ticket) else { panic!("there is space") };
        told.push((cluster.hosts[0].disk.log.len(), addresses[0].addr(), ident));
    }
    let log = &cluster.hosts[0].disk.log;
    for len in log.len() - CUT_MAX..=log.len() {
        let (state, valid) = recover(peer(1), None, &log[..len]).unwrap();
        let acknowledged = told.iter().filter(|(at, ..)| *at <= len);
        for (_, address, ident) in acknowledged.clone() {
            let holding = state.book.holding((*address).into());
            assert_eq!(holding.map(|holding| holding.ident.as_str()), Some(ident.as_str()), "cut at {len}");
        }
        assert_eq!(state.book.held().count(), acknowledged.count(), "cut at {len}");
        assert!(valid <= len, "cut at {len}: {valid} bytes are whole");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_log_is_refused() {
    let (cluster, _) = written();
    let log = &cluster.hosts[0].disk.log;
    for bit in 0..log.len() * 8 {
        let mut garbled = log.clone();
        garbled[bit / 8] ^= 1 << (bit % 8);
        let outcome = recover(peer(1), None, &garbled);
        assert!(matches!(outcome, Err(Corrupt::Log(_))), "bit {bit}: {outcome:?}");
    }
}

#[test]
fn a_snapshot_is_whole_or_refused_and_equals_the_log() {
    let (cluster, _) = written();
    let (_, snapshot) = cluster.ipam(0).snapshot();
    let restored = recover(peer(1), Some(&snapshot), &[]).unwrap().0;
    let state = cluster.ipam(0).state();
    assert_eq!(restored.custody, state.custody);
    assert_eq!(restored.seq(), state.seq());
    assert!(restored.book.held().eq(state.book.held()) && restored.book.freed().eq(state.book.freed()));
    assert_eq!(restored.book.idle(), state.book.idle());
    for len in 0..snapshot.len() {
        assert_eq!(recover(peer(1), Some(&snapshot[..len]), &[]), Err(Corrupt::Snapshot), "{len} bytes");
    }
    for bit in 0..snapshot.len() * 8 {
        let mut garbled = snapshot.clone();
        garbled[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(recover(peer(1), Some(&garbled), &[]), Err(Corrupt::Snapshot), "bit {bit}");
    }
}

#[test]
fn a_log_that_a_snapshot_has_overtaken_is_skipped_and_a_gap_is_refused() {
    let (mut cluster, ends) = written();
    let old = cluster.hosts[0].disk.log.clone();
    let (_, snapshot) = cluster.ipam(0).snapshot();
    let ticket = cluster.allocate(0, "later");
    cluster.wait(ticket).unwrap();
    let log = cluster.hosts[0].disk.log.clone();
    let (state, valid) = recover(peer(1), Some(&snapshot), &log).unwrap();
    assert_eq!((state.custody, valid), (cluster.ipam(0).state().custody.clone(), log.len()));
    assert!(recover(peer(1), Some(&snapshot), &log[old.len()..]).is_ok());
    assert!(matches!(recover(peer(1), None, &log[ends[1]..]), Err(Corrupt::Gap { .. })));
    assert_eq!(recover(peer(2), None, &log), Err(Corrupt::Foreign(peer(1))));
}

#[test]
fn a_failed_write_answers_everybody_and_ends_all_speech() {
    let mut cluster = Cluster::new(1, "10.0.0.0/28", |_| Founding::Alone, 1, Mutants::default());
    let ticket = cluster.allocate(0, "a");
    cluster.wait(ticket).unwrap();
    let now = cluster.now;
    let request = |ident: &str| Request::Allocate {
        ident: ident.parse().unwrap(),
        subnet: "10.0.0.0/28".parse().unwrap(),
    };
    let ipam = cluster.hosts[0].ipam.as_mut().unwrap();
    ipam.handle(
        Input::Request { ticket: Ticket(91), request: request("b"), deadline: now + Duration::from_secs(9) },
        now,
    );
    let Some(Output::Persist { seq, .. }) = ipam.poll_output() else {
        panic!("the address is written down first")
    };
    assert_eq!(ipam.poll_output(), None, "nothing is said before it is on disk");
    ipam.handle(Input::PersistFailed(seq), now);
    let refused = |ticket| Some(Output::Answer { ticket: Ticket(ticket), result: Err(Refusal::Disk) });
    assert_eq!(ipam.poll_output(), refused(91));
    ipam.handle(Input::Request { ticket: Ticket(92), request: request("a"), deadline: now }, now);
    assert_eq!(ipam.poll_output(), refused(92));
    assert_eq!((ipam.poll_output(), ipam.poll_timeout()), (None, None));
    assert_eq!(ipam.status(now).readiness, crate::Readiness::Disabled);
}

#[test]
fn an_address_is_kept_over_a_restart() {
    let (mut cluster, _) = written();
    let ticket = cluster.allocate(0, "c1");
    let before = cluster.wait(ticket);
    cluster.crash(0, true);
    cluster.start(0);
    let ticket = cluster.allocate(0, "c1");
    assert_eq!(cluster.wait(ticket), before);
    assert!(matches!(before, Ok(Answer::Addresses(_))));
}
