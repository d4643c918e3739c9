//! A terminal that is drawn on, and left as it was found, whatever happens in between.
//!
//! Owns its modes (termios(3)) and the few control sequences that all terminals of today share (ECMA-48; the alternate screen is
//! xterm's 1049). An interrupt comes as a key, since signals are off meanwhile.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Instant;

use mesh_api::{ErrorKind, Failure};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::process;
use crate::top::no_terminal;

/// To the alternate screen, without a cursor, and without wrapping of lines that are too long.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";

/// The same backwards.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Bytes of one key, or of several that were hit fast.
const KEYS_LEN_MAX: usize = 64;

/// What ends the loop: q, and what the keys for an interrupt, an end of input and a quit send.
const QUIT_KEYS: [u8; 5] = [b'q', b'Q', 0x03, 0x04, 0x1c];

/// Size where the terminal does not tell.
const ROWS_DEFAULT: usize = 24;

/// The terminal of this process, while it is drawn on.
pub(super) struct Terminal {
    before: Termios,
}

/// What was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Other,
    None,
}

/// How much fits.
pub(super) struct Size {
    pub(super) rows: usize,
}

impl Terminal {
    /// Takes the terminal, if there is one.
    pub(super) fn open() -> Result<Self, Failure> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(no_terminal());
        }
        let before = tcgetattr(io::stdin()).map_err(|errno| failed(&errno.into()))?;
        let mut raw = before.clone();
        raw.make_raw();
        let this = Self { before };
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw).map_err(|errno| failed(&errno.into()))?;
        write(ENTER).map_err(|error| failed(&error))?;
        Ok(this)
    }

    pub(super) fn size(&self) -> Size {
        let rows = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
        Size { rows: if rows == 0 { ROWS_DEFAULT } else { rows } }
    }

    /// Puts these lines in place of what is shown, without a moment in which nothing is.
    pub(super) fn draw(&self, lines: &str) -> Result<(), Failure> {
        let mut text = "\x1b[H".to_owned();
        text.push_str(&lines.replace('\n', "\x1b[K\r\n"));
        text.push_str("\x1b[K\x1b[J");
        write(&text).map_err(|error| failed(&error))
    }

    /// Waits for a key until `deadline`.
    pub(super) fn key(&self, deadline: Instant) -> Result<Key, Failure> {
        if !process::readable(&io::stdin(), deadline).map_err(|errno| failed(&errno.into()))? {
            return Ok(Key::None);
        }
        let mut keys = [0; KEYS_LEN_MAX];
        let length = io::stdin().lock().read(&mut keys).map_err(|error| failed(&error))?;
        // Zero bytes are the end of a terminal that has gone away.
        let quits = length == 0 || keys[..length].iter().any(|key| QUIT_KEYS.contains(key));
        Ok(if quits { Key::Quit } else { Key::Other })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that has gone away needs neither.
        let _left = write(LEAVE);
        let _restored = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Internal, format!("the terminal does not do as told: {error}"))
}
