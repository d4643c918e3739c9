use proptest::prelude::*;

use super::super::samples::{Sample, sum};
use super::*;

fn frame(is_v6: bool, tag: Option<u16>, len: usize) -> Vec<u8> {
    Sample { is_v6, tag, ..Sample::tcp(1, 0x10, &vec![7; len]) }.frame()
}

/// What a word-by-word sum says of an ICMP message in `packet`.
fn icmp_sum(packet: &[u8]) -> u16 {
    if packet[0] >> 4 == 4 {
        return sum(&packet[20..]);
    }
    let len = u16::try_from(packet.len() - 40).unwrap().to_be_bytes();
    sum(&[&packet[8..40], &len, &[0, 58], &packet[40..]].concat())
}

#[test]
fn a_sender_is_told_in_its_own_protocol_with_right_checksums_and_a_quotation() {
    for (is_v6, tag) in [(false, None), (true, None), (false, Some(42)), (true, Some(42))] {
        let frame = frame(is_v6, tag, 1_400);
        assert_eq!(judge(&frame, 1_300), TooLong::Tell);
        let mut told = Vec::new();
        answer(&frame, 1_300, &mut told);
        assert!(told.len() <= ANSWER_LEN_MAX);
        let (asked, told) = (Frame::parse(&frame).unwrap(), Frame::parse(&told).unwrap());
        assert_eq!((told.source(), told.destination()), (asked.destination(), asked.source()));
        assert_eq!((told.vlan(), told.ether_type()), (asked.vlan(), asked.ether_type()));
        let (packet, quoted) = (told.payload(), asked.payload());
        assert_eq!(icmp_sum(packet), 0xffff);
        if is_v6 {
            assert_eq!((packet[40], packet[41], &packet[44..48]), (2, 0, &[0, 0, 5, 20][..]));
            assert_eq!((&packet[8..24], &packet[24..40]), (&quoted[24..40], &quoted[8..24]));
            assert_eq!(packet.len(), 1_280);
            assert!(quoted.starts_with(&packet[48..]));
        } else {
            assert_eq!(sum(&packet[..20]), 0xffff);
            assert_eq!((packet[20], packet[21], &packet[26..28]), (3, 4, &[5, 20][..]));
            assert_eq!((&packet[12..16], &packet[16..20]), (&quoted[16..20], &quoted[12..16]));
            assert_eq!(packet.len(), 576);
            assert!(quoted.starts_with(&packet[28..]));
        }
    }
}

#[test]
fn who_allows_fragments_or_cannot_be_told_gets_parts() {
    let good = frame(false, None, 1_400);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        judge(&frame, 1_300)
    };
    assert_eq!(with(&|_| {}), TooLong::Tell);
    assert_eq!(with(&|frame| frame[20] = 0), TooLong::Parts, "fragments are allowed");
    assert_eq!(with(&|frame| frame[21] = 9), TooLong::Parts, "not the first fragment");
    assert_eq!(with(&|frame| frame[0] = 0xff), TooLong::Parts, "to a group");
    assert_eq!(with(&|frame| frame[30] = 239), TooLong::Parts, "to a group of IP");
    assert_eq!(with(&|frame| frame[26..30].fill(0)), TooLong::Parts, "from nobody");
    assert_eq!(with(&|frame| (frame[23], frame[34]) = (1, 3)), TooLong::Parts, "an error message");
    assert_eq!(with(&|frame| (frame[23], frame[34]) = (1, 8)), TooLong::Tell, "an echo request");
    assert_eq!(with(&|frame| frame[13] = 6), TooLong::Parts, "no IP");
    assert_eq!(judge(&frame(true, None, 1_220 - 20), 1_170), TooLong::Parts, "IPv6 takes no less than 1,280");
    assert_eq!(judge(&frame(true, None, 1_221), 1_170), TooLong::Tell);
    assert_eq!(judge(&frame(false, None, 576 - 40), 466), TooLong::Parts, "IPv4 hosts take 576");
    assert_eq!(judge(&frame(false, None, 577 - 40), 466), TooLong::Tell);
}

fn syn_frame(is_v6: bool, padding: usize, segment_size: u16) -> Vec<u8> {
    let mut options = vec![1; padding];
    options.extend([2, 4]);
    options.extend(segment_size.to_be_bytes());
    options.resize(options.len().next_multiple_of(4), 1);
    Sample { is_v6, options, ..Sample::tcp(1, 2, &[]) }.frame()
}

fn tcp_sum(frame: &[u8], is_v6: bool) -> u16 {
    let packet = &frame[14..];
    let (addresses, tcp) =
        if is_v6 { (&packet[8..40], &packet[40..]) } else { (&packet[12..20], &packet[20..]) };
    let len = u16::try_from(tcp.len()).unwrap().to_be_bytes();
    sum(&[addresses, &len, &[0, 6], tcp].concat())
}

#[test]
fn the_segment_size_of_a_syn_is_lowered_and_its_checksum_follows() {
    for (is_v6, padding) in [(false, 0), (false, 1), (true, 0), (true, 3)] {
        let head_len = if is_v6 { 60 } else { 40 };
        for (announced, expected) in [(1_460, 1_300 - head_len), (1_000, 1_000)] {
            let mut frame = syn_frame(is_v6, padding, announced);
            clamp_segment_size(&mut frame, Offload::Nothing, 1_300);
            let at = 14 + head_len + padding + 2;
            assert_eq!(
                usize::from(u16::from_be_bytes([frame[at], frame[at + 1]])),
                usize::from(expected as u16)
            );
            assert_eq!(tcp_sum(&frame, is_v6), 0xffff);
        }
    }
}

#[test]
fn a_checksum_that_is_left_to_others_is_left_alone() {
    let partial = super::super::offload::PartialChecksum { start: 34, offset: 16 };
    let mut frame = syn_frame(false, 0, 1_460);
    let before = frame[50..52].to_vec();
    clamp_segment_size(&mut frame, Offload::Checksum(partial), 1_300);
    assert_eq!(frame[50..52], before);
    assert_eq!(frame[56..58], [4, 236]);
}

proptest! {
    #[test]
    fn garbage_neither_panics_nor_grows(mut frame in prop::collection::vec(any::<u8>(), 0..200), v4: bool, mtu in 0_usize..2_000) {
        if frame.len() > 40 {
            frame[12..15].copy_from_slice(&if v4 { [8, 0, 0x45] } else { [0x86, 0xdd, 0x60] });
            frame[if v4 { 23 } else { 20 }] = 6;
        }
        let len = frame.len();
        clamp_segment_size(&mut frame, Offload::Nothing, mtu);
        prop_assert_eq!(frame.len(), len);
        if judge(&frame, mtu) == TooLong::Tell {
            let mut told = Vec::new();
            answer(&frame, mtu, &mut told);
            prop_assert!(told.len() <= ANSWER_LEN_MAX);
        }
    }
}
