//! What one connection has to write: frames one after the other, so that whatever has gathered leaves in one write and
//! one TLS record. Empty, and without a buffer, while the connection is idle.

use fastwebsockets::{Frame, OpCode, Payload};

use super::extensions::Deflate;
use crate::channel::Message;
use crate::deflate::deflate;

/// Written bytes that a buffer which never runs empty may still hold.
const COMPACT_BYTES: usize = 64 * 1024;
/// On the first frame of a compressed message (RFC 7692 §6).
const RSV1: u8 = 0x40;

/// Frames on their way out.
pub struct Outbox {
    /// Nothing while nothing waits.
    waiting: Option<Box<Waiting>>,
    deflate: Option<Deflate>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// Nothing to write yet, and how messages are compressed.
    pub const fn new(deflate: Option<Deflate>) -> Self {
        Self { waiting: None, deflate }
    }

    /// How messages are compressed.
    pub const fn deflate(&self) -> Option<Deflate> {
        self.deflate
    }

    /// Adds frames that are ready.
    pub fn frames(&mut self, frames: &[u8]) {
        self.waiting.get_or_insert_default().bytes.extend_from_slice(frames);
    }

    /// Adds a text or binary message that is for this client alone.
    pub fn message(&mut self, opcode: OpCode, payload: &[u8]) {
        let compresses = self.deflate.is_some_and(|deflate| deflate.covers(payload.len()));
        match compresses.then(|| deflate(payload)).flatten() {
            Some(deflated) => self.push(opcode, RSV1, &deflated),
            None => self.push(opcode, 0, payload),
        }
    }

    /// Adds a control frame, whose payload has at most 125 bytes (RFC 6455 §5.5).
    pub fn control(&mut self, opcode: OpCode, payload: &[u8]) {
        self.push(opcode, 0, payload);
    }

    /// Adds a close frame; the reason has at most 123 bytes (RFC 6455 §5.5).
    pub fn close(&mut self, code: u16, reason: &str) {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        self.control(OpCode::Close, &payload);
    }

    /// What is still to be written.
    pub fn rest(&self) -> &[u8] {
        self.waiting.as_ref().map_or(&[], |waiting| &waiting.bytes[waiting.written..])
    }

    /// `count` bytes of the rest are written. Once nothing is left, the buffer is given back.
    pub fn advance(&mut self, count: usize) {
        let Some(waiting) = &mut self.waiting else { return };
        waiting.written += count;
        self.waiting.take_if(|waiting| waiting.written == waiting.bytes.len());
    }

    /// Throws away what waits, and its buffer.
    pub fn clear(&mut self) {
        self.waiting = None;
    }

    /// What waits has to wait for the client: from now on it takes no more room than it needs.
    pub fn settle(&mut self) {
        if let Some(waiting) = &mut self.waiting
            && waiting.bytes.capacity() > 2 * waiting.bytes.len()
        {
            waiting.bytes.shrink_to_fit();
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.rest().len()
    }

    fn push(&mut self, opcode: OpCode, reserved: u8, payload: &[u8]) {
        let Waiting { bytes, written } = &mut **self.waiting.get_or_insert_default();
        if *written > COMPACT_BYTES.max(bytes.len() / 2) {
            bytes.drain(..std::mem::take(written));
        }
        put_frame(bytes, opcode, reserved, payload);
    }
}

/// Adds a whole message as one frame (RFC 6455 §5.2), unmasked as a server's (§5.1).
pub fn put_frame(frames: &mut Vec<u8>, opcode: OpCode, reserved: u8, payload: &[u8]) {
    let mut head = [0; 16];
    let size = Frame::new(true, opcode, None, Payload::Borrowed(payload)).fmt_head(&mut head);
    head[0] |= reserved;
    frames.reserve(size + payload.len());
    frames.extend_from_slice(&head[..size]);
    frames.extend_from_slice(payload);
}

/// Adds a stored message, compressed once for all who take it so.
pub fn put_stored(frames: &mut Vec<u8>, message: &Message, deflate: Option<Deflate>) {
    let compresses = deflate.is_some_and(|deflate| deflate.covers(message.json.len()));
    match compresses.then(|| message.deflated()).flatten() {
        Some(deflated) => put_frame(frames, OpCode::Text, RSV1, deflated),
        None => put_frame(frames, OpCode::Text, 0, &message.json),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use super::*;
    use crate::deflate::inflate;

    #[test]
    fn a_stored_message_is_compressed_once_and_only_for_who_wants_it() {
        let stored = Message::of_data(&format!(r#""{}""#, "tide ".repeat(100)));
        let deflate = |min_bytes| Deflate { min_bytes, window_bits: NonZero::new(15).unwrap() };
        for without in [None, Some(deflate(10_000))] {
            let mut frames = Vec::new();
            put_stored(&mut frames, &stored, without);
            assert_eq!(frames[0], 0x81);
            assert!(!stored.is_deflated());
        }
        let mut frames = Vec::new();
        put_stored(&mut frames, &stored, Some(deflate(0)));
        assert_eq!(frames[0], 0xc1);
        assert_eq!(stored.deflated().unwrap().as_ptr(), stored.deflated().unwrap().as_ptr());
    }

    #[test]
    fn messages_are_compressed_from_their_threshold_on() {
        let deflate = Deflate { min_bytes: 200, window_bits: NonZero::new(15).unwrap() };
        let mut outbox = Outbox::new(Some(deflate));
        let long = b"tide ".repeat(100);
        outbox.message(OpCode::Text, &long[..199]);
        assert_eq!(outbox.rest()[..4], [0x81, 126, 0, 199]);
        outbox.clear();
        outbox.message(OpCode::Text, &long);
        assert_eq!(outbox.rest()[0], 0xc1);
        assert_eq!(inflate(&outbox.rest()[2..], 1000).as_deref(), Ok(&long[..]));
        outbox.advance(outbox.len());
        outbox.control(OpCode::Ping, b"");
        assert_eq!(outbox.rest(), [0x89, 0]);
    }
}
