//! Domain names, in the one form in which they compare.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name, in bytes of its wire form with all length bytes (RFC 1035, section 2.3.4).
pub const NAME_LEN_MAX: usize = 255;

/// Longest label, in bytes (RFC 1035, section 2.3.4).
pub const LABEL_LEN_MAX: usize = 63;

/// An absolute domain name in lower case. Labels may hold any byte, as questions do (RFC 2181, section 11).
///
/// Kept in the wire form without its final zero byte: a length byte and a label, repeated; the root is empty. A copy
/// shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// Why something is no [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There are two dots in a row, or one at the front, or no label at all where one is needed.
    #[error("a name with an empty label")]
    EmptyLabel,
    /// A label is longer than [`LABEL_LEN_MAX`].
    #[error("a label of {0} bytes: {LABEL_LEN_MAX} are allowed")]
    LabelTooLong(usize),
    /// The name is longer than [`NAME_LEN_MAX`].
    #[error("a name of more than {NAME_LEN_MAX} bytes")]
    TooLong,
    /// A host's name has letters, digits, hyphens inside labels, and underscores (RFC 1123, section 2.1; RFC 2782).
    #[error("{0:?} is not allowed in a host's name")]
    Character(char),
}

impl Name {
    /// The name with these labels, the leftmost first, none empty.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            if label.is_empty() {
                return Err(NameError::EmptyLabel);
            }
            let len = u8::try_from(label.len()).ok().filter(|len| usize::from(*len) <= LABEL_LEN_MAX);
            wire.push(len.ok_or(NameError::LabelTooLong(label.len()))?);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
            if wire.len() >= NAME_LEN_MAX {
                return Err(NameError::TooLong);
            }
        }
        Ok(Self(wire.into()))
    }

    /// A host's name from its usual text, with or without the final dot.
    pub fn host(text: &str) -> Result<Self, NameError> {
        let name: Self = text.parse()?;
        if name.is_root() {
            return Err(NameError::EmptyLabel);
        }
        for label in name.labels() {
            let bad = label.iter().find(|byte| !(byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
            if let Some(bad) = bad {
                return Err(NameError::Character(char::from(*bad)));
            }
            if label.starts_with(b"-") || label.ends_with(b"-") {
                return Err(NameError::Character('-'));
            }
        }
        Ok(name)
    }

    /// The labels, the leftmost first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first()?;
            let (label, after) = after.split_at(usize::from(*len));
            rest = after;
            Some(label)
        })
    }

    /// How many labels there are; the root has none.
    #[must_use]
    pub fn label_count(&self) -> usize {
        self.labels().count()
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        // Equal bytes at the end could start inside a label, so only the ends of labels are looked at.
        let Some(mut surplus) = self.0.len().checked_sub(ancestor.0.len()) else { return false };
        let mut rest = &*self.0;
        while surplus > 0 {
            let step = usize::from(rest[0]) + 1;
            let Some(left) = surplus.checked_sub(step) else { return false };
            surplus = left;
            rest = &rest[step..];
        }
        *rest == *ancestor.0
    }

    /// The names above this one, nearest first, down to and without `apex`, within which this one must lie.
    pub fn ancestors_below(&self, apex: &Self) -> impl Iterator<Item = Self> {
        let apex_len = apex.0.len();
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            rest = &rest[usize::from(*rest.first()?) + 1..];
            (rest.len() > apex_len).then(|| Self(rest.into()))
        })
    }

    /// The last `count` labels, or all if there are fewer.
    #[must_use]
    pub fn suffix(&self, count: usize) -> Self {
        let skipped = self.label_count().saturating_sub(count);
        let start: usize = self.labels().take(skipped).map(|label| label.len() + 1).sum();
        Self(self.0[start..].into())
    }

    /// This name with the labels of `parent` after it.
    pub fn below(&self, parent: &Self) -> Result<Self, NameError> {
        Self::from_labels(self.labels().chain(parent.labels()))
    }

    /// The wire form without its final zero byte.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A 64-bit hash of the name (FNV-1a), equal on all machines: it says which chunk an entry travels in.
    #[must_use]
    pub(crate) fn hash64(&self) -> u64 {
        fnv1a(&self.0)
    }
}

