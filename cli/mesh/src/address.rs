//! Addresses and interface names as users type them. Whether an address is usable is the router's to say.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_api::{AddressTarget, ContainerTarget, ErrorKind};

use crate::problems::Problems;

/// Longest name of an interface in bytes (`IFNAMSIZ` in `include/uapi/linux/if.h`, less the final zero).
const INTERFACE_NAME_LEN_MAX: usize = 15;

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum AddressError {
    /// An address without a prefix length.
    #[error("the length of its subnet's prefix is missing, as in {0}/{1}")]
    LengthMissing(IpAddr, u8),
    /// No address at all.
    #[error("no address, as in 10.32.1.1/24 or fd00::1/64")]
    Malformed,
    /// `net:…` with something that is no subnet.
    #[error("no subnet, as in net:10.32.1.0/24, nor net:default")]
    Subnet,
    /// `net:…` with the address of a host.
    #[error("an address within its subnet has bits that are not in {0}")]
    SubnetBits(IpNet),
}

/// Why a text is no name of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InterfaceNameError {
    /// Empty or too long.
    #[error("an interface name has 1 to {INTERFACE_NAME_LEN_MAX} bytes")]
    Length,
    /// What `dev_valid_name` in net/core/dev.c refuses, or takes as a pattern.
    #[error("an interface name has no '/', ':', '%', spaces or control characters, and is not '.' or '..'")]
    Character,
}

/// The container that `text` names; what is wrong with it goes to `problems`.
pub(crate) fn container(text: &str, problems: &mut Problems) -> Option<ContainerTarget> {
    problems.check(&format!("CONTAINER '{}'", text.escape_debug()), text.parse())
}

/// The containers that `texts` name; what is wrong with any of them goes to `problems`.
pub(crate) fn containers(texts: &[String], problems: &mut Problems) -> Option<Vec<ContainerTarget>> {
    let containers: Vec<_> = texts.iter().map(|text| container(text, problems)).collect();
    containers.into_iter().collect()
}

/// The addresses that `texts` name, each once, in their order; what is wrong with any of them goes to `problems`.
pub(crate) fn addresses(texts: &[String], problems: &mut Problems) -> Option<Vec<AddressTarget>> {
    let mut addresses = Vec::with_capacity(texts.len());
    let mut complete = true;
    for text in texts {
        match parse(text) {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(error) => {
                problems.add(ErrorKind::Usage, format!("ADDR '{}': {error}", text.escape_debug()));
                complete = false;
            }
        }
    }
    complete.then_some(addresses)
}

/// Checks a name for an interface by the kernel's rules.
pub(crate) fn interface_name(text: &str) -> Result<&str, InterfaceNameError> {
    if !(1..=INTERFACE_NAME_LEN_MAX).contains(&text.len()) {
        return Err(InterfaceNameError::Length);
    }
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if text.chars().any(bad) || matches!(text, "." | "..") {
        return Err(InterfaceNameError::Character);
    }
    Ok(text)
}

fn parse(text: &str) -> Result<AddressTarget, AddressError> {
    match text.strip_prefix("net:") {
        Some("default") => Ok(AddressTarget::DefaultSubnet),
        Some(subnet) => parse_subnet(subnet).map(AddressTarget::Subnet),
        None => parse_address(text.strip_prefix("ip:").unwrap_or(text)).map(AddressTarget::Ip),
    }
}

/// A subnet: the address without the bits of a host, and the length of its prefix.
pub(crate) fn subnet(text: &str, problems: &mut Problems) -> Option<IpNet> {
    problems.check(&format!("SUBNET '{}'", text.escape_debug()), parse_subnet(text))
}

/// An address with the length of its subnet's prefix.
pub(crate) fn address(text: &str, problems: &mut Problems) -> Option<IpNet> {
    problems.check(&format!("CIDR '{}'", text.escape_debug()), parse_address(text))
}

fn parse_subnet(text: &str) -> Result<IpNet, AddressError> {
    let subnet = parse_address(text).map_err(|_no_address| AddressError::Subnet)?;
    if subnet == subnet.trunc() { Ok(subnet) } else { Err(AddressError::SubnetBits(subnet.trunc())) }
}

