//! Takes a target's corpus apart for the fuzzer, and puts it together again.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a program of developers says what went wrong")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["unpack", target, dir] => mesh_fuzz::corpus::unpack(target, Path::new(dir)),
        ["pack", target, dir] => mesh_fuzz::corpus::pack(target, Path::new(dir)),
        _ => {
            eprintln!("usage: corpus unpack|pack TARGET DIR");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
