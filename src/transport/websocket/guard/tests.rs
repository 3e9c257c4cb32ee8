//! The guard against RFC 6455, rule by rule: each violation with the byte that shows it, every way to cut a
//! stream, limits at their edges, and the text cases of the Autobahn suite's chapter 6.

use super::{Fault, Guard, Limits, Progress, Violation};

/// The key of the examples in RFC 6455 §5.7.
const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;
const TEXT_BEGINS: u8 = 0x01;
const BINARY_BEGINS: u8 = 0x02;
const GOES_ON: u8 = 0x00;
const ENDS: u8 = 0x80;

/// A client's frame with its length in the shortest form.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        short @ 0..=125 => vec![u8::try_from(short).expect("at most 125")],
        long => match u16::try_from(long) {
            Ok(long) => [&[126][..], &long.to_be_bytes()].concat(),
            Err(_) => [&[127][..], &(long as u64).to_be_bytes()].concat(),
        },
    };
    frame_with_length(first, &length, payload)
}

/// A client's frame whose length is written as given, without its mask bit.
pub(super) fn frame_with_length(first: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    let masked = payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    [vec![first, length[0] | 0x80], length[1..].to_vec(), KEY.to_vec(), masked].concat()
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// What there is to know about a stream after some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Where the last complete frame ends in the stream.
    pub(super) complete: usize,
    pub(super) frames: usize,
    pub(super) fault: Option<Fault>,
    pub(super) closed: bool,
    pub(super) boundary: bool,
}

/// A guard that is shown a stream in pieces, up to its first fault.
pub(super) struct Feed {
    guard: Guard,
    scanned: usize,
    pub(super) outcome: Outcome,
}

impl Feed {
    pub(super) fn new(message_bytes: usize) -> Self {
        let outcome = Outcome { complete: 0, frames: 0, fault: None, closed: false, boundary: true };
        Self { guard: Guard::new(Limits { message_bytes, deflate: false }), scanned: 0, outcome }
    }

    pub(super) fn piece(&mut self, piece: &[u8]) -> Outcome {
        if self.outcome.fault.is_some() {
            return self.outcome;
        }
        let (complete, frames, fault) = match self.guard.scan(piece) {
            Ok(progress) => (progress.complete, progress.frames, None),
            Err(violation) => (violation.complete, violation.frames, Some(violation.fault)),
        };
        assert_eq!(complete > 0, frames > 0, "a frame ends just where bytes are complete");
        assert!(complete <= piece.len());
        if complete > 0 {
            self.outcome.complete = self.scanned + complete;
        }
        self.outcome.frames += frames;
        self.outcome.fault = fault;
        self.outcome.closed = self.guard.is_closed();
        self.outcome.boundary = self.guard.at_message_boundary();
        self.scanned += piece.len();
        self.outcome
    }
}

fn outcome(message_bytes: usize, pieces: &[&[u8]]) -> Outcome {
    let mut feed = Feed::new(message_bytes);
    for piece in pieces {
        feed.piece(piece);
    }
    feed.outcome
}

/// How many bytes of the stream it takes to find the fault, fed one by one.
fn first_shown(message_bytes: usize, stream: &[u8]) -> Option<(usize, Fault)> {
    let mut feed = Feed::new(message_bytes);
    (1..=stream.len()).find_map(|end| {
        let fault = feed.piece(&stream[end - 1..end]).fault?;
        Some((end, fault))
    })
}

/// After a good message, the stream breaks the rule, and does so with its byte number `shown`.
fn assert_violation(rule: &str, stream: &[u8], shown: usize, fault: Fault) {
    let good = frame(TEXT, b"good");
    let stream = [&good[..], stream].concat();
    let shown = good.len() + shown;
    assert_eq!(first_shown(200, &stream), Some((shown, fault)), "{rule}: byte by byte");

    let mut guard = Guard::new(Limits { message_bytes: 200, deflate: false });
    let violation = guard.scan(&stream[..shown]).expect_err(rule);
    assert!(violation.complete >= good.len() && violation.frames >= 1, "{rule}: the good message counts");
    assert_eq!(violation.fault, fault, "{rule}: whole");
    assert!(!guard.at_message_boundary() && !guard.is_closed(), "{rule}");
    let again = Violation { complete: 0, frames: 0, fault };
    assert_eq!(guard.scan(&good), Err(again), "{rule}: nothing is good after it");
    assert_eq!(outcome(200, &[&stream]).complete, violation.complete, "{rule}: what follows changes nothing");
}

