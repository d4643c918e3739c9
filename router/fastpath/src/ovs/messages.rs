//! What is said to the kernel's Open vSwitch datapath, and what it says (include/uapi/linux/openvswitch.h).
//!
//! Owns the meaning of the attributes: datapaths, their ports, flows, and frames without a flow. Sends nothing.
//!
//! A flow's mask leaves out whatever the flow does not look at; frames with a VLAN tag match no flow all the same, as the
//! kernel always compares the tag (`ovs_nla_get_match` of net/openvswitch/flow_netlink.c).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_wire::MacAddr;

use crate::genl::{Attributes, Request, attribute, attributes, fixed};
use crate::model::Tunnel;

pub(super) const DATAPATH_FAMILY: (&str, u8) = ("ovs_datapath", 2);
pub(super) const VPORT_FAMILY: (&str, u8) = ("ovs_vport", 1);
pub(super) const FLOW_FAMILY: (&str, u8) = ("ovs_flow", 1);
pub(super) const PACKET_FAMILY: (&str, u8) = ("ovs_packet", 1);

/// The commands of datapaths, ports and flows bear the same numbers.
const CMD_NEW: u8 = 1;
const CMD_DEL: u8 = 2;
const CMD_GET: u8 = 3;
const CMD_SET: u8 = 4;

const PACKET_CMD_MISS: u8 = 1;
const PACKET_CMD_EXECUTE: u8 = 3;

const DP_ATTR_NAME: u16 = 1;
const DP_ATTR_UPCALL_PID: u16 = 2;
const DP_ATTR_STATS: u16 = 3;

const VPORT_ATTR_PORT_NO: u16 = 1;
const VPORT_ATTR_TYPE: u16 = 2;
const VPORT_ATTR_NAME: u16 = 3;
const VPORT_ATTR_OPTIONS: u16 = 4;
const VPORT_ATTR_UPCALL_PID: u16 = 5;
const VPORT_ATTR_STATS: u16 = 6;
const VPORT_TYPE_NETDEV: u32 = 1;
const VPORT_TYPE_VXLAN: u32 = 4;
const TUNNEL_ATTR_DST_PORT: u16 = 1;

const FLOW_ATTR_KEY: u16 = 1;
const FLOW_ATTR_ACTIONS: u16 = 2;
const FLOW_ATTR_STATS: u16 = 3;
const FLOW_ATTR_MASK: u16 = 7;
const FLOW_ATTR_UFID: u16 = 9;

const PACKET_ATTR_PACKET: u16 = 1;
const PACKET_ATTR_KEY: u16 = 2;
const PACKET_ATTR_ACTIONS: u16 = 3;

const KEY_ATTR_IN_PORT: u16 = 3;
const KEY_ATTR_ETHERNET: u16 = 4;
const KEY_ATTR_VLAN: u16 = 5;
const KEY_ATTR_TUNNEL: u16 = 16;

const ACTION_ATTR_OUTPUT: u16 = 1;
const ACTION_ATTR_SET: u16 = 3;

const TUNNEL_KEY_ATTR_ID: u16 = 0;
const TUNNEL_KEY_ATTR_IPV4_SRC: u16 = 1;
const TUNNEL_KEY_ATTR_IPV4_DST: u16 = 2;
const TUNNEL_KEY_ATTR_TTL: u16 = 4;
const TUNNEL_KEY_ATTR_CSUM: u16 = 6;
const TUNNEL_KEY_ATTR_TP_DST: u16 = 10;
const TUNNEL_KEY_ATTR_IPV6_SRC: u16 = 12;
const TUNNEL_KEY_ATTR_IPV6_DST: u16 = 13;

/// Hops that a packet between routers may take: what the VXLAN devices set.
const TTL: u8 = 64;

/// What a flow's name begins with, in front of the MAC that its frames go to. The other flows bear the address that their
/// frames come from, and no other name is as long.
const OUT: &[u8; 4] = b"out ";

/// A kind of port, with what it takes to make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An interface that is there.
    Netdev,
    /// A VXLAN device of the datapath's own, which takes packets on this UDP port.
    Vxlan(u16),
}

