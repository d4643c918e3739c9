//! Log lines: levels, formats and where they go.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::Registry;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use crate::Error;

/// A log file longer than this, in bytes, is put aside when a router starts; one earlier file is kept.
const LOG_LEN_MAX: u64 = 10 * 1024 * 1024;

/// The least severe level that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Worth a look.
    Warn,
    /// What an operator wants to have seen afterwards: starts, connections, changes.
    Info,
    /// How decisions came about.
    Debug,
    /// Single packets.
    Trace,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Appended to this file, made with mode 0600. A long one of earlier lives is put aside first, with `.1` behind
    /// its name.
    File(PathBuf),
}

/// Changes the level of a log that was set up.
#[derive(Clone)]
pub struct LogControl(Handle<LevelFilter, Registry>);

impl LogControl {
    /// From now on this is the least severe level that is written.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only when the log is gone, which lives as long as the process.
        let _set = self.0.reload(filter(level));
    }
}

/// Sets up logging for this process, once.
pub fn init_logging(level: LogLevel, format: LogFormat, target: &LogTarget) -> Result<LogControl, Error> {
    let (filter, control) = reload::Layer::new(filter(level));
    let writer = match target {
        LogTarget::Stderr => BoxMakeWriter::new(std::io::stderr),
        LogTarget::File(path) => BoxMakeWriter::new(Mutex::new(open(path)?)),
    };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    let log = tracing_subscriber::registry().with(filter);
    let done = match format {
        LogFormat::Text => log.with(lines).try_init(),
        LogFormat::Json => log.with(lines.json()).try_init(),
    };
    done.map_err(|_already_set| Error::LoggingTwice)?;
    Ok(LogControl(control))
}

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_LEN_MAX) {
        fs::rename(path, earlier(path)).map_err(failed("rename"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed("open"))
}

/// Where the log of earlier lives is put aside.
pub(crate) fn earlier(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_grown_long_is_put_aside_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("mesh.log");
        open(&path).expect("a new file").set_len(LOG_LEN_MAX).expect("room on the disk");
        assert_eq!(open(&path).map(|log| log.metadata().expect("open").len()).ok(), Some(LOG_LEN_MAX));
        open(&path).expect("the same file").set_len(LOG_LEN_MAX + 1).expect("room on the disk");
        assert_eq!(open(&path).map(|log| log.metadata().expect("open").len()).ok(), Some(0));
        assert!(earlier(&path).exists());
    }
}