#[test]
fn each_violation_is_found_at_the_byte_that_shows_it() {
    let begun = frame(TEXT_BEGINS, b"abc");
    let ended = [&begun[..], &frame(ENDS, b"")].concat();
    let length16 = |length: u16| [&[126][..], &length.to_be_bytes()].concat();
    let length64 = |length: u64| [&[127][..], &length.to_be_bytes()].concat();
    let head = |first, length: &[u8]| frame_with_length(first, length, b"");
    let after = |before: &[u8], frame: Vec<u8>| [before, &frame].concat();
    let cut = begun.len();
    for (rule, stream, shown, fault) in [
        ("§5.1 text without a mask", b"\x81\x02hi".to_vec(), 2, Fault::Unmasked),
        ("§5.1 ping without a mask", b"\x89\x00".to_vec(), 2, Fault::Unmasked),
        ("§5.1 continuation without a mask", after(&begun, b"\x80\x00".to_vec()), cut + 2, Fault::Unmasked),
        ("§5.2 RSV1", frame(0xC1, b"x"), 1, Fault::ReservedBits),
        ("§5.2 RSV2", frame(0xA1, b"x"), 1, Fault::ReservedBits),
        ("§5.2 RSV3", frame(0x91, b"x"), 1, Fault::ReservedBits),
        ("§5.2 RSV1 on a ping", frame(0xC9, b"x"), 1, Fault::ReservedBits),
        ("§5.2 RSV1 on a continuation", after(&begun, frame(0xC0, b"x")), cut + 1, Fault::ReservedBits),
        ("§5.5 close in fragments", frame(0x08, b""), 1, Fault::ControlFragmented),
        ("§5.5 ping in fragments", frame(0x09, b""), 1, Fault::ControlFragmented),
        ("§5.5 pong in fragments", frame(0x0A, b""), 1, Fault::ControlFragmented),
        ("§5.5 ping of 126 bytes", frame(PING, &[b'x'; 126]), 2, Fault::ControlTooLong),
        ("§5.5 pong of 65,536 bytes", head(PONG, &length64(65_536)), 2, Fault::ControlTooLong),
        ("§5.5 close of 126 bytes", close(1000, &[b'x'; 124]), 2, Fault::ControlTooLong),
        ("§5.4 continuation at first", frame(ENDS, b"x"), 1, Fault::StrayContinuation),
        ("§5.4 continuation of nothing", frame(GOES_ON, b"x"), 1, Fault::StrayContinuation),
        ("§5.4 after the end", after(&ended, frame(ENDS, b"")), ended.len() + 1, Fault::StrayContinuation),
        ("§5.4 text inside a message", after(&begun, frame(TEXT, b"x")), cut + 1, Fault::Interleaved),
        ("§5.4 binary inside a message", after(&begun, frame(BINARY, b"x")), cut + 1, Fault::Interleaved),
        ("§5.4 begun twice", after(&begun, frame(TEXT_BEGINS, b"x")), cut + 1, Fault::Interleaved),
        ("§5.2 125 in 16 bits", head(TEXT, &length16(125)), 4, Fault::LengthNotMinimal),
        ("§5.2 0 in 16 bits", head(BINARY, &length16(0)), 4, Fault::LengthNotMinimal),
        ("§5.2 65,535 in 64 bits", head(TEXT, &length64(65_535)), 10, Fault::LengthNotMinimal),
        ("§5.2 0 in 64 bits", head(BINARY, &length64(0)), 10, Fault::LengthNotMinimal),
        ("§5.2 length 2^63", head(BINARY, &length64(1 << 63)), 10, Fault::LengthTopBit),
        ("§5.2 length 2^64 - 1", head(TEXT, &length64(u64::MAX)), 10, Fault::LengthTopBit),
        ("§5.5.1 close of one byte", frame(CLOSE, b"\x03"), 2, Fault::CloseTooShort),
        ("§7.4.1 close with 1005", close(1005, b"why"), 8, Fault::CloseCode),
        ("§7.4.2 close with 999", close(999, b""), 8, Fault::CloseCode),
        ("§8.1 close reason", close(1000, b"a\xC0\xAF"), 10, Fault::InvalidUtf8),
        ("§8.1 close reason, cut short", close(1000, b"a\xE2\x82"), 11, Fault::InvalidUtf8),
        ("§8.1 text", frame(TEXT, b"ab\xFFc"), 9, Fault::InvalidUtf8),
        ("§8.1 text, cut short", frame(TEXT, b"ab\xE2\x82"), 10, Fault::InvalidUtf8),
        (
            "§8.1 cut short, then ended",
            after(&frame(TEXT_BEGINS, b"\xC3"), frame(ENDS, b"")),
            13,
            Fault::InvalidUtf8,
        ),
        ("§8.1 in a continuation", after(&begun, frame(GOES_ON, b"\x80xx")), cut + 7, Fault::InvalidUtf8),
        ("a frame of 201 bytes", head(BINARY, &length16(201)), 4, Fault::MessageTooLarge),
        ("a frame of 2^63 - 1 bytes", head(TEXT, &length64(u64::MAX >> 1)), 10, Fault::MessageTooLarge),
    ] {
        assert_violation(rule, &stream, shown, fault);
    }
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        assert_violation("§5.2 opcode", &frame(0x80 | opcode, b"x"), 1, Fault::UnknownOpcode);
        assert_violation("§5.2 opcode, no FIN", &frame(opcode, b"x"), 1, Fault::UnknownOpcode);
    }
}

