//! What one thread does with one frame or datagram: it asks the engine, and carries out what the engine says. Owns
//! the thread's end of the uplink and outbox; nothing here waits or allocates.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_wire::Moment;
use mesh_wire::ethernet::{ETHERNET_HEADER_LEN, Frame};
use mesh_wire::sleeve::{
    Envelope, Header, MESSAGE_HEADER_LEN, Message, MessageError, MessageTooLong, Messages, Part, Probe,
};

use super::load::Load;
use super::outbox::Outbox;
use super::uplink::{Captured, UplinkQueue};
use crate::dataplane::WORKERS_MAX;
use crate::engine::{
    Arrival, Counters, Decision, Direction, DropReason, Event, Injection, Key, Learned, LinkId, Location,
    Merger, Offload, Path, RateLimit, Reassembly, RelayedPeers, Transmission, decide, is_node_local,
    tells_of_members,
};
use crate::report::Report;
use crate::shared::{Link, Memory, Outlet, Roaming, Shared, Snapshot, lock};

pub(super) struct Forwarder {
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) uplink: UplinkQueue,
    pub(super) outbox: Outbox,
    pub(super) numbers: Numbers,
    macs: Memory,
    garbage: RateLimit,
    pub(super) answers: RateLimit,
    relayed: RelayedPeers,
    reassembly: Reassembly,
    /// A frame or message that is looked at as a whole before it leaves.
    pub(super) scratch: Vec<u8>,
}

/// Where an authenticated packet came from.
#[derive(Debug, Clone, Copy)]
struct Sender {
    link: LinkId,
    address: SocketAddr,
}

impl Forwarder {
    /// That of the thread with this number.
    pub(super) fn new(
        number: usize,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        uplink: UplinkQueue,
        outbox: Outbox,
    ) -> Self {
        Self {
            shared,
            counters,
            uplink,
            outbox,
            numbers: Numbers::new(number),
            macs: Memory::new(),
            garbage: RateLimit::of_garbage(),
            answers: RateLimit::of_answers(),
            relayed: RelayedPeers::default(),
            reassembly: Reassembly::default(),
            scratch: Vec::new(),
        }
    }

    /// Takes what was read from the uplink into `buffer`. A super-frame is decided about once, and from there on
    /// is the frames that it stands for.
    pub(super) fn captured(
        &mut self,
        captured: Captured,
        buffer: &mut [u8],
        snapshot: &Snapshot,
        now: Moment,
    ) {
        let frame = &mut buffer[..captured.len];
        if let Ok(offload @ (Offload::Nothing | Offload::Checksum(_))) = captured.offload {
            self.clamp(frame, offload, snapshot, now);
        }
        let Ok(load) = captured.offload.and_then(|offload| Load::new(frame, offload)) else {
            return self.counters.dropped(DropReason::SuperFrame);
        };
        self.counters.all_passed(Path::Bridge, Direction::In, load.count(), load.frames_len());
        let arrival = Arrival::Captured { sequence: self.numbers.draw(load.count()) };
        let Some(decision) = self.decide(arrival, load.head(), snapshot, now) else { return };
        self.send_on(&decision, &load, arrival, snapshot, now);
    }

