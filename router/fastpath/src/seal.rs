//! What seals a tunnel: the kernel's WireGuard, or its ESP where it has no WireGuard.
//!
//! Owns the choice between them, and what both have in common. Both make a device with an address inside, so that VXLAN on
//! top, flows and firewall need not know which of them it is.

use std::net::{IpAddr, Ipv4Addr};

use mesh_hostnet::{Bridge, HostError, Sealer, remove_sealer};
use mesh_wire::control::{SealOffer, WireguardOffer};
use mesh_wire::{Moment, PeerId};

use crate::{esp, wireguard};

/// How packets are sealed by the kernel.
#[derive(Debug, Clone)]
pub struct Seal {
    /// WireGuard's device, where the kernel has it.
    pub wireguard: wireguard::Config,
    /// The UDP port of VXLAN inside.
    pub port: u16,
}

/// Who is at the other end, and how packets to it are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// By WireGuard.
    Wireguard(wireguard::Peer),
    /// By ESP.
    Esp(esp::Peer),
}

impl Peer {
    /// Its only address inside.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        match self {
            Self::Wireguard(peer) => peer.address,
            Self::Esp(peer) => peer.address,
        }
    }
}

/// Why nothing seals.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no WireGuard.
    #[error(transparent)]
    Wireguard(#[from] wireguard::Error),
    /// There is no ESP.
    #[error(transparent)]
    Esp(#[from] esp::Error),
    /// A device is in the way.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The two ends seal in different ways.
    #[error("the peer's kernel seals in another way")]
    OtherWay,
}

impl Error {
    /// Whether a peer is put once there are fresh keys for it.
    pub(crate) const fn wants_fresh_keys(&self) -> bool {
        matches!(self, Self::Esp(esp::Error::Moved | esp::Error::Spent))
    }
}

/// The device that seals, in the network namespace of the thread that opened it.
pub(crate) enum Device {
    Wireguard(wireguard::Device),
    Esp(esp::Device),
}

impl Device {
    /// Makes or takes over the best that this kernel has; what an earlier life has used in its place goes.
    pub(crate) fn open(
        bridge: &Bridge,
        config: wireguard::Config,
        local: Option<IpAddr>,
    ) -> Result<Self, Error> {
        let address = config.address;
        match wireguard::Device::open(bridge, config) {
            Ok(device) => {
                esp::remove_all(&bridge.name)?;
                Ok(Self::Wireguard(device))
            }
            Err(error) => {
                tracing::info!(%error, "there is no WireGuard here: ESP is tried");
                remove_sealer(&bridge.name, Sealer::Wireguard)?;
                let device = esp::Device::open(bridge, address, local);
                let device = device.inspect_err(|_| drop(esp::remove_all(&bridge.name)))?;
                tracing::info!("the kernel seals by ESP");
                Ok(Self::Esp(device))
            }
        }
    }

    pub(crate) fn repair(&mut self, bridge: &Bridge) -> Result<bool, Error> {
        Ok(match self {
            Self::Wireguard(device) => device.repair(bridge)?,
            Self::Esp(device) => device.repair(bridge)?,
        })
    }

    pub(crate) const fn index(&self) -> u32 {
        match self {
            Self::Wireguard(device) => device.index(),
            Self::Esp(device) => device.index(),
        }
    }

    /// This host's address inside.
    pub(crate) const fn address(&self) -> Ipv4Addr {
        match self {
            Self::Wireguard(device) => device.address(),
            Self::Esp(device) => device.address(),
        }
    }

    /// What peers are told of it.
    pub(crate) const fn offer(&self) -> SealOffer {
        match self {
            Self::Wireguard(device) => {
                let (key, port) = device.end();
                SealOffer::Wireguard(WireguardOffer { key, port })
            }
            Self::Esp(_) => SealOffer::Esp,
        }
    }

    pub(crate) fn put(&mut self, peer: &Peer, now: Moment) -> Result<(), Error> {
        match (self, peer) {
            (Self::Wireguard(device), Peer::Wireguard(peer)) => Ok(device.put(peer)?),
            (Self::Esp(device), Peer::Esp(peer)) => Ok(device.put(peer, now)?),
            (Self::Wireguard(_), Peer::Esp(_)) | (Self::Esp(_), Peer::Wireguard(_)) => Err(Error::OtherWay),
        }
    }

    /// Looks whether the kernel has all that it was told, and puts back what can be. True if anything was missing: then all
    /// peers are to be put again.
    pub(crate) fn check(&mut self) -> Result<bool, Error> {
        Ok(match self {
            Self::Wireguard(device) => device.check()?,
            Self::Esp(device) => device.check().map_err(esp::Error::from)?,
        })
    }

    /// Removes all peers but those with such an address.
    pub(crate) fn retain(&mut self, stays: impl FnMut(IpAddr) -> bool) -> Result<(), Error> {
        match self {
            Self::Wireguard(device) => device.retain(stays)?,
            Self::Esp(device) => device.retain(stays),
        }
        Ok(())
    }

    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        match self {
            Self::Wireguard(_) => {}
            Self::Esp(device) => device.handle_timeout(now),
        }
    }
}

/// The address that a peer has inside of all its neighbours' devices: 27 bits of its id, which is a hash.
#[must_use]
pub fn address_of(peer: PeerId) -> Ipv4Addr {
    let net = mesh_hostnet::SEALED_NET;
    let bits = peer.as_bytes().first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
    Ipv4Addr::from_bits(net.addr().to_bits() | (bits & net.hostmask().to_bits()))
}