/// A port, as the kernel tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) number: u32,
    pub(super) kind: Option<Kind>,
    /// The socket that hears of its frames without a flow.
    pub(super) listener: u32,
    /// Frames and bytes, out of it and into it.
    pub(super) passed: [(u64, u64); 2],
}

/// The numbers of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    /// To the bridge.
    pub(super) bridge: u32,
    /// To the tunnels.
    pub(super) tunnel: u32,
}

/// A flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Frames of the bridge's for a MAC go into a tunnel.
    Out { mac: MacAddr, tunnel: Tunnel },
    /// Frames that come out of the tunnel from `remote`, under this router's network identifier, go to the bridge.
    In { remote: IpAddr, vni: u32 },
}

/// A flow as the kernel tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FoundFlow {
    pub(super) flow: Flow,
    /// Frames and bytes so far.
    pub(super) passed: (u64, u64),
}

/// What is found under the name of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole flow.
    Whole(FoundFlow),
    /// A flow to this MAC that leads from another port, or does something else.
    Other(MacAddr),
    /// What nobody here has made: the request that removes it.
    Foreign(Request),
}

/// A frame that the datapath has no flow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missed<'u> {
    pub(super) frame: &'u [u8],
    /// As it was told, to be told back.
    pub(super) key: &'u [u8],
    pub(super) port: u32,
    pub(super) to: MacAddr,
    pub(super) is_tagged: bool,
    /// The network identifier and the sender of the tunnel packet that it came in.
    pub(super) tunnel: Option<(u32, IpAddr)>,
}

pub(super) fn new_datapath(name: &str) -> Request {
    let attributes = named(DP_ATTR_NAME, name).with(DP_ATTR_UPCALL_PID, &0_u32.to_ne_bytes());
    Request { command: CMD_NEW, header: Some(0), attributes }
}

pub(super) fn get_datapath(name: &str) -> Request {
    Request { command: CMD_GET, header: Some(0), attributes: named(DP_ATTR_NAME, name) }
}

/// How many frames have found no flow since the datapath was made, by what an answer tells of it: those that came up, and those
/// that were lost on their way up. The second number of struct ovs_dp_stats.
pub(super) fn read_missed(body: &[u8]) -> u64 {
    let stats = attribute(body, DP_ATTR_STATS).unwrap_or_default();
    stats.get(8..).and_then(|rest| rest.first_chunk()).map_or(0, |missed| u64::from_ne_bytes(*missed))
}

pub(super) fn delete_datapath(name: &str) -> Request {
    Request { command: CMD_DEL, header: Some(0), attributes: named(DP_ATTR_NAME, name) }
}

/// The number of the datapath that an answer tells of, and what else it tells.
pub(super) fn split(answer: &[u8]) -> Option<(u32, &[u8])> {
    let (header, rest) = answer.split_first_chunk()?;
    Some((u32::from_ne_bytes(*header), rest))
}

pub(super) fn new_port(datapath: u32, name: &str, kind: Kind, listener: u32) -> Request {
    let (number, options) = match kind {
        Kind::Netdev => (VPORT_TYPE_NETDEV, None),
        Kind::Vxlan(port) => {
            // In host order, unlike elsewhere.
            let options = Attributes::default().with(TUNNEL_ATTR_DST_PORT, &port.to_ne_bytes());
            (VPORT_TYPE_VXLAN, Some(options))
        }
    };
    let mut attributes = named(VPORT_ATTR_NAME, name)
        .with(VPORT_ATTR_TYPE, &number.to_ne_bytes())
        .with(VPORT_ATTR_UPCALL_PID, &listener.to_ne_bytes());
    if let Some(options) = options {
        attributes = attributes.with_nested(VPORT_ATTR_OPTIONS, &options);
    }
    Request { command: CMD_NEW, header: Some(datapath), attributes }
}

pub(super) fn get_port(datapath: u32, name: &str) -> Request {
    Request { command: CMD_GET, header: Some(datapath), attributes: named(VPORT_ATTR_NAME, name) }
}

pub(super) fn delete_port(datapath: u32, name: &str) -> Request {
    Request { command: CMD_DEL, header: Some(datapath), attributes: named(VPORT_ATTR_NAME, name) }
}

