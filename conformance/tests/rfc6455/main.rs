//! RFC 6455 by section, with bytes that no library has touched: the opening handshake, framing, control frames, UTF-8,
//! sizes, and how it all ends. Frames of the server are held to the letter: never masked, always minimal.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

mod handshake;
mod framing;
mod control;
mod utf8;
mod size;
mod closing;

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use conformance::edge::{Edge, Settings};
use conformance::wire::websocket::{FIN, masked, opcode};
use conformance::wire::{Dial, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// What a frame's length may be at most on these edges, over all fragments.
const MESSAGE_BYTES: usize = Settings::MESSAGE_BYTES;
/// Nothing here takes as long as that, however loaded the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Both of them read and write through the same code, and have endings of their own.
const PATHS: [&str; 2] = ["/echo", "/v1/ws"];

const TEXT: u8 = FIN | opcode::TEXT;
const BINARY: u8 = FIN | opcode::BINARY;
const CLOSE: u8 = FIN | opcode::CLOSE;
const PING: u8 = FIN | opcode::PING;
const PONG: u8 = FIN | opcode::PONG;
/// The last of a message's continuation frames.
const LAST: u8 = FIN | opcode::CONTINUATION;

/// RFC 6455 §7.4.1.
const PROTOCOL_ERROR: u16 = 1002;
/// RFC 6455 §7.4.1.
const INVALID_PAYLOAD: u16 = 1007;
/// This service's own (RFC 6455 §7.4.2 leaves 4000 to 4999 to it).
const TOO_LARGE: u16 = 4005;

async fn edge() -> Edge {
    Edge::named_or_started(&Settings::profile()).await.unwrap()
}

/// An opening handshake, to be spoiled.
#[derive(Clone)]
struct Opening {
    line: String,
    headers: Vec<(String, String)>,
}

/// What came back for it.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
}

/// A WebSocket below frames.
struct Raw {
    stream: Stream,
    input: BytesMut,
}

impl Opening {
    /// A good one, with the key of RFC 6455 §1.3.
    fn of(edge: &Edge, path: &str) -> Self {
        let headers = [
            ("Host", edge.target.authority()),
            ("Authorization", format!("Bearer {}", edge.target.tokens.user("ann"))),
            ("Upgrade", "websocket".into()),
            ("Connection", "Upgrade".into()),
            ("Sec-WebSocket-Version", "13".into()),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==".into()),
        ];
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { line: format!("GET {path} HTTP/1.1"), headers }
    }

    fn line(mut self, line: &str) -> Self {
        line.clone_into(&mut self.line);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(own, _)| own != name);
        self
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn but(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = self.line.clone() + "\r\n";
        for (name, value) in &self.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        (text + "\r\n").into_bytes()
    }

    async fn answer(&self, edge: &Edge) -> Answer {
        let mut raw = Raw::connect(edge).await;
        raw.send(&self.bytes()).await;
        raw.answer().await
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} comes twice: {self:?}");
        value
    }
}

impl Raw {
    async fn connect(edge: &Edge) -> Self {
        let stream = edge.target.connect(Dial::default()).await.unwrap();
        Self { stream, input: BytesMut::new() }
    }

    /// Behind a good handshake, and behind the first envelope where there is one.
    async fn open(edge: &Edge, path: &str) -> Self {
        let mut raw = Self::connect(edge).await;
        raw.send(&Opening::of(edge, path).bytes()).await;
        assert_eq!(raw.answer().await.status, 101, "{path}");
        if path == "/v1/ws" {
            let (first, payload) = raw.frame().await;
            assert_eq!(first, TEXT);
            assert!(payload.starts_with(br#"{"type":"connection_established""#), "{payload:?}");
        }
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
        read.expect("something comes").expect("the connection is not reset") > 0
    }

    /// The head of an HTTP answer.
    async fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            assert!(self.fill().await, "it ended inside a head: {:?}", self.input);
        };
        let head = self.input.split_to(end + 4);
        let head = std::str::from_utf8(&head[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Answer { status, headers: headers.collect() }
    }

    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> (u8, Bytes) {
        loop {
            if let Some(frame) = take_frame(&mut self.input) {
                return frame;
            }
            assert!(self.fill().await, "it ended without a frame, behind {:?}", self.input);
        }
    }

    /// The Close that comes next: its code and its reason.
    async fn close(&mut self) -> (Option<u16>, String) {
        let (first, payload) = self.frame().await;
        assert_eq!(first, CLOSE, "with {payload:?}");
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        (code, std::str::from_utf8(payload.get(2..).unwrap_or_default()).unwrap().to_owned())
    }

    /// Nothing more comes, and the server ends the connection; its own side first, for ours is still open.
    async fn end(&mut self) {
        assert!(self.input.is_empty() && !self.fill().await, "after the end: {:?}", self.input);
    }

    /// The WebSocket still works.
    async fn lives(&mut self) {
        self.send(&frame(PING, b"alive?")).await;
        assert_eq!(self.frame().await, (PONG, Bytes::from_static(b"alive?")));
    }
}

/// A client's frame, with its first byte as given.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, rand::random())
}

/// A client's Close.
fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// On both paths these bytes are the reason to fail the connection, with that code and nothing before it (§7.1.7).
async fn refused(edge: &Edge, what: &str, bytes: &[u8], code: u16) {
    for path in PATHS {
        let mut raw = Raw::open(edge, path).await;
        raw.send(bytes).await;
        let (found, reason) = raw.close().await;
        assert_eq!(found, Some(code), "{what} on {path}: {reason:?}");
        assert!(!reason.is_empty() && reason.is_ascii(), "{what} on {path}: {reason:?}");
        raw.end().await;
    }
}

/// Takes a server's frame from the buffer if it's whole, held to RFC 6455 §5.1 and §5.2.
fn take_frame(input: &mut BytesMut) -> Option<(u8, Bytes)> {
    let [first, second, rest @ ..] = &input[..] else { return None };
    let first = *first;
    assert_eq!(second & 0x80, 0, "§5.1: a server must not mask");
    assert_eq!(first & 0x70, 0, "§5.2: reserved bits without an extension");
    let (length, head) = match second {
        126 => {
            let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
            assert!(length > 125, "§5.2: {length} in two bytes");
            (length, 4)
        }
        127 => {
            let length = usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).unwrap();
            assert!(length > 0xffff, "§5.2: {length} in eight bytes");
            (length, 10)
        }
        length => (usize::from(*length), 2),
    };
    if first & 0x08 != 0 {
        assert!(first & FIN != 0 && length <= 125, "§5.5: a control frame {first:#x} of {length} bytes");
    }
    if input.len() < head + length {
        return None;
    }
    input.advance(head);
    Some((first, input.split_to(length).freeze()))
}
