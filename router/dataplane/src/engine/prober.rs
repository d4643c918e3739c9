//! Which links live: when each is probed, what was heard, and a verdict for each link. It owns the timing rules;
//! sealing and sending the probes is the worker's.
//!
//! ```text
//!            reply to a probe         silence of five intervals, here or at the peer
//!   dead ──────────────────────► alive ───────────────────────────────────────────► dead
//!   (also the first state)       │  ▲ any authenticated packet
//!                                └──┘ ends a silence
//! ```
//!
//! Only a reply makes a link alive, because it proves that both directions carry. A link that carries frames is probed
//! often, so that its death is noticed within [`SILENCE_MAX`]; the others share a budget, and a frame makes the first
//! of the often probes due at once. A silence that has begun is looked into with more probes, so that loss is
//! not taken for death; a link in doubt, whose control connection broke, is looked into at once. Who has given a link up says so with its probes, since they may arrive though nothing comes
//! back (RFC 5880, section 6.8.6, does the same with its states). A prober that was not run for a while has heard nobody because it did not listen: it then
//! gives each link a whole silence more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use mesh_wire::sleeve::Probe;
use mesh_wire::{Moment, PeerId};

/// How often a link that carries frames is probed.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// A link carries frames until none has passed for so long: longer than [`SILENCE_MAX`], so that a link which dies
/// with its traffic is judged as one in use.
pub const BUSY_FOR: Duration = Duration::from_secs(2);

/// A link that carries no frames is probed once in so long for each link of this router: together eight times a
/// second...
pub const IDLE_PROBE_SHARE: Duration = Duration::from_millis(125);

/// ...but as often as this at least, so that with many links the budget is overdrawn.
pub const IDLE_PROBE_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// A link is dead after so many intervals without an authenticated packet.
const SILENT_INTERVALS_MAX: u32 = 5;

/// After so many silent intervals a link is in doubt...
const SILENT_INTERVALS_TO_DOUBT: u32 = 2;

/// ...and is probed so many times as often.
const DOUBT_HASTE: u32 = 5;

/// A link in use is dead after so long without an authenticated packet.
pub const SILENCE_MAX: Duration = Duration::from_millis(1_250);

/// A link in doubt is dead after so long without an authenticated packet, or after four round trips where that is more. Ten
/// probes go out within it.
pub const DOUBTED_SILENCE_MAX: Duration = Duration::from_millis(200);

/// A link that is not alive, or in doubt, is probed this often at first: the two ends get their keys at slightly different times, and
/// a probe that comes before the keys is lost.
pub const FIRST_PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// How long that lasts.
pub const NEW_FOR: Duration = Duration::from_millis(500);

/// Then it is probed every [`PROBE_INTERVAL`], until it has not been alive for so long...
pub const SOUGHT_FOR: Duration = Duration::from_millis(10_500);

/// ...and then this often.
pub const LOST_PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// A prober that is run so much later than it asked for excuses everybody's silence.
pub const STALL_MAX: Duration = Duration::from_millis(500);

/// A link is reported as idle when no frame has passed for so long.
pub const IDLE_AFTER: Duration = Duration::from_secs(300);

/// A reply to a probe older than this many is ignored.
const PROBES_OUTSTANDING_MAX: u32 = 64;

/// The share of lost probes is a moving average over about so many.
const LOSS_WINDOW: u32 = 32;

/// News of a link; said once for each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkReport {
    /// The link carries in both directions; said again when the neighbour has moved nearer or farther away.
    Alive {
        /// The neighbour.
        peer: PeerId,
        /// Round-trip time: the least of the last replies, so that a queue on the way does not count.
        rtt: Duration,
    },
    /// The link carries no more.
    Dead {
        /// The neighbour.
        peer: PeerId,
        /// How long nothing was heard.
        silent_for: Duration,
    },
    /// No frame has passed for [`IDLE_AFTER`].
    Idle {
        /// The neighbour.
        peer: PeerId,
    },
}

