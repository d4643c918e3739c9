//! A reader of Rust that is good enough to find names: words and signs, without comments and literals.
//!
//! Knows nothing of syntax. rustc has accepted every file before, so malformed input need not be told apart.

/// A word or a sign, and the line it stands in, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// The tokens of `source`. `::` is one token; numbers count as words.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while let Some(next) = source[at..].chars().next() {
        let rest = &source[at..];
        let (length, is_token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment_length(rest), false)
        } else if let Some(length) = literal_length(rest) {
            (length, false)
        } else if is_word(next) {
            (word_length(rest), true)
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (next.len_utf8(), !next.is_whitespace())
        };
        let text = &rest[..length];
        if is_token {
            tokens.push(Token { text, line });
        }
        line += text.matches('\n').count();
        at += length;
    }
    tokens
}

/// Every place where `path`, such as `std::fs` or `HashMap`, is named: written out, or in a group after its parent.
pub(crate) fn lines_naming(tokens: &[Token<'_>], path: &str) -> Vec<usize> {
    let wanted: Vec<&str> = path.split("::").collect();
    let mut lines = Vec::new();
    for start in 0..tokens.len() {
        let after_parents =
            wanted[..wanted.len() - 1].iter().enumerate().try_fold(start, |at, (_, parent)| {
                let named = tokens.get(at)?.text == *parent && tokens.get(at + 1)?.text == "::";
                named.then_some(at + 2)
            });
        let (Some(at), Some(last)) = (after_parents, wanted.last()) else { continue };
        match tokens.get(at) {
            Some(token) if token.text == *last => lines.push(token.line),
            Some(token) if token.text == "{" && wanted.len() > 1 => {
                lines.extend(lines_in_group(&tokens[at..], last));
            }
            Some(_) | None => {}
        }
    }
    lines
}

/// Lines in which the group at the front of `tokens`, `{…}`, lists `item` itself, and not as a child of another.
fn lines_in_group(tokens: &[Token<'_>], item: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut depth = 0_usize;
    let mut starts_item = false;
    for token in tokens {
        match token.text {
            "{" => {
                depth += 1;
                starts_item = depth == 1;
                continue;
            }
            "}" => depth -= 1,
            "," if depth == 1 => {
                starts_item = true;
                continue;
            }
            word if word == item && starts_item => lines.push(token.line),
            _ => {}
        }
        starts_item = false;
        if depth == 0 {
            break;
        }
    }
    lines
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn word_length(rest: &str) -> usize {
    rest.find(|c| !is_word(c)).unwrap_or(rest.len())
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of the string or character literal at the front of `rest`, if one stands there.
fn literal_length(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        let after = rest
            .strip_prefix(prefix)
            .unwrap_or_default()
            .trim_start_matches(if prefix.ends_with('r') { '#' } else { '\0' });
        after.starts_with('"') || (after.starts_with('\'') && matches!(*prefix, "b" | ""))
    })?;
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let close = format!("\"{}", "#".repeat(hashes));
        let inner = &body[hashes + 1..];
        let end = inner.find(&close).map_or(inner.len(), |at| at + close.len());
        return Some(prefix.len() + hashes + 1 + end);
    }
    let quote = body.chars().next()?;
    if quote == '\'' && is_lifetime(body) {
        return None;
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// Whether the quote at the front of `body` opens a lifetime or label, and not a character.
fn is_lifetime(body: &str) -> bool {
    let mut after = body.chars().skip(1);
    let first = after.next();
    first != Some('\\') && after.next() != Some('\'')
}

#[test]
fn comments_and_literals_hold_no_tokens() {
    let source = "a /* b /* c */ \" */ // d\n \"e\\\" f\" r#\"g \" h\"# b'i' 'j' '\\'' '\"' &'k l::m\n";
    let words: Vec<(&str, usize)> = tokens(source).iter().map(|token| (token.text, token.line)).collect();
    assert_eq!(words, [("a", 1), ("&", 2), ("'", 2), ("k", 2), ("l", 2), ("::", 2), ("m", 2)]);
}

#[test]
fn a_path_is_found_written_out_and_in_groups() {
    let named = |source: &str| lines_naming(&tokens(source), "std::fs");
    assert_eq!(named("use std::fs;\nlet x = std::fs::read(p);"), [1, 2]);
    assert_eq!(named("use std::{\n    collections::BTreeMap,\n    fs::{self, File},\n};"), [3]);
    assert!(named("use std::{net::{fs}, io}; use other::fs; use std::fsx; // std::fs").is_empty());
    assert_eq!(lines_naming(&tokens("let x = HashMap::new();"), "HashMap"), [1]);
}
