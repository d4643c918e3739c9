//! Frames that are too long for the path to the next router: told to their senders, or sent in parts; and TCP kept from
//! making them. Owns the carrying out; what becomes of which frame is [`too_long`]'s.

use mesh_wire::Moment;
use mesh_wire::ethernet::Frame;
use mesh_wire::sleeve::{MESSAGE_HEADER_LEN, Message, MessageTooLong, PART_HEADER_LEN, Part};

use super::forwarder::{Forwarder, inject};
use super::load::Load;
use crate::engine::too_long::{self, TooLong};
use crate::engine::{DropReason, Injection, LinkId, Location, Offload, Owner, Transmission};
use crate::shared::Snapshot;

impl Forwarder {
    /// Lowers what a captured SYN announces to what the path to its destination takes.
    pub(super) fn clamp(&self, frame: &mut [u8], offload: Offload, snapshot: &Snapshot, now: Moment) {
        if !too_long::is_syn(frame) {
            return;
        }
        let Ok(parsed) = Frame::parse(frame) else { return };
        let Location::Known(Owner::Peer(peer)) = self.shared.macs.locate(parsed.destination(), now) else {
            return;
        };
        let mtu = snapshot.tables.route(peer).and_then(|link| snapshot.outlet(link).mtu());
        if let Some(mtu) = mtu {
            too_long::clamp_segment_size(frame, offload, mtu);
        }
    }

    /// Tells the sender of a captured frame that its destination takes packets of `mtu` bytes, unless too many others just
    /// were told. False if the frame is none whose sender can be told; it may go on then.
    pub(super) fn tell(&mut self, load: &Load<'_>, number: usize, mtu: usize, now: Moment) -> bool {
        self.scratch.clear();
        load.write(number, &mut self.scratch);
        if too_long::judge(&self.scratch, mtu) == TooLong::Parts {
            return false;
        }
        self.counters.dropped(DropReason::TooBig);
        if self.answers.allows(now) {
            self.answers.spend(now);
            let mut answer = Vec::with_capacity(too_long::ANSWER_LEN_MAX);
            too_long::answer(&self.scratch, mtu, &mut answer);
            inject(&self.uplink, &self.counters, &Injection::single(&answer));
        }
        true
    }

    /// Sends a frame that fits no packet of the path in parts. False if not all of them are on their way.
    pub(super) fn send_parts(
        &mut self,
        Transmission { link, envelope }: Transmission,
        load: &Load<'_>,
        number: usize,
        snapshot: &Snapshot,
    ) -> bool {
        let mut whole = std::mem::take(&mut self.scratch);
        whole.clear();
        let is_sent = match envelope.encode_head(load.frame_len(number), &mut whole) {
            Ok(()) => {
                load.write(number, &mut whole);
                self.send_whole_in_parts(link, &whole, snapshot)
            }
            Err(MessageTooLong(_)) => {
                self.counters.dropped(DropReason::TooLong);
                false
            }
        };
        self.scratch = whole;
        is_sent
    }

    fn send_whole_in_parts(&mut self, link: LinkId, whole: &[u8], snapshot: &Snapshot) -> bool {
        let outlet = snapshot.outlet(link);
        let len_max = outlet.room().saturating_sub(MESSAGE_HEADER_LEN + PART_HEADER_LEN).max(1);
        let Ok(whole_len) = u16::try_from(whole.len()) else {
            self.counters.dropped(DropReason::TooLong);
            return false;
        };
        let (number, remote) = (self.numbers.draw(1), outlet.link.remote());
        (0..whole_len).step_by(len_max).zip(whole.chunks(len_max)).all(|(offset, bytes)| {
            let part = Message::Part(Part { number, whole_len, offset, bytes });
            self.send_to(remote, link, snapshot, part.encoded_len(), |out| part.encode(out))
        })
    }
}