#[test]
fn a_fault_says_how_to_close() {
    for (fault, code) in [
        (Fault::Unmasked, 1002),
        (Fault::ReservedBits, 1002),
        (Fault::UnknownOpcode, 1002),
        (Fault::ControlFragmented, 1002),
        (Fault::ControlTooLong, 1002),
        (Fault::StrayContinuation, 1002),
        (Fault::Interleaved, 1002),
        (Fault::LengthTopBit, 1002),
        (Fault::LengthNotMinimal, 1002),
        (Fault::CloseTooShort, 1002),
        (Fault::CloseCode, 1002),
        (Fault::InvalidUtf8, 1007),
        (Fault::MessageTooLarge, 4005),
    ] {
        assert_eq!(fault.code(), code);
        assert!(fault.reason().is_ascii() && (1..=123).contains(&fault.reason().len()));
        let violation = Violation { complete: 0, frames: 0, fault };
        assert_eq!(
            (violation.to_string(), fault.to_string()),
            (fault.reason().into(), fault.reason().into())
        );
    }
}

#[test]
fn close_codes_pass_as_the_registry_has_them() {
    let autobahn_7_7 = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let autobahn_7_9 = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    let registered_since = [1012, 1013, 1014];
    let passes = |code| match outcome(0, &[&close(code, b"")]) {
        Outcome { complete: 8, frames: 1, fault: None, closed: true, .. } => true,
        Outcome { complete: 0, frames: 0, fault: Some(Fault::CloseCode), closed: false, .. } => false,
        other => panic!("{code}: {other:?}"),
    };
    assert!(autobahn_7_7.into_iter().chain(registered_since).all(passes));
    assert!(!autobahn_7_9.into_iter().chain([1015, 5000, 65_535]).any(passes));
    // 1000 to 1014 less 1004 to 1006, and 3000 to 4999.
    assert_eq!((0..=u16::MAX).filter(|code| passes(*code)).count(), 12 + 2000);
    // None at all is no error (RFC 6455 §7.1.5).
    assert!(outcome(0, &[&frame(CLOSE, b"")]).closed);
}

#[test]
fn a_stream_cut_anywhere_is_the_same_stream() {
    let text = "κόσμε 日本 🦀".as_bytes();
    let good = [
        frame(TEXT, b"hello"),
        frame(PING, b"?"),
        frame(TEXT_BEGINS, &text[..1]),
        frame(GOES_ON, b""),
        frame(PONG, b"in between"),
        frame(GOES_ON, &text[1..15]),
        frame(ENDS, &text[15..]),
        frame(BINARY, &[0xFF; 130]),
        frame(BINARY_BEGINS, b"\x80"),
        frame(ENDS, b"\xC0"),
        frame(TEXT, b""),
        close(4001, "schön".as_bytes()),
        b"not a frame".to_vec(),
    ];
    let frames = good.len() - 1;
    let complete = good[..frames].iter().map(Vec::len).sum();
    let whole = Outcome { complete, frames, fault: None, closed: true, boundary: true };
    assert_every_cut(&good.concat(), whole);

    let bad = [&good[..8].concat()[..], &frame(BINARY_BEGINS, b"x"), &frame(TEXT, b"")].concat();
    let complete = bad.len() - 6;
    let fault = Some(Fault::Interleaved);
    assert_every_cut(&bad, Outcome { complete, frames: 9, fault, closed: false, boundary: false });
}

