//! What one connection has to write: frames one after the other, so that whatever has gathered leaves in one write and
//! one TLS record. Empty, and without a buffer, while the connection is idle.

use std::cell::Cell;

use fastwebsockets::{Frame, OpCode, Payload};

use super::extensions::Deflate;
use crate::channel::Message;
use crate::deflate::deflate;

/// Written bytes that a buffer which never runs empty may still hold.
const COMPACT_BYTES: usize = 64 * 1024;
/// What a thread's spare buffer holds at most.
const SPARE_BYTES: usize = 64 * 1024;
/// On the first frame of a compressed message (RFC 7692 §6).
const RSV1: u8 = 0x40;

thread_local! {
    /// The buffer of the last connection on this thread that had written all: most deliveries begin and end within one
    /// poll, and then need none of their own.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes on their way out.
pub struct Outbox {
    /// Below 4 GB: a few batches above `limits.queue_bytes`.
    bytes: Vec<u8>,
    written: u32,
    deflate: Option<Deflate>,
}

impl Outbox {
    /// Nothing to write yet, and how messages are compressed.
    pub const fn new(deflate: Option<Deflate>) -> Self {
        Self { bytes: Vec::new(), written: 0, deflate }
    }

    /// Adds a stored message, compressed once for all who take it so.
    pub fn stored(&mut self, message: &Message) {
        match self.compresses(message.json.len()).then(|| message.deflated()).flatten() {
            Some(deflated) => self.push(OpCode::Text, RSV1, deflated),
            None => self.push(OpCode::Text, 0, &message.json),
        }
    }

    /// Whether it compresses a message of that many bytes.
    pub fn compresses(&self, bytes: usize) -> bool {
        self.deflate.is_some_and(|deflate| deflate.covers(bytes))
    }

    /// Adds a text message as it is.
    pub fn plain(&mut self, json: &[u8]) {
        self.push(OpCode::Text, 0, json);
    }

    /// Adds a text or binary message that is for this client alone.
    pub fn message(&mut self, opcode: OpCode, payload: &[u8]) {
        match self.compresses(payload.len()).then(|| deflate(payload)).flatten() {
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
        &self.bytes[self.written()..]
    }

    /// `count` bytes of the rest are written. Once nothing is left, the buffer is given back.
    pub fn advance(&mut self, count: usize) {
        self.written += u32::try_from(count).expect("no more is written than there is");
        if self.written() == self.bytes.len() {
            self.clear();
        }
    }

    /// Throws away what waits, and gives its buffer back.
    pub fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.written = 0;
        let spare = SPARE.take();
        if bytes.capacity() > spare.capacity() && bytes.capacity() <= SPARE_BYTES {
            bytes.clear();
            SPARE.set(bytes);
        } else {
            SPARE.set(spare);
        }
    }

    /// What waits has to wait for the client: from now on it takes no more room than it needs.
    pub fn settle(&mut self) {
        if self.bytes.capacity() > 2 * self.bytes.len() {
            self.bytes.shrink_to_fit();
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written()
    }

    fn written(&self) -> usize {
        self.written as usize
    }

    /// Adds a whole message as one frame (RFC 6455 §5.2), unmasked as a server's (§5.1).
    fn push(&mut self, opcode: OpCode, reserved: u8, payload: &[u8]) {
        if self.written() > COMPACT_BYTES.max(self.bytes.len() / 2) {
            self.bytes.drain(..self.written());
            self.written = 0;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        let mut head = [0; 16];
        let size = Frame::new(true, opcode, None, Payload::Borrowed(payload)).fmt_head(&mut head);
        head[0] |= reserved;
        self.bytes.reserve(size + payload.len());
        self.bytes.extend_from_slice(&head[..size]);
        self.bytes.extend_from_slice(payload);
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
            let mut outbox = Outbox::new(without);
            outbox.stored(&stored);
            assert_eq!(outbox.rest()[0], 0x81);
            assert!(!stored.is_deflated());
        }
        let mut outbox = Outbox::new(Some(deflate(0)));
        outbox.stored(&stored);
        assert_eq!(outbox.rest()[0], 0xc1);
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
