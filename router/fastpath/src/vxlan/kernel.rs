//! The kernel's side: devices, forwarding entries, and what a flow is in their terms.
//!
//! A flow into the tunnel is two entries: the bridge's, which names the VXLAN device's port, and the device's, which names
//! the peer. The second is there before the first, and goes after it, so that no frame falls in between. A flow to user
//! space is one entry, which names the TAP: without it the frame would be flooded to the host's own containers, too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mesh_hostnet::{
    Bridge, Fdb, FdbChange, FdbEntry, FdbPlace, HostError, InterfaceName, UnderlayFamily, VxlanDevice,
    VxlanSpec, ensure_vxlan, find_vxlan, set_default_uplink,
};
use mesh_wire::MacAddr;

use super::Config;
use crate::model::{Change, Place, Tunnel};

pub(super) struct Kernel {
    bridge: Bridge,
    tap: InterfaceName,
    tap_index: u32,
    local: Option<IpAddr>,
    port: u16,
    vni: u32,
    devices: BTreeMap<UnderlayFamily, VxlanDevice>,
    fdb: Fdb,
    /// Of flows that are not whole: what there is of them.
    scraps: BTreeMap<MacAddr, Scraps>,
}

/// What is in the kernel's tables.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The flows; `None` for what is only a part of one.
    pub(super) flows: BTreeMap<MacAddr, Option<Place>>,
    /// The MACs of this host's own containers, and whether somebody has put them there by hand.
    pub(super) locals: BTreeMap<MacAddr, Local>,
    /// Time since a frame took a flow.
    pub(super) idle: BTreeMap<MacAddr, Duration>,
}

/// A MAC on one of the bridge's own ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Local {
    /// The port.
    pub(super) port: u32,
    /// Whether the bridge has not merely learnt it.
    pub(super) is_fixed: bool,
}

#[derive(Debug, Default, Clone)]
struct Scraps {
    port: Option<u32>,
    tunnels: Vec<(u32, Tunnel)>,
}

impl Kernel {
    /// Makes or takes over the devices. Those of an earlier life keep their network identifier if `adopt` says so.
    pub(super) fn open(config: &Config) -> Result<Self, HostError> {
        let Config { bridge, tap, port, listen, vni, adopt } = config.clone();
        let mut kept = None;
        if adopt {
            for family in UnderlayFamily::ALL {
                kept = kept.or(find_vxlan(&bridge.name, family)?.filter(|device| device.port == port));
            }
        } else {
            mesh_hostnet::remove_vxlan(&bridge.name)?;
        }
        let mut kernel = Self {
            tap_index: set_default_uplink(&tap)?,
            bridge,
            tap,
            local: listen.filter(|address| !address.is_unspecified()),
            port,
            vni: kept.map_or(vni, |device| device.vni),
            devices: BTreeMap::new(),
            fdb: Fdb::open()?,
            scraps: BTreeMap::new(),
        };
        kernel.repair()?;
        Ok(kernel)
    }

    /// What an earlier life has left, before anything is made or removed.
    pub(super) fn left(config: &Config) -> Result<Found, HostError> {
        let Config { bridge, tap, port, vni, adopt, .. } = config.clone();
        let mut devices = BTreeMap::new();
        for family in UnderlayFamily::ALL {
            let device = find_vxlan(&bridge.name, family)?.filter(|device| adopt && device.port == port);
            devices.extend(device.map(|device| (family, device)));
        }
        let (fdb, scraps) = (Fdb::open()?, BTreeMap::new());
        let mut left = Self { bridge, tap, tap_index: 0, local: None, port, vni, devices, fdb, scraps };
        left.read()
    }

