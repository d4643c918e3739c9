use proptest::prelude::*;

use super::super::Pieces;
use super::super::samples::{Sample, sample};
use super::*;

/// One write to the TAP interface.
type Written = (Offload, Vec<u8>);

fn merge(frames: &[Vec<u8>]) -> Vec<Written> {
    merge_to(SuperFrames::TcpAndUdp, frames)
}

fn merge_to(takes: SuperFrames, frames: &[Vec<u8>]) -> Vec<Written> {
    let (mut merger, mut written) = (Merger::new(takes), Vec::new());
    let mut inject = |injection: &Injection<'_>| {
        let bytes = [injection.head, &injection.payloads.concat()].concat();
        let on_wire = cut(&(injection.offload, bytes.clone()));
        assert_eq!((injection.frames, injection.frames_len), (on_wire.len(), on_wire.concat().len()));
        written.push((injection.offload, bytes));
    };
    frames.iter().for_each(|frame| merger.push(frame, &mut inject));
    merger.flush(&mut inject);
    written
}

/// The frames that a write stands for.
fn cut((offload, bytes): &Written) -> Vec<Vec<u8>> {
    let Offload::Segmentation(segmentation) = *offload else {
        assert_eq!(*offload, Offload::Nothing);
        return vec![bytes.clone()];
    };
    let pieces = Pieces::new(bytes, segmentation).unwrap();
    let piece = |number| {
        let mut piece = Vec::new();
        pieces.write(number, &mut piece);
        piece
    };
    (0..pieces.count()).map(piece).collect()
}

fn cut_all(written: &[Written]) -> Vec<Vec<u8>> {
    written.iter().flat_map(cut).collect()
}

fn frames(samples: &[Sample]) -> Vec<Vec<u8>> {
    samples.iter().map(Sample::frame).collect()
}

/// How many frames each write has.
fn counts(samples: &[Sample]) -> Vec<usize> {
    merge(&frames(samples)).iter().map(|written| cut(written).len()).collect()
}

fn stream(len: usize, size: usize) -> Vec<Sample> {
    Sample::tcp(9, 0x10, &vec![7; len]).cut(size)
}

#[test]
fn what_differs_in_anything_but_its_place_in_the_stream_is_not_merged() {
    assert_eq!(counts(&stream(30, 10)), [3]);
    let edits: [fn(&mut Sample); 12] = [
        |frame| frame.id += 1,
        |frame| frame.sequence += 1,
        |frame| frame.acknowledged += 1,
        |frame| frame.window += 1,
        |frame| frame.hops -= 1,
        |frame| frame.traffic_class ^= 3,
        |frame| frame.options = vec![1; 4],
        |frame| frame.flags |= 0x40,
        |frame| frame.flags |= 0x80,
        |frame| frame.flags |= 0x20,
        |frame| frame.tag = Some(5),
        |frame| frame.payload.push(7),
    ];
    for (number, edit) in edits.iter().enumerate() {
        let mut samples = stream(20, 10);
        edit(&mut samples[1]);
        assert_eq!(counts(&samples), [1, 1], "edit {number}");
        assert_eq!(cut_all(&merge(&frames(&samples))), frames(&samples), "edit {number}");
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    // Of IPv4, of TCP, and a byte of data.
    for at in [24, 50, 60] {
        let mut frames = frames(&stream(150, 50));
        frames[1][at] ^= 1;
        let written = merge(&frames);
        assert_eq!(written.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), frames);
    }
}

#[test]
fn a_push_a_fin_and_a_short_frame_end_a_super_frame() {
    for end in [|frame: &mut Sample| frame.flags |= 0x08, |frame: &mut Sample| frame.flags |= 0x01] {
        let mut samples = stream(60, 10);
        end(&mut samples[2]);
        assert_eq!(counts(&samples), [3, 3]);
    }
    let mut short = stream(35, 10);
    let mut rest = stream(30, 10);
    for (number, frame) in rest.iter_mut().enumerate() {
        (frame.sequence, frame.id) = (9 + 35 + 10 * number as u32, 7 + 4 + number as u16);
    }
    short.extend(rest);
    assert_eq!(counts(&short), [4, 3]);
}

