use proptest::prelude::*;

use super::*;

const PEER: PeerId = PeerId::from_bytes([1; 16]);

/// A path with a round-trip time of 10 ms, and an interface in front of it.
struct World {
    sizes: Sizes,
    now: Moment,
    interface: u16,
    path: u16,
    is_up: bool,
    carries: bool,
    /// Answers on their way.
    answers: Vec<(Moment, u32)>,
    probes: usize,
}

impl World {
    fn new(interface: u16, path: u16) -> Self {
        Self {
            sizes: Sizes::default(),
            now: Moment::ORIGIN,
            interface,
            path,
            is_up: true,
            carries: true,
            answers: Vec::new(),
            probes: 0,
        }
    }

    fn remote() -> SocketAddr {
        ([192, 0, 2, 1], 1).into()
    }

    /// One millisecond; `lost` says of each datagram whether it is.
    fn step(&mut self, lost: &mut impl FnMut() -> bool) {
        self.now = self.now + Duration::from_millis(1);
        let (now, interface) = (self.now, self.interface);
        self.sizes.follow(PEER, (true, self.carries), Self::remote(), || Some(interface), now);
        let (arrived, waiting) = self.answers.drain(..).partition(|(at, _)| *at <= now);
        self.answers = waiting;
        let arrived: Vec<(Moment, u32)> = arrived;
        for (_, sequence) in arrived {
            self.sizes.replied(PEER, sequence, now);
        }
        self.sizes.handle_timeout(now);
        while let Some(probe) = self.sizes.poll_probe(now) {
            self.probes += 1;
            if probe.datagram_len > self.interface {
                self.sizes.refused(PEER, probe.sequence, now);
                continue;
            }
            let at = now + Duration::from_millis(10);
            if self.is_up && probe.datagram_len <= self.path && !lost() {
                self.answers.push((at, probe.sequence));
            }
            if self.is_up && !lost() {
                self.answers.push((at, probe.sequence + 1));
            }
        }
    }

    fn run(&mut self, time: Duration) {
        self.run_lossy(time, || false);
    }

    fn run_lossy(&mut self, time: Duration, mut lost: impl FnMut() -> bool) {
        let end = self.now + time;
        while self.now < end {
            self.step(&mut lost);
        }
    }

    fn size(&self) -> PathSize {
        self.sizes.size(PEER)
    }

    fn is_settled_at(&self, datagram_len: u16) -> bool {
        self.size() == PathSize { datagram_len, is_settled: true }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_path_that_takes_what_the_interface_takes_is_known_after_one_round_trip() {
    let mut world = World::new(1472, 1472);
    world.run(Duration::from_millis(5));
    assert_eq!(world.size(), PathSize { datagram_len: 1472, is_settled: false });
    world.run(Duration::from_millis(10));
    assert!(world.is_settled_at(1472), "{:?}", world.size());
    assert_eq!(world.probes, 2, "the second one is refused on the spot");
}

#[test]
fn a_narrow_path_is_found_to_the_byte_within_five_seconds() {
    for path in [508, 509, 548, 1172, 1272, 1471] {
        let mut world = World::new(1472, path);
        world.run(SECOND * 5);
        assert!(world.is_settled_at(path), "{path}: {:?}", world.size());
    }
    let mut world = World::new(8972, 1472);
    world.run(SECOND * 5);
    assert!(world.is_settled_at(1472), "{:?}", world.size());
}

#[test]
fn a_path_that_narrows_in_silence_is_followed_within_five_seconds_and_never_overstated_for_long() {
    let mut world = World::new(1472, 1472);
    world.run(SECOND * 3);
    world.path = 1272;
    world.run(Duration::from_millis(1_000 + 6 * 62 + 20));
    assert!(world.size().datagram_len <= 1272, "{:?}", world.size());
    world.run(SECOND * 3);
    assert!(world.is_settled_at(1272), "{:?}", world.size());
}

#[test]
fn a_path_without_frames_is_not_watched_until_one_passes() {
    let mut world = World::new(1472, 1472);
    world.carries = false;
    world.run(SECOND * 10);
    assert_eq!(world.probes, 2);
    world.path = 1272;
    world.carries = true;
    world.run(Duration::from_millis(500));
    assert!(world.size().datagram_len <= 1272, "{:?}", world.size());
}

#[test]
fn a_narrower_interface_counts_at_once_when_sending_fails() {
    let mut world = World::new(1472, 1472);
    world.run(Duration::from_millis(100));
    (world.interface, world.path) = (1272, 1272);
    world.sizes.doubt(PEER, world.now);
    world.run(Duration::from_millis(2));
    assert!(world.size().datagram_len <= 1272, "{:?}", world.size());
    world.run(SECOND);
    assert!(world.is_settled_at(1272), "{:?}", world.size());
}

#[test]
fn a_path_that_widens_is_found_by_the_next_look_and_stays_settled_meanwhile() {
    let mut world = World::new(1472, 1272);
    world.run(SECOND * 5);
    world.path = 1472;
    let mut lost = || false;
    for _ in 0..22_000 {
        world.step(&mut lost);
        assert!(world.size().is_settled);
    }
    assert!(world.is_settled_at(1472), "{:?}", world.size());
}

#[test]
fn an_outage_says_nothing_about_sizes() {
    let mut world = World::new(1472, 1472);
    world.run(SECOND);
    world.is_up = false;
    world.run(SECOND * 60);
    assert_eq!(world.size().datagram_len, 1472);
    world.is_up = true;
    world.run(SECOND);
    assert!(world.is_settled_at(1472), "{:?}", world.size());
}

#[test]
fn a_neighbour_that_answers_no_size_probe_is_sent_what_the_routes_take() {
    let mut world = World::new(1472, 1472);
    world.is_up = false;
    world.run(SECOND * 10);
    assert_eq!(world.size(), PathSize { datagram_len: 1472, is_settled: false });
}

#[test]
fn another_address_and_another_life_are_measured_anew() {
    let mut world = World::new(1472, 1272);
    world.run(SECOND * 5);
    let elsewhere = ([192, 0, 2, 9], 1).into();
    world.sizes.follow(PEER, (true, true), elsewhere, || Some(1472), world.now);
    assert_eq!(world.size(), PathSize { datagram_len: 1472, is_settled: false });
    world.sizes.follow(PEER, (false, false), elsewhere, || None, world.now);
    assert_eq!(world.size(), PathSize::UNMEASURED);
    world.sizes.retain(|_| false);
    assert_eq!(world.sizes.poll_timeout(), None);
}

#[test]
fn a_size_is_told_once_when_it_has_settled_and_again_until_it_is_taken() {
    let mut world = World::new(1472, 1472);
    let mut told = Vec::new();
    world.sizes.undelivered(|_, size| {
        told.push(size);
        true
    });
    world.run(SECOND);
    for takes in [false, true, true] {
        world.sizes.undelivered(|_, size| {
            told.push(size);
            takes
        });
    }
    assert_eq!(told, [1472, 1472]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn five_percent_of_loss_hide_no_size(path in 508_u16..1472, losses in prop::collection::vec(0_u8..100, 400)) {
        let mut world = World::new(1472, path);
        let mut drawn = losses.iter().cycle();
        world.run_lossy(SECOND * 8, || drawn.next().is_some_and(|percent| *percent < 5));
        let found = world.size().datagram_len;
        prop_assert!(found <= path);
        // A greater one may be refuted by chance; it is asked for again later.
        world.run(SECOND * 21);
        prop_assert_eq!(world.size().datagram_len, path);
    }
}
