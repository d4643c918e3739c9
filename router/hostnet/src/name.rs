//! Names of network interfaces, checked once.
//!
//! Owns the kernel's rules for a name (`dev_valid_name` in net/core/dev.c) and ours on top. Does not know which names
//! are taken.

use std::fmt;
use std::str::FromStr;

use crate::sealer::Sealer;
use crate::vxlan::UnderlayFamily;

/// The longest name of an interface, in bytes: the kernel's `IFNAMSIZ` without the terminating zero.
pub const INTERFACE_NAME_LENGTH_MAX: usize = 15;

/// The longest name of a bridge, in bytes, so that the names derived from it still fit an interface name.
pub const BRIDGE_NAME_LENGTH_MAX: usize = INTERFACE_NAME_LENGTH_MAX - TAP_SUFFIX.len();

const TAP_SUFFIX: &str = "-tap";
const CAPTURE_SUFFIX: &str = "-cap";
const VXLAN4_SUFFIX: &str = "-vx";
const VXLAN6_SUFFIX: &str = "-vx6";
const PATCH_SUFFIX: &str = "-ov";
const PATCH_FAR_SUFFIX: &str = "-ovp";
const DATAPATH_SUFFIX: &str = "-dp";
const DATAPATH_TUNNEL_SUFFIX: &str = "-ovx";
const SEALED_SUFFIX: &str = "-vxs";
const WIREGUARD_SUFFIX: &str = "-wg";
const ESP_SUFFIX: &str = "-esp";
const STAGING_SUFFIX: &str = "~new";

/// The name of a network interface: 1 to 15 bytes that the kernel takes literally.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Wraps a name that this crate derived from checked parts.
    pub(crate) fn derived(name: String) -> Self {
        debug_assert!(check(&name, INTERFACE_NAME_LENGTH_MAX).is_ok(), "derived name {name:?}");
        Self(name)
    }
}

impl FromStr for InterfaceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text, INTERFACE_NAME_LENGTH_MAX)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the router's bridge: an interface name of at most 11 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeName(InterfaceName);

impl BridgeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The name as that of an interface.
    #[must_use]
    pub fn interface(&self) -> &InterfaceName {
        &self.0
    }

    /// The name of the TAP that is this bridge's uplink, or of the veth that stands in for it: `<bridge>-tap`.
    #[must_use]
    pub fn tap(&self) -> InterfaceName {
        InterfaceName::derived(format!("{}{TAP_SUFFIX}", self.0))
    }

    /// The name of that veth's other end, on which the router captures packets: `<bridge>-cap`.
    #[must_use]
    pub fn capture(&self) -> InterfaceName {
        InterfaceName::derived(format!("{}{CAPTURE_SUFFIX}", self.0))
    }

    /// The name of the VXLAN device for underlay addresses of this family: `<bridge>-vx`, and `<bridge>-vx6`.
    /// The name of the VXLAN device for underlay addresses of this family: `<bridge>-vx`, `<bridge>-vx6`, `<bridge>-vxs`.
    #[must_use]
    pub fn vxlan(&self, family: UnderlayFamily) -> InterfaceName {
        let suffix = match family {
            UnderlayFamily::V4 => VXLAN4_SUFFIX,
            UnderlayFamily::V6 => VXLAN6_SUFFIX,
            UnderlayFamily::Sealed => SEALED_SUFFIX,
        };
        InterfaceName::derived(format!("{}{suffix}", self.0))
    }

    /// The name of the bridge's port that leads to an Open vSwitch datapath: `<bridge>-ov`.
    #[must_use]
    pub fn patch(&self) -> InterfaceName {
        InterfaceName::derived(format!("{}{PATCH_SUFFIX}", self.0))
    }

    /// The name of the other end of that port's pair: `<bridge>-ovp`.
    #[must_use]
    pub fn patch_far(&self) -> InterfaceName {
        InterfaceName::derived(format!("{}{PATCH_FAR_SUFFIX}", self.0))
    }

    /// The name of the datapath: `<bridge>-dp`.
    #[must_use]
    pub fn datapath(&self) -> InterfaceName {
        InterfaceName::derived(format!("{}{DATAPATH_SUFFIX}", self.0))
    }

    /// The name of the datapath's VXLAN port: `<bridge>-ovx`.
    #[must_use]
    pub fn datapath_tunnel(&self) -> InterfaceName {
        InterfaceName::derived(format!("{}{DATAPATH_TUNNEL_SUFFIX}", self.0))
    }

    /// The name of the device that seals what goes to neighbours: `<bridge>-wg`, `<bridge>-esp`.
    #[must_use]
    pub fn sealer(&self, sealer: Sealer) -> InterfaceName {
        let suffix = match sealer {
            Sealer::Wireguard => WIREGUARD_SUFFIX,
            Sealer::Esp => ESP_SUFFIX,
        };
        InterfaceName::derived(format!("{}{suffix}", self.0))
    }

    /// The names of all ports by which frames may leave the host; not each is there.
    pub fn uplinks(&self) -> impl Iterator<Item = InterfaceName> {
        let tunnels = UnderlayFamily::ALL.map(|family| self.vxlan(family));
        [self.tap(), self.patch()].into_iter().chain(tunnels)
    }

    /// The name that the bridge bears until it carries its mark: `<bridge>~new`.
    pub(crate) fn staging(&self) -> InterfaceName {
        InterfaceName::derived(format!("{}{STAGING_SUFFIX}", self.0))
    }
}

