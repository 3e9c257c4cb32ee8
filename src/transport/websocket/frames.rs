//! From bytes to messages: the guard checks and finds the frames, fastwebsockets reads them, fragments are put
//! together. Holds no buffer while there is nothing unfinished, which is most of a connection's life.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocketError, WebSocketRead, after_handshake_split};
use futures_util::FutureExt as _;

use super::guard::{Fault as FrameFault, Guard, Limits};
use crate::deflate::inflate;

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A whole text message, valid UTF-8.
    Text(Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A ping, to be answered with the same payload (RFC 6455 §5.5.2).
    Ping(Bytes),
    /// A pong.
    Pong,
    /// A close, with its code if it has one.
    Close(Option<u16>),
}

/// The reading side of one connection.
pub struct FrameReader {
    guard: Guard,
    /// Bytes of frames that are not complete.
    inbox: BytesMut,
    /// The fragments of the open message.
    fragments: Vec<u8>,
    /// The first byte of the message that is open, or was last.
    opened: u8,
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const OPCODE: u8 = 0x0f;
const LENGTH: u8 = 0x7f;
const MASK_BYTES: usize = 4;

impl FrameReader {
    /// A reader for a connection whose handshake has just ended.
    pub fn new(message_bytes: usize, deflate: bool) -> Self {
        Self {
            guard: Guard::new(Limits { message_bytes, deflate }),
            inbox: BytesMut::new(),
            fragments: Vec::new(),
            opened: 0,
        }
    }

    /// Takes the bytes that came next and adds what they complete to `arrived`.
    ///
    /// # Errors
    /// What the client did wrong; what it sent before that has been added.
    pub fn feed(&mut self, fresh: &mut [u8], arrived: &mut VecDeque<Inbound>) -> Result<(), FrameFault> {
        let before = self.inbox.len();
        let (complete, frames, verdict) = match self.guard.scan(fresh) {
            Ok(progress) => (progress.complete, progress.frames, Ok(())),
            Err(violation) => (violation.complete, violation.frames, Err(violation.fault)),
        };
        if complete == 0 {
            self.inbox.extend_from_slice(fresh);
        } else if before == 0 {
            self.read_frames(&mut fresh[..complete], frames, arrived)?;
            self.inbox.extend_from_slice(&fresh[complete..]);
        } else {
            self.inbox.extend_from_slice(fresh);
            let mut whole = self.inbox.split_to(before + complete);
            self.read_frames(&mut whole, frames, arrived)?;
        }
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        verdict
    }

    /// Whether nothing unfinished is held.
    pub fn is_between_messages(&self) -> bool {
        self.guard.at_message_boundary()
    }

    fn read_frames(
        &mut self,
        bytes: &mut [u8],
        frames: usize,
        arrived: &mut VecDeque<Inbound>,
    ) -> Result<(), FrameFault> {
        let firsts = present(bytes, frames);
        let (mut reader, _) = after_handshake_split(&*bytes, tokio::io::sink(), Role::Server);
        reader.set_auto_close(false);
        reader.set_auto_pong(false);
        // The guard has counted already, over fragments.
        reader.set_max_message_size(usize::MAX);
        for first in firsts {
            let Some(frame) = next_frame(&mut reader) else { break };
            if let Some(inbound) = self.assemble(first, frame)? {
                arrived.push_back(inbound);
            }
        }
        Ok(())
    }

    fn assemble(&mut self, first: u8, frame: Frame<'_>) -> Result<Option<Inbound>, FrameFault> {
        let (opcode, fin) = (frame.opcode, frame.fin);
        let payload = match frame.payload {
            Payload::Bytes(bytes) => bytes.freeze(),
            other => Bytes::from(Vec::from(other)),
        };
        match opcode {
            OpCode::Ping => return Ok(Some(Inbound::Ping(payload))),
            OpCode::Pong => return Ok(Some(Inbound::Pong)),
            OpCode::Close => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                return Ok(Some(Inbound::Close(code)));
            }
            OpCode::Text | OpCode::Binary => self.opened = first,
            OpCode::Continuation => {}
        }
        let whole = if opcode != OpCode::Continuation && fin {
            payload
        } else {
            self.fragments.extend_from_slice(&payload);
            if !fin {
                return Ok(None);
            }
            Bytes::from(std::mem::take(&mut self.fragments))
        };
        self.finish(whole).map(Some)
    }

