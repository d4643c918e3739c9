//! The network's secrets as users keep them, and the keys that they become.
//!
//! Owns the format of the password file. Secrets are erased from memory when dropped, and never shown.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mesh_crypto::{PASSWORD_LEN_MAX, PasswordError, Psk, Rng, TOKEN_PREFIX};
use mesh_node::limits::SECRETS_MAX;
use zeroize::Zeroizing;

/// Longest password file that is read, in bytes: more than the secrets that it may hold, with room for comments.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// A network's secret, a password or a generated one: 1 to [`PASSWORD_LEN_MAX`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Whether it may be guessed by trying. A generated one is out of reach.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        Psk::is_weak(&self.0)
    }
}

impl TryFrom<String> for Password {
    type Error = PasswordError;

    fn try_from(text: String) -> Result<Self, PasswordError> {
        let text = Zeroizing::new(text);
        match text.len() {
            0 => return Err(PasswordError::Empty),
            1..=PASSWORD_LEN_MAX => {}
            len => return Err(PasswordError::TooLong(len)),
        }
        // Mistyped digits of a generated one show at once; a typed password becomes a key later, for that takes long.
        if text.starts_with(TOKEN_PREFIX) {
            Psk::from_text(&text)?;
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What a password file holds: a secret a line. Lines that are blank or begin with `#` are passed over.
#[derive(Debug, Clone)]
pub struct PasswordFile {
    /// 1 to [`SECRETS_MAX`] different secrets, in the order of the file. All are accepted, the first is used.
    pub secrets: Vec<Password>,
    /// The permissions, if it is a regular file.
    pub mode: Option<u32>,
}

/// Why a password file gives no secrets.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    /// The system did not let it be read.
    #[error("cannot read it: {0}")]
    File(#[from] io::Error),
    /// It has bytes that are no text.
    #[error("the password is not UTF-8")]
    NotUtf8,
    /// It is longer than any password file.
    #[error("it has more than {FILE_LEN_MAX} bytes")]
    TooLong,
    /// It has none but blank lines and comments.
    #[error("the password is empty: it has no line but blank ones and comments")]
    Empty,
    /// It has more secrets than a network has at once.
    #[error("it has {0} secrets, more than {SECRETS_MAX}")]
    TooMany(usize),
    /// One of its secrets cannot be used.
    #[error("line {line}: {error}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why not.
        error: PasswordError,
    },
}

impl PasswordFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`PasswordFileError`], which never shows what the file holds.
    pub fn read(path: &Path) -> Result<Self, PasswordFileError> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mode = metadata.is_file().then(|| metadata.mode() & 0o7777);
        // Room for all of it from the start, so that growing leaves no copies in memory.
        let mut text = Zeroizing::new(String::with_capacity(FILE_LEN_MAX as usize + 2));
        match file.take(FILE_LEN_MAX + 1).read_to_string(&mut text) {
            Ok(length) if length as u64 > FILE_LEN_MAX => return Err(PasswordFileError::TooLong),
            Ok(_length) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(PasswordFileError::NotUtf8);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Self { secrets: secrets_in(&text)?, mode })
    }
}

fn secrets_in(text: &str) -> Result<Vec<Password>, PasswordFileError> {
    let mut secrets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let secret = Password::try_from(line.to_owned())
            .map_err(|error| PasswordFileError::Line { line: index + 1, error })?;
        if !secrets.contains(&secret) {
            secrets.push(secret);
        }
    }
    match secrets.len() {
        0 => Err(PasswordFileError::Empty),
        1..=SECRETS_MAX => Ok(secrets),
        many => Err(PasswordFileError::TooMany(many)),
    }
}

/// The keys that secrets become, in their order. A typed password takes a good part of a second each, by design.
pub(crate) fn keys(secrets: &[Password]) -> Result<Vec<Psk>, PasswordError> {
    secrets.iter().map(|secret| Psk::from_text(&secret.0)).collect()
}

/// A new secret of 256 bits, as a text of one word.
pub(crate) fn generate(rng: &mut Rng) -> Zeroizing<String> {
    Psk::generate(rng).to_token()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(file: &str) -> Vec<String> {
        let secrets = secrets_in(file).expect("a password file");
        secrets.iter().map(|secret| secret.0.to_string()).collect()
    }

    #[test]
    fn a_password_is_not_shown_and_not_empty() {
        assert_eq!(Password::try_from(String::new()).map(|_| ()), Err(PasswordError::Empty));
        let password = Password::try_from("swordfish".to_owned()).expect("nine bytes");
        assert_eq!(format!("{password:?}"), "Password(..)");
    }

    #[test]
    fn each_line_is_a_secret_but_blank_ones_and_comments() {
        assert_eq!(texts("one"), ["one"]);
        assert_eq!(texts("one\r\n"), ["one"]);
        assert_eq!(texts("# new\n\n two words \n  \n# old\nthree#\ntwo\n"), [" two words ", "three#", "two"]);
        assert_eq!(texts("a\nb\na\n"), ["a", "b"]);
    }

    #[test]
    fn a_file_without_a_usable_secret_is_refused_as_a_whole() {
        for empty in ["", "\n", "# only words\n \n"] {
            assert!(matches!(secrets_in(empty), Err(PasswordFileError::Empty)), "{empty:?}");
        }
        let long = format!("# long\n{}\n", "x".repeat(1025));
        let error = secrets_in(&long).expect_err("too long");
        assert_eq!(error.to_string(), "line 2: the password has 1025 bytes, more than 1024");
        assert!(matches!(secrets_in("a\nb\nc\nd\ne\n"), Err(PasswordFileError::TooMany(5))));
    }

    #[test]
    fn a_generated_secret_is_one_line_and_a_mistyped_one_is_refused() {
        let secret = generate(&mut Rng::from_seed([1; 32]));
        assert_eq!(texts(&format!("# new\n{}\n", *secret)), [secret.as_str()]);
        let mistyped = format!("{}\n", &secret[..secret.len() - 1]);
        assert!(matches!(secrets_in(&mistyped), Err(PasswordFileError::Line { line: 1, .. })));
        let secret = Password::try_from(secret.to_string()).expect("as generated");
        assert!(
            !secret.is_weak() && Password::try_from("swordfish".to_owned()).expect("nine bytes").is_weak()
        );
        assert!(keys(&[secret]).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_one_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("password");
        std::fs::write(&path, vec![b'#'; 16 * 1024 + 1]).expect("writable");
        assert!(matches!(PasswordFile::read(&path), Err(PasswordFileError::TooLong)));
        assert!(matches!(PasswordFile::read(Path::new("/dev/zero")), Err(PasswordFileError::TooLong)));
        std::fs::write(&path, b"\xff\n").expect("writable");
        assert!(matches!(PasswordFile::read(&path), Err(PasswordFileError::NotUtf8)));
        assert!(matches!(PasswordFile::read(dir.path()), Err(PasswordFileError::File(_))));
    }
}
