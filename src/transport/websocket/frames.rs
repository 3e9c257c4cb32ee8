//! From bytes to messages: the guard checks and finds the frames, fastwebsockets reads them, fragments are put
//! together. Holds no buffer while there is nothing unfinished, which is most of a connection's life.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocketError, WebSocketRead, after_handshake_split};
use futures_util::FutureExt as _;

use super::guard::{Fault as FrameFault, Guard, Limits};

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
    text: bool,
}

impl FrameReader {
    /// A reader for a connection whose handshake has just ended.
    pub fn new(message_bytes: usize) -> Self {
        Self {
            guard: Guard::new(Limits { message_bytes }),
            inbox: BytesMut::new(),
            fragments: Vec::new(),
            text: false,
        }
    }

    /// Takes the bytes that came next and adds what they complete to `arrived`.
    ///
    /// # Errors
    /// What the client did wrong; what it sent before that has been added.
    pub fn feed(&mut self, fresh: &[u8], arrived: &mut VecDeque<Inbound>) -> Result<(), FrameFault> {
        let before = self.inbox.len();
        let (complete, verdict) = match self.guard.scan(fresh) {
            Ok(progress) => (progress.complete, Ok(())),
            Err(violation) => (violation.complete, Err(violation.fault)),
        };
        if complete == 0 {
            self.inbox.extend_from_slice(fresh);
        } else if before == 0 {
            self.read_frames(&fresh[..complete], arrived);
            self.inbox.extend_from_slice(&fresh[complete..]);
        } else {
            self.inbox.extend_from_slice(fresh);
            let frames = self.inbox.split_to(before + complete);
            self.read_frames(&frames, arrived);
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

    fn read_frames(&mut self, frames: &[u8], arrived: &mut VecDeque<Inbound>) {
        let (mut reader, _) = after_handshake_split(frames, tokio::io::sink(), Role::Server);
        reader.set_auto_close(false);
        reader.set_auto_pong(false);
        // The guard has counted already, over fragments.
        reader.set_max_message_size(usize::MAX);
        while let Some(frame) = next_frame(&mut reader) {
            if let Some(inbound) = self.assemble(frame) {
                arrived.push_back(inbound);
            }
        }
    }

    fn assemble(&mut self, frame: Frame<'_>) -> Option<Inbound> {
        let (opcode, fin) = (frame.opcode, frame.fin);
        let payload = match frame.payload {
            Payload::Bytes(bytes) => bytes.freeze(),
            other => Bytes::from(Vec::from(other)),
        };
        match opcode {
            OpCode::Ping => return Some(Inbound::Ping(payload)),
            OpCode::Pong => return Some(Inbound::Pong),
            OpCode::Close => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                return Some(Inbound::Close(code));
            }
            OpCode::Text => self.text = true,
            OpCode::Binary => self.text = false,
            OpCode::Continuation => {}
        }
        let whole = if opcode != OpCode::Continuation && fin {
            payload
        } else {
            self.fragments.extend_from_slice(&payload);
            if !fin {
                return None;
            }
            Bytes::from(std::mem::take(&mut self.fragments))
        };
        Some(if self.text { Inbound::Text(whole) } else { Inbound::Binary(whole) })
    }
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
        let stream = [
            frame(0x81, b"one"),
            frame(0x01, b"t"),
            frame(0x89, b"ping"),
            frame(0x00, b"w"),
            frame(0x80, b"o"),
            frame(0x82, &[0xff]),
            frame(0x88, &[0x03, 0xe8]),
        ]
        .concat();
        let expected = [
            Inbound::Text("one".into()),
            Inbound::Ping("ping".into()),
            Inbound::Text("two".into()),
            Inbound::Binary(Bytes::from_static(&[0xff])),
            Inbound::Close(Some(1000)),
        ];
        for size in 1..=stream.len() {
            let mut reader = FrameReader::new(100);
            let mut arrived = VecDeque::new();
            for chunk in stream.chunks(size) {
                reader.feed(chunk, &mut arrived).unwrap();
            }
            assert_eq!(arrived, expected, "in chunks of {size}");
            assert_eq!((reader.inbox.capacity(), reader.fragments.capacity()), (0, 0));
        }
    }

    #[test]
    fn what_came_before_a_violation_still_counts() {
        let mut reader = FrameReader::new(100);
        let mut arrived = VecDeque::new();
        let unmasked = [0x81, 1, b'x'];
        let fault =
            reader.feed(&[frame(0x81, b"good"), unmasked.to_vec()].concat(), &mut arrived).unwrap_err();
        assert_eq!(arrived, [Inbound::Text("good".into())]);
        assert_eq!(fault.code(), 1002);
    }
}
