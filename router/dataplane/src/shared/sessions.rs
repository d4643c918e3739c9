//! One epoch of one session in one direction: key, counter, replay window. Owns the rule that a counter is used once
//! per key, also between threads and across publications; rekeying is the control plane's decision.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mesh_crypto::{
    DirectionKey, OpeningKey, REJECT_AFTER_PACKETS, REKEY_AFTER_PACKETS, ReplayWindow, SealingKey,
    cookie_matches,
};
use mesh_wire::ReceiverIndex;
use mesh_wire::sleeve::{COOKIE_LEN, HEADER_LEN, Header, MessageTooLong, PacketKind, TAG_LEN};

use super::lock;
use crate::engine::DropReason;

/// Seals packets to a neighbour.
pub(crate) struct SendSession {
    pub(crate) epoch: u32,
    pub(crate) index: ReceiverIndex,
    key: DirectionKey,
    sealer: Sealer,
    next: AtomicU64,
    rekey_is_asked: AtomicBool,
}

/// A packet that is being written.
#[derive(Debug)]
pub(crate) struct OpenPacket {
    counter: u64,
    /// Where in the buffer it begins.
    pub(crate) start: usize,
}

enum Sealer {
    Sealed(Box<SealingKey>),
    Clear([u8; COOKIE_LEN]),
}

impl SendSession {
    /// A session whose next counter is `next`: 1 in a session never used before.
    pub(crate) fn new(epoch: u32, index: ReceiverIndex, key: DirectionKey, next: u64) -> Self {
        let sealer = match &key {
            DirectionKey::Sealed { suite, key } => {
                Sealer::Sealed(Box::new(SealingKey::from_parts(*suite, key)))
            }
            DirectionKey::Clear { cookie } => Sealer::Clear(*cookie),
        };
        Self { epoch, index, key, sealer, next: AtomicU64::new(next), rekey_is_asked: AtomicBool::new(false) }
    }

    pub(crate) fn has_key(&self, key: &DirectionKey) -> bool {
        same_key(&self.key, key)
    }

    /// What a packet is longer than its messages.
    pub(crate) const fn overhead_len(&self) -> usize {
        HEADER_LEN
            + match self.sealer {
                Sealer::Sealed(_) => TAG_LEN,
                Sealer::Clear(_) => COOKIE_LEN,
            }
    }

    /// What follows the messages.
    pub(crate) const fn tag_len(&self) -> usize {
        match self.sealer {
            Sealer::Sealed(_) => TAG_LEN,
            Sealer::Clear(_) => 0,
        }
    }

    /// Appends the beginning of a packet to `out`; messages may follow, and [`seal`](Self::seal) ends it.
    pub(crate) fn begin(&self, out: &mut Vec<u8>) -> Result<OpenPacket, DropReason> {
        let counter = self.draw()?;
        let start = out.len();
        let kind = match self.sealer {
            Sealer::Sealed(_) => PacketKind::Sealed,
            Sealer::Clear(_) => PacketKind::Clear,
        };
        out.extend_from_slice(&Header { kind, receiver: self.index, counter }.encode());
        if let Sealer::Clear(cookie) = &self.sealer {
            out.extend_from_slice(cookie);
        }
        Ok(OpenPacket { counter, start })
    }

    /// Ends the packet at the end of `out`.
    pub(crate) fn seal(&self, OpenPacket { counter, start }: OpenPacket, out: &mut Vec<u8>) {
        if let Sealer::Sealed(key) = &self.sealer {
            let (header, body) =
                out[start..].split_first_chunk_mut::<HEADER_LEN>().expect("a packet begins with its header");
            let tag = key.seal_in_place(counter, header, body);
            out.extend_from_slice(&tag);
        }
    }

    /// Appends a packet to `out`, whose messages are what `encode` appends; or nothing.
    pub(crate) fn write(
        &self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), MessageTooLong>,
        out: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        let packet = self.begin(out)?;
        if encode(out).is_err() {
            out.truncate(packet.start);
            return Err(DropReason::TooLong);
        }
        self.seal(packet, out);
        Ok(())
    }

    /// True from the moment on when the control plane should provide the next epoch, until it was told.
    pub(crate) fn wants_rekey(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= REKEY_AFTER_PACKETS
            && !self.rekey_is_asked.load(Ordering::Relaxed)
    }

    pub(crate) fn rekey_was_asked(&self) {
        self.rekey_is_asked.store(true, Ordering::Relaxed);
    }

    /// The counter that comes next, when no thread can draw one any more.
    pub(crate) fn into_next(self) -> u64 {
        self.next.into_inner()
    }

    // Relaxed: each thread gets a number of its own from one read-modify-write; nothing else is ordered by it. Past
    // the limit the number goes on, 2^30 times further away from its end than it has come.
    fn draw(&self) -> Result<u64, DropReason> {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        if counter < REJECT_AFTER_PACKETS { Ok(counter) } else { Err(DropReason::KeyExhausted) }
    }
}

