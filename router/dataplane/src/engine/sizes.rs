//! How long the datagrams to each neighbour may be: a search by probes (RFC 8899), and a watch over what it found. Owns
//! the verdicts; sending the probes, unfragmented, is the worker's.
//!
//! ```text
//!             link alive                  nothing left to ask
//!  Unmeasured ──────────► Searching ─────────────────────────────► Settled
//!       ▲                 │      ▲   the size is carried no more,     │
//!       └──── link dead ──┴──────┴──── or it is time to ask for more ─┘
//! ```
//!
//! Each padded probe has a short companion, sent right behind it. A size counts as lost only when the companion alone was
//! answered: an outage, a stall or a neighbour that does not know these probes says nothing about sizes, and random loss
//! takes a size down only if it chooses the long one several times in a row. No ICMP message is believed, nor needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_wire::{Moment, PeerId};

/// The size that each path takes, in bytes of UDP payload: what is left of 576 (RFC 791) by the longest IPv4 header and
/// UDP's.
pub const DATAGRAM_LEN_MIN: u16 = 508;

/// The greatest size that is asked for: what IPv4 leaves of 65,535.
pub const DATAGRAM_LEN_MAX: u16 = 65_507;

/// How much longer the network's packets are than those of the overlay, in bytes: IPv4 (20) and UDP (8), sleeve's header and
/// tag (32), the headers of a message (3) and of a relayed frame (33), Ethernet's inside (14). Over IPv6 there is room for
/// all but the relaying, and a frame of full length that is relayed goes in parts.
pub const MTU_RESERVE: usize = 110;

/// A size is refuted by so many losses in a row...
const LOSSES_MAX: u8 = 3;

/// ...and one that was carried before, by so many.
const CARRIED_LOSSES_MAX: u8 = 6;

/// How far a padded probe may lag behind its companion.
const OVERTAKEN_BY_MAX: Duration = Duration::from_millis(50);

/// Without any reply both are sent again after the round-trip time, twice, and this.
const SILENCE: Duration = Duration::from_millis(250);

/// How often the size in use is asked for while frames pass.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How often a greater size than the one in use is asked for.
pub const RAISE_INTERVAL: Duration = Duration::from_secs(20);

/// The sizes of the paths to all neighbours.
///
/// Drive it so: [`follow`](Self::follow) each link, call [`handle_timeout`](Self::handle_timeout), send what
/// [`poll_probe`](Self::poll_probe) gives until it gives nothing and say at once what was [`refused`](Self::refused) by
/// this host, pass on [`undelivered`](Self::undelivered) sizes, and come again at [`poll_timeout`](Self::poll_timeout).
#[derive(Debug, Default)]
pub struct Sizes {
    paths: BTreeMap<PeerId, Path>,
}

/// A padded probe to be sent, and behind it its companion, whose number is the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueSizeProbe {
    /// To whom.
    pub peer: PeerId,
    /// How long the datagram is to be.
    pub datagram_len: u16,
    /// Its number.
    pub sequence: u32,
}

/// How long a datagram may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathSize {
    /// Bytes of UDP payload.
    pub datagram_len: u16,
    /// Whether that is what the path takes, and not what it is hoped to take, or takes at least.
    pub is_settled: bool,
}

impl PathSize {
    /// Before anything is known: no limit.
    pub const UNMEASURED: Self = Self { datagram_len: DATAGRAM_LEN_MAX, is_settled: false };
}

#[derive(Debug)]
struct Path {
    remote: SocketAddr,
    /// What frames are cut to.
    size: u16,
    /// Whether a search has ended with it, or a greater one is looked for since one has.
    is_known: bool,
    /// The greatest size that is known to be carried.
    low: u16,
    /// The greatest size that is not refuted.
    high: u16,
    /// What the host's routes tell, until it was asked for.
    hint: Option<u16>,
    phase: Phase,
    sequence: u32,
    /// The time between a companion and its reply.
    rtt: Duration,
    /// Frames have passed since the size was asked for last.
    carries: bool,
    /// The next question, of whatever kind.
    next: Moment,
    raise: Moment,
    reported: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unmeasured,
    /// This size is being asked for.
    Asking(Question),
    /// `size` is what the path takes.
    Settled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    size: u16,
    losses: u8,
    /// It was carried before, and nothing else is searched.
    is_watch: bool,
    sent: Option<Moment>,
    /// When the companion of the last probe was answered.
    answered: Option<Moment>,
}

