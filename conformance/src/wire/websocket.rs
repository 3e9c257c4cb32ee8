//! A WebSocket client written from RFC 6455, so that nothing between check and server can hide a fault of either.
//! Strict about the server's frames; it can write frames that no client may, for those are checks as well.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Connection, Dial, Head, Request, Stream, Target, WireError};

/// RFC 6455 §11.8.
pub mod opcode {
    #![expect(missing_docs, reason = "they are the RFC's names")]
    pub const CONTINUATION: u8 = 0x0;
    pub const TEXT: u8 = 0x1;
    pub const BINARY: u8 = 0x2;
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
    pub const PONG: u8 = 0xA;
}

/// The bit of a frame's first byte that says: this is the last of the message.
pub const FIN: u8 = 0x80;
/// Longest message that is taken from the server, in bytes.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// What a server says on a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message, whole.
    Text(Bytes),
    /// A binary message, whole.
    Binary(Bytes),
    /// A ping; it is answered before the next read.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// The closing handshake.
    Close {
        /// The code, if there is one.
        code: Option<u16>,
        /// The reason.
        reason: String,
    },
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it ends its message.
    pub fin: bool,
    /// What it is.
    pub opcode: u8,
    /// What it holds.
    pub payload: Bytes,
}

/// An open WebSocket.
pub struct WebSocket {
    /// Status and headers of the handshake's answer.
    pub head: Head,
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    fragments: Option<(u8, BytesMut)>,
}

impl WebSocket {
    /// Connects with a token and the subprotocol.
    ///
    /// # Errors
    /// [`WireError`]; any status but 101 is [`WireError::Refused`].
    pub async fn open(target: &Target, dial: Dial, path: &str, token: &str) -> Result<Self, WireError> {
        let request = Request::get(path).bearer(token).header("sec-websocket-protocol", "tidegate.v1.json");
        Self::upgrade(Connection::dial(target, dial).await?, request).await
    }

    /// Turns a connection into a WebSocket with a request that lacks only the handshake's own headers.
    ///
    /// # Errors
    /// [`WireError`]; any status but 101 is [`WireError::Refused`].
    pub async fn upgrade(mut connection: Connection, request: Request) -> Result<Self, WireError> {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        connection.send(&handshake(request, &key)).await?;
        let (head, mut framing) = connection.head().await?;
        if head.status != 101 {
            let body = connection.piece(&mut framing).await?.unwrap_or_default();
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(WireError::Refused { status: head.status, body });
        }
        // RFC 6455 §4.1: what a client must check in the answer.
        let is = |name: &str, value: &str| head.header(name).is_some_and(|v| v.eq_ignore_ascii_case(value));
        if !is("upgrade", "websocket") || !is("connection", "upgrade") {
            return Err(WireError::protocol("101 without Upgrade and Connection"));
        }
        if head.header("sec-websocket-accept") != Some(&accept(&key)) {
            return Err(WireError::protocol("a wrong Sec-WebSocket-Accept"));
        }
        if head.header("sec-websocket-extensions").is_some() {
            return Err(WireError::protocol("an extension that nobody offered"));
        }
        let input = connection.input.split();
        let stream = connection.into_stream();
        Ok(Self { head, stream, input, output: BytesMut::new(), fragments: None })
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn send(&mut self, text: &str) -> Result<(), WireError> {
        self.queue(FIN | opcode::TEXT, text.as_bytes());
        self.flush().await
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn close(&mut self, code: u16) -> Result<(), WireError> {
        self.queue(FIN | opcode::CLOSE, &code.to_be_bytes());
        self.flush().await
    }

    /// Puts a masked frame behind what is to be written, whatever its first byte says.
    pub fn queue(&mut self, first: u8, payload: &[u8]) {
        self.output.extend_from_slice(&masked(first, payload, rand::random()));
    }

    /// Writes what is queued.
    ///
    /// # Errors
    /// Those of the socket.
    ///
    /// # Cancel safety
    /// A frame that was written in part is completed by the next call.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        while !self.output.is_empty() {
            if self.stream.write_buf(&mut self.output).await? == 0 {
                return Err(WireError::Ended("while it was written to"));
            }
        }
        self.stream.flush().await?;
        Ok(())
    }