fn parse_address(text: &str) -> Result<IpNet, AddressError> {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    // The standard library's parser, since that of `IpNet` takes leading zeros, which other programs read as octal.
    let address = address.parse().map_err(|_no_address| AddressError::Malformed)?;
    match (length, address) {
        (Some(length), _) => with_length(address, length).ok_or(AddressError::Malformed),
        (None, IpAddr::V4(_)) => Err(AddressError::LengthMissing(address, 24)),
        (None, IpAddr::V6(_)) => Err(AddressError::LengthMissing(address, 64)),
    }
}

/// The address with a length of one to three digits that fits its family.
fn with_length(address: IpAddr, length: &str) -> Option<IpNet> {
    let digits_only = length.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits_only && (length == "0" || !length.starts_with('0'));
    IpNet::new(address, plain.then(|| length.parse().ok()).flatten()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_prefix_length_and_an_optional_ip_before_it() {
        for (text, shown) in [
            ("10.32.1.1/24", "10.32.1.1/24"),
            ("ip:10.32.1.1/24", "10.32.1.1/24"),
            ("10.32.1.1/32", "10.32.1.1/32"),
            ("fd00:0::1/64", "fd00::1/64"),
            ("ip:fd00::1/64", "fd00::1/64"),
        ] {
            assert_eq!(parse(text).map(|address| address.to_string()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_malformed_address_is_refused() {
        for text in [
            "",
            "ip:",
            "ip:ip:10.32.1.1/24",
            "10.32.1/24",
            "10.32.1.1/",
            "10.32.1.1/33",
            "10.32.1.1/-1",
            "10.32.1.1/+24",
            "10.32.1.1/24/24",
            "10.32.1.256/24",
            "10.32.1.01/24",
            "10.32.1.1/024",
            "10.32.1.1 /24",
            "fd00::1/129",
            "fd00::1%eth0/64",
            "[fd00::1]/64",
            "fd00::1::2/64",
            "host/24",
        ] {
            assert_eq!(parse(text), Err(AddressError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn an_address_without_a_length_is_told_how_it_looks_with_one() {
        let message = parse("10.32.1.1").unwrap_err().to_string();
        assert!(message.ends_with("as in 10.32.1.1/24"), "{message}");
        let message = parse("ip:fd00::1").unwrap_err().to_string();
        assert!(message.ends_with("as in fd00::1/64"), "{message}");
    }

    #[test]
    fn an_address_can_be_left_to_the_router_to_choose() {
        for text in ["net:10.32.0.0/16", "net:fd00::/64", "net:default"] {
            assert_eq!(parse(text).map(|target| target.to_string()), Ok(text.to_owned()));
        }
        for text in ["net:", "net:10.32.0.0", "net:default/16", "net:net:default", "net:ip:10.32.0.0/16"] {
            assert_eq!(parse(text), Err(AddressError::Subnet), "{text}");
        }
        let subnet = "10.32.1.0/24".parse().unwrap();
        assert_eq!(parse("net:10.32.1.1/24"), Err(AddressError::SubnetBits(subnet)));
    }

    #[test]
    fn the_same_address_twice_is_one() {
        let texts = ["10.32.1.1/24", "ip:10.32.1.1/24", "10.32.1.2/24"].map(str::to_owned);
        assert_eq!(addresses(&texts, &mut Problems::default()).map(|addresses| addresses.len()), Some(2));
    }

    #[test]
    fn interface_names_follow_the_kernels_rules() {
        assert_eq!(interface_name("ethmesh"), Ok("ethmesh"));
        assert_eq!(interface_name(&"a".repeat(15)).map(str::len), Ok(15));
        for text in ["", &"a".repeat(16), "öööööööö"] {
            assert_eq!(interface_name(text), Err(InterfaceNameError::Length), "{text:?}");
        }
        for text in ["a/b", "a b", "a:1", "eth%d", ".", "..", "a\u{1b}"] {
            assert_eq!(interface_name(text), Err(InterfaceNameError::Character), "{text:?}");
        }
    }
}
