use std::time::Duration;

use mesh_ipam::{Config, Founding, Input, Ipam, Output, Request, Ticket};
use mesh_wire::Moment;

use super::*;

const ME: PeerId = PeerId::from_bytes([7; 16]);

fn machine(state: State) -> Ipam {
    let config = Config {
        nickname: "h1".parse().expect("a nickname"),
        range: "10.32.0.0/24".parse().expect("a range"),
        founding: Founding::Alone,
    };
    Ipam::new(config, state, mesh_crypto::Rng::from_seed([1; 32]), Moment::ORIGIN)
}

/// What the machine wants written, after it was asked for an address; every batch counts as written at once.
fn batches(ipam: &mut Ipam) -> Vec<(u64, Vec<u8>)> {
    let ident = "c1".parse().expect("a name");
    let subnet = "10.32.0.0/24".parse().expect("a subnet");
    let request = Request::Allocate { ident, subnet };
    let deadline = Moment::ORIGIN + Duration::from_secs(1);
    ipam.handle(Input::Request { ticket: Ticket(1), request, deadline }, Moment::ORIGIN);
    let mut batches = Vec::new();
    while let Some(output) = ipam.poll_output() {
        if let Output::Persist { seq, bytes } = output {
            batches.push((seq, bytes));
            ipam.handle(Input::Persisted(seq), Moment::ORIGIN);
        }
    }
    batches
}

/// Writes what a router writes that gives one address away; returns the state that must be found again.
fn written(dir: &Path) -> State {
    let (mut journal, state, words) =
        Journal::start(open(dir, ME).expect("nothing is there")).expect("a thread");
    let mut ipam = machine(state);
    let batches = batches(&mut ipam);
    assert!(batches.len() > 1, "there is a middle");
    let last = batches.last().expect("some").0;
    for (seq, bytes) in batches {
        assert!(journal.append(seq, bytes));
    }
    journal.finish();
    assert_eq!(*words.borrow(), Word::Persisted { seq: last, is_long: false });
    ipam.state().clone()
}

#[test]
fn what_was_written_is_found_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let state = written(dir.path());
    assert_eq!(open(dir.path(), ME).expect("whole").state, state);
}

#[test]
fn a_torn_tail_is_cut_off_and_the_log_goes_on_after_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let state = written(dir.path());
    let path = dir.path().join(LOG_FILE);
    let whole = fs::read(&path).expect("the log");
    fs::write(&path, [&whole[..], &whole[..whole.len() / 3]].concat()).expect("writable");
    fs::write(&path, [&whole[..], &whole[..5]].concat()).expect("writable");
    assert_eq!(open(dir.path(), ME).expect("only the tail is torn").state, state);
    assert_eq!(fs::read(&path).expect("the log"), whole);
}

#[test]
fn a_log_that_is_damaged_in_the_middle_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    written(dir.path());
    let path = dir.path().join(LOG_FILE);
    let mut damaged = fs::read(&path).expect("the log");
    damaged[14] ^= 0x40;
    fs::write(&path, &damaged).expect("writable");
    let error = open(dir.path(), ME).expect_err("damaged");
    assert!(matches!(error, JournalError::Corrupt { .. }), "{error}");
    assert_eq!(fs::read(&path).expect("the log"), damaged);
}

#[test]
fn the_state_of_another_router_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    written(dir.path());
    let error = open(dir.path(), PeerId::from_bytes([8; 16])).expect_err("foreign");
    assert!(matches!(error, JournalError::Corrupt { source: Corrupt::Foreign(_), .. }), "{error}");
}

#[test]
fn a_snapshot_takes_the_place_of_the_log() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let state = written(dir.path());
    let (mut journal, found, _words) =
        Journal::start(open(dir.path(), ME).expect("whole")).expect("a thread");
    let mut ipam = machine(found);
    let batches = batches(&mut ipam);
    let (seq, snapshot) = ipam.snapshot();
    for (seq, bytes) in batches {
        assert!(journal.append(seq, bytes));
    }
    assert!(journal.wants_snapshot(Word::Persisted { seq, is_long: true }));
    journal.snapshot(snapshot);
    assert!(!journal.wants_snapshot(Word::Persisted { seq, is_long: true }), "one is on its way");
    journal.finish();
    assert_eq!(fs::metadata(dir.path().join(LOG_FILE)).expect("the log").len(), 0);
    let again = open(dir.path(), ME).expect("whole").state;
    assert_eq!(&again, ipam.state());
    assert!(again.seq() > state.seq());
}

#[test]
fn a_disk_that_takes_nothing_fails_for_good() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut opened = open(dir.path(), ME).expect("nothing is there");
    opened.files.log = OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    let (mut journal, _state, words) = Journal::start(opened).expect("a thread");
    assert!(journal.append(1, vec![0; 8]));
    journal.finish();
    assert_eq!(*words.borrow(), Word::Failed(1));
}

/// Writing works on this file, and fdatasync(2) does not: `EINVAL`, as for any file that cannot be brought to a disk.
#[test]
fn what_is_written_and_cannot_be_brought_to_disk_is_not_acknowledged() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut opened = open(dir.path(), ME).expect("nothing is there");
    opened.files.log = OpenOptions::new().write(true).open("/dev/null").expect("it is there");
    let (mut journal, _state, words) = Journal::start(opened).expect("a thread");
    assert!(journal.append(1, vec![0; 8]));
    journal.finish();
    assert_eq!(*words.borrow(), Word::Failed(1));
}

#[test]
fn a_log_that_somebody_has_removed_takes_nothing_more() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut journal, _state, words) =
        Journal::start(open(dir.path(), ME).expect("nothing is there")).expect("a thread");
    fs::remove_file(dir.path().join(LOG_FILE)).expect("it is there");
    assert!(journal.append(1, vec![0; 8]));
    journal.finish();
    assert_eq!(*words.borrow(), Word::Failed(1));
}

#[test]
fn after_a_failed_write_nothing_more_is_taken() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut opened = open(dir.path(), ME).expect("nothing is there");
    opened.files.log = OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    let (mut journal, _state, mut words) = Journal::start(opened).expect("a thread");
    assert!(journal.append(1, vec![0; 8]));
    while !matches!(*words.borrow_and_update(), Word::Failed(1)) {
        thread::yield_now();
    }
    // The thread is gone, or about to go; its queue with it.
    let mut seq = 1;
    while journal.append(seq + 1, vec![0; 8]) {
        seq += 1;
        thread::yield_now();
    }
    journal.finish();
    assert_eq!(*words.borrow(), Word::Failed(1));
}
