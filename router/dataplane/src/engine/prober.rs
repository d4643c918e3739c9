//! Which links live: probes sent at a fixed pace, replies and other packets heard, and a verdict for each link. It
//! owns the timing rules; sealing and sending the probes is the worker's.
//!
//! ```text
//!            reply to a probe              silence ≥ SILENCE_MAX
//!   dead ──────────────────────► alive ────────────────────────────► dead
//!   (also the first state)       │  ▲ any authenticated packet
//!                                └──┘ ends a silence
//! ```
//!
//! Only a reply makes a link alive, because it proves that both directions carry. A prober that was not run for a
//! while has heard nobody because it did not listen: it then gives each link a whole silence more.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_wire::sleeve::Probe;
use mesh_wire::{Moment, PeerId};

/// How often a link is probed.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// A new link is probed this often at first: the two ends get their keys at slightly different times, and a probe that
/// comes before the keys is lost.
pub const FIRST_PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// A link that is not alive counts as new this long.
pub const NEW_FOR: Duration = Duration::from_millis(500);

/// A link is dead after so long without an authenticated packet: five probes.
pub const SILENCE_MAX: Duration = Duration::from_millis(1_250);

/// A prober that was not run for longer than this excuses everybody's silence.
pub const STALL_MAX: Duration = Duration::from_millis(500);

/// A reply to a probe older than this many is ignored.
const PROBES_OUTSTANDING_MAX: u32 = 64;

/// A link's state has changed; said once for each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkReport {
    /// The link carries in both directions.
    Alive {
        /// The neighbour.
        peer: PeerId,
        /// Round-trip time.
        rtt: Duration,
    },
    /// The link carries no more.
    Dead {
        /// The neighbour.
        peer: PeerId,
        /// How long nothing was heard.
        silent_for: Duration,
    },
}

/// The liveness of all links of this router.
///
/// Drive it so: [`set_links`](Self::set_links) when the links change, [`heard`](Self::heard) and
/// [`replied`](Self::replied) when packets come, and at [`poll_timeout`](Self::poll_timeout) call
/// [`handle_timeout`](Self::handle_timeout), send what [`poll_probe`](Self::poll_probe) gives until it gives nothing,
/// and pass on [`undelivered`](Self::undelivered) reports.
#[derive(Debug, Default)]
pub struct Prober {
    links: BTreeMap<PeerId, Link>,
    last_run: Option<Moment>,
}

#[derive(Debug)]
struct Link {
    since: Moment,
    next_probe: Moment,
    is_due: bool,
    sequence: u32,
    answered: u32,
    heard: Moment,
    excused: Moment,
    rtt: Option<Duration>,
    state: State,
    reported: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Dead,
    Alive,
}

impl Prober {
    /// Probes these neighbours from now on, and no others. A neighbour that stays keeps its state.
    pub fn set_links(&mut self, peers: &[PeerId], now: Moment) {
        self.links.retain(|peer, _| peers.contains(peer));
        for peer in peers {
            self.links.entry(*peer).or_insert_with(|| Link::new(now));
        }
    }

    /// Forgets what is known of the link to `peer`: behind the same name there is a new session, on which neither
    /// direction has carried yet. Its life is reported again.
    pub fn restart(&mut self, peer: PeerId, now: Moment) {
        if let Some(link) = self.links.get_mut(&peer) {
            *link = Link::new(now);
        }
    }

