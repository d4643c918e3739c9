//! The fast path between the rest of the router: what the node and the data plane know becomes its views, and what it finds
//! becomes the node's inputs and documents. Owns the choice whether there is one; it decides about no frame.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_api::{ConnectionDocument, Datapath, FlowDocument, FlowsDocument, Overlay};
use mesh_crypto::{EspKey, EspKeys, Rng};
use mesh_dataplane::engine::{CounterSnapshot, Direction, Path};
use mesh_dataplane::{Dataplane, Pulse, Sightings};
use mesh_fastpath::esp;
use mesh_fastpath::model::{Agreement, PathState, Place, Refusal, View};
use mesh_fastpath::ovs;
use mesh_fastpath::seal::{Peer, Seal, address_of};
use mesh_fastpath::vxlan::{self, BackEnd, End, FastPath, Flow, Guard, Heard, Hooks};
use mesh_fastpath::wireguard::{self, SecretKey};
use mesh_hostnet::{Bridge, Firewall, FirewallState, SealedTunnel, Tunnel};
use mesh_node::{EspPlan, Input, KernelPath, LinkPlan, Node, Plan, Report, VxlanEnd};
use mesh_wire::control::{OVERLAY_SLEEVE, OVERLAY_VXLAN, SealOffer, VNI_MAX};
use mesh_wire::{MacAddr, PeerId};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{Config, Error, mtu};

/// Announcements are told the data plane again after so many looks at its table: it forgets what it does not see, and does
/// not see what the kernel carries. A minute, a fifth of what it remembers.
const LOOKS_PER_REMINDER: u32 = 240;

/// What was announced last, for whoever reminds the data plane.
type Announced = Arc<Mutex<Arc<BTreeMap<MacAddr, PeerId>>>>;

/// The fast path, where there is one.
pub(crate) struct Lane {
    path: Option<Arc<FastPath>>,
    back_end: BackEnd,
    /// Why there is none, for people.
    absence: Option<String>,
    /// What was told last.
    heard: Heard,
    announced: Announced,
    sightings: Sightings,
}

impl Lane {
    /// Starts it, if the settings and the host have one; what an earlier life has left is removed otherwise.
    ///
    /// # Errors
    /// When the user wants Open vSwitch's datapath, and there is none.
    pub(crate) fn start(
        config: &Config,
        bridge: &Bridge,
        (me, rng): (PeerId, &mut Rng),
        firewall: &Firewall,
        dataplane: &Dataplane,
    ) -> Result<(Self, watch::Receiver<Heard>), Error> {
        let (teller, heard) = watch::channel(Heard::default());
        let announced = Announced::default();
        let (followed, placed) = (dataplane.sightings(), dataplane.sightings());
        // Every host has VXLAN devices; that a datapath, with the pair of interfaces before it, is faster is not shown.
        let back_end = match config.datapath {
            Datapath::Ovs => BackEnd::Ovs,
            Datapath::Auto | Datapath::Vxlan | Datapath::Sleeve => BackEnd::Vxlan,
        };
        let mut lane = Self {
            path: None,
            back_end,
            absence: None,
            heard: Heard::default(),
            announced: Arc::clone(&announced),
            sightings: placed,
        };
        let may_be_clear = config.secrets.is_empty() || !config.trusted_subnets.is_empty();
        let may_be_sealed = !config.secrets.is_empty() && back_end == BackEnd::Vxlan;
        if config.datapath == Datapath::Sleeve || !(may_be_clear || may_be_sealed) {
            vxlan::remove(&bridge.name)?;
            ovs::remove(&bridge.name)?;
            if config.datapath == Datapath::Ovs {
                warn!(reason = %Refusal::Encrypted, "user space carries all frames");
                lane.absence = Some(Refusal::Encrypted.to_string());
            }
            return Ok((lane, heard));
        }
        let ports = Ports::after(config.port);
        let settings = vxlan::Config {
            back_end,
            bridge: bridge.clone(),
            tap: bridge.name.tap(),
            port: ports.clear,
            may_be_clear,
            seal: may_be_sealed.then(|| seal(me, rng, &ports)),
            listen: config.listen,
            vni: 1 + rng.u64() as u32 % VNI_MAX,
            adopt: config.secrets.is_empty(),
        };
        // In place before there is a device that could take a packet.
        firewall.set_uplinks(bridge.name.uplinks());
        let guard = guard(firewall.clone(), &settings);
        let hooks = hooks((followed, dataplane.pulse()), announced, (guard, firewall.clone()), teller);
        match FastPath::start(&settings, hooks) {
            Ok(path) => lane.path = Some(Arc::new(path)),
            Err(error) if !may_be_clear => {
                info!(%error, "nothing seals for the router in this kernel: user space carries all frames");
                if config.datapath == Datapath::Vxlan {
                    warn!(reason = %Refusal::Encrypted, "user space carries all frames");
                }
                lane.absence = Some(format!("{}: {error}", Refusal::Encrypted));
            }
            Err(error) if config.datapath == Datapath::Ovs => return Err(Error::NoOvs(error)),
            Err(error) => {
                if config.datapath == Datapath::Vxlan {
                    warn!(%error, "no VXLAN on this host: user space carries all frames");
                } else {
                    info!(%error, "no VXLAN on this host: user space carries all frames");
                }
                lane.absence = Some(format!("no VXLAN on this host: {error}"));
            }
        }
        Ok((lane, heard))
    }

