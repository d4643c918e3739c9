//! The back end for hosts with Open vSwitch's datapath in their kernel: a flow for each remote MAC, in a datapath that a pair
//! of interfaces joins to the bridge.
//!
//! Owns the datapath, its ports and its flows, by generic netlink. On the wire it is the same as the VXLAN back end, and the
//! two understand each other. A flow into a tunnel names the MAC that frames go to; a flow out of one names the peer that
//! they come from, and hands them to the bridge alone, so that nothing comes back. Frames that no flow is for come up, and
//! are sent on one by one if they have a place: those with a VLAN tag always do. The kernel goes on with what it has when
//! the router ends; a later life takes that over.

mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use mesh_hostnet::{
    Bridge, BridgeName, Fdb, FdbChange, HostError, InterfaceName, KernelError, Patch, ensure_patch,
    find_patch, remove_patch,
};
use mesh_wire::MacAddr;

use self::messages::{Flow, Found, FoundFlow, Kind, Missed, Port, Ports};
use crate::genl::{Family, Genl, Request, Upcalls};
use crate::model::Tunnel;
use crate::netlink::during;

/// Frames without a flow that are sent on before the thread does something else.
const UPCALLS_PER_TURN_MAX: u32 = 256;

/// What a datapath is made of; fixed while it is there.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// What it is joined to.
    pub(crate) bridge: Bridge,
    /// The UDP port on which packets are taken.
    pub(crate) port: u16,
    /// The only address that they are taken at and leave from, if there is one.
    pub(crate) local: Option<IpAddr>,
}

/// A datapath of the kernel's.
pub(crate) struct Datapath {
    spec: Spec,
    genl: Genl,
    families: Families,
    /// Where frames of each port that have no flow come up: the bridge's, the tunnels'.
    upcalls: [Upcalls; 2],
    /// The kernel's numbers, while there is one.
    place: Option<Place>,
    /// The network identifier that packets to this host bear.
    vni: u32,
    /// From whom packets are taken.
    admitted: BTreeSet<IpAddr>,
}

/// The kernel's numbers for a datapath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    datapath: u32,
    ports: Ports,
    patch: Patch,
}

#[derive(Debug, Clone, Copy)]
struct Families {
    datapath: Family,
    vport: Family,
    flow: Family,
    packet: Family,
}

/// The flows of a datapath, as far as they are for MACs.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Where frames for a MAC go; `None` if that is not known, or nowhere.
    pub(crate) flows: BTreeMap<MacAddr, Option<Tunnel>>,
    /// Frames and bytes that have taken each.
    pub(crate) passed: BTreeMap<MacAddr, (u64, u64)>,
}

impl Datapath {
    /// Looks for what an earlier life has left, and makes nothing. What has been taken under a network identifier goes on
    /// under it; `vni` is for a new one.
    ///
    /// # Errors
    /// [`HostError::Kernel`] when the kernel has no such datapaths.
    pub(crate) fn find(spec: Spec, vni: u32) -> Result<Self, HostError> {
        let mut genl = Genl::open().map_err(during("open a socket to", "generic netlink"))?;
        let mut family = |(name, version): (&str, u8)| {
            genl.family(name, version).map_err(during("find the kernel's family", name))
        };
        let families = Families {
            datapath: family(messages::DATAPATH_FAMILY)?,
            vport: family(messages::VPORT_FAMILY)?,
            flow: family(messages::FLOW_FAMILY)?,
            packet: family(messages::PACKET_FAMILY)?,
        };
        let upcalls = || Upcalls::open().map_err(during("open a socket to", "generic netlink"));
        let upcalls = [upcalls()?, upcalls()?];
        let admitted = BTreeSet::new();
        let mut found = Self { spec, genl, families, upcalls, place: None, vni, admitted };
        found.place = found.look()?;
        found.adopt()?;
        Ok(found)
    }

    fn look(&mut self) -> Result<Option<Place>, HostError> {
        let names = self.names();
        let Some(patch) = find_patch(&self.spec.bridge.name)? else { return Ok(None) };
        let Some(datapath) = self.number(&names.datapath)? else { return Ok(None) };
        let bridge = self.port(datapath, &names.patch_far, Kind::Netdev)?;
        let tunnel = self.port(datapath, &names.tunnel, Kind::Vxlan(self.spec.port))?;
        Ok(bridge.zip(tunnel).map(|(bridge, tunnel)| {
            let ports = Ports { bridge: bridge.number, tunnel: tunnel.number };
            Place { datapath, ports, patch }
        }))
    }

