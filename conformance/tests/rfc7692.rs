//! Compressed messages, by section of RFC 7692: what is agreed on, what may be marked, what is sent, and what a client
//! that means harm gets. Frames are raw here, and inflated with nothing kept from the message before.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use conformance::edge::{Edge, Settings};
use conformance::traffic;
use conformance::wire::websocket::{FIN, handshake, masked, opcode};
use conformance::wire::{Connection, Dial, Head, Request, Stream};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const DEFLATE: &str = "permessage-deflate";
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const RSV1: u8 = 0x40;
const TEXT: u8 = FIN | opcode::TEXT;
const MESSAGE_BYTES: usize = Settings::MESSAGE_BYTES;
const MIN_BYTES: usize = 512;
const PATIENCE: Duration = Duration::from_secs(20);

fn settings() -> Settings {
    Settings::profile().set("compression.min_bytes", MIN_BYTES)
}

async fn edge() -> Edge {
    Edge::named_or_started(&settings()).await.unwrap()
}

/// A WebSocket below messages.
struct Socket {
    stream: Stream,
    input: BytesMut,
}

/// The answer to a handshake with these offers, and what comes after it.
async fn open(edge: &Edge, path: &str, offers: &[&str]) -> (Head, Socket) {
    let mut connection = Connection::dial(&edge.target, Dial::default()).await.unwrap();
    let mut request = Request::get(path).bearer(&edge.target.tokens.user("ann"));
    for offer in offers {
        request = request.header("sec-websocket-extensions", *offer);
    }
    connection.send(&handshake(request, "dGhlIHNhbXBsZSBub25jZQ==")).await.unwrap();
    let (head, _) = connection.head().await.unwrap();
    let (stream, input) = connection.into_parts();
    (head, Socket { stream, input })
}

async fn echo(edge: &Edge, offer: &str) -> Socket {
    let (head, socket) = open(edge, "/echo", &[offer]).await;
    assert_eq!(head.status, 101);
    assert!(head.header("sec-websocket-extensions").is_some_and(|agreed| agreed.starts_with(AGREED)));
    socket
}

impl Socket {
    async fn send(&mut self, first: u8, payload: &[u8]) {
        self.stream.write_all(&masked(first, payload, [1, 2, 3, 4])).await.unwrap();
    }

    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> (u8, Bytes) {
        timeout(PATIENCE, async {
            loop {
                if let Some(frame) = take_frame(&mut self.input) {
                    return frame;
                }
                assert_ne!(self.stream.read_buf(&mut self.input).await.unwrap(), 0, "it ended");
            }
        })
        .await
        .expect("a frame comes")
    }

    /// The close frame after which nothing comes: its code and reason.
    async fn closed(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.frame().await;
            if first == FIN | opcode::CLOSE {
                let (code, reason) = payload.split_first_chunk().unwrap();
                return (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).unwrap());
            }
        }
    }

    /// The next envelope, and the frame that it came in.
    async fn envelope(&mut self) -> (Value, u8, Bytes) {
        let (first, payload) = self.frame().await;
        let json = if first & RSV1 == 0 { payload.to_vec() } else { inflate(&payload) };
        let envelope: Value = serde_json::from_slice(&json).unwrap();
        traffic::said(envelope["type"].as_str().unwrap_or_default(), &json);
        (envelope, first, payload)
    }

    async fn until(&mut self, kind: &str) -> (Value, u8, Bytes) {
        loop {
            let envelope = self.envelope().await;
            if envelope.0["type"] == kind {
                return envelope;
            }
        }
    }
}

fn take_frame(input: &mut BytesMut) -> Option<(u8, Bytes)> {
    let (first, second) = (*input.first()?, *input.get(1)?);
    let (head, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes(*input[2..].first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*input[2..].first_chunk()?)).unwrap()),
        short => (2, usize::from(short)),
    };
    if input.len() < head + length {
        return None;
    }
    input.advance(head);
    Some((first, input.split_to(length).freeze()))
}

/// Raw DEFLATE of one message without the four bytes at its end (§7.2.1).
fn deflate(message: &[u8]) -> Vec<u8> {
    let mut deflated = Vec::with_capacity(message.len() + 100);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(message, &mut deflated, FlushCompress::Sync).unwrap();
    assert!(deflated.ends_with(&[0, 0, 0xff, 0xff]));
    deflated.truncate(deflated.len() - 4);
    deflated
}