    /// Tells it what the node wants of it now.
    pub(crate) fn see(&self, node: &Node, plan: &Plan, dataplane: &Dataplane) {
        self.place(node.macs_elsewhere());
        let Some(path) = &self.path else { return };
        let me = node.peer_id();
        path.see(View {
            neighbours: plan.links.iter().map(|link| (link.peer, agreement(link))).collect(),
            reachable: plan.routes.next_hop.keys().copied().collect(),
            relayed: plan.routes.next_hop.iter().filter(|(to, by)| to != by).map(|(to, _)| *to).collect(),
            announced: Arc::clone(node.macs_elsewhere()),
            announcing: node.announcing_peers().filter(|peer| *peer != me).collect(),
            may_wait: !node.has_secret(),
            room: room(plan, dataplane),
            seals: plan.links.iter().filter_map(|link| Some((link.peer, sealed(link)?))).collect(),
        });
    }

    /// Has the data plane know what is announced, so that it floods no frame for it.
    fn place(&self, announced: &Arc<BTreeMap<MacAddr, PeerId>>) {
        let mut before = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        for (mac, peer) in announced.iter() {
            self.sightings.announced(*mac, *peer, before.get(mac) != Some(peer));
        }
        for (mac, peer) in before.iter().filter(|(mac, peer)| announced.get(*mac) != Some(*peer)) {
            self.sightings.withdrawn(*mac, *peer);
        }
        *before = Arc::clone(announced);
    }

    /// Takes in what it has found: what the node is to hear of it.
    pub(crate) fn hear(&mut self, heard: Heard) -> Vec<Input> {
        let mut inputs = Vec::new();
        if heard.macs != self.heard.macs || self.heard == Heard::default() {
            inputs.push(Input::Macs(heard.macs.clone()));
        }
        if heard.end != self.heard.end {
            inputs.push(Input::Vxlan(heard.end.map(|End { vni, clear, sealed }| VxlanEnd {
                vni,
                clear,
                sealed,
            })));
        }
        let overlay = |peers: &BTreeSet<PeerId>, overlay| -> Vec<Input> {
            peers.iter().map(|peer| Input::Report(Report::Overlay { peer: *peer, overlay })).collect()
        };
        inputs.extend(overlay(&(&self.heard.carrying - &heard.carrying), OVERLAY_SLEEVE));
        inputs.extend(overlay(&(&heard.carrying - &self.heard.carrying), OVERLAY_VXLAN));
        let fresh = &unkeyed(&heard) - &unkeyed(&self.heard);
        inputs.extend(fresh.into_iter().map(|peer| Input::Report(Report::RekeyWanted { peer })));
        self.heard = heard;
        inputs
    }

    /// What carries frames here, where the kernel can.
    pub(crate) const fn datapath(&self) -> Datapath {
        match self.back_end {
            _ if self.path.is_none() || self.heard.fault.is_some() => Datapath::Sleeve,
            BackEnd::Vxlan => Datapath::Vxlan,
            BackEnd::Ovs => Datapath::Ovs,
        }
    }