    /// A message whose last frame has come.
    fn finish(&self, payload: Bytes) -> Result<Inbound, FrameFault> {
        let is_text = self.opened & OPCODE == OpCode::Text as u8;
        let message = if self.opened & RSV1 == 0 {
            payload
        } else {
            let message = inflate(&payload, self.guard.message_bytes())?;
            // The guard can't read what is compressed.
            if is_text && simdutf8::basic::from_utf8(&message).is_err() {
                return Err(FrameFault::InvalidUtf8);
            }
            message
        };
        Ok(if is_text { Inbound::Text(message) } else { Inbound::Binary(message) })
    }
}

/// Makes of whole frames what fastwebsockets takes, and returns the first byte that each had. It refuses compressed
/// messages, and would check the text of the others, which the guard has done: both become binary.
fn present(bytes: &mut [u8], frames: usize) -> Vec<u8> {
    let mut firsts = Vec::with_capacity(frames);
    let mut rest = bytes;
    while let Some(size) = frame_size(rest) {
        let (frame, next) = rest.split_at_mut(size);
        let first = frame[0];
        if first & RSV1 != 0 || first & OPCODE == OpCode::Text as u8 {
            frame[0] = first & FIN | OpCode::Binary as u8;
        }
        firsts.push(first);
        rest = next;
    }
    firsts
}

/// Bytes of the masked frame that these begin with; `None` at their end.
fn frame_size(bytes: &[u8]) -> Option<usize> {
    let (head, payload) = match bytes.get(1)? & LENGTH {
        126 => (4, u16::from_be_bytes(*bytes[2..].first_chunk()?).into()),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes[2..].first_chunk()?)).ok()?),
        short => (2, short.into()),
    };
    Some(head + MASK_BYTES + payload)
}

/// The next frame of bytes that hold whole frames only; `None` at their end.
fn next_frame<'a>(reader: &mut WebSocketRead<&[u8]>) -> Option<Frame<'a>> {
    // No obligation to send can arise: pong and close are answered by the connection.
    let mut never = |_: Frame<'a>| std::future::ready(Ok::<(), WebSocketError>(()));
    let frame = reader.read_frame(&mut never).now_or_never()?.ok()?;
    Some(Frame::new(frame.fin, frame.opcode, None, own(frame.payload)))
}

fn own<'a>(payload: Payload<'_>) -> Payload<'a> {
    match payload {
        Payload::Bytes(bytes) => Payload::Bytes(bytes),
        other => Payload::Owned(other.into()),
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
                reader.feed(&mut chunk.to_vec(), &mut arrived).unwrap();
            }
            assert_eq!(arrived, expected, "in chunks of {size}");
            assert_eq!((reader.inbox.capacity(), reader.fragments.capacity()), (0, 0));
        }
    }

    #[test]
    fn what_came_before_a_violation_still_counts() {
        let mut reader = FrameReader::new(100, true);
        let mut arrived = VecDeque::new();
        let unmasked = [0x81, 1, b'x'];
        let fault =
            reader.feed(&mut [frame(0x81, b"good"), unmasked.to_vec()].concat(), &mut arrived).unwrap_err();
        assert_eq!(arrived, [Inbound::Text("good".into())]);
        assert_eq!(fault.code(), 1002);
    }

    #[test]
    fn compressed_messages_are_judged_by_what_is_in_them() {
        let deflated = |message: &[u8]| crate::deflate::deflate(message).unwrap();
        for (payload, code) in [
            (deflated(&[b'x'; 101]), 4005),
            (deflated(&[0xff; 50]), 1007),
            (Bytes::from_static(b"not deflate"), 1007),
        ] {
            let mut reader = FrameReader::new(100, true);
            let mut arrived = VecDeque::new();
            let mut bytes = [frame(0x81, b"good"), frame(0xc1, &payload)].concat();
            let fault = reader.feed(&mut bytes, &mut arrived).unwrap_err();
            assert_eq!((fault.code(), arrived.len()), (code, 1), "{payload:?}");
        }
        let mut reader = FrameReader::new(100, true);
        let mut arrived = VecDeque::new();
        reader.feed(&mut frame(0xc1, &deflated(&[b'x'; 100])), &mut arrived).unwrap();
        assert_eq!(arrived, [Inbound::Text(vec![b'x'; 100].into())]);
    }
}