/// A probe to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueProbe {
    /// To whom.
    pub peer: PeerId,
    /// Where to: one of the link's candidates, or, if `None`, where its packets go at present.
    pub candidate: Option<SocketAddr>,
    /// What it says.
    pub probe: Probe,
    /// Whether a [`Message::Deaf`](mesh_wire::sleeve::Message::Deaf) goes with it.
    pub is_deaf: bool,
}

/// The liveness of all links of this router.
///
/// Drive it so: [`set_links`](Self::set_links) when the links change, [`heard`](Self::heard),
/// [`carried`](Self::carried) and [`replied`](Self::replied) when packets come and go, and at
/// [`poll_timeout`](Self::poll_timeout) call [`handle_timeout`](Self::handle_timeout), send what
/// [`poll_probe`](Self::poll_probe) gives until it gives nothing, and pass on [`undelivered`](Self::undelivered)
/// reports.
#[derive(Debug, Default)]
pub struct Prober {
    links: BTreeMap<PeerId, Link>,
    /// Probes of the last run that nobody has taken yet.
    due: VecDeque<(PeerId, Option<SocketAddr>)>,
}

#[derive(Debug)]
struct Link {
    candidates: Vec<SocketAddr>,
    state: State,
    reported: State,
    /// When the state began.
    since: Moment,
    next_probe: Moment,
    sequence: u32,
    answered: u32,
    heard: Moment,
    /// No silence before this counts.
    excused: Moment,
    /// Since when the neighbour is asked whether it is still there.
    doubted: Option<Moment>,
    rtt: Option<Duration>,
    nearest: Nearest,
    loss: Loss,
    /// The round-trip time that was reported last.
    reported_rtt: Duration,
    pace: Pace,
    /// When a frame passed last; at first, when the link was made.
    carried: Moment,
    idleness_is_reported: bool,
}

/// The least of the last [`Nearest::SAMPLES`] to twice as many round-trip times.
#[derive(Debug)]
struct Nearest {
    before: Option<Duration>,
    now: Option<Duration>,
    taken: u8,
}

impl Nearest {
    const SAMPLES: u8 = 8;
    const NONE: Self = Self { before: None, now: None, taken: 0 };

    fn take(&mut self, sample: Duration) {
        if self.taken == Self::SAMPLES {
            *self = Self { before: self.now, now: None, taken: 0 };
        }
        self.now = Some(self.now.map_or(sample, |least| least.min(sample)));
        self.taken += 1;
    }

    fn least(&self) -> Duration {
        self.before.into_iter().chain(self.now).min().unwrap_or_default()
    }
}

/// How many of the probes were lost on the way there or back: each reply tells of those between it and the reply before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loss {
    parts_per_million: u32,
}

impl Loss {
    const NONE: Self = Self { parts_per_million: 0 };
    const ALL_PPM: u32 = 1_000_000;

    fn take(&mut self, lost: u32) {
        // After four windows of losses there is nothing left to be said.
        for _ in 0..lost.min(4 * LOSS_WINDOW) {
            self.parts_per_million += (Self::ALL_PPM - self.parts_per_million) / LOSS_WINDOW;
        }
        self.parts_per_million -= self.parts_per_million / LOSS_WINDOW;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Dead,
    Alive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// No frame has passed for [`BUSY_FOR`].
    Idle,
    /// The link carries frames.
    Busy,
}

impl Prober {
    /// Probes these neighbours from now on, and no others, at these candidates too while a link is not alive. A
    /// neighbour that stays keeps its state.
    pub fn set_links(&mut self, links: impl IntoIterator<Item = (PeerId, Vec<SocketAddr>)>, now: Moment) {
        let interval_before = self.idle_interval();
        let mut old = std::mem::take(&mut self.links);
        for (peer, candidates) in links {
            let link = old.remove(&peer).unwrap_or_else(|| Link::new(now));
            self.links.insert(peer, Link { candidates, ..link });
        }
        let interval = self.idle_interval();
        if interval < interval_before {
            // Nobody was asked at the new pace yet, and so nobody is silent by it.
            for link in self.links.values_mut() {
                link.excused = now;
                link.next_probe = link.next_probe.min(now + interval);
            }
        }
    }

