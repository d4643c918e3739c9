//! Address management's state on disk: a log that grows by batches, and a snapshot that it starts from.
//!
//! Owns the two files and the thread that writes them. What they mean is `mesh-ipam`'s. Batches that wait are written
//! together, brought to disk by one fdatasync(2), and acknowledged by the last of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use ipnet::IpNet;
use mesh_ipam::range::Range;
use mesh_ipam::{Corrupt, State};
use mesh_wire::PeerId;
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use crate::{Error, store};

pub(crate) const LOG_FILE: &str = "ipam.log";
pub(crate) const SNAPSHOT_FILE: &str = "ipam.snapshot";

/// Batches that wait for the disk. One more means that the disk is stuck, and counts as a failed one.
const BATCHES_QUEUED_MAX: usize = 65_536;

/// Bytes that are written at once; what waits beyond them is written next.
const WRITE_LEN_MAX: usize = 4 * 1024 * 1024;

/// A log of this length, in bytes, is followed by a snapshot and starts anew.
const LOG_LEN_SNAPSHOT: u64 = 4 * 1024 * 1024;

/// Longest log or snapshot, in bytes. A log that reaches it, since no snapshot can be written, counts as a failed disk;
/// a longer file is not read.
const FILE_LEN_MAX: u64 = 1024 * 1024 * 1024;

/// Why the state cannot be used. The files are left as they are, but for a torn tail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] Error),
    /// The files are not what was written.
    #[error("the addresses' state in {} is unusable: {source}", dir.display())]
    Corrupt { dir: PathBuf, source: Corrupt },
}

/// What was found on disk, open for more.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) state: State,
    files: Files,
}

impl Opened {
    /// Refuses a range that is not that of the network to which the state belongs.
    pub(crate) fn check_range(&self, given: IpNet) -> Result<(), Error> {
        let stored = self.state.range().and_then(Range::subnet).filter(|stored| *stored != given);
        stored.map_or(Ok(()), |stored| Err(Error::RangeDiffers { stored, given }))
    }
}

/// What came of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing was written yet.
    Silence,
    /// This batch, and all before it, are on disk. When the log `is_long`, a snapshot is wanted.
    Persisted { seq: u64, is_long: bool },
    /// This batch did not get to disk, and nothing will.
    Failed(u64),
}

enum Work {
    Append { seq: u64, bytes: Vec<u8> },
    Snapshot(Vec<u8>),
}

#[derive(Debug)]
struct Files {
    dir: PathBuf,
    log: File,
    len: u64,
    /// Length from which the next snapshot is wanted.
    snapshot_from: u64,
}

/// Opens the files of `me`, or makes them, and cuts off the remains of a write that never ended.
pub(crate) fn open(state_dir: &Path, me: PeerId) -> Result<Opened, JournalError> {
    let path = state_dir.join(LOG_FILE);
    let snapshot = read(&state_dir.join(SNAPSHOT_FILE))?;
    let bytes = read(&path)?;
    let (state, whole) = mesh_ipam::recover(me, snapshot.as_deref(), bytes.as_deref().unwrap_or_default())
        .map_err(|source| JournalError::Corrupt { dir: state_dir.to_owned(), source })?;
    let len = whole as u64;
    let open = || {
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        log.set_len(len)?;
        log.sync_all()?;
        File::open(state_dir)?.sync_all()?;
        Ok(log)
    };
    let log = open().map_err(|source| Error::File { action: "open", path, source })?;
    let files = Files { dir: state_dir.to_owned(), log, len, snapshot_from: LOG_LEN_SNAPSHOT };
    Ok(Opened { state, files })
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        Err(failed(io::ErrorKind::FileTooLarge.into()))
    } else {
        Ok(Some(bytes))
    }
}

/// The thread that writes.
pub(crate) struct Journal {
    work: mpsc::Sender<Work>,
    thread: thread::JoinHandle<()>,
    /// The last batch that was handed to the thread.
    last: u64,
    /// Whether a snapshot is on its way.
    snapshot_is_due: bool,
}

