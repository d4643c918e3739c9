//! What one thread does with one frame or datagram: it asks the engine, and carries out what the engine says. Owns
//! the thread's TAP queue and outbox; nothing here waits or allocates.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_wire::Moment;
use mesh_wire::ethernet::Frame;
use mesh_wire::sleeve::{Envelope, Header, Message, MessageError, Messages, Probe};

use super::outbox::Outbox;
use super::tap::{Captured, TapQueue};
use crate::engine::{
    Arrival, Counters, Direction, DropReason, Event, Key, Learned, LinkId, Location, Path, decide,
};
use crate::report::Report;
use crate::shared::{Shared, Snapshot, lock};

pub(super) struct Forwarder {
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) tap: TapQueue,
    pub(super) outbox: Outbox,
}

impl Forwarder {
    /// Takes what was read from the TAP interface into `buffer`.
    pub(super) fn captured(&mut self, captured: Captured, buffer: &[u8], snapshot: &Snapshot, now: Moment) {
        let Captured::Frame(len) = captured else {
            return self.counters.dropped(DropReason::SuperFrame);
        };
        self.counters.passed(Path::Bridge, Direction::In, len);
        self.forward(Arrival::Captured, &buffer[..len], snapshot, now);
    }

    /// Takes a datagram. Whatever is not authentic is counted, and has no other effect.
    pub(super) fn datagram(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        snapshot: &Snapshot,
        now: Moment,
    ) {
        let Ok(header) = Header::decode(datagram) else {
            return self.counters.dropped(DropReason::NotSleeve);
        };
        let Some(inlet) = snapshot.inlet(header.receiver) else {
            return self.counters.dropped(DropReason::UnknownReceiver);
        };
        let opened = match inlet.session.open(&header, datagram) {
            Ok(opened) => opened,
            Err(reason) => return self.counters.dropped(reason),
        };
        let link = &snapshot.outlet(inlet.link).link;
        if let Some(roaming) = link.heard(from, inlet.session.serial, opened.is_newest, now) {
            self.report(Report::Roamed { peer: link.peer(), from: roaming.from, to: roaming.to });
        }
        self.messages(inlet.link, Messages::new(opened.body), snapshot, now);
    }

    /// Probes what is due, tells the control plane what has changed, and says when to come again.
    pub(super) fn run_prober(&mut self, snapshot: &Snapshot, now: Moment) -> Option<Moment> {
        let shared = Arc::clone(&self.shared);
        let mut prober = lock(&shared.prober);
        for outlet in snapshot.outlets() {
            if let Some(at) = outlet.link.last_heard() {
                prober.heard(outlet.link.peer(), at);
            }
        }
        prober.handle_timeout(now);
        while let Some((peer, probe)) = prober.poll_probe(now) {
            // The links may have changed since this snapshot was taken.
            if let Some(link) = snapshot.tables.link(peer) {
                self.send(link, &Message::Probe(probe), snapshot);
            }
        }
        prober.undelivered(now, |report| self.report(report.into()));
        for outlet in snapshot.outlets() {
            let Some(session) = outlet.session.as_ref().filter(|session| session.wants_rekey()) else {
                continue;
            };
            if self.report(Report::RekeyWanted { peer: outlet.link.peer(), epoch: session.epoch }) {
                session.rekey_was_asked();
            }
        }
        prober.poll_timeout()
    }

    /// Tells the control plane; true when it took the report.
    pub(super) fn report(&self, report: Report) -> bool {
        let is_taken = (self.shared.reports)(report);
        if !is_taken {
            self.counters.happened(Event::ReportLost);
        }
        is_taken
    }

    fn messages(&mut self, from: LinkId, messages: Messages<'_>, snapshot: &Snapshot, now: Moment) {
        let mut has_replied = false;
        for message in messages {
            match message {
                Ok(Message::Frame { envelope, frame }) => {
                    self.counters.passed(Path::Sleeve, Direction::In, frame.len());
                    self.forward(Arrival::Received { from, envelope }, frame, snapshot, now);
                }
                Ok(Message::Probe(_)) if has_replied => self.counters.dropped(DropReason::SurplusProbe),
                Ok(Message::Probe(probe)) => {
                    has_replied = true;
                    self.send(from, &Message::ProbeReply(probe), snapshot);
                }
                Ok(Message::ProbeReply(probe)) => self.replied(from, probe, snapshot, now),
                Err(MessageError::UnknownKind(_)) => self.counters.dropped(DropReason::UnknownMessage),
                Err(MessageError::Payload(_) | MessageError::Truncated) => {
                    self.counters.dropped(DropReason::MalformedMessage);
                }
            }
        }
    }

    fn replied(&self, from: LinkId, probe: Probe, snapshot: &Snapshot, now: Moment) {
        let came_alive = lock(&self.shared.prober).replied(snapshot.tables.neighbour(from), probe, now);
        if came_alive {
            self.shared.want_prober();
        }
    }

    fn forward(&mut self, arrival: Arrival, bytes: &[u8], snapshot: &Snapshot, now: Moment) {
        let Ok(frame) = Frame::parse(bytes) else {
            return self.counters.dropped(DropReason::FrameTooShort);
        };
        let (source, destination) = (frame.source(), frame.destination());
        let location = match arrival {
            Arrival::Captured => self.shared.macs.locate(destination, now),
            Arrival::Received { .. } => Location::Unknown,
        };
        let decision = decide(&Key { arrival, source, destination }, &snapshot.tables, location);
        if let Some(owner) = decision.learn {
            match self.shared.macs.learn(source, owner, now) {
                Learned::Added | Learned::Refreshed => {}
                Learned::Moved => self.counters.happened(Event::MacMoved),
                Learned::Full => self.counters.happened(Event::MacTableFull),
            }
        }
        if decision.inject {
            match self.tap.write(bytes) {
                Ok(()) => self.counters.passed(Path::Bridge, Direction::Out, bytes.len()),
                Err(_) => self.counters.dropped(DropReason::InjectFailed),
            }
        }
        for sent in decision.transmissions() {
            self.transmit(sent.link, sent.envelope, bytes, arrival, snapshot);
        }
        decision.drop.into_iter().for_each(|reason| self.counters.dropped(reason));
        decision.event.into_iter().for_each(|event| self.counters.happened(event));
    }

    fn transmit(
        &mut self,
        link: LinkId,
        envelope: Envelope,
        frame: &[u8],
        arrival: Arrival,
        snapshot: &Snapshot,
    ) {
        if !self.send(link, &Message::Frame { envelope, frame }, snapshot) {
            return;
        }
        self.counters.passed(Path::Sleeve, Direction::Out, frame.len());
        if arrival != Arrival::Captured {
            self.counters.passed(Path::Relay, Direction::Out, frame.len());
        }
    }

    fn send(&mut self, link: LinkId, message: &Message<'_>, snapshot: &Snapshot) -> bool {
        let result = self.outbox.push(snapshot.outlet(link), message);
        result.inspect_err(|reason| self.counters.dropped(*reason)).is_ok()
    }
}
