//! The guard against two others: a reference that keeps the whole stream and starts over with every byte, and
//! fastwebsockets, which must read from what passes just the frames that were sent. The streams are random,
//! from fixed seeds, half of them damaged.

use bytes::BytesMut;
use fastwebsockets::{Role, WebSocketError, after_handshake_split};
use futures_util::FutureExt;

use super::Fault;
use super::tests::{Feed, Outcome, frame, frame_with_length};

const LIMIT: usize = 160;
const STREAMS: u64 = 3000;

/// First byte and unmasked payload.
type Sent = (u8, Vec<u8>);

#[test]
fn any_stream_is_judged_as_the_reference_does() {
    let mut seen = std::collections::HashMap::<_, u32>::new();
    for seed in 0..STREAMS {
        let stream = Dice(seed).stream();
        let mut feed = Feed::new(LIMIT);
        for end in 1..=stream.len() {
            let (outcome, _) = reference(&stream[..end]);
            assert_eq!(feed.piece(&stream[end - 1..end]), outcome, "seed {seed}: {end} of {stream:02X?}");
            if outcome.fault.is_some() {
                break;
            }
        }
        let mut pieces = Feed::new(LIMIT);
        for piece in Dice(seed).pieces(&stream) {
            pieces.piece(piece);
        }
        assert_eq!(pieces.outcome, feed.outcome, "seed {seed}: in pieces");
        *seen.entry(feed.outcome.fault).or_default() += 1;
    }
    assert_eq!(seen.len(), 14, "every fault comes up, and none: {seen:?}");
    assert!(seen.values().all(|streams| *streams >= 10), "{seen:?}");
}

#[test]
fn fastwebsockets_reads_what_passes() {
    let mut frames = 0;
    for seed in 0..STREAMS {
        let stream = Dice(seed).stream();
        let (_, sent) = reference(&stream);
        let mut feed = Feed::new(LIMIT);
        let mut inbox = BytesMut::new();
        let (mut arrived, mut served) = (0, 0);
        let mut read = Vec::new();
        for piece in Dice(seed).pieces(&stream) {
            inbox.extend_from_slice(piece);
            arrived += piece.len();
            let complete = feed.piece(piece).complete;
            if complete > served {
                read.extend(read_all(&inbox.split_to(complete - served)));
                served = complete;
            }
            assert_eq!(inbox.len(), arrived - served);
        }
        assert_eq!(read, sent, "seed {seed}");
        frames += read.len();
    }
    assert!(frames > 5_000, "{frames}");
}

/// Reads complete frames as the connection does. Panics where fastwebsockets would wait, fail, or keep a
/// rest.
fn read_all(complete: &[u8]) -> Vec<Sent> {
    let (mut reader, _) = after_handshake_split(complete, tokio::io::sink(), Role::Server);
    // It does not know 1014, and answers pings and closes itself otherwise.
    reader.set_auto_close(false);
    reader.set_auto_pong(false);
    let mut frames = Vec::new();
    loop {
        let mut send = |_| async { Ok::<(), std::io::Error>(()) };
        match reader.read_frame(&mut send).now_or_never().expect("all bytes are there") {
            Ok(frame) => frames.push((u8::from(frame.fin) << 7 | frame.opcode as u8, frame.payload.to_vec())),
            Err(WebSocketError::UnexpectedEOF) => break,
            Err(error) => panic!("{error}: {complete:02X?}"),
        }
    }
    let length: usize = frames.iter().map(|(first, payload)| frame(*first, payload).len()).sum();
    assert_eq!(length, complete.len(), "it ends with a frame's end");
    frames
}

/// What is to be thought of a stream of which these bytes have come, and the frames in it.
fn reference(bytes: &[u8]) -> (Outcome, Vec<Sent>) {
    let mut outcome = Outcome { complete: 0, frames: 0, fault: None, closed: false, boundary: true };
    let mut frames = Vec::new();
    let mut message: Option<Sent> = None;
    while !outcome.closed {
        match next_frame(&bytes[outcome.complete..], message.as_ref()) {
            Ok(None) => break,
            Err(fault) => {
                outcome.fault = Some(fault);
                break;
            }
            Ok(Some((size, (first, payload)))) => {
                outcome.complete += size;
                outcome.frames += 1;
                outcome.closed = first == 0x88;
                frames.push((first, payload.clone()));
                if first & 8 == 0 {
                    let (opcode, sofar) = message.take().unwrap_or((first & 0xF, Vec::new()));
                    message = (first & 0x80 == 0).then(|| (opcode, [sofar, payload].concat()));
                }
            }
        }
    }
    let begun = outcome.complete < bytes.len() || message.is_some();
    outcome.boundary = outcome.fault.is_none() && (outcome.closed || !begun);
    (outcome, frames)
}

