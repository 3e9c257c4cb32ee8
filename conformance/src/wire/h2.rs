//! HTTP/2 as frames (RFC 9113): what a client writes is put together by hand, right or wrong, and what the server says
//! is handed over frame by frame. Header blocks are literals without Huffman coding (RFC 7541 §6.2.2); of the server's
//! only the status is read. It never answers by itself.

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Dial, Stream, Target, WireError};

/// What a client says first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest payload that is read: what a client that says nothing else takes (§6.5.2).
const FRAME_MAX: usize = 16_384;

/// Types of frames (§6).
pub mod kind {
    /// A piece of a body.
    pub const DATA: u8 = 0;
    /// The first part of a header block.
    pub const HEADERS: u8 = 1;
    /// Obsolete.
    pub const PRIORITY: u8 = 2;
    /// The end of a stream, before its time.
    pub const RST_STREAM: u8 = 3;
    /// Parameters.
    pub const SETTINGS: u8 = 4;
    /// For servers only.
    pub const PUSH_PROMISE: u8 = 5;
    /// Is somebody there.
    pub const PING: u8 = 6;
    /// The end of the connection.
    pub const GOAWAY: u8 = 7;
    /// Room for more.
    pub const WINDOW_UPDATE: u8 = 8;
    /// The rest of a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames (§6).
pub mod flag {
    /// Of SETTINGS and PING.
    pub const ACK: u8 = 0x1;
    /// Of DATA and HEADERS: nothing follows.
    pub const END_STREAM: u8 = 0x1;
    /// Of HEADERS and CONTINUATION: the block is whole.
    pub const END_HEADERS: u8 = 0x4;
    /// Of DATA and HEADERS.
    pub const PADDED: u8 = 0x8;
    /// Of HEADERS.
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes (§7).
pub mod code {
    /// None: it is over.
    pub const NO_ERROR: u32 = 0;
    /// Something that is not the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// A window that was overrun or overflown.
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    /// A frame on a stream that has ended.
    pub const STREAM_CLOSED: u32 = 5;
    /// A frame of the wrong size.
    pub const FRAME_SIZE_ERROR: u32 = 6;
    /// A stream that was not begun.
    pub const REFUSED_STREAM: u32 = 7;
    /// A stream that nobody needs any more.
    pub const CANCEL: u32 = 8;
    /// A header block that cannot be read.
    pub const COMPRESSION_ERROR: u32 = 9;
    /// Behaviour that costs too much.
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Parameters (§6.5.2).
pub mod setting {
    /// Of the dynamic table.
    pub const HEADER_TABLE_SIZE: u16 = 1;
    /// Whether a server may push.
    pub const ENABLE_PUSH: u16 = 2;
    /// Streams at once.
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    /// A stream's first window.
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    /// Largest payload.
    pub const MAX_FRAME_SIZE: u16 = 5;
    /// Largest header list.
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream, 0 for the connection's.
    pub stream: u32,
    /// Its payload.
    pub payload: Bytes,
}

/// One connection.
pub struct H2 {
    stream: Stream,
    input: BytesMut,
    authority: String,
}

/// A frame's bytes.
///
/// # Panics
/// If the payload has 2^24 bytes or more.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length < 1 << 24).expect("below 2^24");
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A SETTINGS frame.
pub fn settings(parameters: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = parameters
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// A `WINDOW_UPDATE` frame.
pub fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// A `RST_STREAM` frame.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A header block: each field a literal that is not indexed.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        push_string(&mut block, name.as_ref());
        push_string(&mut block, value.as_ref());
    }
    block
}

/// RFC 7541 §5.2, without Huffman coding.
fn push_string(block: &mut Vec<u8>, string: &[u8]) {
    // §5.1: an integer with a prefix of 7 bits.
    if let Ok(length @ 0..0x7f) = u8::try_from(string.len()) {
        block.push(length);
    } else {
        block.push(0x7f);
        let mut rest = string.len() - 0x7f;
        while rest >= 0x80 {
            block.push(u8::try_from(rest % 0x80).expect("below 2^7") | 0x80);
            rest /= 0x80;
        }
        block.push(u8::try_from(rest).expect("below 2^7"));
    }
    block.extend_from_slice(string);
}

impl Frame {
    /// Whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The 32 bits at that place of the payload, a code or a window; 0 where there are none.
    pub fn number(&self, at: usize) -> u32 {
        self.payload.get(at..at + 4).map_or(0, |mut bytes| bytes.get_u32())
    }

    /// A response's status. It stands first (§8.3), and the dynamic table is off.
    pub fn status(&self) -> Option<u16> {
        let mut block = &self.payload[..];
        // RFC 7541 §6.3: an update of the table's size, here to 0.
        while block.first().is_some_and(|byte| byte & 0xe0 == 0x20) {
            block = &block[1..];
        }
        match *block.first()? {
            // §6.1 and Appendix A.
            indexed @ 0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]),
            // §6.2: a literal whose name is that of entries 8 to 14, with whatever kind of indexing.
            0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e => digits(block.get(1..)?),
            _ => None,
        }
    }

