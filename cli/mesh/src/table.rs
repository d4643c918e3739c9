//! Text in columns, for people. Owns widths, colours, and that nothing said by a peer can garble a terminal.

use std::fmt::Write;

/// Blanks between two columns.
const GAP: usize = 2;

/// What stands for an unknown value.
const UNKNOWN: &str = "-";

/// How a cell looks on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As everything else.
    Plain,
    /// As it should be: green.
    Good,
    /// On its way: yellow.
    Waiting,
    /// Not as it should be: red.
    Bad,
}

/// One value of a table.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

/// Rows of N columns under a heading.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[Cell; N]>,
}

impl Cell {
    /// A value in a tone. Control characters are escaped.
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        let mut clean = String::new();
        for c in text.as_ref().chars() {
            if c.is_control() { clean.extend(c.escape_default()) } else { clean.push(c) }
        }
        Self { text: clean, tone }
    }

    /// A value.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::toned(text, Tone::Plain)
    }

    /// What it shows.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Nothing.
    pub(crate) const fn empty() -> Self {
        Self { text: String::new(), tone: Tone::Plain }
    }

    /// A value that may not be known.
    pub(crate) fn maybe(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| Self::new(UNKNOWN), |text| Self::new(text.to_string()))
    }
}

impl<const N: usize> Table<N> {
    /// A table with these headings and no rows.
    pub(crate) fn new(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(Cell::new)] }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    /// The table as lines, without blanks at their ends.
    pub(crate) fn render(&self, colour: bool) -> String {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].text.chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        let mut text = String::new();
        for row in &self.rows {
            let mut pending_blanks = 0;
            for (cell, width) in row.iter().zip(widths) {
                if !cell.text.is_empty() {
                    text.extend(std::iter::repeat_n(' ', pending_blanks));
                    paint(&mut text, cell, colour);
                    pending_blanks = 0;
                }
                pending_blanks += GAP + width - cell.text.chars().count();
            }
            text.push('\n');
        }
        text
    }
}

fn paint(text: &mut String, cell: &Cell, colour: bool) {
    // SGR codes of ECMA-48, section 8.3.117.
    let code = match cell.tone {
        Tone::Plain => None,
        Tone::Good => Some(32),
        Tone::Waiting => Some(33),
        Tone::Bad => Some(31),
    };
    match code.filter(|_| colour) {
        Some(code) => {
            write!(text, "\x1b[{code}m{}\x1b[0m", cell.text).expect("writing to a String cannot fail");
        }
        None => text.push_str(&cell.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new(["PEER", "STATE", "INFO"]);
        table.push([Cell::new("a"), Cell::toned("established", Tone::Good), Cell::maybe(None::<u32>)]);
        table.push([Cell::new("öö"), Cell::new(""), Cell::maybe(Some(7))]);
        table.push([Cell::new("long name"), Cell::toned("failed", Tone::Bad), Cell::new("")]);
        table
    }

    #[test]
    fn columns_line_up_and_lines_have_no_blanks_at_their_end() {
        let expected = "\
PEER       STATE        INFO
a          established  -
öö                      7
long name  failed
";
        assert_eq!(table().render(false), expected);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = table().render(true);
        assert!(text.contains("a          \x1b[32mestablished\x1b[0m  -\n"), "{text:?}");
        assert!(text.contains("long name  \x1b[31mfailed\x1b[0m\n"), "{text:?}");
    }

    #[test]
    fn what_a_peer_says_cannot_garble_a_terminal() {
        let mut table = Table::new(["INFO"]);
        table.push([Cell::new("a\x1b[2J\nb")]);
        assert_eq!(table.render(true), "INFO\na\\u{1b}[2J\\nb\n");
    }
}
