//! The data plane of one simulated router, as far as the control plane sees it: real probes, sealed with the plan's
//! keys, timed by the data plane's own prober. Frames are not carried.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_crypto::{DirectionKey, OpeningKey, ReplayWindow, SealingKey, cookie_matches};
use mesh_dataplane::engine::{DueProbe, LinkReport, Places, Prober};
use mesh_node::{LinkPlan, Plan, Report};
use mesh_wire::sleeve::{HEADER_LEN, Header, Message, Messages, PacketKind, Probe};
use mesh_wire::{Moment, PeerId, ReceiverIndex};

/// Probing and its keys. Memory is bounded by the plan's links.
pub(crate) struct Sleeve {
    plan: Plan,
    prober: Prober,
    remotes: BTreeMap<PeerId, Remote>,
    /// Reports of links that have left for another address.
    roamed: Vec<Report>,
    sealing: BTreeMap<(PeerId, ReceiverIndex), Sealing>,
    opening: BTreeMap<ReceiverIndex, Opening>,
}

/// A datagram to be sent.
pub(crate) type Datagram = (SocketAddr, Vec<u8>);

/// Where a neighbour's packets go.
struct Remote {
    planned: SocketAddr,
    present: SocketAddr,
    /// When something came from there.
    heard_there: Option<Moment>,
    places: Places,
    /// Epoch and counter of the newest packet heard.
    newest: (u32, u64),
}

struct Sealing {
    key: PacketKey<SealingKey>,
    counter: u64,
}

struct Opening {
    peer: PeerId,
    epoch: u32,
    key: PacketKey<OpeningKey>,
    window: ReplayWindow,
}

enum PacketKey<K> {
    Sealed(K),
    Clear([u8; mesh_crypto::COOKIE_LEN]),
}

/// What became of a datagram.
pub(crate) enum Arrival {
    /// No key has its index, as when the keys changed while it travelled.
    Unknown,
    /// It was authentic; a probe is answered.
    Authentic(Option<Datagram>),
    /// It came before, or too late.
    Replayed,
    /// Its index names a key that does not open it: the ends disagree on the key.
    Undecryptable(PeerId),
}

impl Sleeve {
    pub(crate) fn new(plan: Plan, now: Moment) -> Self {
        let mut sleeve = Self {
            plan,
            prober: Prober::default(),
            remotes: BTreeMap::new(),
            roamed: Vec::new(),
            sealing: BTreeMap::new(),
            opening: BTreeMap::new(),
        };
        sleeve.key(now);
        sleeve
    }

    pub(crate) fn install(&mut self, plan: Plan, now: Moment) {
        self.plan = plan;
        self.key(now);
    }

