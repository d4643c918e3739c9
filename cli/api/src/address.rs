//! How an address that a container is to have is named: the grammar `[ip:]A.B.C.D/LEN | net:CIDR | net:default`, as it
//! crosses the socket. Does not choose addresses.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An address, or where the router is to choose one. In JSON it is the text that a user types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AddressTarget {
    /// This address, with the prefix length of its subnet.
    Ip(IpNet),
    /// An address of this subnet.
    Subnet(IpNet),
    /// An address of the router's default subnet.
    DefaultSubnet,
}

/// A text is no [`AddressTarget`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address is written as 10.32.1.1/24, net:10.32.1.0/24 or net:default")]
pub struct AddressTargetError;

impl FromStr for AddressTarget {
    type Err = AddressTargetError;

    fn from_str(text: &str) -> Result<Self, AddressTargetError> {
        let parse = |text: &str| text.parse::<IpNet>().map_err(|_no_network| AddressTargetError);
        match text.strip_prefix("net:") {
            Some("default") => Ok(Self::DefaultSubnet),
            Some(subnet) => {
                let subnet = parse(subnet)?;
                if subnet == subnet.trunc() { Ok(Self::Subnet(subnet)) } else { Err(AddressTargetError) }
            }
            None => parse(text.strip_prefix("ip:").unwrap_or(text)).map(Self::Ip),
        }
    }
}

impl fmt::Display for AddressTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Subnet(subnet) => write!(f, "net:{subnet}"),
            Self::DefaultSubnet => f.write_str("net:default"),
        }
    }
}

impl TryFrom<String> for AddressTarget {
    type Error = AddressTargetError;

    fn try_from(text: String) -> Result<Self, AddressTargetError> {
        text.parse()
    }
}

impl From<AddressTarget> for String {
    fn from(target: AddressTarget) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_written() {
        for (text, shown) in [
            ("10.32.1.1/24", "10.32.1.1/24"),
            ("ip:10.32.1.1/24", "10.32.1.1/24"),
            ("net:10.32.1.0/24", "net:10.32.1.0/24"),
            ("net:fd00::/64", "net:fd00::/64"),
            ("net:default", "net:default"),
        ] {
            assert_eq!(text.parse::<AddressTarget>().map(|target| target.to_string()), Ok(shown.to_owned()));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "10.32.1.1", "net:", "net:10.32.1.1/24", "net:10.32.1.0", "ip:net:default", "default"]
        {
            assert_eq!(text.parse::<AddressTarget>(), Err(AddressTargetError), "{text:?}");
        }
    }
}