    /// Forgets what is known of the link to `peer`: behind the same name there is a new session, on which neither
    /// direction has carried yet. Its life is reported again.
    pub fn restart(&mut self, peer: PeerId, now: Moment) {
        if let Some(link) = self.links.get_mut(&peer) {
            *link = Link {
                candidates: std::mem::take(&mut link.candidates),
                pace: link.pace,
                carried: link.carried,
                idleness_is_reported: link.idleness_is_reported,
                ..Link::new(now)
            };
        }
    }

    /// These neighbours may be gone: each is asked at once, and often, and is dead soon unless it answers. All others are taken
    /// for well again.
    pub fn doubt(&mut self, doubtful: &BTreeSet<PeerId>, now: Moment) {
        for (peer, link) in &mut self.links {
            let is_new = doubtful.contains(peer) && link.doubted.is_none();
            link.doubted = doubtful.contains(peer).then(|| link.doubted.unwrap_or(now));
            if is_new {
                link.next_probe = now;
            }
        }
    }

    /// An authenticated packet of `peer` arrived at `at`, which may lie a little in the past.
    pub fn heard(&mut self, peer: PeerId, at: Moment) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.heard = link.heard.max(at);
        }
    }

    /// Frames have passed on the link to `peer`, in either direction, since this was last said. On a link that carried
    /// none, a probe is due at once, and silence counts from now on.
    pub fn carried(&mut self, peer: PeerId, now: Moment) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        link.carried = now;
        link.idleness_is_reported = false;
        if link.pace == Pace::Idle {
            link.pace = Pace::Busy;
            link.excused = now;
            link.next_probe = link.next_probe.min(now);
        }
    }

    /// A reply of `peer` arrived. A reply to no probe of the last few, or one that was answered before, counts for
    /// nothing. True when the link came alive by it, and so a report waits, and the reply's sender is where packets
    /// should go.
    pub fn replied(&mut self, peer: PeerId, probe: Probe, now: Moment) -> bool {
        let idle_interval = self.idle_interval();
        let Some(link) = self.links.get_mut(&peer) else {
            return false;
        };
        let is_recent = link.sequence.wrapping_sub(probe.sequence) < PROBES_OUTSTANDING_MAX;
        // Numbers wrap: one is later than another when it lies in the half of the circle ahead of it.
        let is_news = probe.sequence.wrapping_sub(link.answered).wrapping_sub(1) < u32::MAX / 2;
        if !is_recent || !is_news {
            return false;
        }
        if link.state == State::Alive {
            link.loss.take(probe.sequence.wrapping_sub(link.answered) - 1);
        }
        link.answered = probe.sequence;
        link.heard = link.heard.max(now);
        let sample = now.since(Moment::from_origin(Duration::from_nanos(probe.sent_ns)));
        // RFC 6298, section 2: the first sample as it is, then a moving average with weight 1/8.
        link.rtt = Some(link.rtt.map_or(sample, |smoothed| (smoothed * 7 + sample) / 8));
        link.nearest.take(sample);
        let came_alive = link.state == State::Dead;
        if came_alive {
            link.enter(State::Alive, now);
            // A link that was lost was probed more rarely than one that is alive may be silent.
            link.next_probe = link.next_probe.min(now + link.interval(idle_interval));
        }
        came_alive
    }

    /// The peer says that nothing of this router reaches it: the link is dead in the direction that only the peer can
    /// see. A link that has just come alive is beyond what the peer knew. True when the link died by it, and so a report
    /// waits.
    pub fn is_unheard(&mut self, peer: PeerId, now: Moment) -> bool {
        let link = self.links.get_mut(&peer);
        let alive = link.filter(|link| link.state == State::Alive && now.since(link.since) >= SILENCE_MAX);
        let Some(link) = alive else {
            return false;
        };
        link.die(now);
        true
    }

    /// Passes verdicts and makes probes due, as of `now`.
    pub fn handle_timeout(&mut self, now: Moment) {
        let was_due = self.links.values().map(|link| link.next_probe).min();
        let was_stalled = was_due.is_some_and(|at| now.since(at) > STALL_MAX);
        let idle_interval = self.idle_interval();
        self.due.clear();
        for (peer, link) in &mut self.links {
            if was_stalled {
                link.excused = now;
            }
            if now.since(link.carried) >= BUSY_FOR {
                link.pace = Pace::Idle;
            }
            let interval = link.interval(idle_interval);
            if link.state == State::Alive && link.is_silent(idle_interval, now) {
                link.die(now);
            }
            if link.next_probe > now {
                continue;
            }
            // Not "one interval after it was due": probes missed in a stall are not made up for.
            link.next_probe = now + link.probe_interval(interval, now);
            link.sequence = link.sequence.wrapping_add(1);
            self.due.push_back((*peer, None));
            if link.state == State::Dead {
                self.due.extend(link.candidates.iter().map(|candidate| (*peer, Some(*candidate))));
            }
        }
    }

    /// A probe to send now.
    pub fn poll_probe(&mut self, now: Moment) -> Option<DueProbe> {
        let sent_ns = u64::try_from(now.since_origin().as_nanos()).expect("a clock runs out after 584 years");
        let idle_interval = self.idle_interval();
        loop {
            let (peer, candidate) = self.due.pop_front()?;
            if let Some(link) = self.links.get(&peer) {
                // All probes of one round have one number: the first reply to any of them is the one that counts.
                let probe = Probe { sequence: link.sequence, sent_ns };
                let is_deaf = link.state == State::Dead && link.is_silent(idle_interval, now);
                return Some(DueProbe { peer, candidate, probe, is_deaf });
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest; `None` without links.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let idle_interval = self.idle_interval();
        let verdict = |link: &Link| match link.state {
            State::Alive => link.silent_since() + link.silence_max(idle_interval),
            State::Dead => link.next_probe,
        };
        self.links.values().map(|link| link.next_probe.min(verdict(link))).min()
    }

    /// The changes that nobody has taken yet: offers each to `deliver`, and again at the next call while it returns
    /// false. A link that changed back in the meantime is not mentioned.
    pub fn undelivered(&mut self, now: Moment, mut deliver: impl FnMut(LinkReport) -> bool) {
        for (&peer, link) in &mut self.links {
            if link.state != link.reported {
                let rtt = link.nearest.least();
                let report = match link.state {
                    State::Alive => LinkReport::Alive { peer, rtt },
                    State::Dead => LinkReport::Dead { peer, silent_for: now.since(link.heard) },
                };
                if deliver(report) {
                    link.reported = link.state;
                    link.reported_rtt = rtt;
                }
            } else if link.has_moved() {
                let rtt = link.nearest.least();
                if deliver(LinkReport::Alive { peer, rtt }) {
                    link.reported_rtt = rtt;
                }
            }
            if !link.idleness_is_reported && now.since(link.carried) >= IDLE_AFTER {
                link.idleness_is_reported = deliver(LinkReport::Idle { peer });
            }
        }
    }

    /// Round-trip time of the link to `peer`, smoothed; `None` while it is not alive.
    #[must_use]
    pub fn rtt(&self, peer: PeerId) -> Option<Duration> {
        self.links.get(&peer).and_then(|link| link.rtt)
    }

    /// The share of its last probes to which no reply came, in parts per million: lost there or back; `None` while the link is
    /// not alive.
    #[must_use]
    pub fn loss_ppm(&self, peer: PeerId) -> Option<u32> {
        let link = self.links.get(&peer).filter(|link| link.state == State::Alive);
        link.map(|link| link.loss.parts_per_million)
    }

    /// True while the link to `peer` is alive.
    #[must_use]
    pub fn is_alive(&self, peer: PeerId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.state == State::Alive)
    }

    /// True while the link to `peer` carries no frames: the next one is worth a run at once.
    #[must_use]
    pub fn is_idle(&self, peer: PeerId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.pace == Pace::Idle)
    }

    fn idle_interval(&self) -> Duration {
        let links = u32::try_from(self.links.len()).unwrap_or(u32::MAX);
        IDLE_PROBE_SHARE.saturating_mul(links).clamp(PROBE_INTERVAL, IDLE_PROBE_INTERVAL_MAX)
    }
}