/// Has the kernel tell another socket of frames without a flow.
pub(super) fn listen_to_port(datapath: u32, name: &str, listener: u32) -> Request {
    let attributes = named(VPORT_ATTR_NAME, name).with(VPORT_ATTR_UPCALL_PID, &listener.to_ne_bytes());
    Request { command: CMD_SET, header: Some(datapath), attributes }
}

pub(super) fn read_port(body: &[u8]) -> Option<Port> {
    let number = |kind| fixed(body, kind).map(u32::from_ne_bytes);
    let kind = match number(VPORT_ATTR_TYPE)? {
        VPORT_TYPE_NETDEV => Some(Kind::Netdev),
        VPORT_TYPE_VXLAN => attribute(body, VPORT_ATTR_OPTIONS)
            .and_then(|options| fixed(options, TUNNEL_ATTR_DST_PORT))
            .map(|port| Kind::Vxlan(u16::from_ne_bytes(port))),
        _ => None,
    };
    // The first four numbers of struct ovs_vport_stats: frames in, frames out, bytes in, bytes out.
    let stats = attribute(body, VPORT_ATTR_STATS).unwrap_or_default();
    let stat = |at: usize| {
        let bytes = stats.get(at * 8..at * 8 + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    };
    Some(Port {
        number: number(VPORT_ATTR_PORT_NO)?,
        kind,
        listener: number(VPORT_ATTR_UPCALL_PID).unwrap_or(0),
        passed: [(stat(1), stat(3)), (stat(0), stat(2))],
    })
}

/// Makes a flow; one of the same name does something else then. `local` is the only address that tunnels begin and end at,
/// if there is one.
pub(super) fn put_flow(datapath: u32, ports: Ports, flow: &Flow, local: Option<IpAddr>) -> Request {
    let (key, mask) = matching(ports, flow, local);
    let attributes = Attributes::default()
        .with(FLOW_ATTR_UFID, &ufid(flow))
        .with_nested(FLOW_ATTR_KEY, &key)
        .with_nested(FLOW_ATTR_MASK, &mask)
        .with_nested(FLOW_ATTR_ACTIONS, &actions(ports, flow, local));
    Request { command: CMD_NEW, header: Some(datapath), attributes }
}

pub(super) fn delete_flow(datapath: u32, flow: &Flow) -> Request {
    let attributes = Attributes::default().with(FLOW_ATTR_UFID, &ufid(flow));
    Request { command: CMD_DEL, header: Some(datapath), attributes }
}

pub(super) fn get_flows(datapath: u32) -> Request {
    Request { command: CMD_GET, header: Some(datapath), attributes: Attributes::default() }
}

/// Reads one flow of the datapath.
pub(super) fn read_flow(datapath: u32, ports: Ports, body: &[u8]) -> Found {
    let name = attribute(body, FLOW_ATTR_UFID).unwrap_or_default();
    let part = |kind| attribute(body, kind).unwrap_or_default();
    let (key, done) = (part(FLOW_ATTR_KEY), part(FLOW_ATTR_ACTIONS));
    let port = fixed(key, KEY_ATTR_IN_PORT).map(u32::from_ne_bytes);
    let stats = part(FLOW_ATTR_STATS);
    let stat = |at: usize| stats.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    let passed = [0, 8].map(|at| stat(at).map_or(0, u64::from_ne_bytes)).into();
    if let Some(mac) = name.strip_prefix(OUT).and_then(|mac| mac.try_into().ok()).map(MacAddr::from_bytes) {
        let is_as_made = port == Some(ports.bridge) && does(done, &[ACTION_ATTR_SET], ports.tunnel);
        let tunnel = attribute(done, ACTION_ATTR_SET).and_then(read_tunnel_set).filter(|_| is_as_made);
        return tunnel.map_or(Found::Other(mac), |tunnel| {
            Found::Whole(FoundFlow { flow: Flow::Out { mac, tunnel }, passed })
        });
    }
    let tunnel = attribute(key, KEY_ATTR_TUNNEL).and_then(read_tunnel_key);
    let flow = tunnel.map(|(vni, remote)| Flow::In { remote, vni });
    let is_as_made =
        |flow: &Flow| port == Some(ports.tunnel) && name == ufid(flow) && does(done, &[], ports.bridge);
    match flow.filter(is_as_made) {
        Some(flow) => Found::Whole(FoundFlow { flow, passed }),
        None => {
            let attributes = match name {
                [] => Attributes::default().with(FLOW_ATTR_KEY, key),
                name => Attributes::default().with(FLOW_ATTR_UFID, name),
            };
            Found::Foreign(Request { command: CMD_DEL, header: Some(datapath), attributes })
        }
    }
}

/// Reads what the kernel tells of a frame without a flow: its command, and the body with the datapath's number.
pub(super) fn read_upcall(command: u8, body: &[u8]) -> Option<Missed<'_>> {
    if command != PACKET_CMD_MISS {
        return None;
    }
    let (_datapath, body) = split(body)?;
    let key = attribute(body, PACKET_ATTR_KEY)?;
    let addresses: &[u8; 12] = attribute(key, KEY_ATTR_ETHERNET)?.try_into().ok()?;
    let [.., a, b, c, d, e, f] = *addresses;
    Some(Missed {
        frame: attribute(body, PACKET_ATTR_PACKET)?,
        key,
        port: fixed(key, KEY_ATTR_IN_PORT).map(u32::from_ne_bytes)?,
        to: MacAddr::from_bytes([a, b, c, d, e, f]),
        is_tagged: attribute(key, KEY_ATTR_VLAN).is_some(),
        tunnel: attribute(key, KEY_ATTR_TUNNEL).and_then(read_tunnel_key),
    })
}

