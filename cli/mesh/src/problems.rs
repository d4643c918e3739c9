//! Collects all that is wrong with a command line, and with the file that it names, so that a user learns of it at once
//! and not one by one.

use std::fmt::Display;

use mesh_api::{ErrorKind, Failure};

use crate::config::Origins;

/// What is wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// Where settings stand; those that are not there stand on the command line.
    origins: Origins,
    found: Vec<(ErrorKind, String)>,
}

impl Problems {
    /// What was found wrong already, and where what may be wrong besides stands.
    pub(crate) fn with_origins(self, origins: Origins) -> Self {
        Self { origins, ..self }
    }

    /// Notes a problem.
    pub(crate) fn add(&mut self, kind: ErrorKind, message: String) {
        self.found.push((kind, message));
    }

    /// Whether there are any.
    pub(crate) const fn any(&self) -> bool {
        !self.found.is_empty()
    }

    /// The kind of error that a wrong value of this option is, and the place where it stands.
    pub(crate) fn place(&self, option: &str, text: &str) -> (ErrorKind, String) {
        self.origins.place(option, text)
    }

    /// The value of an option of `launch`, or a note that `text`, which stands where its user has written it, is none.
    pub(crate) fn check_option<T, E: Display>(
        &mut self,
        option: &str,
        text: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let (kind, place) = self.origins.place(option, text);
                self.add(kind, format!("{place} '{}': {error}", text.escape_debug()));
                None
            }
        }
    }

    /// The value, or a note that this part of the command line is malformed.
    pub(crate) fn check<T, E: Display>(&mut self, part: &str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(ErrorKind::Usage, format!("{part}: {error}"));
                None
            }
        }
    }

    /// All problems as one failure, a line each. A malformed command line outranks other problems, since the rest may
    /// only follow from it.
    pub(crate) fn into_failure(self, hint: &str) -> Failure {
        let usage = self.found.iter().find(|(kind, _)| *kind == ErrorKind::Usage);
        let kind = usage.or_else(|| self.found.first()).map_or(ErrorKind::Internal, |(kind, _)| *kind);
        let lines: Vec<_> = self.found.into_iter().map(|(_, message)| message).collect();
        Failure::new(kind, lines.join("\n")).with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_come_out_together_and_a_malformed_command_line_decides_the_kind() {
        let mut problems = Problems::default();
        problems.add(ErrorKind::Unsupported, "no docker".to_owned());
        assert_eq!(problems.check::<(), _>("--port '0'", Err("no port")), None);
        let failure = problems.into_failure("read the help");
        assert_eq!(
            failure,
            Failure::new(ErrorKind::Usage, "no docker\n--port '0': no port").with_hint("read the help")
        );
    }
}
