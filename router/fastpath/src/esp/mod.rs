//! The kernel's ESP as what seals a tunnel, where there is no WireGuard: states with keys from the sessions, and policies.
//!
//! ```text
//!  keys of an epoch ── in: at once ──► both receive ── out: when the peer is in the epoch, and a second later ──►
//!       the old way in is kept for a minute
//! ```
//! Packets to the addresses inside are routed to an interface of IPsec's, and sealed there in tunnel mode between the
//! underlay's addresses. Policies and states bear the number of that interface: no other packet of the host is touched by
//! them, and the interface itself lets nothing out that no state seals. A key is installed once: its sequence numbers never
//! begin anew, so that no number is used with it twice. What an earlier life of the router has left goes on until the first
//! keys of the new session are in force.
//!
//! Owns the conversation with the kernel about states and policies. The link itself is made by `mesh-hostnet`.

mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use mesh_hostnet::{
    Bridge, BridgeName, HostError, KernelError, Sealer, ensure_sealer, esp_interface_id, has_interface,
    remove_sealer,
};
use mesh_wire::Moment;
use netlink_sys::protocols::NETLINK_XFRM;

use self::message::{Object, Way};
use crate::netlink::{NLM_F_ACK, NLM_F_DUMP, Netlink, during};

/// The peer's kernel has a new key for what it receives, and its router has said that it enters the epoch: so much later
/// this end sends with it. The peer's fast path is told by then.
const SWITCH_AFTER: Duration = Duration::from_secs(1);

/// What was sealed with an old key is still opened for so long.
const OLD_KEPT: Duration = Duration::from_secs(60);

/// Old ways in of one peer that are kept; further ones go at once.
const OLD_MAX: usize = 4;

/// Bytes of a key with its salt (RFC 4106).
pub const KEY_LEN: usize = 36;

/// One direction's key of one epoch. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// AES-256's key, and the salt.
    pub key: [u8; KEY_LEN],
    /// The security parameter index that packets bear.
    pub spi: u32,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("spi", &self.spi).finish_non_exhaustive()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.key.fill(0);
        std::hint::black_box(&self.key);
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its underlay address.
    pub endpoint: IpAddr,
    /// Its only address inside.
    pub address: Ipv4Addr,
    /// What this kernel seals with, once the peer is ready.
    pub send: Key,
    /// What it opens with.
    pub receive: Key,
    /// Whether the peer has entered the epoch of these keys.
    pub is_ready: bool,
}

/// Why there is no ESP.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no interfaces of IPsec's, or refuses the link.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel has no ESP, or does not take a state or a policy.
    #[error("cannot set ESP up: {0}")]
    Kernel(#[from] io::Error),
    /// The peer is at another address than the one that its keys were installed for: it takes other keys.
    #[error("the peer has moved, and has no fresh keys yet")]
    Moved,
    /// These keys have sealed, and were removed: it takes others.
    #[error("the peer has no fresh keys yet")]
    Spent,
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error.error)
    }
}

/// The states and policies of one bridge, in the network namespace of the thread that opened it.
pub(crate) struct Device {
    address: Ipv4Addr,
    /// The underlay address that packets leave from; `None` is what the routes say.
    local: Option<IpAddr>,
    netlink: Netlink,
    number: u32,
    index: u32,
    peers: BTreeMap<Ipv4Addr, Known>,
}

