//! Collects all that is wrong with a command line, so that a user learns of it at once and not one by one.

use std::fmt::Display;

use mesh_api::{ErrorKind, Failure};

/// What is wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<(ErrorKind, String)>);

impl Problems {
    /// Notes a problem.
    pub(crate) fn add(&mut self, kind: ErrorKind, message: String) {
        self.0.push((kind, message));
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
        let usage = self.0.iter().find(|(kind, _)| *kind == ErrorKind::Usage);
        let kind = usage.or_else(|| self.0.first()).map_or(ErrorKind::Internal, |(kind, _)| *kind);
        let lines: Vec<_> = self.0.into_iter().map(|(_, message)| message).collect();
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