    /// The next message or control frame; pings are answered by the way.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read and what is to be written stays in the buffers.
    pub async fn next(&mut self) -> Result<Message, WireError> {
        loop {
            if let Some(frame) = decode(&mut self.input)? {
                if let Some(message) = self.assemble(frame)? {
                    return Ok(message);
                }
                continue;
            }
            if !self.output.is_empty() {
                self.flush().await?;
            }
            self.input.reserve(4096);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(WireError::Ended("without a close frame"));
            }
        }
    }

    /// The next text message; pings and pongs are passed over.
    ///
    /// # Errors
    /// [`WireError`]; a close is [`WireError::Closed`].
    ///
    /// # Cancel safety
    /// As [`WebSocket::next`].
    pub async fn text(&mut self) -> Result<Bytes, WireError> {
        loop {
            match self.next().await? {
                Message::Text(text) => return Ok(text),
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Binary(_) => return Err(WireError::protocol("a binary message")),
                Message::Close { code, reason } => return Err(WireError::Closed { code, reason }),
            }
        }
    }

    /// The bytes below.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Gives the bytes below away; what was read and not used is lost, as in a cut.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    fn assemble(&mut self, frame: Frame) -> Result<Option<Message>, WireError> {
        let Frame { fin, opcode, payload } = frame;
        match opcode {
            opcode::PING => {
                self.queue(FIN | opcode::PONG, &payload);
                return Ok(Some(Message::Ping(payload)));
            }
            opcode::PONG => return Ok(Some(Message::Pong(payload))),
            opcode::CLOSE => return close_message(&payload).map(Some),
            _ => {}
        }
        let (kind, bytes) = match (opcode, self.fragments.take()) {
            (opcode::CONTINUATION, Some((kind, mut begun))) => {
                begun.extend_from_slice(&payload);
                if begun.len() > MESSAGE_MAX {
                    return Err(WireError::protocol("a message without measure"));
                }
                if !fin {
                    self.fragments = Some((kind, begun));
                    return Ok(None);
                }
                (kind, begun.freeze())
            }
            (opcode::CONTINUATION, None) => return Err(WireError::protocol("a continuation of nothing")),
            (_, Some(_)) => return Err(WireError::protocol("a message inside another")),
            (kind, None) if fin => (kind, payload),
            (kind, None) => {
                self.fragments = Some((kind, BytesMut::from(&payload[..])));
                return Ok(None);
            }
        };
        if kind == opcode::BINARY {
            return Ok(Some(Message::Binary(bytes)));
        }
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Some(Message::Text(bytes))),
            Err(_) => Err(WireError::protocol("a text message that is no UTF-8")),
        }
    }
}

/// A request with the headers of the opening handshake (RFC 6455 §4.1).
pub fn handshake(request: Request, key: &str) -> Request {
    request
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", key)
}

/// A client's frame: the first byte as given, the length, the mask, the masked payload (RFC 6455 §5.2, §5.3).
///
/// # Panics
/// Never: each length is written in the size that holds it.
pub fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(first);
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | u8::try_from(length).expect("at most 125")),
        length @ 126..=0xffff => {
            frame.push(0x80 | 0x7e);
            frame.extend_from_slice(&u16::try_from(length).expect("at most 65535").to_be_bytes());
        }
        length => {
            frame.push(0x80 | 0x7f);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn accept(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// Takes a server's frame from the buffer, if it's whole.
fn decode(input: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    let [first, second, rest @ ..] = &input[..] else { return Ok(None) };
    let (fin, opcode) = (first & FIN != 0, first & 0x0f);
    if first & 0x70 != 0 {
        return Err(WireError::protocol("reserved bits without an extension"));
    }
    if second & 0x80 != 0 {
        return Err(WireError::protocol("a masked frame from a server (RFC 6455 §5.1)"));
    }
    let (length, head) = match second & 0x7f {
        126 => match rest.first_chunk() {
            Some(bytes) => (usize::from(u16::from_be_bytes(*bytes)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(bytes) => (usize::try_from(u64::from_be_bytes(*bytes)).unwrap_or(usize::MAX), 10),
            None => return Ok(None),
        },
        short => (usize::from(short), 2),
    };
    match opcode {
        opcode::CONTINUATION | opcode::TEXT | opcode::BINARY => {}
        opcode::CLOSE | opcode::PING | opcode::PONG if fin && length <= 125 => {}
        _ => return Err(WireError::protocol(format!("a frame {first:02x} of {length} bytes"))),
    }
    if length > MESSAGE_MAX {
        return Err(WireError::protocol("a frame without measure"));
    }
    if input.len() < head + length {
        return Ok(None);
    }
    input.advance(head);
    Ok(Some(Frame { fin, opcode, payload: input.split_to(length).freeze() }))
}

fn close_message(payload: &[u8]) -> Result<Message, WireError> {
    match payload {
        [] => Ok(Message::Close { code: None, reason: String::new() }),
        [_] => Err(WireError::protocol("half a close code")),
        [high, low, reason @ ..] => {
            let reason = std::str::from_utf8(reason)
                .map_err(|_| WireError::protocol("a close reason that is no UTF-8"))?;
            Ok(Message::Close { code: Some(u16::from_be_bytes([*high, *low])), reason: reason.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_the_one_of_the_rfc() {
        // RFC 6455 §1.3.
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_are_those_of_the_rfc() {
        // RFC 6455 §5.7: a masked and an unmasked "Hello".
        let frame = masked(FIN | opcode::TEXT, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(frame, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        let mut input = BytesMut::from(&[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x89][..]);
        let hello = Frame { fin: true, opcode: opcode::TEXT, payload: Bytes::from_static(b"Hello") };
        assert_eq!(decode(&mut input).unwrap(), Some(hello));
        assert_eq!(decode(&mut input).unwrap(), None);
        for length in [125, 126, 65_535, 65_536] {
            let frame = masked(FIN | opcode::BINARY, &vec![7; length], [0; 4]);
            let head = frame.len() - length - 4;
            let mut input = BytesMut::from(&frame[..]);
            input[1] &= 0x7f;
            let payload: BytesMut = input.split_off(head + 4);
            input.truncate(head);
            input.unsplit(payload);
            assert_eq!(decode(&mut input).unwrap().unwrap().payload.len(), length);
        }
    }

    #[test]
    fn a_server_may_not_mask_or_use_reserved_bits() {
        for bad in [[0x81, 0x85], [0xc1, 0x05], [0x09, 0x00], [0x89, 0x7e], [0x83, 0x00]] {
            let mut input = BytesMut::from(&bad[..]);
            input.extend_from_slice(&[0, 200]);
            assert!(decode(&mut input).is_err(), "{bad:?}");
        }
    }
}