/// What an inflater that has no memory of other messages reads (§7.2.2).
fn inflate(payload: &[u8]) -> Vec<u8> {
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut message = Vec::with_capacity(1 << 20);
    let mut decompress = Decompress::new(false);
    let status = decompress.decompress_vec(&input, &mut message, FlushDecompress::Sync).unwrap();
    assert_eq!((status, decompress.total_in()), (Status::Ok, input.len() as u64));
    message
}

/// Text that shrinks, but not to nothing.
fn prose(bytes: usize) -> String {
    let words = (0..).map(|n: u64| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44));
    let mut text: String = words.take(bytes / 4).collect();
    text.truncate(bytes);
    text
}

#[tokio::test]
async fn section_5_and_7_1_the_first_offer_that_can_be_met_is_agreed_to() {
    let edge = edge().await;
    let nine = format!("{AGREED}; server_max_window_bits=9");
    for (offers, agreed) in [
        (&[][..], None),
        (&[DEFLATE][..], Some(AGREED)),
        (&["permessage-deflate; client_max_window_bits"], Some(AGREED)),
        (&["permessage-deflate; client_max_window_bits=8"], Some(AGREED)),
        (&["permessage-deflate; server_max_window_bits=9"], Some(&nine)),
        (&["permessage-deflate; server_max_window_bits=\"9\""], Some(&nine)),
        (&["permessage-deflate; server_max_window_bits=15"], Some(AGREED)),
        (&["x-unknown; q=1, permessage-deflate"], Some(AGREED)),
        (&["x-unknown", DEFLATE], Some(AGREED)),
        // Declined, one by one: an unknown parameter, a wrong value, a missing one, a double one.
        (&["permessage-deflate; x=1"], None),
        (&["permessage-deflate; server_max_window_bits=16"], None),
        (&["permessage-deflate; server_max_window_bits"], None),
        (&["permessage-deflate; client_max_window_bits; client_max_window_bits"], None),
        (&["permessage-deflate; x=1, permessage-deflate"], Some(AGREED)),
    ] {
        let (head, _) = open(&edge, "/v1/ws", offers).await;
        assert_eq!((head.status, head.header("sec-websocket-extensions")), (101, agreed), "{offers:?}");
    }
    // RFC 6455 §9.1: what is not in the header's form fails the handshake.
    for malformed in ["permessage-deflate;", "permessage-deflate; =1", "permessage deflate", "\"x\""] {
        assert_eq!(open(&edge, "/v1/ws", &[malformed]).await.0.status, 400, "{malformed}");
    }
}

#[tokio::test]
async fn section_6_1_rsv1_is_for_the_first_frame_of_a_message() {
    let edge = edge().await;
    let hello = deflate(b"hello");
    for (what, frames) in [
        ("a continuation", &[(opcode::TEXT | RSV1, &hello[..2]), (FIN | RSV1, &hello[2..])][..]),
        ("a ping", &[(FIN | opcode::PING | RSV1, b"")]),
        ("a close", &[(FIN | opcode::CLOSE | RSV1, &[3, 232])]),
        ("RSV2 as well", &[(TEXT | 0x60, &hello)]),
    ] {
        let mut socket = echo(&edge, DEFLATE).await;
        for (first, payload) in frames {
            socket.send(*first, payload).await;
        }
        assert_eq!(socket.closed().await.0, 1002, "{what}");
    }
    let (_, mut socket) = open(&edge, "/echo", &[]).await;
    socket.send(TEXT | RSV1, &hello).await;
    assert_eq!(socket.closed().await.0, 1002, "without an agreement");
}

#[tokio::test]
async fn section_6_2_fragments_and_control_frames_between_them() {
    let edge = edge().await;
    let mut socket = echo(&edge, DEFLATE).await;
    let text = prose(20_000);
    let deflated = deflate(text.as_bytes());
    let pieces = deflated.chunks(deflated.len() / 7);
    let last = pieces.len() - 1;
    for (n, piece) in pieces.enumerate() {
        let first = match n {
            0 => opcode::TEXT | RSV1,
            n if n == last => FIN,
            _ => opcode::CONTINUATION,
        };
        socket.send(first, piece).await;
        socket.send(FIN | opcode::PING, &n.to_be_bytes()).await;
    }
    let mut pongs = 0;
    let payload = loop {
        match socket.frame().await {
            (0x8a, _) => pongs += 1,
            (first, payload) => {
                assert_eq!(first, TEXT | RSV1);
                break payload;
            }
        }
    };
    assert!(pongs >= last);
    assert_eq!(inflate(&payload), text.as_bytes());
}