    /// An authenticated packet of `peer` arrived at `at`, which may lie a little in the past.
    pub fn heard(&mut self, peer: PeerId, at: Moment) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.heard = link.heard.max(at);
        }
    }

    /// A reply of `peer` arrived. A reply to no probe of the last few, or one that was answered before, counts for
    /// nothing. True when the link came alive by it, and so a report waits.
    pub fn replied(&mut self, peer: PeerId, probe: Probe, now: Moment) -> bool {
        let Some(link) = self.links.get_mut(&peer) else {
            return false;
        };
        let is_recent = link.sequence.wrapping_sub(probe.sequence) < PROBES_OUTSTANDING_MAX;
        // Numbers wrap: one is later than another when it lies in the half of the circle ahead of it.
        let is_news = probe.sequence.wrapping_sub(link.answered).wrapping_sub(1) < u32::MAX / 2;
        if !is_recent || !is_news {
            return false;
        }
        let came_alive = link.state == State::Dead;
        link.answered = probe.sequence;
        link.heard = link.heard.max(now);
        link.state = State::Alive;
        let sample = now.since(Moment::from_origin(Duration::from_nanos(probe.sent_ns)));
        // RFC 6298, section 2: the first sample as it is, then a moving average with weight 1/8.
        link.rtt = Some(link.rtt.map_or(sample, |smoothed| (smoothed * 7 + sample) / 8));
        came_alive
    }

    /// Passes verdicts and makes probes due, as of `now`.
    pub fn handle_timeout(&mut self, now: Moment) {
        let was_stalled = self.last_run.is_some_and(|last| now.since(last) > STALL_MAX);
        self.last_run = Some(now);
        for link in self.links.values_mut() {
            if was_stalled {
                link.excused = now;
            }
            if link.state == State::Alive && link.silence(now) >= SILENCE_MAX {
                link.state = State::Dead;
                link.rtt = None;
            }
            if link.next_probe <= now {
                link.is_due = true;
                // Not "one interval after it was due": probes missed in a stall are not made up for.
                link.next_probe = now + link.probe_interval(now);
            }
        }
    }

    /// A probe to send now, and to whom.
    pub fn poll_probe(&mut self, now: Moment) -> Option<(PeerId, Probe)> {
        let (peer, link) = self.links.iter_mut().find(|(_, link)| link.is_due)?;
        link.is_due = false;
        link.sequence = link.sequence.wrapping_add(1);
        let sent_ns = u64::try_from(now.since_origin().as_nanos()).expect("a clock runs out after 584 years");
        Some((*peer, Probe { sequence: link.sequence, sent_ns }))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest; `None` without links.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let verdict = |link: &Link| match link.state {
            State::Alive => link.heard.max(link.excused) + SILENCE_MAX,
            State::Dead => link.next_probe,
        };
        self.links.values().map(|link| link.next_probe.min(verdict(link))).min()
    }

    /// The changes that nobody has taken yet: offers each to `deliver`, and again at the next call while it returns
    /// false. A link that changed back in the meantime is not mentioned.
    pub fn undelivered(&mut self, now: Moment, mut deliver: impl FnMut(LinkReport) -> bool) {
        for (peer, link) in &mut self.links {
            if link.state == link.reported {
                continue;
            }
            let report = match link.state {
                State::Alive => LinkReport::Alive { peer: *peer, rtt: link.rtt.unwrap_or_default() },
                State::Dead => LinkReport::Dead { peer: *peer, silent_for: now.since(link.heard) },
            };
            if deliver(report) {
                link.reported = link.state;
            }
        }
    }

    /// Round-trip time of the link to `peer`, smoothed; `None` while it is not alive.
    #[must_use]
    pub fn rtt(&self, peer: PeerId) -> Option<Duration> {
        self.links.get(&peer).and_then(|link| link.rtt)
    }

    /// True while the link to `peer` is alive.
    #[must_use]
    pub fn is_alive(&self, peer: PeerId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.state == State::Alive)
    }
}

impl Link {
    const fn new(now: Moment) -> Self {
        Self {
            since: now,
            next_probe: now,
            is_due: false,
            sequence: 0,
            answered: 0,
            heard: now,
            excused: now,
            rtt: None,
            state: State::Dead,
            reported: State::Dead,
        }
    }

    fn probe_interval(&self, now: Moment) -> Duration {
        match self.state {
            State::Dead if now.since(self.since) < NEW_FOR => FIRST_PROBE_INTERVAL,
            State::Dead | State::Alive => PROBE_INTERVAL,
        }
    }