    /// Takes over from whom an earlier life took packets, and under which identifier.
    fn adopt(&mut self) -> Result<(), HostError> {
        for found in self.found()? {
            if let Found::Whole(FoundFlow { flow: Flow::In { remote, vni }, .. }) = found {
                self.vni = vni;
                self.admitted.insert(remote);
            }
        }
        Ok(())
    }

    /// Makes what is missing of the datapath and its ports. What is as it shall be is not touched.
    ///
    /// # Errors
    /// [`HostError::Kernel`]. What could be made stays for the next try.
    pub(crate) fn repair(&mut self) -> Result<(), HostError> {
        self.place = None;
        let patch = ensure_patch(&self.spec.bridge)?;
        let names = self.names();
        let datapath = match self.number(&names.datapath)? {
            Some(datapath) => datapath,
            None => {
                self.genl
                    .ask(
                        self.families.datapath,
                        &messages::new_datapath(names.datapath.as_str()),
                        &mut |_| {},
                    )
                    .map_err(during("create the datapath", &names.datapath))?;
                let made = self.number(&names.datapath)?;
                made.ok_or(HostError::PortMissing { port: names.datapath })?
            }
        };
        let [bridge, tunnel] = self.upcalls.each_ref().map(Upcalls::port);
        let bridge = self.ensure_port(datapath, &names.patch_far, Kind::Netdev, bridge)?;
        let tunnel = self.ensure_port(datapath, &names.tunnel, Kind::Vxlan(self.spec.port), tunnel)?;
        self.place = Some(Place { datapath, ports: Ports { bridge, tunnel }, patch });
        Ok(())
    }

    fn ensure_port(
        &mut self,
        datapath: u32,
        name: &InterfaceName,
        kind: Kind,
        listener: u32,
    ) -> Result<u32, HostError> {
        let family = self.families.vport;
        let ask = |genl: &mut Genl, request: &Request, action| {
            genl.ask(family, request, &mut |_| {}).map_err(during(action, name))
        };
        if let Some(port) = self.port_named(datapath, name)? {
            if port.kind == Some(kind) {
                if port.listener != listener {
                    let request = messages::listen_to_port(datapath, name.as_str(), listener);
                    ask(&mut self.genl, &request, "listen to")?;
                }
                return Ok(port.number);
            }
            let request = messages::delete_port(datapath, name.as_str());
            ask(&mut self.genl, &request, "take from its datapath")?;
        }
        let request = messages::new_port(datapath, name.as_str(), kind, listener);
        ask(&mut self.genl, &request, "make a port of the datapath of")?;
        let made = self.port(datapath, name, kind)?;
        Ok(made.ok_or_else(|| HostError::PortMissing { port: name.clone() })?.number)
    }

    /// The bridge's port that leads here, while there is a whole datapath.
    pub(crate) fn patch(&self) -> Option<Patch> {
        self.place.map(|place| place.patch)
    }

    /// Where it is, to be compared with where it was.
    pub(crate) const fn place(&self) -> Option<Place> {
        self.place
    }

    /// The network identifier that packets to this host bear.
    pub(crate) const fn vni(&self) -> u32 {
        self.vni
    }

    /// Frames and bytes that have passed through the tunnels so far: out, then in.
    pub(crate) fn passed(&mut self) -> Result<[(u64, u64); 2], HostError> {
        let Some(place) = self.place else { return Ok([(0, 0); 2]) };
        let name = self.names().tunnel;
        Ok(self.port_named(place.datapath, &name)?.map_or([(0, 0); 2], |port| port.passed))
    }

    /// Takes packets from these addresses, and from no others.
    pub(crate) fn admit(&mut self, peers: &BTreeSet<IpAddr>) {
        let before = std::mem::replace(&mut self.admitted, peers.clone());
        let flow = |remote: &IpAddr| Flow::In { remote: *remote, vni: self.vni };
        let Some(Place { datapath, ports, .. }) = self.place else { return };
        let gone = before.difference(peers).map(|remote| messages::delete_flow(datapath, &flow(remote)));
        let new = peers.difference(&before);
        let new = new.map(|remote| messages::put_flow(datapath, ports, &flow(remote), self.spec.local));
        let requests: Vec<_> = gone.chain(new).collect();
        self.carry_out(&requests);
    }

