//! The configuration file, and where each setting of `mesh launch` comes from.
//!
//! The grammar of the command line is the one table of options. From it follow the key of each in the file, its long
//! name or that of the operands, and its variable, `MESH_` and the same in capitals. What the file says takes the place
//! of the grammar's defaults, so that an option goes before its variable, that before the file, and the file before the
//! default. Owns no meaning of any option: that is `launch::options`'.

mod file;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, Resettable};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use mesh_api::{ErrorKind, Failure};
use serde_json::json;

use crate::args::{Cli, Command, LaunchArgs, Output};
use crate::config::file::{File, Position, Texts};
use crate::problems::Problems;
use crate::{launch, output};

/// Read when it exists and no other file is named.
const DEFAULT_PATH: &str = "/etc/mesh/mesh.toml";

/// The subcommand whose options a file sets.
const LAUNCH: &str = "launch";

/// What this program was called with, and where.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) words: Vec<OsString>,
    pub(crate) directory: PathBuf,
}

/// All settings of one launch.
pub(crate) struct Settings {
    pub(crate) args: LaunchArgs,
    /// Where relative paths of the arguments begin.
    pub(crate) directory: PathBuf,
    pub(crate) origins: Origins,
    /// What is wrong with the file itself.
    pub(crate) problems: Problems,
}

/// Where the user has said what, for errors to name.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    file: PathBuf,
    by_key: BTreeMap<String, Origin>,
}

/// Where one setting comes from.
#[derive(Debug)]
enum Origin {
    /// The file, with the place of each of its values.
    File(Texts),
    /// The variable.
    Variable,
    /// The command line.
    Option,
}

/// The grammar of the command line, with a variable for each option of `launch`.
pub(crate) fn grammar() -> clap::Command {
    Cli::command().mut_subcommand(LAUNCH, |launch| launch.mut_args(with_variable))
}

impl Call {
    /// The call of this process.
    pub(crate) fn of_process() -> Result<Self, Failure> {
        let directory = env::current_dir().map_err(|error| {
            Failure::new(ErrorKind::Internal, format!("cannot tell the current directory: {error}"))
        })?;
        Ok(Self { words: env::args_os().collect(), directory })
    }

    /// The settings that its command line, which is one of `launch`, the environment, and the file come to.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        settle(grammar(), self)
    }
}

/// Reads a file as `launch` would, apart from the environment and other options, and prints what is wrong with it.
pub(crate) fn check(file: Option<&Path>, output: Output) -> Result<(), Failure> {
    let file = file.unwrap_or_else(|| Path::new(DEFAULT_PATH));
    let words = ["mesh", LAUNCH, "--config"].into_iter().map(OsString::from).chain([file.into()]);
    let call = Call { words: words.collect(), ..Call::of_process()? };
    let without_variables = |launch: clap::Command| launch.mut_args(|option| option.env(Resettable::Reset));
    let grammar = grammar().mut_subcommand(LAUNCH, without_variables);
    let settings = settle(grammar, &call)?;
    let keys: Vec<String> = settings.origins.by_key.keys().filter(|key| *key != "config").cloned().collect();
    for warning in launch::check(settings)? {
        output::warn(&warning, output);
    }
    match output {
        Output::Human => output::print(&format!("{}: good, {} settings\n", file.display(), keys.len())),
        Output::Json => output::print_json(&json!({ "file": file, "keys": keys })),
    }
}

impl Origins {
    /// The kind of error that a wrong value of `option` is, and how to name the place where it stands. `option` is a long
    /// option with its dashes, or the operands' name.
    pub(crate) fn place(&self, option: &str, text: &str) -> (ErrorKind, String) {
        let key = option.strip_prefix("--").map_or_else(|| operands_key(option), str::to_owned);
        match self.by_key.get(&key) {
            Some(Origin::File(values)) => {
                let value = values.iter().find(|(value, _)| value == text).or_else(|| values.first());
                let position = value.map_or(Position::START, |(_, position)| *position);
                (ErrorKind::Invalid, format!("{}: {key}", position.of(&self.file)))
            }
            Some(Origin::Variable) => (ErrorKind::Usage, variable(&key)),
            Some(Origin::Option) | None => (ErrorKind::Usage, option.to_owned()),
        }
    }

    /// Whether one setting was said in a place that goes before that of another.
    pub(crate) fn outranks(&self, key: &str, other: &str) -> bool {
        let rank = |key| {
            self.by_key.get(key).map(|origin| match origin {
                Origin::File(_) => 0,
                Origin::Variable => 1,
                Origin::Option => 2,
            })
        };
        rank(key) > rank(other)
    }
}

