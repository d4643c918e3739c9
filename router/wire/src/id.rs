//! Names of things: peers, their lives, and the receiving ends of data sessions.

use std::fmt;
use std::str::FromStr;

use minicbor::{CborLen, Decode, Encode};

/// Length of the longest nickname, in bytes.
pub const NICKNAME_LEN_MAX: usize = 64;

/// Why a text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id in full has 32 hexadecimal digits")]
pub struct IdError;

/// An id of 16 bytes. It is displayed as the first 12 hexadecimal digits (48 bits), the form that people type and read;
/// `{:x}` gives all 32, which alone can be parsed.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, CborLen)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(with = "minicbor::bytes")] [u8; Self::LEN]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = 16;

            /// The id with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
                Self(bytes)
            }

            /// The id's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                from_hex(text).map(Self)
            }
        }
    };
}

id! {
    /// A peer's identity: the first 128 bits of a hash over its signing key (`mesh-crypto` derives it).
    ///
    /// Displayed as the first 12 hexadecimal digits (48 bits), the form that people type and read; `{:x}` gives all 32,
    /// which alone can be parsed.
    PeerId
}

id! {
    /// Names a network from the moment that its address range is founded. Two networks refuse each other.
    ///
    /// Displayed and parsed like a [`PeerId`].
    NetworkId
}

fn from_hex(text: &str) -> Result<[u8; 16], IdError> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = if text.len() == 32 && digits_only { u128::from_str_radix(text, 16).ok() } else { None };
    number.map(u128::to_be_bytes).ok_or(IdError)
}

/// How often a peer has started, counted durably: a later life has a greater number. It orders a peer's records
/// across restarts without a wall clock.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, CborLen)]
#[cbor(transparent)]
pub struct BootCount(#[n(0)] pub u64);

/// Chosen at random by the receiver of a data session and written into every datagram sent to it, so that the
/// receiver finds the session's keys with one look-up and a stranger has 32 bits to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, CborLen)]
#[cbor(transparent)]
pub struct ReceiverIndex(#[n(0)] pub u32);

/// A label for people: 1 to [`NICKNAME_LEN_MAX`] bytes of letters, digits, `.`, `-` and `_`. Not unique, never an
/// identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nickname(String);

/// Why a text is no [`Nickname`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NicknameError {
    /// It is empty or longer than [`NICKNAME_LEN_MAX`].
    #[error("a nickname has 1 to {NICKNAME_LEN_MAX} characters, not {0}")]
    Length(usize),
    /// It holds a character outside the allowed set.
    #[error("a nickname has letters, digits, '.', '-' and '_', not {0:?}")]
    Character(char),
}

impl Nickname {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Nickname {
    type Err = NicknameError;

    fn from_str(text: &str) -> Result<Self, NicknameError> {
        if !(1..=NICKNAME_LEN_MAX).contains(&text.len()) {
            return Err(NicknameError::Length(text.len()));
        }
        let bad = text.chars().find(|c| !(c.is_ascii_alphanumeric() || ".-_".contains(*c)));
        bad.map_or_else(|| Ok(Self(text.to_owned())), |c| Err(NicknameError::Character(c)))
    }
}

impl fmt::Display for Nickname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nickname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<C> Encode<C> for Nickname {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Nickname {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        let text = d.str()?;
        text.parse().map_err(|error: NicknameError| minicbor::decode::Error::custom(error).at(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_id_shows_its_first_twelve_hex_digits() {
        let id = PeerId::from_bytes([0xab, 0xcd, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(id.to_string(), "abcdef010203");
    }

    #[test]
    fn an_id_in_full_is_read_back_and_a_part_of_one_is_not() {
        let id = PeerId::from_bytes([0xab, 0xcd, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        let text = format!("{id:x}");
        assert_eq!(text, "abcdef0102030405060708090a0b0c0d");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        assert_eq!(text.parse(), Ok(NetworkId::from_bytes(*id.as_bytes())));
        for wrong in ["", "abcdef010203", "+bcdef0102030405060708090a0b0c0d", &format!("{text}0"), "é"] {
            assert_eq!(wrong.parse::<PeerId>(), Err(IdError), "{wrong}");
        }
    }

    #[test]
    fn nickname_refuses_what_could_garble_a_terminal_or_a_table() {
        assert_eq!("".parse::<Nickname>(), Err(NicknameError::Length(0)));
        assert_eq!("a".repeat(65).parse::<Nickname>(), Err(NicknameError::Length(65)));
        assert_eq!("a\x1b[2J".parse::<Nickname>(), Err(NicknameError::Character('\x1b')));
        assert_eq!(
            "host-1.example_2".parse::<Nickname>().map(|n| n.to_string()),
            Ok("host-1.example_2".to_owned())
        );
    }
}