#[test]
fn a_stream_is_not_passed_by_its_own_frames_without_data_nor_by_what_may_be_its_own() {
    let data = stream(20, 10);
    let acknowledgement = Sample { payload: Vec::new(), sequence: 29, id: 9, ..data[0].clone() };
    let reset = Sample { flags: 0x14, ..acknowledgement.clone() };
    let fragment = {
        let mut frame = data[0].frame();
        frame[20] = 0x20;
        frame
    };
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 28]].concat();
    for barrier in [acknowledgement.frame(), reset.frame(), fragment, arp, vec![1, 2, 3]] {
        let mut all = frames(&data);
        all.push(barrier);
        let written = merge(&all);
        assert_eq!(written.iter().map(|written| cut(written).len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(cut_all(&written), all);
    }
}

#[test]
fn other_streams_and_datagrams_do_not_end_a_super_frame() {
    let data = stream(20, 10);
    let other = Sample { ports: [1, 2], ..data[0].clone() };
    let datagram = Sample { is_udp: true, ..data[0].clone() };
    let samples = [data[0].clone(), other.clone(), datagram.clone(), data[1].clone()];
    let written = cut_all(&merge(&frames(&samples)));
    assert_eq!(written, frames(&[data[0].clone(), data[1].clone(), other, datagram]));
}

fn datagrams(len: usize, size: usize) -> Vec<Sample> {
    Sample { is_udp: true, ..Sample::tcp(9, 0x10, &vec![7; len]) }.cut(size)
}

#[test]
fn datagrams_of_one_length_are_merged_and_a_shorter_one_is_the_last() {
    assert_eq!(counts(&datagrams(640 + 20, 10)), [64, 2]);
    let with_lengths = |lengths: &[usize]| -> Vec<_> {
        let datagram = |(number, len): (usize, &usize)| Sample {
            id: 7 + number as u16,
            payload: vec![1; *len],
            ..datagrams(10, 10)[0].clone()
        };
        lengths.iter().enumerate().map(datagram).collect()
    };
    assert_eq!(counts(&with_lengths(&[10, 10, 4, 10, 10])), [3, 2]);
    assert_eq!(counts(&with_lengths(&[10, 12, 12])), [1, 2]);
    assert_eq!(counts(&with_lengths(&[10, 0, 10])), [1, 1, 1]);
}

#[test]
fn datagrams_that_differ_by_more_than_their_place_are_not_merged() {
    let edits: [fn(&mut Sample); 5] = [
        |frame| frame.id += 1,
        |frame| frame.hops -= 1,
        |frame| frame.traffic_class ^= 3,
        |frame| frame.ports[1] += 1,
        |frame| frame.is_udp = false,
    ];
    for (number, edit) in edits.iter().enumerate() {
        let mut samples = datagrams(20, 10);
        edit(&mut samples[1]);
        assert_eq!(counts(&samples), [1, 1], "edit {number}");
    }
}

#[test]
fn datagrams_without_a_checksum_and_with_a_wrong_one_stay_as_they_are() {
    let checksum = 14 + 20 + 6;
    for sum in [[0, 0], [1, 2]] {
        let mut frames = frames(&datagrams(30, 10));
        frames[1][checksum..checksum + 2].copy_from_slice(&sum);
        let written = merge(&frames);
        assert_eq!(written.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), frames);
    }
}

#[test]
fn nothing_is_merged_that_cannot_be_written() {
    let (datagrams, data) = (frames(&datagrams(30, 10)), frames(&stream(30, 10)));
    let mixed = [datagrams, data].concat();
    assert_eq!(merge_to(SuperFrames::Tcp, &mixed).len(), 4);
    assert_eq!(merge_to(SuperFrames::Nothing, &mixed).len(), 6);
}

