//! What survives a restart, and what keeps two routers from sharing it.
//!
//! Owns the run directory's lock and pid file, the state directory's identity file, and how any file there is replaced. An
//! identity is written once; its boot count is raised, durably, before the router says a word, so that no two lives
//! share a number.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use mesh_crypto::{Identity, Rng, SecretBytes};
use mesh_wire::BootCount;
use minicbor::{Decode, Encode};
use rustix::fs::FlockOperation;
use zeroize::Zeroizing;

use crate::{Error, journal, logging};

const IDENTITY_FILE: &str = "identity";
pub(crate) const NETWORK_FILE: &str = "network";
pub(crate) const TARGETS_FILE: &str = "targets";
pub(crate) const ATTACHMENTS_FILE: &str = "attachments";
pub(crate) const EXPOSED_FILE: &str = "exposed";

/// The names that were added by hand, in the state directory.
pub(crate) const NAMES_FILE: &str = "names";
const LOG_FILE: &str = "mesh.log";

/// Version of the identity file's layout.
const IDENTITY_FORMAT: u8 = 1;

/// Longest identity file that is read, in bytes.
const IDENTITY_FILE_LEN_MAX: u64 = 4096;

/// A router that was killed holds its lock until the kernel has taken its threads and its TAP interface down. One
/// that seems to be alive may have been killed this moment; one that is seen dying gets more time.
const ALIVE_GRACE: Duration = Duration::from_millis(100);
const DYING_GRACE: Duration = Duration::from_secs(3);

/// How often the lock is tried meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Holds the run directory for this process until dropped.
#[derive(Debug)]
pub(crate) struct RunLock {
    file: File,
    path: PathBuf,
}

/// The identity file: a CBOR array.
#[derive(Encode, Decode)]
struct IdentityFile {
    #[n(0)]
    format: u8,
    #[cbor(n(1), with = "minicbor::bytes")]
    secret: [u8; 64],
    #[n(2)]
    boot: u64,
}

/// Makes a directory that only root enters; one that exists is left as it is.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::File { action: "create", path: path.to_owned(), source })
}

impl RunLock {
    /// Takes the run directory, or says who has it. Waits for a holder that is dying.
    pub(crate) fn take(run_dir: &Path) -> Result<Self, Error> {
        let path = run_dir.join(mesh_api::PID_FILE_NAME);
        let since = Instant::now();
        loop {
            let holder = match Self::try_take(&path)? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Replaced => None,
                Attempt::Held(holder) => holder,
            };
            let grace = if holder.is_some_and(is_dying) { DYING_GRACE } else { ALIVE_GRACE };
            if since.elapsed() >= grace {
                return Err(Error::AlreadyRunning { pid: holder });
            }
            thread::sleep(LOCK_RETRY);
        }
    }

    fn try_take(path: &Path) -> Result<Attempt, Error> {
        let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed("open"))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_length| text.trim().parse().ok());
            return Ok(Attempt::Held(pid));
        }
        // The holder removes the file when it ends: a lock on a removed file guards nothing.
        let locked = file.metadata().map_err(failed("read"))?.ino();
        if !fs::metadata(path).is_ok_and(|present| present.ino() == locked) {
            return Ok(Attempt::Replaced);
        }
        file.set_len(0).map_err(failed("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(Attempt::Taken(Self { file, path: path.to_owned() }))
    }
}

/// What came of trying to take the lock.
enum Attempt {
    Taken(RunLock),
    /// The file that was locked is no longer the one in the directory.
    Replaced,
    /// Somebody has it; the process, if it could be read.
    Held(Option<u32>),
}

