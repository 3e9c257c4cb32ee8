//! From bytes to messages: the guard checks and finds the frames, fastwebsockets unmasks them, fragments are put
//! together and what is compressed is inflated. Holds no buffer while there is nothing unfinished, which is most of a
//! connection's life.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload};

use super::guard::{Fault as FrameFault, Guard, Limits};
use crate::deflate::inflate;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const OPCODE: u8 = 0x0f;
const LENGTH: u8 = 0x7f;

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A whole text message, valid UTF-8.
    Text(Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A whole message, still compressed: what is in it may be a thousand times as long, so it is inflated when its turn
    /// has come, by [`Deflated::inflate`].
    Deflated(Deflated),
    /// A ping, to be answered with the same payload (RFC 6455 §5.5.2).
    Ping(Bytes),
    /// A pong.
    Pong,
    /// A close, with its code if it has one.
    Close(Option<u16>),
}

/// A compressed message.
#[derive(Debug, PartialEq, Eq)]
pub struct Deflated {
    is_text: bool,
    payload: Bytes,
}

impl Deflated {
    /// The message in it, of `message_bytes` at most.
    ///
    /// # Errors
    /// It is larger, can't be inflated, or is a text and not UTF-8.
    pub fn inflate(&self, message_bytes: usize) -> Result<Inbound, FrameFault> {
        let message = inflate(&self.payload, message_bytes)?;
        if !self.is_text {
            return Ok(Inbound::Binary(message));
        }
        // The guard can't read what is compressed.
        simdutf8::basic::from_utf8(&message).map_err(|_| FrameFault::InvalidUtf8)?;
        Ok(Inbound::Text(message))
    }
}

/// The reading side of one connection.
pub struct FrameReader {
    guard: Guard,
    /// Most of the time nothing is, and then this is one word.
    unfinished: Option<Box<Unfinished>>,
    /// The first byte of the message that is open, or was last.
    opened: u8,
    failed: Option<FrameFault>,
}

#[derive(Default)]
struct Unfinished {
    /// Bytes of frames that are not complete.
    inbox: BytesMut,
    /// The fragments of the open message.
    fragments: Vec<u8>,
}

impl FrameReader {
    /// A reader for a connection whose handshake has just ended; `deflate` says whether messages may be compressed.
    pub fn new(message_bytes: usize, deflate: bool) -> Self {
        Self {
            guard: Guard::new(Limits { message_bytes, deflate }),
            unfinished: None,
            opened: 0,
            failed: None,
        }
    }

    /// Takes the bytes that came next and adds what they complete to `arrived`.
    ///
    /// # Errors
    /// What the client did wrong, then and ever after; what it sent before that has been added.
    pub fn feed(&mut self, fresh: &[u8], arrived: &mut VecDeque<Inbound>) -> Result<(), FrameFault> {
        if let Some(fault) = self.failed {
            return Err(fault);
        }
        let fed = self.take(fresh, arrived);
        self.failed = fed.err();
        if fed.is_err() || self.guard.is_closed() {
            // What was open never ends, and what comes now is not read: neither is worth its memory.
            self.unfinished = None;
        }
        fed
    }

    /// Whether nothing unfinished is held.
    pub fn is_between_messages(&self) -> bool {
        self.guard.at_message_boundary()
    }

    /// Whether the client has broken RFC 6455 or 7692: what it sends from then on is not read any more.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Inflates a message whose turn has come.
    ///
    /// # Errors
    /// As [`Deflated::inflate`]; nothing is read after that.
    pub fn inflate(&mut self, deflated: &Deflated) -> Result<Inbound, FrameFault> {
        let inflated = deflated.inflate(self.guard.message_bytes());
        self.failed = self.failed.or(inflated.as_ref().err().copied());
        inflated
    }