    pub(crate) const fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.prober.poll_timeout()
    }

    /// Runs the prober. Returns the probes to be sent and the reports for the node.
    pub(crate) fn handle_timeout(&mut self, now: Moment) -> (Vec<Datagram>, Vec<Report>) {
        self.prober.handle_timeout(now);
        let mut probes = Vec::new();
        while let Some(DueProbe { peer, candidate, probe, is_deaf }) = self.prober.poll_probe(now) {
            let Some(present) = self.remotes.get(&peer).map(|remote| remote.present) else { continue };
            if candidate == Some(present) {
                continue;
            }
            for message in
                [Some(Message::Probe(probe)), is_deaf.then_some(Message::Deaf)].into_iter().flatten()
            {
                let packet = self.seal(peer, &message);
                probes.extend(packet.map(|packet| (candidate.unwrap_or(present), packet)));
            }
        }
        (probes, self.reports(now))
    }

    /// Takes in a datagram that came `from` there.
    pub(crate) fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Moment) -> Arrival {
        let Ok(header) = Header::decode(datagram) else { return Arrival::Unknown };
        let Some(opening) = self.opening.get_mut(&header.receiver) else { return Arrival::Unknown };
        let peer = opening.peer;
        if opening.window.check(header.counter).is_err() {
            return Arrival::Replayed;
        }
        let Some(body) = opening.open(header, datagram) else { return Arrival::Undecryptable(peer) };
        let newest = (opening.epoch, header.counter);
        self.prober.heard(peer, now);
        self.follow(peer, newest, from, now);
        let mut answer = None;
        for message in Messages::new(&body) {
            match message {
                Ok(Message::Probe(probe)) => {
                    let packet = self.seal(peer, &Message::ProbeReply(probe));
                    let remote = self.remotes.get(&peer);
                    answer = remote.map(|remote| remote.places.answer(from, remote.present)).zip(packet);
                }
                Ok(Message::ProbeReply(Probe { sequence, sent_ns })) => {
                    if self.prober.replied(peer, Probe { sequence, sent_ns }, now) {
                        self.goes(peer, from, now, |remote| remote.places.settle(from));
                    }
                }
                Ok(Message::Deaf) => {
                    self.prober.is_unheard(peer, now);
                }
                // Simulated wires take any size, but a real router may ask.
                Ok(Message::SizeProbe { sequence, .. }) => {
                    let packet = self.seal(peer, &Message::SizeReply { sequence });
                    answer = self.remotes.get(&peer).map(|remote| remote.present).zip(packet);
                }
                Ok(Message::Frame { .. } | Message::Part(_) | Message::SizeReply { .. }) | Err(_) => {}
            }
        }
        Arrival::Authentic(answer)
    }

    /// A packet of a neighbour came `from` there: where it is now, if it is the newest and may move the link.
    fn follow(&mut self, peer: PeerId, newest: (u32, u64), from: SocketAddr, now: Moment) {
        if let Some(remote) = self.remotes.get_mut(&peer).filter(|remote| remote.newest < newest) {
            remote.newest = newest;
            self.goes(peer, from, now, |remote| remote.places.follow(from, remote.heard_there, now));
        }
    }

    /// Makes `to` a neighbour's address, if it is not already and `may` be.
    fn goes(&mut self, peer: PeerId, to: SocketAddr, now: Moment, may: impl FnOnce(&Remote) -> bool) {
        let Some(remote) = self.remotes.get_mut(&peer).filter(|remote| remote.present == to || may(remote))
        else {
            return;
        };
        remote.heard_there = Some(now);
        if std::mem::replace(&mut remote.present, to) != to {
            self.roamed.push(Report::Roamed { peer, remote: to });
        }
    }

    /// Frames went to a neighbour.
    pub(crate) fn carried(&mut self, peer: PeerId, now: Moment) {
        self.prober.carried(peer, now);
    }

    /// Changes that the node has not been told yet.
    pub(crate) fn reports(&mut self, now: Moment) -> Vec<Report> {
        let mut reports = std::mem::take(&mut self.roamed);
        self.prober.undelivered(now, |report| {
            reports.push(match report {
                LinkReport::Alive { peer, rtt } => Report::Alive { peer, rtt },
                LinkReport::Dead { peer, silent_for } => Report::Dead { peer, silent_for },
                LinkReport::Idle { peer } => Report::Idle { peer },
            });
            true
        });
        reports
    }

    /// Makes the keys of the plan usable; keys that stay keep their counters and windows. A link none of whose keys stay
    /// is a new session, which has to prove itself anew.
    fn key(&mut self, now: Moment) {
        let places = |link: &LinkPlan| Places::new(link.remote, link.candidates.iter().copied(), link.roams);
        let links = self.plan.links.iter();
        self.prober.set_links(links.map(|link| (link.peer, places(link).known().to_vec())), now);
        let doubtful = self.plan.links.iter().filter(|link| link.in_doubt).map(|link| link.peer);
        self.prober.doubt(&doubtful.collect(), now);
        for link in &self.plan.links {
            if !link.receive.iter().any(|receive| self.opening.contains_key(&receive.index)) {
                self.prober.restart(link.peer, now);
                if let Some(remote) = self.remotes.get_mut(&link.peer) {
                    remote.newest = (0, 0);
                }
            }
        }
        let mut remotes = BTreeMap::new();
        let mut sealing = BTreeMap::new();
        let mut opening = BTreeMap::new();
        for link @ LinkPlan {
            peer,
            remote,
            candidates: _,
            roams: _,
            in_doubt: _,
            kernel: _,
            wireguard_key: _,
            esp: _,
            receive,
            send,
        } in &self.plan.links
        {
            let (planned, places) = (*remote, places(link));
            let new = Remote {
                planned,
                present: planned,
                heard_there: None,
                places: places.clone(),
                newest: (0, 0),
            };
            let known = self.remotes.remove(peer).unwrap_or(new);
            let present = if known.planned == planned { known.present } else { planned };
            remotes.insert(*peer, Remote { planned, present, places, ..known });
            if let Some(send) = send {
                let name = (*peer, send.index);
                let known = self.sealing.remove(&name);
                let new = || Sealing { key: packet_key(&send.key, SealingKey::new), counter: 0 };
                sealing.insert(name, known.unwrap_or_else(new));
            }
            for receive in receive {
                let known = self.opening.remove(&receive.index);
                let new = || Opening {
                    peer: *peer,
                    epoch: receive.epoch,
                    key: packet_key(&receive.key, OpeningKey::new),
                    window: ReplayWindow::default(),
                };
                opening.insert(receive.index, known.unwrap_or_else(new));
            }
        }
        self.remotes = remotes;
        self.sealing = sealing;
        self.opening = opening;
    }

    fn seal(&mut self, peer: PeerId, message: &Message<'_>) -> Option<Vec<u8>> {
        let link = self.plan.links.iter().find(|link| link.peer == peer)?;
        let receiver = link.send.as_ref()?.index;
        let sealing = self.sealing.get_mut(&(peer, receiver))?;
        let counter = sealing.counter;
        sealing.counter += 1;
        let mut body = Vec::new();
        message.encode(&mut body).expect("a probe is short");
        let bytes = match &sealing.key {
            PacketKey::Sealed(key) => {
                let header = Header { kind: PacketKind::Sealed, receiver, counter }.encode();
                let tag = key.seal_in_place(counter, &header, &mut body);
                [&header[..], &body, &tag].concat()
            }
            PacketKey::Clear(cookie) => {
                let header = Header { kind: PacketKind::Clear, receiver, counter }.encode();
                [&header[..], cookie, &body].concat()
            }
        };
        Some(bytes)
    }
}

