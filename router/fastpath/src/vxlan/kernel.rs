//! The kernel's side: devices, forwarding entries, and what a flow is in their terms.
//!
//! A flow into the tunnel is two entries: the bridge's, which names the VXLAN device's port, and the device's, which names
//! the peer. The second is there before the first, and goes after it, so that no frame falls in between. A flow to user
//! space is one entry, which names the TAP: without it the frame would be flooded to the host's own containers, too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use mesh_hostnet::{
    Bridge, Fdb, FdbChange, FdbEntry, FdbPlace, HostError, InterfaceName, Patch, Sealer, UnderlayFamily,
    VxlanDevice, VxlanSpec, ensure_vxlan, find_vxlan, remove_sealer, remove_vxlan, set_default_uplink,
};
use mesh_wire::MacAddr;

use super::{BackEnd, Config, End};
use crate::model::{Change, Place, Tunnel};
use crate::ovs::{self, Datapath};
use crate::{esp, seal};

/// Where a flow leads that is not as it was made.
const NOWHERE: Tunnel = Tunnel { remote: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0, vni: 0 };

pub(super) struct Kernel {
    bridge: Bridge,
    tap: InterfaceName,
    tap_index: u32,
    local: Option<IpAddr>,
    port: u16,
    vni: u32,
    may_be_clear: bool,
    /// The UDP port of what is sealed; 0 where nothing is.
    sealed_port: u16,
    seal: Option<seal::Device>,
    /// The ports of the bridge by which frames leave for tunnels.
    ports: BTreeMap<UnderlayFamily, u32>,
    mtu: u32,
    /// What is behind the port, unless it is a VXLAN device.
    datapath: Option<Datapath>,
    /// Devices that could not be had, and why.
    missing: BTreeMap<UnderlayFamily, String>,
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
    /// Frames and bytes that have taken a flow, where the kernel counts them.
    pub(super) passed: BTreeMap<MacAddr, (u64, u64)>,
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
    /// Whether the bridge has learnt the port: then it may forget it, or learn another.
    is_learnt: bool,
    tunnels: Vec<(u32, Tunnel)>,
}

impl Kernel {
    /// Makes or takes over the devices, or the datapath. Those of an earlier life keep their network identifier if they go
    /// on in this one; all others go.
    pub(super) fn open(config: &Config) -> Result<Self, seal::Error> {
        let Config { bridge, back_end, adopt, may_be_clear, .. } = config;
        for family in UnderlayFamily::ALL {
            if kept(config, family)?.is_none() {
                remove_vxlan(&bridge.name, family)?;
            }
        }
        if !adopt || *back_end == BackEnd::Vxlan {
            ovs::remove(&bridge.name)?;
        }
        let mut kernel = Self::find(config)?;
        kernel.ports.clear();
        match config.seal.clone() {
            None => {
                remove_sealer(&bridge.name, Sealer::Wireguard)?;
                esp::remove_all(&bridge.name)?;
            }
            Some(seal) => match seal::Device::open(bridge, seal.wireguard, kernel.local) {
                Ok(device) => kernel.seal = Some(device),
                Err(error) if *may_be_clear => {
                    tracing::info!(%error, "nothing seals in this kernel: user space carries what is encrypted");
                }
                Err(error) => return Err(error),
            },
        }
        kernel.repair()?;
        Ok(kernel)
    }

    /// What an earlier life has left, before anything is made or removed.
    pub(super) fn left(config: &Config) -> Result<Found, HostError> {
        let may_go_on = config.adopt || config.seal.is_some();
        if may_go_on { Self::find(config)?.read() } else { Ok(Found::default()) }
    }