/// What is installed for a peer. Of one that is gone a number remains.
#[derive(Debug, Default)]
struct Known {
    /// The ways in, by parameter index and this host's address; the newest last, each older one until its time.
    inward: Vec<(u32, IpAddr, Option<Moment>)>,
    /// The way out in force.
    outward: Option<Outward>,
    /// The next one, and when it comes into force.
    next: Option<(Peer, Moment)>,
    /// The last one that was in force and is removed: it is not installed again.
    spent: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outward {
    spi: u32,
    from: IpAddr,
    to: IpAddr,
}

impl Device {
    /// Makes the device, or takes over the one that is there with its states and policies.
    pub(crate) fn open(bridge: &Bridge, address: Ipv4Addr, local: Option<IpAddr>) -> Result<Self, Error> {
        let link = ensure_sealer(bridge, Sealer::Esp, address)?;
        let number = esp_interface_id(&bridge.name);
        let netlink = Netlink::open(NETLINK_XFRM)?;
        let mut device = Self { address, local, netlink, number, index: link.index, peers: BTreeMap::new() };
        if link.is_new {
            clear(&mut device.netlink, number)?;
        }
        device.probe()?;
        device.request(message::XFRM_MSG_UPDPOLICY, &message::policy_in(number, address))?;
        device.adopt()?;
        Ok(device)
    }

    /// Sees to it that there is the device. True if it is another than before; states and policies outlive it.
    pub(crate) fn repair(&mut self, bridge: &Bridge) -> Result<bool, Error> {
        let index = ensure_sealer(bridge, Sealer::Esp, self.address)?.index;
        Ok(std::mem::replace(&mut self.index, index) != index)
    }

    pub(crate) const fn index(&self) -> u32 {
        self.index
    }

    pub(crate) const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Whether the kernel has ESP and its cipher: a state between loopback addresses is made and removed.
    fn probe(&mut self) -> Result<(), KernelError> {
        let to = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let key = Key { key: [0; KEY_LEN], spi: self.number };
        let way = Way { from: to, to, inner_from: self.address, inner_to: self.address };
        self.request(message::XFRM_MSG_NEWSA, &message::new_state(self.number, &way, &key))?;
        self.request(message::XFRM_MSG_DELSA, &message::delete_state(to, key.spi))
    }

    fn adopt(&mut self) -> Result<(), KernelError> {
        for object in dump(&mut self.netlink, self.number)? {
            match object {
                Object::State { spi, to, inner_from } if inner_from != self.address => {
                    self.peers.entry(inner_from).or_default().inward.push((spi, to, None));
                }
                Object::State { .. } | Object::In { .. } => {}
                Object::Out { inner_to, spi, from, to, .. } => {
                    self.peers.entry(inner_to).or_default().outward = Some(Outward { spi, from, to });
                }
            }
        }
        Ok(())
    }

