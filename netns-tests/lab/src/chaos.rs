//! A bad wire, as a queue: what goes in late, twice, overtaken, damaged or not at all comes out so.
//!
//! Pure and deterministic: the same seed, frames and times give the same result. Time is a span since some
//! start of the caller's choice. The thread that moves frames is in [`wire`](crate::wire).

use std::collections::BTreeMap;
use std::time::Duration;

/// So many frames wait in one direction of a wire; a frame that finds the queue full is dropped and counted.
pub const CHAOS_FRAMES_MAX: usize = 65_536;

/// Damage is done behind the Ethernet header, so that a damaged frame still reaches the host it was sent to.
const ETHERNET_HEADER_BYTES: usize = 14;

/// What a wire does to frames; each direction alike, with chances of its own. The default does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Chaos {
    /// Each frame is late by this many milliseconds.
    pub delay_ms: u64,
    /// Each frame is late by a further 0 to this many milliseconds, evenly spread. Order is kept.
    pub jitter_ms: u64,
    /// So many of a hundred frames are held back further, and overtaken by later ones.
    pub reorder_percent: f64,
    /// How long an overtaken frame is held back at most; 0 stands for [`Chaos::REORDER_MS`].
    pub reorder_ms: u64,
    /// So many of a hundred frames arrive twice.
    pub duplicate_percent: f64,
    /// In so many of a hundred frames one bit behind the Ethernet header is flipped.
    pub corrupt_percent: f64,
    /// So many of a hundred frames do not arrive.
    pub loss_percent: f64,
    /// Where the chances come from.
    pub seed: u64,
}

impl Chaos {
    /// How long an overtaken frame is held back at most, in milliseconds, unless said otherwise.
    pub const REORDER_MS: u64 = 20;

    fn hold_back_ms(&self) -> u64 {
        if self.reorder_ms == 0 { Self::REORDER_MS } else { self.reorder_ms }
    }
}

/// How many frames met which fate. One frame may meet several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChaosCounts {
    /// Frames that came out, copies included.
    pub forwarded: u64,
    /// Frames that were lost by chance.
    pub lost: u64,
    /// Frames that were lost because too many were in the wire.
    pub overflowed: u64,
    /// Frames that were held back to be overtaken.
    pub reordered: u64,
    /// Frames of which a copy was made.
    pub duplicated: u64,
    /// Frames that were damaged.
    pub corrupted: u64,
}

impl std::ops::Add for ChaosCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            forwarded: self.forwarded + other.forwarded,
            lost: self.lost + other.lost,
            overflowed: self.overflowed + other.overflowed,
            reordered: self.reordered + other.reordered,
            duplicated: self.duplicated + other.duplicated,
            corrupted: self.corrupted + other.corrupted,
        }
    }
}

/// One direction of a wire.
#[derive(Debug)]
pub struct ChaosQueue {
    chaos: Chaos,
    dice: Dice,
    /// By the time when a frame is due, and by order of entry among equals.
    waiting: BTreeMap<(Duration, u64), Vec<u8>>,
    entered: u64,
    last_due: Duration,
    counts: ChaosCounts,
}

impl ChaosQueue {
    /// An empty wire. Two directions of one wire differ in `stream`.
    #[must_use]
    pub fn new(chaos: Chaos, stream: u64) -> Self {
        Self {
            chaos,
            dice: Dice::new(chaos.seed, stream),
            waiting: BTreeMap::new(),
            entered: 0,
            last_due: Duration::ZERO,
            counts: ChaosCounts::default(),
        }
    }

    /// Changes what happens to later frames. Those that are in the wire come out as it was settled when they
    /// went in.
    pub fn change(&mut self, chaos: Chaos) {
        self.chaos = chaos;
    }

    /// Puts a frame into the wire at the time `now`.
    pub fn push(&mut self, frame: &[u8], now: Duration) {
        let fate = Fate::drawn(&self.chaos, &mut self.dice);
        if fate.lost {
            self.counts.lost += 1;
            return;
        }
        let mut frame = frame.to_vec();
        if fate.corrupted && corrupt(&mut frame, fate.position) {
            self.counts.corrupted += 1;
        }
        let in_order = (now + fate.delay).max(self.last_due);
        let due = match fate.held_back {
            Some(longer) => {
                self.counts.reordered += 1;
                in_order + longer
            }
            None => {
                self.last_due = in_order;
                in_order
            }
        };
        if fate.duplicated {
            self.counts.duplicated += 1;
            self.enqueue(due, frame.clone());
        }
        self.enqueue(due, frame);
    }

    /// Takes out the next frame that is due by `now`.
    pub fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        let first = self.waiting.first_entry().filter(|entry| entry.key().0 <= now)?;
        self.counts.forwarded += 1;
        Some(first.remove())
    }

    /// When the next frame is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.keys().next().map(|(due, _)| *due)
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counts(&self) -> ChaosCounts {
        self.counts
    }

    fn enqueue(&mut self, due: Duration, frame: Vec<u8>) {
        if self.waiting.len() == CHAOS_FRAMES_MAX {
            self.counts.overflowed += 1;
            return;
        }
        self.waiting.insert((due, self.entered), frame);
        self.entered += 1;
    }
}

/// What shall happen to one frame.
#[derive(Debug)]
struct Fate {
    lost: bool,
    corrupted: bool,
    duplicated: bool,
    held_back: Option<Duration>,
    delay: Duration,
    /// Picks the bit that is flipped.
    position: u64,
}

impl Fate {
    /// Draws the same number of dice for each frame, whatever the settings are: so a change of one setting
    /// leaves the chances of the others as they were.
    fn drawn(chaos: &Chaos, dice: &mut Dice) -> Self {
        let lost = dice.chance(chaos.loss_percent);
        let corrupted = dice.chance(chaos.corrupt_percent);
        let position = dice.roll();
        let duplicated = dice.chance(chaos.duplicate_percent);
        let reordered = dice.chance(chaos.reorder_percent);
        let longer = Duration::from_millis(1) + dice.part_of(Duration::from_millis(chaos.hold_back_ms()));
        let jitter = dice.part_of(Duration::from_millis(chaos.jitter_ms));
        let delay = Duration::from_millis(chaos.delay_ms) + jitter;
        Self { lost, corrupted, duplicated, held_back: reordered.then_some(longer), delay, position }
    }
}

/// Flips one bit of the payload; `false` if there is none.
fn corrupt(frame: &mut [u8], position: u64) -> bool {
    let Some(payload) = frame.get_mut(ETHERNET_HEADER_BYTES..).filter(|payload| !payload.is_empty()) else {
        return false;
    };
    let bits = payload.len() as u64 * 8;
    let bit = position % bits;
    payload[usize::try_from(bit / 8).expect("an index into a slice")] ^= 1 << (bit % 8);
    true
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, seeded, good enough to throw dice.
#[derive(Debug)]
struct Dice {
    state: u64,
}

impl Dice {
    const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Streams are apart: a number is mixed first, as neighbouring states would give overlapping sequences.
    fn new(seed: u64, stream: u64) -> Self {
        let mixed = Self { state: stream }.roll();
        Self { state: seed ^ mixed }
    }

    fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(Self::GOLDEN_GAMMA);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly spread from 0 up to, not including, 1.
    fn fraction(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
        let bits = (self.roll() >> 11) as f64;
        bits / (1_u64 << 53) as f64
    }

    fn chance(&mut self, percent: f64) -> bool {
        self.fraction() * 100.0 < percent
    }

    fn part_of(&mut self, whole: Duration) -> Duration {
        whole.mul_f64(self.fraction())
    }
}

#[cfg(test)]
mod tests;