impl Journal {
    /// Starts the thread; its words come by the receiver, where a later one stands for all before it.
    pub(crate) fn start(opened: Opened) -> io::Result<(Self, State, watch::Receiver<Word>)> {
        let Opened { state, files } = opened;
        let (work, queue) = mpsc::channel(BATCHES_QUEUED_MAX);
        let (teller, words) = watch::channel(Word::Silence);
        let thread = thread::Builder::new().name("mesh-journal".to_owned()).spawn(move || {
            write_all(files, queue, &teller);
        })?;
        Ok((Self { work, thread, last: state.seq(), snapshot_is_due: false }, state, words))
    }

    /// Hands a batch to the thread. False when the disk has failed, or is stuck.
    pub(crate) fn append(&mut self, seq: u64, bytes: Vec<u8>) -> bool {
        self.last = seq;
        self.work.try_send(Work::Append { seq, bytes }).is_ok()
    }

    /// Notes a word of the thread. Whether this is the moment for a snapshot: the log is long, and no batch is on its way.
    pub(crate) fn wants_snapshot(&mut self, word: Word) -> bool {
        match word {
            Word::Persisted { seq, is_long } => {
                self.snapshot_is_due &= is_long;
                is_long && seq == self.last && !self.snapshot_is_due
            }
            Word::Silence | Word::Failed(_) => false,
        }
    }

    /// Puts a snapshot in the place of the log. Where that fails, the log stays and grows on.
    pub(crate) fn snapshot(&mut self, bytes: Vec<u8>) {
        self.snapshot_is_due = self.work.try_send(Work::Snapshot(bytes)).is_ok();
    }

    /// Waits until everything that was handed over is on disk, and ends the thread.
    pub(crate) fn finish(self) {
        drop(self.work);
        if self.thread.join().is_err() {
            error!("the addresses' journal ended by a panic");
        }
    }
}

fn write_all(mut files: Files, mut queue: mpsc::Receiver<Work>, teller: &watch::Sender<Word>) {
    let mut next = queue.blocking_recv();
    while let Some(work) = next.take() {
        match work {
            Work::Append { seq, bytes } => {
                let (mut seq, mut batch) = (seq, bytes);
                while batch.len() < WRITE_LEN_MAX {
                    match queue.try_recv() {
                        Ok(Work::Append { seq: later, bytes }) => {
                            seq = later;
                            batch.extend(bytes);
                        }
                        Ok(other @ Work::Snapshot(_)) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                if let Err(error) = files.append(&batch) {
                    error!(%error, "the addresses' state cannot be written: no more addresses from this router");
                    teller.send_replace(Word::Failed(seq));
                    return;
                }
                teller.send_replace(Word::Persisted { seq, is_long: files.len >= files.snapshot_from });
            }
            Work::Snapshot(bytes) => files.start_anew(&bytes),
        }
        if next.is_none() {
            next = queue.blocking_recv();
        }
    }
}

impl Files {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.len + bytes.len() as u64 > FILE_LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.log.write_all(bytes)?;
        self.log.sync_data()?;
        // What is written to a file that somebody has removed is lost with this process.
        if self.log.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the log was removed"));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The snapshot holds all that the log says, so a crash between the two steps loses nothing.
    fn start_anew(&mut self, snapshot: &[u8]) {
        let written = store::replace(&self.dir.join(SNAPSHOT_FILE), snapshot);
        let cut = written.map_err(|error| error.to_string()).and_then(|()| {
            self.log.set_len(0).and_then(|()| self.log.sync_data()).map_err(|error| error.to_string())
        });
        match cut {
            Ok(()) => (self.len, self.snapshot_from) = (0, LOG_LEN_SNAPSHOT),
            Err(error) => {
                self.snapshot_from = self.len + LOG_LEN_SNAPSHOT;
                warn!(error, "the addresses' log could not be put into a snapshot");
            }
        }
    }
}

/// Removes what belongs to an identity that is no more.
pub(crate) fn discard(state_dir: &Path) -> Result<(), Error> {
    for name in [LOG_FILE, SNAPSHOT_FILE] {
        let path = state_dir.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File { action: "remove", path, source });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