    /// A SETTINGS' parameters.
    pub fn parameters(&self) -> Vec<(u16, u32)> {
        let pairs = self.payload.chunks_exact(6);
        pairs.map(|mut pair| (pair.get_u16(), pair.get_u32())).collect()
    }
}

/// Three digits as a string of RFC 7541 §5.2. Of the Huffman code (Appendix B) digits need no more: 0 to 2 have the five
/// bits 00000 to 00010, 3 to 9 the six bits 011001 to 011111.
fn digits(string: &[u8]) -> Option<u16> {
    let (&length, rest) = string.split_first()?;
    let text = rest.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = (0..5).try_fold(0, |code, _| Some(code << 1 | bits.next()?))?;
        number = number * 10
            + match five {
                0..=2 => five,
                _ => (five << 1 | bits.next()?).checked_sub(0b01_1001).filter(|over| *over < 7)? + 3,
            };
    }
    Some(number)
}

impl H2 {
    /// Connects in TLS and says nothing yet.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub async fn connect(target: &Target) -> Result<Self, WireError> {
        Self::dial(target, Dial::default()).await
    }

    /// Connects in a particular way and says nothing yet.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub async fn dial(target: &Target, dial: Dial) -> Result<Self, WireError> {
        let stream = target.clone().offering("h2").connect(dial).await?;
        Ok(Self { stream, input: BytesMut::new(), authority: target.authority() })
    }

    /// Connects, exchanges SETTINGS, and asks the server to do without the dynamic table.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn open(target: &Target, parameters: &[(u16, u32)]) -> Result<Self, WireError> {
        let mut h2 = Self::connect(target).await?;
        h2.greet(parameters).await?;
        Ok(h2)
    }

    /// The preface and SETTINGS of both sides; those of the server come back.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn greet(&mut self, parameters: &[(u16, u32)]) -> Result<Frame, WireError> {
        let parameters = [&[(setting::HEADER_TABLE_SIZE, 0)], parameters].concat();
        self.write(&[PREFACE, &settings(&parameters)].concat()).await?;
        let first = self.next().await?.ok_or(WireError::Ended("before its SETTINGS"))?;
        // RFC 9113 §3.4: "MUST be the first frame the server sends".
        if first.kind != kind::SETTINGS || first.has(flag::ACK) {
            return Err(WireError::protocol(format!("its first frame is {first:?}")));
        }
        self.write(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await?;
        loop {
            let next = self.next().await?.ok_or(WireError::Ended("before it acknowledged SETTINGS"))?;
            if next.kind == kind::SETTINGS && next.has(flag::ACK) {
                return Ok(first);
            }
        }
    }

    /// What `:authority` says.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The block of a request, with more fields behind its pseudo-fields.
    pub fn request(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        let pseudo =
            [(":method", method), (":scheme", "https"), (":authority", &*self.authority), (":path", path)];
        block(&[&pseudo, fields].concat())
    }

    /// Writes.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Asks without a body.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn ask(&mut self, stream: u32, path: &str, token: &str) -> Result<(), WireError> {
        let bearer = format!("Bearer {token}");
        let block = self.request("GET", path, &[("authorization", &bearer)]);
        self.write(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block)).await
    }

    /// The next frame; `None` when the server has ended the connection.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read stays in the buffer.
    pub async fn next(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            self.input.reserve(8192);
            // A reset is an end as well: the server had enough.
            if matches!(self.stream.read_buf(&mut self.input).await, Ok(0) | Err(_)) {
                return Ok(None);
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let Some(mut head) = self.input.get(..9) else { return Ok(None) };
        let length = usize::try_from(head.get_uint(3)).expect("below 2^24");
        if length > FRAME_MAX {
            return Err(WireError::protocol(format!("a frame of {length} bytes")));
        }
        let (kind, flags, stream) = (head.get_u8(), head.get_u8(), head.get_u32() & 0x7fff_ffff);
        if self.input.len() < 9 + length {
            return Ok(None);
        }
        self.input.advance(9);
        Ok(Some(Frame { kind, flags, stream, payload: self.input.split_to(length).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(block: &'static [u8]) -> Option<u16> {
        Frame { kind: kind::HEADERS, flags: 0, stream: 1, payload: Bytes::from_static(block) }.status()
    }

    #[test]
    fn statuses_are_read_in_each_of_their_forms() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8d]), Some(404));
        assert_eq!(status(&[0x08, 3, b'2', b'0', b'1']), Some(201));
        // RFC 7541 C.6.1: 302.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        // RFC 7541 C.6.2: 307.
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(status(&[0x82]), None);
    }

    #[test]
    fn strings_have_their_length_before_them() {
        assert_eq!(block(&[("a", "bc")]), [0, 1, b'a', 2, b'b', b'c']);
        // RFC 7541 §5.1: 127 and 1337 need more than the prefix.
        assert_eq!(block(&[("", "x".repeat(127))])[..4], [0, 0, 0x7f, 0]);
        assert_eq!(block(&[("", "x".repeat(1337))])[..5], [0, 0, 0x7f, 0xba, 0x09]);
    }
}