impl Link {
    /// Whether an alive link's neighbour is half as far away again as was reported, or a third nearer, and not by so little
    /// that nobody cares.
    fn has_moved(&self) -> bool {
        const UNFELT: Duration = Duration::from_micros(250);
        let (rtt, reported) = (self.nearest.least(), self.reported_rtt);
        self.state == State::Alive
            && rtt.abs_diff(reported) >= UNFELT
            && (rtt * 2 > reported * 3 || rtt * 3 < reported * 2)
    }

    const fn new(now: Moment) -> Self {
        Self {
            candidates: Vec::new(),
            state: State::Dead,
            reported: State::Dead,
            since: now,
            next_probe: now,
            sequence: 0,
            answered: 0,
            heard: now,
            excused: now,
            doubted: None,
            rtt: None,
            nearest: Nearest::NONE,
            loss: Loss::NONE,
            reported_rtt: Duration::ZERO,
            pace: Pace::Idle,
            carried: now,
            idleness_is_reported: false,
        }
    }

    const fn enter(&mut self, state: State, now: Moment) {
        self.state = state;
        self.since = now;
    }

    const fn die(&mut self, now: Moment) {
        self.enter(State::Dead, now);
        self.rtt = None;
        self.nearest = Nearest::NONE;
        self.loss = Loss::NONE;
        self.next_probe = now;
    }