    /// Takes a datagram. Whatever is not authentic is counted, and has no other effect. Frames for the bridge may wait in
    /// `merger` until [`inject`](Self::inject).
    pub(super) fn datagram<'b>(
        &mut self,
        from: SocketAddr,
        datagram: &'b mut [u8],
        merger: &mut Merger<'b>,
        snapshot: &Snapshot,
        now: Moment,
    ) {
        let Ok(header) = Header::decode(datagram) else {
            return self.counters.dropped(DropReason::NotSleeve);
        };
        let Some(inlet) = snapshot.inlet(header.receiver) else {
            return self.counters.dropped(DropReason::UnknownReceiver);
        };
        let Outlet { link, places, .. } = snapshot.outlet(inlet.link);
        let is_strange = from != link.remote();
        if is_strange && !self.garbage.allows(now) {
            return self.counters.dropped(DropReason::GarbageLimit);
        }
        let opened = match inlet.session.open(&header, datagram) {
            Ok(opened) => opened,
            Err(reason) => {
                if is_strange {
                    self.garbage.spend(now);
                }
                return self.counters.dropped(reason);
            }
        };
        self.roamed(link, link.heard(from, places, inlet.session.serial, opened.is_newest, now));
        let sender = Sender { link: inlet.link, address: from };
        self.messages(sender, Messages::new(opened.body), merger, snapshot, now);
    }

    /// Has all frames for the bridge go that wait.
    pub(super) fn inject(&self, merger: &mut Merger<'_>) {
        merger.flush(&mut |injection| inject(&self.uplink, &self.counters, injection));
    }

    pub(super) fn roamed(&self, link: &Link, roaming: Option<Roaming>) {
        if let Some(Roaming { from, to }) = roaming {
            self.report(Report::Roamed { peer: link.peer(), from, to });
        }
    }

    /// Tells the control plane; true when it took the report.
    pub(super) fn report(&self, report: Report) -> bool {
        let is_taken = (self.shared.reports)(report);
        if !is_taken {
            self.counters.happened(Event::ReportLost);
        }
        is_taken
    }

    fn messages<'b>(
        &mut self,
        sender: Sender,
        messages: Messages<'b>,
        merger: &mut Merger<'b>,
        snapshot: &Snapshot,
        now: Moment,
    ) {
        let mut has_replied = false;
        for message in messages {
            match message {
                Ok(Message::Frame { envelope, frame }) => {
                    self.frame(sender, envelope, frame, merger, snapshot, now);
                }
                Ok(Message::Part(part)) => self.part(sender, &part, merger, snapshot, now),
                Ok(Message::Probe(_) | Message::SizeProbe { .. }) if has_replied => {
                    self.counters.dropped(DropReason::SurplusProbe);
                }
                Ok(Message::Probe(probe)) => {
                    has_replied = true;
                    self.reply(sender, &Message::ProbeReply(probe), snapshot);
                }
                Ok(Message::SizeProbe { sequence, .. }) => {
                    has_replied = true;
                    self.reply(sender, &Message::SizeReply { sequence }, snapshot);
                }
                Ok(Message::SizeReply { sequence }) => self.size_replied(sender, sequence, snapshot, now),
                Ok(Message::ProbeReply(probe)) => self.replied(sender, probe, snapshot, now),
                Ok(Message::Deaf) => self.is_unheard(sender, snapshot, now),
                Err(MessageError::UnknownKind(_)) => self.counters.dropped(DropReason::UnknownMessage),
                Err(MessageError::Payload(_) | MessageError::Truncated) => {
                    self.counters.dropped(DropReason::MalformedMessage);
                }
            }
        }
    }

    fn frame<'b>(
        &mut self,
        sender: Sender,
        envelope: Envelope,
        frame: &'b [u8],
        merger: &mut Merger<'b>,
        snapshot: &Snapshot,
        now: Moment,
    ) {
        self.counters.passed(Path::Sleeve, Direction::In, frame.len());
        snapshot.outlet(sender.link).link.count(Direction::In, 1, frame.len());
        self.frame_passes(sender.link, snapshot);
        let arrival = Arrival::Received { from: sender.link, envelope };
        self.received(arrival, frame, merger, snapshot, now);
    }

    /// Takes a part of a frame, and the frame if that was the last one.
    fn part(
        &mut self,
        sender: Sender,
        part: &Part<'_>,
        merger: &mut Merger<'_>,
        snapshot: &Snapshot,
        now: Moment,
    ) {
        let whole = self.reassembly.take(snapshot.tables.neighbour(sender.link), part, now);
        let given_up = usize::try_from(self.reassembly.take_given_up()).unwrap_or(usize::MAX);
        self.counters.all_dropped(DropReason::Incomplete, given_up);
        let Some(whole) = whole else { return };
        // What came before it goes before it.
        self.inject(merger);
        let mut own_merger = self.uplink.merger();
        match Messages::new(&whole).next() {
            Some(Ok(Message::Frame { envelope, frame })) => {
                self.frame(sender, envelope, frame, &mut own_merger, snapshot, now);
                self.inject(&mut own_merger);
            }
            Some(_) | None => self.counters.dropped(DropReason::MalformedMessage),
        }
        self.reassembly.give_back(whole);
    }

    fn reply(&mut self, sender: Sender, reply: &Message<'_>, snapshot: &Snapshot) {
        let Outlet { link, places, .. } = snapshot.outlet(sender.link);
        let destination = places.answer(sender.address, link.remote());
        self.send_to(destination, sender.link, snapshot, reply.encoded_len(), |out| reply.encode(out));
    }

    fn size_replied(&self, sender: Sender, sequence: u32, snapshot: &Snapshot, now: Moment) {
        if lock(&self.shared.sizes).replied(snapshot.tables.neighbour(sender.link), sequence, now) {
            self.shared.want_prober();
        }
    }

    fn replied(&self, sender: Sender, probe: Probe, snapshot: &Snapshot, now: Moment) {
        let Outlet { link, places, .. } = snapshot.outlet(sender.link);
        let came_alive = lock(&self.shared.prober).replied(link.peer(), probe, now);
        if came_alive {
            self.roamed(link, link.settle(sender.address, places, now));
            self.shared.want_prober();
        }
    }

    fn is_unheard(&self, sender: Sender, snapshot: &Snapshot, now: Moment) {
        if lock(&self.shared.prober).is_unheard(snapshot.tables.neighbour(sender.link), now) {
            self.shared.want_prober();
        }
    }

    fn frame_passes(&self, link: LinkId, snapshot: &Snapshot) {
        if snapshot.outlet(link).link.frame_passes() {
            self.shared.want_prober();
        }
    }

    fn received<'b>(
        &mut self,
        arrival: Arrival,
        frame: &'b [u8],
        merger: &mut Merger<'b>,
        snapshot: &Snapshot,
        now: Moment,
    ) {
        let Some(decision) = self.decide(arrival, frame, snapshot, now) else { return };
        if decision.inject {
            merger.push(frame, &mut |injection| inject(&self.uplink, &self.counters, injection));
        }
        self.send_on(&decision, &Load::Frame(frame), arrival, snapshot, now);
    }

    /// What to do with the frame that starts with `head`. What can be done without the rest is done: learning, and
    /// counting why it goes no further.
    fn decide<'s>(
        &mut self,
        arrival: Arrival,
        head: &[u8],
        snapshot: &'s Snapshot,
        now: Moment,
    ) -> Option<Decision<'s>> {
        let Ok(frame) = Frame::parse(head) else {
            self.counters.dropped(DropReason::FrameTooShort);
            return None;
        };
        if is_node_local(&frame, &self.shared.node_local) {
            self.counters.dropped(DropReason::NodeLocal);
            return None;
        }
        let (source, destination) = (frame.source(), frame.destination());
        let location = match arrival {
            Arrival::Captured { .. } => self.macs.locate(&self.shared.macs, destination, now),
            Arrival::Received { .. } => Location::Unknown,
        };
        let tells_of_members = destination.is_group() && tells_of_members(&frame);
        let key = Key { arrival, source, destination, tells_of_members };
        let decision = decide(&key, &snapshot.tables, location);
        let decision = self.shared.duplicates.check(arrival, decision, now);
        if let Some(owner) = decision.learn {
            match self.macs.learn(&self.shared.macs, source, owner, now) {
                Learned::Added | Learned::Refreshed => {}
                Learned::Moved => self.counters.happened(Event::MacMoved),
                Learned::Frozen => self.counters.happened(Event::MacFrozen),
                Learned::Full => self.counters.happened(Event::MacTableFull),
            }
        }
        decision.event.into_iter().for_each(|event| self.counters.happened(event));
        Some(decision)
    }

    fn send_on(
        &mut self,
        decision: &Decision<'_>,
        load: &Load<'_>,
        arrival: Arrival,
        snapshot: &Snapshot,
        now: Moment,
    ) {
        for sent in decision.transmissions() {
            self.transmit(sent, load, arrival, snapshot, now);
        }
        if let Some(reason) = decision.drop {
            self.counters.all_dropped(reason, load.count());
        }
    }

    fn transmit(
        &mut self,
        Transmission { link, envelope }: Transmission,
        load: &Load<'_>,
        arrival: Arrival,
        snapshot: &Snapshot,
        now: Moment,
    ) {
        let outlet = snapshot.outlet(link);
        let (remote, head_len) = (outlet.link.remote(), MESSAGE_HEADER_LEN + envelope.encoded_len());
        let is_own_unicast =
            matches!(arrival, Arrival::Captured { .. }) && !matches!(envelope, Envelope::Broadcast { .. });
        let whole_len_max = outlet.room().saturating_sub(head_len);
        let mtu = outlet.mtu().filter(|_| is_own_unicast);
        let frame_len_max = mtu.map_or(whole_len_max, |mtu| whole_len_max.min(mtu + ETHERNET_HEADER_LEN));
        // The pieces of a broadcast have been numbered as they are.
        let load = if is_own_unicast { load.at_most(frame_len_max) } else { *load };
        let (mut frames, mut len) = (0, 0);
        for number in 0..load.count() {
            let frame_len = load.frame_len(number);
            let envelope = self.numbers.envelope(envelope, number);
            let told = (frame_len > frame_len_max).then_some(mtu).flatten();
            let is_sent = if let Some(mtu) = told
                && self.tell(&load, number, mtu, now)
            {
                false
            } else if frame_len > whole_len_max && outlet.session.is_some() {
                self.send_parts(Transmission { link, envelope }, &load, number, snapshot)
            } else {
                self.send_to(remote, link, snapshot, head_len + frame_len, |out| {
                    envelope.encode_head(frame_len, out)?;
                    load.write(number, out);
                    Ok(())
                })
            };
            if is_sent {
                (frames, len) = (frames + 1, len + frame_len);
            }
        }
        if frames == 0 {
            return;
        }
        outlet.link.count(Direction::Out, frames, len);
        self.counters.all_passed(Path::Sleeve, Direction::Out, frames, len);
        self.frame_passes(link, snapshot);
        match (arrival, envelope) {
            (Arrival::Received { .. }, _) => {
                self.counters.all_passed(Path::Relay, Direction::Out, frames, len);
            }
            (Arrival::Captured { .. }, Envelope::Unicast { destination, .. }) => {
                if self.relayed.is_news(destination, now) {
                    self.report(Report::Relayed { peer: destination });
                }
            }
            (Arrival::Captured { .. }, Envelope::Direct | Envelope::Broadcast { .. }) => {}
        }
    }

    /// Sends a message of `len` bytes; true when it is on its way.
    pub(super) fn send_to(
        &mut self,
        destination: SocketAddr,
        link: LinkId,
        snapshot: &Snapshot,
        len: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), MessageTooLong>,
    ) -> bool {
        let result = self.outbox.push(snapshot.outlet(link), destination, len, encode);
        result.inspect_err(|reason| self.counters.dropped(*reason)).is_ok()
    }
}