#[test]
fn a_super_frame_has_limits_in_frames_and_in_bytes() {
    assert_eq!(counts(&stream(640 + 20, 10)), [64, 2]);
    // 65,535 less 40 for headers, by 1,400.
    assert_eq!(counts(&stream(50 * 1_400, 1_400)), [46, 4]);
}

#[test]
fn more_streams_than_can_wait_pass_in_order() {
    let streams = u16::try_from(STREAMS_MAX).unwrap() + 3;
    let samples: Vec<_> = stream(30, 10)
        .iter()
        .flat_map(|frame| (0..streams).map(|port| Sample { ports: [port, 1], ..frame.clone() }))
        .collect();
    let written = cut_all(&merge(&frames(&samples)));
    for port in 0..streams {
        let of = |frames: Vec<Vec<u8>>| -> Vec<_> {
            frames.into_iter().filter(|frame| frame[34..36] == port.to_be_bytes()).collect()
        };
        assert_eq!(of(written.clone()), of(frames(&samples)), "stream {port}");
    }
}

proptest! {
    #[test]
    fn what_was_cut_is_merged_to_what_it_was(sample in sample(20_000, true), size in 1_u16..2_000) {
        let size = size.max(u16::try_from(sample.payload.len().div_ceil(MERGED_FRAMES_MAX)).unwrap().max(1));
        let written = merge(&frames(&sample.cut(size.into())));
        let expected = if sample.payload.len() > size.into() {
            (Offload::Segmentation(sample.segmentation(size)), sample.super_frame())
        } else {
            (Offload::Nothing, sample.frame())
        };
        prop_assert_eq!(written, [expected]);
    }

    #[test]
    fn bytes_and_the_order_within_a_stream_stay_whatever_comes(
        streams in prop::collection::vec((sample(3_000, true), 50_usize..500), 1..5),
        turns in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..20, any::<prop::sample::Index>()), 0..80),
    ) {
        let mut queues: Vec<_> = streams
            .iter()
            .enumerate()
            .map(|(number, (sample, size))| {
                let ports = [u16::try_from(number).unwrap(), 9];
                Sample { ports, options: vec![], tag: None, is_v6: false, ..sample.clone() }.cut(*size).into_iter()
            })
            .collect();
        let mut all: Vec<(usize, Vec<u8>)> = Vec::new();
        for (queue, event, place) in turns {
            let number = queue.index(queues.len());
            let Some(mut frame) = queues[number].next().map(|sample| sample.frame()) else { continue };
            match event {
                0 => continue,
                1 => all.push((number, frame.clone())),
                2 => {
                    // Anywhere but in what tells streams apart here.
                    let at = 38 + place.index(frame.len() - 38);
                    frame[at] ^= 1;
                }
                _ => {}
            }
            all.push((number, frame));
        }
        let pushed: Vec<_> = all.iter().map(|(_, frame)| frame.clone()).collect();
        let written = cut_all(&merge(&pushed));
        let of = |frames: &[Vec<u8>], number: usize| -> Vec<Vec<u8>> {
            let port = u16::try_from(number).unwrap().to_be_bytes();
            frames.iter().filter(|frame| frame[34..36] == port).cloned().collect()
        };
        prop_assert_eq!(written.len(), pushed.len());
        for number in 0..queues.len() {
            prop_assert_eq!(of(&written, number), of(&pushed, number));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        samples in prop::collection::vec(sample(40, true), 1..4),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..6),
        len: prop::sample::Index,
    ) {
        let mut frames: Vec<_> = samples.iter().flat_map(|sample| frames(&sample.cut(10))).collect();
        for (frame, at, value) in edits {
            let frame = frame.index(frames.len());
            let at = at.index(frames[frame].len());
            frames[frame][at] = value;
        }
        let cut = len.index(frames[0].len());
        frames[0].truncate(cut);
        prop_assert_eq!(cut_all(&merge(&frames)).len(), frames.len());
    }
}
