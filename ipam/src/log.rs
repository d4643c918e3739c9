//! The durable form of the state: a log of batches, and a snapshot that the log starts from. `FORMAT.md` has every byte.
//!
//! Owns what a damaged file means: a tail that was never completely written is cut off, because nothing in it was ever
//! acted upon; anything else that does not fit is refused as a whole. Owns no file.

use mesh_wire::PeerId;
use minicbor::{Decode, Encode};

use crate::addr::Addr;
use crate::book::Holding;
use crate::checksum::crc32c;
use crate::custody::Custody;
use crate::founding::{Network, Vote};
use crate::mutant::Mutants;
use crate::range::Range;
use crate::state::{Fence, Life, Record, State, Violation};
use crate::view::View;

/// Version of both formats.
const VERSION: u8 = 1;

/// Length of a frame's header: length of the body, checksum of that length, checksum of the body.
const HEADER_LEN: usize = 12;

/// Ends each frame. It differs from the zeros that stand where a file was extended and not yet written.
const END: u8 = 0xa5;

/// Most bytes in one frame: a snapshot of a map of 65,536 runs and as many addresses stays below it.
pub const FRAME_LEN_MAX: usize = 64 * 1024 * 1024;

/// Why files are refused. Nothing of them may be used: addresses fail closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// The snapshot is incomplete or garbled.
    #[error("the snapshot is damaged")]
    Snapshot,
    /// The log is garbled before its end.
    #[error("the log is damaged at byte {0}")]
    Log(usize),
    /// Batches are missing from the log.
    #[error("the log is damaged at byte {at}: batch {found} follows batch {last}")]
    Gap {
        /// Where.
        at: usize,
        /// The last batch before.
        last: u64,
        /// The one found.
        found: u64,
    },
    /// They belong to another identity.
    #[error("the state belongs to router {0}")]
    Foreign(PeerId),
    /// All checksums are right, and yet the state cannot be.
    #[error("the state contradicts itself: {0}")]
    Contradiction(#[from] Violation),
}

#[derive(Encode, Decode)]
struct Batch {
    #[n(0)]
    version: u8,
    #[n(1)]
    me: PeerId,
    #[n(2)]
    seq: u64,
    #[n(3)]
    records: Vec<Record>,
}

#[derive(Encode, Decode)]
struct Snapshot {
    #[n(0)]
    version: u8,
    #[n(1)]
    me: PeerId,
    #[n(2)]
    seq: u64,
    #[n(3)]
    network: Option<Network>,
    #[n(4)]
    view: View,
    #[n(5)]
    inactive: Vec<Range>,
    #[n(6)]
    held: Vec<(Addr, Holding)>,
    /// The first freed first.
    #[n(7)]
    freed: Vec<(Addr, Holding)>,
    #[n(8)]
    vote: Vote,
    #[n(9)]
    fence: Option<Fence>,
    #[n(10)]
    lives: Vec<(PeerId, Life)>,
}

/// One batch of records as a frame of the log.
#[must_use]
pub fn encode_batch(me: PeerId, seq: u64, records: Vec<Record>) -> Vec<u8> {
    frame(&Batch { version: VERSION, me, seq, records })
}

/// The whole state as one frame.
#[must_use]
pub fn encode_snapshot(state: &State) -> Vec<u8> {
    let own = |(addr, holding): (Addr, &Holding)| (addr, holding.clone());
    frame(&Snapshot {
        version: VERSION,
        me: state.me,
        seq: state.seq,
        network: state.network,
        view: state.custody.view(),
        inactive: state.custody.inactive().iter().collect(),
        held: state.book.held().map(own).collect(),
        freed: state.book.freed().map(own).collect(),
        vote: state.vote.clone(),
        fence: state.fence,
        lives: state.lives.iter().map(|(peer, life)| (*peer, *life)).collect(),
    })
}

/// The state of `me` from its snapshot, if there is one, and its log, and how many bytes of the log are whole; the rest
/// is the remains of a write that never ended, and is to be cut off before the log is written again.
///
/// # Errors
/// [`Corrupt`] if anything but the log's tail is damaged.
pub fn recover(me: PeerId, snapshot: Option<&[u8]>, log: &[u8]) -> Result<(State, usize), Corrupt> {
    recover_with(me, snapshot, log, Mutants::default())
}

