//! What all parts of one lab share: its identity, its directory, and the last thing that went wrong.
//!
//! Owns the lab's directory tree. Namespaces and processes are others' business.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Error, Result};

use crate::id::LabId;

/// Where programs that run beside the test leave their output, below the lab's directory.
const OUTPUT_DIRECTORY: &str = "output";

/// The ground on which a lab stands.
#[derive(Debug)]
pub(crate) struct Site {
    id: LabId,
    directory: PathBuf,
    outputs: AtomicU32,
    last_failure: Mutex<Option<String>>,
}

impl Site {
    /// Makes the lab's directory.
    pub(crate) fn found(id: LabId) -> Result<Self> {
        let directory = id.directory();
        let output = directory.join(OUTPUT_DIRECTORY);
        fs::create_dir_all(&output).with_context(|| format!("cannot create {}", output.display()))?;
        Ok(Self { id, directory, outputs: AtomicU32::new(0), last_failure: Mutex::new(None) })
    }

    pub(crate) const fn id(&self) -> LabId {
        self.id
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A fresh name, without extension, for the output of a program.
    pub(crate) fn next_output_file(&self, label: &str) -> PathBuf {
        let serial = self.outputs.fetch_add(1, Ordering::Relaxed);
        self.directory.join(OUTPUT_DIRECTORY).join(format!("{label}-{serial}"))
    }

    pub(crate) fn output_directory(&self) -> PathBuf {
        self.directory.join(OUTPUT_DIRECTORY)
    }

    /// Remembers a failure, so that a later complaint about logs does not hide it.
    pub(crate) fn note_failure(&self, error: &Error) {
        *lock(&self.last_failure) = Some(format!("{error:#}"));
    }

    pub(crate) fn last_failure(&self) -> Option<String> {
        lock(&self.last_failure).clone()
    }
}

/// Locks, also when a test panicked while it held the lock: the clean-up must still run.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