/// Opens packets of a neighbour.
pub(crate) struct ReceiveSession {
    pub(crate) index: ReceiverIndex,
    pub(crate) epoch: u32,
    /// Orders the sessions of this router by when they were installed.
    pub(crate) serial: u64,
    key: DirectionKey,
    opener: Opener,
    /// Locked twice per datagram, not per frame, for some nanoseconds. All datagrams of one neighbour come to one
    /// thread (the kernel picks it by the address pair), so that nobody waits for it in general.
    window: Mutex<Window>,
}

enum Opener {
    Sealed(Box<OpeningKey>),
    Clear([u8; COOKIE_LEN]),
}

struct Window {
    replay: ReplayWindow,
    greatest: u64,
    /// Counters up to here are refused whatever the window says: they belong to an earlier use of the session.
    floor: u64,
}

/// An authenticated packet.
pub(crate) struct Opened<'d> {
    /// Its messages.
    pub(crate) body: &'d [u8],
    /// True when no packet with a greater counter came before it.
    pub(crate) is_newest: bool,
}

impl ReceiveSession {
    /// A session that takes counters above `floor`: 0 in a session never used before.
    pub(crate) fn new(index: ReceiverIndex, epoch: u32, serial: u64, key: DirectionKey, floor: u64) -> Self {
        let opener = match &key {
            DirectionKey::Sealed { suite, key } => {
                Opener::Sealed(Box::new(OpeningKey::from_parts(*suite, key)))
            }
            DirectionKey::Clear { cookie } => Opener::Clear(*cookie),
        };
        let window = Window { replay: ReplayWindow::default(), greatest: floor, floor };
        Self { index, epoch, serial, key, opener, window: Mutex::new(window) }
    }

    pub(crate) fn has_key(&self, key: &DirectionKey) -> bool {
        same_key(&self.key, key)
    }

    /// Authenticates `datagram`, whose header is `header`, and opens it in place. The order (check, open, commit) keeps
    /// forged counters out of the window.
    pub(crate) fn open<'d>(&self, header: &Header, datagram: &'d mut [u8]) -> Result<Opened<'d>, DropReason> {
        lock(&self.window).check(header.counter)?;
        let body = self.authenticate(header, datagram)?;
        let is_newest = lock(&self.window).commit(header.counter)?;
        Ok(Opened { body, is_newest })
    }

    /// The greatest counter seen, when no thread can open a packet any more.
    pub(crate) fn into_greatest(self) -> u64 {
        lock(&self.window).greatest
    }

    fn authenticate<'d>(&self, header: &Header, datagram: &'d mut [u8]) -> Result<&'d [u8], DropReason> {
        let Some((head, rest)) = datagram.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(DropReason::NotSleeve);
        };
        match (&self.opener, header.kind) {
            (Opener::Sealed(key), PacketKind::Sealed) => {
                match key.open_in_place(header.counter, head, rest) {
                    Ok(len) => Ok(&rest[..len]),
                    Err(mesh_crypto::OpenError) => Err(DropReason::NotAuthentic),
                }
            }
            (Opener::Clear(expected), PacketKind::Clear) => match rest.split_first_chunk::<COOKIE_LEN>() {
                Some((shown, body)) if cookie_matches(expected, shown) => Ok(body),
                Some(_) | None => Err(DropReason::NotAuthentic),
            },
            (Opener::Sealed(_), PacketKind::Clear) | (Opener::Clear(_), PacketKind::Sealed) => {
                Err(DropReason::WrongProtection)
            }
        }
    }
}

impl Window {
    fn check(&self, counter: u64) -> Result<(), DropReason> {
        if counter >= REJECT_AFTER_PACKETS {
            return Err(DropReason::KeyExhausted);
        }
        if counter <= self.floor || self.replay.check(counter).is_err() {
            return Err(DropReason::Replayed);
        }
        Ok(())
    }

    /// Returns whether the counter is the greatest so far.
    fn commit(&mut self, counter: u64) -> Result<bool, DropReason> {
        self.check(counter)?;
        if self.replay.commit(counter).is_err() {
            return Err(DropReason::Replayed);
        }
        let is_newest = counter > self.greatest;
        self.greatest = self.greatest.max(counter);
        Ok(is_newest)
    }
}

/// Not in constant time: both keys are this router's own, and no stranger can time it.
fn same_key(a: &DirectionKey, b: &DirectionKey) -> bool {
    match (a, b) {
        (
            DirectionKey::Sealed { suite: a_suite, key: a },
            DirectionKey::Sealed { suite: b_suite, key: b },
        ) => a_suite == b_suite && a == b,
        (DirectionKey::Clear { cookie: a }, DirectionKey::Clear { cookie: b }) => a == b,
        (DirectionKey::Sealed { .. }, DirectionKey::Clear { .. })
        | (DirectionKey::Clear { .. }, DirectionKey::Sealed { .. }) => false,
    }
}

#[cfg(test)]
mod tests {
    use mesh_crypto::Suite;
    use mesh_wire::sleeve::{Envelope, Message, Messages};

    use super::*;

    const INDEX: ReceiverIndex = ReceiverIndex(77);

    fn keys() -> [DirectionKey; 2] {
        [
            DirectionKey::Sealed { suite: Suite::Aes256Gcm, key: [3; 32] },
            DirectionKey::Clear { cookie: [4; COOKIE_LEN] },
        ]
    }

