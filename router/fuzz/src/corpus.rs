//! The inputs that were worth keeping: one file a target, one input a line, in hexadecimal digits, the shortest first. The
//! fuzzer wants a file for each instead.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Most inputs that are kept for a target; the shortest are.
const INPUTS_MAX: usize = 1_000;

/// The inputs of a target.
///
/// # Errors
/// If its file cannot be read.
pub fn load(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(file(target))?;
    text.lines()
        .map(|line| bytes(line).ok_or_else(|| io::Error::other("a line is not hexadecimal")))
        .collect()
}

/// Writes each input of a target to a file of its own in `dir`.
///
/// # Errors
/// If a file cannot be read or written.
pub fn unpack(target: &str, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (number, input) in load(target)?.iter().enumerate() {
        fs::write(dir.join(format!("kept-{number}")), input)?;
    }
    Ok(())
}

/// Makes the files in `dir` the inputs of a target.
///
/// # Errors
/// If a file cannot be read or written.
pub fn pack(target: &str, dir: &Path) -> io::Result<()> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(dir)? {
        inputs.push(fs::read(entry?.path())?);
    }
    inputs.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    inputs.dedup();
    inputs.truncate(INPUTS_MAX);
    let mut text = String::new();
    for input in inputs {
        input
            .iter()
            .try_for_each(|byte| write!(text, "{byte:02x}"))
            .expect("writing to a String cannot fail");
        text.push('\n');
    }
    fs::write(file(target), text)
}

fn file(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format!("{target}.txt"))
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = line.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}
