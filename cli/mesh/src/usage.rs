//! What the command line tells of itself: help, version, completion, and what is wrong with a call of it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::ValueEnum;
use clap_complete::Shell;
use mesh_api::{ErrorKind, Failure, PROTOCOL_VERSION};
use serde_json::json;

use crate::args::Output;
use crate::{config, output};

/// Prints what the parser has to say: help and version on standard output, errors on standard error.
pub(crate) fn report(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if error.use_stderr() && wanted_output(arguments) == Output::Json {
        output::report(&failure(error), Output::Json);
    } else {
        // A reader that has gone away has seen enough.
        let _printed = error.print();
    }
    ExitCode::from(if error.use_stderr() { ErrorKind::Usage.exit_status() } else { 0 })
}

/// Prints a completion script.
pub(crate) fn completion(shell: Shell, output: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut without_hidden_options(), "mesh", &mut script);
    let script = String::from_utf8_lossy(&script);
    match output {
        Output::Human => output::print(&script),
        Output::Json => output::print_json(&json!({ "shell": shell.to_string(), "script": script })),
    }
}

/// Prints the version.
pub(crate) fn version(output: Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match output {
        Output::Human => output::print(&format!("mesh {version}\n")),
        Output::Json => {
            output::print_json(&json!({ "version": version, "control_protocol": PROTOCOL_VERSION }))
        }
    }
}

/// The grammar without hidden options, which some shells' scripts would show.
pub(crate) fn without_hidden_options() -> clap::Command {
    config::grammar().mut_subcommand("launch", |launch| {
        let shown: Vec<_> = launch.get_arguments().filter(|option| !option.is_hide_set()).cloned().collect();
        let help = launch.get_after_help().cloned().unwrap_or_default();
        clap::Command::new("launch")
            .about(launch.get_about().cloned().unwrap_or_default())
            .args(shown)
            .after_help(help)
    })
}

/// An error of the parser without its `error:`, usage and advice.
fn failure(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let message: Vec<_> = paragraph.lines().map(str::trim).collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    Failure::new(ErrorKind::Usage, message)
        .with_hint("'mesh --help' and 'mesh COMMAND --help' explain the options")
}

/// The value of `--output` on a command line that could not be parsed.
fn wanted_output(arguments: &[OsString]) -> Output {
    let mut wanted = env::var_os("MESH_OUTPUT");
    let mut arguments = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "-o" || argument == "--output" {
            wanted = arguments.next().cloned();
            continue;
        }
        let text = argument.to_str().unwrap_or_default();
        let long = text.strip_prefix("--output=");
        let value = long.or_else(|| text.strip_prefix("-o=")).or_else(|| text.strip_prefix("-o"));
        if let Some(value) = value {
            wanted = Some(value.into());
        }
    }
    let wanted = wanted.as_deref().and_then(OsStr::to_str).map(|text| Output::from_str(text, false));
    wanted.and_then(Result::ok).unwrap_or(Output::Human)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wanted_output_is_found_on_a_wrong_command_line() {
        for (line, output) in [
            ("mesh -o json sing", Output::Json),
            ("mesh sing -ojson", Output::Json),
            ("mesh sing -o=json", Output::Json),
            ("mesh --output json sing", Output::Json),
            ("mesh sing --output=json", Output::Json),
            ("mesh -o json sing -o human", Output::Human),
            ("mesh sing -- -o json", Output::Human),
            ("mesh sing -o", Output::Human),
            ("mesh sing -o xml", Output::Human),
            ("mesh sing json", Output::Human),
        ] {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            assert_eq!(wanted_output(&arguments), output, "{line}");
        }
    }
}