/// The key that sets this option or these operands in a file, and names them in a variable.
fn key(option: &Arg) -> String {
    option.get_long().map_or_else(|| option.get_id().to_string(), str::to_owned)
}

/// The key of operands that errors name as the help does: PEER, in the plural.
fn operands_key(name: &str) -> String {
    format!("{}s", name.to_lowercase())
}

fn variable(key: &str) -> String {
    format!("MESH_{}", key.to_uppercase().replace('-', "_"))
}

fn with_variable(option: Arg) -> Arg {
    let Some(long) = option.get_long().filter(|_| !option.is_hide_set()) else { return option };
    let variable = variable(long);
    let option = option.env(variable).hide_env_values(true);
    if matches!(option.get_action(), ArgAction::SetTrue) {
        option.value_parser(BoolishValueParser::new())
    } else {
        option
    }
}

fn settle(grammar: clap::Command, call: &Call) -> Result<Settings, Failure> {
    let Call { words, directory } = call;
    let mut problems = Problems::default();
    let (args, origins) = parse(grammar.clone(), words)?;
    let named = args.config.as_ref().map(|path| directory.join(path));
    let default = Path::new(DEFAULT_PATH);
    let Some(path) = named.or_else(|| default.exists().then(|| default.to_owned())) else {
        return Ok(Settings { args, directory: directory.clone(), origins, problems });
    };
    let launch = grammar.find_subcommand(LAUNCH).expect("launch is a command");
    let file = File::read(&path, launch, &mut problems);
    let grammar = grammar.mut_subcommand(LAUNCH, |launch| file.fill(launch));
    let (args, mut origins) = parse(grammar, words)?;
    for (key, values) in file.values {
        origins.by_key.entry(key).or_insert(Origin::File(values));
    }
    origins.file = path;
    Ok(Settings { args, directory: directory.clone(), origins, problems })
}

/// Parses a whole command line that is one of `launch`.
fn parse(grammar: clap::Command, words: &[OsString]) -> Result<(LaunchArgs, Origins), Failure> {
    let keys = grammar.clone();
    let wrong = |error: clap::Error| Failure::new(ErrorKind::Usage, error.kind().to_string());
    let mut matches = grammar.try_get_matches_from(words).map_err(wrong)?;
    let mut origins = Origins::default();
    if let (Some(given), Some(launch)) = (matches.subcommand_matches(LAUNCH), keys.find_subcommand(LAUNCH)) {
        for option in launch.get_arguments() {
            if let Some(origin) = origin(given, option) {
                origins.by_key.insert(key(option), origin);
            }
        }
    }
    let Command::Launch(args) = Cli::from_arg_matches_mut(&mut matches).map_err(wrong)?.command else {
        return Err(Failure::new(ErrorKind::Internal, "only 'launch' has settings"));
    };
    Ok((*args, origins))
}

fn origin(matches: &ArgMatches, option: &Arg) -> Option<Origin> {
    let source = matches.value_source(option.get_id().as_str())?;
    if source == ValueSource::CommandLine {
        Some(Origin::Option)
    } else {
        // The rest are defaults, what the file has filled in among them.
        (source == ValueSource::EnvVariable).then_some(Origin::Variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_goes_before_its_variable_and_both_before_the_file() {
        let mut origins = Origins { file: "/f.toml".into(), by_key: BTreeMap::new() };
        let position = Position { line: 3, column: 8 };
        origins.by_key.insert("port".to_owned(), Origin::File(vec![("0".to_owned(), position)]));
        origins.by_key.insert("mtu".to_owned(), Origin::Variable);
        origins.by_key.insert("peers".to_owned(), Origin::Option);
        assert_eq!(origins.place("--port", "0"), (ErrorKind::Invalid, "/f.toml:3:8: port".to_owned()));
        assert_eq!(origins.place("--mtu", "x"), (ErrorKind::Usage, "MESH_MTU".to_owned()));
        assert_eq!(origins.place("PEER", "x"), (ErrorKind::Usage, "PEER".to_owned()));
        assert_eq!(origins.place("--listen", "x"), (ErrorKind::Usage, "--listen".to_owned()));
        assert!(origins.outranks("peers", "mtu") && origins.outranks("mtu", "port"));
        assert!(origins.outranks("port", "listen") && !origins.outranks("port", "port"));
    }
}
