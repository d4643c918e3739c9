use mesh_crypto::Rng;

use super::*;

const PEER: PeerId = PeerId::from_bytes([1; 16]);

const OTHER: PeerId = PeerId::from_bytes([2; 16]);

/// A prober with one link in virtual time.
struct Bench {
    prober: Prober,
    now: Moment,
    reports: Vec<LinkReport>,
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many peers, the first of which is `PEER`.
fn peers(count: u8) -> impl Iterator<Item = (PeerId, Vec<SocketAddr>)> {
    (1..=count).map(|number| (PeerId::from_bytes([number; 16]), Vec::new()))
}

impl Bench {
    fn new() -> Self {
        let mut prober = Prober::default();
        prober.set_links(peers(1), Moment::ORIGIN);
        Self { prober, now: Moment::ORIGIN, reports: Vec::new() }
    }

    /// With a link that is alive, besides `others` that never are.
    fn alive(others: u8) -> Self {
        let mut bench = Self::new();
        bench.run(ms(600), Some(ms(1)));
        bench.prober.set_links(peers(1 + others), bench.now);
        bench.run(secs(20), Some(ms(1)));
        assert!(bench.prober.is_alive(PEER));
        bench.reports.clear();
        bench
    }

    /// Lets `time` pass, run whenever it asks to be; `rtt` is how long replies of `PEER` take, `None` loses them. Returns
    /// how often it was probed.
    fn run(&mut self, time: Duration, rtt: Option<Duration>) -> usize {
        let end = self.now + time;
        let mut probes = 0;
        let mut replies: Vec<(Moment, Probe)> = Vec::new();
        loop {
            let next_reply = replies.first().map(|(at, _)| *at);
            let next = next_reply.into_iter().chain(self.prober.poll_timeout()).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if next_reply == Some(next) {
                let (_, probe) = replies.remove(0);
                self.prober.replied(PEER, probe, self.now);
            }
            for due in self.tick().into_iter().filter(|due| due.peer == PEER) {
                probes += 1;
                rtt.into_iter().for_each(|rtt| replies.push((self.now + rtt, due.probe)));
            }
        }
        self.now = end;
        probes
    }

    fn tick(&mut self) -> Vec<DueProbe> {
        self.prober.handle_timeout(self.now);
        let due = std::iter::from_fn(|| self.prober.poll_probe(self.now)).collect();
        let reports = &mut self.reports;
        self.prober.undelivered(self.now, |report| {
            reports.push(report);
            true
        });
        due
    }