/// Has the datapath do with one frame what it would do if there were a flow.
pub(super) fn execute(
    datapath: u32,
    ports: Ports,
    missed: &Missed<'_>,
    flow: &Flow,
    local: Option<IpAddr>,
) -> Request {
    let attributes = Attributes::default()
        .with(PACKET_ATTR_PACKET, missed.frame)
        .with(PACKET_ATTR_KEY, missed.key)
        .with_nested(PACKET_ATTR_ACTIONS, &actions(ports, flow, local));
    Request { command: PACKET_CMD_EXECUTE, header: Some(datapath), attributes }
}

fn named(kind: u16, name: &str) -> Attributes {
    Attributes::default().with(kind, &[name.as_bytes(), b"\0"].concat())
}

/// The name of a flow, by which it is found again.
fn ufid(flow: &Flow) -> Vec<u8> {
    match flow {
        Flow::Out { mac, .. } => [&OUT[..], mac.as_bytes()].concat(),
        Flow::In { remote, .. } => match remote {
            IpAddr::V4(remote) => remote.to_ipv6_mapped().octets().to_vec(),
            IpAddr::V6(remote) => remote.octets().to_vec(),
        },
    }
}

/// What a flow's frames look like: a key, and the mask of what counts in it.
fn matching(ports: Ports, flow: &Flow, local: Option<IpAddr>) -> (Attributes, Attributes) {
    let start = |port: u32| {
        let key = Attributes::default().with(KEY_ATTR_IN_PORT, &port.to_ne_bytes());
        (key, Attributes::default().with(KEY_ATTR_IN_PORT, &[0xff; 4]))
    };
    match flow {
        Flow::Out { mac, .. } => {
            let (key, mask) = start(ports.bridge);
            let addresses = [[0; 6], *mac.as_bytes()].concat();
            let counts = [[0; 6], [0xff; 6]].concat();
            (key.with(KEY_ATTR_ETHERNET, &addresses), mask.with(KEY_ATTR_ETHERNET, &counts))
        }
        Flow::In { remote, vni } => {
            let (key, mask) = start(ports.tunnel);
            // The kernel wants a destination and hops in a key, whether they count or not.
            let end = local.filter(|local| local.is_ipv4() == remote.is_ipv4());
            let tunnel = Attributes::default().with(TUNNEL_KEY_ATTR_ID, &u64::from(*vni).to_be_bytes());
            let tunnel = with_address(tunnel, Side::Source, *remote);
            let tunnel = with_address(tunnel, Side::Destination, end.unwrap_or(*remote));
            let counts = Attributes::default().with(TUNNEL_KEY_ATTR_ID, &[0xff; 8]);
            let all = match remote {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from([0xff; 16])),
            };
            let counts = with_address(counts, Side::Source, all);
            let counts = if end.is_some() { with_address(counts, Side::Destination, all) } else { counts };
            (
                key.with_nested(KEY_ATTR_TUNNEL, &tunnel.with(TUNNEL_KEY_ATTR_TTL, &[0]))
                    .with(KEY_ATTR_ETHERNET, &[0; 12]),
                mask.with_nested(KEY_ATTR_TUNNEL, &counts.with(TUNNEL_KEY_ATTR_TTL, &[0]))
                    .with(KEY_ATTR_ETHERNET, &[0; 12]),
            )
        }
    }
}