/// The same, with a deliberate mistake.
///
/// # Errors
/// As [`recover`].
pub fn recover_with(
    me: PeerId,
    snapshot: Option<&[u8]>,
    log: &[u8],
    mutants: Mutants,
) -> Result<(State, usize), Corrupt> {
    let mut state = match snapshot {
        Some(bytes) => restore(me, bytes, mutants)?,
        None => State::with_mutants(me, mutants),
    };
    let mut at = 0;
    while at < log.len() {
        let (body, next) = match read_frame(&log[at..]) {
            Ok((body, len)) => (body, at + len),
            Err(Damage::Cut) => break,
            Err(Damage::Garbled) if is_unwritten(&log[at..]) => break,
            Err(Damage::Garbled) => return Err(Corrupt::Log(at)),
        };
        let batch: Batch = whole(body).ok_or(Corrupt::Log(at))?;
        if batch.version != VERSION {
            return Err(Corrupt::Log(at));
        }
        if batch.me != me {
            return Err(Corrupt::Foreign(batch.me));
        }
        // A crash between the snapshot and the start of a new log leaves batches that the snapshot has already.
        if batch.seq > state.seq {
            if batch.seq != state.seq + 1 {
                return Err(Corrupt::Gap { at, last: state.seq, found: batch.seq });
            }
            batch.records.iter().for_each(|record| drop(state.apply(record)));
            state.seq = batch.seq;
        }
        at = next;
    }
    if !is_mutated(mutants) {
        state.check_invariants()?;
    }
    Ok((state, at))
}

/// A deliberate mistake may break an invariant on purpose; it is for the test to find.
fn is_mutated(mutants: Mutants) -> bool {
    mutants != Mutants::default()
}

fn restore(me: PeerId, bytes: &[u8], mutants: Mutants) -> Result<State, Corrupt> {
    let snapshot: Snapshot = match read_frame(bytes) {
        Ok((body, len)) if len == bytes.len() => whole(body).ok_or(Corrupt::Snapshot)?,
        Ok(_) | Err(Damage::Cut | Damage::Garbled) => return Err(Corrupt::Snapshot),
    };
    if snapshot.version != VERSION {
        return Err(Corrupt::Snapshot);
    }
    if snapshot.me != me {
        return Err(Corrupt::Foreign(snapshot.me));
    }
    let mut state = State::with_mutants(me, mutants);
    state.seq = snapshot.seq;
    state.network = snapshot.network;
    state.custody = Custody::restore(me, &snapshot.view, &snapshot.inactive, mutants);
    for range in state.custody.active().iter() {
        drop(state.book.shift(crate::custody::Shift::Gained(range)));
    }
    for (addr, holding) in snapshot.freed {
        state.book.hold(addr, holding);
        state.book.free(addr, true);
    }
    for (addr, holding) in snapshot.held {
        state.book.hold(addr, holding);
    }
    state.vote = snapshot.vote;
    state.fence = snapshot.fence;
    state.lives = snapshot.lives.into_iter().collect();
    Ok(state)
}

fn frame(value: &impl Encode<()>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    minicbor::encode(value, &mut bytes).expect("writing to a Vec cannot fail");
    let len = u32::try_from(bytes.len() - HEADER_LEN)
        .expect("the limits keep a state far below 4 GiB")
        .to_be_bytes();
    let body = crc32c(&bytes[HEADER_LEN..]).to_be_bytes();
    bytes[..4].copy_from_slice(&len);
    bytes[4..8].copy_from_slice(&crc32c(&len).to_be_bytes());
    bytes[8..HEADER_LEN].copy_from_slice(&body);
    bytes.push(END);
    bytes
}

/// What is wrong with the frame at the start of some bytes.
enum Damage {
    /// They end before it does.
    Cut,
    /// A checksum or the end mark is wrong.
    Garbled,
}

/// The body of the frame at the start of `bytes`, and the length of the frame.
fn read_frame(bytes: &[u8]) -> Result<(&[u8], usize), Damage> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_LEN) else { return Err(Damage::Cut) };
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("a slice of four bytes"));
    let len = word(0) as usize;
    if crc32c(&header[..4]) != word(4) || len > FRAME_LEN_MAX {
        return Err(Damage::Garbled);
    }
    // The length is trusted now: what is missing was never written.
    let Some((body, tail)) = rest.split_at_checked(len) else { return Err(Damage::Cut) };
    match tail.first() {
        None => Err(Damage::Cut),
        Some(end) if *end == END && crc32c(body) == word(8) => Ok((body, HEADER_LEN + len + 1)),
        Some(_) => Err(Damage::Garbled),
    }
}

/// Whether `bytes`, which begin with a garbled frame, are the remains of one write: they end in a zero, which no complete
/// frame does, so the file was extended and not filled; and no complete frame follows, as one would after damage.
fn is_unwritten(bytes: &[u8]) -> bool {
    bytes.last() == Some(&0) && (1..bytes.len()).all(|at| read_frame(&bytes[at..]).is_err())
}

fn whole<'b, T: Decode<'b, ()>>(body: &'b [u8]) -> Option<T> {
    let mut decoder = minicbor::Decoder::new(body);
    let value = decoder.decode().ok()?;
    (decoder.position() == body.len()).then_some(value)
}