    /// Makes what is missing. True if any device is another than before, or the uplink is.
    ///
    /// # Errors
    /// When no device can be had at all. One family may be missing on the host.
    pub(super) fn repair(&mut self) -> Result<bool, HostError> {
        let before = (self.indices(), self.tap_index);
        self.tap_index = set_default_uplink(&self.tap)?;
        let mut failure = None;
        for family in self.families() {
            let spec = VxlanSpec { family, vni: self.vni, port: self.port, local: self.local };
            match ensure_vxlan(&self.bridge, &spec) {
                Ok(device) => drop(self.devices.insert(family, device)),
                Err(error) => {
                    tracing::debug!(%error, ?family, "there is no VXLAN device");
                    self.devices.remove(&family);
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if self.devices.is_empty() => Err(error),
            Some(_) | None => Ok((self.indices(), self.tap_index) != before),
        }
    }

    fn families(&self) -> Vec<UnderlayFamily> {
        match self.local {
            Some(local) => vec![UnderlayFamily::of(local)],
            None => UnderlayFamily::ALL.to_vec(),
        }
    }

    fn indices(&self) -> Vec<u32> {
        self.devices.values().map(|device| device.index).collect()
    }

    pub(super) const fn devices(&self) -> &BTreeMap<UnderlayFamily, VxlanDevice> {
        &self.devices
    }

    pub(super) const fn end(&self) -> (u16, u32) {
        (self.port, self.vni)
    }

    pub(super) const fn local(&self) -> Option<IpAddr> {
        self.local
    }

    /// The largest packet that a container may send, in bytes.
    pub(super) fn mtu(&self) -> u32 {
        self.devices.values().map(|device| device.mtu).max().unwrap_or(self.bridge.mtu)
    }

    /// Frames and bytes that have passed through the tunnels so far, in all: out, then in.
    pub(super) fn passed(&self) -> Result<[(u64, u64); 2], HostError> {
        let mut sum = [(0, 0); 2];
        for family in self.devices.keys() {
            let Some(VxlanDevice { sent, received, .. }) = find_vxlan(&self.bridge.name, *family)? else {
                continue;
            };
            for (sum, one) in sum.iter_mut().zip([sent, received]) {
                *sum = (sum.0 + one.0, sum.1 + one.1);
            }
        }
        Ok(sum)
    }

    /// Reads the tables.
    pub(super) fn read(&mut self) -> Result<Found, HostError> {
        let mut found = Found::default();
        let mut scraps: BTreeMap<MacAddr, Scraps> = BTreeMap::new();
        for entry in self.fdb.entries(&self.bridge)? {
            self.sort(&entry, &mut found, &mut scraps);
        }
        for (mac, parts) in scraps {
            let place = self.whole(&parts);
            found.flows.insert(mac, place);
            if place.is_none() {
                self.scraps.insert(mac, parts);
            } else {
                self.scraps.remove(&mac);
            }
        }
        self.scraps.retain(|mac, _| found.flows.contains_key(mac));
        Ok(found)
    }

    fn sort(&self, entry: &FdbEntry, found: &mut Found, scraps: &mut BTreeMap<MacAddr, Scraps>) {
        let FdbEntry { mac, device, place, is_static, is_own, idle } = *entry;
        match place {
            FdbPlace::Device { remote: Some(remote), port, vni } => {
                let Some(own) = self.device(device).filter(|_| mac.is_station()) else { return };
                let port = if port == 0 { own.port } else { port };
                let vni = if vni == 0 { own.vni } else { vni };
                scraps.entry(mac).or_default().tunnels.push((device, Tunnel { remote, port, vni }));
            }
            FdbPlace::Device { remote: None, .. } => {}
            FdbPlace::Bridge if is_own && device != self.bridge.index => {}
            FdbPlace::Bridge if device == self.tap_index || self.device(device).is_some() => {
                scraps.entry(mac).or_default().port = Some(device);
                found.idle.extend(idle.map(|idle| (mac, idle)));
            }
            FdbPlace::Bridge if mac.is_station() => {
                found.locals.insert(mac, Local { port: device, is_fixed: is_static || is_own });
            }
            FdbPlace::Bridge => {}
        }
    }

    fn whole(&self, parts: &Scraps) -> Option<Place> {
        match (parts.port, parts.tunnels.as_slice()) {
            (Some(port), []) if port == self.tap_index => Some(Place::UserSpace),
            (Some(port), [(device, tunnel)]) if port == *device => Some(Place::Tunnel(*tunnel)),
            (Some(_) | None, _) => None,
        }
    }

    fn device(&self, index: u32) -> Option<&VxlanDevice> {
        self.devices.values().find(|device| device.index == index)
    }

    /// Whether an entry, which somebody has just put there, is that of a flow to this place.
    pub(super) fn is_of(&self, entry: &FdbEntry, place: Option<Place>) -> bool {
        match (entry.place, place) {
            (FdbPlace::Bridge, Some(Place::UserSpace)) => entry.device == self.tap_index,
            (FdbPlace::Bridge, Some(Place::Tunnel(tunnel))) => self.device_for(tunnel) == Some(entry.device),
            (FdbPlace::Device { remote, port, vni }, Some(Place::Tunnel(tunnel))) => {
                let same =
                    |given: u32, wanted: u32, own: u32| given == wanted || (given == 0 && wanted == own);
                remote == Some(tunnel.remote)
                    && same(port.into(), tunnel.port.into(), self.port.into())
                    && same(vni, tunnel.vni, self.vni)
            }
            (FdbPlace::Device { .. }, Some(Place::UserSpace)) | (_, None) => false,
        }
    }

    /// Whether an entry stands on an uplink or in a VXLAN device: in a part of the tables that is ours alone.
    pub(super) fn is_ours(&self, entry: &FdbEntry) -> bool {
        entry.device == self.tap_index || self.device(entry.device).is_some()
    }

    fn device_for(&self, tunnel: Tunnel) -> Option<u32> {
        Some(self.devices.get(&UnderlayFamily::of(tunnel.remote))?.index)
    }

    /// Forgets a MAC that the bridge has learnt on a port, because it is elsewhere by now.
    pub(super) fn forget(&mut self, mac: MacAddr, local: Local) -> Result<(), HostError> {
        self.fdb.change(&[FdbChange::Unpoint { mac, port: local.port }]).map(drop)
    }

    /// Makes changes, and tells for each whether it is done. What is to be removed and is not there counts as done.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<Vec<bool>, HostError> {
        let (mut steps, mut ends) = (Vec::new(), Vec::new());
        for change in changes {
            self.steps(change, &mut steps);
            ends.push(steps.len());
        }
        let answers = self.fdb.change(&steps)?;
        let mut done = Vec::with_capacity(changes.len());
        let mut start = 0;
        for (change, end) in changes.iter().zip(ends) {
            let failed = steps[start..end].iter().zip(&answers[start..end]).find_map(|(step, answer)| {
                let error = answer.as_ref()?;
                let is_removal = matches!(step, FdbChange::Unpoint { .. } | FdbChange::Untunnel { .. });
                (!(is_removal && error.is_absence())).then_some(error)
            });
            if let Some(error) = failed {
                tracing::debug!(?change, %error, "the kernel refuses a flow");
            }
            let is_possible = start < end || matches!(change, Change::Withdraw { .. });
            done.push(failed.is_none() && is_possible);
            start = end;
        }
        Ok(done)
    }

    fn steps(&self, change: &Change, steps: &mut Vec<FdbChange>) {
        match *change {
            Change::Install { mac, to } => self.lead(mac, to, None, steps),
            Change::Replace { mac, from: None, to } => {
                self.sweep(mac, Some(to), steps);
                self.lead(mac, to, None, steps);
            }
            Change::Replace { mac, from: Some(from), to } => {
                self.lead(mac, to, Some(from), steps);
                self.leave(mac, from, Some(to), steps);
            }
            Change::Withdraw { mac, from: None } => self.sweep(mac, None, steps),
            Change::Withdraw { mac, from: Some(Place::UserSpace) } => {
                steps.push(FdbChange::Unpoint { mac, port: self.tap_index });
            }
            Change::Withdraw { mac, from: Some(from @ Place::Tunnel(tunnel)) } => {
                steps.extend(self.device_for(tunnel).map(|port| FdbChange::Unpoint { mac, port }));
                self.leave(mac, from, None, steps);
            }
        }
    }

    /// Has frames go to `to`.
    fn lead(&self, mac: MacAddr, to: Place, from: Option<Place>, steps: &mut Vec<FdbChange>) {
        match to {
            Place::UserSpace => steps.push(FdbChange::Point { mac, port: self.tap_index }),
            Place::Tunnel(tunnel @ Tunnel { remote, port, vni }) => {
                let Some(device) = self.device_for(tunnel) else { return };
                steps.push(FdbChange::Tunnel { mac, device, remote, port, vni });
                let stays =
                    matches!(from, Some(Place::Tunnel(before)) if self.device_for(before) == Some(device));
                if !stays {
                    steps.push(FdbChange::Point { mac, port: device });
                }
            }
        }
    }

    /// Removes what a flow to `from` leaves behind when frames go to `to`.
    fn leave(&self, mac: MacAddr, from: Place, to: Option<Place>, steps: &mut Vec<FdbChange>) {
        let Place::Tunnel(tunnel @ Tunnel { remote, port, vni }) = from else { return };
        let Some(device) = self.device_for(tunnel) else { return };
        let is_replaced = matches!(to, Some(Place::Tunnel(next)) if self.device_for(next) == Some(device));
        if !is_replaced {
            steps.push(FdbChange::Untunnel { mac, device, remote, port, vni });
        }
    }

    /// Removes what is left of a flow that is not whole, but for what `to` is about to replace.
    fn sweep(&self, mac: MacAddr, to: Option<Place>, steps: &mut Vec<FdbChange>) {
        let Some(scraps) = self.scraps.get(&mac) else { return };
        if to.is_none() {
            steps.extend(scraps.port.map(|port| FdbChange::Unpoint { mac, port }));
        }
        for (device, Tunnel { remote, port, vni }) in &scraps.tunnels {
            let (device, remote, port, vni) = (*device, *remote, *port, *vni);
            steps.push(FdbChange::Untunnel { mac, device, remote, port, vni });
        }
    }
}

/// The underlay addresses at the other ends of these flows.
pub(super) fn remotes<'f>(flows: impl Iterator<Item = &'f Place>) -> BTreeSet<IpAddr> {
    let remote = |place: &Place| match place {
        Place::UserSpace => None,
        Place::Tunnel(tunnel) => Some(tunnel.remote),
    };
    flows.filter_map(remote).collect()
}
