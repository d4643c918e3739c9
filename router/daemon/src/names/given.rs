//! A name as users give it: `web`, or `web:80` where a service waits at a port, which questions for SRV records are told.
//!
//! Owns that form, in commands and in files. What it means is the name table's.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use mesh_names::{Name, NameError};

/// A host's name, with the port of the service behind it if it has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Given {
    pub(crate) name: Name,
    pub(crate) port: Option<NonZeroU16>,
}

/// Why a text is no [`Given`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GivenError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a port is a number from 1 to 65535")]
    Port,
}

impl Given {
    /// A single label lies in `domain`, unless it ends with a dot.
    pub(crate) fn complete(text: &str, domain: &Name) -> Result<Self, GivenError> {
        let given: Self = text.parse()?;
        if given.name.label_count() == 1 && !name_of(text).ends_with('.') {
            return Ok(Self { name: given.name.below(domain)?, ..given });
        }
        Ok(given)
    }

    /// Whether whoever means this means `other`: the name at any port, or at one.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        self.name == other.name && (self.port.is_none() || self.port == other.port)
    }
}

impl FromStr for Given {
    type Err = GivenError;

    fn from_str(text: &str) -> Result<Self, GivenError> {
        let port = match text.split_once(':') {
            Some((_, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_out_of_range| GivenError::Port)?)
            }
            Some(_) => return Err(GivenError::Port),
            None => None,
        };
        Ok(Self { name: Name::host(name_of(text))?, port })
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// The name in a text that may have a port behind it.
pub(crate) fn name_of(text: &str) -> &str {
    text.split_once(':').map_or(text, |(name, _)| name)
}

/// The names in such texts, each once.
pub(crate) fn names_of(texts: &[String]) -> Vec<String> {
    let mut names: Vec<_> = texts.iter().map(|text| name_of(text).to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_a_port_and_is_written_as_it_is_read() {
        let domain: Name = "mesh.internal.".parse().expect("a name");
        for (text, shown) in [
            ("web", "web.mesh.internal."),
            ("web:80", "web.mesh.internal.:80"),
            ("a.b.mesh.internal:65535", "a.b.mesh.internal.:65535"),
            ("a.b.mesh.internal.:1", "a.b.mesh.internal.:1"),
            ("web.:80", "web.:80"),
        ] {
            let given = Given::complete(text, &domain).expect(text);
            assert_eq!(given.to_string(), shown);
            assert_eq!(shown.parse(), Ok(given), "{text}");
        }
        for wrong in ["web:", "web:0", "web:65536", "web:+80", "web:http", "web:80:81", "web: 80"] {
            assert_eq!(Given::complete(wrong, &domain), Err(GivenError::Port), "{wrong}");
        }
        assert!(matches!(Given::complete(":80", &domain), Err(GivenError::Name(_))));
    }

    #[test]
    fn a_name_without_a_port_means_all_its_ports() {
        let given = |text: &str| text.parse::<Given>().expect("a name");
        assert!(given("web").includes(&given("web")) && given("web").includes(&given("WEB:80")));
        assert!(given("web:80").includes(&given("web:80")) && !given("web:80").includes(&given("web")));
        assert!(!given("web").includes(&given("db")));
        assert_eq!(names_of(&["b.:80".to_owned(), "a.".to_owned(), "b.".to_owned()]), ["a.", "b."]);
    }
}
