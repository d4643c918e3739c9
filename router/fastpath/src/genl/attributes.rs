//! Attributes of netlink: a length, a type and a value, filled up to four bytes (struct nlattr of
//! include/uapi/linux/netlink.h). Owns their bytes; what they mean is for whoever asks.

/// Bytes of length and type.
const HEADER_LEN: usize = 4;

/// Attributes begin at multiples of so many bytes.
const ALIGNMENT: usize = 4;

/// The bits of a type that are flags: nested, and in network byte order (`NLA_TYPE_MASK`).
const FLAGS: u16 = 0xc000;

/// Attributes in the making.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds one.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let len =
            u16::try_from(HEADER_LEN + value.len()).expect("a value of ours, or a frame: less than 64 KiB");
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// Adds one that is made of others.
    pub(crate) fn with_nested(self, kind: u16, value: &Self) -> Self {
        self.with(kind, &value.0)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes in `bytes`, as (type, value), up to the first that is broken.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (len, after) = rest.split_first_chunk()?;
        let (kind, _) = after.split_first_chunk()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let value = rest.get(HEADER_LEN..len)?;
        rest = rest.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind) & !FLAGS, value))
    })
}

/// The value of the first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The same, as the bytes of a number.
pub(crate) fn fixed<const N: usize>(bytes: &[u8], kind: u16) -> Option<[u8; N]> {
    attribute(bytes, kind)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_length_type_and_value_filled_up_to_four_bytes() {
        let inner = Attributes::default().with(7, b"abc");
        let bytes = Attributes::default().with_nested(3, &inner).with(5, &[]);
        let [length, inner_length, empty] = [12_u16, 7, 4].map(u16::to_ne_bytes);
        let [kind, inner_kind, last] = [3_u16, 7, 5].map(u16::to_ne_bytes);
        let wanted = [length, kind, inner_length, inner_kind, *b"ab", *b"c\0", empty, last].concat();
        assert_eq!(bytes.as_bytes(), wanted);
        let read: Vec<_> = attributes(bytes.as_bytes()).collect();
        assert_eq!(read, [(3, inner.as_bytes()), (5, &[][..])]);
        assert_eq!(attribute(read[0].1, 7), Some(&b"abc"[..]));
    }

    #[test]
    fn what_is_cut_short_ends_the_list_and_breaks_nothing() {
        let bytes = Attributes::default().with(1, b"1234").with(2, b"56");
        for len in 0..bytes.as_bytes().len() {
            let found = attributes(&bytes.as_bytes()[..len]).count();
            assert_eq!(found, usize::from(len >= 8) + usize::from(len >= 14), "{len}");
        }
        assert_eq!(attributes(&[0; 8]).count(), 0, "an attribute shorter than its header");
    }
}