    /// Reads the flows, and repairs those by which packets are taken.
    pub(crate) fn read(&mut self) -> Result<Read, HostError> {
        let (mut read, mut requests) = (Read::default(), Vec::new());
        let Some(Place { datapath, ports, .. }) = self.place else { return Ok(read) };
        let mut missing = self.admitted.clone();
        for found in self.found()? {
            match found {
                Found::Whole(FoundFlow { flow: Flow::Out { mac, tunnel }, passed }) => {
                    read.flows.insert(mac, Some(tunnel));
                    read.passed.insert(mac, passed);
                }
                Found::Other(mac) => drop(read.flows.insert(mac, None)),
                Found::Whole(FoundFlow { flow: flow @ Flow::In { remote, vni }, .. }) => {
                    if vni != self.vni || !missing.remove(&remote) {
                        requests.push(messages::delete_flow(datapath, &flow));
                    }
                }
                Found::Foreign(removal) => requests.push(removal),
            }
        }
        let flow = |remote| Flow::In { remote, vni: self.vni };
        let local = self.spec.local;
        requests.extend(
            missing.into_iter().map(|remote| messages::put_flow(datapath, ports, &flow(remote), local)),
        );
        self.carry_out(&requests);
        Ok(read)
    }

    fn found(&mut self) -> Result<Vec<Found>, HostError> {
        let mut all = Vec::new();
        let Some(Place { datapath, ports, .. }) = self.place else { return Ok(all) };
        self.genl
            .dump(self.families.flow, &messages::get_flows(datapath), &mut |answer| {
                all.extend(
                    messages::split(answer).map(|(_, body)| messages::read_flow(datapath, ports, body)),
                );
            })
            .map_err(during("list the flows of", self.names().datapath))?;
        Ok(all)
    }

    fn carry_out(&mut self, requests: &[Request]) {
        let refused = match self.genl.change_many(self.families.flow, requests) {
            Ok(said) => said.into_iter().flatten().find(|error| !error.is_absence()),
            Err(error) => Some(error),
        };
        if let Some(error) = refused {
            // The next reading finds out, and tries again.
            tracing::warn!(%error, "the datapath does not take packets as it shall");
        }
    }

    /// Makes changes, of which those in tunnels are flows here. As with entries there is a way for frames before anything
    /// leads to it, and after: flows come first, and go last.
    ///
    /// # Errors
    /// [`HostError::Kernel`] when the kernel does not answer at all: some may be done then.
    pub(crate) fn change(
        &mut self,
        fdb: &mut Fdb,
        changes: &[FdbChange],
    ) -> Result<Vec<Option<KernelError>>, HostError> {
        let mut said: Vec<Option<KernelError>> = changes.iter().map(|_| None).collect();
        let put = |change: &FdbChange| match change {
            FdbChange::Tunnel { mac, .. } => Some(*mac),
            FdbChange::Untunnel { .. } | FdbChange::Point { .. } | FdbChange::Unpoint { .. } => None,
        };
        let renewed: BTreeSet<_> = changes.iter().filter_map(put).collect();
        let turn = |change: &FdbChange| match change {
            // In the way of the new one.
            FdbChange::Untunnel { mac, .. } if renewed.contains(mac) => Turn::Clear,
            FdbChange::Tunnel { .. } => Turn::Put,
            FdbChange::Point { .. } | FdbChange::Unpoint { .. } => Turn::Point,
            FdbChange::Untunnel { .. } => Turn::Leave,
        };
        let of = |wanted: Turn| -> Vec<(usize, FdbChange)> {
            changes.iter().copied().enumerate().filter(|(_, change)| turn(change) == wanted).collect()
        };
        self.change_flows(&of(Turn::Clear), &mut said)?;
        self.change_flows(&of(Turn::Put), &mut said)?;
        let entries = of(Turn::Point);
        let pointed = fdb.change(&entries.iter().map(|(_, change)| *change).collect::<Vec<_>>())?;
        entries.iter().zip(pointed).for_each(|((at, _), error)| said[*at] = error);
        self.change_flows(&of(Turn::Leave), &mut said)?;
        Ok(said)
    }