    /// Says of each established connection which overlay carries its frames, and why.
    pub(crate) fn describe(&self, connections: &mut [ConnectionDocument], peers: &BTreeMap<String, PeerId>) {
        let kernel = match self.back_end {
            BackEnd::Vxlan => Overlay::Vxlan,
            BackEnd::Ovs => Overlay::Ovs,
        };
        for connection in connections.iter_mut().filter(|connection| connection.overlay.is_some()) {
            let peer = connection.peer_id.as_ref().and_then(|id| peers.get(id));
            let state = peer.and_then(|peer| self.heard.paths.get(peer));
            let (overlay, why) = match (&self.path, &self.heard.fault, state) {
                (None, ..) => (Overlay::Sleeve, self.absence.clone().unwrap_or_default()),
                (Some(_), Some(fault), _) => (Overlay::Sleeve, fault.clone()),
                (Some(_), None, Some(PathState::Carrying { .. })) => (kernel, String::new()),
                (Some(_), None, Some(PathState::Suspended { why, .. })) => (Overlay::Sleeve, why.to_string()),
                (Some(_), None, Some(PathState::Refused(Refusal::NoDevice))) => {
                    let missing: Vec<_> = self.heard.missing.iter().map(String::as_str).collect();
                    (Overlay::Sleeve, format!("{}: {}", Refusal::NoDevice, missing.join("; ")))
                }
                (Some(_), None, Some(PathState::Refused(why))) => (Overlay::Sleeve, why.to_string()),
                (Some(_), None, Some(PathState::Untried) | None) => {
                    (Overlay::Sleeve, "VXLAN has not been answered yet".to_owned())
                }
            };
            connection.overlay = Some(overlay);
            if !why.is_empty() {
                let info = connection.info.take().map_or_else(String::new, |info| format!("{info}; "));
                connection.info = Some(format!("{info}{why}"));
            }
        }
    }

    /// Whoever is to be asked for flows, on a thread that may wait.
    pub(crate) fn flows(&self) -> impl FnOnce(&CounterSnapshot) -> FlowsDocument + Send + use<> {
        let (path, datapath, back_end) = (self.path.clone(), self.datapath(), self.back_end);
        move |counted| document(path.as_deref(), datapath, back_end, counted)
    }

    /// Whether the kernel seals frames here.
    pub(crate) fn seals(&self) -> bool {
        self.path.is_some() && self.heard.end.is_some_and(|end| end.sealed.is_some())
    }

    /// Flows that the kernel carries to others.
    pub(crate) fn carried(&self) -> usize {
        self.heard.flows
    }
}

/// The UDP ports of the kernel path: those after the router's own, or those before it where there are no more.
struct Ports {
    /// VXLAN in clear.
    clear: u16,
    /// WireGuard.
    wireguard: u16,
    /// VXLAN inside of it.
    sealed: u16,
}

impl Ports {
    fn after(port: u16) -> Self {
        let nth = |n| port.checked_add(n).unwrap_or_else(|| port.saturating_sub(n));
        Self { clear: nth(1), wireguard: nth(2), sealed: nth(3) }
    }
}

fn seal(me: PeerId, rng: &mut Rng, ports: &Ports) -> Seal {
    let mut private = SecretKey([0; 32]);
    private.0.chunks_mut(8).for_each(|part| part.copy_from_slice(&rng.u64().to_ne_bytes()));
    let (port, address) = (ports.wireguard, address_of(me));
    Seal { wireguard: wireguard::Config { private, port, address }, port: ports.sealed }
}

/// Lets packets of the kernel path in from neighbours alone, and those that are sealed leave and come in no other way.
fn guard(firewall: Firewall, settings: &vxlan::Config) -> Guard {
    let port = settings.port;
    let listen = settings.listen.filter(|address| !address.is_unspecified());
    let sealed = settings.seal.as_ref().map(|seal| SealedTunnel {
        port: seal.port,
        address: seal.wireguard.address,
        only_at: listen.map(|address| (seal.wireguard.port, address)),
    });
    Box::new(move |sources| {
        firewall.set_tunnel(Some(Tunnel { port, sources: sources.clone(), sealed: sealed.clone() }));
    })
}

fn hooks(
    (mut sightings, pulse): (Sightings, Pulse),
    announced: Announced,
    (guard, firewall): (Guard, Firewall),
    teller: watch::Sender<Heard>,
) -> Hooks {
    let mut looks = 0;
    let learnt = move || {
        looks += 1;
        if looks % LOOKS_PER_REMINDER == 0 {
            let announced = Arc::clone(&announced.lock().unwrap_or_else(PoisonError::into_inner));
            announced.iter().for_each(|(mac, peer)| sightings.announced(*mac, *peer, false));
        }
        sightings.news()
    };
    Hooks {
        learnt: Box::new(learnt),
        ask: Box::new(move |peer| pulse.ask(peer)),
        guard,
        is_guarded: Box::new(move || firewall.state() == FirewallState::Up),
        tell: Box::new(move |heard| drop(teller.send_replace(heard.clone()))),
    }
}

/// The neighbours for whom the kernel wants fresh keys.
fn unkeyed(heard: &Heard) -> BTreeSet<PeerId> {
    let wants = |state: &PathState| *state == PathState::Refused(Refusal::Unkeyed);
    heard.paths.iter().filter(|(_, state)| wants(state)).map(|(peer, _)| *peer).collect()
}

