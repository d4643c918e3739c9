//! `mesh launch`: becomes the router, in the foreground or behind a process that waits until it is ready.
//!
//! In the background there are two processes. The one that the user started (`background`) runs this program again
//! with one hidden option more and waits for one line. The other one (`detached` below) is the router: its standard
//! output is a pipe to the first, by which it says that it is ready, or why it is not.

mod background;
mod dns;
mod options;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_api::{ErrorKind, Failure, LaunchDocument, Response};
use mesh_daemon::{Config, LogControl, LogTarget, Ready, Reload};
use rustix::process::{Signal, getpid, kill_process, setsid};

use crate::args::{LaunchArgs, Output};
use crate::config::{self, Call};
pub(crate) use crate::launch::dns::DnsOptions;
use crate::launch::options::Settings;
use crate::output;

/// Name of the log in the state directory.
const LOG_NAME: &str = "mesh.log";

/// The variable that holds a network's password.
const PASSWORD_VARIABLE: &str = "MESH_PASSWORD";

/// Bytes of it that go from one process to the other: more than any password, and less than a pipe holds, so that nobody
/// waits. Of a longer one the rest is not missed, for it is refused.
const PASSWORD_SENT_MAX: usize = 32 * 1024;

/// Runs `mesh launch`.
pub(crate) fn launch(output: Output) -> Result<(), Failure> {
    let call = Call::of_process()?;
    let given = call.settings()?;
    if given.args.detached {
        detached(call, given, output)
    } else if given.args.foreground {
        foreground(call, given, output)
    } else {
        print_ready(&background::launch(&given.args)?, output)
    }
}

/// Wants settings that a router could be launched with; returns what works and should be changed.
pub(crate) fn check(given: config::Settings) -> Result<Vec<String>, Failure> {
    let settings = options::settings(given, None)?;
    Ok(settings.warnings.iter().map(ToString::to_string).collect())
}

/// The settings that a call of `launch` comes to, without a password in the environment.
pub(crate) fn config(call: Call) -> Result<Config, Failure> {
    Ok(options::settings(call.settings()?, None)?.config)
}

/// An error of the router as the command line shows it.
pub(crate) fn failure(error: &mesh_daemon::Error) -> Failure {
    Failure { kind: error.kind(), message: error.to_string(), hint: error.hint() }
}

fn foreground(call: Call, given: config::Settings, output: Output) -> Result<(), Failure> {
    let settings = settings(given, output)?;
    let log = init_logging(&settings, &LogTarget::Stderr)?;
    mesh_daemon::run(settings.config, reload(call, log), |ready| {
        if let Err(failure) = print_ready(&document(ready), output) {
            // The router works without somebody to read this.
            output::report(&failure, output);
        }
    })
    .map_err(|error| failure(&error))
}

/// The router in the background. Its errors go to the process that waits, or to the log once it waits no longer.
fn detached(call: Call, given: config::Settings, output: Output) -> Result<(), Failure> {
    let released = Cell::new(false);
    let result = run_detached(call, given, output, &released);
    match result {
        Err(failure) if !released.get() => {
            // If nobody reads this, nobody waits.
            let _told = tell(&Response::Error(failure.clone()));
            std::process::exit(i32::from(failure.kind.exit_status()));
        }
        Ok(()) | Err(_) => result,
    }
}

fn run_detached(
    call: Call,
    given: config::Settings,
    output: Output,
    released: &Cell<bool>,
) -> Result<(), Failure> {
    // It fails only in the leader of a process group, which nobody's child is; then there is nothing to leave.
    let _session = setsid();
    let settings = settings(given, output)?;
    if !rustix::process::geteuid().is_root() {
        return Err(failure(&mesh_daemon::Error::NotRoot));
    }
    let log = log_path(&settings.config.state_dir);
    let nowhere = open(OpenOptions::new().read(true).write(true), Path::new("/dev/null"))?;
    let log_file = open_log(&log)?;
    let log = init_logging(&settings, &LogTarget::File(log))?;
    // A router in the background keeps no file system busy; its paths are absolute.
    std::env::set_current_dir("/").map_err(|error| failed("enter", Path::new("/"), &error))?;
    mesh_daemon::run(settings.config, reload(call, log), |ready| {
        released.set(true);
        let told = tell(&Response::document(&document(ready)));
        let left = rustix::stdio::dup2_stdout(nowhere).and_then(|()| rustix::stdio::dup2_stderr(log_file));
        if told.is_err() || left.is_err() {
            // Whoever launched this router has given up on it, so it ends, as tidily as it would at any other time.
            let _asked = kill_process(getpid(), Signal::TERM);
        }
    })
    .map_err(|error| failure(&error))
}

fn settings(given: config::Settings, output: Output) -> Result<Settings, Failure> {
    let password = password(&given.args)?;
    let settings = options::settings(given, password)?;
    for warning in &settings.warnings {
        output::warn(&warning.to_string(), output);
    }
    Ok(settings)
}

/// How the router reads its settings again: as at first, but for a password in the environment, which cannot change.
fn reload(call: Call, log: LogControl) -> Reload {
    let read = move || {
        let settings = options::settings(call.settings()?, None)?;
        Ok((settings.config, settings.log_level))
    };
    Reload { read: Arc::new(read), log }
}

/// The value of `MESH_PASSWORD`, from the environment or from the process that had it there.
fn password(args: &LaunchArgs) -> Result<Option<OsString>, Failure> {
    if !args.password_on_stdin {
        return Ok(std::env::var_os(PASSWORD_VARIABLE));
    }
    let mut value = Vec::with_capacity(PASSWORD_SENT_MAX);
    let read = io::stdin().lock().take(PASSWORD_SENT_MAX as u64).read_to_end(&mut value);
    read.map_err(|error| Failure::new(ErrorKind::Internal, format!("cannot read the password: {error}")))?;
    Ok(Some(OsString::from_vec(value)))
}

fn init_logging(settings: &Settings, target: &LogTarget) -> Result<LogControl, Failure> {
    mesh_daemon::init_logging(settings.log_level, settings.log_format, target)
        .map_err(|error| failure(&error))
}

/// Writes one line to the process that waits.
fn tell(response: &Response) -> io::Result<()> {
    let mut pipe = io::stdout().lock();
    pipe.write_all(&response.encode())?;
    pipe.flush()
}

fn document(ready: Ready) -> LaunchDocument {
    LaunchDocument { peer_id: ready.peer_id, nickname: ready.nickname, pid: ready.pid }
}

fn print_ready(router: &LaunchDocument, output: Output) -> Result<(), Failure> {
    let LaunchDocument { peer_id, nickname, pid } = router;
    match output {
        Output::Human => output::print(&format!("router {nickname} ({peer_id}) is ready, pid {pid}\n")),
        Output::Json => output::print_json(router),
    }
}

fn log_path(state_dir: &Path) -> PathBuf {
    state_dir.join(LOG_NAME)
}

/// Opens the log, and makes the directory that it is in, for root alone.
fn open_log(log: &Path) -> Result<File, Failure> {
    let state_dir = log.parent().expect("the log has a name, so it has a directory");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    made.map_err(|error| failed("create", state_dir, &error))?;
    open(OpenOptions::new().create(true).append(true).mode(0o600), log)
}

fn open(options: &OpenOptions, path: &Path) -> Result<File, Failure> {
    options.open(path).map_err(|error| failed("open", path, &error))
}

fn failed(action: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Internal, format!("cannot {action} {}: {error}", path.display()))
}
