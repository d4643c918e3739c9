//! Writing to standard output and standard error without ever panicking, and errors in both forms.

use std::io::{self, ErrorKind as IoKind, IsTerminal, Write};

use mesh_api::{ErrorKind, Failure};
use serde::Serialize;

use crate::args::Output;

/// An error on standard error, for programs.
#[derive(Serialize)]
struct ErrorLine<'a> {
    error: &'a Failure,
}

/// A warning on standard error, for programs.
#[derive(Serialize)]
struct WarningLine<'a> {
    warning: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

/// Writes text to standard output. A reader that has gone away, as `head` does, has seen enough: no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != IoKind::BrokenPipe => {
            Err(Failure::new(ErrorKind::Internal, format!("cannot write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes one JSON document to standard output.
pub(crate) fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Failure::new(ErrorKind::Internal, format!("cannot write the document: {error}")))?;
    print(&format!("{text}\n"))
}

/// Writes an error to standard error. Each line of its message is an error of its own.
pub(crate) fn report(failure: &Failure, output: Output) {
    complain(&match output {
        Output::Human => {
            let errors = failure.message.lines().map(|line| format!("error: {line}\n"));
            let hint = failure.hint.iter().map(|hint| format!("hint: {hint}\n"));
            errors.chain(hint).collect()
        }
        Output::Json => line(&ErrorLine { error: failure }),
    });
}

/// Writes a warning to standard error: something that works, and that the user should change.
pub(crate) fn warn(message: &str, output: Output) {
    complain(&match output {
        Output::Human => format!("warning: {message}\n"),
        Output::Json => line(&WarningLine { warning: Message { message } }),
    });
}

/// Tells people on standard error how things stand.
pub(crate) fn note(message: &str) {
    complain(&format!("{message}\n"));
}

/// Whether standard output is a terminal whose user has not switched colour off (<https://no-color.org>).
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn line(document: &impl Serialize) -> String {
    let text = serde_json::to_string(document).expect("texts under fixed keys can always be written");
    format!("{text}\n")
}

fn complain(text: &str) {
    // When standard error is gone too there is nobody left to tell; the exit status still tells.
    let _written = io::stderr().lock().write_all(text.as_bytes());
}