fn agreement(link: &LinkPlan) -> Agreement {
    match link.kernel {
        KernelPath { theirs: Some(None), .. } => Agreement::None(Refusal::PeerHasNone),
        KernelPath { is_sealed, theirs: Some(Some(theirs)), ours: Some(ours) } => {
            let remote = match (is_sealed, theirs.sealing()) {
                (true, None) => return Agreement::None(Refusal::PeerHasNone),
                (true, Some(_)) => address_of(link.peer).into(),
                (false, _) => link.remote.ip().to_canonical(),
            };
            Agreement::Both { remote, theirs, our_cookie: ours.cookie }
        }
        KernelPath { is_sealed: true, ours: None, theirs: Some(_) } => Agreement::None(Refusal::Encrypted),
        KernelPath { is_sealed: true, theirs: None, .. } => Agreement::UnheardSealed,
        KernelPath { .. } => Agreement::Unheard,
    }
}

/// How frames to a neighbour are sealed by the kernel, once both ends have said so.
fn sealed(link: &LinkPlan) -> Option<Peer> {
    let offer = link.kernel.theirs??.sealing().filter(|_| link.kernel.is_sealed)?;
    let (ip, address) = (link.remote.ip().to_canonical(), address_of(link.peer));
    Some(match offer {
        SealOffer::Wireguard(device) => Peer::Wireguard(wireguard::Peer {
            key: device.key,
            secret: SecretKey(link.wireguard_key.as_ref()?.0),
            endpoint: SocketAddr::new(ip, device.port),
            address,
        }),
        SealOffer::Esp => {
            let EspPlan { keys: EspKeys { send, receive }, is_answered } = link.esp.as_ref()?;
            let key = |key: &EspKey| esp::Key { key: key.key, spi: key.spi };
            Peer::Esp(esp::Peer {
                endpoint: ip,
                address,
                send: key(send),
                receive: key(receive),
                is_ready: *is_answered,
            })
        }
    })
}

/// The longest packets that pass whole once the kernel has sealed them, in bytes, where that is known.
fn room(plan: &Plan, dataplane: &Dataplane) -> BTreeMap<PeerId, u32> {
    let sealed: BTreeSet<_> =
        plan.links.iter().filter(|link| link.kernel.is_sealed).map(|link| link.peer).collect();
    let links = dataplane.links().into_iter().filter(|link| sealed.contains(&link.peer));
    links.filter_map(|link| Some((link.peer, mtu::sealed_room(&link)?))).collect()
}

fn document(
    path: Option<&FastPath>,
    datapath: Datapath,
    back_end: BackEnd,
    counted: &CounterSnapshot,
) -> FlowsDocument {
    let flows = path.map(FastPath::flows).unwrap_or_default();
    let mut entries: Vec<_> = flows.flows.iter().map(|one| flow(one, back_end)).collect();
    if path.is_some() {
        let both = ["out", "in"].into_iter().zip(flows.passed);
        entries.extend(both.map(|(way, (packets, bytes))| FlowDocument {
            key: way.to_owned(),
            action: "through all tunnels".to_owned(),
            peer_id: None,
            packets: Some(packets),
            bytes: Some(bytes),
            idle_seconds: None,
        }));
    }
    let (misses, counted) = (misses(counted) + flows.missed, flows.counted);
    let changes = [
        ("installed", counted.installed),
        ("replaced", counted.replaced),
        ("withdrawn", counted.withdrawn),
        ("failed", counted.failed),
        ("repaired", counted.repaired),
    ];
    FlowsDocument {
        datapath,
        entries,
        misses,
        changes: changes.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
    }
}

/// Frames of this host's containers that went to others through user space.
pub(crate) fn misses(counted: &CounterSnapshot) -> u64 {
    let sent = counted.traffic(Path::Sleeve, Direction::Out).frames;
    sent.saturating_sub(counted.traffic(Path::Relay, Direction::Out).frames)
}

fn flow(flow: &Flow, back_end: BackEnd) -> FlowDocument {
    let Flow { mac, peer, place, idle, passed } = flow;
    FlowDocument {
        key: format!("to {mac}"),
        action: match place {
            Some(Place::Tunnel(tunnel)) => format!("{} to {tunnel}", back_end.as_str()),
            Some(Place::UserSpace) => "user space".to_owned(),
            None => "being changed".to_owned(),
        },
        peer_id: peer.map(|peer| peer.to_string()),
        packets: passed.map(|(packets, _)| packets),
        bytes: passed.map(|(_, bytes)| bytes),
        idle_seconds: idle.map(|idle| idle.as_secs()),
    }
}
