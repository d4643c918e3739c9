use super::*;

const FRAMES: usize = 2_000;

/// Sends numbered frames, a millisecond apart, and gives what comes out: (time, number, frame).
fn through(chaos: Chaos, stream: u64) -> (Vec<(Duration, u32, Vec<u8>)>, ChaosCounts) {
    let mut queue = ChaosQueue::new(chaos, stream);
    let mut out = Vec::new();
    for tick in 0..FRAMES as u64 + 2_000 {
        let now = Duration::from_millis(tick);
        if tick < FRAMES as u64 {
            queue.push(&frame(tick as u32), now);
        }
        while let Some(frame) = queue.pop(now) {
            out.push((now, number(&frame), frame));
        }
    }
    (out, queue.counts())
}

fn frame(number: u32) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..4].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[..4].try_into().unwrap())
}

fn share(count: u64) -> f64 {
    count as f64 * 100.0 / FRAMES as f64
}

#[test]
fn a_wire_without_settings_passes_everything_at_once_in_order() {
    let (out, counts) = through(Chaos::default(), 0);

    assert_eq!(counts, ChaosCounts { forwarded: FRAMES as u64, ..ChaosCounts::default() });
    for (index, (time, number, bytes)) in out.iter().enumerate() {
        assert_eq!((*time, *number as usize), (Duration::from_millis(index as u64), index));
        assert_eq!(bytes, &frame(*number));
    }
}

#[test]
fn the_same_seed_gives_the_same_wire_and_another_seed_or_direction_another() {
    let chaos = Chaos {
        delay_ms: 5,
        jitter_ms: 10,
        reorder_percent: 10.0,
        duplicate_percent: 10.0,
        corrupt_percent: 10.0,
        loss_percent: 10.0,
        seed: 7,
        ..Chaos::default()
    };

    assert_eq!(through(chaos, 0), through(chaos, 0));
    assert_ne!(through(chaos, 0), through(chaos, 1));
    assert_ne!(through(chaos, 0), through(Chaos { seed: 8, ..chaos }, 0));
}

#[test]
fn delay_and_jitter_keep_order_and_bounds() {
    let (out, _) = through(Chaos { delay_ms: 30, jitter_ms: 20, ..Chaos::default() }, 0);

    assert_eq!(out.len(), FRAMES);
    assert!(out.is_sorted_by_key(|(_, number, _)| *number));
    for (time, number, _) in &out {
        let late = *time - Duration::from_millis((*number).into());
        assert!((30..=51).contains(&late.as_millis()), "{number} is late by {late:?}");
    }
}

#[test]
fn reordered_frames_are_overtaken_within_the_limit_and_none_is_lost() {
    let (out, counts) = through(Chaos { reorder_percent: 20.0, reorder_ms: 10, ..Chaos::default() }, 0);

    assert!((15.0..25.0).contains(&share(counts.reordered)), "{counts:?}");
    assert!(!out.is_sorted_by_key(|(_, number, _)| *number));
    assert_eq!(out.len(), FRAMES);
    for (time, number, _) in &out {
        assert!(*time - Duration::from_millis((*number).into()) <= Duration::from_millis(12));
    }
}

#[test]
fn loss_duplication_and_damage_come_as_often_as_asked_for() {
    let (_, lossy) = through(Chaos { loss_percent: 30.0, ..Chaos::default() }, 0);
    assert!((26.0..34.0).contains(&share(lossy.lost)), "{lossy:?}");
    assert_eq!(lossy.forwarded + lossy.lost, FRAMES as u64);

    let (_, doubled) = through(Chaos { duplicate_percent: 100.0, ..Chaos::default() }, 0);
    assert_eq!(doubled.forwarded, 2 * FRAMES as u64);

    let (out, damaged) = through(Chaos { corrupt_percent: 5.0, ..Chaos::default() }, 0);
    assert!((3.0..7.0).contains(&share(damaged.corrupted)), "{damaged:?}");
    let changed = out.iter().filter(|(_, number, bytes)| *bytes != frame(*number)).count();
    assert_eq!(changed as u64, damaged.corrupted);
}

#[test]
fn a_change_of_loss_leaves_the_other_chances_as_they_were() {
    let duplicating = Chaos { duplicate_percent: 10.0, seed: 3, ..Chaos::default() };
    let numbers_of_copies = |chaos| {
        let (out, _) = through(chaos, 0);
        let pairs = out.windows(2).filter(|pair| pair[0].1 == pair[1].1);
        pairs.map(|pair| pair[0].1).collect::<Vec<_>>()
    };

    let sound = numbers_of_copies(duplicating);
    let lossy = numbers_of_copies(Chaos { loss_percent: 20.0, ..duplicating });
    assert!(!lossy.is_empty());
    assert!(lossy.iter().all(|number| sound.contains(number)));
}

#[test]
fn a_full_wire_drops_the_newest_and_counts_it() {
    let mut queue = ChaosQueue::new(Chaos { delay_ms: 1, ..Chaos::default() }, 0);
    for number in 0..CHAOS_FRAMES_MAX as u32 + 5 {
        queue.push(&frame(number), Duration::ZERO);
    }

    assert_eq!(queue.counts().overflowed, 5);
    assert_eq!(number(&queue.pop(Duration::from_secs(1)).unwrap()), 0);
}

#[test]
fn a_frame_without_payload_cannot_be_damaged() {
    let mut queue = ChaosQueue::new(Chaos { corrupt_percent: 100.0, ..Chaos::default() }, 0);
    queue.push(&[1; 14], Duration::ZERO);

    assert_eq!(queue.pop(Duration::ZERO), Some(vec![1; 14]));
    assert_eq!(queue.counts().corrupted, 0);
}