/// FNV-1a, 64 bits (draft-eastlake-fnv).
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

impl FromStr for Name {
    type Err = NameError;

    /// Reads dotted text; a backslash has no meaning. `.` and the empty text are the root.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self(Arc::from([])));
        }
        Self::from_labels(text.split('.').map(str::as_bytes))
    }
}

impl fmt::Display for Name {
    /// Dotted text with the final dot; bytes that are no printable ASCII come as `\DDD` (RFC 1035, section 5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' => write!(f, "\\{}", char::from(*byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(*byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_read_in_any_case_and_shown_with_its_final_dot() {
        assert_eq!(name("Web.MESH.internal"), name("web.mesh.internal."));
        assert_eq!(name("Web.mesh.internal").to_string(), "web.mesh.internal.");
        assert_eq!((name(".").to_string(), name("").label_count()), (".".to_owned(), 0));
    }

    #[test]
    fn a_name_keeps_the_lengths_of_the_rfc() {
        assert_eq!("a..b".parse::<Name>(), Err(NameError::EmptyLabel));
        assert_eq!("a".repeat(64).parse::<Name>(), Err(NameError::LabelTooLong(64)));
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(name(&longest).as_bytes().len() + 1, NAME_LEN_MAX);
        assert_eq!(format!("{longest}a").parse::<Name>(), Err(NameError::TooLong));
    }

    #[test]
    fn a_host_has_the_characters_of_a_host() {
        assert!(Name::host("_http._tcp.web-1.mesh.internal").is_ok());
        assert_eq!(Name::host("a b.internal"), Err(NameError::Character(' ')));
        assert_eq!(Name::host("-a.internal"), Err(NameError::Character('-')));
        assert_eq!(Name::host("."), Err(NameError::EmptyLabel));
    }

    #[test]
    fn bytes_that_could_garble_a_terminal_are_escaped() {
        let odd = Name::from_labels([b"a\x1b.".as_slice(), b"b".as_slice()]).unwrap();
        assert_eq!(odd.to_string(), "a\\027\\..b.");
    }

    #[test]
    fn a_name_is_within_its_ancestors_and_in_nothing_that_ends_alike() {
        assert!(name("a.mesh.internal").is_within(&name("mesh.internal")));
        assert!(name("mesh.internal").is_within(&name("mesh.internal")));
        assert!(name("a").is_within(&name(".")));
        assert!(!name("amesh.internal").is_within(&name("mesh.internal")));
        assert!(!name("internal").is_within(&name("mesh.internal")));
        // The label "x\x01b" ends in the wire form of "b".
        let tricky = Name::from_labels([b"x\x01b".as_slice()]).unwrap();
        assert!(!tricky.is_within(&name("b")));
    }

    #[test]
    fn ancestors_end_before_the_apex() {
        let above: Vec<_> = name("a.b.c.mesh.internal")
            .ancestors_below(&name("mesh.internal"))
            .map(|n| n.to_string())
            .collect();
        assert_eq!(above, ["b.c.mesh.internal.", "c.mesh.internal."]);
        assert_eq!(name("mesh.internal").ancestors_below(&name("mesh.internal")).count(), 0);
    }

    proptest! {
        #[test]
        fn labels_survive_the_wire_form(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..8)) {
            let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
            let lower: Vec<Vec<u8>> = labels.iter().map(|label| label.to_ascii_lowercase()).collect();
            prop_assert_eq!(name.labels().map(<[u8]>::to_vec).collect::<Vec<_>>(), lower);
            for count in 0..labels.len() {
                prop_assert!(name.is_within(&name.suffix(count)));
                prop_assert_eq!(name.suffix(count).label_count(), count);
            }
        }
    }
}