    fn pair(key: &DirectionKey) -> (SendSession, ReceiveSession) {
        (SendSession::new(0, INDEX, key.clone(), 1), ReceiveSession::new(INDEX, 0, 1, key.clone(), 0))
    }

    fn packet(session: &SendSession) -> Vec<u8> {
        let mut packet = Vec::new();
        let message = Message::Frame { envelope: Envelope::Direct, frame: &[9; 20] };
        session.write(|out| message.encode(out), &mut packet).unwrap();
        packet
    }

    fn open(session: &ReceiveSession, mut packet: Vec<u8>) -> Result<bool, DropReason> {
        let header = Header::decode(&packet).unwrap();
        let opened = session.open(&header, &mut packet)?;
        let messages: Vec<_> = Messages::new(opened.body).collect();
        assert_eq!(messages, [Ok(Message::Frame { envelope: Envelope::Direct, frame: &[9; 20] })]);
        Ok(opened.is_newest)
    }

    #[test]
    fn a_packet_opens_once() {
        for key in keys() {
            let (send, receive) = pair(&key);
            let packet = packet(&send);
            assert_eq!(open(&receive, packet.clone()), Ok(true));
            assert_eq!(open(&receive, packet), Err(DropReason::Replayed));
        }
    }

    #[test]
    fn an_overtaken_packet_opens_and_is_not_the_newest() {
        for key in keys() {
            let (send, receive) = pair(&key);
            let [first, second] = [packet(&send), packet(&send)];
            assert_eq!(open(&receive, second), Ok(true));
            assert_eq!(open(&receive, first), Ok(false));
        }
    }

    #[test]
    fn a_forgery_is_refused_and_leaves_the_window_alone() {
        for key in keys() {
            let (send, receive) = pair(&key);
            let good = packet(&send);
            let mut forged = good.clone();
            forged[HEADER_LEN] ^= 1;
            assert_eq!(open(&receive, forged), Err(DropReason::NotAuthentic));
            assert_eq!(open(&receive, good), Ok(true));
        }
    }

    #[test]
    fn a_packet_of_the_other_protection_is_refused() {
        let [(sealed, opens_sealed), (clear, opens_clear)] = keys().map(|key| pair(&key));
        assert_eq!(open(&opens_clear, packet(&sealed)), Err(DropReason::WrongProtection));
        assert_eq!(open(&opens_sealed, packet(&clear)), Err(DropReason::WrongProtection));
    }

    #[test]
    fn a_packet_without_room_for_its_proof_is_refused() {
        for key in keys() {
            let (send, receive) = pair(&key);
            let mut cut = packet(&send);
            cut.truncate(HEADER_LEN + 3);
            assert_eq!(open(&receive, cut), Err(DropReason::NotAuthentic));
        }
    }

    #[test]
    fn a_key_is_not_used_past_its_limit_on_either_side() {
        let [key, _] = keys();
        let send = SendSession::new(0, INDEX, key.clone(), REKEY_AFTER_PACKETS - 1);
        assert!(!send.wants_rekey());
        packet(&send);
        assert!(send.wants_rekey());
        send.rekey_was_asked();
        assert!(!send.wants_rekey());

        let send = SendSession::new(0, INDEX, key.clone(), REJECT_AFTER_PACKETS - 1);
        packet(&send);
        let probe = Message::Probe(mesh_wire::sleeve::Probe { sequence: 0, sent_ns: 0 });
        assert_eq!(send.write(|out| probe.encode(out), &mut Vec::new()), Err(DropReason::KeyExhausted));

        let (_, receive) = pair(&key);
        let header = Header { kind: PacketKind::Sealed, receiver: INDEX, counter: REJECT_AFTER_PACKETS };
        let mut datagram = [header.encode().as_slice(), &[0; 40]].concat();
        assert_eq!(receive.open(&header, &mut datagram).map(|_| ()), Err(DropReason::KeyExhausted));
    }

    #[test]
    fn a_session_taken_up_again_goes_on_where_it_stood() {
        for key in keys() {
            let (send, receive) = pair(&key);
            let [first, second] = [packet(&send), packet(&send)];
            assert_eq!(open(&receive, second.clone()), Ok(true));
            let send = SendSession::new(0, INDEX, key.clone(), send.into_next());
            let receive = ReceiveSession::new(INDEX, 0, 2, key, receive.into_greatest());
            for old in [first, second] {
                assert_eq!(open(&receive, old), Err(DropReason::Replayed));
            }
            assert_eq!(open(&receive, packet(&send)), Ok(true));
        }
    }

    #[test]
    fn a_frame_that_fits_no_message_leaves_nothing_behind() {
        let [key, _] = keys();
        let (send, _) = pair(&key);
        let frame = vec![0; 70_000];
        let mut out = vec![1, 2, 3];
        let message = Message::Frame { envelope: Envelope::Direct, frame: &frame };
        let result = send.write(|out| message.encode(out), &mut out);
        assert_eq!((result, out), (Err(DropReason::TooLong), vec![1, 2, 3]));
    }
}
