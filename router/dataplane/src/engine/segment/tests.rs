use proptest::prelude::*;

use super::super::offload::{Offload, PartialChecksum};
use super::super::samples::{Sample, sample};
use super::*;

fn pieces(sample: &Sample, size: u16) -> Vec<Vec<u8>> {
    let frame = sample.super_frame();
    let pieces = Pieces::new(&frame, sample.segmentation(size)).unwrap();
    let mut all = Vec::new();
    for number in 0..pieces.count() {
        let mut out = vec![77];
        pieces.write(number, &mut out);
        assert_eq!(out.remove(0), 77);
        assert_eq!(out.len(), pieces.frame_len(number));
        all.push(out);
    }
    assert_eq!(pieces.frames_len(), all.concat().len());
    all
}

fn whole(sample: &Sample, size: usize) -> Vec<Vec<u8>> {
    sample.cut(size).iter().map(Sample::frame).collect()
}

#[test]
fn cuts_the_longest_super_frame() {
    let payload: Vec<u8> = (0..65_535 - 40).map(|n| n as u8).collect();
    let sample = Sample::tcp(u32::MAX - 10, 0xd9, &payload);
    let all = pieces(&sample, 1318);
    assert_eq!(all.len(), 50);
    assert_eq!(all, whole(&sample, 1318));
}

#[test]
fn a_super_frame_with_extension_headers_keeps_them_in_each_piece() {
    let sample = Sample { is_v6: true, ..Sample::tcp(1, 0x10, &[5; 250]) };
    let mut frame = sample.super_frame();
    let extension = [6, 0, 1, 4, 0, 0, 0, 0];
    frame.splice(54..54, extension);
    frame[20] = 0;
    let len = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    let mut segmentation = sample.segmentation(100);
    segmentation.checksum.start += 8;
    let pieces = Pieces::new(&frame, segmentation).unwrap();
    for (number, plain) in sample.cut(100).iter().map(Sample::frame).enumerate() {
        let mut out = Vec::new();
        pieces.write(number, &mut out);
        assert_eq!(out[54..62], extension);
        assert_eq!(u16::from_be_bytes([out[18], out[19]]), u16::from_be_bytes([plain[18], plain[19]]) + 8);
        assert_eq!(out[62..], plain[54..]);
    }
}

#[test]
fn refuses_a_frame_that_is_not_what_it_is_said_to_be() {
    let sample = Sample::tcp(1, 0x10, &[5; 250]);
    let (frame, right) = (sample.super_frame(), sample.segmentation(100));
    assert!(Pieces::new(&frame, right).is_ok());
    let checksum = |start, offset| Segmentation { checksum: PartialChecksum { start, offset }, ..right };
    let wrong = [
        Segmentation { kind: SegmentKind::TcpV6 { has_cwr: false }, ..right },
        Segmentation { kind: SegmentKind::Udp, ..right },
        Segmentation { size: 0, ..right },
        checksum(34, 6),
        checksum(13, 16),
        checksum(38, 16),
        checksum(u16::MAX, 16),
    ];
    for segmentation in wrong {
        assert_eq!(Pieces::new(&frame, segmentation).err(), Some(BadOffload), "{segmentation:?}");
    }
    for (at, value) in [(14, 0x46), (14, 0x65), (20, 0x20), (21, 1), (17, 3), (46, 0x40)] {
        let mut frame = frame.clone();
        frame[at] = value;
        assert_eq!(Pieces::new(&frame, right).err(), Some(BadOffload), "{value:#x} at {at}");
    }
    for len in 0..frame.len() {
        assert_eq!(Pieces::new(&frame[..len], right).err(), Some(BadOffload), "{len} bytes of it");
    }
}

proptest! {
    #[test]
    fn pieces_are_what_a_host_without_offloads_would_have_sent(
        sample in sample(5_000, true),
        size in 1_u16..2_000,
    ) {
        let size = size.max(u16::try_from(sample.payload.len() / 60).unwrap().max(1));
        prop_assert_eq!(pieces(&sample, size), whole(&sample, size.into()));
    }

    #[test]
    fn no_bytes_make_it_panic(
        mut frame in sample(300, true).prop_map(|sample| sample.super_frame()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut: prop::sample::Index,
        header: [u8; 10],
    ) {
        for (at, value) in edits {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        frame.truncate(cut.index(frame.len() + 1).max(frame.len() / 2));
        for start in [header[6], 34, 38, 54, 58] {
            let mut header = header;
            header[0] |= 1;
            header[1] = [1, 4, 5][usize::from(header[1]) % 3];
            (header[6], header[7], header[9]) = (start, 0, 0);
            header[8] = if header[1] == 5 { 6 } else { 16 };
            let Ok(Offload::Segmentation(segmentation)) = Offload::decode(header) else { continue };
            let Ok(pieces) = Pieces::new(&frame, segmentation) else { continue };
            let mut out = Vec::new();
            (0..pieces.count()).for_each(|number| pieces.write(number, &mut out));
            prop_assert_eq!(out.len(), pieces.frames_len());
        }
    }
}