impl Opening {
    fn open(&mut self, header: Header, datagram: &[u8]) -> Option<Vec<u8>> {
        self.window.check(header.counter).ok()?;
        let (bytes, rest) = datagram.split_first_chunk::<HEADER_LEN>()?;
        let body = match (&self.key, header.kind) {
            (PacketKey::Sealed(key), PacketKind::Sealed) => {
                let mut body = rest.to_vec();
                let len = key.open_in_place(header.counter, bytes, &mut body).ok()?;
                body.truncate(len);
                body
            }
            (PacketKey::Clear(cookie), PacketKind::Clear) => {
                let (shown, body) = rest.split_first_chunk()?;
                cookie_matches(cookie, shown).then(|| body.to_vec())?
            }
            (PacketKey::Sealed(_), PacketKind::Clear) | (PacketKey::Clear(_), PacketKind::Sealed) => {
                return None;
            }
        };
        self.window.commit(header.counter).ok()?;
        Some(body)
    }
}

/// The key of a link, by whether it seals.
fn packet_key<K>(key: &DirectionKey, sealed: impl FnOnce(&DirectionKey) -> Option<K>) -> PacketKey<K> {
    match key {
        DirectionKey::Sealed { .. } => PacketKey::Sealed(sealed(key).expect("the key seals")),
        DirectionKey::Clear { cookie } => PacketKey::Clear(*cookie),
    }
}
