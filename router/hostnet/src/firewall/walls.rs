//! What the walls are to be, as data.
//!
//! Owns the words for it. How they are written in nftables' language is [`super::ruleset`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnet::IpNet;

use crate::bridge::Bridge;
use crate::mac::MacAddress;
use crate::name::{BridgeName, InterfaceName};

/// The address at which each host's DNS server answers its own containers, unless its user has chosen others. It is the same on every host, so nothing that
/// names it crosses the overlay.
pub const NODE_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 32, 53);

/// All that the firewall enforces on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Walls {
    pub(crate) bridge: BridgeName,
    pub(crate) bridge_mac: MacAddress,
    /// The host's own ports, TCP and UDP, that no container reaches by whatever address.
    pub(crate) host_ports: BTreeSet<u16>,
    /// Ports of the bridge that lead to other hosts.
    pub(crate) uplinks: BTreeSet<InterfaceName>,
    /// What may come out of each container's port.
    pub(crate) ports: BTreeMap<InterfaceName, PortGuard>,
    pub(crate) exposed: Vec<Exposure>,
    /// Where containers reach the host's DNS servers: nothing from or to these addresses crosses the overlay.
    pub(crate) name_servers: BTreeSet<SocketAddrV4>,
    pub(crate) tunnel: Option<Tunnel>,
}

impl Walls {
    pub(crate) fn new(bridge: &Bridge, host_ports: BTreeSet<u16>) -> Self {
        Self {
            bridge: bridge.name.clone(),
            bridge_mac: bridge.mac,
            host_ports,
            uplinks: BTreeSet::from([bridge.name.tap()]),
            ports: BTreeMap::new(),
            exposed: Vec::new(),
            name_servers: BTreeSet::from([SocketAddrV4::new(NODE_LOCAL, 53)]),
            tunnel: None,
        }
    }
}

/// What a container was given: all that its port lets it send from, and the subnets from which frames reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortGuard {
    /// The address of the interface inside.
    pub mac: MacAddress,
    /// Its addresses, each with the prefix length of its subnet.
    pub addresses: BTreeSet<IpNet>,
}

/// An address of the host on the bridge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exposure {
    /// The address, with the prefix length of its subnet.
    pub address: IpNet,
    /// Whether what passes between this subnet and the outside takes on this host's address.
    pub masquerade: bool,
}

/// Who may send packets of the kernel's tunnel to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Its UDP port.
    pub port: u16,
    /// The addresses of peers. A packet from any other is dropped before the tunnel sees it.
    pub sources: BTreeSet<IpAddr>,
    /// The tunnel whose packets are sealed by a device underneath, if there is one.
    pub sealed: Option<SealedTunnel>,
}

/// A tunnel whose packets leave and come by the devices that seal, and by no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedTunnel {
    /// Its UDP port.
    pub port: u16,
    /// This host's address inside of it, from which all of its packets are.
    pub address: Ipv4Addr,
    /// WireGuard's UDP port, and the only address of this host at which it is reached, where the router listens at one alone:
    /// its socket takes what comes to any.
    pub only_at: Option<(u16, IpAddr)>,
}

/// Why the firewall dropped a frame or packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wall {
    /// A container sent from another MAC than its own.
    SourceMac,
    /// A container sent from an address that it was not given.
    SourceAddress,
    /// A container's ARP told an address or a MAC that is not its own.
    ArpSender,
    /// A container advertised an IPv6 neighbour that it is not.
    Neighbour,
    /// A container played router: an advertisement or a redirect.
    RouterAdvert,
    /// A container answered DHCP.
    DhcpAnswer,
    /// A container sent what is neither IPv4, ARP nor IPv6: STP, LLDP, tagged frames, ….
    EtherType,
    /// A container sent too many frames to groups.
    PortFlood,
    /// A frame of another subnet was on its way to a container.
    OtherSubnet,
    /// A frame bore a local container's MAC and came from elsewhere.
    MacMoved,
    /// A packet from or to a name server's address, which each host has for itself, was about to cross.
    NodeLocal,
    /// A packet from the overlay was for the host, which does not offer that to it.
    HostPort,
    /// A packet from the overlay was for everybody or for a group, and so came to the host, too. It says nothing about who sent it.
    HostGroup,
    /// A packet was to pass between the overlay and another network by this host, which does not forward it.
    Forwarding,
    /// A tunnel's packet came from an address that is no peer's.
    TunnelSource,
    /// A container sent the host's name server more datagrams than any resolver does.
    NameFlood,
    /// A packet of the sealed tunnel was about to leave, or came, by another way than the device that seals.
    Unsealed,
}

impl Wall {
    /// All reasons.
    pub const ALL: [Self; 17] = [
        Self::SourceMac,
        Self::SourceAddress,
        Self::ArpSender,
        Self::Neighbour,
        Self::RouterAdvert,
        Self::DhcpAnswer,
        Self::EtherType,
        Self::PortFlood,
        Self::OtherSubnet,
        Self::MacMoved,
        Self::NodeLocal,
        Self::HostPort,
        Self::HostGroup,
        Self::Forwarding,
        Self::TunnelSource,
        Self::NameFlood,
        Self::Unsealed,
    ];

    /// Its name in status and metrics, and that of its counter in nftables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourceMac => "source-mac",
            Self::SourceAddress => "source-address",
            Self::ArpSender => "arp-sender",
            Self::Neighbour => "neighbour-advert",
            Self::RouterAdvert => "router-advert",
            Self::DhcpAnswer => "dhcp-answer",
            Self::EtherType => "ether-type",
            Self::PortFlood => "port-flood",
            Self::OtherSubnet => "other-subnet",
            Self::MacMoved => "mac-moved",
            Self::NodeLocal => "node-local",
            Self::HostPort => "host-port",
            Self::HostGroup => "host-group",
            Self::Forwarding => "forwarding",
            Self::TunnelSource => "tunnel-source",
            Self::NameFlood => "name-flood",
            Self::Unsealed => "unsealed",
        }
    }

    /// Whether the table of family `inet` counts it, rather than that of family `bridge`.
    pub(crate) const fn is_inet(self) -> bool {
        match self {
            Self::HostPort
            | Self::HostGroup
            | Self::Forwarding
            | Self::TunnelSource
            | Self::NameFlood
            | Self::Unsealed => true,
            Self::SourceMac
            | Self::SourceAddress
            | Self::ArpSender
            | Self::Neighbour
            | Self::RouterAdvert
            | Self::DhcpAnswer
            | Self::EtherType
            | Self::PortFlood
            | Self::OtherSubnet
            | Self::MacMoved
            | Self::NodeLocal => false,
        }
    }
}
