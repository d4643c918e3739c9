//! The process that the user started: it runs the router as another process and returns when that one is ready.

use std::env;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_api::{ErrorKind, Failure, LaunchDocument, Response};
use rustix::process::{Pid, Signal, kill_process};

use crate::args::LaunchArgs;
use crate::launch::{PASSWORD_SENT_MAX, PASSWORD_VARIABLE};
use crate::process;

/// Longest line by which a router says that it is ready, or why not, in bytes. A longer one counts as none.
const LINE_LEN_MAX: usize = 64 * 1024;

/// A router that was told to end, or has said that it ends, has so long before it is killed.
const END_TIME_MAX: Duration = Duration::from_secs(3);

/// What came through the pipe.
enum Word {
    /// A line.
    Line(Vec<u8>),
    /// Its end, before any line.
    Nothing,
    /// Neither, in all the time that there was.
    Late,
}

/// Starts a router in the background and waits until it is ready. If it is not ready in time, it is ended.
pub(super) fn launch(args: &LaunchArgs) -> Result<LaunchDocument, Failure> {
    let timeout = args.router.timeout.timeout;
    let deadline = Instant::now() + timeout;
    let log = super::log_path(&args.state_dir.state_dir);
    let see_log = || format!("its log is {}", log.display());

    let (mut child, mut pipe) =
        start().map_err(|error| internal(&format!("cannot start the router: {error}")))?;
    let word =
        listen(&mut pipe, deadline).map_err(|error| internal(&format!("cannot hear the router: {error}")));
    let answer = match word {
        Ok(Word::Line(line)) => Response::decode(&line).map_err(|error| internal(&error.to_string())),
        Ok(Word::Nothing) => Err(Failure::new(ErrorKind::Internal, "the router ended before it was ready")),
        Ok(Word::Late) => {
            let message =
                format!("the router was not ready within {} s and was ended", timeout.as_secs_f64());
            let hint = format!("{}; allow more time with --timeout SECONDS", see_log());
            Err(Failure::new(ErrorKind::Timeout, message).with_hint(hint))
        }
        Err(failure) => Err(failure),
    };
    let document = match answer {
        Ok(Response::Ok(document)) => {
            serde_json::from_value(document).map_err(|error| internal(&error.to_string()))
        }
        // It has said that it ends, and why.
        Ok(Response::Error(failure)) => {
            wait_or_kill(&mut child);
            return Err(failure);
        }
        Err(failure) => Err(failure),
    };
    document.map_err(|failure: Failure| {
        end(&mut child);
        if failure.hint.is_some() { failure } else { failure.with_hint(see_log()) }
    })
}

/// Runs this program again, detached, with a pipe as its standard output. Standard error stays, for warnings, until
/// the router is ready. A password in the environment goes through another pipe, and not into that of the router.
fn start() -> std::io::Result<(Child, ChildStdout)> {
    let password = env::var_os(PASSWORD_VARIABLE);
    let mut child = Command::new("/proc/self/exe")
        .arg0("mesh")
        .args(detached(env::args_os().skip(1), password.is_some()))
        .env_remove(PASSWORD_VARIABLE)
        .stdin(if password.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .spawn()?;
    if let (Some(password), Some(mut pipe)) = (password, child.stdin.take()) {
        let bytes = password.as_bytes();
        // A router that has ended already says more by its own words than this error would.
        let _sent = pipe.write_all(&bytes[..bytes.len().min(PASSWORD_SENT_MAX)]);
    }
    let pipe = child.stdout.take().expect("standard output was made a pipe");
    Ok((child, pipe))
}

/// The same arguments with the hidden options behind the name of the command. Before it only `--output` can stand, and
/// its values are other words.
fn detached(arguments: impl Iterator<Item = OsString>, password_on_stdin: bool) -> Vec<OsString> {
    let mut detached: Vec<_> = arguments.collect();
    let command =
        detached.iter().position(|argument| argument == "launch").map_or(0, |position| position + 1);
    let hidden = ["--detached", "--password-on-stdin"].into_iter().take(1 + usize::from(password_on_stdin));
    detached.splice(command..command, hidden.map(OsString::from));
    detached
}

fn listen(pipe: &mut ChildStdout, deadline: Instant) -> std::io::Result<Word> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while line.len() < LINE_LEN_MAX {
        if !process::readable(pipe, deadline)? {
            return Ok(Word::Late);
        }
        let got = pipe.read(&mut chunk)?;
        line.extend_from_slice(&chunk[..got]);
        if line.ends_with(b"\n") {
            return Ok(Word::Line(line));
        }
        if got == 0 {
            break;
        }
    }
    Ok(Word::Nothing)
}

/// Tells the router to end, and sees to it that it does.
fn end(child: &mut Child) {
    // It fails only when the process has ended already; it cannot be another's, as it has not been waited for.
    let _told = kill_process(Pid::from_child(child), Signal::TERM);
    wait_or_kill(child);
}

fn wait_or_kill(child: &mut Child) {
    let ended = process::wait_for_end(Pid::from_child(child), Instant::now() + END_TIME_MAX);
    if ended != Ok(true) {
        // As above.
        let _killed = child.kill();
    }
    // Nothing depends on how it ended.
    let _status = child.wait();
}

fn internal(message: &str) -> Failure {
    Failure::new(ErrorKind::Internal, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hidden_option_stands_where_no_peer_can_be_meant() {
        for (line, expected) in [
            ("launch", "launch --detached"),
            ("-o json launch -- launch", "-o json launch --detached -- launch"),
            ("launch h1 --port 7000", "launch --detached h1 --port 7000"),
        ] {
            let arguments = line.split(' ').map(OsString::from);
            let expected: Vec<_> = expected.split(' ').map(OsString::from).collect();
            assert_eq!(detached(arguments, false), expected);
        }
        let arguments = ["launch", "h1"].into_iter().map(OsString::from);
        assert_eq!(detached(arguments, true), ["launch", "--detached", "--password-on-stdin", "h1"]);
    }
}