#[tokio::test]
async fn section_7_2_2_and_7_2_3_what_a_client_may_send() {
    let edge = edge().await;
    let mut socket = echo(&edge, DEFLATE).await;
    // The examples of §7.2.3: one block, two, stored, final, empty; and one that is not compressed.
    for (first, payload, message) in [
        (TEXT | RSV1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..], "Hello"),
        (TEXT | RSV1, &[0xf2, 0x48, 5, 0, 0, 0, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
        (TEXT | RSV1, &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], "Hello"),
        (TEXT | RSV1, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "Hello"),
        (TEXT | RSV1, &[0x00], ""),
        (TEXT, b"plain", "plain"),
    ] {
        socket.send(first, payload).await;
        assert_eq!(socket.frame().await, (TEXT, Bytes::from_static(message.as_bytes())), "{payload:02x?}");
    }
    for (what, payload, code) in [
        ("no DEFLATE", b"\xff\xff\xff\xff".to_vec(), 1007),
        ("cut short", deflate(prose(500).as_bytes())[..100].to_vec(), 1007),
        ("no UTF-8 inside", deflate(&[0xff; 100]), 1007),
    ] {
        let mut socket = echo(&edge, DEFLATE).await;
        socket.send(TEXT | RSV1, &payload).await;
        assert_eq!(socket.closed().await.0, code, "{what}");
    }
}

#[tokio::test]
async fn section_7_1_1_no_message_needs_another() {
    let edge = edge().await;
    let mut socket = echo(&edge, DEFLATE).await;
    let text = prose(4000);
    for _ in 0..3 {
        socket.send(TEXT | RSV1, &deflate(text.as_bytes())).await;
        let (first, payload) = socket.frame().await;
        assert_eq!((first, inflate(&payload)), (TEXT | RSV1, text.clone().into_bytes()));
        assert!(payload.len() < text.len());
    }
}

/// A reference can't reach further back than its message is long, so what fits the window may be compressed with any;
/// a longer message has to be compressed for that client alone, or, as docs/protocol.md says, not at all.
#[tokio::test]
async fn section_7_1_2_a_small_window_is_never_exceeded() {
    let edge = edge().await;
    for (bits, sizes) in [(9, [512, 514, 60_000]), (12, [4096, 4098, 60_000]), (15, [600, 32_770, 60_000])] {
        let mut socket = echo(&edge, &format!("permessage-deflate; server_max_window_bits={bits}")).await;
        for size in sizes {
            // What comes again is half a message back.
            let text = prose(size / 2).repeat(2);
            socket.send(TEXT | RSV1, &deflate(text.as_bytes())).await;
            let (first, payload) = socket.frame().await;
            let compressed = first & RSV1 != 0;
            assert_eq!(compressed, bits == 15 || size <= 1 << bits, "{bits} bits, {size} bytes");
            let message = if compressed { inflate(&payload) } else { payload.to_vec() };
            assert_eq!(message, text.as_bytes(), "{bits} bits, {size} bytes");
        }
    }
}

#[tokio::test]
async fn messages_are_compressed_once_for_all_subscribers() {
    let edge = edge().await;
    let news = format!("news:{:x}", rand::random::<u64>());
    let path = format!("/v1/ws?channels={news}");
    let mut subscribers = Vec::new();
    for _ in 0..3 {
        let (_, mut socket) = open(&edge, &path, &[DEFLATE]).await;
        socket.until("room_joined").await;
        subscribers.push(socket);
    }
    let (_, mut plain) = open(&edge, &path, &[]).await;
    plain.until("room_joined").await;
    for (bytes, compressed) in [(10, false), (3000, true)] {
        let publish = json!({"type": "message", "payload": {"channel": news, "data": prose(bytes)}});
        plain.send(TEXT, publish.to_string().as_bytes()).await;
        let (envelope, first, _) = plain.until("message").await;
        assert_eq!((first, envelope["payload"]["data"].clone()), (TEXT, json!(prose(bytes))));
        let mut bodies = Vec::new();
        for subscriber in &mut subscribers {
            let (theirs, first, body) = subscriber.until("message").await;
            assert_eq!(theirs, envelope);
            assert_eq!(first & RSV1 != 0, compressed, "{bytes} bytes of data");
            bodies.push(body);
        }
        assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "the same bytes for all");
    }
}