/// Whether a process has ended but for its remains: gone, a zombie (proc_pid_stat(5)), or with SIGKILL pending.
fn is_dying(pid: u32) -> bool {
    const SIGKILL_BIT: u64 = 1 << 8;
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let ended = value("State:").is_some_and(|state| state.starts_with(['Z', 'X']));
    let pending = |name| value(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    ended || (pending("SigPnd:") | pending("ShdPnd:")) & SIGKILL_BIT != 0
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Whether it can be removed changes nothing: the lock ends with the file's last descriptor.
        let _removed = fs::remove_file(&self.path);
        let _unlocked = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Loads this host's identity, or makes one, and begins its next life.
pub(crate) fn load_identity(state_dir: &Path, rng: &mut Rng) -> Result<(Identity, BootCount), Error> {
    let path = state_dir.join(IDENTITY_FILE);
    let (identity, boot) = match read_identity(&path)? {
        Some((identity, boot)) => (identity, boot + 1),
        None => {
            // What an earlier identity held is of no use to another one.
            journal::discard(state_dir)?;
            (Identity::generate(rng), 1)
        }
    };
    write_identity(&path, &identity, boot)?;
    Ok((identity, BootCount(boot)))
}

/// Removes what a router keeps in its directories, and the directories if nothing else is in them. Returns what was
/// removed.
pub(crate) fn remove(run_dir: &Path, state_dir: &Path) -> Result<Vec<String>, Error> {
    let files = [
        state_dir.join(IDENTITY_FILE),
        state_dir.join(journal::LOG_FILE),
        state_dir.join(journal::SNAPSHOT_FILE),
        state_dir.join(NETWORK_FILE),
        state_dir.join(TARGETS_FILE),
        state_dir.join(ATTACHMENTS_FILE),
        state_dir.join(NAMES_FILE),
        state_dir.join(EXPOSED_FILE),
        state_dir.join(LOG_FILE),
        logging::earlier(&state_dir.join(LOG_FILE)),
        run_dir.join(mesh_api::PID_FILE_NAME),
        run_dir.join(mesh_api::SOCKET_NAME),
    ];
    let mut removed = Vec::new();
    for path in files {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::File { action: "remove", path, source }),
        }
    }
    for dir in [state_dir, run_dir] {
        if fs::remove_dir(dir).is_ok() {
            removed.push(dir.display().to_string());
        }
    }
    Ok(removed)
}

fn read_identity(path: &Path) -> Result<Option<(Identity, u64)>, Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(IDENTITY_FILE_LEN_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let damaged = || Error::IdentityDamaged { path: path.to_owned() };
    let stored: IdentityFile = minicbor::decode(&bytes).map_err(|_cbor| damaged())?;
    if stored.format != IDENTITY_FORMAT {
        return Err(damaged());
    }
    let secret = SecretBytes::from(stored.secret);
    let identity = Identity::from_secret(&secret).map_err(|_unusable| damaged())?;
    Ok(Some((identity, stored.boot)))
}

fn write_identity(path: &Path, identity: &Identity, boot: u64) -> Result<(), Error> {
    let stored = IdentityFile { format: IDENTITY_FORMAT, secret: *identity.secret().as_bytes(), boot };
    let bytes = Zeroizing::new(minicbor::to_vec(&stored).expect("writing to a Vec cannot fail"));
    replace(path, &bytes)
}

/// Replaces a file so that after a crash the old one or the new one is there, whole. Only root can read it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
}

/// The text in a file. One that is longer than `len_max` bytes, or no UTF-8, is [`io::ErrorKind::InvalidData`].
pub(crate) fn read_text(path: &Path, len_max: u64) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(len_max + 1).read_to_string(&mut text)?;
    if length as u64 > len_max { Err(io::ErrorKind::InvalidData.into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rng() -> Rng {
        Rng::from_seed([3; 32])
    }

    #[test]
    fn an_identity_is_kept_and_each_life_counts_higher() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (first, boot) = load_identity(dir.path(), &mut rng()).expect("a fresh identity");
        assert_eq!(boot, BootCount(1));
        let (second, boot) = load_identity(dir.path(), &mut Rng::from_seed([4; 32])).expect("the same again");
        assert_eq!((second.peer_id(), boot), (first.peer_id(), BootCount(2)));
        let mode = fs::metadata(dir.path().join(IDENTITY_FILE)).expect("the file").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_identity_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join(IDENTITY_FILE);
        load_identity(dir.path(), &mut rng()).expect("a fresh identity");
        let whole = fs::read(&path).expect("the file");
        for damaged in [&whole[..whole.len() - 1], &[], &[0xff; 80]] {
            fs::write(&path, damaged).expect("writable");
            let error = load_identity(dir.path(), &mut rng()).map(|_| ()).expect_err("damaged");
            assert!(matches!(error, Error::IdentityDamaged { .. }), "{error}");
            assert_eq!(fs::read(&path).expect("the file"), damaged);
        }
    }

    #[test]
    fn a_run_directory_has_one_router() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lock = RunLock::take(dir.path()).expect("free");
        let pid = match RunLock::take(dir.path()) {
            Err(Error::AlreadyRunning { pid }) => pid,
            other => panic!("{other:?}"),
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(lock);
        RunLock::take(dir.path()).expect("free again");
    }
}