    fn is_silent(&self, idle_interval: Duration, now: Moment) -> bool {
        self.silence(now) >= self.silence_max(idle_interval)
    }

    fn silence_max(&self, idle_interval: Duration) -> Duration {
        match self.doubted {
            Some(_) => DOUBTED_SILENCE_MAX.max(self.rtt.unwrap_or_default() * 4),
            None => self.interval(idle_interval) * SILENT_INTERVALS_MAX,
        }
    }

    /// The time by which this link's silence is measured.
    const fn interval(&self, idle: Duration) -> Duration {
        match self.pace {
            Pace::Busy => PROBE_INTERVAL,
            Pace::Idle => idle,
        }
    }

    fn probe_interval(&self, interval: Duration, now: Moment) -> Duration {
        let age = now.since(self.since);
        match self.state {
            State::Dead if age < NEW_FOR => FIRST_PROBE_INTERVAL,
            State::Dead if age < SOUGHT_FOR => PROBE_INTERVAL,
            State::Dead => LOST_PROBE_INTERVAL,
            State::Alive if self.doubted.is_some() => FIRST_PROBE_INTERVAL,
            State::Alive if self.silence(now) >= interval * SILENT_INTERVALS_TO_DOUBT => {
                interval / DOUBT_HASTE
            }
            State::Alive => interval,
        }
    }

    fn silence(&self, now: Moment) -> Duration {
        now.since(self.silent_since())
    }

    fn silent_since(&self) -> Moment {
        let since = self.heard.max(self.excused);
        self.doubted.map_or(since, |doubted| since.max(doubted))
    }
}

#[cfg(test)]
mod tests;
