use super::*;

const SEQUENCE: u32 = 7;

/// A message as the kernel would send it.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + payload.len();
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(length).unwrap().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes.resize(length.next_multiple_of(NLMSG_ALIGNMENT), 0);
    bytes
}

fn read(datagram: &[u8]) -> (Result<Progress, KernelError>, Vec<Vec<u8>>, Consistency) {
    let (mut objects, mut consistency) = (Vec::new(), Consistency::Whole);
    let progress =
        read_datagram(datagram, SEQUENCE, &mut consistency, &mut |object| objects.push(object.to_vec()));
    (progress, objects, consistency)
}

#[test]
fn collects_objects_until_the_end_of_the_dump() {
    let mut datagram = message(16, 0, SEQUENCE, b"one");
    datagram.extend(message(16, 0, SEQUENCE, b"four"));
    let (progress, objects, _) = read(&datagram);
    assert!(matches!(progress, Ok(Progress::More)));
    assert_eq!(objects, [b"one".to_vec(), b"four".to_vec()]);
    let (progress, ..) = read(&message(NLMSG_DONE, 0, SEQUENCE, &[0; 4]));
    assert!(matches!(progress, Ok(Progress::Ended)));
}

#[test]
fn passes_over_answers_to_an_earlier_request() {
    let mut datagram = message(NLMSG_ERROR, 0, SEQUENCE - 1, &(-1_i32).to_ne_bytes());
    datagram.extend(message(16, 0, SEQUENCE, b"mine"));
    let (progress, objects, _) = read(&datagram);
    assert!(matches!(progress, Ok(Progress::More)));
    assert_eq!(objects, [b"mine".to_vec()]);
}

#[test]
fn tells_errno_and_the_words_of_the_kernel() {
    let mut payload = (-17_i32).to_ne_bytes().to_vec();
    payload.extend([0; HEADER_BYTES]);
    payload.extend(8_u16.to_ne_bytes());
    payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
    payload.extend(b"no!\0");
    let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
    let error = read(&message(NLMSG_ERROR, flags, SEQUENCE, &payload)).0.err().unwrap();
    assert!(error.is(Errno::EXIST));
    assert_eq!(error.detail.as_deref(), Some("no!"));
}

#[test]
fn notices_a_dump_that_changed_meanwhile_or_failed() {
    assert_eq!(read(&message(16, NLM_F_DUMP_INTR, SEQUENCE, b"")).2, Consistency::Interrupted);
    let (progress, ..) = read(&message(NLMSG_DONE, 0, SEQUENCE, &(-12_i32).to_ne_bytes()));
    assert!(progress.err().unwrap().is(Errno::NOMEM));
}

#[test]
fn refuses_truncated_messages_without_panic() {
    let whole = message(NLMSG_ERROR, NLM_F_ACK_TLVS, SEQUENCE, &[0xff; 40]);
    for length in 1..whole.len() {
        assert!(read(&whole[..length]).0.is_err(), "{length} bytes");
    }
    for payload_length in 0..24 {
        let cut = message(NLMSG_ERROR, NLM_F_ACK_TLVS, SEQUENCE, &vec![0xff; payload_length]);
        assert!(read(&cut).0.is_err(), "{payload_length} bytes of payload");
    }
}

#[test]
fn reads_texts_that_are_not_utf_8() {
    assert_eq!(text(b"a\xffb\0rest"), "a\u{fffd}b");
}