impl Sizes {
    /// Takes in how a link stands: whether it is alive, where its datagrams go, and whether frames have passed since the last
    /// call. For a path that is to be measured anew, `route` tells the size that the host's routes take, if they tell.
    pub fn follow(
        &mut self,
        peer: PeerId,
        (is_alive, carries): (bool, bool),
        remote: SocketAddr,
        route: impl FnOnce() -> Option<u16>,
        now: Moment,
    ) {
        let path = self.paths.entry(peer).or_insert_with(|| Path::new(remote, now));
        path.carries |= carries;
        if !is_alive {
            path.phase = Phase::Unmeasured;
        } else if path.phase == Phase::Unmeasured || path.remote != remote {
            path.remote = remote;
            path.begin(route(), now);
        }
    }

    /// Forgets the paths to all but these neighbours.
    pub fn retain(&mut self, stays: impl Fn(PeerId) -> bool) {
        self.paths.retain(|peer, _| stays(*peer));
    }

    /// A size probe was answered. True when there is something new to ask or to tell.
    pub fn replied(&mut self, peer: PeerId, sequence: u32, now: Moment) -> bool {
        let Some(path) = self.paths.get_mut(&peer) else { return false };
        let Phase::Asking(question) = &mut path.phase else { return false };
        if sequence == path.sequence {
            let question = *question;
            path.carried(question, now);
            return true;
        }
        let is_companion = sequence == path.sequence.wrapping_add(1) && question.answered.is_none();
        if let (true, Some(sent)) = (is_companion, question.sent) {
            path.rtt = now.since(sent);
            question.answered = Some(now);
            path.next = now + OVERTAKEN_BY_MAX;
        }
        is_companion
    }

    /// The host itself did not send the probe with this number: it is too long for the interface.
    pub fn refused(&mut self, peer: PeerId, sequence: u32, now: Moment) {
        let Some(path) = self.paths.get_mut(&peer) else { return };
        if let Phase::Asking(question) = path.phase
            && sequence == path.sequence
        {
            path.refuted(question, now);
        }
    }

    /// The host did not send datagrams of the size in use: it is asked for at once.
    pub fn doubt(&mut self, peer: PeerId, now: Moment) {
        if let Some(path) = self.paths.get_mut(&peer)
            && path.phase == Phase::Settled
        {
            path.ask(Question::watch(path.size), now);
        }
    }

    /// Passes verdicts, and makes questions due.
    pub fn handle_timeout(&mut self, now: Moment) {
        for path in self.paths.values_mut() {
            path.handle_timeout(now);
        }
    }

    /// A probe to send now.
    pub fn poll_probe(&mut self, now: Moment) -> Option<DueSizeProbe> {
        for (&peer, path) in &mut self.paths {
            if let Phase::Asking(question) = &mut path.phase
                && question.sent.is_none()
            {
                question.sent = Some(now);
                // Even numbers, so that a companion has none that another probe has.
                path.sequence = path.sequence.wrapping_add(2);
                path.next = now + path.rtt * 2 + SILENCE;
                return Some(DueSizeProbe { peer, datagram_len: question.size, sequence: path.sequence });
            }
        }
        None
    }

    /// When to come again at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.paths.values().filter_map(Path::timeout).min()
    }

    /// The size of the path to `peer`.
    #[must_use]
    pub fn size(&self, peer: PeerId) -> PathSize {
        self.paths.get(&peer).map_or(PathSize::UNMEASURED, |path| match path.phase {
            Phase::Unmeasured => PathSize::UNMEASURED,
            Phase::Asking(_) | Phase::Settled => {
                PathSize { datagram_len: path.size, is_settled: path.is_known }
            }
        })
    }

    /// The sizes that have settled and that nobody has taken yet: offers each to `deliver`, and again at the next call
    /// while it returns false.
    pub fn undelivered(&mut self, mut deliver: impl FnMut(PeerId, u16) -> bool) {
        for (&peer, path) in &mut self.paths {
            if path.phase == Phase::Settled && path.reported != Some(path.size) && deliver(peer, path.size) {
                path.reported = Some(path.size);
            }
        }
    }
}

impl Path {
    const fn new(remote: SocketAddr, now: Moment) -> Self {
        Self {
            remote,
            size: DATAGRAM_LEN_MAX,
            is_known: false,
            low: DATAGRAM_LEN_MIN,
            high: DATAGRAM_LEN_MAX,
            hint: None,
            phase: Phase::Unmeasured,
            sequence: 0,
            rtt: Duration::from_secs(1),
            carries: false,
            next: now,
            raise: now,
            reported: None,
        }
    }

