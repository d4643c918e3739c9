//! The kernel's WireGuard as what seals a tunnel: its keys, and who is at the other ends.
//!
//! A device's private key is drawn when the device is made, and is held by the kernel and by this process, and nowhere else: a router
//! that is launched again takes it over with the device, so that no frame is lost. Both ends of a link derive the
//! preshared key from their session, so that nobody opens what is sent who is not in it; a peer that was told of another
//! goes on under the keys of its last handshake until the next one.
//!
//! Owns the conversation with the kernel about one device. The link itself is made by `mesh-hostnet`.

mod message;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh_hostnet::{Bridge, HostError, KernelError, Sealer, ensure_sealer};

use self::message::{Described, DescribedPeer};
use crate::genl::{Family, Genl};

/// A public key.
pub type Key = [u8; 32];

/// A private key, or one that two ends share. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(pub [u8; 32]);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its public key.
    pub key: Key,
    /// What both ends have derived from their session.
    pub secret: SecretKey,
    /// Where its packets go.
    pub endpoint: SocketAddr,
    /// Its only address inside.
    pub address: Ipv4Addr,
}

/// What a device is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// Drawn at random; taken if the device is made anew.
    pub private: SecretKey,
    /// The UDP port.
    pub port: u16,
    /// This router's address inside.
    pub address: Ipv4Addr,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no WireGuard, or refuses the link.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel does not take its keys or peers.
    #[error("cannot set the WireGuard device's keys")]
    Kernel(#[from] io::Error),
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error.error)
    }
}

/// One device, in the network namespace of the thread that opened it.
pub(crate) struct Device {
    config: Config,
    genl: Genl,
    family: Family,
    index: u32,
    public: Key,
    /// What the kernel was told; the secret and the endpoint are not known of those that an earlier life has left.
    peers: BTreeMap<Ipv4Addr, Known>,
}

enum Known {
    Left(Key),
    Told(Peer),
}

impl Known {
    const fn key(&self) -> &Key {
        match self {
            Self::Left(key) | Self::Told(Peer { key, .. }) => key,
        }
    }

    const fn secret(&self) -> Option<&SecretKey> {
        match self {
            Self::Left(_) => None,
            Self::Told(peer) => Some(&peer.secret),
        }
    }
}

impl Device {
    /// Makes the device, or takes over the one that is there with its key and its peers.
    pub(crate) fn open(bridge: &Bridge, config: Config) -> Result<Self, Error> {
        // The family is there once a device is: the kernel loads its module for that.
        let link = ensure_sealer(bridge, Sealer::Wireguard, config.address)?;
        let mut genl = Genl::open()?;
        let (name, version) = message::FAMILY;
        let family = genl.family(name, version)?;
        let mut device =
            Self { config, genl, family, index: link.index, public: [0; 32], peers: BTreeMap::new() };
        device.adopt()?;
        Ok(device)
    }

    /// Sees to it that there is the device, with its key and its peers. True if it is another than before.
    pub(crate) fn repair(&mut self, bridge: &Bridge) -> Result<bool, Error> {
        let link = ensure_sealer(bridge, Sealer::Wireguard, self.config.address)?;
        if link.index == self.index {
            return Ok(false);
        }
        self.index = link.index;
        let before = std::mem::take(&mut self.peers);
        self.adopt()?;
        for peer in before.into_values() {
            if let Known::Told(peer) = peer {
                self.put(&peer)?;
            }
        }
        Ok(true)
    }

    /// Takes over the key of the device, with its peers; or gives it one.
    fn adopt(&mut self) -> Result<(), Error> {
        let found = self.describe()?;
        let has_key = found.private.is_some_and(|key| key.0 != [0; 32]);
        if !has_key || found.port != self.config.port {
            let request = message::set_key(self.index, &self.config.private, self.config.port);
            self.genl.ask(self.family, &request, &mut |_| {})?;
        }
        let found = self.describe()?;
        let unreadable = || io::Error::from(io::ErrorKind::InvalidData);
        // Of one that it is given the kernel clears some bits (RFC 7748, section 5).
        self.config.private = found.private.ok_or_else(unreadable)?;
        self.public = found.public.ok_or_else(unreadable)?;
        let of = |(key, peer): (Key, DescribedPeer)| Some((peer.address?, Known::Left(key)));
        self.peers = found.peers.into_iter().filter_map(of).collect();
        Ok(())
    }

    /// Puts back what somebody has taken from the device: its key, its port, its peers and theirs. True if there was anything.
    pub(crate) fn check(&mut self) -> Result<bool, Error> {
        let found = self.describe()?;
        let is_own = found.private.as_ref() == Some(&self.config.private) && found.port == self.config.port;
        if !is_own {
            let request = message::set_key(self.index, &self.config.private, self.config.port);
            self.genl.ask(self.family, &request, &mut |_| {})?;
        }
        let is_whole = |(address, known): (&Ipv4Addr, &Known)| {
            let peer = found.peers.get(known.key()).filter(|peer| peer.address == Some(*address));
            is_own
                && peer.is_some_and(|peer| known.secret().is_none_or(|own| peer.secret.as_ref() == Some(own)))
        };
        let broken: Vec<_> =
            self.peers.iter().filter(|one| !is_whole(*one)).map(|(address, _)| *address).collect();
        for address in &broken {
            // One whose end is not known yet is put as soon as it is.
            if let Some(Known::Told(peer)) = self.peers.remove(address) {
                self.put(&peer)?;
            }
        }
        Ok(!is_own || !broken.is_empty())
    }

    pub(crate) const fn index(&self) -> u32 {
        self.index
    }

    pub(crate) const fn address(&self) -> Ipv4Addr {
        self.config.address
    }

    /// The public key, and the UDP port.
    pub(crate) const fn end(&self) -> (Key, u16) {
        (self.public, self.config.port)
    }

    /// Adds a peer, or alters it as far as it differs.
    pub(crate) fn put(&mut self, peer: &Peer) -> Result<(), Error> {
        let (is_moved, is_other) = match self.peers.get(&peer.address) {
            Some(Known::Told(known)) if known == peer => return Ok(()),
            Some(Known::Told(known)) => (known.endpoint != peer.endpoint, known.key != peer.key),
            // Where it is has been found out by the device itself.
            Some(Known::Left(key)) => (false, *key != peer.key),
            None => (true, false),
        };
        if is_other {
            self.remove(peer.address)?;
        }
        let tell = is_moved || is_other;
        let request = message::set_peer(self.index, peer, tell);
        self.genl.ask(self.family, &request, &mut |_| {})?;
        self.peers.insert(peer.address, Known::Told(peer.clone()));
        Ok(())
    }

    /// Removes all peers but those with such an address.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(IpAddr) -> bool) -> Result<(), Error> {
        let gone: Vec<_> = self.peers.keys().copied().filter(|address| !stays((*address).into())).collect();
        gone.into_iter().try_for_each(|address| self.remove(address))
    }

    fn remove(&mut self, address: Ipv4Addr) -> Result<(), Error> {
        if let Some(known) = self.peers.remove(&address) {
            let request = message::remove_peer(self.index, known.key());
            self.genl.ask(self.family, &request, &mut |_| {})?;
        }
        Ok(())
    }

    fn describe(&mut self) -> Result<Described, KernelError> {
        let mut described = Described::default();
        let request = message::describe(self.index);
        self.genl.dump(self.family, &request, &mut |part| message::read_device(part, &mut described))?;
        Ok(described)
    }
}