/// What is done with a flow's frames.
fn actions(ports: Ports, flow: &Flow, local: Option<IpAddr>) -> Attributes {
    match flow {
        Flow::Out { tunnel: Tunnel { remote, port, vni }, .. } => {
            let set = Attributes::default().with(TUNNEL_KEY_ATTR_ID, &u64::from(*vni).to_be_bytes());
            let local = local.filter(|local| local.is_ipv4() == remote.is_ipv4());
            let set = match local {
                Some(local) => with_address(set, Side::Source, local),
                None => set,
            };
            let set = with_address(set, Side::Destination, *remote)
                .with(TUNNEL_KEY_ATTR_TTL, &[TTL])
                .with(TUNNEL_KEY_ATTR_CSUM, &[])
                .with(TUNNEL_KEY_ATTR_TP_DST, &port.to_be_bytes());
            let set = Attributes::default().with_nested(KEY_ATTR_TUNNEL, &set);
            Attributes::default()
                .with_nested(ACTION_ATTR_SET, &set)
                .with(ACTION_ATTR_OUTPUT, &ports.tunnel.to_ne_bytes())
        }
        Flow::In { .. } => Attributes::default().with(ACTION_ATTR_OUTPUT, &ports.bridge.to_ne_bytes()),
    }
}

/// Whether a flow's actions are these, and then to send the frame out of this port.
fn does(actions: &[u8], before: &[u16], port: u32) -> bool {
    let kinds = attributes(actions).map(|(kind, _)| kind);
    let ends = fixed(actions, ACTION_ATTR_OUTPUT).map(u32::from_ne_bytes) == Some(port);
    kinds.eq(before.iter().copied().chain([ACTION_ATTR_OUTPUT])) && ends
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn with_address(attributes: Attributes, side: Side, address: IpAddr) -> Attributes {
    match (side, address) {
        (Side::Source, IpAddr::V4(address)) => attributes.with(TUNNEL_KEY_ATTR_IPV4_SRC, &address.octets()),
        (Side::Source, IpAddr::V6(address)) => attributes.with(TUNNEL_KEY_ATTR_IPV6_SRC, &address.octets()),
        (Side::Destination, IpAddr::V4(address)) => {
            attributes.with(TUNNEL_KEY_ATTR_IPV4_DST, &address.octets())
        }
        (Side::Destination, IpAddr::V6(address)) => {
            attributes.with(TUNNEL_KEY_ATTR_IPV6_DST, &address.octets())
        }
    }
}

/// The network identifier and the sender of a tunnel packet.
fn read_tunnel_key(key: &[u8]) -> Option<(u32, IpAddr)> {
    Some((read_vni(key)?, read_address(key, TUNNEL_KEY_ATTR_IPV4_SRC, TUNNEL_KEY_ATTR_IPV6_SRC)?))
}

fn read_tunnel_set(set: &[u8]) -> Option<Tunnel> {
    let key = attribute(set, KEY_ATTR_TUNNEL)?;
    let port = fixed(key, TUNNEL_KEY_ATTR_TP_DST).map(u16::from_be_bytes)?;
    let remote = read_address(key, TUNNEL_KEY_ATTR_IPV4_DST, TUNNEL_KEY_ATTR_IPV6_DST)?;
    Some(Tunnel { remote, port, vni: read_vni(key)? })
}

fn read_vni(key: &[u8]) -> Option<u32> {
    u32::try_from(u64::from_be_bytes(fixed(key, TUNNEL_KEY_ATTR_ID)?)).ok()
}

fn read_address(key: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    attributes(key).find_map(|(kind, value)| {
        if kind == v4 {
            <[u8; 4]>::try_from(value).ok().map(IpAddr::from)
        } else if kind == v6 {
            <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests;