pub(super) fn inject(uplink: &UplinkQueue, counters: &Counters, injection: &Injection<'_>) {
    match uplink.write(injection) {
        Ok(()) => counters.all_passed(Path::Bridge, Direction::Out, injection.frames, injection.frames_len),
        Err(_) => counters.all_dropped(DropReason::InjectFailed, injection.frames),
    }
}

/// The numbers of one thread's broadcasts. Each thread has a part of them to itself, and starts anywhere in it: those
/// of an earlier life of this router may still be remembered.
pub(super) struct Numbers {
    thread: u32,
    next: u32,
}

impl Numbers {
    /// Bits that count; the others, enough for all of [`WORKERS_MAX`], name the thread. At a million frames a second
    /// they come round after a minute.
    const COUNT_BITS: u32 = 26;

    fn new(thread: usize) -> Self {
        // The hasher's keys are the one thing at hand that differs from life to life.
        let start = RandomState::new().hash_one(thread) as u32;
        Self { thread: (thread as u32) << Self::COUNT_BITS, next: start }
    }

    /// The first of `count` numbers.
    pub(super) const fn draw(&mut self, count: usize) -> u32 {
        let first = self.next;
        self.next = self.next.wrapping_add(count as u32);
        self.numbered(first)
    }

    /// What wraps the frame that follows so many others in one load, of which the first has this envelope: a broadcast
    /// bears the number that was drawn for it, if it was drawn here.
    const fn envelope(&self, first: Envelope, place: usize) -> Envelope {
        match first {
            Envelope::Broadcast { ttl, source, digest, sequence } if place > 0 => {
                let sequence = self.numbered(sequence.wrapping_add(place as u32));
                Envelope::Broadcast { ttl, source, digest, sequence }
            }
            Envelope::Direct | Envelope::Unicast { .. } | Envelope::Broadcast { .. } => first,
        }
    }

