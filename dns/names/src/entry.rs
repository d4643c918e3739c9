//! One line of a peer's set: this container bears this name at this address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::name::{Name, NameError};

/// Longest container id, in bytes. Docker's have 64.
pub const CONTAINER_LEN_MAX: usize = 128;

/// Whom an entry belongs to, as the registering router calls it: a container's id, or a word for a name that was added
/// by hand. Opaque here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(Arc<str>);

/// Why a text is no [`ContainerId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContainerIdError {
    /// It is empty or longer than [`CONTAINER_LEN_MAX`].
    #[error("a container id has 1 to {CONTAINER_LEN_MAX} bytes, not {0}")]
    Length(usize),
    /// It holds something else than printable ASCII.
    #[error("{0:?} is not allowed in a container id")]
    Character(char),
}

impl ContainerId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = ContainerIdError;

    fn from_str(text: &str) -> Result<Self, ContainerIdError> {
        if !(1..=CONTAINER_LEN_MAX).contains(&text.len()) {
            return Err(ContainerIdError::Length(text.len()));
        }
        let bad = text.chars().find(|c| !c.is_ascii_graphic());
        bad.map_or_else(|| Ok(Self(text.into())), |c| Err(ContainerIdError::Character(c)))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A name with an address. A name may have several, a container several names, and an address several names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, a host's (checked by [`Entry::new`] and when a chunk is decoded).
    name: Name,
    /// Its address.
    address: IpAddr,
    /// Whose it is.
    container: ContainerId,
    /// The port of the service behind the name, for SRV questions.
    port: Option<u16>,
}

/// Why an [`Entry`] cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The name is no host's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nobody can be reached at this address: it is unspecified, multicast or broadcast.
    #[error("{0} is no address of one host")]
    Address(IpAddr),
}

impl Entry {
    /// The entry of `container`, which bears `name` at `address`, and serves at `port` if one is given.
    pub fn new(
        name: &str,
        address: IpAddr,
        container: ContainerId,
        port: Option<u16>,
    ) -> Result<Self, EntryError> {
        let name = Name::host(name)?;
        if !is_unicast(address) {
            return Err(EntryError::Address(address));
        }
        Ok(Self { name, address, container, port })
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Whose entry it is.
    #[must_use]
    pub const fn container(&self) -> &ContainerId {
        &self.container
    }

    /// The port of the service behind the name.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// No fewer bytes than its encoding has.
    pub(crate) fn len_max(&self) -> usize {
        /// Heads of the array, two texts, a byte string of 16 bytes, and a number of 16 bits.
        const OVERHEAD: usize = 1 + 2 + 2 + 1 + 16 + 3;
        self.name.as_bytes().len() + self.container.0.len() + OVERHEAD
    }
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

impl<C> Encode<C> for Entry {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(4)?.str(self.name.to_string().trim_end_matches('.'))?;
        match self.address {
            IpAddr::V4(v4) => e.bytes(&v4.octets())?,
            IpAddr::V6(v6) => e.bytes(&v6.octets())?,
        };
        e.str(&self.container.0)?;
        match self.port {
            Some(port) => e.u16(port)?.ok(),
            None => e.null()?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Entry {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let start = d.position();
        let malformed = || minicbor::decode::Error::message("no entry").at(start);
        if d.array()? != Some(4) {
            return Err(malformed());
        }
        let name = d.str()?;
        let address = match d.bytes()? {
            v4 if v4.len() == 4 => IpAddr::from(<[u8; 4]>::try_from(v4).expect("its length was looked at")),
            v6 => IpAddr::from(<[u8; 16]>::try_from(v6).map_err(|_wrong_length| malformed())?),
        };
        let container: Result<ContainerId, _> = d.str()?.parse();
        let port = d.decode::<Option<u16>>()?;
        let container = container.map_err(|error| minicbor::decode::Error::custom(error).at(start))?;
        Self::new(name, address, container, port)
            .map_err(|error| minicbor::decode::Error::custom(error).at(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_its_encoding_and_is_no_longer_than_it_says() {
        for (address, port) in [("10.32.0.1", None), ("fd00::1", Some(8080))] {
            let container: ContainerId = "c".repeat(CONTAINER_LEN_MAX).parse().unwrap();
            let entry = Entry::new("Web.mesh.internal", address.parse().unwrap(), container, port).unwrap();
            let bytes = minicbor::to_vec(&entry).unwrap();
            assert!(bytes.len() <= entry.len_max(), "{} > {}", bytes.len(), entry.len_max());
            assert_eq!(minicbor::decode::<Entry>(&bytes).unwrap(), entry);
        }
    }

    #[test]
    fn an_entry_names_one_host() {
        let at = |address: &str| {
            Entry::new("a.internal", address.parse().unwrap(), "c".parse().unwrap(), None).map(|_| ())
        };
        assert_eq!(at("10.0.0.1"), Ok(()));
        for none in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            assert_eq!(at(none), Err(EntryError::Address(none.parse().unwrap())));
        }
    }

    #[test]
    fn a_container_id_is_short_and_printable() {
        assert_eq!("".parse::<ContainerId>(), Err(ContainerIdError::Length(0)));
        assert_eq!("a b".parse::<ContainerId>(), Err(ContainerIdError::Character(' ')));
        assert_eq!("netns:web".parse::<ContainerId>().unwrap().to_string(), "netns:web");
    }
}
