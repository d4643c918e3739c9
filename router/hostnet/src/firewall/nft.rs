//! `nft`, the program: scripts in, listings out.
//!
//! Owns how its JSON is read. A script is one transaction: all of it is done, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::Value;

use super::ruleset::{Family, PORT_MACS, SOURCES4, SOURCES6};
use super::walls::PortGuard;
use crate::name::InterfaceName;
use crate::program::{ProgramError, run};

/// Carries out a script.
pub(crate) fn apply(script: &str) -> Result<(), ProgramError> {
    run("nft", &["-f", "-"], script).map(drop)
}

/// What the kernel has under the name of our tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// All rules in the chains.
    pub(crate) rules: usize,
    /// All elements of named sets and maps, but for those that frames have made.
    pub(crate) elements: usize,
    /// What came through each port, as far as the elements tell.
    pub(crate) ports: BTreeMap<InterfaceName, PortGuard>,
}

impl Listing {
    /// Lists both tables; an error when either is missing.
    pub(crate) fn of(table: &str) -> Result<Self, ProgramError> {
        let mut listing = Self::default();
        // Two calls: given two commands, `nft` 1.0.6 finds only one of the tables.
        for family in Family::BOTH {
            let family = family.to_string();
            let printed = run("nft", &["-j", "list", "table", &family, table], "")?;
            // What cannot be read is as good as not there: the tables are written anew.
            let document: Value = serde_json::from_slice(&printed).unwrap_or_default();
            for object in document["nftables"].as_array().into_iter().flatten() {
                listing.take(object);
            }
        }
        Ok(listing)
    }

    fn take(&mut self, object: &Value) {
        if object.get("rule").is_some() {
            self.rules += 1;
        }
        if let Some(set) = object.get("set").or_else(|| object.get("map")) {
            let elements = set["elem"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_made_by_frames = set.get("timeout").is_some();
            if !is_made_by_frames {
                self.elements += elements.len();
            }
            let has_ports = [PORT_MACS, SOURCES4, SOURCES6].iter().any(|known| set["name"] == known.name);
            if has_ports {
                for element in elements {
                    self.take_port(element);
                }
            }
        }
    }

    /// An element is (port, MAC) or (port, MAC, address), the latter with the length of the prefix as its comment.
    fn take_port(&mut self, element: &Value) -> Option<()> {
        let plain = element.get("elem");
        let parts = plain.map_or(element, |elem| &elem["val"])["concat"].as_array()?;
        let port = parts.first()?.as_str()?.parse().ok()?;
        let mac = parts.get(1)?.as_str()?.parse().ok()?;
        let guard = self.ports.entry(port).or_insert(PortGuard { mac, addresses: BTreeSet::new() });
        if let (Some(address), Some(elem)) = (parts.get(2), plain) {
            let length = elem["comment"].as_str()?.parse().ok()?;
            guard.addresses.insert(IpNet::new(address.as_str()?.parse().ok()?, length).ok()?);
        }
        Some(())
    }
}