    fn change_flows(
        &mut self,
        steps: &[(usize, FdbChange)],
        said: &mut [Option<KernelError>],
    ) -> Result<(), HostError> {
        let Some(Place { datapath, ports, .. }) = self.place else {
            let gone = || KernelError::from(std::io::Error::from(std::io::ErrorKind::NotFound));
            steps.iter().for_each(|(at, _)| said[*at] = Some(gone()));
            return Ok(());
        };
        let request = |change: &FdbChange| match *change {
            FdbChange::Tunnel { mac, remote, port, vni, .. } => {
                let flow = Flow::Out { mac, tunnel: Tunnel { remote, port, vni } };
                Some(messages::put_flow(datapath, ports, &flow, self.spec.local))
            }
            FdbChange::Untunnel { mac, remote, port, vni, .. } => {
                let flow = Flow::Out { mac, tunnel: Tunnel { remote, port, vni } };
                Some(messages::delete_flow(datapath, &flow))
            }
            FdbChange::Point { .. } | FdbChange::Unpoint { .. } => None,
        };
        let requests: Vec<_> = steps.iter().filter_map(|(_, change)| request(change)).collect();
        let answers = self.genl.change_many(self.families.flow, &requests);
        let answers = answers.map_err(during("change the flows of", self.names().datapath))?;
        steps.iter().zip(answers).for_each(|((at, _), error)| said[*at] = error);
        Ok(())
    }

    /// Sends on the frames that have come up for want of a flow; `flow` tells where those for a MAC go. True if there
    /// should have been flows for them: the tables are not as they were left.
    pub(crate) fn listen(&mut self, flow: impl Fn(MacAddr) -> Option<Tunnel>) -> bool {
        let Some(Place { datapath, ports, .. }) = self.place else { return false };
        let mut is_disturbed = false;
        for upcalls in &mut self.upcalls {
            for _ in 0..UPCALLS_PER_TURN_MAX {
                let Some((command, body)) = upcalls.next() else { break };
                let Some(missed) = messages::read_upcall(command, body) else { continue };
                let Some(found) = decide(&missed, ports, self.vni, &self.admitted, &flow) else { continue };
                is_disturbed |= !missed.is_tagged;
                let request = messages::execute(datapath, ports, &missed, &found, self.spec.local);
                if let Err(error) = self.genl.tell(self.families.packet, &request) {
                    tracing::trace!(%error, "a frame without a flow is lost");
                }
            }
        }
        is_disturbed
    }

    /// What becomes readable when [`listen`](Self::listen) has something to do.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        self.upcalls.each_ref().map(AsFd::as_fd)
    }

    fn names(&self) -> Names {
        Names::of(&self.spec.bridge.name)
    }

    fn number(&mut self, name: &InterfaceName) -> Result<Option<u32>, HostError> {
        self.about_datapath(name, |number, _| number)
    }

    /// Frames that have found no flow since the datapath was made, whatever became of them.
    pub(crate) fn missed(&mut self) -> Result<u64, HostError> {
        let name = self.names().datapath;
        Ok(self.about_datapath(&name, |_, body| messages::read_missed(body))?.unwrap_or(0))
    }

    /// What is read of the datapath of this name, if there is one.
    fn about_datapath<T>(
        &mut self,
        name: &InterfaceName,
        read: impl Fn(u32, &[u8]) -> T,
    ) -> Result<Option<T>, HostError> {
        let mut told = None;
        let request = messages::get_datapath(name.as_str());
        let said = self.genl.ask(self.families.datapath, &request, &mut |answer| {
            told = messages::split(answer).map(|(number, body)| read(number, body));
        });
        absent_is_none(said.map(|()| told)).map_err(during("look for the datapath", name))
    }

    /// The port of this name if it is of this kind.
    fn port(&mut self, datapath: u32, name: &InterfaceName, kind: Kind) -> Result<Option<Port>, HostError> {
        Ok(self.port_named(datapath, name)?.filter(|port| port.kind == Some(kind)))
    }

    fn port_named(&mut self, datapath: u32, name: &InterfaceName) -> Result<Option<Port>, HostError> {
        let mut port = None;
        let request = messages::get_port(datapath, name.as_str());
        let said = self.genl.ask(self.families.vport, &request, &mut |answer| {
            port = messages::split(answer).and_then(|(_, body)| messages::read_port(body));
        });
        absent_is_none(said.map(|()| port)).map_err(during("look for the port", name))
    }
}

