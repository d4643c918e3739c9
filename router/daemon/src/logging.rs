//! Log lines: levels, formats and where they go.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;

use crate::Error;

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
    /// Appended to this file, made with mode 0600.
    File(PathBuf),
}

/// Sets up logging for this process, once.
pub fn init_logging(level: LogLevel, format: LogFormat, target: &LogTarget) -> Result<(), Error> {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_max_level(filter).with_ansi(false);
    let done = match (target, format) {
        (LogTarget::Stderr, LogFormat::Text) => builder.with_writer(std::io::stderr).try_init(),
        (LogTarget::Stderr, LogFormat::Json) => builder.json().with_writer(std::io::stderr).try_init(),
        (LogTarget::File(path), LogFormat::Text) => builder.with_writer(Mutex::new(open(path)?)).try_init(),
        (LogTarget::File(path), LogFormat::Json) => {
            builder.json().with_writer(Mutex::new(open(path)?)).try_init()
        }
    };
    done.map_err(|_already_set| Error::LoggingTwice)
}

fn open(path: &PathBuf) -> Result<std::fs::File, Error> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(|source| Error::File {
        action: "open",
        path: path.clone(),
        source,
    })
}