    fn take(&mut self, fresh: &[u8], arrived: &mut VecDeque<Inbound>) -> Result<(), FrameFault> {
        let Unfinished { mut inbox, mut fragments } =
            self.unfinished.take().map(|held| *held).unwrap_or_default();
        let before = inbox.len();
        let (complete, verdict) = match self.guard.scan(fresh) {
            Ok(progress) => (progress.complete, Ok(())),
            Err(violation) => (violation.complete, Err(violation.fault)),
        };
        if complete == 0 {
            inbox.extend_from_slice(fresh);
        } else if before == 0 {
            self.read_frames(BytesMut::from(&fresh[..complete]), &mut fragments, arrived);
            inbox.extend_from_slice(&fresh[complete..]);
        } else {
            inbox.extend_from_slice(fresh);
            let frames = inbox.split_to(before + complete);
            self.read_frames(frames, &mut fragments, arrived);
        }
        if inbox.is_empty() {
            inbox = BytesMut::new();
        }
        if !inbox.is_empty() || !fragments.is_empty() {
            self.unfinished = Some(Box::new(Unfinished { inbox, fragments }));
        }
        verdict
    }

    /// Reads whole frames that the guard has passed.
    fn read_frames(&mut self, mut bytes: BytesMut, fragments: &mut Vec<u8>, arrived: &mut VecDeque<Inbound>) {
        while let Some((first, payload)) = next_frame(&mut bytes) {
            arrived.extend(self.assemble(first, payload, fragments));
        }
    }

    fn assemble(&mut self, first: u8, payload: Bytes, fragments: &mut Vec<u8>) -> Option<Inbound> {
        let opcode = OpCode::try_from(first & OPCODE).expect("the guard passes no other");
        match opcode {
            OpCode::Ping => return Some(Inbound::Ping(payload)),
            OpCode::Pong => return Some(Inbound::Pong),
            OpCode::Close => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                return Some(Inbound::Close(code));
            }
            OpCode::Text | OpCode::Binary => self.opened = first,
            OpCode::Continuation => {}
        }
        let fin = first & FIN != 0;
        if opcode != OpCode::Continuation && fin {
            return Some(self.finish(payload));
        }
        fragments.extend_from_slice(&payload);
        if !fin {
            return None;
        }
        let whole = std::mem::take(fragments);
        Some(self.finish(whole.into()))
    }

    /// A message whose last frame has come.
    fn finish(&self, payload: Bytes) -> Inbound {
        let is_text = self.opened & OPCODE == OpCode::Text as u8;
        match (self.opened & RSV1 != 0, is_text) {
            (true, is_text) => Inbound::Deflated(Deflated { is_text, payload }),
            (false, true) => Inbound::Text(payload),
            (false, false) => Inbound::Binary(payload),
        }
    }
}