    fn find(config: &Config) -> Result<Self, HostError> {
        let Config { bridge, back_end, tap, port, listen, vni, may_be_clear, .. } = config.clone();
        let local = listen.filter(|address| !address.is_unspecified());
        let mut found = Self {
            tap_index: 0,
            mtu: bridge.mtu,
            bridge,
            tap,
            local,
            port,
            vni,
            may_be_clear,
            sealed_port: config.seal.as_ref().map_or(0, |seal| seal.port),
            seal: None,
            ports: BTreeMap::new(),
            datapath: None,
            missing: BTreeMap::new(),
            fdb: Fdb::open()?,
            scraps: BTreeMap::new(),
        };
        match back_end {
            BackEnd::Vxlan => {
                for family in UnderlayFamily::ALL {
                    if let Some(device) = kept(config, family)? {
                        found.vni = device.vni;
                        found.ports.insert(family, device.index);
                    }
                }
            }
            BackEnd::Ovs => {
                let spec = ovs::Spec { bridge: found.bridge.clone(), port, local };
                let datapath = Datapath::find(spec, vni)?;
                found.vni = datapath.vni();
                found.join(datapath.patch());
                found.datapath = Some(datapath);
            }
        }
        Ok(found)
    }

    /// Makes what is missing. True if any port to tunnels is another than before, or the uplink is.
    ///
    /// # Errors
    /// When no port can be had at all. One family may be missing on the host.
    pub(super) fn repair(&mut self) -> Result<bool, seal::Error> {
        let before = (self.ports.clone(), self.tap_index);
        self.tap_index = set_default_uplink(&self.tap)?;
        if let Some(datapath) = &mut self.datapath {
            let place = datapath.place();
            let repaired = datapath.repair();
            let (patch, is_other) = (datapath.patch(), datapath.place() != place);
            self.join(patch);
            repaired?;
            return Ok(is_other || (self.ports.clone(), self.tap_index) != before);
        }
        let mut failure = None;
        let mut is_other = false;
        for family in self.families() {
            match self.repair_family(family) {
                Ok(is_new) => {
                    is_other |= is_new;
                    self.missing.remove(&family);
                }
                Err(error) => {
                    tracing::debug!(%error, ?family, "there is no VXLAN device");
                    self.missing.insert(family, error.to_string());
                    self.ports.remove(&family);
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if self.ports.is_empty() => Err(error),
            Some(_) | None => Ok(is_other || (self.ports.clone(), self.tap_index) != before),
        }
    }

    fn repair_family(&mut self, family: UnderlayFamily) -> Result<bool, seal::Error> {
        let mut is_other = false;
        let (port, local, lower) = match (family, &mut self.seal) {
            (UnderlayFamily::Sealed, Some(device)) => {
                is_other = device.repair(&self.bridge)?;
                (self.sealed_port, Some(device.address().into()), Some(device.index()))
            }
            (UnderlayFamily::V4 | UnderlayFamily::V6 | UnderlayFamily::Sealed, _) => {
                (self.port, self.local, None)
            }
        };
        let spec = VxlanSpec { family, vni: self.vni, port, local, lower };
        let device = ensure_vxlan(&self.bridge, &spec)?;
        self.ports.insert(family, device.index);
        self.mtu = device.mtu;
        Ok(is_other)
    }

    /// All tunnels begin behind the same port of the bridge.
    fn join(&mut self, patch: Option<Patch>) {
        let families = self.families();
        self.ports =
            patch.iter().flat_map(|patch| families.iter().map(|family| (*family, patch.index))).collect();
        self.mtu = patch.map_or(self.bridge.mtu, |patch| patch.mtu);
    }

    fn families(&self) -> Vec<UnderlayFamily> {
        let clear: &[_] = match self.local {
            _ if !self.may_be_clear => &[],
            Some(local) => &[UnderlayFamily::of(local)],
            None => &[UnderlayFamily::V4, UnderlayFamily::V6],
        };
        let sealed = self.seal.as_ref().map(|_| UnderlayFamily::Sealed);
        clear.iter().copied().chain(sealed).collect()
    }

    /// What seals, where the kernel can.
    pub(super) fn seal(&mut self) -> Option<&mut seal::Device> {
        let is_there = self.ports.contains_key(&UnderlayFamily::Sealed);
        self.seal.as_mut().filter(|_| is_there)
    }

    pub(super) const fn missing(&self) -> &BTreeMap<UnderlayFamily, String> {
        &self.missing
    }

    pub(super) const fn ports(&self) -> &BTreeMap<UnderlayFamily, u32> {
        &self.ports
    }

    pub(super) fn end(&self) -> End {
        let has = |family| self.ports.contains_key(&family);
        let sealed = self
            .seal
            .as_ref()
            .filter(|_| has(UnderlayFamily::Sealed))
            .map(|device| (self.sealed_port, device.offer()));
        let is_clear = has(UnderlayFamily::V4) || has(UnderlayFamily::V6);
        End { vni: self.vni, clear: is_clear.then_some(self.port), sealed }
    }

    /// Where heartbeats of a family leave from, and by which interface, where that is not what the routes say.
    pub(super) fn local(&self, family: UnderlayFamily) -> (Option<IpAddr>, Option<u32>) {
        match (family, &self.seal) {
            (UnderlayFamily::Sealed, Some(device)) => (Some(device.address().into()), Some(device.index())),
            (UnderlayFamily::V4 | UnderlayFamily::V6 | UnderlayFamily::Sealed, _) => (self.local, None),
        }
    }

    /// The largest packet that a container may send, in bytes.
    pub(super) const fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Frames and bytes that have passed through the tunnels so far, in all: out, then in.
    pub(super) fn passed(&mut self) -> Result<[(u64, u64); 2], HostError> {
        if let Some(datapath) = &mut self.datapath {
            return datapath.passed();
        }
        let mut sum = [(0, 0); 2];
        for family in self.ports.keys() {
            let Some(VxlanDevice { sent, received, .. }) = find_vxlan(&self.bridge.name, *family)? else {
                continue;
            };
            for (sum, one) in sum.iter_mut().zip([sent, received]) {
                *sum = (sum.0 + one.0, sum.1 + one.1);
            }
        }
        Ok(sum)
    }

    /// Frames that the kernel has found no flow for, where it counts them.
    pub(super) fn missed(&mut self) -> Result<u64, HostError> {
        self.datapath.as_mut().map_or(Ok(0), Datapath::missed)
    }

    /// Takes packets from these addresses; a firewall keeps others away where this cannot.
    /// What seals has the keys of `keyed`, too.
    pub(super) fn admit(&mut self, peers: &BTreeSet<IpAddr>, keyed: &BTreeSet<IpAddr>) {
        if let Some(device) = &mut self.seal
            && let Err(error) = device.retain(|address| peers.contains(&address) || keyed.contains(&address))
        {
            tracing::debug!(%error, "what seals keeps a peer that is none any more");
        }
        if let Some(datapath) = &mut self.datapath {
            datapath.admit(peers);
        }
    }

    /// Has frames sent on that the kernel has no flow for; `place` is where those for a MAC go. True if the tables are not
    /// as they were left.
    pub(super) fn listen(&mut self, place: impl Fn(MacAddr) -> Option<Place>) -> bool {
        let tunnel = |mac| match place(mac)? {
            Place::UserSpace => None,
            Place::Tunnel(tunnel) => Some(tunnel),
        };
        self.datapath.as_mut().is_some_and(|datapath| datapath.listen(tunnel))
    }

    /// What becomes readable when [`listen`](Self::listen) has something to do.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.datapath.iter().flat_map(Datapath::fds)
    }

    /// Reads the tables.
    pub(super) fn read(&mut self) -> Result<Found, HostError> {
        let mut found = Found::default();
        let mut scraps: BTreeMap<MacAddr, Scraps> = BTreeMap::new();
        for entry in self.fdb.entries(&self.bridge)? {
            self.sort(&entry, &mut found, &mut scraps);
        }
        if let Some(datapath) = &mut self.datapath {
            let read = datapath.read()?;
            found.passed = read.passed;
            for (mac, tunnel) in read.flows {
                // What leads nowhere stands at no port.
                let end = tunnel
                    .and_then(|tunnel| Some((*self.ports.get(&UnderlayFamily::of(tunnel.remote))?, tunnel)));
                scraps.entry(mac).or_default().tunnels.push(end.unwrap_or((0, NOWHERE)));
            }
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
                if !self.leads_to_tunnels(device) || !mac.is_station() {
                    return;
                }
                let port = if port == 0 { self.own_port(device) } else { port };
                let vni = if vni == 0 { self.vni } else { vni };
                scraps.entry(mac).or_default().tunnels.push((device, Tunnel { remote, port, vni }));
            }
            FdbPlace::Device { remote: None, .. } => {}
            FdbPlace::Bridge if is_own && device != self.bridge.index => {}
            FdbPlace::Bridge if device == self.tap_index || self.leads_to_tunnels(device) => {
                let parts = scraps.entry(mac).or_default();
                parts.port = Some(device);
                // As may happen while a device joins the bridge, before learning is off.
                parts.is_learnt |= !is_static;
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
            _ if parts.is_learnt => None,
            (Some(port), []) if port == self.tap_index => Some(Place::UserSpace),
            (Some(port), [(device, tunnel)]) if port == *device => Some(Place::Tunnel(*tunnel)),
            (Some(_) | None, _) => None,
        }
    }

    /// The UDP port of entries that name none.
    fn own_port(&self, device: u32) -> u16 {
        let is_sealed = self.ports.get(&UnderlayFamily::Sealed) == Some(&device);
        if is_sealed { self.sealed_port } else { self.port }
    }

    fn leads_to_tunnels(&self, port: u32) -> bool {
        self.ports.values().any(|index| *index == port)
    }

    /// Whether an entry, which somebody has just put there, is that of a flow to this place.
    pub(super) fn is_of(&self, entry: &FdbEntry, place: Option<Place>) -> bool {
        match (entry.place, place) {
            (FdbPlace::Bridge, Some(Place::UserSpace)) => entry.is_static && entry.device == self.tap_index,
            (FdbPlace::Bridge, Some(Place::Tunnel(tunnel))) => {
                entry.is_static && self.device_for(tunnel) == Some(entry.device)
            }
            (FdbPlace::Device { remote, port, vni }, Some(Place::Tunnel(tunnel))) => {
                let same =
                    |given: u32, wanted: u32, own: u32| given == wanted || (given == 0 && wanted == own);
                remote == Some(tunnel.remote)
                    && same(port.into(), tunnel.port.into(), self.own_port(entry.device).into())
                    && same(vni, tunnel.vni, self.vni)
            }
            (FdbPlace::Device { .. }, Some(Place::UserSpace)) | (_, None) => false,
        }
    }

    /// Whether an entry stands on an uplink or in a VXLAN device: in a part of the tables that is ours alone.
    pub(super) fn is_ours(&self, entry: &FdbEntry) -> bool {
        entry.device == self.tap_index || self.leads_to_tunnels(entry.device)
    }

    fn device_for(&self, tunnel: Tunnel) -> Option<u32> {
        self.ports.get(&UnderlayFamily::of(tunnel.remote)).copied()
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
        let answers = match &mut self.datapath {
            Some(datapath) => datapath.change(&mut self.fdb, &steps)?,
            None => self.fdb.change(&steps)?,
        };
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

/// The device of an earlier life that goes on in this one.
fn kept(config: &Config, family: UnderlayFamily) -> Result<Option<VxlanDevice>, HostError> {
    let goes_on = config.back_end == BackEnd::Vxlan && config.may_be_clear && config.adopt;
    let port = match family {
        UnderlayFamily::V4 | UnderlayFamily::V6 => goes_on.then_some(config.port),
        UnderlayFamily::Sealed => config.seal.as_ref().map(|seal| seal.port),
    };
    let found = find_vxlan(&config.bridge.name, family)?;
    Ok(found.filter(|device| Some(device.port) == port))
}

/// The underlay addresses at the other ends of these flows.
pub(super) fn remotes<'f>(flows: impl Iterator<Item = &'f Place>) -> BTreeSet<IpAddr> {
    let remote = |place: &Place| match place {
        Place::UserSpace => None,
        Place::Tunnel(tunnel) => Some(tunnel.remote),
    };
    flows.filter_map(remote).collect()
}