    /// Until the first verdict the routes are believed, as they were when nothing was measured.
    fn begin(&mut self, route: Option<u16>, now: Moment) {
        let hint = route.unwrap_or(DATAGRAM_LEN_MAX).clamp(DATAGRAM_LEN_MIN, DATAGRAM_LEN_MAX);
        (self.size, self.hint, self.is_known) = (hint, Some(hint), false);
        self.search((DATAGRAM_LEN_MIN, DATAGRAM_LEN_MAX), hint, now);
    }

    fn search(&mut self, (low, high): (u16, u16), first: u16, now: Moment) {
        (self.low, self.high) = (low, high);
        self.ask(Question::new(first), now);
    }

    fn ask(&mut self, question: Question, now: Moment) {
        self.phase = Phase::Asking(question);
        self.next = now;
    }

    fn carried(&mut self, question: Question, now: Moment) {
        if question.is_watch {
            return self.settle(now);
        }
        self.low = self.low.max(question.size);
        self.size = self.low;
        // What the routes tell is mostly right: then one byte more is refused on the spot, and that is all.
        let was_hint = self.hint.take_if(|hint| *hint <= question.size).is_some();
        let next = if was_hint { self.low.saturating_add(1) } else { self.middle() };
        self.ask_next(next, now);
    }

    fn refuted(&mut self, question: Question, now: Moment) {
        if question.is_watch {
            // All that is known is that it is less than it was.
            let high = question.size.saturating_sub(1).max(DATAGRAM_LEN_MIN);
            self.size = DATAGRAM_LEN_MIN;
            self.is_known = false;
            let (low, middle) = (DATAGRAM_LEN_MIN, DATAGRAM_LEN_MIN.midpoint(high));
            return self.search((low, high), middle.max(low), now);
        }
        self.high = question.size.saturating_sub(1).max(self.low);
        self.size = self.low;
        let next = self.hint.take_if(|hint| *hint <= self.high).unwrap_or_else(|| self.middle());
        self.ask_next(next, now);
    }

    const fn middle(&self) -> u16 {
        self.low + (self.high - self.low).div_ceil(2)
    }

    fn ask_next(&mut self, size: u16, now: Moment) {
        if self.low >= self.high {
            return self.settle(now);
        }
        self.ask(Question::new(size.clamp(self.low + 1, self.high)), now);
    }

    fn settle(&mut self, now: Moment) {
        if self.phase != Phase::Settled
            && !matches!(self.phase, Phase::Asking(Question { is_watch: true, .. }))
        {
            self.raise = now + RAISE_INTERVAL;
        }
        (self.phase, self.is_known) = (Phase::Settled, true);
        self.carries = false;
        self.next = now + WATCH_INTERVAL;
    }

    fn timeout(&self) -> Option<Moment> {
        match self.phase {
            Phase::Unmeasured => None,
            Phase::Settled if self.carries => Some(self.next.min(self.raise)),
            Phase::Settled => Some(self.raise),
            Phase::Asking(_) => Some(self.next),
        }
    }

    fn handle_timeout(&mut self, now: Moment) {
        if self.timeout().is_none_or(|at| at > now) {
            return;
        }
        match self.phase {
            Phase::Unmeasured => {}
            Phase::Settled if self.raise <= now => {
                self.raise = now + RAISE_INTERVAL;
                self.search((self.size, DATAGRAM_LEN_MAX), self.size.saturating_add(1), now);
            }
            Phase::Settled => self.ask(Question::watch(self.size), now),
            // It is due already.
            Phase::Asking(Question { sent: None, .. }) => {}
            Phase::Asking(Question { answered: None, size, losses, is_watch, .. }) => {
                let again = Question { losses, is_watch, ..Question::new(size) };
                self.ask(again, now);
            }
            Phase::Asking(Question { answered: Some(_), size, losses, is_watch, .. }) => {
                let again = Question { losses: losses + 1, is_watch, ..Question::new(size) };
                let losses_max = if is_watch { CARRIED_LOSSES_MAX } else { LOSSES_MAX };
                if again.losses < losses_max { self.ask(again, now) } else { self.refuted(again, now) }
            }
        }
    }
}

impl Question {
    const fn new(size: u16) -> Self {
        Self { size, losses: 0, is_watch: false, sent: None, answered: None }
    }

    const fn watch(size: u16) -> Self {
        Self { is_watch: true, ..Self::new(size) }
    }
}

#[cfg(test)]
mod tests;
