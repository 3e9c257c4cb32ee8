//! What one connection has to write: frames one after the other, so that whatever has gathered leaves in one write and
//! one TLS record. Empty, and without a buffer, while the connection is idle.

use fastwebsockets::{Frame, OpCode, Payload};

/// Written bytes that a buffer which never runs empty may still hold.
const COMPACT_BYTES: usize = 64 * 1024;

/// Bytes on their way out.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// Adds a text frame with that JSON.
    pub fn text(&mut self, json: &[u8]) {
        self.frame(OpCode::Text, json);
    }

    /// Adds a frame (RFC 6455 §5.2), unmasked as a server's (§5.1).
    pub fn frame(&mut self, opcode: OpCode, payload: &[u8]) {
        if self.written > COMPACT_BYTES && self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        let mut head = [0; 16];
        let size = Frame::new(true, opcode, None, Payload::Borrowed(payload)).fmt_head(&mut head);
        self.bytes.reserve(size + payload.len());
        self.bytes.extend_from_slice(&head[..size]);
        self.bytes.extend_from_slice(payload);
    }

    /// Adds a close frame; the reason has at most 123 bytes (RFC 6455 §5.5).
    pub fn close(&mut self, code: u16, reason: &str) {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        self.frame(OpCode::Close, &payload);
    }

    /// What is still to be written.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// `count` bytes of the rest are written. Once nothing is left, the buffer is given back.
    pub fn advance(&mut self, count: usize) {
        self.written += count;
        if self.written == self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }
}