    /// How long from now on until the link is said to be dead, while nothing comes and, if so, frames are sent.
    fn time_to_death(&mut self, sends: bool) -> Duration {
        let start = self.now;
        while self.prober.is_alive(PEER) {
            if sends {
                self.prober.carried(PEER, self.now);
            }
            self.run(ms(1), None);
            assert!(self.now.since(start) < secs(60), "it is never noticed");
        }
        self.now.since(start)
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
fn a_link_that_is_not_alive_is_probed_ever_more_rarely() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(ms(499), None), 25);
    assert_eq!(bench.run(ms(10_000), None), 40);
    assert_eq!(bench.run(secs(20), None), 10);
    let mut answered = Bench::new();
    assert_eq!(answered.run(ms(499), Some(ms(1))), 3);
}

#[test]
fn a_link_that_has_died_is_sought_like_a_new_one() {
    let mut bench = Bench::alive(0);
    bench.run(secs(2), None);
    assert!(!bench.prober.is_alive(PEER));
    bench.run(secs(30), None);
    bench.run(secs(4), Some(ms(1)));
    assert!(bench.prober.is_alive(PEER));
    bench.time_to_death(false);
    assert!((24..=26).contains(&bench.run(ms(499), None)));
}

#[test]
fn a_link_that_was_lost_for_long_stays_alive_when_it_comes_back() {
    for after in (0..2_000).step_by(100) {
        let mut bench = Bench::alive(63);
        bench.run(secs(30), None);
        bench.run(ms(after), None);
        bench.reports.clear();
        for _ in 0..8 {
            bench.prober.carried(PEER, bench.now);
            bench.run(secs(1), Some(ms(1)));
        }
        assert!(matches!(bench.reports[..], [LinkReport::Alive { .. }]), "{:?}", bench.reports);
    }
}

#[test]
fn idle_links_share_a_budget_and_those_with_traffic_do_not() {
    for (links, a_minute) in [(1, 240), (2, 240), (4, 120), (16, 30), (200, 30)] {
        let mut bench = Bench::alive(links - 1);
        assert_eq!(bench.run(secs(60), Some(ms(1))), a_minute, "{links} links");
        let mut busy = 0;
        for _ in 0..60 {
            bench.prober.carried(PEER, bench.now);
            busy += bench.run(secs(1), Some(ms(1)));
        }
        assert!((239..=242).contains(&busy), "{links} links: {busy}");
        bench.run(secs(4), Some(ms(1)));
        assert_eq!(bench.run(secs(60), Some(ms(1))), a_minute, "{links} links, idle again");
    }
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
fn the_death_of_a_link_in_use_is_noticed_in_time_whenever_it_comes() {
    for moment in 0..50 {
        let mut bench = Bench::alive(63);
        bench.prober.carried(PEER, bench.now);
        bench.run(ms(700 + moment * 7), Some(ms(1)));
        let noticed = bench.time_to_death(true);
        assert!((ms(950)..=SILENCE_MAX).contains(&noticed), "{noticed:?}");
    }
}

#[test]
fn the_death_of_an_idle_link_is_noticed_with_its_first_frame() {
    for idle_for in (0..80).map(|step| ms(step * 100)) {
        let mut bench = Bench::alive(63);
        bench.run(idle_for, None);
        assert!(bench.prober.is_alive(PEER) && bench.prober.is_idle(PEER));
        bench.prober.carried(PEER, bench.now);
        assert_eq!(bench.tick().len(), 1, "a probe at once");
        let noticed = bench.time_to_death(true);
        assert!(noticed <= SILENCE_MAX, "{noticed:?} after {idle_for:?}");
    }
    let noticed = Bench::alive(63).time_to_death(false);
    assert!((secs(8)..=secs(10)).contains(&noticed), "{noticed:?} without any frame");
}

#[test]
fn a_link_that_dies_with_the_last_frame_is_judged_as_one_in_use() {
    let mut bench = Bench::alive(63);
    bench.prober.carried(PEER, bench.now);
    bench.run(ms(10), Some(ms(1)));
    assert!(bench.time_to_death(false) <= SILENCE_MAX);
}

#[test]
fn a_frame_now_and_then_does_not_hide_that_a_link_is_dead() {
    for every in [50, 300, 1_000, 1_900, 2_100, 3_000, 5_000] {
        let mut bench = Bench::alive(63);
        for _ in 0..10_000 / every + 1 {
            bench.prober.carried(PEER, bench.now);
            bench.run(ms(every), None);
        }
        assert!(!bench.prober.is_alive(PEER), "a frame every {every} ms");
    }
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
fn a_silence_is_looked_into_with_more_probes() {
    let mut bench = Bench::alive(0);
    let probes = bench.run(ms(1_000), None);
    assert!((8..=12).contains(&probes), "{probes}");
    assert!(bench.prober.is_alive(PEER));
}

#[test]
fn a_link_in_doubt_is_dead_within_a_moment_or_proves_that_it_is_not() {
    let mut bench = Bench::alive(0);
    let doubtful = BTreeSet::from([PEER]);
    bench.prober.doubt(&doubtful, bench.now);
    assert!(bench.run(secs(1), Some(ms(150))) >= 40);
    assert!(bench.prober.is_alive(PEER));
    assert!(!bench.reports.iter().any(|report| matches!(report, LinkReport::Dead { .. })));
    bench.prober.doubt(&BTreeSet::new(), bench.now);
    bench.run(ms(600), None);
    assert!(bench.prober.is_alive(PEER));
    bench.run(secs(5), Some(ms(1)));
    bench.prober.doubt(&doubtful, bench.now);
    let doubted = bench.now;
    bench.run(DOUBTED_SILENCE_MAX + ms(100), None);
    bench.prober.doubt(&doubtful, doubted + ms(100));
    assert!(!bench.prober.is_alive(PEER));
}

#[test]
fn after_a_pause_of_our_own_nobody_is_blamed() {
    for (pause, others) in [(secs(5), 0), (secs(20), 0), (secs(5), 63), (secs(20), 63), (secs(3_600), 3)] {
        for busy in [false, true] {
            let mut bench = Bench::alive(others);
            if busy {
                bench.prober.carried(PEER, bench.now);
                bench.run(ms(100), Some(ms(1)));
            }
            bench.now = bench.now + pause;
            // What comes first after the pause is up to chance: a frame, a wish of the control plane, or nothing.
            if busy {
                bench.prober.carried(PEER, bench.now);
            }
            bench.prober.set_links(peers(1 + others), bench.now);
            bench.tick();
            bench.run(ms(1_190), None);
            let dead = |report: &LinkReport| matches!(report, LinkReport::Dead { .. });
            assert!(!bench.reports.iter().any(dead), "{pause:?}, busy: {busy}, {others} others");
            bench.run(secs(10), Some(ms(1)));
            assert!(!bench.reports.iter().any(dead), "{pause:?}, busy: {busy}, {others} others");
            bench.time_to_death(true);
        }
    }
}

#[test]
fn a_pause_shorter_than_a_link_may_be_silent_blames_nobody_either() {
    for pause in (0..1_500).step_by(50) {
        let mut bench = Bench::alive(0);
        bench.prober.carried(PEER, bench.now);
        bench.run(ms(100), Some(ms(1)));
        bench.now = bench.now + ms(pause);
        bench.run(secs(3), Some(ms(1)));
        assert!(bench.reports.is_empty(), "{pause} ms: {:?}", bench.reports);
    }
}

#[test]
fn the_excuse_of_a_pause_ends() {
    let mut bench = Bench::alive(0);
    bench.now = bench.now + secs(60);
    bench.tick();
    bench.run(ms(1_249), None);
    assert!(bench.prober.is_alive(PEER));
    bench.run(ms(1), None);
    assert!(!bench.prober.is_alive(PEER));
}

#[test]
fn fewer_links_are_probed_faster_and_none_is_blamed_for_the_pace_before() {
    for after in (0..2_000).step_by(50) {
        let mut bench = Bench::alive(63);
        bench.run(ms(after), Some(ms(1)));
        bench.prober.set_links(peers(1), bench.now);
        bench.run(secs(5), Some(ms(1)));
        assert!(bench.reports.is_empty(), "{:?}", bench.reports);
        assert!(bench.time_to_death(false) <= SILENCE_MAX);
    }
}

#[test]
fn a_reply_counts_once_and_only_for_a_recent_probe() {
    let mut bench = Bench::new();
    let first = bench.tick()[0].probe;
    bench.prober.replied(PEER, Probe { sequence: first.sequence + 1, ..first }, bench.now + ms(1));
    assert!(!bench.prober.is_alive(PEER), "a reply to a probe never sent");
    assert!(bench.prober.replied(PEER, first, bench.now + ms(1)));
    assert_eq!(bench.prober.rtt(PEER), Some(ms(1)));
    assert!(!bench.prober.replied(PEER, first, bench.now + ms(900)));
    assert_eq!(bench.prober.rtt(PEER), Some(ms(1)), "the same reply again");
    bench.run(secs(20), None);
    bench.prober.replied(PEER, Probe { sequence: first.sequence + 1, ..first }, bench.now);
    assert!(!bench.prober.is_alive(PEER), "a reply to a probe of long ago");
    bench.run(secs(2), Some(ms(1)));
    assert!(bench.prober.is_alive(PEER), "eighty lost probes do not hide the next reply");
}

#[test]
fn replies_that_take_long_still_count() {
    let mut bench = Bench::new();
    bench.run(secs(2), Some(ms(1_200)));
    assert!(bench.prober.is_alive(PEER));
}

#[test]
fn round_trip_times_are_smoothed() {
    let mut bench = Bench::new();
    bench.run(ms(200), Some(ms(8)));
    bench.run(ms(250), Some(ms(16)));
    assert_eq!(bench.prober.rtt(PEER), Some(ms(9)));
}

#[test]
fn candidates_are_probed_while_a_link_is_not_alive_and_the_first_reply_ends_the_round() {
    let candidates: Vec<SocketAddr> = vec![([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 2).into()];
    let mut bench = Bench::new();
    bench.prober.set_links([(PEER, candidates.clone())], bench.now);
    let round = bench.tick();
    let expected = std::iter::once(None).chain(candidates.iter().copied().map(Some));
    assert!(round.iter().map(|due| due.candidate).eq(expected));
    let [first, second] = [round[1], round[2]].map(|due| due.probe);
    assert!(bench.prober.replied(PEER, first, bench.now + ms(3)));
    assert!(!bench.prober.replied(PEER, second, bench.now + ms(4)), "its address came second");
    assert_eq!(bench.prober.rtt(PEER), Some(ms(3)));
    bench.now = bench.now + FIRST_PROBE_INTERVAL;
    assert!(bench.tick().iter().all(|due| due.candidate.is_none()));
    bench.run(secs(2), None);
    assert!(!bench.prober.is_alive(PEER));
    assert!(bench.run(ms(500), None) >= 3 * 2, "they are probed again");
}

#[test]
fn a_link_without_frames_is_reported_once_until_one_passes() {
    let idle = |bench: &Bench| {
        bench.reports.iter().filter(|report| matches!(report, LinkReport::Idle { .. })).count()
    };
    let mut bench = Bench::new();
    bench.run(secs(299), Some(ms(1)));
    bench.prober.carried(PEER, bench.now);
    bench.prober.restart(PEER, bench.now);
    bench.run(secs(299), Some(ms(1)));
    assert_eq!(idle(&bench), 0);
    bench.run(secs(2), Some(ms(1)));
    assert_eq!(idle(&bench), 1);
    bench.prober.restart(PEER, bench.now);
    bench.run(secs(1_000), Some(ms(1)));
    assert_eq!(idle(&bench), 1);
    bench.prober.carried(PEER, bench.now);
    bench.run(secs(303), Some(ms(1)));
    assert_eq!(idle(&bench), 2);
}

#[test]
fn a_report_that_finds_no_room_is_offered_again() {
    let mut bench = Bench::new();
    let probe = bench.tick()[0].probe;
    bench.prober.replied(PEER, probe, bench.now);
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
    let mut bench = Bench::new();
    bench.run(ms(100), Some(ms(1)));
    bench.prober.set_links(peers(2), bench.now);
    assert!(bench.prober.is_alive(PEER) && !bench.prober.is_alive(OTHER));
    bench.prober.set_links([(OTHER, Vec::new())], bench.now);
    bench.prober.set_links(peers(2), bench.now);
    assert!(!bench.prober.is_alive(PEER));
}

#[test]
fn a_link_that_goes_takes_its_due_probes_with_it() {
    let mut bench = Bench::new();
    bench.prober.handle_timeout(bench.now);
    bench.prober.set_links([(OTHER, Vec::new())], bench.now);
    assert_eq!(bench.prober.poll_probe(bench.now), None);
}

enum Packet {
    Probe(Probe),
    Reply(Probe),
    Deaf,
}

/// Two routers that probe each other over a lossy wire, 10 ms long.
struct Wire {
    ends: [Prober; 2],
    now: Moment,
    flying: BTreeMap<(Moment, u64), (usize, Packet)>,
    sent: u64,
    loss_percent: u64,
    /// Nothing reaches this end.
    cut_off: Option<usize>,
    rng: Rng,
}

impl Wire {
    /// Each end has so many links; only the one between them is answered.
    fn new(links: u8, seed: u8) -> Self {
        let ends = [(); 2].map(|()| {
            let mut prober = Prober::default();
            prober.set_links(peers(links), Moment::ORIGIN);
            prober
        });
        let rng = Rng::from_seed([seed; 32]);
        let flying = BTreeMap::new();
        Self { ends, now: Moment::ORIGIN, flying, sent: 0, loss_percent: 0, cut_off: None, rng }
    }

    /// How often the ends take each other for dead in this time. With `busy`, both carry frames, but none is heard:
    /// the worst case.
    fn deaths(&mut self, time: Duration, busy: bool) -> usize {
        let end = self.now + time;
        let mut deaths = 0;
        while self.now < end {
            let timeouts = self.ends.iter().filter_map(Prober::poll_timeout);
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            self.now = self.now.max(timeouts.chain(arrival).min().unwrap());
            while let Some(arrived) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, packet) = arrived.remove();
                self.ends[to].heard(PEER, self.now);
                match packet {
                    Packet::Probe(probe) => self.send(1 - to, Packet::Reply(probe)),
                    Packet::Reply(probe) => drop(self.ends[to].replied(PEER, probe, self.now)),
                    Packet::Deaf => drop(self.ends[to].is_unheard(PEER, self.now)),
                }
            }
            for end in 0..2 {
                deaths += self.run(end, busy);
            }
        }
        deaths
    }

    fn run(&mut self, end: usize, busy: bool) -> usize {
        let now = self.now;
        if self.ends[end].poll_timeout().is_none_or(|at| at > now) {
            return 0;
        }
        if busy {
            self.ends[end].carried(PEER, now);
        }
        self.ends[end].handle_timeout(now);
        while let Some(due) = self.ends[end].poll_probe(now) {
            if due.peer == PEER {
                self.send(1 - end, Packet::Probe(due.probe));
            }
            if due.peer == PEER && due.is_deaf {
                self.send(1 - end, Packet::Deaf);
            }
        }
        let mut deaths = 0;
        self.ends[end].undelivered(now, |report| {
            deaths += usize::from(matches!(report, LinkReport::Dead { .. }));
            true
        });
        deaths
    }

    fn send(&mut self, to: usize, packet: Packet) {
        if self.rng.below(100) >= self.loss_percent && self.cut_off != Some(to) {
            self.sent += 1;
            self.flying.insert((self.now + ms(10), self.sent), (to, packet));
        }
    }
}

/// Deaths in so many hours of two ends.
fn false_deaths(loss_percent: u64, links: u8, busy: bool, hours: u64) -> usize {
    let mut wire = Wire::new(links, 7);
    assert_eq!(wire.deaths(secs(5), busy), 0);
    assert!(wire.ends.iter().all(|end| end.is_alive(PEER)));
    wire.loss_percent = loss_percent;
    wire.deaths(secs(hours * 3_600), busy)
}

#[test]
fn a_twentieth_of_all_packets_lost_is_never_taken_for_death() {
    assert_eq!(false_deaths(5, 1, true, 24), 0);
    assert_eq!(false_deaths(5, 64, true, 1), 0);
    assert_eq!(false_deaths(5, 4, false, 24), 0);
    assert_eq!(false_deaths(5, 64, false, 4), 0);
}

#[test]
fn a_third_of_all_packets_lost_is_hardly_ever_taken_for_death() {
    assert!(false_deaths(30, 1, true, 48) <= 1);
    assert!(false_deaths(30, 4, false, 48) <= 1);
}

#[test]
fn one_deaf_direction_ends_the_link_at_both_ends_in_time_and_it_comes_back() {
    for (links, busy) in [(1, false), (1, true), (64, true)] {
        let mut wire = Wire::new(links, 7);
        wire.deaths(secs(30), busy);
        wire.cut_off = Some(1);
        assert_eq!(wire.deaths(SILENCE_MAX + ms(25), busy), 2, "{links} links, busy: {busy}");
        assert_eq!(wire.deaths(secs(60), busy), 0);
        assert!(!wire.ends.iter().any(|end| end.is_alive(PEER)));
        wire.cut_off = None;
        assert_eq!(wire.deaths(secs(60), busy), 0, "neither is thrown back by what the other said");
        assert!(wire.ends.iter().all(|end| end.is_alive(PEER)));
    }
}

#[test]
fn a_link_that_has_just_come_alive_is_beyond_what_its_peer_says() {
    let mut bench = Bench::new();
    bench.run(ms(600), Some(ms(1)));
    assert!(!bench.prober.is_unheard(PEER, bench.now));
    bench.run(secs(1), Some(ms(1)));
    assert!(bench.prober.is_unheard(PEER, bench.now) && !bench.prober.is_alive(PEER));
    assert!(!bench.prober.is_unheard(PEER, bench.now), "said once");
}

#[test]
fn a_neighbour_that_moves_away_is_reported_once_and_a_late_reply_is_not() {
    let mut bench = Bench::alive(0);
    bench.run(secs(1), Some(ms(400)));
    bench.run(secs(20), Some(ms(1)));
    assert_eq!(bench.reports, [], "a few late replies are a queue, not a distance");
    bench.run(secs(20), Some(ms(40)));
    assert_eq!(bench.reports, [LinkReport::Alive { peer: PEER, rtt: ms(40) }]);
    bench.run(secs(20), Some(ms(45)));
    assert_eq!(bench.reports.len(), 1, "a little is nothing");
    bench.run(secs(20), Some(ms(1)));
    assert_eq!(bench.reports.len(), 2);
    assert_eq!(bench.reports[1], LinkReport::Alive { peer: PEER, rtt: ms(1) });
}

#[test]
fn the_share_of_lost_probes_is_told_and_forgotten_with_the_link() {
    let mut bench = Bench::alive(0);
    assert_eq!(bench.prober.loss_ppm(PEER), Some(0));
    // One of four: those between two replies are lost.
    for _ in 0..100 {
        bench.run(PROBE_INTERVAL * 3, Some(ms(1)));
        bench.run(PROBE_INTERVAL, None);
    }
    let loss = bench.prober.loss_ppm(PEER).unwrap();
    assert!((150_000..350_000).contains(&loss), "{loss} parts per million");
    bench.run(secs(60), Some(ms(1)));
    assert!(bench.prober.loss_ppm(PEER).unwrap() < loss / 4);
    bench.run(secs(10), None);
    assert_eq!(bench.prober.loss_ppm(PEER), None);
}