/// Takes a masked frame (RFC 6455 §5.2) from the front of whole ones: its first byte, and its payload as it was meant.
fn next_frame(bytes: &mut BytesMut) -> Option<(u8, Bytes)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (head, length) = match second & LENGTH {
        126 => (4, u16::from_be_bytes(*bytes[2..].first_chunk()?).into()),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes[2..].first_chunk()?)).ok()?),
        short => (2, short.into()),
    };
    let mask: [u8; 4] = *bytes.get(head..)?.first_chunk()?;
    bytes.advance(head + mask.len());
    let payload = if bytes.len() == length { std::mem::take(bytes) } else { bytes.split_to(length) };
    // The payload is all that it needs to unmask.
    let mut frame = Frame::new(true, OpCode::Binary, Some(mask), Payload::Bytes(payload));
    frame.unmask();
    match frame.payload {
        Payload::Bytes(payload) => Some((first, payload.freeze())),
        other => Some((first, Vec::from(other).into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let length = u8::try_from(payload.len()).unwrap();
        let mut bytes = vec![first, 0x80 | length];
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn opened(reader: &mut FrameReader, inbound: Inbound) -> Inbound {
        match inbound {
            Inbound::Deflated(deflated) => reader.inflate(&deflated).unwrap(),
            inbound => inbound,
        }
    }

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        // RFC 7692 §7.2.3.1
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let stream = [
            frame(0x81, b"one"),
            frame(0x01, b"t"),
            frame(0x89, b"ping"),
            frame(0x00, b"w"),
            frame(0x80, b"o"),
            frame(0xc1, &hello),
            frame(0x82, &[0xff]),
            frame(0x41, &hello[..3]),
            frame(0x8a, b""),
            frame(0x80, &hello[3..]),
            frame(0x81, b"plain"),
            frame(0xc2, &[0x00]),
            frame(0x88, &[0x03, 0xe8]),
        ]
        .concat();
        let expected = [
            Inbound::Text("one".into()),
            Inbound::Ping("ping".into()),
            Inbound::Text("two".into()),
            Inbound::Text("Hello".into()),
            Inbound::Binary(Bytes::from_static(&[0xff])),
            Inbound::Pong,
            Inbound::Text("Hello".into()),
            Inbound::Text("plain".into()),
            Inbound::Binary(Bytes::new()),
            Inbound::Close(Some(1000)),
        ];
        for size in 1..=stream.len() {
            let mut reader = FrameReader::new(100, true);
            let mut arrived = VecDeque::new();
            for chunk in stream.chunks(size) {
                reader.feed(chunk, &mut arrived).unwrap();
            }
            let arrived: Vec<_> = arrived.into_iter().map(|inbound| opened(&mut reader, inbound)).collect();
            assert_eq!(arrived, expected, "in chunks of {size}");
            assert!(reader.unfinished.is_none());
        }
    }

    #[test]
    fn what_came_before_a_violation_still_counts() {
        let mut reader = FrameReader::new(100, true);
        let mut arrived = VecDeque::new();
        let unmasked = [0x81, 1, b'x'];
        let fault =
            reader.feed(&[frame(0x81, b"good"), unmasked.to_vec()].concat(), &mut arrived).unwrap_err();
        assert_eq!(arrived, [Inbound::Text("good".into())]);
        assert_eq!(fault.code(), 1002);
    }

    #[test]
    fn after_a_close_or_a_violation_nothing_is_held() {
        for last in [frame(0x88, &[0x03, 0xe8]), frame(0x83, b"")] {
            let mut reader = FrameReader::new(100, true);
            let mut arrived = VecDeque::new();
            let stream = [frame(0x01, b"open"), last, frame(0x81, b"ignored")].concat();
            for chunk in stream.chunks(3) {
                // Its verdict is the same in each of its last chunks.
                let _: Result<(), FrameFault> = reader.feed(chunk, &mut arrived);
            }
            assert!(reader.has_failed() || arrived.contains(&Inbound::Close(Some(1000))));
            assert!(reader.unfinished.is_none());
        }
    }

    #[test]
    fn compressed_messages_are_judged_by_what_is_in_them_when_their_turn_comes() {
        let deflated = |message: &[u8]| crate::deflate::deflate(message).unwrap();
        for (payload, code) in [
            (deflated(&[b'x'; 101]), 4005),
            (deflated(&[0xff; 50]), 1007),
            (Bytes::from_static(b"not deflate"), 1007),
        ] {
            let mut reader = FrameReader::new(100, true);
            let mut arrived = VecDeque::new();
            let bytes = [frame(0x81, b"good"), frame(0xc1, &payload)].concat();
            reader.feed(&bytes, &mut arrived).unwrap();
            let Some(Inbound::Deflated(last)) = arrived.pop_back() else { panic!("{arrived:?}") };
            assert_eq!(reader.inflate(&last).unwrap_err().code(), code, "{payload:?}");
            assert!(reader.has_failed() && reader.feed(b"", &mut arrived).is_err());
        }
        let mut reader = FrameReader::new(100, true);
        let mut arrived = VecDeque::new();
        reader.feed(&frame(0xc1, &deflated(&[b'x'; 100])), &mut arrived).unwrap();
        let Some(Inbound::Deflated(only)) = arrived.pop_back() else { panic!("{arrived:?}") };
        assert_eq!(reader.inflate(&only), Ok(Inbound::Text(vec![b'x'; 100].into())));
    }
}