    const fn numbered(&self, count: u32) -> u32 {
        self.thread | (count % (1 << Self::COUNT_BITS))
    }
}

const _: () = assert!(WORKERS_MAX <= 1 << (u32::BITS - Numbers::COUNT_BITS));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_number_their_broadcasts_apart_from_each_other() {
        let mut threads = [0, 1, WORKERS_MAX - 1].map(Numbers::new);
        for _ in 0..3 {
            let drawn = threads.each_mut().map(|numbers| numbers.draw(1));
            let [a, b, c] = drawn.map(|number| number >> Numbers::COUNT_BITS);
            assert_eq!([a, b, c], [0, 1, 63]);
        }
        threads[1].next = 1 << Numbers::COUNT_BITS;
        assert_eq!(threads[1].draw(1), 1 << Numbers::COUNT_BITS);
    }

    #[test]
    fn the_pieces_of_a_flooded_super_frame_have_numbers_of_their_own_also_where_they_come_round() {
        let mut numbers = Numbers::new(3);
        let thread = 3 << Numbers::COUNT_BITS;
        numbers.next = (1 << Numbers::COUNT_BITS) - 2;
        let sequence = numbers.draw(4);
        let source = mesh_wire::PeerId::from_bytes([1; 16]);
        let flood = |sequence| Envelope::Broadcast {
            ttl: mesh_wire::sleeve::TimeToLive::MAX,
            source,
            digest: 1,
            sequence,
        };
        let last = (1 << Numbers::COUNT_BITS) - 1;
        let expected = [last - 1, last, 0, 1].map(|number| flood(thread | number));
        assert_eq!([0, 1, 2, 3].map(|place| numbers.envelope(flood(sequence), place)), expected);
        assert_eq!(numbers.draw(1), thread | 2);
        assert_eq!(numbers.envelope(Envelope::Direct, 2), Envelope::Direct);
    }
}