#[tokio::test]
async fn a_bomb_costs_its_sender_the_connection_and_nobody_memory() {
    let edge = Edge::start(&settings()).await.unwrap();
    // Some 60 KB that hold 60 MB.
    let bomb = deflate(&vec![b' '; 60 << 20]);
    assert!(bomb.len() < MESSAGE_BYTES);
    let small = deflate(&vec![b' '; MESSAGE_BYTES + 1]);
    let exact = deflate(&vec![b' '; MESSAGE_BYTES]);
    let (_, mut witness) = open(&edge, "/v1/ws?channels=news", &[DEFLATE]).await;
    witness.until("room_joined").await;
    let before = edge.own_process().memory().unwrap().dirty_bytes;
    for round in 0..50 {
        let (_, mut socket) = open(&edge, "/v1/ws", &[DEFLATE]).await;
        socket.send(TEXT | RSV1, if round % 2 == 0 { &bomb } else { &small }).await;
        assert_eq!(socket.closed().await, (4005, "message_too_large".to_owned()));
    }
    // The inflaters and compressors of the threads are in this: 0.3 MB each.
    let after = edge.own_process().memory().unwrap().dirty_bytes;
    assert!(after < before + (4 << 20), "{before} bytes before, {after} after");
    // Exactly the limit is no bomb, only no envelope.
    let (_, mut socket) = open(&edge, "/v1/ws", &[DEFLATE]).await;
    socket.send(TEXT | RSV1, &exact).await;
    assert_eq!(socket.until("error").await.0["payload"]["reason"], "malformed");
    let publish = json!({"type": "message", "payload": {"channel": "news", "data": "still here"}});
    socket.send(TEXT | RSV1, &deflate(publish.to_string().as_bytes())).await;
    assert_eq!(witness.until("message").await.0["payload"]["data"], "still here");
    assert_eq!(edge.panics(), Vec::<String>::new());
}

/// A client that reads nothing sends bombs behind questions with large answers: what waits for its turn waits as it
/// came.
#[tokio::test]
async fn bombs_that_wait_are_not_inflated() {
    const CONNECTIONS: u64 = 20;
    const QUEUE_BYTES: u64 = 131_072;
    let settings =
        settings().set("limits.queue_bytes", QUEUE_BYTES).set("channels.default.history_size", 100);
    let edge = Edge::start(&settings).await.unwrap();
    let (_, mut ann) = open(&edge, "/v1/ws?channels=news", &[]).await;
    for n in 0..100 {
        let publish = json!({"type": "message", "payload": {"channel": "news", "data": format!("{n}{}", prose(20_000))}});
        ann.send(TEXT, publish.to_string().as_bytes()).await;
        ann.until("message").await;
    }
    let history = json!({"type": "history", "payload": {"channel": "news", "limit": 100}}).to_string();
    let bomb = deflate(&vec![b' '; MESSAGE_BYTES]);
    let question = |payload: &[u8], first| masked(first, payload, [1, 2, 3, 4]);
    let questions = question(history.as_bytes(), TEXT).repeat(40);
    let bombs = question(&bomb, TEXT | RSV1).repeat(80);
    let before = edge.own_process().memory().unwrap().dirty_bytes;
    let mut sockets = Vec::new();
    for _ in 0..CONNECTIONS {
        let (_, mut socket) = open(&edge, "/v1/ws", &[]).await;
        socket.stream.write_all(&questions).await.unwrap();
        sockets.push(socket);
        let (_, mut socket) = open(&edge, "/v1/ws", &[DEFLATE]).await;
        socket.stream.write_all(&[&questions[..], &bombs].concat()).await.unwrap();
        sockets.push(socket);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = edge.own_process().memory().unwrap().dirty_bytes;
    // Each has a page of history above its queue; 80 bombs would be 5 MB each.
    let most = 2 * CONNECTIONS * (QUEUE_BYTES + (512 << 10)) + (8 << 20);
    assert!(after < before + most, "{} bytes more for {} connections", after - before, 2 * CONNECTIONS);
    drop(sockets);
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let edge = Edge::named_or_started(&settings().set("compression.enabled", false)).await.unwrap();
    let (head, mut socket) = open(&edge, "/echo", &[DEFLATE]).await;
    assert_eq!((head.status, head.header("sec-websocket-extensions")), (101, None));
    socket.send(TEXT, prose(3000).as_bytes()).await;
    assert_eq!(socket.frame().await.0, TEXT);
    socket.send(TEXT | RSV1, &deflate(b"hello")).await;
    assert_eq!(socket.closed().await.0, 1002);
}