/// Whole, cut at each one and each two places, and byte by byte.
fn assert_every_cut(stream: &[u8], whole: Outcome) {
    assert_eq!(outcome(200, &[stream]), whole);
    assert_eq!(outcome(200, &stream.chunks(1).collect::<Vec<_>>()), whole);
    for second in 0..=stream.len() {
        for first in 0..=second {
            let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
            assert_eq!(outcome(200, &pieces), whole, "cut at {first} and {second}");
        }
    }
}

#[test]
fn a_64_bit_length_may_be_cut_too() {
    let stream = [frame(TEXT, &vec![b'x'; 65_536]), frame(PING, b"")].concat();
    let whole = Outcome { complete: stream.len(), frames: 2, fault: None, closed: false, boundary: true };
    for cut in (0..32).chain(stream.len() - 32..=stream.len()) {
        assert_eq!(outcome(65_536, &[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
    }
    assert_eq!(outcome(65_536, &stream.chunks(1).collect::<Vec<_>>()), whole);
}

#[test]
fn a_message_of_just_the_limit_passes() {
    let too_large = |limit, pieces: &[Vec<u8>]| match outcome(limit, &[&pieces.concat()]) {
        Outcome { fault: None, frames, .. } if frames == pieces.len() => false,
        Outcome { fault: Some(Fault::MessageTooLarge), frames, .. } if frames == pieces.len() - 1 => true,
        other => panic!("{other:?}"),
    };
    for limit in [0, 1, 125, 126, 1000, 65_535, 65_536, 70_000] {
        let payload = vec![b'x'; limit + 1];
        assert!(!too_large(limit, &[frame(TEXT, &payload[1..])]), "{limit}");
        assert!(too_large(limit, &[frame(TEXT, &payload)]), "{limit}");
    }
    // Over fragments; control frames between them don't count, and the next message starts from nothing.
    let (most, ping) = (frame(BINARY_BEGINS, &[b'x'; 60]), frame(PING, &[b'x'; 125]));
    let (rest, one) = (frame(ENDS, &[b'x'; 40]), frame(GOES_ON, b"x"));
    let full = [most.clone(), ping.clone(), rest.clone()];
    assert!(!too_large(100, &full));
    assert!(!too_large(100, &[&full[..], &full[..], &[frame(TEXT, &[b'x'; 100])]].concat()));
    assert!(too_large(99, &full));
    assert!(too_large(100, &[most.clone(), one.clone(), ping.clone(), rest.clone()]));
    assert!(too_large(100, &[most, frame(GOES_ON, &[b'x'; 40]), ping, frame(GOES_ON, b""), one]));
    // The sum cannot overflow, whatever the limit.
    let huge = frame_with_length(GOES_ON, &[&[127][..], &(u64::MAX >> 1).to_be_bytes()].concat(), b"");
    assert!(too_large(usize::MAX >> 1, &[frame(BINARY_BEGINS, b"x"), huge]));
}

#[test]
fn progress_says_what_is_still_to_come() {
    let mut guard = Guard::new(Limits { message_bytes: 200, deflate: false });
    let progress = |complete, frames, expected| Ok(Progress { complete, frames, expected });
    let binary = frame(BINARY, &[0; 200]);
    assert_eq!(guard.scan(b""), progress(0, 0, 0));
    assert_eq!(guard.scan(&binary[..7]), progress(0, 0, 0), "the header's end has not come");
    assert_eq!(guard.scan(&binary[7..8]), progress(0, 0, 200));
    assert_eq!(guard.scan(&binary[8..50]), progress(0, 0, 158));
    let rest = [&binary[50..], &frame(PING, b"12345")[..8]].concat();
    assert_eq!(guard.scan(&rest), progress(158, 1, 3));
    assert_eq!(guard.scan(&frame(PING, b"12345")[8..]), progress(3, 1, 0));
}

#[test]
fn a_boundary_is_where_nothing_has_begun() {
    let boundary = |stream: &[u8]| outcome(200, &[stream]).boundary;
    let text = frame(TEXT, b"hi");
    assert!(boundary(b"") && boundary(&text));
    assert!((1..text.len()).all(|end| !boundary(&text[..end])));
    let begun = frame(TEXT_BEGINS, b"h");
    assert!(!boundary(&begun) && !boundary(&[&begun[..], &frame(PING, b"")].concat()));
    assert!(boundary(&[&begun[..], &frame(ENDS, b"")].concat()));
    assert!(boundary(&[&begun[..], &close(1000, b"")].concat()), "a close ends the open message");
}

#[test]
fn bytes_after_a_close_do_not_count() {
    let end = [frame(TEXT_BEGINS, "é".as_bytes().split_at(1).0), close(1000, b"bye")].concat();
    for after in [&b"\x81\x02hi"[..], &frame(TEXT, b"\xFF"), &[0xFF; 300]] {
        let whole = Outcome { complete: end.len(), frames: 2, fault: None, closed: true, boundary: true };
        assert_eq!(outcome(200, &[&end, after]), whole);
        assert_eq!(outcome(200, &[&[&end, after].concat()]), whole);
    }
}

#[test]
fn an_idle_connection_keeps_little() {
    assert!(size_of::<Guard>() <= 64, "{}", size_of::<Guard>());
}

/// Cases 6.4.1 to 6.4.4: text that goes wrong with its thirteenth byte.
#[test]
fn text_fails_before_its_frame_or_message_ends() {
    let text = b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xF4\x90\x80\x80edited";
    let fault = Some((13, Fault::InvalidUtf8));
    // In one frame, and in three, cut before the bad character and inside it.
    assert_eq!(first_shown(200, &frame(TEXT, text)), fault.map(|(shown, fault)| (6 + shown, fault)));
    for (first, second) in [(11, 15), (12, 13)] {
        let pieces =
            [(TEXT_BEGINS, &text[..first]), (GOES_ON, &text[first..second]), (ENDS, &text[second..])];
        let stream = pieces.map(|(opcode, piece)| frame(opcode, piece)).concat();
        assert_eq!(first_shown(200, &stream), fault.map(|(shown, fault)| (12 + shown, fault)));
        assert_eq!(outcome(200, &[&stream]).frames, 1, "what came before is served");
    }
}

/// What a guard with compression says to a stream, and what one without.
fn with_and_without_deflate(stream: &[u8]) -> [Option<Fault>; 2] {
    [true, false].map(|deflate| {
        let mut guard = Guard::new(Limits { message_bytes: 200, deflate });
        stream.chunks(1).find_map(|byte| guard.scan(byte).err()).map(|violation| violation.fault)
    })
}

/// RFC 7692 §6.1.
#[test]
fn rsv1_marks_the_first_frame_of_a_compressed_message() {
    let refused = Some(Fault::ReservedBits);
    let begun = |first, next: Vec<u8>| [frame(first, b"\xFF"), next].concat();
    for (what, stream, verdict) in [
        ("compressed text is not read as text", frame(0xC1, b"\xFF"), None),
        ("binary", frame(0xC2, b"\xFF"), None),
        ("in fragments", begun(0x41, frame(ENDS, b"\xFF")), None),
        ("a heartbeat in between", begun(0x41, frame(PING, b"\xFF")), None),
        ("its other frames", begun(0x41, frame(0xC0, b"")), refused),
        ("another message inside", begun(0x41, frame(0xC1, b"")), Some(Fault::Interleaved)),
        ("a ping", frame(0xC9, b""), refused),
        ("a close", frame(0xC8, b""), refused),
        ("RSV2", frame(0xA1, b""), refused),
        ("RSV1 and RSV3", frame(0xD1, b""), refused),
        ("an end of nothing", frame(0xC0, b""), Some(Fault::StrayContinuation)),
        ("an opcode of nobody", frame(0xC3, b""), Some(Fault::UnknownOpcode)),
    ] {
        assert_eq!(with_and_without_deflate(&stream), [verdict, refused], "{what}");
    }
    let plain = [&frame(0xC1, b"\xFF")[..], &frame(TEXT, b"\xFF")].concat();
    assert_eq!(with_and_without_deflate(&plain), [Some(Fault::InvalidUtf8), refused], "the next is plain");
}

/// 200 bytes that can't be compressed are a little longer when they are.
#[test]
fn a_compressed_message_is_bounded_as_well() {
    let compressed = |bytes: usize| with_and_without_deflate(&frame(0xC1, &vec![0; bytes]))[0];
    assert_eq!(compressed(264), None);
    assert_eq!(compressed(265), Some(Fault::MessageTooLarge));
}