/// The frame at the beginning of `bytes` and its size on the wire; None when more bytes must come to say.
fn next_frame(bytes: &[u8], message: Option<&Sent>) -> Result<Option<(usize, Sent)>, Fault> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let (fin, opcode) = (first & 0x80 != 0, first & 0xF);
    match opcode {
        _ if first & 0x70 != 0 => return Err(Fault::ReservedBits),
        3..=7 | 11..=15 => return Err(Fault::UnknownOpcode),
        8..=10 if !fin => return Err(Fault::ControlFragmented),
        0 if message.is_none() => return Err(Fault::StrayContinuation),
        1 | 2 if message.is_some() => return Err(Fault::Interleaved),
        _ => {}
    }
    let Some(second) = bytes.get(1) else { return Ok(None) };
    let short = u64::from(second & 0x7F);
    match (opcode, short) {
        _ if second & 0x80 == 0 => return Err(Fault::Unmasked),
        (8..=10, 126..) => return Err(Fault::ControlTooLong),
        (8, 1) => return Err(Fault::CloseTooShort),
        _ => {}
    }
    let (wide, least) = match short {
        126 => (2, 126),
        127 => (8, 65_536),
        _ => (0, 0),
    };
    let Some(field) = bytes.get(2..2 + wide) else { return Ok(None) };
    let number = field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let length = if wide == 0 { short } else { number };
    let sofar = message.map_or(&[][..], |(_, payload)| payload);
    let room = (LIMIT - sofar.len()) as u64;
    match length {
        _ if length >= 1 << 63 => return Err(Fault::LengthTopBit),
        _ if length < least => return Err(Fault::LengthNotMinimal),
        _ if length > room && opcode < 8 => return Err(Fault::MessageTooLarge),
        _ => {}
    }
    let length = usize::try_from(length).expect("at most the limit");
    let Some(key) = bytes.get(2 + wide..6 + wide) else { return Ok(None) };
    let payload = bytes[6 + wide..].iter().take(length).zip(key.iter().cycle());
    let payload: Vec<u8> = payload.map(|(byte, key)| byte ^ key).collect();
    let all_there = payload.len() == length;

    let (text, ends) = match (opcode, message) {
        (1, _) => (payload.clone(), fin),
        (0, Some((1, sofar))) => ([&sofar[..], &payload].concat(), fin),
        (8, _) if payload.len() >= 2 => {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Fault::CloseCode);
            }
            (payload[2..].to_vec(), true)
        }
        _ => (Vec::new(), true),
    };
    match std::str::from_utf8(&text) {
        Err(error) if error.error_len().is_some() || (ends && all_there) => return Err(Fault::InvalidUtf8),
        _ => {}
    }
    Ok(all_there.then(|| (6 + wide + length, (*first, payload))))
}

/// A `SplitMix64`: the same streams on every machine and with every version of every crate.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("below sides")
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).expect("below 256")
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.roll(most + 1)).map(|_| self.byte()).collect()
    }

    fn text(&mut self) -> Vec<u8> {
        let most = [3, 10, 10, 30][self.roll(4)];
        let letters = ["a", "Z", "\0", "é", "߿", "日", "\u{FFFF}", "🦀", "\u{10FFFF}"];
        (0..self.roll(most)).flat_map(|_| letters[self.roll(letters.len())].bytes()).collect()
    }

    /// A few messages, in fragments or not, with control frames between; one in two streams is then damaged.
    fn stream(&mut self) -> Vec<u8> {
        let mut frames: Vec<Vec<u8>> = (0..=self.roll(4)).flat_map(|_| self.message()).collect();
        if self.roll(2) == 0 {
            let at = self.roll(frames.len() + 1);
            let oddity = self.oddity();
            frames.insert(at, oddity);
        }
        if self.roll(4) == 0 {
            let code = u16::try_from([1000, 1014, 3000 + self.roll(2000), self.roll(1100)][self.roll(4)]);
            let code = code.expect("below 5000").to_be_bytes();
            frames.push(frame(0x88, &[&code[..], &self.text()[..]].concat()[..]));
        }
        let mut stream = frames.concat();
        if self.roll(4) == 0 {
            let (at, bit) = (self.roll(stream.len()), self.roll(8));
            stream[at] ^= 1 << bit;
        }
        stream
    }

    fn message(&mut self) -> Vec<Vec<u8>> {
        let (opcode, payload) = if self.roll(3) == 0 { (2, self.bytes(140)) } else { (1, self.text()) };
        let mut frames = Vec::new();
        let (mut opcode, mut rest) = (opcode, &payload[..]);
        while self.roll(2) == 0 {
            let (piece, left) = rest.split_at(self.roll(rest.len() + 1));
            frames.push(frame(opcode, piece));
            (opcode, rest) = (0, left);
            if self.roll(3) == 0 {
                let first = [0x89, 0x8A][self.roll(2)];
                frames.push(frame(first, &self.bytes(20)));
            }
        }
        frames.push(frame(0x80 | opcode, rest));
        frames
    }

    /// Something that most often should not come.
    fn oddity(&mut self) -> Vec<u8> {
        let any = self.byte();
        let payload = self.bytes(6);
        match self.roll(10) {
            0 => frame(any, &payload),
            1 => frame(any & 0x8F, &payload),
            2 => frame(0x81, &payload),
            3 => frame(0x88, &payload),
            8 => frame(any & 0x80, &payload),
            4 => frame([0x88, 0x89, 0x8A][self.roll(3)], &[b'x'; 130]),
            5 => frame([0x81, 0x82, 0x01, 0x02][self.roll(4)], &[b'x'; LIMIT - 3][self.roll(9)..]),
            6 => frame_with_length(0x82, &[126, 0, any & 0x7F], &payload),
            7 => frame_with_length(0x82, &[127, any, 0, 0, 0, 0, any & 1, any, 0], &payload),
            _ => {
                let mut unmasked = frame(0x81, &payload);
                unmasked[1] &= 0x7F;
                unmasked
            }
        }
    }

    fn pieces<'a>(&mut self, stream: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = stream;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let most = [2, 8, 80][self.roll(3)];
            let (piece, left) = rest.split_at(self.roll(most).min(rest.len()));
            pieces.push(piece);
            rest = left;
        }
        pieces
    }
}