/// Removes the datapath with all its flows, its VXLAN port, and the pair to the bridge; returns its name. Where there is
/// none, nothing happens, and no module is loaded.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn remove(bridge: &BridgeName) -> Result<Option<InterfaceName>, HostError> {
    let name = bridge.datapath();
    let is_there = mesh_hostnet::has_interface(&name)?;
    if is_there {
        let mut genl = Genl::open().map_err(during("open a socket to", "generic netlink"))?;
        let (family, version) = messages::DATAPATH_FAMILY;
        let request = messages::delete_datapath(name.as_str());
        let removed = genl.family(family, version).and_then(|family| genl.ask(family, &request, &mut |_| {}));
        absent_is_none(removed.map(Some)).map_err(during("remove the datapath", &name))?;
    }
    remove_patch(bridge)?;
    Ok(is_there.then_some(name))
}

/// What a frame without a flow would be sent on by; `None` is for frames that nobody here has a place for.
fn decide(
    missed: &Missed<'_>,
    ports: Ports,
    own: u32,
    admitted: &BTreeSet<IpAddr>,
    flow: impl Fn(MacAddr) -> Option<Tunnel>,
) -> Option<Flow> {
    match missed.tunnel {
        None if missed.port == ports.bridge => {
            flow(missed.to).map(|tunnel| Flow::Out { mac: missed.to, tunnel })
        }
        Some((vni, remote)) if missed.port == ports.tunnel => {
            (vni == own && admitted.contains(&remote)).then_some(Flow::In { remote, vni })
        }
        None | Some(_) => None,
    }
}

/// When a change has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Clear,
    Put,
    Point,
    Leave,
}

/// The names of a datapath's parts.
struct Names {
    datapath: InterfaceName,
    patch_far: InterfaceName,
    tunnel: InterfaceName,
}

impl Names {
    fn of(bridge: &BridgeName) -> Self {
        Self { datapath: bridge.datapath(), patch_far: bridge.patch_far(), tunnel: bridge.datapath_tunnel() }
    }
}

fn absent_is_none<T>(said: Result<Option<T>, KernelError>) -> Result<Option<T>, KernelError> {
    match said {
        Err(error) if error.is_absence() => Ok(None),
        said => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { bridge: 1, tunnel: 2 };
    const MAC: MacAddr = MacAddr::from_bytes([2, 1, 2, 3, 4, 5]);

    fn decided(missed: &Missed<'_>) -> Option<Flow> {
        let tunnel = Tunnel { remote: [192, 0, 2, 1].into(), port: 6784, vni: 9 };
        let admitted = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        decide(missed, PORTS, 7, &admitted, |mac| (mac == MAC).then_some(tunnel))
    }

    #[test]
    fn a_frame_without_a_flow_goes_where_its_flow_would_lead_and_nowhere_else() {
        let (frame, key) = (&[][..], &[][..]);
        let out = Missed { frame, key, port: PORTS.bridge, to: MAC, is_tagged: false, tunnel: None };
        assert!(matches!(decided(&out), Some(Flow::Out { mac: MAC, .. })));
        let unknown = Missed { to: MacAddr::from_bytes([2; 6]), ..out };
        assert_eq!(decided(&unknown), None);
        let remote = IpAddr::from([192, 0, 2, 1]);
        let into = Missed { port: PORTS.tunnel, tunnel: Some((7, remote)), ..out };
        assert_eq!(decided(&into), Some(Flow::In { remote, vni: 7 }));
        for tunnel in [(8, remote), (7, IpAddr::from([192, 0, 2, 66]))] {
            assert_eq!(decided(&Missed { tunnel: Some(tunnel), ..into }), None, "{tunnel:?}");
        }
        assert_eq!(
            decided(&Missed { port: PORTS.bridge, ..into }),
            None,
            "a tunnel's frame at the bridge's port"
        );
        assert_eq!(
            decided(&Missed { tunnel: None, ..into }),
            None,
            "a frame of no tunnel at the tunnels' port"
        );
    }
}