    fn silence(&self, now: Moment) -> Duration {
        now.since(self.heard.max(self.excused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId::from_bytes([1; 16]);

    /// A prober with one link in virtual time.
    struct Bench {
        prober: Prober,
        now: Moment,
        reports: Vec<LinkReport>,
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    impl Bench {
        fn new() -> Self {
            let mut prober = Prober::default();
            prober.set_links(&[PEER], Moment::ORIGIN);
            Self { prober, now: Moment::ORIGIN, reports: Vec::new() }
        }

        /// Lets `time` pass, run whenever it asks to be; `rtt` is how long replies take, `None` loses them.
        fn run(&mut self, time: Duration, rtt: Option<Duration>) -> usize {
            let end = self.now + time;
            let mut probes = 0;
            let mut replies: Vec<(Moment, Probe)> = Vec::new();
            loop {
                let next_reply = replies.first().map(|(at, _)| *at);
                let next =
                    next_reply.into_iter().chain(self.prober.poll_timeout()).min().filter(|at| *at <= end);
                let Some(next) = next else { break };
                self.now = self.now.max(next);
                if next_reply == Some(next) {
                    let (_, probe) = replies.remove(0);
                    self.prober.replied(PEER, probe, self.now);
                }
                probes +=
                    self.tick(|at, probe| rtt.into_iter().for_each(|rtt| replies.push((at + rtt, probe))));
            }
            self.now = end;
            probes
        }

        fn tick(&mut self, mut sent: impl FnMut(Moment, Probe)) -> usize {
            self.prober.handle_timeout(self.now);
            let mut probes = 0;
            while let Some((_, probe)) = self.prober.poll_probe(self.now) {
                probes += 1;
                sent(self.now, probe);
            }
            let reports = &mut self.reports;
            self.prober.undelivered(self.now, |report| {
                reports.push(report);
                true
            });
            probes
        }
    }

    #[test]
    fn probes_four_times_a_second_and_reports_life_once() {
        let mut bench = Bench::new();
        bench.run(ms(1_000), Some(ms(10)));
        assert_eq!(bench.run(ms(1_000), Some(ms(10))), 4);
        assert_eq!(bench.reports, [LinkReport::Alive { peer: PEER, rtt: ms(10) }]);
        assert_eq!(bench.prober.rtt(PEER), Some(ms(10)));
    }

    #[test]
    fn a_new_link_is_probed_often_until_it_answers_or_is_no_longer_new() {
        let mut bench = Bench::new();
        assert_eq!(bench.run(ms(499), None), 25);
        assert!((4..=5).contains(&bench.run(ms(1_000), None)));
        let mut answered = Bench::new();
        assert_eq!(answered.run(ms(499), Some(ms(1))), 3);
    }

    #[test]
    fn a_link_is_not_alive_while_only_one_direction_carries() {
        let mut bench = Bench::new();
        bench.prober.heard(PEER, Moment::ORIGIN);
        bench.run(ms(5_000), None);
        assert!(bench.reports.is_empty());
        assert!(!bench.prober.is_alive(PEER));
    }

    #[test]
    fn a_silent_link_is_dead_after_five_intervals_and_not_before() {
        let mut bench = Bench::new();
        bench.run(ms(1_000), Some(ms(10)));
        // Probes left at 0 and 20 ms, and from then on every 250 ms: the last reply came at 780 ms.
        bench.run(ms(1_029), None);
        assert!(bench.prober.is_alive(PEER));
        bench.run(ms(1), None);
        assert_eq!(bench.reports[1..], [LinkReport::Dead { peer: PEER, silent_for: SILENCE_MAX }]);
        bench.run(ms(300), Some(ms(10)));
        assert_eq!(bench.reports.len(), 3, "a reply revives it");
    }

    #[test]
    fn any_packet_keeps_a_living_link_alive() {
        let mut bench = Bench::new();
        bench.run(ms(900), Some(ms(10)));
        for _ in 0..20 {
            bench.run(ms(1_000), None);
            bench.prober.heard(PEER, bench.now);
        }
        assert!(bench.prober.is_alive(PEER));
        bench.run(ms(1_250), None);
        assert!(!bench.prober.is_alive(PEER));
    }

    #[test]
    fn a_stall_of_our_own_blames_nobody() {
        let mut bench = Bench::new();
        bench.run(ms(900), Some(ms(10)));
        bench.now = bench.now + ms(60_000);
        bench.tick(|_, _| {});
        assert!(bench.prober.is_alive(PEER));
        bench.run(ms(1_249), None);
        assert!(bench.prober.is_alive(PEER));
        bench.run(ms(1), None);
        assert!(!bench.prober.is_alive(PEER), "but the excuse ends");
    }

    #[test]
    fn a_reply_counts_once_and_only_for_a_recent_probe() {
        let mut bench = Bench::new();
        let mut first = None;
        bench.tick(|_, probe| first = Some(probe));
        let first = first.unwrap();
        bench.prober.replied(PEER, Probe { sequence: first.sequence + 1, ..first }, bench.now + ms(1));
        assert!(!bench.prober.is_alive(PEER), "a reply to a probe never sent");
        bench.prober.replied(PEER, first, bench.now + ms(1));
        assert_eq!(bench.prober.rtt(PEER), Some(ms(1)));
        bench.prober.replied(PEER, first, bench.now + ms(900));
        assert_eq!(bench.prober.rtt(PEER), Some(ms(1)), "the same reply again");
        bench.run(ms(1_000 * 20), None);
        bench.prober.replied(PEER, Probe { sequence: first.sequence + 1, ..first }, bench.now);
        assert!(!bench.prober.is_alive(PEER), "a reply to a probe of long ago");
        bench.run(ms(1_000), Some(ms(1)));
        assert!(bench.prober.is_alive(PEER), "eighty lost probes do not hide the next reply");
    }

    #[test]
    fn round_trip_times_are_smoothed() {
        let mut bench = Bench::new();
        bench.run(ms(200), Some(ms(8)));
        bench.run(ms(250), Some(ms(16)));
        assert_eq!(bench.prober.rtt(PEER), Some(ms(9)));
    }

    #[test]
    fn a_report_that_finds_no_room_is_offered_again() {
        let mut bench = Bench::new();
        let mut probes = Vec::new();
        bench.tick(|_, probe| probes.push(probe));
        bench.prober.replied(PEER, probes[0], bench.now);
        let mut offers = 0;
        for taken in [false, false, true, true] {
            bench.prober.undelivered(bench.now, |_| {
                offers += 1;
                taken
            });
        }
        assert_eq!(offers, 3);
    }

    #[test]
    fn a_new_session_proves_itself_anew() {
        let mut bench = Bench::new();
        bench.run(ms(100), Some(ms(1)));
        bench.prober.restart(PEER, bench.now);
        assert!(!bench.prober.is_alive(PEER));
        bench.run(ms(100), Some(ms(1)));
        assert_eq!(bench.reports, [LinkReport::Alive { peer: PEER, rtt: ms(1) }; 2]);
    }

    #[test]
    fn links_that_stay_keep_their_state_and_links_that_go_are_forgotten() {
        let other = PeerId::from_bytes([2; 16]);
        let mut bench = Bench::new();
        bench.run(ms(100), Some(ms(1)));
        bench.prober.set_links(&[PEER, other], bench.now);
        assert!(bench.prober.is_alive(PEER) && !bench.prober.is_alive(other));
        bench.prober.set_links(&[other], bench.now);
        bench.prober.set_links(&[PEER, other], bench.now);
        assert!(!bench.prober.is_alive(PEER));
    }
}