    /// Opens what comes from a peer from now on, and seals what goes to it as soon as it can open that.
    pub(crate) fn put(&mut self, peer: &Peer, now: Moment) -> Result<(), Error> {
        let own = self.own_address(peer.endpoint)?;
        let way = Way { from: peer.endpoint, to: own, inner_from: peer.address, inner_to: self.address };
        let known = self.peers.entry(peer.address).or_default();
        if known.outward.is_none() && known.spent == Some(peer.send.spi) {
            return Err(Error::Spent);
        }
        match known.inward.iter().find(|(spi, ..)| *spi == peer.receive.spi) {
            Some((_, to, _)) if *to != own => return Err(Error::Moved),
            Some(_) => {}
            None => {
                let request = message::new_state(self.number, &way, &peer.receive);
                change(&mut self.netlink, message::XFRM_MSG_NEWSA, &request)?;
                known.inward.iter_mut().for_each(|old| old.2 = old.2.or(Some(now + OLD_KEPT)));
                known.inward.push((peer.receive.spi, own, None));
                let surplus = known.inward.len().saturating_sub(1 + OLD_MAX);
                known.inward.iter_mut().take(surplus).for_each(|old| old.2 = Some(now));
            }
        }
        match known.outward {
            Some(Outward { spi, from, to }) if spi == peer.send.spi => {
                if (from, to) == (own, peer.endpoint) {
                    Ok(())
                } else {
                    Err(Error::Moved)
                }
            }
            // There is nothing to lose: heartbeats tell when the peer is there.
            None => self.switch(peer),
            Some(_) => {
                let is_awaited = known.next.as_ref().is_some_and(|(next, _)| next.send.spi == peer.send.spi);
                if peer.is_ready && !is_awaited {
                    known.next = Some((peer.clone(), now + SWITCH_AFTER));
                }
                Ok(())
            }
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        let is_due = |known: &Known| known.next.as_ref().is_some_and(|(_, at)| *at <= now);
        let due: Vec<_> = self.peers.values_mut().filter(|known| is_due(known)).collect();
        let due: Vec<_> = due.into_iter().filter_map(|known| known.next.take()).collect();
        for (peer, _) in due {
            if let Err(error) = self.switch(&peer) {
                tracing::debug!(%error, "ESP does not take the next key");
            }
        }
        for known in self.peers.values_mut() {
            let is_over = |(.., until): &mut (u32, IpAddr, Option<Moment>)| until.is_some_and(|at| at <= now);
            for (spi, to, _) in known.inward.extract_if(.., is_over) {
                remove(&mut self.netlink, message::XFRM_MSG_DELSA, &message::delete_state(to, spi));
            }
        }
    }

    /// Seals what goes to a peer with this key from now on.
    fn switch(&mut self, peer: &Peer) -> Result<(), Error> {
        let from = self.own_address(peer.endpoint)?;
        let way = Way { from, to: peer.endpoint, inner_from: self.address, inner_to: peer.address };
        self.request(message::XFRM_MSG_NEWSA, &message::new_state(self.number, &way, &peer.send))?;
        let policy = message::policy_out(self.number, &way, peer.send.spi);
        self.request(message::XFRM_MSG_UPDPOLICY, &policy)?;
        let outward = Outward { spi: peer.send.spi, from, to: peer.endpoint };
        let known = self.peers.entry(peer.address).or_default();
        if let Some(old) = known.outward.replace(outward) {
            remove(&mut self.netlink, message::XFRM_MSG_DELSA, &message::delete_state(old.to, old.spi));
        }
        Ok(())
    }

    /// Removes all peers but those with such an address.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(IpAddr) -> bool) {
        let gone: Vec<_> = self.peers.keys().copied().filter(|address| !stays((*address).into())).collect();
        gone.into_iter().for_each(|address| self.withdraw(address));
    }

    /// Looks whether all states and policies are there, and puts back what can be. A peer that lacks a state is withdrawn: it
    /// takes fresh keys from then on, since those that have sealed must not be installed again. True if anything was missing.
    pub(crate) fn check(&mut self) -> Result<bool, KernelError> {
        let (mut states, mut ways_out, mut has_way_in) = (BTreeSet::new(), BTreeMap::new(), false);
        for object in dump(&mut self.netlink, self.number)? {
            match object {
                Object::State { spi, to, .. } => drop(states.insert((spi, to))),
                Object::Out { inner_to, spi, .. } => drop(ways_out.insert(inner_to, spi)),
                Object::In { inner_to } => has_way_in |= inner_to == self.address,
            }
        }
        if !has_way_in {
            let policy = message::policy_in(self.number, self.address);
            self.request(message::XFRM_MSG_UPDPOLICY, &policy)?;
        }
        let (mut broken, mut astray) = (Vec::new(), Vec::new());
        for (address, known) in &mut self.peers {
            let is_there = |(spi, to, _): &(u32, IpAddr, Option<Moment>)| states.contains(&(*spi, *to));
            let is_deaf = known.inward.last().is_some_and(|newest| !is_there(newest));
            known.inward.retain(is_there);
            let Some(outward) = known.outward else { continue };
            if is_deaf || !states.contains(&(outward.spi, outward.to)) {
                broken.push(*address);
            } else if ways_out.get(address) != Some(&outward.spi) {
                astray.push((*address, outward));
            }
        }
        for (address, Outward { spi, from, to }) in &astray {
            let way = Way { from: *from, to: *to, inner_from: self.address, inner_to: *address };
            self.request(message::XFRM_MSG_UPDPOLICY, &message::policy_out(self.number, &way, *spi))?;
        }
        let is_whole = has_way_in && broken.is_empty() && astray.is_empty();
        broken.into_iter().for_each(|address| self.withdraw(address));
        Ok(!is_whole)
    }

