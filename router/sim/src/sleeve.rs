//! The data plane of one simulated router, as far as the control plane sees it: real probes, sealed with the plan's
//! keys, timed by the data plane's own prober. Frames are not carried.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mesh_crypto::{DirectionKey, OpeningKey, ReplayWindow, SealingKey, cookie_matches};
use mesh_dataplane::engine::{LinkReport, Prober};
use mesh_node::{LinkPlan, Plan, Report};
use mesh_wire::sleeve::{HEADER_LEN, Header, Message, Messages, PacketKind, Probe};
use mesh_wire::{Moment, PeerId, ReceiverIndex};

/// Probing and its keys. Memory is bounded by the plan's links.
pub(crate) struct Sleeve {
    plan: Plan,
    prober: Prober,
    sealing: BTreeMap<(PeerId, ReceiverIndex), Sealing>,
    opening: BTreeMap<ReceiverIndex, Opening>,
}

/// A datagram to be sent.
pub(crate) type Datagram = (SocketAddr, Vec<u8>);

struct Sealing {
    key: PacketKey<SealingKey>,
    remote: SocketAddr,
    counter: u64,
}

struct Opening {
    peer: PeerId,
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
    /// Its index names a key that does not open it: the ends disagree on the key.
    Undecryptable(PeerId),
}

impl Sleeve {
    pub(crate) fn new(plan: Plan, now: Moment) -> Self {
        let mut sleeve =
            Self { plan, prober: Prober::default(), sealing: BTreeMap::new(), opening: BTreeMap::new() };
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
        while let Some((peer, probe)) = self.prober.poll_probe(now) {
            probes.extend(self.seal(peer, &Message::Probe(probe)));
        }
        (probes, self.reports(now))
    }

    /// Takes in a datagram.
    pub(crate) fn receive(&mut self, datagram: &[u8], now: Moment) -> Arrival {
        let Ok(header) = Header::decode(datagram) else { return Arrival::Unknown };
        let Some(opening) = self.opening.get_mut(&header.receiver) else { return Arrival::Unknown };
        let peer = opening.peer;
        let Some(body) = opening.open(header, datagram) else { return Arrival::Undecryptable(peer) };
        self.prober.heard(peer, now);
        let mut answer = None;
        for message in Messages::new(&body) {
            match message {
                Ok(Message::Probe(probe)) => answer = self.seal(peer, &Message::ProbeReply(probe)),
                Ok(Message::ProbeReply(Probe { sequence, sent_ns })) => {
                    self.prober.replied(peer, Probe { sequence, sent_ns }, now);
                }
                Ok(Message::Frame { .. }) | Err(_) => {}
            }
        }
        Arrival::Authentic(answer)
    }

    /// Changes that the node has not been told yet.
    pub(crate) fn reports(&mut self, now: Moment) -> Vec<Report> {
        let mut reports = Vec::new();
        self.prober.undelivered(now, |report| {
            reports.push(match report {
                LinkReport::Alive { peer, rtt } => Report::Alive { peer, rtt },
                LinkReport::Dead { peer, silent_for } => Report::Dead { peer, silent_for },
            });
            true
        });
        reports
    }

    /// Makes the keys of the plan usable; keys that stay keep their counters and windows. A link none of whose keys stay
    /// is a new session, which has to prove itself anew.
    fn key(&mut self, now: Moment) {
        let peers: Vec<_> = self.plan.links.iter().map(|link| link.peer).collect();
        self.prober.set_links(&peers, now);
        for link in &self.plan.links {
            if !link.receive.iter().any(|receive| self.opening.contains_key(&receive.index)) {
                self.prober.restart(link.peer, now);
            }
        }
        let mut sealing = BTreeMap::new();
        let mut opening = BTreeMap::new();
        for LinkPlan { peer, remote, candidates: _, roams: _, receive, send } in &self.plan.links {
            if let Some(send) = send {
                let name = (*peer, send.index);
                let known = self.sealing.remove(&name);
                let new =
                    || Sealing { key: packet_key(&send.key, SealingKey::new), remote: *remote, counter: 0 };
                sealing.insert(name, Sealing { remote: *remote, ..known.unwrap_or_else(new) });
            }
            for receive in receive {
                let known = self.opening.remove(&receive.index);
                let new = || Opening {
                    peer: *peer,
                    key: packet_key(&receive.key, OpeningKey::new),
                    window: ReplayWindow::default(),
                };
                opening.insert(receive.index, known.unwrap_or_else(new));
            }
        }
        self.sealing = sealing;
        self.opening = opening;
    }

    fn seal(&mut self, peer: PeerId, message: &Message<'_>) -> Option<Datagram> {
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
        Some((sealing.remote, bytes))
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
