//! ARP requests, by the program `arping`.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;

impl Namespace {
    /// Asks by ARP, out of `interface`, who has the address, and gives the MAC address that answers first, as
    /// `aa:bb:cc:dd:ee:ff`.
    ///
    /// # Errors
    /// When nobody answers within a second.
    pub fn arping(&self, interface: &str, address: Ipv4Addr) -> Result<String> {
        let text = address.to_string();
        let output = self.cmd("arping").args(["-c", "1", "-w", "1", "-I", interface, &text]).outcome()?;
        if !output.success() {
            bail!("nobody answers {}'s ARP request for {address}: {}", self.label(), output.stdout.trim());
        }
        // "Unicast reply from 10.0.0.2 [AA:BB:CC:DD:EE:FF]  0.6ms"
        let mac = output.stdout.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let (mac, _) = mac.with_context(|| format!("arping prints no MAC address: {}", output.stdout))?;
        Ok(mac.to_ascii_lowercase())
    }
}