    /// Removes all that is installed for a peer.
    fn withdraw(&mut self, address: Ipv4Addr) {
        let Some(known) = self.peers.get_mut(&address) else { return };
        if known.inward.is_empty() && known.outward.is_none() {
            return;
        }
        let spent = known.outward.map(|outward| outward.spi).or(known.spent);
        let known = std::mem::replace(known, Known { spent, ..Known::default() });
        let policy = message::delete_policy_out(self.number, self.address, address);
        remove(&mut self.netlink, message::XFRM_MSG_DELPOLICY, &policy);
        let outward = known.outward.map(|outward| (outward.spi, outward.to));
        for (spi, to) in known.inward.iter().map(|(spi, to, _)| (*spi, *to)).chain(outward) {
            remove(&mut self.netlink, message::XFRM_MSG_DELSA, &message::delete_state(to, spi));
        }
    }

    /// The address that packets to a peer leave from.
    fn own_address(&self, endpoint: IpAddr) -> Result<IpAddr, Error> {
        if let Some(local) = self.local {
            return Ok(local);
        }
        let any: IpAddr = match endpoint {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        // To connect a datagram socket asks the routes, and sends nothing. Any port does.
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(SocketAddr::new(endpoint, 9))?;
        Ok(socket.local_addr()?.ip())
    }

    fn request(&mut self, kind: u16, body: &[u8]) -> Result<(), KernelError> {
        change(&mut self.netlink, kind, body)
    }
}

/// Removes the device, and all policies and states with its number. Where there is none, nothing happens, and no module is
/// loaded.
///
/// # Errors
/// [`HostError::Kernel`].
pub fn remove_all(bridge: &BridgeName) -> Result<(), HostError> {
    if !has_interface(&bridge.sealer(Sealer::Esp))? {
        return Ok(());
    }
    // Nothing is sealed any more by a device that is gone; nor is anything sent, as long as the firewall stands.
    remove_sealer(bridge, Sealer::Esp)?;
    let number = esp_interface_id(bridge);
    let cleared = Netlink::open(NETLINK_XFRM).and_then(|mut netlink| clear(&mut netlink, number));
    cleared.map_err(during("remove the states of", &bridge.sealer(Sealer::Esp)))
}

/// Removes all that bears this number.
fn clear(netlink: &mut Netlink, number: u32) -> Result<(), KernelError> {
    for object in dump(netlink, number)? {
        let (kind, request) = match object {
            Object::State { spi, to, .. } => (message::XFRM_MSG_DELSA, message::delete_state(to, spi)),
            Object::Out { inner_from, inner_to, .. } => {
                let request = message::delete_policy_out(number, inner_from, inner_to);
                (message::XFRM_MSG_DELPOLICY, request)
            }
            Object::In { inner_to } => {
                (message::XFRM_MSG_DELPOLICY, message::delete_policy_in(number, inner_to))
            }
        };
        remove(netlink, kind, &request);
    }
    Ok(())
}

fn dump(netlink: &mut Netlink, number: u32) -> Result<Vec<Object>, KernelError> {
    let mut found = Vec::new();
    netlink.exchange((message::XFRM_MSG_GETSA, NLM_F_DUMP), &[], &mut |state| {
        found.extend(message::read_state(state, number));
    })?;
    netlink.exchange((message::XFRM_MSG_GETPOLICY, NLM_F_DUMP), &[], &mut |policy| {
        found.extend(message::read_policy(policy, number));
    })?;
    Ok(found)
}

fn change(netlink: &mut Netlink, kind: u16, body: &[u8]) -> Result<(), KernelError> {
    netlink.exchange((kind, NLM_F_ACK), body, &mut |_| {})
}

/// Removes something; that it is gone already, or stays, alters nothing for whoever asks.
fn remove(netlink: &mut Netlink, kind: u16, body: &[u8]) {
    if let Err(error) = change(netlink, kind, body)
        && !error.is_absence()
    {
        tracing::debug!(%error, "a part of ESP stays");
    }
}