impl FromStr for BridgeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text, BRIDGE_NAME_LENGTH_MAX)?;
        Ok(Self(InterfaceName(text.to_owned())))
    }
}

impl fmt::Display for BridgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no name of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("an interface name must not be empty")]
    Empty,
    /// It is longer than `max` bytes.
    #[error("an interface name here has at most {max} bytes")]
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
    /// It contains a character that the kernel refuses, or takes as a pattern.
    #[error("an interface name must not contain {character:?}")]
    BadCharacter {
        /// The first such character.
        character: char,
    },
    /// It has a meaning of its own in the kernel's directories.
    #[error("this interface name is reserved")]
    Reserved,
}

fn check(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { max });
    }
    // `%` would make the kernel number the interface (`dev_alloc_name`), and `:` belongs to address labels.
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if let Some(character) = text.chars().find(|&c| bad(c)) {
        return Err(NameError::BadCharacter { character });
    }
    // `all` and `default` stand for other things than an interface in /proc/sys/net/ipv[46]/conf.
    if matches!(text, "." | ".." | "all" | "default") {
        return Err(NameError::Reserved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_up_to_the_limit() {
        assert_eq!("ethmesh".parse::<InterfaceName>().unwrap().as_str(), "ethmesh");
        assert!("a".repeat(15).parse::<InterfaceName>().is_ok());
        assert!("a".repeat(11).parse::<BridgeName>().is_ok());
    }

    #[test]
    fn refuses_names_past_the_limit_and_empty_ones() {
        assert_eq!("a".repeat(16).parse::<InterfaceName>(), Err(NameError::TooLong { max: 15 }));
        assert_eq!("a".repeat(12).parse::<BridgeName>(), Err(NameError::TooLong { max: 11 }));
        assert_eq!("".parse::<InterfaceName>(), Err(NameError::Empty));
    }

    #[test]
    fn counts_bytes_and_not_characters() {
        assert_eq!("ö".repeat(8).parse::<InterfaceName>(), Err(NameError::TooLong { max: 15 }));
    }

    #[test]
    fn refuses_names_that_the_kernel_refuses_or_reads_otherwise() {
        for (text, character) in
            [("a/b", '/'), ("a b", ' '), ("a\n", '\n'), ("a:b", ':'), ("a%d", '%'), ("a\0", '\0')]
        {
            assert_eq!(text.parse::<InterfaceName>(), Err(NameError::BadCharacter { character }), "{text:?}");
        }
        for text in [".", "..", "all", "default"] {
            assert_eq!(text.parse::<BridgeName>(), Err(NameError::Reserved), "{text:?}");
        }
    }

    #[test]
    fn derives_names_that_fit() {
        let bridge: BridgeName = "elevenbytes".parse().unwrap();
        let [v4, v6, _sealed] = UnderlayFamily::ALL.map(|family| bridge.vxlan(family));
        let ovs = [bridge.patch(), bridge.patch_far(), bridge.datapath(), bridge.datapath_tunnel()];
        for derived in [bridge.tap(), bridge.capture(), bridge.staging(), v4, v6].into_iter().chain(ovs) {
            assert_eq!(derived.as_str().parse::<InterfaceName>().unwrap(), derived);
        }
    }
}
