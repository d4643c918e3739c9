//! What peers say to each other beside records: to one, by the routes, or to all, from neighbour to neighbour. Owns who has
//! been heard; knows nothing of what is said.

use std::collections::BTreeMap;

use mesh_crypto::{PublicKey, Signature};
use mesh_wire::control::{Channel, MAIL_LEN_MAX, Mail, MailBody, Message, RELAY_HOPS_MAX};
use mesh_wire::{BootCount, Moment, PeerId};

use crate::counters::Count;
use crate::interface::ConnectionId;
use crate::node::Node;

/// Separates signatures over mail from all others made with the same key.
const SIGNATURE_CONTEXT: &str = "mesh mail v1";

/// What was sent, and heard of each peer of the topology.
#[derive(Debug, Default)]
pub(crate) struct Post {
    sent: u64,
    heard: BTreeMap<PeerId, Heard>,
}

/// Which of a source's mail has been heard: the last [`Heard::WINDOW`] numbers of its newest life.
#[derive(Debug, Clone, Copy)]
struct Heard {
    boot: BootCount,
    newest: u64,
    /// Bit `n`: `newest - n` was heard.
    seen: u64,
}

impl Heard {
    const WINDOW: u64 = 64;

    /// Notes a number. False if it was noted before, or is too old to tell.
    fn note(&mut self, boot: BootCount, sequence: u64) -> bool {
        if boot < self.boot {
            return false;
        }
        if boot > self.boot {
            *self = Self { boot, newest: sequence, seen: 1 };
            return true;
        }
        if let Some(ahead) = sequence.checked_sub(self.newest).filter(|ahead| *ahead > 0) {
            let moved = u32::try_from(ahead).ok().and_then(|ahead| self.seen.checked_shl(ahead));
            self.seen = moved.unwrap_or(0) | 1;
            self.newest = sequence;
            return true;
        }
        let bit = self.newest - sequence;
        let is_new = bit < Self::WINDOW && self.seen & (1 << bit) == 0;
        if is_new {
            self.seen |= 1 << bit;
        }
        is_new
    }
}

impl Post {
    /// Forgets peers that are gone.
    pub(crate) fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.heard.retain(|peer, _| keep(*peer));
    }
}

impl Node {
    /// Says something to `destination`, or to all. It may be lost on its way; what is longer than [`MAIL_LEN_MAX`] with its
    /// envelope is not sent.
    pub(crate) fn post(
        &mut self,
        destination: Option<PeerId>,
        channel: Channel,
        payload: Vec<u8>,
        now: Moment,
    ) {
        let (source, boot) = (self.peer_id(), self.topology.own().boot);
        let sequence = self.post.sent;
        self.post.sent += 1;
        let body = MailBody { source, boot, sequence, destination, channel, payload }.encode();
        // Receivers would take it for a violation, and end the session.
        if body.len() > MAIL_LEN_MAX {
            return self.counters.count(Count::MailRefused);
        }
        let signature = *self.identity.sign(SIGNATURE_CONTEXT, &body).as_bytes();
        self.hand_on(destination, None, Mail { hops: RELAY_HOPS_MAX, body, signature }, now);
    }

    /// Takes in mail: for this router, for another, or for all.
    pub(crate) fn mail(&mut self, id: ConnectionId, mail: Mail, now: Moment) {
        let Ok(body) = MailBody::decode(&mail.body) else {
            return self.counters.count(Count::MailRefused);
        };
        let MailBody { source, boot, sequence, destination, channel, payload } = body;
        let me = self.peer_id();
        let Some(key) = self.topology.record(source).map(|record| PublicKey::from_bytes(record.key)) else {
            return self.counters.count(Count::MailRefused);
        };
        let signature = Signature::from_bytes(mail.signature);
        if source == me || key.verify(SIGNATURE_CONTEXT, &mail.body, &signature).is_err() {
            return self.counters.count(Count::MailRefused);
        }
        // What is for another alone is theirs to judge; it may come by here on two ways.
        if destination.is_none_or(|destination| destination == me) {
            let new = Heard { boot, newest: sequence, seen: 0 };
            if !self.post.heard.entry(source).or_insert(new).note(boot, sequence) {
                return;
            }
            self.delivered(source, channel, payload, now);
        }
        if destination != Some(me) && mail.hops > 1 {
            self.hand_on(destination, Some(id), Mail { hops: mail.hops - 1, ..mail }, now);
        }
    }

    /// Sends mail to the next hop, or to all neighbours; never back.
    fn hand_on(&mut self, destination: Option<PeerId>, from: Option<ConnectionId>, mail: Mail, now: Moment) {
        let next: Vec<ConnectionId> = match destination {
            Some(destination) => {
                let direct = self.sessions.get(&destination).copied();
                let hop = self.routes().next_hop.get(&destination).copied();
                direct.or_else(|| self.sessions.get(&hop?).copied()).into_iter().collect()
            }
            None => self.sessions.values().copied().collect(),
        };
        for id in next.into_iter().filter(|id| Some(*id) != from) {
            self.send(id, &Message::Mail(mail.clone()), now);
        }
    }

    fn delivered(&mut self, from: PeerId, channel: Channel, payload: Vec<u8>, now: Moment) {
        if channel == Channel::ADDRESSES {
            self.address_input(mesh_ipam::Input::Received { from, bytes: payload }, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_of_a_life_is_heard_once() {
        let mut heard = Heard { boot: BootCount(2), newest: 0, seen: 0 };
        let mut note = |boot, sequence| heard.note(BootCount(boot), sequence);
        assert!(note(2, 0) && !note(2, 0));
        assert!(note(2, 3) && note(2, 1) && !note(2, 3) && note(2, 2) && !note(2, 1));
        assert!(note(2, 100) && !note(2, 3), "too old to tell");
        assert!(note(2, 37) && !note(2, 36));
        assert!(!note(1, 500), "an earlier life");
        assert!(note(3, 7) && !note(3, 7) && note(3, 6));
        assert!(note(3, u64::MAX) && !note(3, u64::MAX));
    }
}
