//! One configuration file: read, held against the grammar, and filled into it. All that is wrong with it is noted, each with its
//! line and column.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::ValueRange;
use clap::{Arg, ArgAction};
use mesh_api::ErrorKind;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::key;
use crate::problems::Problems;

/// Longest file that is read, in bytes: more than all options with a thousand peers.
const LEN_MAX: u64 = 1024 * 1024;

/// How alike a key must be to one that exists to be taken for it mistyped, 0 to 1 (Jaro).
const LIKENESS_MIN: f64 = 0.8;

/// Keys that a file cannot set: which file it is, and what a command prints.
const FOREIGN: [&str; 4] = ["config", "help", "output", "version"];

/// The values of one key, as a command line would have them, and where each stands.
pub(super) type Texts = Vec<(String, Position)>;

/// The settings in a file that are well-formed, by key.
pub(super) struct File {
    pub(super) values: BTreeMap<String, Texts>,
}

/// A place in a file, counted from 1 in lines and characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Why a value does not fit its key.
#[derive(Debug, thiserror::Error)]
enum ValueError {
    #[error("takes true or false")]
    NoFlag,
    #[error("takes a list, as [\"a\", \"b\"]")]
    NoList,
    #[error("takes a text in quotes or a number")]
    NoScalar,
    #[error("takes {0}")]
    NoneOf(String),
    #[error("{0}")]
    Refused(String),
}

/// Reads texts of one file and notes what is wrong where.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Problems,
}

impl File {
    /// Reads the file at `path` for the command `launch`. What is wrong is noted, and left out.
    pub(super) fn read(path: &Path, launch: &clap::Command, problems: &mut Problems) -> Self {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(error) => {
                problems.add(ErrorKind::Invalid, format!("cannot read {}: {error}", path.display()));
                String::new()
            }
        };
        let mut reader = Reader { path, text: &text, problems };
        Self { values: reader.values(launch) }
    }

    /// The command with what the file says in place of its defaults.
    pub(super) fn fill(&self, launch: clap::Command) -> clap::Command {
        launch.mut_args(|option| match self.values.get(&key(&option)) {
            Some(values) if !values.is_empty() => {
                let texts: Vec<String> = values.iter().map(|(text, _)| text.clone()).collect();
                option.default_values(texts)
            }
            Some(_) | None => option,
        })
    }
}

impl Reader<'_> {
    fn values(&mut self, launch: &clap::Command) -> BTreeMap<String, Texts> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let mut broken_lines = BTreeSet::new();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            broken_lines.insert(self.position(span.start).line);
            self.note(span, error.message());
        }
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut values = BTreeMap::new();
        for (name, value) in entries {
            let option =
                launch.get_arguments().find(|option| is_key(option) && key(option) == **name.get_ref());
            let Some(option) = option else {
                self.note(name.span(), &unknown(name.get_ref(), launch));
                continue;
            };
            // What follows from a broken line is no error of its own.
            if broken_lines.contains(&self.position(value.span().start).line) {
                continue;
            }
            match self.texts(option, value) {
                Ok(texts) => drop(values.insert(key(option), texts)),
                Err((span, error)) => self.note(span, &format!("{}: {error}", name.get_ref())),
            }
        }
        values
    }

    /// A value as the command line would have it; of a list each.
    fn texts(&self, option: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Texts, (Range<usize>, ValueError)> {
        let takes_list = matches!(option.get_action(), ArgAction::Append)
            || option.get_value_delimiter().is_some()
            || option.get_num_args().is_some_and(|range| range.max_values() > 1);
        let values: Vec<&Spanned<DeValue<'_>>> = match value.get_ref().as_array() {
            Some(values) if takes_list => values.iter().collect(),
            None if takes_list => return Err((value.span(), ValueError::NoList)),
            Some(_) | None => vec![value],
        };
        let text = |value: &Spanned<DeValue<'_>>| {
            let text = self.text_of(option, value.get_ref()).map_err(|error| (value.span(), error))?;
            Ok((text, self.position(value.span().start)))
        };
        values.into_iter().map(text).collect()
    }

    fn text_of(&self, option: &Arg, value: &DeValue<'_>) -> Result<String, ValueError> {
        if matches!(option.get_action(), ArgAction::SetTrue) {
            return value.as_bool().map(|on| on.to_string()).ok_or(ValueError::NoFlag);
        }
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                return Err(ValueError::NoScalar);
            }
        };
        let text = self.resolved(option, text);
        check(option, &text)?;
        Ok(text)
    }

    /// A path is meant from where the file is, not from where somebody launches a router.
    fn resolved(&self, option: &Arg, text: String) -> String {
        if option.get_value_parser().type_id() != clap::builder::ValueParser::path_buf().type_id()
            || text.is_empty()
        {
            return text;
        }
        let directory = self.path.parent().unwrap_or_else(|| Path::new(""));
        let resolved: PathBuf = directory.join(&text);
        resolved.into_os_string().into_string().unwrap_or(text)
    }

    fn note(&mut self, span: Range<usize>, message: &str) {
        let place = self.position(span.start).of(self.path);
        self.problems.add(ErrorKind::Invalid, format!("{place}: {message}"));
    }

    fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl Position {
    /// The beginning of a file.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// The place as compilers write it.
    pub(super) fn of(self, path: &Path) -> String {
        format!("{}:{self}", path.display())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Whether a file can set this option.
fn is_key(option: &Arg) -> bool {
    !option.is_hide_set() && !FOREIGN.contains(&key(option).as_str())
}

/// Lets the grammar look at one value alone, so that one that it refuses does not hide others.
fn check(option: &Arg, text: &str) -> Result<(), ValueError> {
    let alone = option.clone().required(false).num_args(ValueRange::SINGLE).index(None).long("value");
    let command = clap::Command::new("check").no_binary_name(true).disable_help_flag(true).arg(alone);
    let Err(error) = command.try_get_matches_from([format!("--value={text}")]) else { return Ok(()) };
    let possible: Vec<_> =
        option.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if let [others @ .., last] = possible.as_slice()
        && !others.is_empty()
    {
        return Err(ValueError::NoneOf(format!(
            "{} or {last}, not '{}'",
            others.join(", "),
            text.escape_debug()
        )));
    }
    let rendered = error.to_string();
    let reason = rendered
        .lines()
        .next()
        .and_then(|line| line.rsplit_once(": "))
        .map_or("no value of it", |(_, reason)| reason);
    Err(ValueError::Refused(format!("'{}' is not taken: {reason}", text.escape_debug())))
}

/// What to say of a key that there is not.
fn unknown(name: &str, launch: &clap::Command) -> String {
    let shown = name.escape_debug();
    if name == "password" {
        return format!("unknown key '{shown}': a secret has a file of its own, named by 'password-file'");
    }
    let likeness = |known: &String| strsim::jaro(&name.to_lowercase().replace('_', "-"), known);
    let known = launch.get_arguments().filter(|option| is_key(option)).map(key);
    let nearest = known.max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match nearest.filter(|nearest| likeness(nearest) >= LIKENESS_MIN) {
        Some(nearest) => format!("unknown key '{shown}': did you mean '{nearest}'?"),
        None => format!("unknown key '{shown}': the keys are the options of 'mesh launch'"),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = fs::File::open(path)?.take(LEN_MAX + 1).read_to_string(&mut text)?;
    if length as u64 > LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {LEN_MAX} bytes")));
    }
    Ok(text)
}
