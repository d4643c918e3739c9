//! Frames for tests, written field by field, with checksums added up word by word.

use proptest::prelude::*;

use super::offload::{PartialChecksum, SegmentKind, Segmentation};

/// A frame with a TCP segment, or a UDP datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) tag: Option<u16>,
    pub(super) is_v6: bool,
    pub(super) is_udp: bool,
    pub(super) traffic_class: u8,
    pub(super) hops: u8,
    pub(super) id: u16,
    pub(super) ports: [u16; 2],
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// Of TCP; a multiple of four bytes.
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Sample {
    /// TCP over IPv4 with these flags.
    pub(super) fn tcp(sequence: u32, flags: u8, payload: &[u8]) -> Self {
        Self {
            tag: None,
            is_v6: false,
            is_udp: false,
            traffic_class: 0,
            hops: 64,
            id: 7,
            ports: [1000, 2000],
            sequence,
            acknowledged: 5,
            flags,
            window: 100,
            options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    /// The frame, complete.
    pub(super) fn frame(&self) -> Vec<u8> {
        self.build(true)
    }

    /// The frame as a super-frame has it: the checksum has the pseudo-header only.
    pub(super) fn super_frame(&self) -> Vec<u8> {
        self.build(false)
    }

    pub(super) fn segmentation(&self, size: u16) -> Segmentation {
        let has_cwr = self.flags & 0x80 != 0;
        let kind = match (self.is_udp, self.is_v6) {
            (true, _) => SegmentKind::Udp,
            (false, true) => SegmentKind::TcpV6 { has_cwr },
            (false, false) => SegmentKind::TcpV4 { has_cwr },
        };
        let start = 14 + if self.tag.is_some() { 4 } else { 0 } + if self.is_v6 { 40 } else { 20 };
        let (offset, transport_len) = if self.is_udp { (6, 8) } else { (16, 20 + self.options.len()) };
        let head_len = start + u16::try_from(transport_len).unwrap();
        Segmentation { kind, size, head_len, checksum: PartialChecksum { start, offset } }
    }

    /// What it stands for when it is cut: frame by frame, by the rules in words.
    pub(super) fn cut(&self, size: usize) -> Vec<Self> {
        let mut chunks: Vec<_> = self.payload.chunks(size).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let last = chunks.len() - 1;
        let piece = |(number, chunk): (usize, &&[u8])| {
            let mut flags = self.flags;
            if number != 0 {
                flags &= !0x80;
            }
            if number != last {
                flags &= !0x09;
            }
            Self {
                id: self.id.wrapping_add(u16::try_from(number).unwrap()),
                sequence: self.sequence.wrapping_add(u32::try_from(number * size).unwrap()),
                flags,
                payload: chunk.to_vec(),
                ..self.clone()
            }
        };
        chunks.iter().enumerate().map(piece).collect()
    }

    fn build(&self, is_complete: bool) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if let Some(tag) = self.tag {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        let mut segment = self.transport();
        let len = u16::try_from(segment.len()).unwrap();
        let protocol = if self.is_udp { 17 } else { 6 };
        let (source, destination): (&[u8], &[u8]) =
            if self.is_v6 { (&[0xfd; 16], &[0xfe; 16]) } else { (&[10, 0, 0, 1], &[10, 0, 0, 2]) };
        let pseudo = [source, destination, &[0, protocol], &len.to_be_bytes()].concat();
        let at = if self.is_udp { 6 } else { 16 };
        let checksum = if is_complete { !sum(&[&pseudo[..], &segment].concat()) } else { sum(&pseudo) };
        let checksum = if is_complete && checksum == 0 { 0xffff } else { checksum };
        segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        if self.is_v6 {
            frame.extend([0x86, 0xdd, 0x60 | self.traffic_class >> 4, self.traffic_class << 4, 1, 2]);
            frame.extend(len.to_be_bytes());
            frame.extend([protocol, self.hops]);
            frame.extend([source, destination].concat());
        } else {
            let mut header = vec![0x45, self.traffic_class];
            header.extend((len + 20).to_be_bytes());
            header.extend(self.id.to_be_bytes());
            header.extend([0x40, 0, self.hops, protocol, 0, 0]);
            header.extend([source, destination].concat());
            let checksum = !sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(header);
        }
        frame.extend(segment);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let mut segment: Vec<u8> = self.ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        if self.is_udp {
            segment.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
            segment.extend([0, 0]);
        } else {
            segment.extend(self.sequence.to_be_bytes());
            segment.extend(self.acknowledged.to_be_bytes());
            segment.extend([u8::try_from(5 + self.options.len() / 4).unwrap() << 4, self.flags]);
            segment.extend(self.window.to_be_bytes());
            segment.extend([0; 4]);
            segment.extend(&self.options);
        }
        segment.extend(&self.payload);
        segment
    }
}

/// The sum of RFC 1071, word for word.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0_u16, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

prop_compose! {
    /// Any frame with less than `len_max` bytes of payload; UDP ones too if `with_udp`.
    pub(super) fn sample(len_max: usize, with_udp: bool)(
        tag in any::<Option<u16>>(),
        is_v6 in any::<bool>(),
        is_udp in any::<bool>(),
        (traffic_class, hops, id) in any::<(u8, u8, u16)>(),
        ports in any::<[u16; 2]>(),
        (sequence, acknowledged, window) in any::<(u32, u32, u16)>(),
        flags in prop::sample::select(vec![0x10_u8, 0x18, 0x11, 0x19, 0x90, 0xd8, 0x50]),
        options in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
        payload in prop::collection::vec(any::<u8>(), 0..len_max),
    ) -> Sample {
        let is_udp = is_udp && with_udp;
        let options = options.concat();
        Sample {
            tag, is_v6, is_udp, traffic_class, hops, id, ports, sequence, acknowledged, flags, window, options,
            payload,
        }
    }
}
